"""Centre lines of one class, cell by cell, equal to those of the whole raster in one piece.

Thinning looks one pixel further with each of its sub-iterations, of which it needs two for each pixel of half-width;
a cell is thinned with a border around it that is wider than that. Where the border had to be wider than `WIDEST`, the
centre lines of that cell are those of its window, and the receipt says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_cdt, distance_transform_edt
from skimage import morphology

from geounet.types import NODATA, Rect
from geounet.vector import parts
from geounet.vector.cells import CellGrid
from geounet.vector.polygons import gather
from geounet.vector.source import U8, Plane, ProbabilityPlane
from geounet.vector.trace import I64, Bools, chain_order

BORDER = 64
"""Border to begin with, in pixels."""

WIDEST = 2048
"""Widest border, in pixels; enough for areas of the class half as wide."""

FORWARD = ((0, 1), (1, -1), (1, 0), (1, 1))
"""Steps `(dy, dx)` to the neighbours that come later in raster order."""


@dataclass(frozen=True)
class Stage:
    """Which pixels (value 1) to thin, where, and under which name the parts stand."""

    plane: Plane
    probability: ProbabilityPlane | None
    grid: CellGrid
    folder: str
    name: str

    def path(self, index: int) -> Path:
        """Return a cell's part."""
        return Path(self.folder) / f"{self.name}-lines-{index}.npz"


@dataclass(frozen=True)
class Lines:
    """Paths over pixels: path `i` has those from `offsets[i]` to `offsets[i + 1]`.

    `pixel` is the raster index, `squared` the squared distance to the nearest pixel that is not of the class,
    `stored` the stored probability (255: none). A closed path ends with the pixel it starts with.
    """

    pixel: I64
    squared: I64
    stored: U8
    offsets: I64

    @property
    def first(self) -> I64:
        """First pixels of the paths."""
        return self.pixel[self.offsets[:-1]]

    @property
    def last(self) -> I64:
        """Last pixels of the paths."""
        return self.pixel[self.offsets[1:] - 1]


def window(plane: Plane, rect: Rect, grid: CellGrid) -> tuple[Bools, Rect, bool]:
    """Read a cell with a border that is wide enough for thinning.

    Returns
    -------
    mask
        Pixels of the class in the window.
    outer
        The window, within the raster.
    exact
        Whether the border is wide enough.
    """
    border = BORDER
    whole = Rect(0, 0, grid.rows, grid.cols)
    while True:
        outer = Rect(rect.y0 - border, rect.x0 - border, rect.y1 + border, rect.x1 + border).intersection(whole)
        mask = plane.read(outer) == 1
        if outer == whole or not mask[rect.slices_in(outer)].any():
            return mask, outer, True
        # What lies beyond the window may be of the class: there is background only inside of it and beyond the raster.
        padded = np.pad(mask, 1, constant_values=True)
        padded[0] &= outer.y0 > 0
        padded[-1] &= outer.y1 < grid.rows
        padded[:, 0] &= outer.x0 > 0
        padded[:, -1] &= outer.x1 < grid.cols
        half = WIDEST if padded.all() else int(distance_transform_cdt(padded, metric="taxicab").max())
        if border >= 2 * half + 4:
            return mask, outer, True
        if border >= WIDEST:
            return mask, outer, False
        border = min(max(2 * half + 4, 2 * border), WIDEST)


def thin(mask: Bools) -> Bools:
    """Return the centre lines of a mask, one pixel wide (Zhang & Suen 1984); beyond its edge there is nothing."""
    skeletonize: Any = morphology.skeletonize
    lines: Bools = skeletonize(mask)
    return lines


def squared_distances(mask: Bools) -> I64:
    """Return squared Euclidean distances in pixels to the nearest pixel outside of `mask`."""
    if mask.all():
        return np.full(mask.shape, max(mask.shape) ** 2, dtype=np.int64)
    nearest = np.asarray(distance_transform_edt(mask, return_distances=False, return_indices=True))
    rows, cols = np.arange(mask.shape[0])[:, None], np.arange(mask.shape[1])[None, :]
    squared: I64 = (nearest[0].astype(np.int64) - rows) ** 2 + (nearest[1].astype(np.int64) - cols) ** 2
    return squared


def thin_cell(task: tuple[Stage, int]) -> dict[str, int]:
    """Write the centre lines that a cell owns, unless they are there. Returns a receipt."""
    stage, index = task
    path = stage.path(index)
    if not path.exists():
        rect = stage.grid.rect(index)
        mask, outer, exact = window(stage.plane, rect, stage.grid)
        around = Rect(rect.y0 - 1, rect.x0 - 1, rect.y1 + 1, rect.x1 + 1)
        inner = around.intersection(outer)
        skeleton = np.zeros(around.shape, dtype=np.bool_)
        squared = np.zeros(around.shape, dtype=np.int64)
        if mask.any():
            skeleton[inner.slices_in(around)] = thin(mask)[inner.slices_in(outer)]
            squared[inner.slices_in(around)] = squared_distances(mask)[inner.slices_in(outer)]
        stored = np.full(around.shape, NODATA, dtype=np.uint8)
        if stage.probability is not None and skeleton.any():
            stored = stage.probability.read(around, stage.plane.read(around))
        lines = owned_lines(skeleton, squared, stored, rect, stage.grid.cols)
        parts.save(
            path,
            {
                "pixel": lines.pixel,
                "squared": lines.squared,
                "stored": lines.stored,
                "offsets": lines.offsets,
                "exact": np.array([exact]),
            },
        )
    exact = bool(parts.load(path, ["exact"])["exact"][0])
    return {"exact": int(exact), "bytes": path.stat().st_size}


def linked(skeleton: Bools, dy: int, dx: int) -> Bools:
    """Return which pixels, but the outermost, have a link to their neighbour at `(dy, dx)`.

    All 8 neighbours are linked, but diagonal ones not where a pixel beside both leads there in two straight steps.
    """
    rows, cols = skeleton.shape[0] - 2, skeleton.shape[1] - 2

    def view(y: int, x: int) -> Bools:
        return skeleton[1 + y : 1 + y + rows, 1 + x : 1 + x + cols]

    there = view(0, 0) & view(dy, dx)
    if dy and dx:
        there &= ~view(dy, 0) & ~view(0, dx)
    return there


def owned_lines(skeleton: Bools, squared: I64, stored: U8, rect: Rect, raster_cols: int) -> Lines:
    """Return the paths of a cell: chains of the links whose earlier pixel is in the cell.

    Parameters
    ----------
    skeleton, squared, stored
        `(rows + 2, cols + 2)`: the cell and one pixel around it.
    rect
        The cell.
    raster_cols
        Width of the raster.
    """
    width = rect.cols + 2
    degree = np.zeros(rect.shape, dtype=np.int8)
    own = np.zeros(skeleton.size, dtype=np.int8)
    starts, ends = [], []
    for dy, dx in FORWARD:
        later = linked(skeleton, dy, dx)
        degree += later
        degree += linked(skeleton, -dy, -dx)
        y, x = np.nonzero(later)
        start = (y + 1) * width + x + 1
        starts.append(start)
        ends.append(start + dy * width + dx)
    start, end = np.concatenate(starts).astype(np.int64), np.concatenate(ends).astype(np.int64)
    np.add.at(own, start, 1)
    np.add.at(own, end, 1)
    # A path goes through a pixel that has two links, both of which this cell owns.
    through = np.zeros(skeleton.shape, dtype=np.bool_)
    through[1:-1, 1:-1] = degree == 2
    passing = through.ravel() & (own == 2)
    local = np.arange(skeleton.size)
    ids = (local // width + rect.y0 - 1) * raster_cols + local % width + rect.x0 - 1
    nodes, offsets = _contracted(start, end, passing, ids)
    return Lines(ids[nodes], squared.ravel()[nodes], stored.ravel()[nodes], offsets)


def linked_paths(start: I64, end: I64, passing: Bools, rank: I64) -> tuple[I64, I64, Bools]:
    """Contract links through nodes with two of them.

    Parameters
    ----------
    start, end
        Nodes of each link.
    passing
        For each node, whether paths go through it; it then has exactly two links (or both ends of one).
    rank
        For each node its place; loops without another node start at the first.

    Returns
    -------
    order, offsets, closed
        Links of the paths one after the other, where each path starts, and whether it is a loop without a node. Link
        `i + len(start)` is link `i` from its end to its start. Each path comes in one direction of the two.
    """
    count = len(start)
    tail, head = np.concatenate([start, end]), np.concatenate([end, start])
    other = np.concatenate([np.arange(count, 2 * count), np.arange(count)])
    by_tail = np.argsort(tail, kind="stable")
    low = np.searchsorted(tail[by_tail], head)
    # A path through a node leaves by the link that it did not come by.
    one, two = by_tail[np.minimum(low, 2 * count - 1)], by_tail[np.minimum(low + 1, 2 * count - 1)]
    following = np.where(passing[head], np.where(one == other, two, one), -1)
    order, offsets, closed = chain_order(
        following, 2 * rank[tail] + (np.arange(2 * count) >= count), np.zeros_like(tail)
    )
    # Both directions of a path hold the same links: the one whose lowest link comes forward is kept. A link of which
    # both directions are in one path does not exist, as paths do not turn round.
    path = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    lowest = np.minimum.reduceat(order % count, offsets[:-1])
    kept = np.zeros(len(offsets) - 1, dtype=np.bool_)
    kept[path[(order == lowest[path])]] = True
    chosen = np.flatnonzero(kept)
    elements, bounds = gather(offsets, chosen)
    return order[elements], bounds, closed[chosen]


def _contracted(start: I64, end: I64, passing: Bools, rank: I64) -> tuple[I64, I64]:
    """Return the nodes of contracted paths one after the other, and where each path starts."""
    if len(start) == 0:
        return np.empty(0, np.int64), np.zeros(1, np.int64)
    order, offsets, _ = linked_paths(start, end, passing, rank)
    tail, head = np.concatenate([start, end]), np.concatenate([end, start])
    return np.insert(tail[order], offsets[1:], head[order[offsets[1:] - 1]]), offsets + np.arange(len(offsets))


def joined(lines: list[Lines]) -> Lines:
    """Put the paths of cells together: at pixels where exactly two ends meet they are one path.

    Paths then run from their lower end to the higher; loops from their node, or their lowest pixel where they have
    none, towards the lower of both neighbours.
    """
    lines = [item for item in lines if len(item.offsets) > 1]
    if not lines:
        empty = np.empty(0, np.int64)
        return Lines(empty, empty, np.empty(0, np.uint8), np.zeros(1, np.int64))
    pixel = np.concatenate([item.pixel for item in lines])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(item.offsets) for item in lines]))])
    count = len(offsets) - 1
    both = np.concatenate([pixel[offsets[:-1]], pixel[offsets[1:] - 1]])
    ends, inverse, meeting = np.unique(both, return_inverse=True, return_counts=True)
    order, bounds, closed = linked_paths(inverse[:count], inverse[count:], meeting == 2, ends)
    indices = []
    for k in range(len(bounds) - 1):
        whole: list[I64] = []
        for link in order[bounds[k] : bounds[k + 1]]:
            piece = int(link) % count
            index = np.arange(offsets[piece], offsets[piece + 1])
            index = index if link < count else index[::-1]
            whole.append(index[1:] if whole else index)
        indices.append(_directed(pixel, np.concatenate(whole), loop=bool(closed[k])))
    chosen = np.concatenate(indices)
    return Lines(
        pixel[chosen],
        np.concatenate([item.squared for item in lines])[chosen],
        np.concatenate([item.stored for item in lines])[chosen],
        np.concatenate([[0], np.cumsum([len(i) for i in indices])]),
    )


def _directed(pixel: I64, index: I64, *, loop: bool) -> I64:
    """Return the indices of a path's pixels in the direction that does not depend on how it was put together."""
    if loop:  # no node on it: it starts at its lowest pixel
        at = int(np.argmin(pixel[index[:-1]]))
        index = np.append(np.roll(index[:-1], -at), index[at])
    found = pixel[index]
    forward = (found[0], found[1]) < (found[-1], found[-2])
    return index if forward else index[::-1]
