"""Road lines as a graph: nodes where lines end or meet, edges with their course between them.

Lines meet where they share a vertex (to a centimetre); lines that merely cross do not, as on a bridge. Where only two
meet there is no node: it does not matter how a line was cut into pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from geounet.evaluation.confusion import F64, I64
from geounet.vector.skeleton import linked_paths

SAME = 0.01
"""Vertices that are equal when rounded to this are one, in the unit of the coordinates."""

_LEAST = 1e-9
"""Shortest edge: scipy's graphs need positive lengths."""


@dataclass(frozen=True)
class Graph:
    """An undirected graph that may have loops and parallel edges.

    Attributes
    ----------
    nodes
        `(nodes, 2)` x, y.
    start, end
        `(edges,)` nodes of each edge.
    lines
        `(edges,)` LineStrings, from start to end.
    lengths
        `(edges,)` their lengths.
    """

    nodes: F64
    start: I64
    end: I64
    lines: npt.NDArray[Any]
    lengths: F64

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def length(self) -> float:
        """Length of all edges."""
        return float(self.lengths.sum())


def graph(lines: npt.NDArray[Any]) -> Graph:
    """Return the graph of LineStrings and MultiLineStrings; what is no line is left out."""
    parts = shapely.get_parts(lines)
    parts = parts[(shapely.get_type_id(parts) == shapely.GeometryType.LINESTRING) & ~shapely.is_empty(parts)]
    coords, line = shapely.get_coordinates(parts, return_index=True)
    if not len(coords):
        none = np.empty(0, np.int64)
        return Graph(np.empty((0, 2)), none, none, np.empty(0, object), np.empty(0))
    cells, first, vertex = np.unique(
        np.round(coords / SAME).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    position, vertex = coords[first], vertex.reshape(-1)
    along = line[1:] == line[:-1]
    ends = np.column_stack([vertex[:-1][along], vertex[1:][along]])
    ends = ends[ends[:, 0] != ends[:, 1]]
    # The same piece drawn twice is one piece.
    ends = np.unique(np.sort(ends, axis=1), axis=0)
    if not len(ends):
        return graph(np.empty(0, object))
    start, end = ends[:, 0], ends[:, 1]
    degree = np.bincount(ends.ravel(), minlength=len(cells))
    order, offsets, _ = linked_paths(start, end, degree == 2, np.arange(len(cells)))
    tail, head = np.concatenate([start, end]), np.concatenate([end, start])
    runs = np.insert(tail[order], offsets[1:], head[order[offsets[1:] - 1]])
    offsets = offsets + np.arange(len(offsets))
    edges = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, position[runs], (offsets,))
    used, both = np.unique(np.concatenate([runs[offsets[:-1]], runs[offsets[1:] - 1]]), return_inverse=True)
    count = len(offsets) - 1
    return Graph(position[used], both[:count], both[count:], np.asarray(edges), shapely.length(edges))


def along(roads: Graph, spacing: float) -> tuple[I64, F64]:
    """Return points that cut each edge into equal pieces of at most `spacing`: `(edge, distance from its start)`."""
    pieces = np.maximum(1, np.ceil(roads.lengths / spacing - 1e-9).astype(np.int64))
    edge = np.repeat(np.arange(len(roads)), pieces - 1)
    first = np.concatenate([[0], np.cumsum(pieces - 1)])
    number = np.arange(first[-1]) - first[edge] + 1
    return edge, number * (roads.lengths / pieces)[edge]


def points_at(roads: Graph, edge: I64, at: F64) -> F64:
    """Return the coordinates `(points, 2)` of places along edges."""
    if not len(edge):
        return np.empty((0, 2))
    return np.asarray(shapely.get_coordinates(shapely.line_interpolate_point(roads.lines[edge], at)))


def nearest(roads: Graph, points: F64, within: float) -> tuple[I64, I64, F64]:
    """Return the nearest place of the graph for each point that has one within a distance: `(point, edge, at)`."""
    if not len(roads) or not len(points):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    places: npt.NDArray[Any] = np.asarray(shapely.points(points))
    point, edge = shapely.STRtree(roads.lines).query_nearest(places, max_distance=within, all_matches=False)
    at = shapely.line_locate_point(roads.lines[edge], places[point])
    return point.astype(np.int64), edge.astype(np.int64), np.asarray(at)


def network(roads: Graph, edge: I64, at: F64) -> csr_array:
    """Return the lengths between neighbours as a sparse matrix, with further nodes put in along edges.

    Nodes keep their numbers; the further nodes, at `at` from the start of `edge`, follow in their order.
    """
    count, further = len(roads.nodes), len(edge)
    edges = np.arange(len(roads))
    on = np.concatenate([edges, edges, edge])
    where = np.concatenate([np.zeros(len(edges)), roads.lengths, np.clip(at, 0, roads.lengths[edge])])
    node = np.concatenate([roads.start, roads.end, count + np.arange(further)])
    kind = np.repeat([0, 2, 1], [len(edges), len(edges), further])
    order = np.lexsort((kind, where, on))
    on, where, node = on[order], where[order], node[order]
    beside = on[1:] == on[:-1]
    one, other = node[:-1][beside], node[1:][beside]
    lengths = np.maximum(np.diff(where)[beside], _LEAST)
    row, col = np.concatenate([one, other]), np.concatenate([other, one])
    # Of parallel edges the shortest counts.
    order = np.lexsort((np.tile(lengths, 2), col, row))
    row, col, lengths = row[order], col[order], np.tile(lengths, 2)[order]
    kept = np.ones(len(row), dtype=np.bool_)
    kept[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
    size = count + further
    return csr_array((lengths[kept], (row[kept], col[kept])), shape=(size, size))


def some(count: int, most: int) -> I64:
    """Return at most `most` of `0..count - 1`, drawn the same way every time, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def distances(matrix: csr_array, sources: I64, limit: float = np.inf) -> F64:
    """Return the lengths of the shortest paths from nodes to all nodes, `(sources, nodes)`; infinite: no path."""
    return np.asarray(dijkstra(matrix, directed=True, indices=sources, limit=limit), dtype=np.float64)
