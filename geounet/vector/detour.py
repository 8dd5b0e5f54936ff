"""Which gaps to bridge: the best bridge of each dead end, if the network does not lead there by a short way already.

A car parked on the verge and a tree over half of the road make dead ends beside the road that they are part of.
Bridges from those would be loops a few metres long; from a gap in a road the way round is long, or there is none.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection

import numpy as np

from geounet.vector import parts
from geounet.vector.attributes import F64
from geounet.vector.network import Graph
from geounet.vector.prune import Metric
from geounet.vector.trace import I64

DETOUR = 4.0
"""A bridge is built where the way that there is already is longer than so many times the bridge."""


class Ways:
    """Lengths of short ways over a graph to which links are added.

    Parameters
    ----------
    graph
        Its edges, whatever their direction.
    lengths
        Of each edge.
    """

    def __init__(self, graph: Graph, lengths: F64) -> None:
        count = len(graph)
        tail = np.concatenate([graph.start, graph.end])
        order = np.argsort(tail, kind="stable")
        self._from = np.searchsorted(tail[order], np.arange(len(graph.pixel) + 1))
        self._to = np.concatenate([graph.end, graph.start])[order]
        self._length = lengths[order % count] if count else lengths
        self._added: dict[int, list[tuple[int, float, int]]] = {}
        self._count = len(graph.pixel)

    def add(self, one: int, other: int, length: float, bridge: int) -> None:
        """Add a link that a bridge makes; nodes may be others than those of the graph."""
        self._added.setdefault(one, []).append((other, length, bridge))
        self._added.setdefault(other, []).append((one, length, bridge))

    def shortest(
        self, start: int, ends: dict[int, float], limit: float, without: Collection[int] = frozenset()
    ) -> float:
        """Return the length of the shortest way (Dijkstra 1959), infinite if it is not below a limit.

        Parameters
        ----------
        start
            A node.
        ends
            Nodes at which a way may end, and what is to be added there.
        limit
            Longest way that is looked at.
        without
            Bridges over which it may not lead.
        """
        best = np.inf
        reached: set[int] = set()
        queue = [(0.0, start)]
        while queue:
            way, node = heapq.heappop(queue)
            if way >= min(limit, best):
                break
            if node in reached:
                continue
            reached.add(node)
            best = min(best, way + ends.get(node, np.inf))
            run = slice(int(self._from[node]), int(self._from[node + 1])) if node < self._count else slice(0)
            links = list(zip(self._to[run].tolist(), self._length[run].tolist(), strict=True))
            links += [(to, length) for to, length, bridge in self._added.get(node, ()) if bridge not in without]
            for other, length in links:
                if other not in reached and way + length < limit:
                    heapq.heappush(queue, (way + length, other))
        return best if best < limit else np.inf


def ends_of(
    table: parts.Arrays, k: int, tips: parts.Arrays, graph: Graph, metric: Metric, cols: int
) -> tuple[float, dict[int, float]]:
    """Return the length of a bridge, and nodes to which it leads with how far they are from its end; see `chosen`."""
    sx, sy = metric.scale
    tip, other, edge = (int(table[name][k]) for name in ("tip", "other", "edge"))
    x, y = float(tips["x"][tip]), float(tips["y"][tip])
    if other >= 0:
        return float(np.hypot(tips["x"][other] - x, tips["y"][other] - y)), {int(tips["node"][other]): 0.0}
    row, col = divmod(int(table["pixel"][k]), cols)
    px, py = (col + 0.5) * sx, (row + 0.5) * sy
    # How far it is along the line is not known here; not less than straight on.
    ends = {}
    for node in (int(graph.start[edge]), int(graph.end[edge])):
        ends[node] = float(np.hypot(graph.x[node] * sx - px, graph.y[node] * sy - py))
    return float(np.hypot(px - x, py - y)), ends


def chosen(
    table: parts.Arrays, tips: parts.Arrays, graph: Graph, ways: Ways, metric: Metric, cols: int
) -> parts.Arrays:
    """Return the bridges to build, the best first; each dead end is used once.

    Parameters
    ----------
    table
        Columns `bridge.FOUND` of bridges that can be built.
    tips
        Columns `bridge.TIP` of all dead ends.
    graph
        The network without bridges.
    ways
        Those over it; bridges are added to them.
    metric
        Sizes of pixels.
    cols
        Width of the raster.
    """
    order = np.lexsort((table["pixel"], table["other"], table["tip"], table["cost"]))
    used: set[int] = set()
    kept: list[int] = []
    for k in order.tolist():
        tip, other = int(table["tip"][k]), int(table["other"][k])
        if tip in used or other in used:
            continue
        span, ends = ends_of(table, k, tips, graph, metric, cols)
        start = int(tips["node"][tip])
        if ways.shortest(start, ends, DETOUR * span) < DETOUR * span:
            continue
        used.add(tip)
        used.update([other] if other >= 0 else [])
        for node, further in ends.items():
            ways.add(start, node, span + further, len(kept))
        kept.append(k)
    index: I64 = np.array(kept, dtype=np.int64)
    return {name: column[index] for name, column in table.items()}
