"""Lines of edges, by least squares on the points of their stretches, and the corners where they meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geounet.vector.attributes import F64
from geounet.vector.outlines.divide import FREE, Edges
from geounet.vector.outlines.rings import Rings
from geounet.vector.trace import I64, Bools

TRIM = 2
"""Points left out at each end of a stretch, where corners are round; at most a fifth of it."""

BENT = np.sin(np.radians(8))
"""Lines that meet at a smaller angle have no corner at their intersection, which may be anywhere along them."""

FAR = 6.0
"""An intersection farther than this from where the stretches meet is no corner, px."""

STEP = 2.0**-10
"""Corners lie on a grid of this width, px."""


@dataclass(frozen=True)
class Scatter:
    """Points of stretches: `count`, `mean` `(n, 2)` in absolute even pixels, and scatter about it `xx, xy, yy`."""

    count: F64
    mean: F64
    xx: F64
    xy: F64
    yy: F64


def scatter(rings: Rings, edges: Edges, trim: int = TRIM) -> Scatter:
    """Return the scatter of the points of edges, without those near the ends."""
    short = np.minimum(trim, (edges.end - edges.start) // 5)
    n, x, y, xx, xy, yy = rings.sums(edges.ring, edges.start + short, edges.end - short).T
    origin = rings.origins[edges.ring] * rings.scale[edges.ring]
    mean = np.column_stack([x / n, y / n])
    return Scatter(n, mean + origin, xx - x * x / n, xy - x * y / n, yy - y * y / n)


def pooled(points: Scatter, member: I64) -> Scatter:
    """Return the scatter of unions of stretches, at the index that stands for each; `member` are these indices."""
    size = len(member)
    count = np.asarray(np.bincount(member, points.count, size), dtype=np.float64)
    safe = np.maximum(count, 1)
    mean = np.column_stack([np.bincount(member, points.count * points.mean[:, k], size) / safe for k in (0, 1)])
    dx, dy = (points.mean - mean[member]).T

    def total(own: F64, between: F64) -> F64:
        return np.asarray(np.bincount(member, own + points.count * between, size), dtype=np.float64)

    return Scatter(count, mean, total(points.xx, dx * dx), total(points.xy, dx * dy), total(points.yy, dy * dy))


def axis(points: Scatter) -> F64:
    """Return the direction of the line through points with the least squared distances, radians."""
    found: F64 = np.arctan2(2 * points.xy, points.xx - points.yy) / 2
    return found


def refined(points: Scatter, edges: Edges, angle: F64, owner: I64, owners: int) -> F64:
    """Return directions of owners, in radians, for which the edges that follow them fit best.

    Parameters
    ----------
    points
        Of the edges.
    edges
        Free ones do not count.
    angle
        `(owners,)` directions at which the edges were labelled.
    owner
        `(edges,)` whose direction each edge follows.
    """
    turn = -(angle[owner] + edges.label * (np.pi / 4))
    cos, sin = np.cos(turn), np.sin(turn)
    follows = edges.label != FREE
    # Scatter turned so that all edges lie along x.
    difference = (cos * cos - sin * sin) * (points.xx - points.yy) - 4 * cos * sin * points.xy
    product = cos * sin * (points.xx - points.yy) + (cos * cos - sin * sin) * points.xy
    across = np.bincount(owner[follows], 2 * product[follows], owners)
    along = np.bincount(owner[follows], difference[follows], owners)
    return angle + np.where(along > 0, np.arctan2(across, along) / 2, 0.0)


def breaks(rings: Rings, edges: Edges) -> F64:
    """Return where the stretch of each edge begins, `(n, 2)` in absolute even pixels."""
    base, size = rings.offsets[edges.ring], rings.sizes[edges.ring]
    here, before = rings.places[base + edges.start % size], rings.places[base + (edges.start - 1) % size]
    place: F64 = ((here + before) / 4.0 + rings.origins[edges.ring]) * rings.scale[edges.ring]
    return place


def corners(mean: F64, direction: F64, before: I64, near: F64) -> tuple[F64, Bools]:
    """Return the corner at the start of each edge, where its line meets that of the edge before.

    Parameters
    ----------
    mean, direction
        `(edges, 2)` a point of each edge's line, and `(edges,)` its direction in radians.
    before
        Index of the edge before.
    near
        `(edges, 2)` where the stretches meet.

    Returns
    -------
    corners
        `(edges, 2)`; where the lines hardly bend or meet far away, the middle between their nearest points to `near`.
    met
        Which are intersections.
    """
    ux, uy = np.cos(direction), np.sin(direction)
    vx, vy = ux[before], uy[before]
    sine = vx * uy - vy * ux
    meets = np.abs(sine) > BENT
    gap = mean - mean[before]
    with np.errstate(divide="ignore", invalid="ignore"):
        # mean_before + t v lies on the line of the edge.
        t = (gap[:, 0] * uy - gap[:, 1] * ux) / sine
        cross = mean[before] + t[:, None] * np.column_stack([vx, vy])
        meets &= ((cross - near) ** 2).sum(axis=1) <= FAR**2
    foot = _foot(near, mean, ux, uy)
    other = _foot(near, mean[before], vx, vy)
    return np.where(meets[:, None], cross, (foot + other) / 2), meets


def _foot(point: F64, mean: F64, ux: F64, uy: F64) -> F64:
    along = (point[:, 0] - mean[:, 0]) * ux + (point[:, 1] - mean[:, 1]) * uy
    return np.column_stack([mean[:, 0] + along * ux, mean[:, 1] + along * uy])
