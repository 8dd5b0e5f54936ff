"""The road graph of the whole raster: junctions, dead ends, loose pieces. One global step with ties in total order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from geounet.vector.components import least_by, sum_by, unite
from geounet.vector.polygons import gather
from geounet.vector.skeleton import Lines
from geounet.vector.trace import I64


@dataclass(frozen=True)
class Network:
    """A graph that may have loops and parallel edges.

    Attributes
    ----------
    node
        Raster index of each node's first pixel, ascending.
    position
        `(nodes, 2)` float64: x, y in pixels; several junction pixels side by side are one node at their centre.
    start, end
        Nodes of each edge, as indices.
    lines
        Pixels of each edge, in the same order, from start to end.
    """

    node: I64
    position: np.ndarray
    start: I64
    end: I64
    lines: Lines

    @property
    def degree(self) -> I64:
        """Number of ends of edges at each node."""
        return np.bincount(np.concatenate([self.start, self.end]), minlength=len(self.node))


def step_counts(lines: Lines, cols: int) -> tuple[I64, I64, I64]:
    """Return how many steps of each path go along rows, along columns, and diagonally."""
    y, x = np.divmod(lines.pixel, cols)
    dy, dx = np.abs(np.diff(y)), np.abs(np.diff(x))
    between = np.ones(len(dy), dtype=np.bool_)
    between[lines.offsets[1:-1] - 1] = False
    path = np.repeat(np.arange(len(lines.offsets) - 1), np.diff(lines.offsets))[:-1]
    count = len(lines.offsets) - 1
    kinds = ((dx > 0) & (dy == 0), (dy > 0) & (dx == 0), (dx > 0) & (dy > 0))
    across, down, diagonal = (np.bincount(path[k & between], minlength=count) for k in kinds)
    return across, down, diagonal


class Graph:
    """A multigraph under pruning. Edges are chains of paths; their lengths come from integer step counts."""

    def __init__(self, start: I64, end: I64, steps: tuple[I64, I64, I64], low: I64, pixel: tuple[float, float]) -> None:
        self.ends: dict[int, tuple[int, int]] = {}
        self.chain: dict[int, list[tuple[int, bool]]] = {}
        self.steps: dict[int, tuple[int, int, int]] = {}
        self.low: dict[int, int] = {}
        self.at: dict[int, list[int]] = {}
        self.pixel = pixel
        for edge, (u, v, a, b, c, first) in enumerate(
            zip(*(column.tolist() for column in (start, end, *steps, low)), strict=True)
        ):
            self.ends[edge], self.steps[edge], self.low[edge] = (u, v), (a, b, c), first
            self.chain[edge] = [(edge, True)]
            self.at.setdefault(u, []).append(edge)
            self.at.setdefault(v, []).append(edge)
        self.next = len(self.ends)

    def length(self, edge: int) -> float:
        """Return an edge's length in metres, the pixel being the same size everywhere."""
        across, down, diagonal = self.steps[edge]
        dx, dy = self.pixel
        return across * dx + down * dy + diagonal * float(np.hypot(dx, dy))

    def remove(self, edge: int) -> None:
        """Remove an edge; its nodes stay."""
        for node in self.ends.pop(edge):
            self.at[node].remove(edge)

    def is_spur(self, edge: int) -> bool:
        """Whether an edge leads from a junction to nowhere."""
        u, v = (len(self.at[n]) for n in self.ends[edge])
        return min(u, v) == 1 and max(u, v) >= 3

    def smooth(self, node: int) -> int | None:
        """Make one edge of the two that meet at a node, unless it is one loop. Returns the new edge."""
        if len(self.at[node]) != 2 or self.at[node][0] == self.at[node][1]:
            return None
        first, second = sorted(self.at[node])
        u, chain = self._towards(first, node)
        v, rest = self._towards(second, node)
        edge, self.next = self.next, self.next + 1
        a, b = self.steps[first], self.steps[second]
        low = min(self.low[first], self.low[second])
        self.remove(first)
        self.remove(second)
        self.ends[edge] = (u, v)
        self.chain[edge] = chain + [(e, not forward) for e, forward in reversed(rest)]
        self.steps[edge] = (a[0] + b[0], a[1] + b[1], a[2] + b[2])
        self.low[edge] = low
        self.at[u].append(edge)
        self.at[v].append(edge)
        return edge

    def _towards(self, edge: int, node: int) -> tuple[int, list[tuple[int, bool]]]:
        u, v = self.ends[edge]
        if v == node:
            return u, self.chain[edge]
        return v, [(e, not forward) for e, forward in reversed(self.chain[edge])]

    def prune(self, shortest: float) -> None:
        """Remove spurs below a length, the shortest first, then loose pieces below it."""
        queue = [self._key(e) for e in self.ends if self.is_spur(e) and self.length(e) < shortest]
        heapq.heapify(queue)
        while queue:
            *_, edge = heapq.heappop(queue)
            if edge not in self.ends or not self.is_spur(edge):
                continue
            nodes = self.ends[edge]
            self.remove(edge)
            for node in nodes:
                merged = self.smooth(node)
                for other in {merged} if merged is not None else set(self.at[node]):
                    if self.is_spur(other) and self.length(other) < shortest:
                        heapq.heappush(queue, self._key(other))
        for piece in list(self._pieces()):
            if sum(sorted(self.length(e) for e in piece)) < shortest:
                for edge in piece:
                    self.remove(edge)

    def _key(self, edge: int) -> tuple[float, int, int]:
        return self.length(edge), self.low[edge], edge

    def _pieces(self) -> Iterator[list[int]]:
        edges = list(self.ends)
        if not edges:
            return
        nodes = {node: i for i, node in enumerate(self.at)}
        u = np.array([nodes[self.ends[e][0]] for e in edges])
        v = np.array([nodes[self.ends[e][1]] for e in edges])
        piece = unite(len(nodes), u, v)[u]
        order = np.argsort(piece, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(piece[order])) + 1):
            yield [edges[i] for i in group]


def build(lines: Lines, cols: int, shortest: float, pixel: tuple[float, float]) -> Network:
    """Make the network of the paths of a whole raster.

    Parameters
    ----------
    lines
        Paths between pixels that do not have two links.
    cols
        Width of the raster.
    shortest
        Spurs and loose pieces below it go, in metres; 0 keeps all.
    pixel
        Length of a pixel along rows and columns, in metres.
    """
    if len(lines.offsets) < 2:
        none = np.empty(0, np.int64)
        return Network(none, np.empty((0, 2)), none, none, lines)
    # In an order that does not depend on cells: ties in pruning go by an edge's place in it.
    lines = _reordered(lines, _order(lines))
    pixels, cluster, first = _clusters(lines)
    y, x = np.divmod(pixels, cols)
    members = np.bincount(cluster)
    position = np.column_stack([sum_by(cluster, len(first), v) / members + 0.5 for v in (x, y)])
    start, end = (cluster[np.searchsorted(pixels, ends)] for ends in (lines.first, lines.last))
    # Links between the pixels of one node are not edges; loops of more than one step are.
    kept = np.flatnonzero((start != end) | (np.diff(lines.offsets) > 2))
    lines, start, end = _reordered(lines, kept), start[kept], end[kept]
    if shortest > 0:
        graph = Graph(start, end, step_counts(lines, cols), _least(lines), pixel)
        graph.prune(shortest)
        lines, start, end = _chained(lines, graph)
    lines, start, end = _directed(lines, start, end)
    order = _order(lines)
    lines, start, end = _reordered(lines, order), start[order], end[order]
    used, both = np.unique(np.concatenate([start, end]), return_inverse=True)
    return Network(first[used], position[used], both[: len(start)], both[len(start) :], lines)


def _least(lines: Lines) -> I64:
    return np.minimum.reduceat(lines.pixel, lines.offsets[:-1]) if len(lines.offsets) > 1 else np.empty(0, np.int64)


def _order(lines: Lines) -> I64:
    """Return the order by first pixel in the raster; a path is told apart by its first two pixels."""
    return np.lexsort((lines.pixel[lines.offsets[:-1] + 1], lines.first, _least(lines)))


def _reordered(lines: Lines, order: I64) -> Lines:
    index, offsets = gather(lines.offsets, order)
    return Lines(lines.pixel[index], lines.squared[index], lines.stored[index], offsets)


def _clusters(lines: Lines) -> tuple[I64, I64, I64]:
    """Return the pixels where paths end, ascending, the node of each, and each node's first pixel, ascending.

    Junction pixels side by side are one node.
    """
    pixels, inverse, degree = np.unique(
        np.concatenate([lines.first, lines.last]), return_inverse=True, return_counts=True
    )
    count = len(lines.offsets) - 1
    a, b = inverse[:count], inverse[count:]
    beside = (np.diff(lines.offsets) == 2) & (degree[a] >= 3) & (degree[b] >= 3)
    group = unite(len(pixels), a[beside], b[beside])
    first = least_by(group, int(group.max()) + 1, pixels)
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(len(first))
    return pixels, rank[group], np.sort(first)


def _chained(lines: Lines, graph: Graph) -> tuple[Lines, I64, I64]:
    """Return the paths of a pruned graph's edges, each from its start to its end."""
    indices: list[I64] = []
    edges = sorted(graph.ends)
    for edge in edges:
        whole: list[I64] = []
        for path, forward in graph.chain[edge]:
            index = np.arange(lines.offsets[path], lines.offsets[path + 1])
            index = index if forward else index[::-1]
            meets = bool(whole) and lines.pixel[whole[-1][-1]] == lines.pixel[index[0]]
            whole.append(index[1:] if meets else index)
        indices.append(np.concatenate(whole))
    chosen = np.concatenate(indices) if indices else np.empty(0, np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(i) for i in indices])]).astype(np.int64)
    ends = np.array([graph.ends[e] for e in edges], dtype=np.int64).reshape(-1, 2)
    return Lines(lines.pixel[chosen], lines.squared[chosen], lines.stored[chosen], offsets), ends[:, 0], ends[:, 1]


def _directed(lines: Lines, start: I64, end: I64) -> tuple[Lines, I64, I64]:
    """Turn edges to run from the lower node to the higher, loops towards the lower of both neighbours."""
    if len(start) == 0:
        return lines, start, end
    second, last = lines.pixel[lines.offsets[:-1] + 1], lines.pixel[lines.offsets[1:] - 2]
    turned = (start > end) | ((start == end) & (second > last))
    sizes = np.diff(lines.offsets)
    index = np.arange(len(lines.pixel))
    mirror = np.repeat(lines.offsets[:-1] + lines.offsets[1:] - 1, sizes) - index
    index = np.where(np.repeat(turned, sizes), mirror, index)
    directed = Lines(lines.pixel[index], lines.squared[index], lines.stored[index], lines.offsets)
    return directed, np.where(turned, end, start), np.where(turned, start, end)
