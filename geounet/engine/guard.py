"""A task on its worker: what it raises is told in words, and what it needs must be seen there."""

from __future__ import annotations

import platform
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from geounet.errors import ClusterError, GeounetError, JobError, ModelError, ValuesError
from geounet.predict.probe import SHARED, first_unseen
from geounet.raster.space import disk_full

STOPPING: tuple[type[GeounetError], ...] = (ModelError, JobError, ClusterError)
"""What no other task would fare better with, `ValuesError` apart."""


@dataclass(frozen=True)
class Raised:
    """What a task raised, told by its worker in words.

    Exceptions do not all survive the way from a worker (some cannot be pickled), and Dask would log each with its
    traceback.
    """

    kind: str
    """Name of the class of a `GeounetError` (of its base, if that is one of `STOPPING`), `disk` for a full disk,
    `unseen` for a file, else `defect`."""
    line: str
    trace: str = ""
    unseen: str = ""
    """What was asked for and is not seen there."""


def guarded(function: Callable[..., Any], args: tuple[Any, ...], needs: Mapping[str, str] | None = None) -> Any:
    """Call a function on a worker; return its result, or what it raised, or which of `Pool.needs` is not seen there."""
    if needs and (unseen := first_unseen(needs)) is not None:
        line = f"{unseen}: the worker on {platform.node()} does not see it; {needs[unseen]} {SHARED}"
        return Raised("unseen", line, unseen=unseen)
    try:
        return function(*args)
    except Exception as error:
        if full := disk_full(error):
            return Raised("disk", str(full))
        if isinstance(error, GeounetError):
            return Raised(_kind(error), str(error))
        return Raised("defect", f"{type(error).__name__}: {error}", traceback.format_exc())


def _kind(error: GeounetError) -> str:
    if not isinstance(error, ValuesError):
        for stops in STOPPING:
            if isinstance(error, stops):
                return stops.__name__
    return type(error).__name__
