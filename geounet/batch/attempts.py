"""What a batch remembers of scenes that failed: how often each was tried as it is, so that none is tried forever."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from geounet.atomic import write_text
from geounet.engine.ledger import fingerprint
from geounet.engine.plan import versions
from geounet.engine.scene import SceneRun
from geounet.raster.scene import SceneSpec

logger = logging.getLogger(__name__)

FILE = "attempts.json"


class Attempts:
    """The failures of the scenes of an output folder, kept in its work folder.

    A scene counts as another one once its files, the job, the model or the software changed: then it is tried again.

    Parameters
    ----------
    work
        The work folder; the caller holds its lock.
    most
        How often a scene is tried as it is; None: without end.
    """

    def __init__(self, work: Path, most: int | None) -> None:
        self._path, self._most = work / FILE, most
        self._known: dict[str, dict[str, Any]] = {}
        try:
            self._known = dict(json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("%s: not readable (%s); every scene is tried", self._path, error)

    def given_up(self, scene: SceneRun) -> str | None:
        """Return why a scene is left alone, or None if it is to be tried."""
        entry = self._known.get(_name(scene))
        if self._most is None or entry is None or entry["tries"] < self._most or entry["key"] != _key(scene):
            return None
        times = f"{entry['tries']} time{'s' * (entry['tries'] != 1)}"
        return f"{entry['error']} (failed {times}; tried again when it changes, or with --retry)"

    def ended(self, scene: SceneRun, error: str | None) -> None:
        """Remember that a scene failed, and why; or forget it, where there is no error."""
        name = _name(scene)
        before = self._known.pop(name, None)
        if error is not None:
            key = _key(scene)
            tries = before["tries"] + 1 if before is not None and before["key"] == key else 1
            self._known[name] = {"key": key, "tries": tries, "error": error, "last": round(time.time(), 3)}
        if error is not None or before is not None:
            self._write()

    def _write(self) -> None:
        write_text(self._path, json.dumps(self._known, indent=1, ensure_ascii=False) + "\n")


def settled(spec: SceneSpec, seconds: float) -> bool:
    """Return whether nothing was written to a scene's files for some time; a file that is missing was not.

    A date far ahead is that of a wrong clock, and says nothing of now.
    """
    dates = [found[1] for file in spec.files if (found := _stat(file)) is not None]
    return all(abs(time.time_ns() - date) >= seconds * 1e9 for date in dates)


def _name(scene: SceneRun) -> str:
    return f"{scene.spec.name}/{scene.bundle.card.name}"


def _key(scene: SceneRun) -> str:
    # Not what the driver reads from a scene: one that cannot be read has no such thing.
    settings = scene.job.model_dump(mode="json", by_alias=True, exclude={"name", "scenes", "cluster"})
    files = [(file, _stat(file)) for file in scene.spec.files]
    return fingerprint(versions(), settings, scene.bundle.sha256, files)


def _stat(file: str) -> tuple[int, int] | None:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
