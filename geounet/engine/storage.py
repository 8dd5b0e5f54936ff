"""Storage that all processes of a run must share: whether workers see it, and this process what they write there."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geounet.engine.pool import InlinePool, Pool
from geounet.errors import ClusterError
from geounet.predict.probe import SHARED, answer, first_unseen
from geounet.raster.space import FULL

_ASKING = threading.Lock()
"""Scenes that begin together need the same answer."""


def check_work(pool: Pool | InlinePool, work: Path) -> None:
    """Check, once a run, that all workers that are there share the work folder with this process.

    Each is to read what this process writes there, and to write what this process then reads: a folder of the same name
    that is another one would take all parts, and nobody would find them. Who comes later is checked by its tasks
    (`Pool.needs`).

    Raises
    ------
    ClusterError
        Naming the worker's machine and the folder, if one does not; or if the disk is full.
    """
    key = "work", str(work)
    with _ASKING:
        if pool.answers.get(key):
            return
        work.mkdir(parents=True, exist_ok=True)
        question, text = work / f".probe-{uuid.uuid4().hex}", uuid.uuid4().hex
        try:
            with full_disk_named(work):
                question.write_text(text, encoding="utf-8")
            answers = pool.everywhere(answer, (str(question),))
            for host, name in answers.values():
                if not _says(work / name, text):
                    raise ClusterError(
                        f"{work}: what the worker on {host} writes there is not seen here; outputs.work {SHARED}"
                    )
        finally:
            for left in work.glob(f"{question.name}*"):
                left.unlink(missing_ok=True)
        pool.answers[key] = bool(answers)


def check_receipt(path: Path) -> None:
    """Check that the receipt of a task that ended is seen here.

    Raises
    ------
    ClusterError
        If it is not.
    """
    if first_unseen([str(path)]) is not None:
        raise ClusterError(f"{path}: a worker has written it, but it is not seen here; outputs.work {SHARED}")


def _says(path: Path, text: str) -> bool:
    return first_unseen([str(path)]) is None and path.read_text(encoding="utf-8") == text


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Have a full disk end the run with the name of the folder: errors of copying name the file that is copied.

    Raises
    ------
    ClusterError
        In place of the error that tells of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ClusterError(f"disk full: {folder}: {error.strerror}; free space and run again to continue") from None
