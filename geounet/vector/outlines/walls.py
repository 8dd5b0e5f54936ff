"""Walls between touching buildings: one line for both, and the corners of one on the edges of the other.

Edges of two outlines that run along the same pixel sides become a set with one line, and so do the edges that go on
straight where a wall ends: the fronts of a row of houses. All corners that come to lie on the edge of a neighbour
become vertices of it, so that touching buildings have no gap and no overlap between them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geounet.vector.attributes import F64
from geounet.vector.outlines.divide import Edges
from geounet.vector.outlines.lines import Scatter, axis
from geounet.vector.outlines.rings import Rings
from geounet.vector.polygons import gather
from geounet.vector.trace import I64, Bools

LEAST = 3
"""Pixel sides that a wall has at least."""

SHARE = 0.8
"""Share of the shorter of two edges that they run along together, to be a wall."""

CROSSING = 0.2
"""The same for edges that would cross each other."""

OFF = 1.25
"""Distance of two lines that may become one, px."""

TURN = np.radians(12)
"""Angle between two lines that may become one."""


def ring_neighbours(ring: I64) -> tuple[I64, I64]:
    """Return the index of the edge before and after each, around its ring; `ring` is sorted."""
    count = len(ring)
    after = np.arange(1, count + 1)
    if count:
        ends = np.append(np.flatnonzero(np.diff(ring)), count - 1)
        after[ends] = np.concatenate([[0], ends[:-1] + 1])
    before = np.empty(count, dtype=np.int64)
    before[after] = np.arange(count)
    return before, after


def shared_sides(rings: Rings, which: I64) -> tuple[I64, I64]:
    """Return pairs of points (of all rings) that are the same pixel side, in rings of `which`."""
    points, _ = gather(rings.offsets, which)
    if len(points) == 0:
        return points, points
    keys = rings.keys()[points]
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    return points[order[twice]], points[order[twice + 1]]


def touching(rings: Rings, unit: I64, sides: tuple[I64, I64]) -> tuple[I64, I64, F64]:
    """Return pairs of units that share pixel sides, and how many."""
    ring = np.repeat(np.arange(len(rings)), rings.sizes)
    return _counted(unit[ring[sides[0]]], unit[ring[sides[1]]])


def _counted(a: I64, b: I64) -> tuple[I64, I64, F64]:
    if len(a) == 0:
        return a, b, np.empty(0)
    low, high = np.minimum(a, b), np.maximum(a, b)
    span = int(high.max()) + 1
    keys, count = np.unique(low * span + high, return_counts=True)
    return keys // span, keys % span, count.astype(np.float64)


def edge_of_points(rings: Rings, edges: Edges) -> I64:
    """Return the edge of each point of the rings; -1 in rings without edges."""
    found = np.full(int(rings.offsets[-1]), -1, dtype=np.int64)
    length = edges.end - edges.start
    edge = np.repeat(np.arange(len(length)), length)
    along = np.arange(len(edge)) - np.repeat(np.cumsum(length) - length, length)
    ring = edges.ring[edge]
    found[rings.offsets[ring] + (edges.start[edge] + along) % rings.sizes[ring]] = edge
    return found


class Sets:
    """Edges that share a line, joined pair by pair; the line of a set fits the points of all its edges."""

    def __init__(self, points: Scatter, direction: F64) -> None:
        self.root = list(range(len(direction)))
        self._points = points
        self._state: dict[int, tuple[float, float, float, float]] = {}
        self._direction = direction

    def top(self, edge: int) -> int:
        """Return the edge that stands for an edge's set."""
        root = self.root
        while root[edge] != edge:
            root[edge] = root[root[edge]]
            edge = root[edge]
        return edge

    def _line(self, edge: int) -> tuple[float, float, float, float]:
        found = self._state.get(edge)
        if found is None:
            x, y = self._points.mean[edge]
            found = float(self._points.count[edge]), float(x), float(y), float(self._direction[edge])
        return found

    def join(self, a: int, b: int, off: float = OFF) -> bool:
        """Make two edges share a line if theirs are near each other; returns whether they do."""
        one, other = self.top(a), self.top(b)
        if one == other:
            return True
        (n, x, y, d), (n2, x2, y2, d2) = self._line(one), self._line(other)
        turn = (d2 - d + np.pi / 2) % np.pi - np.pi / 2
        if abs(turn) > TURN:
            return False
        mean = d + turn * n2 / (n + n2)
        if abs((x2 - x) * np.sin(mean) - (y2 - y) * np.cos(mean)) > off:
            return False
        keep, gone = min(one, other), max(one, other)
        self.root[gone] = keep
        share = n2 / (n + n2)
        self._state[keep] = (n + n2, x + (x2 - x) * share, y + (y2 - y) * share, mean)
        return True

    def clearance(self, a: int, b: int, near: F64, after: I64) -> float:
        """Return the least distance between the lines of two edges that face each other, negative where they cross.

        `near` `(edges, 2)` is where stretches begin, `after` the edge after each.
        """
        d = self._direction[a]
        along, outward = np.array([np.cos(d), np.sin(d)]), np.array([np.sin(d), -np.cos(d)])
        ends = [sorted(float(p @ along) for p in (near[k], near[after[k]])) for k in (a, b)]
        low, high = max(ends[0][0], ends[1][0]), min(ends[0][1], ends[1][1])
        if low >= high:
            return 0.0
        gap = self._points.mean[b] - self._points.mean[a]
        offset, place = float(gap @ outward), float(self._points.mean[b] @ along)
        # The other line falls away by this for each pixel along the first.
        slope = -np.tan(self._direction[b] - d)
        return float(min(offset + slope * (t - place) for t in (low, high)))

    def members(self) -> I64:
        """Return for each edge the edge that stands for its set."""
        return np.array([self.top(k) for k in range(len(self.root))], dtype=np.int64)


def join_walls(sets: Sets, rings: Rings, edges: Edges, direction: F64, sides: tuple[I64, I64], near: F64) -> None:
    """Join edges that share a line.

    Parameters
    ----------
    sets
        Of edges; changed in place.
    rings, edges
        Outlines and their edges.
    direction
        `(edges,)` in which each edge goes, radians.
    sides
        Pairs of points that are the same pixel side.
    near
        `(edges, 2)` where each edge's stretch begins.
    """
    if len(sides[0]) == 0:
        return
    edge = edge_of_points(rings, edges)
    one, other = edge[sides[0]], edge[sides[1]]
    known = (one >= 0) & (other >= 0)
    a, b, count = _counted(one[known], other[known])
    length = (edges.end - edges.start).astype(np.float64)
    share = count / np.minimum(length[a], length[b])
    before, after = ring_neighbours(edges.ring)
    walls: list[tuple[int, int]] = []
    for k in np.lexsort((b, a, -count)).tolist():
        if count[k] < LEAST or share[k] < CROSSING:
            continue
        one_edge, other_edge = int(a[k]), int(b[k])
        # Along a part of their length: one wall only if the two would cross.
        if share[k] < SHARE and sets.clearance(one_edge, other_edge, near, after) > 0:
            continue
        if sets.join(one_edge, other_edge):
            walls.append((one_edge, other_edge))
    for one_edge, other_edge in walls:
        # Where the wall ends in one outline it begins in the other.
        for first, second in ((one_edge, other_edge), (other_edge, one_edge)):
            ahead, behind = int(after[first]), int(before[second])
            gap = near[ahead] - near[second]
            if gap @ gap < 16 and np.cos(direction[ahead] - direction[behind]) > 0:
                sets.join(ahead, behind, OFF * 0.8)


def set_directions(sets: I64, direction: F64, follows: Bools, points: Scatter, whole: Scatter) -> F64:
    """Return the direction of each edge's set: of those edges that follow a building's direction, the longest's.

    Parameters
    ----------
    sets
        `(edges,)` the edge that stands for each edge's set.
    direction, follows
        Of each edge's own line, and whether it follows the direction of its building.
    points, whole
        Scatter of each edge, and of the set that it stands for.
    """
    rank = np.lexsort((np.arange(len(sets)), -points.count, ~follows, sets))
    first = np.ones(len(sets), dtype=np.bool_)
    first[1:] = sets[rank[1:]] != sets[rank[:-1]]
    leader = np.empty(len(sets), dtype=np.int64)
    leader[sets[rank[first]]] = rank[first]
    leader = leader[sets]
    found: NDArray[np.float64] = np.where(follows[leader], direction[leader], axis(whole)[sets])
    return found


def with_corners(ring: I64, corner: F64, sets: I64, direction: F64) -> tuple[I64, F64]:
    """Insert corners that lie on edges of the same set, so that touching outlines have the same vertices.

    Parameters
    ----------
    ring
        `(edges,)` sorted; edges of a ring in order.
    corner
        `(edges, 2)` where each edge begins.
    sets, direction
        Set of each edge, and the direction of its line.

    Returns
    -------
    ring, corner
        Of all vertices.
    """
    _, after = ring_neighbours(ring)
    order = np.argsort(sets, kind="stable")
    bounds = np.flatnonzero(np.diff(sets[order])) + 1
    at: list[int] = []
    place: list[F64] = []
    rank: list[float] = []
    for group in np.split(order, bounds):
        if len(group) < 2:
            continue
        along = np.array([np.cos(direction[group[0]]), np.sin(direction[group[0]])])
        ends = np.concatenate([corner[group], corner[after[group]]])
        ends = np.unique(ends, axis=0)
        t = ends[:, 0] * along[0] + ends[:, 1] * along[1]
        for edge in group.tolist():
            start, end = corner[edge], corner[after[edge]]
            t0, t1 = float(start @ along), float(end @ along)
            inside = np.flatnonzero((t > min(t0, t1)) & (t < max(t0, t1)))
            inside = inside[(ends[inside] != start).any(axis=1) & (ends[inside] != end).any(axis=1)]
            for k in inside:
                at.append(edge)
                place.append(ends[k])
                rank.append(abs(float(t[k]) - t0))
    if not at:
        return ring, corner
    edge = np.concatenate([np.arange(len(ring)), np.array(at)])
    order = np.lexsort((np.concatenate([np.full(len(ring), -1.0), np.array(rank)]), edge))
    return ring[edge[order]], np.concatenate([corner, np.array(place)])[order]
