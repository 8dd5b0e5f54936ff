"""Where the corners of the mask's borders are: in one cell, and over all cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from geounet.vector import parts
from geounet.vector.cells import CellGrid
from geounet.vector.trace import I64, Bools

BOX = 24
"""Half the side of the box around a corner, in `FINE` parts of a pixel. A corner's vertex stays well inside of it."""

SHIFT = 22
"""Farthest a vertex moves in either axis, in `FINE` parts of a pixel."""

FINE = 64
"""Parts of a pixel: coordinates of finished borders are multiples of its inverse, hence exact."""

ROWS = 250_000
"""Rows of pixel corners looked at in one go."""


class Corners(Protocol):
    """Answers where vertices of the mask's borders are; points are pixel corners `x, y`."""

    def occupied(self, x: I64, y: I64) -> Bools:
        """Whether points are vertices of borders."""
        ...

    def only(self, box: tuple[I64, I64, I64, I64], count: I64) -> Bools:
        """Whether closed rectangles `x0, y0, x1, y1` hold just `count` vertices; False if that is not cheap to tell."""
        ...


@dataclass(frozen=True)
class CellCorners:
    """Corners of one cell.

    `bent` `(rows + 1, cols + 1)` tells the vertices between and around the cell's pixels, the first one at `(x0, y0)`.
    """

    bent: Bools
    x0: int
    y0: int

    @cached_property
    def _sums(self) -> npt.NDArray[np.int32]:
        rows, cols = self.bent.shape
        sums = np.zeros((rows + 1, cols + 1), dtype=np.int32)
        np.cumsum(self.bent, axis=0, dtype=np.int32, out=sums[1:, 1:])
        np.cumsum(sums, axis=1, out=sums)
        return sums

    def occupied(self, x: I64, y: I64) -> Bools:
        """Whether points are vertices of borders."""
        found: Bools = self.bent[y - self.y0, x - self.x0]
        return found

    def only(self, box: tuple[I64, I64, I64, I64], count: I64) -> Bools:
        """Whether closed rectangles hold just `count` vertices."""
        left, top, right, low = box[0] - self.x0, box[1] - self.y0, box[2] - self.x0 + 1, box[3] - self.y0 + 1
        sums = self._sums
        found = sums[low, right] - sums[top, right] - sums[low, left] + sums[top, left]
        return np.asarray(found == count)


@dataclass(frozen=True)
class AllCorners:
    """Corners of all cells, from their parts, a few of them in memory. `path` names the part of a cell."""

    grid: CellGrid
    path: Callable[[int], Path]

    def occupied(self, x: I64, y: I64) -> Bools:
        """Whether points are vertices of borders."""
        grid = self.grid
        down, across = grid.shape
        cells = np.minimum(y // grid.cell, down - 1) * across + np.minimum(x // grid.cell, across - 1)
        found = np.zeros(len(x), dtype=np.bool_)
        order = np.argsort(cells, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
            if len(group):
                cell = int(cells[group[0]])
                rect = grid.rect(cell)
                found[group] = unpacked(self.path(cell))[y[group] - rect.y0, x[group] - rect.x0]
        return found

    def only(self, box: tuple[I64, I64, I64, I64], count: I64) -> Bools:
        """Not cheap to tell."""
        return np.zeros(len(count), dtype=np.bool_)


def packed(bent: Bools) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a part that hold corners."""
    return {"corners": np.packbits(bent), "corners_shape": np.array(bent.shape)}


@lru_cache(maxsize=16)
def unpacked(path: Path) -> Bools:
    """Return the corners of a part."""
    arrays = parts.load(path, ["corners", "corners_shape"])
    rows, cols = (int(n) for n in arrays["corners_shape"])
    bent: Bools = np.unpackbits(arrays["corners"], count=rows * cols).astype(np.bool_).reshape(rows, cols)
    return bent


def ragged(low: I64, high: I64) -> tuple[I64, I64]:
    """Return `(owner, value)` of all integers in `low[i] <= value < high[i]`."""
    sizes = np.maximum(high - low, 0)
    owner = np.repeat(np.arange(len(low)), sizes)
    starts = np.cumsum(sizes) - sizes
    return owner, np.arange(len(owner)) - np.repeat(starts - low, sizes)


Points = tuple[I64, I64, I64, I64, I64, I64]
"""`ax, ay, bx, by, cx, cy` of closed triangles, in `FINE` parts of a pixel; they may be flat."""


def free(points: Points, own: tuple[I64, I64], xy: tuple[I64, I64], corners: Corners, reach: int = 0) -> Bools:
    """Whether boxes of corners other than their own keep away from triangles.

    Parameters
    ----------
    points
        Triangles.
    own
        `(owner, vertex)`: indices of vertices that belong to each triangle, sorted by owner. Pixels' corners that a
        triangle is made of, or made from, are among them.
    xy
        Pixel coordinates of all vertices.
    corners
        The mask's corners.
    reach
        What is swept lies within this distance of the triangles in both axes, in `FINE` parts of a pixel.
    """
    if len(points[0]) == 0:
        return np.zeros(0, dtype=np.bool_)
    owner, vertex = own
    first = np.searchsorted(owner, np.arange(len(points[0])))
    count = np.diff(np.append(first, len(owner)))
    x, y = xy[0][vertex], xy[1][vertex]
    # Most often there is nothing else in the rectangle around its own corners.
    x0, y0 = np.minimum.reduceat(x, first), np.minimum.reduceat(y, first)
    x1, y1 = np.maximum.reduceat(x, first), np.maximum.reduceat(y, first)
    found = corners.only((x0, y0, x1, y1), count)
    look = np.flatnonzero(~found)
    number, mine = np.cumsum(~found) - 1, ~found[owner]
    some = points_at(points, look)
    found[look] = ~_crowded(some, number[owner[mine]], x[mine], y[mine], corners, BOX + reach)
    return found


def points_at(points: Points, which: I64) -> Points:
    """Return some triangles."""
    ax, ay, bx, by, cx, cy = (p[which] for p in points)
    return ax, ay, bx, by, cx, cy


def _crowded(points: Points, owner: I64, x: I64, y: I64, corners: Corners, box: int) -> Bools:
    """Whether more corners' boxes touch triangles than those of their own corners `x, y`."""
    count = len(points[0])
    mine = np.bincount(owner[_touched(points, owner, FINE * x, FINE * y, box)], minlength=count)
    found = np.zeros(count, dtype=np.int64)
    high = np.maximum(np.maximum(points[1], points[3]), points[5])
    low = np.minimum(np.minimum(points[1], points[3]), points[5])
    first, last = -((box - low) // FINE), (high + box) // FINE
    rows = np.cumsum(last - first + 1)
    for chunk in np.split(np.arange(count), np.flatnonzero(np.diff(rows // ROWS)) + 1):
        some = points_at(points, chunk)
        row, py = ragged(first[chunk], last[chunk] + 1)
        left, right = _span(points_at(some, row), FINE * py, box)
        which, px = ragged(-((box - left) // FINE), (right + box) // FINE + 1)
        py, which = py[which], row[which]
        inside = _touched(some, which, FINE * px, FINE * py, box)
        px, py, which = px[inside], py[inside], which[inside]
        found[chunk] = np.bincount(which[corners.occupied(px, py)], minlength=len(chunk))
    return np.asarray(found != mine)


def _touched(points: Points, which: I64, x: I64, y: I64, box: int) -> Bools:
    """Whether boxes around `x, y` touch triangles: the points lie in the triangle widened by the box."""
    ax, ay, bx, by, cx, cy = points_at(points, which)
    turn = np.sign((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))
    touched = np.ones(len(which), dtype=np.bool_)
    flat = turn == 0
    for px, py, qx, qy in ((ax, ay, bx, by), (bx, by, cx, cy), (cx, cy, ax, ay)):
        side = (qx - px) * (y - py) - (qy - py) * (x - px)
        wide = box * (np.abs(qx - px) + np.abs(qy - py))
        touched &= np.where(flat, np.abs(side), -side * turn) <= wide
    # The sides of the box itself, against a triangle's outermost corners.
    for p, q, r, at in ((ax, bx, cx, x), (ay, by, cy, y)):
        touched &= (at >= np.minimum(np.minimum(p, q), r) - box) & (at <= np.maximum(np.maximum(p, q), r) + box)
    return touched


def _span(points: Points, y: I64, box: int) -> tuple[I64, I64]:
    """Return least and greatest x of triangles in the rows `y - box` to `y + box`, rounded outwards."""
    ax, ay, bx, by, cx, cy = points
    left, right = np.full(len(y), np.iinfo(np.int64).max // 4), np.full(len(y), np.iinfo(np.int64).min // 4)
    for px, py, qx, qy in ((ax, ay, bx, by), (bx, by, cx, cy), (cx, cy, ax, ay)):
        down = py <= qy
        x0, y0, x1, y1 = (np.where(down, p, q) for p, q in ((px, qx), (py, qy), (qx, px), (qy, py)))
        met = (y1 >= y - box) & (y0 <= y + box)
        rise = np.maximum(y1 - y0, 1)
        for edge in (np.maximum(y - box, y0), np.minimum(y + box, y1)):
            at = x0 + (x1 - x0) * (edge - y0) // rise
            level = y1 == y0
            for ends in (at, np.where(level, x1, at)):
                left = np.where(met, np.minimum(left, ends - 1), left)
                right = np.where(met, np.maximum(right, ends + 1), right)
    return left, right
