"""Stopping in order: a signal is noted, and the loop puts its work down after the step that it is in."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Stop:
    """Whether somebody asked to stop, and how."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note a signal; the second one does what it would have done without us."""
        if self.number is not None:
            signal.signal(number, self.before.get(number, signal.SIG_DFL))
            signal.raise_signal(number)
        self.number = number

    before: dict[int, Any]


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Note SIGINT, SIGTERM and SIGHUP meanwhile; at the end a noted signal arrives as it would have.

    In threads other than the main one nothing changes: they get no signals.
    """
    stop = Stop()
    stop.before = {}
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
    for number in (int(getattr(signal, name)) for name in names):
        with contextlib.suppress(ValueError):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                stop.before[number] = signal.signal(number, stop.note)
    try:
        yield stop
    finally:
        for noted, handler in stop.before.items():
            signal.signal(noted, handler)
    if stop.number is not None:
        signal.raise_signal(stop.number)
