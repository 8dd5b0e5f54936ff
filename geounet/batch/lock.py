"""One run at a time in an output folder. The lock is the kernel's: it is gone when the process is, however it ends."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geounet.errors import GeounetError, LockedError


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Hold the lock of a work folder.

    Raises
    ------
    LockedError
        If another process holds it.
    GeounetError
        If the folder cannot be written.
    """
    path = work / "lock"
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise GeounetError(f"{work}: cannot be written ({error.strerror}); choose another output folder") from None
    with file:
        if not _take(file.fileno()):
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise LockedError(f"{work.parent}: another run ({owner}) is at work here; try later")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _take(descriptor: int) -> bool:
    if os.name == "nt":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
