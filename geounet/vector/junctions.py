"""Where roads meet: junctions that thinning pulled apart made one, and put where the roads really cross.

Thinning draws a crossing as two junctions, and pulls the line of a road towards every road that branches off. Both
happen within the largest disc around a junction that fits into the class, whose radius is known: junctions whose discs
overlap that much are one, and a road's course is taken from outside of the disc. As all of the disc is of the class,
straight lines within it do not leave the road.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from geounet.vector.attributes import F64
from geounet.vector.network import Graph
from geounet.vector.prune import Metric
from geounet.vector.trace import I64, Bools

STRAY = 0.5
"""A junction moves by at most this part of its disc's radius to where its roads cross."""

HOLD = 0.1
"""Weight of a junction's own place against that of one road's direction."""


def clustered(graph: Graph, metric: Metric, widths: float) -> Graph:
    """Return the graph with junctions made one that are linked by less than their width, the nearest first.

    The place of what is one is the mean of its junctions' places, which lies in the discs of all of them. Two junctions
    with several links stay two: there is something between.

    Parameters
    ----------
    graph
        The network.
    metric
        Sizes of pixels.
    widths
        Longest link, as a part of the sum of both discs' radii.
    """
    length, radius = graph.lengths(metric.step), metric.radius(graph.squared)
    x, y = graph.x * metric.step[0], graph.y * metric.step[1]
    junction = graph.degree >= 3
    near = length <= widths * (radius[graph.start] + radius[graph.end])
    open_ = near & junction[graph.start] & junction[graph.end] & (graph.start != graph.end) & (graph.bridge < 0)
    if not open_.any():
        return graph
    count = len(graph.pixel)
    group = np.arange(count)
    rank = np.empty(len(graph), dtype=np.int64)
    rank[np.lexsort((np.arange(len(graph)), length))] = np.arange(len(graph))
    inner = np.zeros(len(graph), dtype=np.bool_)
    while True:
        one, two = group[graph.start], group[graph.end]
        single = _single(one, two)
        edges = np.flatnonzero(open_ & single & ~inner)
        if not len(edges):
            break
        best = np.full(count, len(graph))
        np.minimum.at(best, one[edges], rank[edges])
        np.minimum.at(best, two[edges], rank[edges])
        edges = edges[(best[one[edges]] == rank[edges]) & (best[two[edges]] == rank[edges])]
        # No group is in two of these pairs.
        joined = np.arange(count)
        joined[np.maximum(one[edges], two[edges])] = np.minimum(one[edges], two[edges])
        trial = joined[group]
        members = np.maximum(np.bincount(trial, minlength=count), 1)
        cx, cy = (np.bincount(trial, weights=v, minlength=count) / members for v in (x, y))
        outside = np.hypot(x - cx[trial], y - cy[trial]) > radius
        bad = np.bincount(trial, weights=outside, minlength=count) > 0
        good = ~bad[trial[graph.start[edges]]]
        open_[edges[~good]] = False
        edges = edges[good]
        joined = np.arange(count)
        joined[np.maximum(one[edges], two[edges])] = np.minimum(one[edges], two[edges])
        group = joined[group]
        inner[edges] = True
    return _merged(graph.chosen(~inner), group)


def _single(one: I64, two: I64) -> Bools:
    """Return which links are the only ones between their groups."""
    key = np.minimum(one, two) * (int(max(one.max(), two.max())) + 1) + np.maximum(one, two)
    _, inverse, count = np.unique(key, return_inverse=True, return_counts=True)
    single: Bools = (count[inverse] == 1) & (one != two)
    return single


def _merged(graph: Graph, group: I64) -> Graph:
    """Return the graph with the nodes of groups made one; a group bears the number of one of its nodes."""
    count = len(group)
    members = np.maximum(np.bincount(group, minlength=count), 1)
    # In the order of the nodes, which does not depend on cells.
    x, y = (np.bincount(group, weights=v, minlength=count) / members for v in (graph.x, graph.y))
    pixel, squared = graph.pixel.copy(), graph.squared.copy()
    np.minimum.at(pixel, group, graph.pixel)
    np.maximum.at(squared, group, graph.squared)
    start, end = group[graph.start], group[graph.end]
    return replace(graph, pixel=pixel, x=x, y=y, squared=squared, start=start, end=end).canonical()


@dataclass(frozen=True)
class Arms:
    """Ends of roads at junctions: the node, where the road leaves the disc of its first pixel, in which direction.

    Coordinates and radii are in pixels of equal size along both axes; `disc` is the middle and the radius of the disc.
    """

    node: I64
    x: F64
    y: F64
    dx: F64
    dy: F64
    disc: F64


def crossings(count: int, x: F64, y: F64, arms: Arms) -> tuple[F64, F64]:
    """Return the places of nodes where the lines of their arms come nearest to each other.

    Least squares of the distances to the lines, held by `HOLD` at the place so far; within `STRAY` of the smallest disc
    of its arms, and within all of them.
    """
    nx, ny = -arms.dy, arms.dx
    along = nx * arms.x + ny * arms.y

    def total(values: F64) -> F64:
        return np.asarray(np.bincount(arms.node, weights=values, minlength=count), dtype=np.float64)

    hold = np.full(count, HOLD)
    a, b, c = total(nx * nx) + hold, total(nx * ny), total(ny * ny) + hold
    u, v = total(nx * along) + hold * x, total(ny * along) + hold * y
    det = a * c - b * b
    px, py = (c * u - b * v) / det, (a * v - b * u) / det
    least = np.full(count, np.inf)
    np.minimum.at(least, arms.node, arms.disc[:, 2])
    way = np.hypot(px - x, py - y)
    most = np.where(np.isfinite(least), least, 0) * STRAY
    share = np.minimum(1.0, np.divide(most, way, out=np.zeros(count), where=way > 0))
    for _ in range(4):
        tx, ty = x + share * (px - x), y + share * (py - y)
        outside = np.hypot(tx[arms.node] - arms.disc[:, 0], ty[arms.node] - arms.disc[:, 1]) > arms.disc[:, 2]
        bad = total(outside.astype(np.float64)) > 0
        if not bad.any():
            break
        share = np.where(bad, share / 2, share)
    share = np.where(bad, 0.0, share)
    return x + share * (px - x), y + share * (py - y)
