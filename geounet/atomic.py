"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import errno
import glob
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from geounet.errors import GeounetError, SceneError


def make_folder(folder: Path) -> None:
    """Make a folder for output, and those above it, unless it is there.

    Raises
    ------
    GeounetError
        If it cannot be made, for example because its path runs through a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # A file in the place of the folder itself only "exists".
        reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        raise GeounetError(f"{folder}: cannot be written ({reason}); choose another output folder") from None


def check_writable(folder: Path) -> None:
    """See whether files can be written to a folder, or where it would be made; nothing stays there.

    Raises
    ------
    GeounetError
        If not.
    """
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    probe = there / f".{uuid.uuid4().hex}.tmp"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise GeounetError(
            f"{there}: cannot be written ({error.strerror}); let this user write there, or choose another output folder"
        ) from error


_ADDED = 60
"""Bytes of what is added to the name of a scene, at most: `_road_nodes`, what makes a temporary name, GDAL's own."""


def check_name(folder: Path, name: str, file: str) -> None:
    """See whether a folder, or where it would be made, takes files whose names begin with that of a scene.

    Raises
    ------
    SceneError
        Naming the scene's file, if they would be too long.
    """
    there = next((path for path in (folder, *folder.parents) if path.is_dir()), folder)
    try:
        most = os.pathconf(there, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows; or not told
        most = 255
    # Windows counts in UTF-16.
    length = len(name.encode("utf-16-le")) // 2 if os.name == "nt" else len(os.fsencode(name))
    if length + _ADDED > most:
        raise SceneError(
            f"{file}: its name is too long: those of its results begin with it, and {there} takes names of {most} "
            f"bytes, which leaves {most - _ADDED} of the {length} that it has; give it a shorter name"
        )


def temporary_beside(path: Path) -> Path:
    """Return an unused name in the same folder; unique across processes and machines that share the storage."""
    found = _TEMPORARY.fullmatch(path.name)
    stem = path.stem if found is None else found["stem"]  # that of a temporary file is long enough
    return path.with_name(f".{stem}.{uuid.uuid4().hex}.tmp{path.suffix}")


def remove_temporary(temporary: Path) -> None:
    """Remove a temporary file and what a writer put beside it (GDAL: overviews, sidecars)."""
    stem = temporary.name.removesuffix(temporary.suffix)
    for rest in temporary.parent.glob(f"{glob.escape(stem)}*"):
        rest.unlink(missing_ok=True)


_TEMPORARY = re.compile(r"\.+(?P<stem>.+?)\.[0-9a-f]{32}\.tmp.*")


def remove_leftovers(folder: Path, *stems: str) -> None:
    """Remove temporary files that processes left in a folder when they were killed; no other may be at work there.

    With `stems` only those for files whose names begin with one of them: others may be at work on other files.
    """
    for path in folder.glob(".*.tmp*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is not None and found["stem"].startswith(stems or ("",)):
            with suppress(OSError):  # opened in Windows: next time
                path.unlink()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; on a clean exit it is synced to disk and takes the final name.

    The folder is made if it is missing. After an error the temporary file is removed and the final name is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        remove_temporary(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, with line feeds on every system."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
