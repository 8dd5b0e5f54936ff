"""Dividing a ring into edges: few corners, small residuals, preferred directions. Exact for its cost.

The cost of an edge is the sum of squared distances of the points to their line (px² a point, i.e. about px³), plus a
price for the edge, which is higher for diagonals and for free directions. The best division over all sequences of
corners is found by dynamic programming, as polygons are in Selinger 2003 ("Potrace"), here with directions as states:
edges at right angles and at 45 degrees to the building's direction know where they go, and none may turn back.
Residuals of any stretch come from running moments (Perez & Vidal 1994), so nothing is fitted twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geounet.vector.attributes import F64
from geounet.vector.outlines.rings import Candidates, Rings
from geounet.vector.trace import I64

FREE = 8
"""Label of an edge in any direction; labels 0 to 7 are multiples of 45 degrees."""

ROOM = 500_000
"""Entries of the largest array."""

ALIKE = 32
"""Rings whose numbers of candidates differ by less are divided together: few of them cost more calls than work."""

BENT = np.sin(np.radians(12))
"""Free edges bend from those beside them at least so much (sine)."""

_ACROSS = np.array([(-np.sin(k * np.pi / 4), np.cos(k * np.pi / 4)) for k in range(8)]).T


@dataclass(frozen=True)
class Prices:
    """What edges cost, px³: each one; diagonal and free ones that much more; a corner under 90 degrees."""

    edge: float
    diagonal: float
    free: float
    sharp: float

    def turns(self) -> F64:
        """Return the price `(9, 9)` of going on with the second label after the first; infinite if not allowed."""
        price = np.zeros((9, 9))
        for a in range(8):
            for b in range(8):
                turn = (b - a) % 8
                price[a, b] = np.inf if turn in (0, 4) else self.sharp if turn in (3, 5) else 0.0
        return price


@dataclass(frozen=True)
class Edges:
    """Edges of rings in order; `start` and `end` are points of the ring, `end` up to one turn after `start`.

    `ring`, `start`, `end`, `label` `(n,)` int64; `cost` `(rings,)` of the whole division, infinite if there is none.
    """

    ring: I64
    start: I64
    end: I64
    label: I64
    cost: F64


def divide(rings: Rings, found: Candidates, first: I64, angle: F64 | None, prices: Prices, which: I64) -> Edges:
    """Divide rings into edges.

    Parameters
    ----------
    rings
        Points of the outlines.
    found
        Where corners may be.
    first
        `(rings,)` candidate of each ring (from 0) at which an edge begins; see `farthest` and `firmest`.
    angle
        `(rings,)` direction in radians; none: all edges are free, and free is not dearer.
    prices
        Of edges.
    which
        Rings to divide; those without candidates have no edges.
    """
    which = which[found.sizes[which] >= 3]
    parts: list[tuple[I64, I64, I64, I64]] = []
    cost = np.full(len(rings), np.inf)
    order = which[np.argsort(found.sizes[which], kind="stable")]
    at = 0
    while at < len(order):
        # Rings of about the same number of candidates go together; the results do not depend on the company.
        least = int(found.sizes[order[at]])
        width = least + 1 + max(least // 4, ALIKE)
        count = int(np.searchsorted(found.sizes[order[at:]], width, side="right"))
        count = min(count, max(1, ROOM // (width * (9 if angle is not None else 1))))
        some = order[at : at + count]
        *edges, total = _divide(rings, found, first[some], angle, prices, some)
        parts.append((edges[0], edges[1], edges[2], edges[3]))
        cost[some] = total
        at += count
    if not parts:
        empty = np.empty(0, dtype=np.int64)
        return Edges(empty, empty, empty, empty, cost)
    ring, start, end, label = (np.concatenate([p[k] for p in parts]) for k in range(4))
    by_ring = np.argsort(ring, kind="stable")
    return Edges(ring[by_ring], start[by_ring], end[by_ring], label[by_ring], cost)


def farthest(found: Candidates) -> I64:
    """Return for each ring the candidate farthest from their mean (0 without any): hardly ever within an edge.

    Of all points of a polygon the farthest from any place is a corner.
    """
    count = len(found.sizes)
    row = np.repeat(np.arange(count), found.sizes)
    total = np.maximum(found.sizes, 1)
    middle = np.column_stack([np.bincount(row, found.place[:, k], count) / total for k in (0, 1)])
    far = ((found.place - middle[row]) ** 2).sum(axis=1)
    return _first_most(far, row, found.offsets)


def firmest(found: Candidates, edges: Edges) -> I64:
    """Return for each ring the candidate of the clearest corner of a division: between long edges, and not flat."""
    count = len(found.sizes)
    position = found.offsets[edges.ring]
    # Edges begin at candidates; a point past the ring's end was brought back by `divide`.
    key = np.repeat(np.arange(count), found.sizes)
    at = np.searchsorted(key * (1 << 40) + found.point, edges.ring * (1 << 40) + edges.start)
    offsets = np.searchsorted(edges.ring, np.arange(count + 1))
    after = np.arange(1, len(at) + 1)
    full = np.diff(offsets) > 0
    after[offsets[1:][full] - 1] = offsets[:-1][full]
    before = np.empty_like(after)
    before[after] = np.arange(len(after))
    chord = found.place[at[after]] - found.place[at]
    sine = np.abs(chord[before, 0] * chord[:, 1] - chord[before, 1] * chord[:, 0])
    length = np.hypot(*chord.T)
    score = sine / np.maximum(np.maximum(length, length[before]), 1e-9)
    best = _first_most(score, edges.ring, offsets)
    chosen = np.zeros(count, dtype=np.int64)
    chosen[full] = (at - position)[offsets[:-1][full] + best[full]]
    return chosen


def _first_most(values: F64, row: I64, offsets: I64) -> I64:
    """Return the place, within each run of `row`, of the first of its largest values; 0 for an empty run."""
    count = len(offsets) - 1
    found = np.zeros(count, dtype=np.int64)
    order = np.lexsort((np.arange(len(values)), -values, row))
    full = np.diff(offsets) > 0
    found[full] = order[offsets[:-1][full]] - offsets[:-1][full]
    return found


def _unrolled(
    rings: Rings, found: Candidates, first: I64, angle: F64 | None, some: I64
) -> tuple[I64, I64, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return candidates from the first corner once around, padded, with running moments in the building's direction.

    Returns `points` and `counts`, moments `(6, rings, width)` and places `(2, rings, width)`.
    """
    counts = found.sizes[some]
    width = int(counts.max()) + 1
    column = np.minimum(np.arange(width)[None, :], counts[:, None])
    turn = first[:, None] + column
    wrapped = turn >= counts[:, None]
    index = found.offsets[some][:, None] + turn - np.where(wrapped, counts[:, None], 0)
    points = found.point[index] + np.where(wrapped, rings.sizes[some][:, None], 0)
    flat_ring = np.repeat(some, width)
    start = np.repeat(points[:, 0], width)
    sums = rings.sums(flat_ring, start, points.ravel())
    cos, sin = (np.ones(len(flat_ring)), np.zeros(len(flat_ring)))
    if angle is not None:
        cos, sin = np.cos(angle)[flat_ring], np.sin(angle)[flat_ring]
    n, x, y, xx, xy, yy = sums.T
    rotated = np.stack(
        [
            n,
            cos * x + sin * y,
            cos * y - sin * x,
            cos * cos * xx + 2 * cos * sin * xy + sin * sin * yy,
            cos * sin * (yy - xx) + (cos * cos - sin * sin) * xy,
            sin * sin * xx - 2 * cos * sin * xy + cos * cos * yy,
        ]
    ).reshape(6, len(some), width)
    u, v = found.place[index.ravel()].T
    places = np.stack([cos * u + sin * v, cos * v - sin * u]).reshape(2, len(some), width)
    return points, counts, rotated, places


def _divide(
    rings: Rings, found: Candidates, first: I64, angle: F64 | None, prices: Prices, some: I64
) -> tuple[I64, I64, I64, I64, F64]:
    points, counts, moments, places = _unrolled(rings, found, first, angle, some)
    count, width = points.shape
    states = 1 if angle is None else 9
    turns = np.zeros((1, 1)) if angle is None else prices.turns()
    best = np.full((count, width, states), np.inf)  # cost up to a corner, by the label of the edge that ends there
    entered = np.zeros((count, width, states))  # the same and the turn, by the label of the edge that begins there
    came = np.zeros((count, width, states), dtype=np.int16)
    before = np.zeros((count, width, states), dtype=np.int8)
    bent = np.zeros((count, width), dtype=np.int8)
    heading = np.zeros((2, count, width))  # of the best free edge that ends at a corner
    each = np.arange(count)
    labels = np.arange(states)
    for j in range(1, width):
        total = _costs(moments, places, j, prices, angle is not None)
        total += entered[:, :j]
        if angle is not None:
            chord = places[:, :, j, None] - places[:, :, :j]
            chord /= np.maximum(np.hypot(*chord), 1e-9)
            # Where a free edge goes is known only now that both of its ends are.
            onwards = _bends(best[:, :j], heading[:, :, :j], chord)
            least = onwards.min(axis=2)
            least[:, 0] = 0.0
            total[:, :, FREE] += least
        came[:, j] = total.argmin(axis=1)
        best[:, j] = total[each[:, None], came[:, j], labels]
        turned = best[:, j, :, None] + turns
        if angle is not None:
            began = came[:, j, FREE]
            heading[:, :, j] = chord[:, each, began]
            bent[:, j] = onwards[each, began].argmin(axis=1)
            along = np.abs(heading[:, :, j].T @ _ACROSS)
            turned[:, FREE, :FREE] += np.where(along < BENT, np.inf, 0.0)
        before[:, j] = turned.argmin(axis=1)
        entered[:, j] = turned.min(axis=1)
        if angle is not None:
            entered[:, j, FREE] = 0.0
    last = best[each, counts]
    cost = last.min(axis=1)
    alive = np.isfinite(cost)
    at, label = counts.copy(), last.argmin(axis=1).astype(np.int64)
    steps: list[tuple[I64, I64, I64, I64]] = []
    active = np.flatnonzero(alive)
    while len(active):
        here, kind = at[active], label[active]
        begin: I64 = came[active, here, kind].astype(np.int64)
        steps.append((active, points[active, begin], points[active, here], kind))
        label[active] = np.where(kind == FREE, bent[active, here], before[active, begin, kind]) if states > 1 else 0
        at[active] = begin
        active = active[begin > 0]
    if not steps:
        empty = np.empty(0, dtype=np.int64)
        return empty, empty, empty, empty, cost
    rank = np.concatenate([np.full(len(step[0]), -n) for n, step in enumerate(steps)])
    row, start, end, kind = (np.concatenate([step[n] for step in steps]) for n in range(4))
    order = np.lexsort((rank, row))
    kind = kind[order] if states > 1 else np.full(len(order), FREE, dtype=np.int64)
    ring, start, end = some[row[order]], start[order], end[order]
    past = np.where(start >= rings.sizes[ring], rings.sizes[ring], 0)
    return ring, start - past, end - past, kind, cost


def _costs(moments: F64, places: F64, j: int, prices: Prices, directed: bool) -> F64:
    """Return what edges from all candidates before `j` to it cost, `(rings, j, labels)`."""
    n, x, y, xx, xy, yy = moments[:, :, j, None] - moments[:, :, :j]
    weight = 1 / np.maximum(n, 1)
    xx, xy, yy = xx - x * x * weight, xy - x * y * weight, yy - y * y * weight
    half, mean = (xx - yy) / 2, (xx + yy) / 2
    free = np.maximum(mean - np.sqrt(half * half + xy * xy), 0)
    if not directed:
        return np.asarray(free[:, :, None] + prices.edge)
    du, dv = places[:, :, j, None] - places[:, :, :j]
    total = np.empty((*free.shape, 9))
    for label, residual, ahead in (
        (0, yy, du),
        (1, mean - xy, du + dv),
        (2, xx, dv),
        (3, mean + xy, dv - du),
    ):
        price = prices.edge + (prices.diagonal if label % 2 else 0.0)
        paid = np.maximum(residual, 0) + price
        total[:, :, label] = np.where(ahead > 0, paid, np.inf)
        total[:, :, label + 4] = np.where(ahead < 0, paid, np.inf)
    total[:, :, FREE] = free + (prices.edge + prices.free)
    return total


def _bends(best: F64, heading: F64, chord: F64) -> F64:
    """Return the cost of going on with a free edge along `chord`, by the label before, `(rings, corners, 9)`."""
    total = best.copy()
    for label in range(4):
        flat = np.abs(chord[0] * _ACROSS[0, label] + chord[1] * _ACROSS[1, label]) < BENT
        total[:, :, label][flat] = np.inf
        total[:, :, label + 4][flat] = np.inf
    total[:, :, FREE][np.abs(heading[0] * chord[1] - heading[1] * chord[0]) < BENT] = np.inf
    return total
