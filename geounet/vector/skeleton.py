"""Centre lines of one class, cell by cell, equal to those of the whole raster in one piece.

Thinning looks one pixel further with each of its subiterations. A cell is thinned with a border around it that is wider
than the number of those that changed anything near the cell, or else again with a wider one. Where the border had to be
wider than `WIDEST`, the centre lines of that cell are those of its window, and the receipt says so. Distances to the
road's side, which may be longer, have a border that holds them, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from geounet.types import NODATA, Rect
from geounet.vector import parts
from geounet.vector.cells import CellGrid
from geounet.vector.polygons import gather
from geounet.vector.source import U8, Plane, ProbabilityPlane
from geounet.vector.thinning import AROUND, around, codes, thin
from geounet.vector.trace import I64, Bools, chain_order

BORDER = 96
"""Border to begin with, in pixels."""

WIDEST = 2048
"""Widest border, in pixels; enough for areas of the class half as wide. What lies further off counts as so far."""

QUIET = 16
"""So many pixels around a cell do not change any more when what lies beyond the border could be felt there."""

WIDE = 64
"""A road that leaves the raster does so in its middle, if it is not wider than this along the raster's edge, pixels."""

SCALE = 256
"""Squared distances are whole numbers of this part of a pixel squared where pixels are not square on the ground."""


@dataclass(frozen=True)
class Stage:
    """Which pixels (value 1) to thin, where, and under which name the parts stand.

    `weights` are those of rows and columns in squared distances, see `weights_of`.
    """

    plane: Plane
    probability: ProbabilityPlane | None
    grid: CellGrid
    folder: str
    name: str
    weights: tuple[int, int] = (1, 1)

    def path(self, index: int) -> Path:
        """Return a cell's part."""
        return self.part("lines", index)

    def part(self, what: str, index: int) -> Path:
        """Return any part."""
        return Path(self.folder) / f"{self.name}-{what}-{index}.npz"

    @property
    def unit(self) -> float:
        """How many squared distances of this stage are one squared pixel."""
        return 1.0 if self.weights == (1, 1) else float(SCALE)


def weights_of(step: tuple[float, float]) -> tuple[int, int]:
    """Return whole-number weights of rows and columns in squared distances, from the pixel's size along both axes.

    `(1, 1)` for pixels that are square to 2 %. Whole numbers, so that equal distances are equal.
    """
    along, down = step
    if abs(along / down - 1) < 0.02:
        return 1, 1
    return max(1, round(SCALE * down / along)), max(1, round(SCALE * along / down))


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

    def arrays(self) -> parts.Arrays:
        """Return them by name."""
        return {"pixel": self.pixel, "squared": self.squared, "stored": self.stored, "offsets": self.offsets}


LINKS = (
    *("first", "last", "after", "before", "first_squared", "last_squared"),
    *("low", "below", "above", "low_at", "low_squared"),
    *("size", "mass"),
)
"""What is known of a path without its pixels: its first and last pixel, those after and before them and squared
distances there; its least pixel, those before and after it, its place in the path and squared distance; the number of
pixels and the sum of their squared distances."""


def link_table(lines: Lines, cols: int) -> parts.Arrays:
    """Return `LINKS` and `across`, `down`, `diagonal`, the number of steps of each path in these directions."""
    offsets, pixel = lines.offsets, lines.pixel
    head, tail = offsets[:-1], offsets[1:] - 1
    if len(head) == 0:
        return {name: np.empty(0, np.int64) for name in (*LINKS, "across", "down", "diagonal")}
    low = np.minimum.reduceat(pixel, head)
    size = np.diff(offsets)
    path = np.repeat(np.arange(len(head)), size)
    # A closed path has its first pixel twice; the first one counts.
    at = np.flatnonzero(pixel == low[path])
    at = at[np.concatenate([[True], path[at[1:]] != path[at[:-1]]])]
    y, x = np.divmod(pixel, cols)
    dy, dx = np.abs(np.diff(y)) > 0, np.abs(np.diff(x)) > 0
    inside = path[1:] == path[:-1]
    along = path[1:]
    kinds = {"across": dx & ~dy, "down": dy & ~dx, "diagonal": dx & dy}
    return {
        "first": pixel[head],
        "last": pixel[tail],
        "after": pixel[head + 1],
        "before": pixel[tail - 1],
        "first_squared": lines.squared[head],
        "last_squared": lines.squared[tail],
        "low": low,
        "below": pixel[np.maximum(at - 1, head)],
        "above": pixel[np.minimum(at + 1, tail)],
        "low_at": at - head,
        "low_squared": lines.squared[at],
        "size": size,
        "mass": np.add.reduceat(lines.squared, head),
        **{name: np.bincount(along[kind & inside], minlength=len(head)) for name, kind in kinds.items()},
    }


def window(plane: Plane, rect: Rect, grid: CellGrid, border: int = BORDER) -> tuple[Bools, Bools, Rect, bool]:
    """Read and thin a cell with a border that is wide enough; it is `border` at least.

    Returns
    -------
    mask, lines
        Pixels of the class in the window, and its centre lines; those of the cell are right, those around it need not.
    outer
        The window, within the raster.
    exact
        Whether the border is wide enough.
    """
    whole = Rect(0, 0, grid.rows, grid.cols)
    core = grown(rect, 1).intersection(whole)
    while True:
        outer = grown(rect, border).intersection(whole)
        mask = plane.read(outer) == 1
        if not mask[core.slices_in(outer)].any():
            return mask, np.zeros_like(mask), outer, True
        watched = grown(core, QUIET).intersection(outer).shifted(-outer.y0, -outer.x0)
        lines, steps = thin(mask, watched, exits(mask, outer, whole))
        # Whether an exit is in the middle cannot be seen where its road may go on beyond the border.
        if outer == whole or steps <= border - QUIET - WIDE // 2 - 2:
            return mask, lines, outer, True
        if border >= WIDEST:
            return mask, lines, outer, False
        border = min(max(2 * border, steps + QUIET + WIDE // 2 + 2), WIDEST)


def exits(mask: Bools, outer: Rect, whole: Rect) -> I64:
    """Return where roads leave the raster: the middles of the class's runs along its edge, corners included.

    Parameters
    ----------
    mask
        `(rows, cols)` of the window `outer`.
    outer, whole
        The window, and the raster.

    Returns
    -------
    array
        Indices into the flattened mask.
    """
    rows, cols = mask.shape
    number = np.arange(rows * cols).reshape(rows, cols)
    # Clockwise; where a side of the window is not the raster's, what goes on there is not known.
    sides = (
        (outer.y0 == whole.y0, number[0, :-1]),
        (outer.x1 == whole.x1, number[:-1, -1]),
        (outer.y1 == whole.y1, number[-1, :0:-1]),
        (outer.x0 == whole.x0, number[:0:-1, 0]),
    )
    if min(rows, cols) == 1:
        return np.empty(0, np.int64)
    unknown = np.array([-1])
    around_it = np.concatenate([side if there else unknown for there, side in sides])
    value = np.where(around_it >= 0, mask.ravel()[around_it], 2).astype(np.int8)
    start = int(np.argmax(value != 1))
    if value[start] == 1:
        return np.empty(0, np.int64)
    around_it, value = np.roll(around_it, -start), np.roll(value, -start)
    change = np.flatnonzero(np.diff((value == 1).astype(np.int8), prepend=0, append=0))
    first, last = change[::2], change[1::2]
    ends = (last - first <= WIDE) & (value[first - 1] == 0) & (value[last % len(value)] == 0)
    return np.unique(around_it[(first[ends] + last[ends] - 1) // 2])


def grown(rect: Rect, by: int) -> Rect:
    """Return a rectangle with a border around it."""
    return Rect(rect.y0 - by, rect.x0 - by, rect.y1 + by, rect.x1 + by)


def squared_distances(mask: Bools, at: I64, weights: tuple[int, int]) -> I64:
    """Return squared distances of pixels to the nearest one outside of `mask`, exact whole numbers.

    Parameters
    ----------
    mask
        `(rows, cols)`; what lies beyond is not known and does not count.
    at
        Pixels of the mask, as indices into the flattened array.
    weights
        Of rows and columns: the squared distance is `weights[0] * dy**2 + weights[1] * dx**2`.
    """
    rows, cols = mask.shape
    outside = ~mask
    edge = np.zeros_like(mask)
    edge[1:] |= mask[:-1]
    edge[:-1] |= mask[1:]
    edge[:, 1:] |= mask[:, :-1]
    edge[:, :-1] |= mask[:, 1:]
    edge &= outside
    around_y, around_x = np.nonzero(edge)
    if len(around_y) == 0 or len(at) == 0:
        return np.full(len(at), max(rows, cols) ** 2 * max(weights), dtype=np.int64)
    y, x = np.divmod(at, cols)
    scale = np.sqrt(np.array(weights, dtype=np.float64))
    tree = cKDTree(np.column_stack([around_y, around_x]) * scale, balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(np.column_stack([y, x]) * scale)
    squared: I64 = weights[0] * (around_y[nearest] - y) ** 2 + weights[1] * (around_x[nearest] - x) ** 2
    return squared


def room(mask: Bools, at: I64, weights: tuple[int, int], outer: Rect, whole: Rect) -> I64:
    """Return squared distances of pixels to what is not known: beyond the sides of a window that are not the raster's.

    They are larger than any in the raster where the window is all of it.

    Parameters
    ----------
    mask, at, weights
        As in `squared_distances`.
    outer, whole
        The window, and the raster.
    """
    rows, cols = mask.shape
    y, x = np.divmod(at, cols)
    found: I64 = np.full(len(at), np.iinfo(np.int64).max)
    for inside, weight, way in (
        (outer.y0 > whole.y0, weights[0], y + 1),
        (outer.y1 < whole.y1, weights[0], rows - y),
        (outer.x0 > whole.x0, weights[1], x + 1),
        (outer.x1 < whole.x1, weights[1], cols - x),
    ):
        if inside:
            found = np.minimum(found, weight * way**2)
    return found


@dataclass(frozen=True)
class Seen:
    """What is seen of a cell: `mask`, `outer` and `exact` as of `window`, and its centre lines.

    `skeleton` `(rows + 2, cols + 2)` are their pixels in the cell and one pixel around it, `squared` the squared
    distances of these in raster order.
    """

    mask: Bools
    outer: Rect
    exact: bool
    skeleton: Bools
    squared: I64


def seen(stage: Stage, rect: Rect) -> Seen:
    """Look at a cell with a border in which its centre lines are right, and how far it is from them to other pixels.

    A road along the raster's edge, or all over a narrow raster, ends much further off than thinning needs to know. The
    raster's edge is none of a road. What lies further off than the widest border counts as that far, and so does what
    there is none of, but in a raster that is smaller: so a distance is the same whatever the window.
    """
    grid, weights = stage.grid, stage.weights
    whole, around_it = Rect(0, 0, grid.rows, grid.cols), grown(rect, 1)
    most = WIDEST**2 * min(weights)
    border = BORDER
    while True:
        mask, thinned, outer, exact = window(stage.plane, rect, grid, border)
        inner = around_it.intersection(outer)
        skeleton = np.zeros(around_it.shape, dtype=np.bool_)
        skeleton[inner.slices_in(around_it)] = thinned[inner.slices_in(outer)]
        y, x = np.divmod(np.flatnonzero(skeleton), skeleton.shape[1])
        at = (y + around_it.y0 - outer.y0) * mask.shape[1] + x + around_it.x0 - outer.x0
        squared = squared_distances(mask, at, weights)
        if mask.all():
            squared[:] = max(grid.rows, grid.cols) ** 2 * max(weights)
        squared = np.minimum(squared, most)
        if not exact or border >= WIDEST or (squared <= room(mask, at, weights, outer, whole)).all():
            return Seen(mask, outer, exact, skeleton, squared)
        border = min(2 * border, WIDEST)


def thin_cell(task: tuple[Stage, int]) -> dict[str, int]:
    """Write the centre lines that a cell owns, unless they are there. Returns a receipt."""
    stage, index = task
    path = stage.path(index)
    if not path.exists():
        rect = stage.grid.rect(index)
        view, around_it = seen(stage, rect), grown(rect, 1)
        mask, outer = view.mask, view.outer
        pixels = np.flatnonzero(view.skeleton)
        stored = np.full(len(pixels), NODATA, dtype=np.uint8)
        if stage.probability is not None and len(pixels):
            stored = stage.probability.read(around_it, np.ones(around_it.shape, np.uint8)).ravel()[pixels]
        whole = Rect(0, 0, stage.grid.rows, stage.grid.cols)
        y, x = np.divmod(exits(mask, outer, whole), mask.shape[1])
        y, x = y + outer.y0, x + outer.x0
        leaving = (y * stage.grid.cols + x)[(y >= rect.y0) & (y < rect.y1) & (x >= rect.x0) & (x < rect.x1)]
        lines = owned_lines(view.skeleton, view.squared, stored, leaving, rect, stage.grid.cols)
        arrays = lines.arrays() | link_table(lines, stage.grid.cols)
        arrays |= {"exact": np.array([view.exact]), "exits": leaving}
        parts.save(path, arrays)
    arrays = parts.load(path, ["exact", "size"])
    return {"exact": int(arrays["exact"][0]), "pixels": int(arrays["size"].sum()), "bytes": path.stat().st_size}


@lru_cache(maxsize=1)
def _linked() -> U8:
    """Return for each code of neighbours that of the neighbours that are linked.

    All 8 neighbours are linked, but diagonal ones not where a pixel beside both leads there in two straight steps.
    """
    table = np.zeros(256, dtype=np.uint8)
    for code in range(256):
        there = [(code >> (7 - i)) & 1 > 0 for i in range(8)]
        for i in range(8):
            if there[i] and (i % 2 == 0 or not (there[i - 1] or there[(i + 1) % 8])):
                table[code] |= 1 << (7 - i)
    return table


def owned_lines(skeleton: Bools, squared: I64, stored: U8, stops: I64, rect: Rect, raster_cols: int) -> Lines:
    """Return the paths of a cell: chains of the links whose earlier pixel, in raster order, is in the cell.

    Parameters
    ----------
    skeleton
        `(rows + 2, cols + 2)`: the cell and one pixel around it.
    squared, stored
        Of the skeleton's pixels in raster order.
    stops
        Pixels at which paths end in any case.
    rect
        The cell.
    raster_cols
        Width of the raster.
    """
    rows, width = skeleton.shape
    # One more row and column on each side, so that every pixel has neighbours.
    padded = np.zeros((rows + 2, width + 2), dtype=np.uint8)
    padded[1:-1, 1:-1] = skeleton
    flat = padded.ravel()
    pixels = np.flatnonzero(flat)
    steps = around(width + 2)
    bits = np.unpackbits(_linked()[codes(flat, pixels, steps)][:, None], axis=1).astype(np.bool_)
    y, x = np.divmod(pixels, width + 2)
    inside = (y > 1) & (y < rows) & (x > 1) & (x < width)
    degree = bits.sum(axis=1)
    number = np.empty(flat.size, dtype=np.int32)
    number[pixels] = np.arange(len(pixels), dtype=np.int32)
    starts, ends = [], []
    for i, (dy, dx) in enumerate(AROUND):
        if (dy, dx) > (0, 0):  # to a later pixel
            start = np.flatnonzero(inside & bits[:, i])
            starts.append(start)
            ends.append(number[pixels[start] + steps[i]].astype(np.int64))
    start, end = np.concatenate(starts), np.concatenate(ends)
    own = np.bincount(np.concatenate([start, end]), minlength=len(pixels))
    # A path goes through a pixel that has two links, both of which this cell owns.
    ids = (y - 2 + rect.y0) * raster_cols + x - 2 + rect.x0
    passing = inside & (degree == 2) & (own == 2) & ~np.isin(ids, stops)
    nodes, offsets = _contracted(start, end, passing, ids)
    return Lines(ids[nodes], squared[nodes], stored[nodes], offsets)


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
    nodes: Any = np.insert(tail[order], offsets[1:], head[order[offsets[1:] - 1]])
    return nodes, offsets + np.arange(len(offsets))
