"""How long the stages of a scene took."""

from __future__ import annotations

import time


class Timer:
    """Adds the seconds spent in a `with` block to those of a stage.

    Parameters
    ----------
    timings
        Seconds by stage.
    stage
        Which one.
    """

    def __init__(self, timings: dict[str, float], stage: str) -> None:
        self._timings, self._stage = timings, stage

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        # Added: models that share the reading of a scene have done some of it before.
        done = self._timings.get(self._stage, 0.0)
        self._timings[self._stage] = round(done + time.perf_counter() - self._started, 3)
