"""What is too short to be a road: spurs of the thinning, dead ends, loose pieces.

A dead end counts by how far it sticks out of the road it leaves: its length, less the half-width where it begins, plus
the half-width where it ends. So a corner of a wide road is no road, whatever the length of the line that thinning draws
into it. In each round every junction loses the shortest of what is too short; then lines are measured anew through
junctions that are none any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geounet.vector.attributes import F64
from geounet.vector.components import unite
from geounet.vector.network import Graph
from geounet.vector.trace import I64, Bools


@dataclass(frozen=True)
class Metric:
    """Size of a pixel along rows and columns, and of one unit of distance, in metres (or pixels); see `Stage.unit`."""

    step: tuple[float, float]
    unit: float

    @property
    def pixel(self) -> float:
        """Size of a pixel: geometric mean of both axes."""
        return float(np.sqrt(self.step[0] * self.step[1]))

    @property
    def scale(self) -> tuple[float, float]:
        """Factors that make pixels equally long along both axes."""
        return self.step[0] / self.pixel, self.step[1] / self.pixel

    def radius(self, squared: I64) -> F64:
        """Return distances from their squares: half-widths, up to half a pixel."""
        found: F64 = np.sqrt(squared / self.unit) * self.pixel
        return found


EXIT = 0.5
"""A line to the middle of where a road leaves the raster stays if it is longer than this part of the half-width."""

CORNER = 6.0
"""A line to another place at the raster's edge goes if it is shorter than so many half-widths."""


def lasting(
    graph: Graph, metric: Metric, shortest: float, widths: float, exits: I64, shape: tuple[int, int], *, loose: bool
) -> Bools:
    """Return which edges stay.

    Parameters
    ----------
    graph
        The network; bridges in it are edges like others here.
    metric
        The unit of `shortest`.
    shortest
        Dead ends that stick out less go, and loose pieces below it.
    widths
        Dead ends that stick out less than so many widths of the road they leave go; loose pieces below twice that.
    exits
        Pixels at which roads leave the raster: those are no dead ends, but lines beside them are.
    shape
        Rows and columns of the raster.
    loose
        Whether loose pieces are looked at.
    """
    alive = np.ones(len(graph), dtype=np.bool_)
    length, radius = graph.lengths(metric.step), metric.radius(graph.squared)
    leaves, corner = np.isin(graph.pixel, exits), _beside_edge(graph, shape) & ~np.isin(graph.pixel, exits)
    while True:
        edges = np.flatnonzero(alive)
        degree = np.bincount(np.concatenate([graph.start[edges], graph.end[edges]]), minlength=len(graph.pixel))
        order, offsets, _ = graph.through(edges, (degree == 2) & ~leaves)
        if not len(order):
            return alive
        turned, edge = order >= len(graph), order % len(graph)
        head, tail = offsets[:-1], offsets[1:] - 1
        start = np.where(turned, graph.end[edge], graph.start[edge])[head]
        end = np.where(turned, graph.start[edge], graph.end[edge])[tail]
        whole = np.add.reduceat(length[edge], head)
        tip, junction = np.where(degree[start] == 1, start, end), np.where(degree[start] == 1, end, start)
        visible = whole - radius[junction] + radius[tip]
        limit = np.maximum(shortest, 2 * widths * radius[junction])
        past = radius[tip] - radius[junction]  # limits on the length itself
        limit = np.where(leaves[tip], EXIT * radius[junction] + past, limit)
        limit = np.where(corner[tip], np.maximum(limit, CORNER * radius[junction] + past), limit)
        beside = (degree[junction] >= 3) | (leaves[junction] & (degree[junction] == 2) & corner[tip])
        short = np.flatnonzero((degree[tip] == 1) & beside & (visible < limit))
        if not len(short):
            return alive & ~_loose(graph, alive, metric, shortest, widths) if loose else alive
        low = np.minimum.reduceat(graph.low[edge], head)
        other = np.minimum.reduceat(edge, head)
        short = short[np.lexsort((other[short], low[short], visible[short], junction[short]))]
        gone = np.zeros(len(head), dtype=np.bool_)
        gone[short[np.diff(junction[short], prepend=-1) != 0]] = True
        alive[edge[np.repeat(gone, np.diff(offsets))]] = False


def _beside_edge(graph: Graph, shape: tuple[int, int]) -> Bools:
    """Return which nodes lie at the raster's edge, to a pixel and a half."""
    near: Bools = np.minimum(np.minimum(graph.x, shape[1] - graph.x), np.minimum(graph.y, shape[0] - graph.y)) <= 2
    return near


def _loose(graph: Graph, alive: Bools, metric: Metric, shortest: float, widths: float) -> Bools:
    """Return the edges of pieces that are too short, by themselves or for their width."""
    edges = np.flatnonzero(alive)
    piece = unite(len(graph.pixel), graph.start[edges], graph.end[edges])[graph.start[edges]]
    count = int(piece.max(initial=-1)) + 1
    length = np.bincount(piece, weights=graph.lengths(metric.step)[edges], minlength=count)
    # Sums of whole numbers below 2**53 are exact in float64.
    mass = np.bincount(piece, weights=graph.mass[edges], minlength=count)
    size = np.bincount(piece, weights=graph.size[edges], minlength=count)
    width = 2 * np.sqrt(mass / np.maximum(size, 1) / metric.unit) * metric.pixel
    gone = np.zeros(len(graph), dtype=np.bool_)
    gone[edges] = (length < np.maximum(shortest, 2 * widths * width))[piece]
    return gone
