"""What a batch remembers of scenes that failed: how often each was tried as it is, so that none is tried forever."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from geounet.atomic import write_text
from geounet.batch.files import Files, stat_of
from geounet.engine.ledger import fingerprint
from geounet.engine.plan import versions
from geounet.engine.scene import SceneRun
from geounet.errors import ClusterError
from geounet.raster.scene import SceneSpec
from geounet.raster.space import FULL

logger = logging.getLogger(__name__)

FILE = "attempts.json"

KILLED = "the run ended with no word while it was at this scene: killed, or out of memory (the system's log may tell)"

_SINCE = ("begun", "parts")
"""What stands in a note of a scene that is begun: when that was, and how many parts it had then."""


class Attempts:
    """The failures of the scenes of an output folder, kept in its work folder.

    A scene counts as another one once its files, what lies beside them, the rights to read and write there, the job,
    the model or the software changed: then it is tried again.

    A scene that is begun is noted, and the note taken back when it has ended or, as a context manager, the run has. So
    a note that the next run finds was left by one that was killed: unless that one got further with the scene than the
    one before, it counts as a try.

    Parameters
    ----------
    work
        The work folder; the caller holds its lock.
    most
        How often a scene is tried as it is; None: without end.
    dry
        Nothing is written.
    """

    def __init__(self, work: Path, most: int | None, *, dry: bool = False) -> None:
        self._path, self._most, self._dry = work / FILE, most, dry
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Any]] = {}
        self._files = Files()
        self._under_way: set[str] = set()
        """Begun by this run."""
        try:
            self._known = dict(json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("%s: not readable (%s); every scene is tried", self._path, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if not self._under_way:
                return
            for name in self._under_way:
                self._put_down(name)
            self._under_way.clear()
            try:
                self._write()
            except ClusterError as failed:  # what ended the run is to be told
                logger.warning("%s", failed)

    def given_up(self, scene: SceneRun) -> str | None:
        """Return why a scene is left alone, or None if it is to be tried."""
        with self._lock:
            entry = self._known.get(_name(scene))
            if entry is None:
                return None
            key = self._key(scene)
            if "begun" in entry and _name(scene) not in self._under_way:
                self._count_death(scene, entry, key)
            if self._most is None or entry["tries"] < self._most or entry["key"] != key:
                return None
            times = f"{entry['tries']} time{'s' * (entry['tries'] != 1)}"
            return f"{entry['error']} (failed {times}; tried again when it changes, or with --retry)"

    def killed(self, scene: SceneRun) -> bool:
        """Return whether a run was killed at this scene, or one beside it, when it was last tried.

        Known once `given_up` was asked.
        """
        return bool(self._known.get(_name(scene), {}).get("killed"))

    def begun(self, scene: SceneRun) -> None:
        """Note that a scene is begun as it is now."""
        name, key = _name(scene), self._key(scene)
        with self._lock:
            entry = self._known.get(name)
            if entry is None or entry["key"] != key:
                entry = {"key": key, "tries": 0, "error": None, "last": None}
            self._known[name] = {**entry, "begun": round(time.time(), 3), "parts": _parts(scene)}
            self._under_way.add(name)
            self._write()

    def ended(self, scene: SceneRun, error: str | None) -> None:
        """Remember that a scene failed, and why; or forget it, where there is no error."""
        name = _name(scene)
        with self._lock:
            before = self._known.pop(name, None)
            if error is not None:
                # As it was when it was begun: what came since was perhaps not seen.
                key = before["key"] if before is not None and name in self._under_way else self._key(scene)
                tries = before["tries"] + 1 if before is not None and before["key"] == key else 1
                self._known[name] = {"key": key, "tries": tries, "error": error, "last": round(time.time(), 3)}
            self._under_way.discard(name)
            if error is not None or before is not None:
                self._write()

    def _count_death(self, scene: SceneRun, entry: dict[str, Any], key: str) -> None:
        if entry["key"] == key and _parts(scene) <= entry["parts"]:
            error = f"{scene.spec.files[0]}: {KILLED}"
            logger.warning("%s", error)
            entry |= {"tries": entry["tries"] + 1, "error": error, "last": entry["begun"], "killed": True}
        self._put_down(_name(scene))
        self._write()

    def _put_down(self, name: str) -> None:
        entry = self._known[name]
        for about in _SINCE:
            del entry[about]
        if not entry["tries"]:
            del self._known[name]

    def _key(self, scene: SceneRun) -> str:
        # Not what the driver reads from a scene: one that cannot be read has no such thing.
        settings = scene.job.model_dump(mode="json", by_alias=True, exclude={"name", "scenes", "cluster"})
        files = [(file, stat_of(file)) for file in self._files.of(scene.spec)]
        # Of the folder that its results go to only the rights: a failure may have made it.
        rights = (stat_of(str(scene.folder)) or ())[2:]
        return fingerprint(versions(), settings, scene.bundle.sha256, files, rights)

    def _write(self) -> None:
        if self._dry:
            return
        try:
            write_text(self._path, json.dumps(self._known, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            why = "disk full: " if error.errno in FULL else ""
            raise ClusterError(
                f"{why}{self._path}: cannot be written ({error.strerror}); run again to continue"
            ) from error


def settled(spec: SceneSpec, seconds: float, files: Files | None = None) -> bool:
    """Return whether nothing was written to a scene's files for some time; a file that is missing was not.

    A date far ahead is that of a wrong clock, and says nothing of now.
    """
    dates = [found[1] for file in (files or Files()).of(spec) if (found := stat_of(file)) is not None]
    return all(abs(time.time_ns() - date) >= seconds * 1e9 for date in dates)


def _name(scene: SceneRun) -> str:
    return f"{scene.spec.name}/{scene.bundle.card.name}"


def _parts(scene: SceneRun) -> int:
    """Return how much is done of a scene that is not: its receipts, and what its vectors are made of."""
    folder = scene.work / "scenes" / scene.folder.relative_to(Path(scene.job.outputs.folder).absolute())
    count = 0
    for stage in ("receipts", "vectors"):
        for path in folder.glob(f"*/{stage}"):
            for _, _, names in os.walk(path):
                count += sum(not name.startswith(".") for name in names)
    return count
