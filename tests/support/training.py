"""Labelled scenes in memory, for the tests of `geounet.training`."""

from __future__ import annotations

from typing import Any

import numpy as np

from geounet.labels.frames import Frame
from geounet.training.sources import Source
from geounet.training.splits import Sides
from geounet.types import Rect


class ArrayReader:
    """A scene in memory; opened once a thread like any other."""

    def __init__(self, values: Any, labels: Any, valid: Any = None) -> None:
        self.values, self.codes = np.asarray(values), np.asarray(labels, dtype=np.uint8)
        self.valid = np.ones(self.codes.shape, dtype=bool) if valid is None else valid
        self.closed = 0

    def __call__(self) -> ArrayReader:
        """Return itself."""
        return self

    def read(self, rect: Rect) -> Any:
        """Return values and validity."""
        at = rect.slices_in(Rect(0, 0, *self.codes.shape))
        values = self.values[:, *at].astype(np.float32)
        return np.where(self.valid[at], values, np.float32(0)), self.valid[at].copy()

    def labels(self, rect: Rect) -> Any:
        """Return labels."""
        at = rect.slices_in(Rect(0, 0, *self.codes.shape))
        return np.where(self.valid[at], self.codes[at], np.uint8(255))

    def meets(self, rect: Rect) -> bool:
        """Return that there are labels everywhere."""
        del rect
        return True

    def everything(self, rect: Rect) -> Any:
        """Return all of it."""
        return (*self.read(rect), self.labels(rect))

    def close(self) -> None:
        """Count."""
        self.closed += 1


def source(values: Any, labels: Any = None, valid: Any = None, *, kept: bool = True, name: str = "s", data: int = 0,
           zoom: float = 1.0) -> Source:  # fmt: skip
    """Return a source of `(bands, rows, cols)`; labels are 0 unless given."""
    values = np.asarray(values)
    shape = values.shape[1:]
    reader = ArrayReader(values, np.zeros(shape, np.uint8) if labels is None else labels, valid)
    frame = Frame(name, shape, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None, None)
    bands = tuple(f"band{k + 1}" for k in range(len(values)))
    found = Source(name, data, frame, bands, values.dtype.name, reader, (zoom, zoom))
    if kept:
        found.keep()
    return found


def one_side(shape: tuple[int, int]) -> Sides:
    """Return sides where all pixels train."""
    return Sides(np.array([0, shape[0]]), np.array([0, shape[1]]), np.zeros((1, 1), np.uint8))
