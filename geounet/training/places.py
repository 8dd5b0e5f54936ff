"""Where windows are centred: balanced between data sections and classes, from counts of labels in small cells."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geounet.labels.values import IGNORED, counts_of
from geounet.training.sources import Source
from geounet.training.splits import Side, Sides
from geounet.types import Rect

CELL = 64
"""Side of a cell, px of the scene."""

_GROUP = 8
"""Cells per side of what is read at once."""

MOST_PIXELS = 400 * 2**20
"""Labels that are looked at over all scenes; of larger ones, places spread over the whole scene."""


@dataclass(frozen=True)
class Cells:
    """The labelled cells of a scene.

    Attributes
    ----------
    corner : int32 array (cells, 2)
        First row and column.
    counts : int64 array (cells, 256)
        Pixels of each label.
    """

    corner: NDArray[np.int32]
    counts: NDArray[np.int64]

    def rects(self, shape: tuple[int, int]) -> list[Rect]:
        """Return the pixels of each cell."""
        return [Rect(y, x, min(y + CELL, shape[0]), min(x + CELL, shape[1])) for y, x in self.corner.tolist()]


def survey(source: Source, most: int) -> Cells:
    """Count the labels of a scene in cells; cells without any are left out.

    Parameters
    ----------
    source
        The scene.
    most
        Pixels to look at; in a larger scene, groups of cells are chosen evenly by a hash.

    Raises
    ------
    LabelError
        If a raster holds values that the job does not list, or is damaged.
    """
    rows, cols = source.shape
    side = CELL * _GROUP
    groups = [(y, x) for y in range(0, rows, side) for x in range(0, cols, side)]
    limit = max(1, most // side**2)
    if len(groups) > limit:
        # labels may be a few patches of a large scene
        groups = [(y, x) for y, x in groups if source.meets(Rect(y, x, min(y + side, rows), min(x + side, cols)))]
    if len(groups) > limit:
        seed = int.from_bytes(hashlib.sha256(source.name.encode()).digest()[:8], "little")
        chosen = np.random.Generator(np.random.PCG64(seed)).choice(len(groups), limit, replace=False)
        groups = [groups[k] for k in sorted(chosen.tolist())]
    corners, counts = [], []
    for y, x in groups:
        rect = Rect(y, x, min(y + side, rows), min(x + side, cols))
        labels = source.labels(rect)
        for top in range(0, rect.rows, CELL):
            for left in range(0, rect.cols, CELL):
                here = counts_of(labels[top : top + CELL, left : left + CELL])
                here[IGNORED] = 0
                if here.any():
                    corners.append((y + top, x + left))
                    counts.append(here)
    if not corners:
        return Cells(np.zeros((0, 2), dtype=np.int32), np.zeros((0, 256), dtype=np.int64))
    return Cells(np.array(corners, dtype=np.int32), np.stack(counts))


def on_side(cells: Cells, source: Source, sides: Sides, side: Side) -> Cells:
    """Return the cells of one side, with the counts of its own pixels."""
    if (sides.table == sides.table[0, 0]).all():
        return cells if sides.table[0, 0] == side else Cells(cells.corner[:0], cells.counts[:0])
    kept, counts = [], []
    for k, rect in enumerate(cells.rects(source.shape)):
        only = sides.only(rect)
        if only == side:
            counts.append(cells.counts[k])
        elif only is None and (mask := sides.mask(rect, side)).any():
            here = counts_of(source.labels(rect)[mask])
            here[IGNORED] = 0
            if not here.any():
                continue
            counts.append(here)
        else:
            continue
        kept.append(k)
    if not kept:
        return Cells(cells.corner[:0], cells.counts[:0])
    return Cells(cells.corner[kept], np.stack(counts))


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
        self._owner = np.repeat(np.arange(len(cells)), [len(c.corner) for c in cells])
        self._corner = np.concatenate([c.corner for c in cells])
        counts = np.concatenate([c.counts for c in cells])
        totals = counts.sum(axis=0)
        self.labels = np.flatnonzero(totals)
        self.pixels = int(totals.sum())
        weights = (totals[self.labels] / max(self.pixels, 1)) ** (1.0 - balance)
        self.chances: NDArray[np.float64] = weights / weights.sum()
        """How often each of `labels` is centred on."""
        self._sums = np.cumsum(counts[:, self.labels], axis=0)

    def draw(self, rng: np.random.Generator) -> tuple[int, float, float]:
        """Return the number of a scene, and a row and column on it."""
        label = int(np.searchsorted(np.cumsum(self.chances)[:-1], rng.random(), side="right"))
        sums = self._sums[:, label]
        cell = int(np.searchsorted(sums, rng.integers(sums[-1]), side="right"))
        owner = int(self._owner[cell])
        rows, cols = self.sources[owner].shape
        y, x = (int(v) for v in self._corner[cell])
        return owner, rng.uniform(y, min(y + CELL, rows)), rng.uniform(x, min(x + CELL, cols))
