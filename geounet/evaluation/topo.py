"""TOPO: whether the roads around a place are the same.

Biagioni & Eriksson 2012, "Inferring road maps from global positioning system traces", Transportation Research Record
2291. From places along the true roads, and the nearest places of the predicted ones, both graphs are walked in all
directions to a distance of 300 m, and every 5 m a point is dropped: holes on the true roads, marbles on the predicted
ones. A marble fills one hole within 5 m. Filled holes over all marbles is precision, over all holes recall; counts are
summed over all places. A place without predicted road nearby has holes only.

Marbles fill as many holes as they can (maximum bipartite matching), which does not depend on an order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from geounet.evaluation.confusion import F64, number, ratio
from geounet.evaluation.graph import Graph, distances, nearest, network, points_at, some

RADIUS_M = 300.0
INTERVAL_M = 5.0
HOLE_M = 5.0
SEEDS_M = 50.0
SEEDS = 500
"""Places from which roads are walked, at most, drawn the same way every time among those every 50 m."""


@dataclass(frozen=True)
class Topo:
    """Filled holes, marbles and holes over all places; of several scenes they add up."""

    filled: float = 0.0
    marbles: float = 0.0
    holes: float = 0.0

    def __add__(self, other: Topo) -> Topo:
        return Topo(self.filled + other.filled, self.marbles + other.marbles, self.holes + other.holes)

    @property
    def precision(self) -> float:
        """Share of marbles that fill a hole; NaN without marbles."""
        return float(ratio(self.filled, self.marbles))

    @property
    def recall(self) -> float:
        """Share of holes that are filled; NaN without holes."""
        return float(ratio(self.filled, self.holes))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN without marbles and holes."""
        return float(ratio(2 * self.filled, self.marbles + self.holes))

    def scores(self) -> dict[str, Any]:
        """Return the measures as JSON values."""
        return {
            "topo_f1": number(self.f1),
            "topo_precision": number(self.precision),
            "topo_recall": number(self.recall),
        }


def topo(truth: Graph, found: Graph, *, radius: float = RADIUS_M, interval: float = INTERVAL_M,
         hole: float = HOLE_M, spacing: float = SEEDS_M, seeds: int = SEEDS) -> Topo:  # fmt: skip
    """Compare two road graphs.

    Parameters
    ----------
    truth, found
        Graphs in metres.
    radius
        How far roads are walked, metres.
    interval
        Distance of the points dropped, metres.
    hole
        How near a marble and its hole are, and a place and the nearest predicted road, metres.
    spacing
        Places are the middles of pieces of at most this length along the true roads, metres.
    seeds
        Places at most.

    Notes
    -----
    Without true roads, precision is 0 if there are predicted ones: all their points are marbles.
    """
    if not len(truth):
        return Topo(0.0, found.length / interval, 0.0)
    edge, at = _seeds(truth, spacing)
    chosen = some(len(edge), seeds)
    weight = len(edge) / len(chosen)
    edge, at = edge[chosen], at[chosen]
    own = network(truth, edge, at)
    point, other_edge, other_at = nearest(found, points_at(truth, edge, at), hole)
    other = network(found, other_edge, other_at)
    partner = np.full(len(edge), -1)
    partner[point] = np.arange(len(point))
    filled = marbles = holes = 0
    for k in range(len(edge)):
        mine = dropped(truth, own, k, (int(edge[k]), float(at[k])), radius, interval)
        theirs = np.empty((0, 2))
        if partner[k] >= 0:
            j = int(partner[k])
            theirs = dropped(found, other, j, (int(other_edge[j]), float(other_at[j])), radius, interval)
        holes, marbles = holes + len(mine), marbles + len(theirs)
        filled += fitting(mine, theirs, hole)
    return Topo(filled * weight, marbles * weight, holes * weight)


def _seeds(roads: Graph, spacing: float) -> tuple[Any, F64]:
    """Return the middles of equal pieces of edges."""
    pieces = np.maximum(1, np.ceil(roads.lengths / spacing - 1e-9).astype(np.int64))
    edge = np.repeat(np.arange(len(roads)), pieces)
    first = np.concatenate([[0], np.cumsum(pieces)])
    return edge, (np.arange(first[-1]) - first[edge] + 0.5) * (roads.lengths / pieces)[edge]


def dropped(roads: Graph, matrix: csr_array, place: int, on: tuple[int, float], radius: float, interval: float) -> F64:
    """Walk a graph from one of the places put into it, and return the points dropped, `(points, 2)`.

    Points lie where the way from the place is a multiple of `interval`, the place itself included.

    Parameters
    ----------
    roads, matrix
        The graph, and its network with places put in.
    place
        Which place.
    on
        Its edge, and how far along it lies.
    radius, interval
        In the unit of the graph.
    """
    way = distances(matrix, np.array([len(roads.nodes) + place]), limit=radius)[0, : len(roads.nodes)]
    reached = np.isfinite(way[roads.start]) | np.isfinite(way[roads.end])
    reached[on[0]] = False
    edge = np.flatnonzero(reached)
    # Each edge is walked from both ends to where they meet; the edge of the place also from there.
    pieces = [(edge, np.zeros(len(edge)), way[roads.start[edge]], roads.lengths[edge], way[roads.end[edge]])]
    own, middle = np.array([on[0]]), np.array([on[1]])
    length = roads.lengths[own]
    pieces.append((own, np.zeros(1), way[roads.start[own]], middle, np.zeros(1)))
    pieces.append((own, middle, np.zeros(1), length, way[roads.end[own]]))
    edges, at, from_low, to, from_high = (np.concatenate(c) for c in zip(*pieces, strict=True))
    size = to - at
    places = [_multiples(from_low, size, from_high, radius, interval)]
    places.append(_multiples(from_high, size, from_low, radius, interval))
    piece = np.concatenate([places[0][0], places[1][0]])
    where = np.concatenate([at[places[0][0]] + places[0][1], to[places[1][0]] - places[1][1]])
    start = points_at(roads, own, middle)
    points = np.concatenate([start, points_at(roads, edges[piece], where)])
    # At nodes several edges drop the same point.
    _, first = np.unique(np.round(points, 6), axis=0, return_index=True)
    return points[np.sort(first)]


def _multiples(near: F64, size: F64, far: F64, radius: float, interval: float) -> tuple[Any, F64]:
    """Return where multiples of `interval` lie on pieces that begin at a way `near` and end at `far`: `(piece, at)`."""
    # Up to where the way from the other end is as long; both are infinite for what cannot be reached.
    with np.errstate(invalid="ignore"):
        turn = np.where(np.isfinite(far), np.minimum(size, (size + far - near) / 2), size)
    turn = np.where(np.isfinite(near), np.minimum(turn, radius - np.where(np.isfinite(near), near, 0)), -1.0)
    safe = np.where(np.isfinite(near), near, 0)
    low = np.floor(safe / interval + 1e-9).astype(np.int64) + 1
    high = np.floor((safe + turn) / interval + 1e-9).astype(np.int64)
    count = np.where(turn >= 0, np.maximum(0, high - low + 1), 0)
    piece = np.repeat(np.arange(len(near)), count)
    first = np.concatenate([[0], np.cumsum(count)])
    number_of = np.arange(first[-1]) - first[piece] + low[piece]
    return piece, np.clip(number_of * interval - safe[piece], 0, size[piece])


def fitting(holes: F64, marbles: F64, within: float) -> int:
    """Return how many marbles fill a hole of their own within a distance."""
    if not len(holes) or not len(marbles):
        return 0
    near = cKDTree(holes).sparse_distance_matrix(cKDTree(marbles), within, output_type="coo_matrix")
    links = csr_array((np.ones(near.nnz, dtype=np.int8), (near.row, near.col)), shape=near.shape)
    return int((maximum_bipartite_matching(links, perm_type="column") >= 0).sum())
