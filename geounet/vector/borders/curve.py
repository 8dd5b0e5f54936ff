"""Corners of borders rounded: quadratic curves between points on both edges of a vertex.

With points at the middles of edges this is the quadratic B-spline that corner cutting (Chaikin 1974) ends in. Vertices
first move outwards by as much as the curve will cut off, so that areas stay as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geounet.vector.borders.arcs import Arcs
from geounet.vector.borders.corners import FINE, Corners, free, ragged
from geounet.vector.borders.moments import F64
from geounet.vector.borders.shift import Chosen
from geounet.vector.trace import I32, I64

FLAT = 0.125
"""Farthest a curve is from the edges it is drawn with, in pixels."""


def _share(x: F64, y: F64, radius: float) -> F64:
    """Return which part of edges `x, y` a curve takes: at most half, and at most `radius` pixels."""
    length = np.sqrt(x * x + y * y)
    share: F64 = np.minimum(0.5, radius / np.maximum(length, 1e-9))
    return share


def outwards(chosen: Chosen, moved: F64, radius: float) -> F64:
    """Return shifts `(n, 2)` in pixels that make up for what rounding by `radius` pixels cuts off."""
    x, y = chosen.x + moved[:, 0], chosen.y + moved[:, 1]
    a, c = chosen.before, chosen.after
    share = _share(x[a] - x, y[a] - y, radius) * _share(x[c] - x, y[c] - y, radius) / 3
    more = np.column_stack([x - (x[a] + x[c]) / 2, y - (y[a] + y[c]) / 2]) * share[:, None]
    more[chosen.fixed] = 0
    return np.asarray(moved + more)


def rounded(arcs: Arcs, chosen: Chosen, at: npt.NDArray[np.int64], radius: float, corners: Corners) -> tuple[I32, I64]:
    """Return borders with corners rounded where nothing is in the way.

    Parameters
    ----------
    arcs, chosen
        Borders of the mask, and which of their vertices stay.
    at
        Where those are `(n, 2)`, in `FINE` parts of a pixel.
    radius
        How far from a vertex the curve leaves its edges, in pixels.
    corners
        Where the mask's corners are.

    Returns
    -------
    coords
        Vertices `(m, 2)`, in `FINE` parts of a pixel.
    offsets
        Where each border starts, and the end.
    """
    x, y = at[:, 0].astype(np.float64), at[:, 1].astype(np.float64)
    which = np.flatnonzero(~chosen.fixed)
    ends = []
    for other in (chosen.before[which], chosen.after[which]):
        dx, dy = x[other] - x[which], y[other] - y[which]
        share = _share(dx / FINE, dy / FINE, radius)
        ends += [np.rint(x[which] + dx * share), np.rint(y[which] + dy * share)]
    ax, ay, cx, cy = ends
    bx, by = x[which], y[which]
    sag = np.sqrt((ax - 2 * bx + cx) ** 2 + (ay - 2 * by + cy) ** 2) / 4
    pieces = np.ceil(np.sqrt(sag / (FLAT * FINE))).astype(np.int64)
    bent = np.flatnonzero(pieces > 1)
    a_x, a_y, b_x, b_y, c_x, c_y = (e[bent].astype(np.int64) for e in (ax, ay, bx, by, cx, cy))
    around = chosen.between(chosen.before[which[bent]], chosen.after[which[bent]])
    bent = bent[free((a_x, a_y, b_x, b_y, c_x, c_y), around, (arcs.x, arcs.y), corners)]

    count = np.ones(len(at), dtype=np.int64)
    count[which[bent]] = pieces[bent] + 1
    offsets = np.concatenate([[0], np.cumsum(count)])
    coords = np.repeat(at, count, axis=0)
    owner, step = ragged(np.zeros(len(bent), np.int64), pieces[bent] + 1)
    some, t = bent[owner], step / pieces[bent][owner]
    for axis, (a, b, c) in enumerate(((ax, bx, cx), (ay, by, cy))):
        a, b, c = a[some], b[some], c[some]
        coords[offsets[which[some]] + step, axis] = np.rint((1 - t) * ((1 - t) * a + t * b) + t * ((1 - t) * b + t * c))
    starts = offsets[chosen.offsets]
    # Curves that take half an edge each meet in its middle.
    first = np.repeat(starts[:-1], np.diff(starts))
    before = np.arange(len(coords)) - 1
    before[starts[:-1]] = starts[1:] - 1
    twice = (coords == coords[before]).all(axis=1) & (before != np.arange(len(coords)))
    twice &= ~((first == np.arange(len(coords))) & ~np.repeat(chosen.closed, np.diff(starts)))
    kept = np.concatenate([[0], np.cumsum(~twice)])
    return coords[~twice].astype(np.int32), kept[starts]
