"""What all pools of a cluster share: who may send it a task now, what it has answered, whether the run is given up."""

from __future__ import annotations

import threading
from typing import Any, Protocol

ALONE = 2
"""Worker deaths from which on a task runs by itself, so that the next is its own doing."""


class Passing(Protocol):
    """A task."""

    deaths: int


class Gate:
    """Lets the tasks of all pools of one cluster pass, so that a suspect is alone on it whoever else is at work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._suspects: set[int] = set()
        self.cores: int | None = None
        """Processors that each worker thread may use, once a pool has asked."""
        self.answers: dict[Any, Any] = {}
        """What workers answered to questions that need no second answer."""
        self.closed = threading.Event()
        """Set when the run is given up: what waits for tasks in other threads stops waiting."""

    def enter(self, task: Passing) -> bool:
        """Return whether a task may go to the cluster now. A suspect waits until all have left, others until it has."""
        with self._lock:
            if task.deaths >= ALONE:
                self._suspects.add(id(task))
                if self._inside:
                    return False
            elif self._suspects:
                return False
            self._inside += 1
            return True

    def leave(self, task: Passing) -> None:
        """Note that a task is no longer at the cluster."""
        with self._lock:
            self._inside -= 1
            self._suspects.discard(id(task))

    def withdraw(self, task: Passing) -> None:
        """Note that a task that waits will not come."""
        with self._lock:
            self._suspects.discard(id(task))
