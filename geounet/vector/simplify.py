"""Simplification of shared borders that keeps a coverage a coverage, each border by itself.

Borders run between junctions (vertices where three or more meet), which stay. Vertices go in rounds, smallest triangle
with both neighbours first (Visvalingam & Whyatt 1993), as long as its area is below `tolerance ** 2`. A vertex may go
only if the closed triangle holds no vertex of the *original* borders but those this border has already lost between the
two neighbours. That makes borders independent: no edge can enter such a triangle without a vertex in it, so simplified
borders cross neither each other nor themselves, in whatever order they are done, and the polygons on both sides of a
border compute the same line. Nothing depends on direction, start, or other borders' results; hence not on cells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from geounet.vector.trace import I32, I64, Bools

REACH = 32
"""Longest extent in pixels of a triangle that goes; keeps the look at the surroundings local."""

CHUNK = 4_000_000
"""Points looked at in one go."""

Occupied = Callable[[I64, I64], Bools]
"""Whether points `x, y` (pixel corners) are vertices of any original border."""


def _ragged(low: I64, high: I64) -> tuple[I64, I64]:
    """Return `(owner, value)` of all integers in `low[i] <= value < high[i]`."""
    sizes = np.maximum(high - low, 0)
    owner = np.repeat(np.arange(len(low)), sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    return owner, np.arange(sizes.sum()) - np.repeat(starts - low, sizes)


def _within(px: I64, py: I64, corners: tuple[npt.NDArray[np.int64], ...]) -> Bools:
    """Whether points lie in closed triangles given as `ax, ay, bx, by, cx, cy`."""
    ax, ay, bx, by, cx, cy = corners
    d0 = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
    d1 = (cx - bx) * (py - by) - (cy - by) * (px - bx)
    d2 = (ax - cx) * (py - cy) - (ay - cy) * (px - cx)
    return ((d0 >= 0) & (d1 >= 0) & (d2 >= 0)) | ((d0 <= 0) & (d1 <= 0) & (d2 <= 0))


def _pins(x: I64, y: I64, junction: Bools, rings: I64) -> Bools:
    """Return what stays: junctions; in rings with less than two, also the first and last vertex in raster order."""
    pinned = junction.copy()
    few = np.add.reduceat(junction.astype(np.int64), rings[:-1]) < 2
    rank = y * (int(x.max()) + 1) + x
    sizes = np.diff(rings)
    for extreme in (np.minimum, np.maximum):
        found = np.repeat(extreme.reduceat(rank, rings[:-1]), sizes)
        pinned |= (rank == found) & np.repeat(few, sizes)
    return pinned


def simplify(coords: I32, junction: Bools, rings: I64, tolerance: float, occupied: Occupied) -> Bools:
    """Return which vertices of rings stay.

    Parameters
    ----------
    coords
        Vertices `(n, 2)`, `x, y` of pixel corners; ring `i` is `coords[rings[i]:rings[i + 1]]`, not closed.
    junction
        Which of them are junctions.
    rings
        Offsets.
    tolerance
        In pixels; triangles of area below its square go. 0 keeps everything.
    occupied
        Answers whether pixel corners are vertices of original borders.
    """
    count = len(coords)
    keep = np.ones(count, dtype=np.bool_)
    if tolerance <= 0 or count == 0:
        return keep
    x, y = coords[:, 0].astype(np.int64), coords[:, 1].astype(np.int64)
    pinned = _pins(x, y, junction, rings)
    limit = 2 * tolerance * tolerance
    after = np.arange(1, count + 1)
    after[rings[1:] - 1] = rings[:-1]
    before = np.empty(count, dtype=np.int64)
    before[after] = np.arange(count)
    size_of = np.repeat(np.diff(rings), np.diff(rings))
    start_of = np.repeat(rings[:-1], np.diff(rings))
    # A border is the vertices between two pins; its last one stays, so that no two borders collapse to one chord.
    border = np.cumsum(pinned)
    sizes = np.diff(rings)
    ahead_of_first = border == np.repeat(border[rings[:-1]] - pinned[rings[:-1]], sizes)
    border = np.where(ahead_of_first, np.repeat(border[rings[1:] - 1], sizes), border)
    inner = np.bincount(border[~pinned], minlength=int(border.max()) + 1)
    rank = y * (int(x.max()) + 1) + x

    area = np.full(count, np.inf)
    fresh = np.flatnonzero(~pinned)
    while True:
        a, c = before[fresh], after[fresh]
        double = np.abs((x[fresh] - x[a]) * (y[c] - y[a]) - (y[fresh] - y[a]) * (x[c] - x[a]))
        area[fresh] = np.where(double < limit, double, np.inf)
        check = fresh[(double < limit) & (double > 0)]
        blocked = check[_blocked(check, x, y, before, after, start_of, size_of, occupied)]
        area[blocked] = np.inf
        candidates = np.flatnonzero(np.isfinite(area))
        candidates = candidates[inner[border[candidates]] > 1]
        least = np.ones(len(candidates), dtype=np.bool_)
        for neighbour in (before[candidates], after[candidates]):
            mine, theirs = area[candidates], area[neighbour]
            least &= (mine < theirs) | ((mine == theirs) & (rank[candidates] < rank[neighbour]))
        going = candidates[least]
        if len(going) == 0:
            return keep
        keep[going] = False
        np.subtract.at(inner, border[going], 1)
        area[going] = np.inf
        a, c = before[going], after[going]
        after[a], before[c] = c, a
        fresh = np.unique(np.concatenate([a, c]))
        fresh = fresh[~pinned[fresh]]


def _blocked(at: I64, x: I64, y: I64, before: I64, after: I64, start: I64, size: I64, occupied: Occupied) -> Bools:
    """Whether other vertices of original borders lie in the triangles of vertices `at` with their neighbours."""
    a, c = before[at], after[at]
    low_x, high_x = np.minimum(np.minimum(x[a], x[at]), x[c]), np.maximum(np.maximum(x[a], x[at]), x[c])
    low_y, high_y = np.minimum(np.minimum(y[a], y[at]), y[c]), np.maximum(np.maximum(y[a], y[at]), y[c])
    blocked = (high_x - low_x > REACH) | (high_y - low_y > REACH)
    points = np.where(blocked, 0, (high_x - low_x + 1) * (high_y - low_y + 1))
    for chunk in np.split(np.arange(len(at)), np.flatnonzero(np.diff(np.cumsum(points) // CHUNK)) + 1):
        some = chunk[~blocked[chunk]]
        triangle = tuple(v for i in (a[some], at[some], c[some]) for v in (x[i], y[i]))
        row, py = _ragged(low_y[some], high_y[some] + 1)
        which, px = _ragged(low_x[some][row], high_x[some][row] + 1)
        owner, py = row[which], py[which]
        inside = _within(px, py, tuple(v[owner] for v in triangle))
        owner, px, py = owner[inside], px[inside], py[inside]
        found = np.bincount(owner, weights=occupied(px, py), minlength=len(some))
        # Its own: both neighbours, itself, and what has gone between them.
        first, length = a[some] - start[some_at := at[some]], (c[some] - a[some]) % size[some_at]
        owner, step = _ragged(np.ones_like(length), length)
        own = start[some_at][owner] + (first[owner] + step) % size[some_at][owner]
        mine = np.bincount(
            owner, weights=_within(x[own], y[own], tuple(v[owner] for v in triangle)), minlength=len(some)
        )
        blocked[some] = found != mine + 2
    return blocked
