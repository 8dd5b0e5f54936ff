"""Where windows are centred: balanced between data sections and classes, from counts of labels in small cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geounet.labels.values import IGNORED
from geounet.training.sources import Source
from geounet.training.splits import Side, Sides
from geounet.types import Rect

CELL = 64
"""Side of a cell, px of the scene."""

_GROUP = 8
"""Cells per side of what is read at once."""


@dataclass(frozen=True)
class Cells:
    """The labelled cells of a scene: some ten bytes each, so that all of a scene's have room.

    Attributes
    ----------
    corner : int32 array (cells, 2)
        First row and column.
    labels : uint8 array (labels,)
        Those that occur, rising.
    counts : uint16 array (cells, labels)
        Pixels of each of them.
    """

    corner: NDArray[np.int32]
    labels: NDArray[np.uint8]
    counts: NDArray[np.uint16]

    def rects(self, shape: tuple[int, int]) -> NDArray[np.int64]:
        """Return the pixels of each cell, int64 `(cells, 4)`: `y0, x0, y1, x1`."""
        first = self.corner.astype(np.int64)
        return np.hstack((first, np.minimum(first + CELL, shape)))

    def totals(self) -> NDArray[np.int64]:
        """Return the pixels of each label, int64 `(256,)`."""
        found = np.zeros(256, dtype=np.int64)
        found[self.labels] = self.counts.sum(axis=0, dtype=np.int64)
        return found


class _Collected:
    """Cells as they are found: what occurs in a scene is known at its end."""

    def __init__(self) -> None:
        self._corners: list[NDArray[np.int32]] = []
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.uint16]]] = []

    def add(self, corner: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
        """Add cells with the counts of all labels, `(cells, 256)`; those without any are left out."""
        counts[:, IGNORED] = 0
        kept = counts.any(axis=1)
        if kept.any():
            labels = np.flatnonzero(counts.any(axis=0))
            self._corners.append(corner[kept])
            self._parts.append((labels, counts[np.ix_(kept, labels)].astype(np.uint16)))

    def cells(self) -> Cells:
        """Return them all."""
        seen = np.zeros(256, dtype=bool)
        for labels, _ in self._parts:
            seen[labels] = True
        counts = np.zeros((sum(map(len, self._corners)), int(seen.sum())), dtype=np.uint16)
        column, at = np.cumsum(seen) - 1, 0
        for labels, part in self._parts:
            counts[at : at + len(part), column[labels]] = part
            at += len(part)
        corner = np.concatenate([np.zeros((0, 2), dtype=np.int32), *self._corners])
        return Cells(corner, np.flatnonzero(seen).astype(np.uint8), counts)


def survey(source: Source, told: Callable[[int], None] | None = None) -> Cells:
    """Count the labels of a scene in cells; cells without any are left out.

    Parameters
    ----------
    source
        The scene.
    told
        Called with the number of pixels that were looked at, now and then.

    Raises
    ------
    LabelError
        If a raster holds values that the job does not list, or is damaged.
    """
    rows, cols = source.shape
    side = CELL * _GROUP
    found = _Collected()
    for y in range(0, rows, side):
        for x in range(0, cols, side):
            rect = Rect(y, x, min(y + side, rows), min(x + side, cols))
            # labels may be a few patches of a large scene
            if source.kept or source.meets(rect):
                found.add(*_counted(source.labels(rect), rect))
            if told is not None:
                told(rect.rows * rect.cols)
    return found.cells()


def _counted(labels: NDArray[np.uint8], rect: Rect) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return first row and column of a rectangle's cells, row by row, and their counts `(cells, 256)`."""
    rows, cols = (np.arange(size) // CELL for size in labels.shape)
    down, across = int(rows[-1]) + 1, int(cols[-1]) + 1
    keys = (256 * (rows[:, None] * across + cols[None, :]) + labels).ravel()
    corner = np.stack(np.divmod(np.arange(down * across), across), axis=1) * CELL + (rect.y0, rect.x0)
    return corner.astype(np.int32), np.bincount(keys, minlength=down * across * 256).reshape(-1, 256)


def on_sides(cells: Cells, source: Source, sides: Sides) -> dict[Side, Cells]:
    """Return the cells of each side, with the counts of its own pixels."""
    rects = cells.rects(source.shape)
    sole = sides.sole(rects)
    # cells that lie on several sides are counted anew
    mixed = np.flatnonzero(sole < 0)
    counts = np.zeros((len(Side), len(mixed), len(cells.labels)), dtype=np.uint16)
    groups = cells.corner[mixed] // (CELL * _GROUP)
    for part in np.split(np.arange(len(mixed)), 1 + np.flatnonzero(np.diff(groups, axis=0).any(axis=1))):
        if not len(part):
            continue
        near = rects[mixed[part]]
        whole = Rect(*near[:, :2].min(axis=0).tolist(), *near[:, 2:].max(axis=0).tolist())
        labels = source.labels(whole)
        across = -(-whole.cols // CELL)
        at = (near[:, 0] - whole.y0) // CELL * across + (near[:, 1] - whole.x0) // CELL
        for side in Side:
            own = np.where(sides.mask(whole, side), labels, np.uint8(IGNORED))
            counts[side, part] = _counted(own, whole)[1][np.ix_(at, cells.labels)]
    result = {}
    for side in Side:
        own = cells.counts.copy() if len(mixed) else cells.counts
        own[mixed] = counts[side]
        chosen = sole == side
        chosen[mixed] = counts[side].any(axis=1)
        result[side] = cells if chosen.all() and not len(mixed) else _only(cells, chosen, own)
    return result


def _only(cells: Cells, chosen: NDArray[np.bool_], counts: NDArray[np.uint16]) -> Cells:
    return Cells(cells.corner[chosen], cells.labels, counts[chosen])


class Places:
    """Draws centres of windows of one data section.

    Parameters
    ----------
    sources
        Its scenes.
    cells
        Their cells on the training side.
    balance
        0: labels occur as in the pixels; 1: every label is centred on equally often.
    """

    def __init__(self, sources: Sequence[Source], cells: Sequence[Cells], balance: float) -> None:
        self.sources = list(sources)
        self._owner = np.repeat(np.arange(len(cells), dtype=np.int32), [len(c.corner) for c in cells])
        self._corner = np.concatenate([c.corner for c in cells])
        totals = np.sum([c.totals() for c in cells], axis=0)
        self.labels = np.flatnonzero(totals)
        self.pixels = int(totals.sum())
        weights = (totals[self.labels] / max(self.pixels, 1)) ** (1.0 - balance)
        self.chances: NDArray[np.float64] = weights / weights.sum()
        """How often each of `labels` is centred on."""
        self._holders = [_holders(label, cells) for label in self.labels.tolist()]

    def draw(self, rng: np.random.Generator) -> tuple[int, float, float]:
        """Return the number of a scene, and a row and column on it."""
        label = int(np.searchsorted(np.cumsum(self.chances)[:-1], rng.random(), side="right"))
        holders, sums = self._holders[label]
        cell = int(holders[np.searchsorted(sums, rng.integers(sums[-1]), side="right")])
        owner = int(self._owner[cell])
        rows, cols = self.sources[owner].shape
        y, x = (int(v) for v in self._corner[cell])
        return owner, rng.uniform(y, min(y + CELL, rows)), rng.uniform(x, min(x + CELL, cols))


def _holders(label: int, cells: Sequence[Cells]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the cells that hold a label, and how many pixels of it these and all cells before have."""
    holders, pixels, first = [], [], 0
    for found in cells:
        for column in np.flatnonzero(found.labels == label).tolist():
            own = np.flatnonzero(found.counts[:, column])
            holders.append((first + own).astype(np.int32))
            pixels.append(found.counts[own, column])
        first += len(found.corner)
    return np.concatenate(holders), np.cumsum(np.concatenate(pixels), dtype=np.int64)
