"""From raw outlines to regular ones: what is done in which order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geounet.vector.attributes import F64
from geounet.vector.features import to_shapely
from geounet.vector.outlines import ellipse
from geounet.vector.outlines.direction import dominant, harmonised
from geounet.vector.outlines.divide import FREE, Edges, Prices, divide, farthest, firmest
from geounet.vector.outlines.gate import Geometries, passes, simplified
from geounet.vector.outlines.lines import BENT, STEP, Scatter, axis, breaks, corners, pooled, refined, scatter
from geounet.vector.outlines.rings import Candidates, Rings, candidates
from geounet.vector.outlines.walls import (
    Sets,
    join_walls,
    ring_neighbours,
    set_directions,
    shared_sides,
    touching,
    with_corners,
)
from geounet.vector.polygons import gather
from geounet.vector.trace import I64, Bools

STATUS = ("regular", "oblique", "round", "simplified", "raw", "trimmed")
"""Words for how an outline was made, by its number."""

REGULAR, OBLIQUE, ROUND, SIMPLIFIED, RAW, TRIMMED = range(len(STATUS))

PRICE = 6.0
"""Price of an edge in squares of the tolerance: a bay two tolerances deep stays if it is about as wide as deep."""

FINER = 0.25
"""Outlines that do not pass the gate are tried again with edges at this part of the price."""

SMALLEST = 12.0
"""Raw outlines of fewer square pixels have no straight walls to speak of."""

REACH = 3.0
"""Largest distance between an outline and the raw one, in tolerances."""


def prices(tolerance: float, part: float = 1.0) -> Prices:
    """Return what edges cost for a tolerance in pixels: one that is diagonal twice, one that is free three times."""
    edge = PRICE * tolerance * tolerance * part
    return Prices(edge, edge, 2 * edge, edge)


@dataclass(frozen=True)
class Outlines:
    """Outlines of buildings in even pixels, `(n,)` each.

    `best` and `simple` are what to draw and what is next best, `raw` the raw ones; `status` are the numbers of `STATUS`
    of `best`, `plain` those of `simple`. `angle` is the direction of straight walls in radians, from x to y, modulo 90
    degrees; NaN where there is none.
    """

    best: Geometries
    simple: Geometries
    raw: Geometries
    status: npt.NDArray[np.int8]
    plain: npt.NDArray[np.int8]
    angle: F64


def regularised(
    coords: npt.NDArray[Any], rings: I64, shells: I64, group: I64, scale: F64, tolerance: float
) -> Outlines:
    """Regularise raw outlines.

    Parameters
    ----------
    coords, rings, shells
        Polygons in pixels with integer vertices, as in `vector.polygons.Polygons`.
    group
        `(polygons,)` number of the group of touching polygons that each belongs to; sorted.
    scale
        `(polygons, 2)` length of a pixel along x and y, the same within a group; about 1.
    tolerance
        Pixels; above 0.
    """
    count = len(shells) - 1
    unit = np.repeat(np.arange(count), np.diff(shells))
    vertex_unit = np.repeat(unit, np.diff(rings))
    raw = to_shapely(coords * scale[vertex_unit], rings, shells)
    simple, changed = simplified(raw, tolerance)
    plain = np.where(changed, SIMPLIFIED, RAW).astype(np.int8)
    best, status, angle = simple.copy(), plain.copy(), np.full(count, np.nan)
    points = Rings.along(coords, rings, scale[unit])
    found = candidates(points)
    todo = np.flatnonzero(shapely.area(raw) >= SMALLEST)
    # With the walls that a building shares, then for itself, then with more corners.
    alone = np.arange(count)
    for held, part in ((group, 1.0), (alone, 1.0), (alone, FINER)):
        if len(todo) == 0:
            break
        made, kind, direction = _regular(points, found, unit, shells, held, todo, prices(tolerance, part))
        good = passes(raw[todo], made, REACH * tolerance)
        chosen = todo[good]
        best[chosen], status[chosen], angle[chosen] = made[good], kind[good], direction[good]
        todo = todo[~good]
    return Outlines(best, simple, raw, status, plain, angle)


def _regular(
    points: Rings, found: Candidates, unit: I64, shells: I64, group: I64, units: I64, price: Prices
) -> tuple[Geometries, npt.NDArray[np.int8], F64]:
    """Return outlines of some units (None where there is none), how they are, and their directions."""
    count = len(shells) - 1
    which = gather(shells, units)[0]
    first = divide(points, found, farthest(found), None, price, which)
    own = scatter(points, first)
    offsets = np.searchsorted(unit[first.ring], np.arange(count + 1)).astype(np.int64)
    angle = dominant(axis(own), own.count, offsets)
    together = np.bincount(group, minlength=int(group.max()) + 1)[group] > 1 if count else np.empty(0, np.bool_)
    sides = shared_sides(points, which[together[unit[which]]])
    weight = np.asarray(np.bincount(unit, points.sizes, count), dtype=np.float64)
    angle, cluster = harmonised(angle, weight, touching(points, unit, sides))
    edges = divide(points, found, firmest(found, first), angle[unit], price, which)
    edges = _closed(edges, points)
    own = scatter(points, edges)
    angle = refined(own, edges, angle, cluster[unit[edges.ring]], count)[cluster]
    corner, ring, oblique = _drawn(points, edges, own, angle[unit], sides)

    made = np.full(count, None, dtype=object)
    bounds = np.searchsorted(ring, np.arange(len(points) + 1)).astype(np.int64)
    whole = np.ones(count, dtype=np.bool_)
    whole[unit[np.diff(bounds) < 3]] = False
    whole = whole[units]
    chosen_rings, chosen_shells = gather(shells, units[whole])
    vertices, chosen_bounds = gather(bounds, chosen_rings)
    made[units[whole]] = to_shapely(corner[vertices], chosen_bounds, chosen_shells)
    kind = np.full(count, REGULAR, dtype=np.int8)
    kind[unit[edges.ring[oblique]]] = OBLIQUE
    _round(
        points, edges.cost, units[~together[units] & (np.diff(shells)[units] == 1)], shells, price, made, kind, angle
    )
    return made[units], kind[units], angle[units]


def _closed(edges: Edges, points: Rings) -> Edges:
    """Join the last edge of a ring with the first where both go the same way."""
    before, _ = ring_neighbours(edges.ring)
    begins = np.ones(len(edges.ring), dtype=np.bool_)
    begins[1:] = edges.ring[1:] != edges.ring[:-1]
    same = begins & (edges.label == edges.label[before]) & (edges.label != FREE) & (before != np.arange(len(before)))
    if not same.any():
        return edges
    end = edges.end.copy()
    end[before[same]] += edges.end[same] - edges.start[same]
    keep = ~same
    return replace(edges, ring=edges.ring[keep], start=edges.start[keep], end=end[keep], label=edges.label[keep])


def _drawn(points: Rings, edges: Edges, own: Scatter, angle: F64, sides: tuple[I64, I64]) -> tuple[F64, I64, Bools]:
    """Return corners, the ring of each, and which edges do not follow their building's direction."""
    follows = edges.label != FREE
    direction = np.where(follows, angle[edges.ring] + edges.label * (np.pi / 4), axis(own))
    near = breaks(points, edges)
    _, after = ring_neighbours(edges.ring)
    ahead = near[after] - near
    direction = np.where(
        np.cos(direction) * ahead[:, 0] + np.sin(direction) * ahead[:, 1] < 0, direction + np.pi, direction
    )
    sets = Sets(own, direction)
    join_walls(sets, points, edges, direction, sides, near)
    keep = np.arange(len(edges.ring))
    for _ in range(ROUNDS):
        member = sets.members()
        whole = pooled(own, member)
        line = set_directions(member, direction, follows, own, whole)
        mean = whole.mean[member]
        before, after = ring_neighbours(edges.ring[keep])
        # An edge that goes on along the line of the one before is part of it.
        along = (member[keep] == member[keep][before]) & (before != np.arange(len(before)))
        if along.any():
            keep = keep[~along]
            continue
        corner, met = corners(mean[keep], line[keep], before, near[keep])
        gone = _superfluous(corner, mean, line, direction, near, keep, edges.ring, sets)
        if not gone.any():
            break
        keep = keep[~gone]
    ring = edges.ring[keep]
    before, after = ring_neighbours(ring)
    corner, met = corners(mean[keep], line[keep], before, near[keep])
    corner = np.round(corner / STEP) * STEP
    oblique = np.zeros(len(edges.ring), dtype=np.bool_)
    oblique[keep] = ~met | (np.abs(np.sin(4 * (line[keep] - angle[ring]))) > 1e-6)
    ring, corner = with_corners(ring, corner, sets.members()[keep], line[keep])
    same = (corner == corner[ring_neighbours(ring)[0]]).all(axis=1)
    return corner[~same], ring[~same], oblique


def _superfluous(
    corner: F64, mean: F64, line: F64, direction: F64, near: F64, keep: I64, ring: I64, sets: Sets
) -> Bools:
    """Return which of the edges `keep` are too short, or the wrong way around, and are not missed if left out.

    Where the edges beside one are parallel they become one line, if they are near enough; else they meet nearby.
    """
    before, after = ring_neighbours(ring[keep])
    length = corner[after] - corner
    forward = length[:, 0] * np.cos(direction[keep]) + length[:, 1] * np.sin(direction[keep])
    gone = np.zeros(len(keep), dtype=np.bool_)
    for k in np.flatnonzero(forward < SHORTEST).tolist():
        a, b = int(before[k]), int(after[k])
        if a == b or gone[a] or gone[b]:
            continue
        one, other = int(keep[a]), int(keep[b])
        sine = np.sin(line[other] - line[one])
        if abs(sine) < BENT:
            gone[k] = sets.join(one, other, STEPS)
            continue
        gap = mean[other] - mean[one]
        t = (gap[0] * np.sin(line[other]) - gap[1] * np.cos(line[other])) / sine
        meets = mean[one] + t * np.array([np.cos(line[one]), np.sin(line[one])])
        middle = (near[keep[k]] + near[other]) / 2
        gone[k] = float((meets - middle) @ (meets - middle)) < STEPS**2
    return gone


ROUNDS = 6
"""Most rounds of leaving out edges."""

STEPS = 2.0
"""Walls so near each other become one where nothing is left of the step between them, px."""

SHORTEST = 0.75
"""Edges that come out shorter, px, or the wrong way around, are left out."""


def _round(
    points: Rings, cost: F64, units: I64, shells: I64, price: Prices,
    made: Geometries, kind: npt.NDArray[np.int8], angle: F64,
) -> None:  # fmt: skip
    """Replace outlines by ellipses where these explain the points for less."""
    which = shells[units]
    centre, axes, turn, residual = ellipse.ellipses(points, which)
    better = np.flatnonzero(residual + ellipse.EDGES * price.edge < cost[which])
    for k in better.tolist():
        origin = points.origins[which[k]] * points.scale[which[k]]
        corner = np.round((ellipse.drawn(centre[k] + origin, axes[k], float(turn[k]))) / STEP) * STEP
        size = np.array([0, len(corner)])
        made[units[k]] = to_shapely(corner, size, np.array([0, 1]))[0]
        kind[units[k]] = ROUND
        angle[units[k]] = turn[k] if axes[k, 0] > axes[k, 1] else 0.0
