"""The progress of several scenes at once, as one."""

from __future__ import annotations

import threading

from geounet.engine.scene import Progress


class Tally:
    """Adds up what the scenes of a run tell, stage by stage.

    Parameters
    ----------
    progress
        Told the sums.
    scenes
        How many there are; with several, their number is a stage of its own.
    """

    def __init__(self, progress: Progress, scenes: int) -> None:
        self._progress, self._scenes = progress, scenes
        self._lock = threading.Lock()
        self._done = 0
        self._stages: dict[str, list[int]] = {}
        if scenes > 1:
            progress.update("scenes", 0, scenes)

    def part(self) -> Progress:
        """Return the progress of one scene (and model)."""
        return _Part(self)

    def scene_done(self) -> None:
        """Note that a scene is done, well or not."""
        self._done += 1
        if self._scenes > 1:
            self._progress.update("scenes", self._done, self._scenes)

    def add(self, stage: str, done: int, total: int, extra: str, pixels: int) -> None:
        """Add to the sums of a stage."""
        with self._lock:
            sums = self._stages.setdefault(stage, [0, 0, 0])
            for place, more in enumerate((done, total, pixels)):
                sums[place] += more
            self._progress.update(stage, sums[0], sums[1], extra, sums[2])


class _Part:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._last: dict[str, tuple[int, int, int]] = {}

    def update(self, stage: str, done: int, total: int, extra: str = "", pixels: int = 0) -> None:
        before = self._last.get(stage, (0, 0, 0))
        self._last[stage] = done, total, pixels
        self._tally.add(stage, done - before[0], total - before[1], extra, pixels - before[2])
