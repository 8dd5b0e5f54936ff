"""Components that reach over cells: which fragments are one, and what they sum up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from skimage import measure

from geounet.types import NODATA, Rect
from geounet.vector.cells import CellGrid
from geounet.vector.source import U8
from geounet.vector.trace import I32, I64, Bools

EDGES = ("top", "bottom", "left", "right")


@dataclass(frozen=True)
class Labels:
    """4-connected components of equal value in one cell, numbered from 1 in the order of their first pixels.

    Arrays of tables have an entry for each label, the first for label 1. `first` is the raster index
    (`row * width + column`) of a component's first pixel in this cell.
    """

    image: I32
    value: U8
    first: I64
    count: I64
    touches: Bools


def label_cell(values: U8, rect: Rect, raster_cols: int) -> Labels:
    """Label the pixels of a cell that are not 255.

    Parameters
    ----------
    values
        `(rows, cols)` of the cell, without a border around it.
    rect
        Its place in the raster.
    raster_cols
        Width of the raster.
    """
    label: Any = measure.label
    image: I32 = label(values, background=NODATA, connectivity=1).astype(np.int32)
    flat = image.ravel()
    highest = np.maximum.accumulate(flat)
    firsts = np.flatnonzero(np.diff(highest, prepend=0))
    if not np.array_equal(flat[firsts], np.arange(1, len(firsts) + 1)):
        raise AssertionError("labels are not numbered in the order of their first pixels")
    y, x = np.divmod(firsts, rect.cols)
    touches = np.zeros(len(firsts) + 1, dtype=np.bool_)
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        touches[edge] = True
    touches[0] = False
    return Labels(
        image=image,
        value=values.ravel()[firsts],
        first=(y + rect.y0) * raster_cols + x + rect.x0,
        count=np.bincount(flat, minlength=len(firsts) + 1)[1:],
        touches=touches,
    )


def edge_labels(image: I32, renumber: I32) -> dict[str, I32]:
    """Return the labels along the four edges of a cell, renumbered by a table; `-1` where there is none."""
    return {
        "top": renumber[image[0]],
        "bottom": renumber[image[-1]],
        "left": renumber[image[:, 0]],
        "right": renumber[image[:, -1]],
    }


@dataclass
class Fragments:
    """Fragments of all cells, numbered cell after cell, and their union over the cells' edges.

    Cells are added in any order; memory is some tens of bytes for each pixel of the cells' edges and each fragment.
    """

    grid: CellGrid
    values: dict[int, U8] = field(default_factory=dict)
    edges: dict[int, dict[str, I32]] = field(default_factory=dict)
    offsets: I64 = field(default_factory=lambda: np.zeros(1, np.int64))

    def add(self, index: int, values: U8, edges: dict[str, I32]) -> None:
        """Add a cell: the value of each of its fragments, and which of them lie along its edges (-1: none)."""
        self.values[index] = values
        self.edges[index] = edges

    def pairs(self) -> tuple[I64, I64]:
        """Return the numbers of neighbouring pixels' fragments on both sides of all edges between cells.

        One entry for each pair of pixels of which neither is 255.
        """
        counts = [len(self.values[i]) for i in range(self.grid.count)]
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        down, across = self.grid.shape
        found: list[tuple[I64, I64]] = []
        for index in range(self.grid.count):
            row, col = divmod(index, across)
            for neighbour, mine, theirs, there in (
                (index + 1, "right", "left", col + 1 < across),
                (index + across, "bottom", "top", row + 1 < down),
            ):
                if not there:
                    continue
                a, b = self.edges[index][mine], self.edges[neighbour][theirs]
                both = (a >= 0) & (b >= 0)
                found.append((a[both] + self.offsets[index], b[both] + self.offsets[neighbour]))
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    def all_values(self) -> U8:
        """Return the value of each fragment."""
        return np.concatenate([self.values[i] for i in range(self.grid.count)])

    def at_pixel(self, pixels: I64) -> I64:
        """Return the fragments of pixels, given by raster index, that lie on the edges of their cells."""
        y, x = np.divmod(pixels, self.grid.cols)
        side, across = self.grid.cell, self.grid.shape[1]
        cells = (y // side) * across + x // side
        found = np.full(len(pixels), -1, dtype=np.int64)
        for index in np.unique(cells):
            at = np.flatnonzero(cells == index)
            rect = self.grid.rect(int(index))
            edges = self.edges[int(index)]
            row, col = y[at] - rect.y0, x[at] - rect.x0
            for name, on, place in (
                ("top", row == 0, col),
                ("bottom", row == rect.rows - 1, col),
                ("left", col == 0, row),
                ("right", col == rect.cols - 1, row),
            ):
                found[at[on]] = edges[name][place[on]] + self.offsets[index]
        if (found < 0).any():
            raise AssertionError("a pixel asked for does not lie on the edge of its cell")
        return found


def unite(count: int, a: I64, b: I64) -> I64:
    """Return for each of `count` things the number of its set, given pairs that belong together."""
    graph = csr_array((np.ones(len(a), np.int8), (a, b)), shape=(count, count))
    found: I64 = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def sum_by(group: I64, groups: int, values: npt.NDArray[Any]) -> I64:
    """Return exact integer sums of `values` in each group."""
    sums = np.zeros(groups, dtype=np.int64)
    np.add.at(sums, group, values.astype(np.int64))
    return sums


def least_by(group: I64, groups: int, values: I64) -> I64:
    """Return the least of `values` in each group."""
    least = np.full(groups, np.iinfo(np.int64).max)
    np.minimum.at(least, group, values)
    return least
