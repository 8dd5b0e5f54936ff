"""The graph of centre lines: contracted in the driver, its pixels left in the parts of the cells.

An edge knows its nodes, how many steps it takes in which directions, and of which pieces of which cells' paths it
consists. Everything is decided once for the raster on whole numbers, with ties broken by pixels: after `contract`
nothing tells any more how the raster was cut into cells.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from geounet.types import Executor
from geounet.vector import parts
from geounet.vector.attributes import F64
from geounet.vector.components import least_by, sum_by, unite
from geounet.vector.polygons import gather
from geounet.vector.skeleton import LINKS, Stage, linked_paths, thin_cell
from geounet.vector.trace import I64, Bools

STEPS = ("across", "down", "diagonal")


@dataclass(frozen=True)
class Chains:
    """Runs of pieces of paths: run `i` has those from `offsets[i]` to `offsets[i + 1]`.

    A piece is the pixels of `path` from index `first` to index `last`, both included, in this direction.
    """

    offsets: I64
    path: I64
    first: I64
    last: I64

    def composed(self, order: I64, offsets: I64) -> Chains:
        """Return runs put together of these: run `k` or, from its end to its start, as `k + count`."""
        count = len(self.offsets) - 1
        turned = order >= count
        elements, bounds = gather(self.offsets, order % count)
        run = np.repeat(np.arange(len(order)), np.diff(bounds))
        mirror = bounds[run] + bounds[run + 1] - 1 - np.arange(len(elements))
        elements = elements[np.where(turned[run], mirror, np.arange(len(elements)))]
        back = turned[run]
        first, last = self.first[elements], self.last[elements]
        return Chains(bounds[offsets], self.path[elements], np.where(back, last, first), np.where(back, first, last))


@dataclass(frozen=True)
class Graph:
    """A multigraph with loops. Nodes are in the order of their pixels, edges in that of their least pixels.

    Attributes
    ----------
    pixel
        Raster index of each node's first pixel, ascending.
    x, y
        Position of each node in pixels (corners at integers): the mean of its pixels' centres.
    squared
        Largest squared distance to what is not of the class among the node's pixels.
    start, end
        Nodes of each edge.
    first, after, last, before
        Pixels at both ends of each edge, and the ones next to them. `(first, after) <= (last, before)`.
    first_squared, last_squared
        Squared distances at both ends.
    low
        Least pixel of each edge.
    steps
        `(edges, 3)`: steps along rows, along columns, diagonal.
    size, mass
        Number of pixels of each edge, and the sum of their squared distances.
    chains
        Where the pixels are.
    bridge
        Which bridge an edge is, -1 where it is a line of the mask.
    """

    pixel: I64
    x: F64
    y: F64
    squared: I64
    start: I64
    end: I64
    first: I64
    after: I64
    last: I64
    before: I64
    first_squared: I64
    last_squared: I64
    low: I64
    steps: I64
    size: I64
    mass: I64
    chains: Chains
    bridge: I64

    def __len__(self) -> int:
        return len(self.start)

    @property
    def nbytes(self) -> int:
        """Memory of its columns."""
        chains = (self.chains.offsets, self.chains.path, self.chains.first, self.chains.last)
        return sum(c.nbytes for c in (*chains, *(getattr(self, f.name) for f in fields(self) if f.name != "chains")))

    @property
    def degree(self) -> I64:
        """Number of ends of edges at each node."""
        return np.bincount(np.concatenate([self.start, self.end]), minlength=len(self.pixel))

    def lengths(self, step: tuple[float, float]) -> F64:
        """Return the length of each edge, given that of a step along a row and along a column; bridges are straight."""
        dx, dy = step
        length: F64 = self.steps @ np.array([dx, dy, float(np.hypot(dx, dy))])
        straight = np.hypot((self.x[self.end] - self.x[self.start]) * dx, (self.y[self.end] - self.y[self.start]) * dy)
        return np.where(self.bridge >= 0, straight, length)

    def chosen(self, edges: npt.NDArray[np.generic]) -> Graph:
        """Return the graph with some of the edges; nodes stay."""
        index = np.flatnonzero(edges) if edges.dtype == np.bool_ else edges.astype(np.int64)
        return self.composed(index, np.arange(len(index) + 1))

    def composed(self, order: I64, offsets: I64) -> Graph:
        """Return the graph whose edges are put together of these: edge `k` or, turned round, `k + count`."""
        if len(order) == 0:
            return self._picked(order, offsets)
        edge = order % len(self)
        graph = self._picked(order, offsets)
        # A pixel at which two pieces meet counts once.
        head, tail, squared = self._ends(order)
        meets = np.append(tail[:-1] == head[1:], False) & (self.bridge[edge] < 0)
        meets[offsets[1:] - 1] = False
        return replace(
            graph,
            low=np.minimum.reduceat(self.low[edge], offsets[:-1]),
            steps=np.add.reduceat(self.steps[edge], offsets[:-1], axis=0),
            size=np.add.reduceat(self.size[edge] - meets, offsets[:-1]),
            mass=np.add.reduceat(self.mass[edge] - np.where(meets, squared, 0), offsets[:-1]),
        )

    def _ends(self, order: I64) -> tuple[I64, I64, I64]:
        """Return first and last pixels of edges, turned round where their number says so; squared distance at last."""
        edge, turned = order % len(self), order >= len(self)
        head = np.where(turned, self.last[edge], self.first[edge])
        tail = np.where(turned, self.first[edge], self.last[edge])
        return head, tail, np.where(turned, self.first_squared[edge], self.last_squared[edge])

    def _picked(self, order: I64, offsets: I64) -> Graph:
        """Return runs of edges with what comes from the first and the last of each."""
        count = max(len(self), 1)
        head, tail = order[offsets[:-1]], order[offsets[1:] - 1]

        def at(which: I64, forward: I64, backward: I64) -> I64:
            found: I64 = np.where(which >= len(self), backward[which % count], forward[which % count])
            return found

        return replace(
            self,
            start=at(head, self.start, self.end),
            end=at(tail, self.end, self.start),
            first=at(head, self.first, self.last),
            after=at(head, self.after, self.before),
            last=at(tail, self.last, self.first),
            before=at(tail, self.before, self.after),
            first_squared=at(head, self.first_squared, self.last_squared),
            last_squared=at(tail, self.last_squared, self.first_squared),
            low=self.low[head % count],
            steps=self.steps[head % count],
            size=self.size[head % count],
            mass=self.mass[head % count],
            chains=self.chains.composed(order, offsets),
            bridge=self.bridge[head % count],
        )

    def canonical(self) -> Graph:
        """Return the graph with edges in the direction and nodes and edges in the order that pixels give; no others."""
        turned = (self.last < self.first) | ((self.last == self.first) & (self.before < self.after))
        order = np.lexsort(
            (np.where(turned, self.before, self.after), np.where(turned, self.last, self.first), self.low)
        )
        graph = self.composed(order + np.where(turned[order], len(self), 0), np.arange(len(order) + 1))
        used, both = np.unique(np.concatenate([graph.start, graph.end]), return_inverse=True)
        by_pixel = np.argsort(self.pixel[used], kind="stable")
        number = np.empty(len(used), dtype=np.int64)
        number[by_pixel] = np.arange(len(used))
        node = used[by_pixel]
        return replace(
            graph,
            pixel=self.pixel[node],
            x=self.x[node],
            y=self.y[node],
            squared=self.squared[node],
            start=number[both[: len(order)]],
            end=number[both[len(order) :]],
        )

    def through(self, edges: I64, nodes: Bools) -> tuple[I64, I64, Bools]:
        """Return the paths of edges through nodes at which two of them end; see `linked_paths`.

        Numbers are those of the graph's edges, with `len(graph)` added where turned round.
        """
        if len(edges) == 0:
            return np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.bool_)
        rank = np.arange(len(self.pixel))
        order, offsets, closed = linked_paths(self.start[edges], self.end[edges], nodes, rank)
        return edges[order % len(edges)] + np.where(order >= len(edges), len(self), 0), offsets, closed

    def smoothed(self) -> Graph:
        """Return the graph without the nodes at which two lines meet, but those with one closed line, in order.

        Two parts of one bridge are one again where no other leads there any more.
        """
        bridge, ends = np.concatenate([self.bridge, self.bridge]), np.concatenate([self.start, self.end])
        plain = np.bincount(ends[bridge < 0], minlength=len(self.pixel)) == 2
        least, most = np.full(len(self.pixel), len(bridge)), np.full(len(self.pixel), -1)
        np.minimum.at(least, ends, bridge)
        np.maximum.at(most, ends, bridge)
        plain |= (least == most) & (most >= 0)
        order, offsets, _ = self.through(np.arange(len(self)), plain & (self.degree == 2))
        return self.composed(order, offsets).canonical()


@dataclass(frozen=True)
class Paths:
    """The paths of all cells without their pixels: columns `LINKS` and `STEPS`, and where each cell's start.

    `exits` are the pixels at which roads leave the raster, ascending.
    """

    table: parts.Arrays
    cells: I64
    exits: I64

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(column.nbytes for column in self.table.values())


def thinned(stage: Stage, executor: Executor) -> tuple[Paths, int, int]:
    """Thin all cells; returns their paths, the number of cells that are not exact, and the bytes of the parts."""
    inexact = size = 0
    tasks = [(stage, i) for i in range(stage.grid.count)]
    for receipt in executor.map(thin_cell, tasks, f"{stage.name}: centre lines"):
        inexact += 1 - receipt["exact"]
        size += receipt["bytes"]
    return paths_of(stage), inexact, size


def paths_of(stage: Stage) -> Paths:
    """Read the paths of all cells."""
    names = [*LINKS, *STEPS]
    loaded = [parts.load(stage.path(i), [*names, "exits"]) for i in range(stage.grid.count)]
    cells = np.concatenate([[0], np.cumsum([len(a["low"]) for a in loaded])]).astype(np.int64)
    table = {name: np.concatenate([a[name] for a in loaded]) for name in names}
    exits = np.sort(np.concatenate([a["exits"] for a in loaded]))
    return Paths(table | {"from": np.zeros(cells[-1], np.int64)}, cells, exits)


def contract(paths: Paths, cols: int) -> Graph:
    """Return the graph of the raster: paths of cells joined where two meet, junction pixels side by side one node.

    Parameters
    ----------
    paths
        Paths between pixels that do not have two links.
    cols
        Width of the raster.
    """
    graph = _raw(paths.table, np.arange(len(paths.table["low"])), cols)
    if not len(graph):
        return graph
    twice = (graph.degree == 2) & ~np.isin(graph.pixel, paths.exits)
    order, offsets, closed = graph.through(np.arange(len(graph)), twice)
    if closed.any():
        # A closed line starts at its least pixel. Where that lies within a path, the path is cut there.
        loop = np.repeat(np.arange(len(closed)), np.diff(offsets))
        path = order % len(graph)
        low = np.minimum.reduceat(graph.low[path], offsets[:-1])
        cut = path[closed[loop] & (graph.low[path] == low[loop])]
        graph = _raw(_cut(paths.table, cut), _cut_paths(paths.table, cut), cols)
        twice = (graph.degree == 2) & ~np.isin(graph.pixel, np.concatenate([paths.exits, low[closed]]))
        order, offsets, _ = graph.through(np.arange(len(graph)), twice)
    return _side_by_side(graph.composed(order, offsets).canonical())


def _raw(table: parts.Arrays, path: I64, cols: int) -> Graph:
    """Return paths as a graph between the pixels at which they end."""
    count = len(path)
    pixel, inverse = np.unique(np.concatenate([table["first"], table["last"]]), return_inverse=True)
    squared = np.zeros(len(pixel), dtype=np.int64)
    squared[inverse] = np.concatenate([table["first_squared"], table["last_squared"]])
    y, x = np.divmod(pixel, cols)
    return Graph(
        pixel=pixel,
        x=x + 0.5,
        y=y + 0.5,
        squared=squared,
        start=inverse[:count],
        end=inverse[count:],
        **{name: table[name] for name in ("first", "after", "last", "before", "first_squared", "last_squared")},
        **{name: table[name] for name in ("low", "size", "mass")},
        steps=np.column_stack([table[name] for name in STEPS]),
        chains=Chains(np.arange(count + 1), path, table["from"], table["from"] + table["size"] - 1),
        bridge=np.full(count, -1),
    )


def _cut(table: parts.Arrays, path: I64) -> parts.Arrays:
    """Return the table with paths cut in two at their least pixels, the second parts at the end.

    What belongs to the whole path stays with its first part: the two are part of one line.
    """
    path = _within(table, path)
    head = {name: column.copy() for name, column in table.items()}
    tail = {name: column[path].copy() for name, column in table.items()}
    at, low, squared = (table[name][path] for name in ("low_at", "low", "low_squared"))
    head["last"][path], head["before"][path], head["last_squared"][path] = low, table["below"][path], squared
    tail["first"], tail["after"], tail["first_squared"] = low, table["above"][path], squared
    head["size"][path], tail["size"], tail["from"] = at + 1, table["size"][path] - at, at
    tail["mass"] = squared
    for name in STEPS:
        tail[name] = np.zeros_like(tail[name])
    return {name: np.concatenate([head[name], tail[name]]) for name in head}


def _within(table: parts.Arrays, path: I64) -> I64:
    """Return those of the paths whose least pixel is not at an end."""
    return path[(table["low_at"][path] > 0) & (table["low_at"][path] < table["size"][path] - 1)]


def _cut_paths(table: parts.Arrays, path: I64) -> I64:
    """Return the path that each row of a table with cut paths is of."""
    return np.concatenate([np.arange(len(table["low"])), _within(table, path)])


def _side_by_side(graph: Graph) -> Graph:
    """Return the graph with junctions one step apart made one node; what is left of one step in it is no edge."""
    degree = graph.degree
    beside = (graph.size == 2) & (degree[graph.start] >= 3) & (degree[graph.end] >= 3)
    graph = united(graph, graph.start[beside], graph.end[beside])
    # Links between the pixels of one node are not edges; loops of more than one step are.
    return graph.chosen((graph.start != graph.end) | (graph.size > 2)).canonical()


def united(graph: Graph, one: I64, two: I64) -> Graph:
    """Return the graph with pairs of nodes made one, at the mean of their places."""
    count = len(graph.pixel)
    group = unite(count, one, two)
    groups = int(group.max()) + 1 if count else 0
    members = np.bincount(group, minlength=groups)
    pixel = least_by(group, groups, graph.pixel)
    # Twice the coordinates are whole numbers as long as nodes are pixels, so that the order of the sum does not matter.
    x, y = (sum_by(group, groups, np.rint(2 * v)) / (2 * members) for v in (graph.x, graph.y))
    squared = np.zeros(groups, dtype=np.int64)
    np.maximum.at(squared, group, graph.squared)
    return replace(graph, pixel=pixel, x=x, y=y, squared=squared, start=group[graph.start], end=group[graph.end])
