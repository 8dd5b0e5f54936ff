"""The progress of several scenes at once, as one."""

from __future__ import annotations

import threading

from geounet.types import Progress


class Tally:
    """Adds up what the scenes of a run tell, stage by stage.

    Counts are of the scenes under way: a stage that all of them are through begins anew with the next scene. How many
    scenes are done is told apart.

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
        self._stages: dict[str, dict[Progress, tuple[int, int, int]]] = {}
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

    def note(self, part: Progress, stage: str, done: int, total: int, extra: str, pixels: int) -> None:
        """Note where a part is in a stage, and tell the sums."""
        with self._lock:
            parts = self._stages.setdefault(stage, {})
            if part not in parts and all(counted[0] >= counted[1] for counted in parts.values()):
                parts.clear()
            parts[part] = done, total, pixels
            sums = [sum(counts) for counts in zip(*parts.values(), strict=True)]
            self._progress.update(stage, sums[0], sums[1], extra, sums[2])


class _Part:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def update(self, stage: str, done: int, total: int, extra: str = "", pixels: int = 0) -> None:
        self._tally.note(self, stage, done, total, extra, pixels)
