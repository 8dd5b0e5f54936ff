"""Progress on stderr: bars on a terminal, elsewhere a log line every 30 s."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

logger = logging.getLogger(__name__)

INTERVAL_S = 30.0
# Rates are those of the last minutes: what a run did before a pause says little about what is left.
_WINDOW_S = 300.0
_SPACING_S = 1.0


class _Stage:
    """One kind of work: how far it is, and how fast it went lately."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = self.total = 0
        self.extra = ""
        self.began = 0.0
        self.shown = False
        self._points: deque[tuple[float, int, int]] = deque()  # seconds, done, pixels
        self._latest = (0.0, 0, 0)

    def update(self, now: float, done: int, total: int, extra: str, pixels: int) -> None:
        if done < self.done:
            self._points.clear()  # it counts something else now, such as the next scene
        if not self._points or (self.finished and done < total):
            self.began, self.shown = now, False
        self.done, self.total, self.extra = done, total, extra
        self._latest = (now, done, pixels)
        if not self._points or now - self._points[-1][0] >= _SPACING_S:
            self._points.append(self._latest)
        # One point older than the window stays: it is where the window begins.
        while len(self._points) > 2 and now - self._points[1][0] > _WINDOW_S:
            self._points.popleft()

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    def line(self, now: float) -> str:
        """Return `[123/480 blocks] 26 % · 5.1 Mpx/s · 3 min left · 0 failed`."""
        parts = [f"[{self.done}/{self.total} {self.name}]"]
        if self.total > 0:
            parts[0] += f" {100 * self.done // self.total} %"
        start, done, pixels = self._points[0]
        seconds = self._latest[0] - start
        if seconds > 0 and self._latest[2] > pixels:
            parts.append(f"{_megapixels((self._latest[2] - pixels) / seconds)} Mpx/s")
        if seconds > 0 and self._latest[1] > done and not self.finished:
            left = (self.total - self.done) * seconds / (self._latest[1] - done)
            parts.append(f"{duration(max(0.0, left - (now - self._latest[0])))} left")
        if self.extra:
            parts.append(self.extra)
        return " · ".join(parts)


class Progress:
    """Shows how far a run is; a context manager.

    On a terminal: a bar for every stage. Elsewhere, and with JSON logs: every 30 s a line for the stages under way,
    also when nothing has been reported since, and one when a stage ends, unless it was short. Nothing with `--quiet`,
    never on stdout.

    Parameters
    ----------
    interval
        Seconds between lines.
    clock
        Seconds, increasing.
    """

    def __init__(self, interval: float = INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()
        self._bars: Bars | None = None
        self._tasks: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not logger.isEnabledFor(logging.INFO):
            return self
        if _on_terminal():
            self._bars = self._new_bars()
            self._bars.start()
        else:
            self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def update(self, stage: str, done: int, total: int, extra: str = "", pixels: int = 0) -> None:
        """Report where a stage is.

        Parameters
        ----------
        stage
            What is counted, in the plural: `blocks`. A new name opens a stage.
        done, total
            Pieces of the stage; `total` may grow.
        extra
            Shown at the end of the line: `0 failed`.
        pixels
            Pixels done so far in this stage, for the rate; 0 if the stage has none.
        """
        with self._lock:
            entry = self._stages.setdefault(stage, _Stage(stage))
            was_finished = entry.finished and entry.total > 0
            now = self._clock()
            entry.update(now, done, total, extra, pixels)
            ended = entry.finished and total > 0 and not was_finished
            # Of a short stage nothing is told: there may be many of them in a second.
            told = entry.shown or now - entry.began >= self._interval
        if self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total)
            self._bars.update(self._tasks[stage], completed=done, total=total)
        elif self._thread is not None and ended and told:
            logger.info("%s", self.line(stage))

    def line(self, stage: str) -> str:
        """Return the line of one stage."""
        with self._lock:
            return self._stages[stage].line(self._clock())

    def _tick(self) -> None:
        while not self._stop.wait(self._interval):
            with self._lock:
                under_way = [stage for stage in self._stages.values() if not stage.finished]
                lines = [stage.line(self._clock()) for stage in under_way]
                for stage in under_way:
                    stage.shown = True
            for line in lines:
                logger.info("%s", line)

    def _new_bars(self) -> Bars:
        from rich.console import Console
        from rich.progress import BarColumn, ProgressColumn, Task
        from rich.progress import Progress as Bars
        from rich.text import Text

        owner = self

        class Line(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(owner.line(task.description))

        return Bars(BarColumn(bar_width=24), Line(), console=Console(stderr=True), refresh_per_second=4)


def _on_terminal() -> bool:
    from geounet.cli import logs

    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not logs.writes_json()


def _megapixels(pixels_per_second: float) -> str:
    value = pixels_per_second / 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Return `40 s`, `3 min`, `2 h 05 min` or `3 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
