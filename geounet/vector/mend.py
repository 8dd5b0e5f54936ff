"""Bridges put into the network: lines and other bridges that they lead to are cut there, and bridges that cross."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geounet.types import Executor
from geounet.vector import edges, parts
from geounet.vector.crossing import spans_of, woven
from geounet.vector.detour import DETOUR
from geounet.vector.network import STEPS, Chains, Graph, Paths
from geounet.vector.polygons import gather
from geounet.vector.prune import Metric
from geounet.vector.skeleton import LINKS, Stage, link_table
from geounet.vector.trace import I64

CUT = ("first", "after", "last", "before", "first_squared", "last_squared", "low", "size", "mass")


def measure(task: tuple[Stage, int]) -> int:
    """Write what is known of the parts of cut lines; returns the bytes."""
    stage, index = task
    path = stage.part("cut", index)
    if not path.exists():
        lines = edges.assembled(stage, parts.load(stage.part("cuts", index)))
        parts.save(path, link_table(lines, stage.grid.cols))
    return path.stat().st_size


def mended(
    stage: Stage,
    metric: Metric,
    paths: Paths,
    graph: Graph,
    tips: parts.Arrays,
    found: parts.Arrays,
    executor: Executor,
) -> Graph:
    """Return the network with bridges.

    Parameters
    ----------
    stage, metric, paths, graph
        The network, and sizes of pixels.
    tips, found
        Dead ends, and the bridges from them, see `crossing.led`; the number of a bridge is its place in the table.
    executor
        Measures lines that are cut.
    """
    count = len(found["tip"])
    if not count:
        return graph
    nodes = len(graph.pixel)
    tip, other = found["tip"], found["other"]
    target = np.where(other >= 0, tips["node"][other], -1)
    sides = np.flatnonzero((other < 0) & (found["onto"] < 0))
    piece, way = _located(graph.chains, found["edge"][sides], found["path"][sides], found["index"][sides])
    edge = found["edge"][sides]
    first = (piece == graph.chains.offsets[edge]) & (way == 0)
    chains = graph.chains
    last = (piece == chains.offsets[edge + 1] - 1) & (way == np.abs(chains.last - chains.first)[piece])
    target[sides] = np.where(first, graph.start[edge], np.where(last, graph.end[edge], -1))
    # What is left cuts a line; each place once.
    inner = np.flatnonzero(~first & ~last)
    pixel, at, again = np.unique(found["pixel"][sides[inner]], return_index=True, return_inverse=True)
    target[sides[inner]] = nodes + again
    at = inner[at]
    order = np.lexsort((way[at], piece[at], edge[at]))
    y, x = np.divmod(pixel, stage.grid.cols)
    graph = replace(
        graph,
        pixel=np.concatenate([graph.pixel, pixel]),
        x=np.concatenate([graph.x, x + 0.5]),
        y=np.concatenate([graph.y, y + 0.5]),
        squared=np.concatenate([graph.squared, found["squared"][sides[at]]]),
    )
    if len(order):
        cuts = (edge[at][order], piece[at][order], way[at][order], nodes + order)
        graph, node = _cut(stage, paths, graph, cuts, executor)
        target = np.where(target >= 0, node[target], -1)
    spans = spans_of(found, tips, metric.scale, stage.grid.cols)
    made = woven(spans, tips["node"][tip], target, found["onto"], found["radius"], len(graph.pixel))
    x, y = made.x / metric.scale[0], made.y / metric.scale[1]
    row, col = (np.clip(v.astype(np.int64), 0, n - 1) for v, n in ((y, stage.grid.rows), (x, stage.grid.cols)))
    graph = replace(
        graph,
        pixel=np.concatenate([graph.pixel, row * stage.grid.cols + col]),
        x=np.concatenate([graph.x, x]),
        y=np.concatenate([graph.y, y]),
        # As of a junction: the disc of the wider road.
        squared=np.concatenate([graph.squared, np.rint(made.radius**2 * metric.unit).astype(np.int64)]),
    )
    piece = np.array([k for k, short in enumerate(_beside_lines(graph, metric, made.start, made.end)) if not short])
    return _with_bridges(graph, *(v[piece.astype(np.int64)] for v in (made.start, made.end, made.bridge))).canonical()


def _beside_lines(graph: Graph, metric: Metric, start: I64, end: I64) -> list[bool]:
    """Return which parts of bridges run beside a line between the same nodes, as where a dead end is a pixel long."""
    ends = np.concatenate([start, end])
    edge = np.flatnonzero(np.isin(graph.start, ends) & np.isin(graph.end, ends))
    length = dict[tuple[int, int], float]()
    for one, two, way in zip(
        graph.start[edge].tolist(), graph.end[edge].tolist(), graph.lengths(metric.step)[edge].tolist(), strict=True
    ):
        key = (min(one, two), max(one, two))
        length[key] = min(length.get(key, np.inf), way)
    sx, sy = metric.step
    straight = np.hypot((graph.x[end] - graph.x[start]) * sx, (graph.y[end] - graph.y[start]) * sy)
    pairs = zip(np.minimum(start, end).tolist(), np.maximum(start, end).tolist(), straight.tolist(), strict=True)
    return [length.get((one, two), np.inf) < DETOUR * way for one, two, way in pairs]


def _located(chains: Chains, edge: I64, path: I64, index: I64) -> tuple[I64, I64]:
    """Return in which piece of an edge a pixel of a path is, and how far from where the piece starts."""
    pieces, bounds = gather(chains.offsets, edge)
    asked = np.repeat(np.arange(len(edge)), np.diff(bounds))
    low, high = np.minimum(chains.first, chains.last)[pieces], np.maximum(chains.first, chains.last)[pieces]
    there = np.flatnonzero((chains.path[pieces] == path[asked]) & (low <= index[asked]) & (index[asked] <= high))
    found = there[np.diff(asked[there], prepend=-1) != 0]
    if not np.array_equal(asked[found], np.arange(len(edge))):
        raise AssertionError("a bridge leads to a pixel that is not on its edge")
    return pieces[found], np.abs(index - chains.first[pieces[found]])


def _cut(
    stage: Stage, paths: Paths, graph: Graph, cuts: tuple[I64, I64, I64, I64], executor: Executor
) -> tuple[Graph, I64]:
    """Return the graph with edges cut, and what became of each node.

    `cuts` are edge, piece, way along the piece, and node, in order. Two cuts with nothing in between are one: that is
    so where an edge goes from one pixel of a junction to the next.
    """
    chains = graph.chains
    alias = np.arange(len(graph.pixel))
    edges_cut, bounds = np.unique(cuts[0], return_index=True)
    bounds = np.append(bounds, len(cuts[0]))
    runs: list[list[tuple[int, int, int]]] = []
    starts, ends, sizes = [], [], []
    for k, edge in enumerate(edges_cut.tolist()):
        node, run = int(graph.start[edge]), []
        mine = list(zip(*(c[bounds[k] : bounds[k + 1]].tolist() for c in cuts[1:]), strict=True))
        for piece in range(int(chains.offsets[edge]), int(chains.offsets[edge + 1])):
            path, first, last = int(chains.path[piece]), int(chains.first[piece]), int(chains.last[piece])
            begin = first
            while mine and mine[0][0] == piece:
                _, way, to = mine.pop(0)
                middle = begin + (way if last >= begin else -way)
                if first != middle:
                    run.append((path, first, middle))
                if not run:
                    alias[to] = node
                    continue
                runs.append(run)
                starts.append(node)
                ends.append(to)
                sizes.append(int(graph.size[edge]))
                node, first, run = to, middle, []
            if first != last:
                run.append((path, first, last))
        runs.append(run)
        starts.append(node)
        ends.append(int(graph.end[edge]))
        sizes.append(int(graph.size[edge]))
    pieces = np.array([p for run in runs for p in run], dtype=np.int64).reshape(-1, 3)
    offsets = np.concatenate([[0], np.cumsum([len(run) for run in runs])]).astype(np.int64)
    new = Chains(offsets, pieces[:, 0], pieces[:, 1], pieces[:, 2])
    plans = edges.write_plans(stage, "cuts", paths, new, np.array(sizes), {})
    for _ in executor.map(measure, [(stage, k) for k in range(plans)], f"{stage.name}: cut lines"):
        pass
    loaded = [parts.load(stage.part("cut", k), [*LINKS, *STEPS]) for k in range(plans)]
    table = {name: np.concatenate([a[name] for a in loaded]) for name in loaded[0]}
    whole = np.ones(len(graph), dtype=np.bool_)
    whole[edges_cut] = False
    kept = graph.chosen(whole)
    graph = replace(
        kept,
        start=np.concatenate([kept.start, starts]),
        end=np.concatenate([kept.end, ends]),
        **{name: np.concatenate([getattr(kept, name), table[name]]) for name in CUT},
        steps=np.concatenate([kept.steps, np.column_stack([table[name] for name in STEPS])]),
        chains=_concatenated(kept.chains, new),
        bridge=np.concatenate([kept.bridge, np.full(len(starts), -1)]),
    )
    return graph, alias


def _concatenated(one: Chains, two: Chains) -> Chains:
    return Chains(
        np.concatenate([one.offsets, two.offsets[1:] + one.offsets[-1]]),
        *(np.concatenate([getattr(one, name), getattr(two, name)]) for name in ("path", "first", "last")),
    )


def _with_bridges(graph: Graph, start: I64, end: I64, bridge: I64) -> Graph:
    """Return the graph with further edges that have no pixels: parts of bridges."""
    count = len(start)
    first, last = graph.pixel[start], graph.pixel[end]
    zero, none = np.zeros(count, np.int64), np.empty(0, np.int64)
    new = {
        "first": first,
        "after": last,
        "last": last,
        "before": first,
        "first_squared": graph.squared[start],
        "last_squared": graph.squared[end],
        "low": np.minimum(first, last),
        "size": zero,
        "mass": zero,
        "start": start,
        "end": end,
        "bridge": bridge,
    }
    return replace(
        graph,
        **{name: np.concatenate([getattr(graph, name), column]) for name, column in new.items()},
        steps=np.concatenate([graph.steps, np.zeros((count, 3), np.int64)]),
        chains=_concatenated(graph.chains, Chains(np.zeros(count + 1, np.int64), none, none, none)),
    )
