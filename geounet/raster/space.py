"""Telling a full disk from other failures: GDAL prints it, and its errors carry neither number nor reason."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geounet.raster.env import GDAL_ERRORS

FULL = (errno.ENOSPC, errno.EDQUOT)

_SIGNS = ("no space left", "disk quota", "disk is full")
"""What libc, and SQLite in the words of GDAL, say of it."""

_MOST = 4 << 20
"""Bytes that are written to see whether they fit. What GDAL writes at a time, and so may leave free, is less."""


def disk_full(error: BaseException | None) -> BaseException | None:
    """Return the exception that tells of a full disk or quota: this one, or one that led to it; None if none does."""
    todo, seen = [error], set[int]()
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if (isinstance(one, OSError) and one.errno in FULL) or any(sign in str(one).lower() for sign in _SIGNS):
            return one
        todo += [one.__context__, one.__cause__]
    return None


def check_space(folder: Path, size: int = 0) -> None:
    """Write some MiB into a folder, and remove them; see whether the disk has `size` bytes free.

    Raises
    ------
    OSError
        If there is no space: with ENOSPC, or with EDQUOT, which a quota gives where the disk has space.
    """
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    probe = folder / f".space.{uuid.uuid4().hex}.tmp"
    try:
        with probe.open("wb") as file:
            file.write(os.urandom(_MOST))  # zeros take no space on some storage
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in FULL:
            raise OSError(error.errno, error.strerror, str(folder)) from None
    finally:
        probe.unlink(missing_ok=True)


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Have a failure of GDAL while it writes to a folder be told as a full disk, where it is one.

    Raises
    ------
    OSError
        In place of GDAL's error, with ENOSPC or EDQUOT.
    """
    try:
        yield
    except GDAL_ERRORS:
        check_space(folder)  # before what was written is removed
        raise
