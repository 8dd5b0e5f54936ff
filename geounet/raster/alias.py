"""Names that pyogrio takes as they are.

It reads a path as a URI: what stands before `!` is an archive, what stands behind `;` is dropped. Files with such names
are read and written under another one, through links in a temporary folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_MARKS = re.compile(r"[!;?\t\r\n]|^//")


def _plain(name: str) -> bool:
    # On Windows pyogrio leaves paths alone that begin with a drive.
    return os.name == "nt" or _MARKS.search(name) is None


@contextmanager
def readable(file: str | Path) -> Iterator[Path]:
    """Yield a name under which pyogrio reads a file and those that belong to it: of one stem, in the same folder."""
    path = Path(file).absolute()
    if _plain(str(path)):
        yield path
        return
    stem = path.stem if _plain(path.stem) else "file"
    with TemporaryDirectory(prefix="geounet-") as folder:
        alias = Path(folder) / f"{stem}{path.suffix if _plain(path.suffix) else ''}"
        alias.symlink_to(path)
        for beside in path.parent.iterdir():
            if beside != path and beside.name.startswith(f"{path.stem}."):
                (Path(folder) / f"{stem}{beside.name.removeprefix(path.stem)}").symlink_to(beside)
        yield alias


@contextmanager
def writable(path: Path) -> Iterator[Path]:
    """Yield a name under which pyogrio writes a file into its folder; the file's own name must be a plain one."""
    path = path.absolute()
    if _plain(str(path)):
        yield path
        return
    with TemporaryDirectory(prefix="geounet-") as folder:
        alias = Path(folder) / "folder"
        alias.symlink_to(path.parent, target_is_directory=True)
        yield alias / path.name
