"""One run at a time in an output folder. The lock is the kernel's: it is gone when the process is, however it ends."""

from __future__ import annotations

import errno
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from geounet.atomic import write_text
from geounet.errors import GeounetError, LockedError
from geounet.raster.space import FULL

logger = logging.getLogger(__name__)

HIDDEN = ".geounet"
"""The work folder in an output folder, unless the job names another; its lock is that of the output folder."""

LOCK = "lock"
"""The file in a work folder that runs lock."""

_ELSEWHERE = "work"
"""In the hidden folder: where the work folder is, if it is another."""

_TRIES, _PAUSE_S = 5, 0.05
"""How often a lock is asked for: who looks whether one is held (`is_locked`) is in the way for an instant."""

_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems without locks answer."""


class NoLocksError(GeounetError):
    """The file system has no locks."""


@contextmanager
def locked(work: Path, out: Path | None = None) -> Iterator[None]:
    """Hold the lock of a work folder.

    Parameters
    ----------
    work
        The folder with the lock.
    out
        The folder whose run it is, named where the lock is held already; None: the one that `work` lies in.

    Raises
    ------
    LockedError
        If another process holds it.
    GeounetError
        If the folder cannot be written, or its file system has no locks.
    """
    path, out = work / LOCK, out or work.parent
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise GeounetError(f"{work}: cannot be written ({error.strerror}); choose another output folder") from None
    try:
        if not _awaited(file, path):
            os.lseek(file, 0, os.SEEK_SET)
            owner = os.read(file, 1000).decode("utf-8", "replace").strip() or "unknown"
            where = "here" if work.parent == out else f"in its work folder {work}"
            raise LockedError(f"{out}: another run ({owner}) is at work {where}; try later")
        _sign(file, path)
        try:
            yield
        finally:
            with suppress(OSError):  # the kernel's lock is what counts
                os.ftruncate(file, 0)
    finally:
        os.close(file)


@contextmanager
def locked_output(out: Path, work: Path) -> Iterator[None]:
    """Hold the locks of an output folder and of its work folder, wherever that is.

    Two jobs may have one output folder and work folders of their own, or the other way round: neither may run beside
    the other. So `OUT/.geounet/lock` is taken also where nothing else lies there.

    Raises
    ------
    LockedError
        If another process holds one of them.
    GeounetError
        If a folder cannot be written, or the work folder's file system has no locks.
    """
    hidden = out / HIDDEN
    with ExitStack() as stack:
        stack.enter_context(locked(work, out))
        # By what they are, not by name: a lock that this process holds under another name would never be free.
        if not (hidden.is_dir() and hidden.samefile(work)):
            try:
                stack.enter_context(locked(hidden, out))
            except NoLocksError as error:
                logger.warning("%s; only runs with the work folder %s are kept apart", error, work)
            _note(hidden / _ELSEWHERE, work)
        yield


def _note(path: Path, work: Path) -> None:
    before = noted(path.parent.parent)
    if work in before:
        return
    try:
        write_text(path, "".join(f"{folder}\n" for folder in (*before, work)))
    except OSError as error:
        raise GeounetError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from error


def noted(out: Path) -> list[Path]:
    """Return the work folders outside an output folder that runs had, in the order of their first runs."""
    try:
        text = (out / HIDDEN / _ELSEWHERE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    return [Path(line) for line in text.splitlines() if line]


def is_locked(work: Path) -> bool:
    """Return whether a run holds the lock of a work folder; also where one may only read. No run notices."""
    path = work / LOCK
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _take(file, path, shared=True)
    except GeounetError:
        return False  # no locks here, so no runs
    finally:
        os.close(file)


def _sign(file: int, path: Path) -> None:
    """Write who holds a lock into its file; on a full disk it is held all the same, for `geounet clean` makes space."""
    try:
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, f"process {os.getpid()} on {platform.node()}".encode())
    except OSError as error:
        if error.errno not in FULL:
            raise GeounetError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from None


def _awaited(file: int, path: Path) -> bool:
    for left in reversed(range(_TRIES)):
        if _take(file, path):
            return True
        if left:
            time.sleep(_PAUSE_S)
    return False


def _take(file: int, path: Path, *, shared: bool = False) -> bool:
    """Try to take a lock; what is shared is in no other look's way."""
    if os.name == "nt":
        import msvcrt

        # Windows locks bytes, also against reading: one behind the text that says who holds it.
        os.lseek(file, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise NoLocksError(
                f"{path}: this file system has no locks ({error.strerror}), so runs could get into each other's way; "
                "mount it with locks (Lustre: -o flock), or choose a folder on one with locks (of a run: outputs.work)"
            ) from None
        raise GeounetError(f"{path}: cannot be locked ({error.strerror})") from None
    return True
