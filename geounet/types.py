"""What every layer shares: rectangles of pixels, the codes of the mask, who runs work and who is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")

NODATA = 255
"""Mask and probability value of pixels without valid input, and of blocks that failed."""

MAX_CLASSES = 255
"""Class codes are 0 to 254."""

PROBABILITY_STEPS = 254
"""A stored probability is `round(254 * p)` as uint8; 255 is nodata."""


class Rect(NamedTuple):
    """A half-open rectangle of pixels: rows `y0 <= y < y1`, columns `x0 <= x < x1`."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def rows(self) -> int:
        """Number of rows, at least 0."""
        return max(0, self.y1 - self.y0)

    @property
    def cols(self) -> int:
        """Number of columns, at least 0."""
        return max(0, self.x1 - self.x0)

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, cols)`."""
        return self.rows, self.cols

    @property
    def empty(self) -> bool:
        """Whether the rectangle holds no pixel."""
        return self.y1 <= self.y0 or self.x1 <= self.x0

    def intersection(self, other: Rect) -> Rect:
        """Return the common part; empty (possibly with negative extent) where there is none."""
        return Rect(max(self.y0, other.y0), max(self.x0, other.x0), min(self.y1, other.y1), min(self.x1, other.x1))

    def shifted(self, dy: int, dx: int) -> Rect:
        """Return the rectangle moved by `dy` rows and `dx` columns."""
        return Rect(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def slices_in(self, outer: Rect) -> tuple[slice, slice]:
        """Return `(rows, cols)` slices of this rectangle in an array that covers `outer`.

        Raises
        ------
        ValueError
            If this rectangle does not lie within `outer`.
        """
        if not (outer.y0 <= self.y0 and self.y1 <= outer.y1 and outer.x0 <= self.x0 and self.x1 <= outer.x1):
            raise ValueError(f"{self} does not lie within {outer}")
        return slice(self.y0 - outer.y0, self.y1 - outer.y0), slice(self.x0 - outer.x0, self.x1 - outer.x0)


class Executor(Protocol):
    """Runs independent pieces of work somewhere; results come back in any order."""

    def map(self, function: Callable[[T], R], items: Sequence[T], label: str) -> Iterator[R]:
        """Yield `function(item)` for every item, in any order.

        `function` and `items` can be pickled; results are small (below 2 kB): pixels and geometries travel in files.
        `label` names the stage in progress and logs.
        """
        ...


class Progress(Protocol):
    """Is told by a run, a training or a measurement how far it is."""

    def update(self, stage: str, done: int, total: int, extra: str = "", pixels: int = 0) -> None:
        """Say how much of a stage is done, and how many pixels this run has finished in it so far."""
        ...


class Silent:
    """Progress that nobody watches."""

    def update(self, stage: str, done: int, total: int, extra: str = "", pixels: int = 0) -> None:
        """Do nothing."""
