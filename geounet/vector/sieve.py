"""Minimum mapping unit: components below an area join a neighbour, on the graph of all components of the raster.

In ascending order of `(area, first pixel)` each component that is too small joins the adjacent one of its own class if
there is one (others having joined may have made them neighbours), else the one with the longest shared border, ties to
the first in raster order. The area of what it joins grows. What is nodata takes no part; what has no neighbour stays.

The order is kept without a queue: a component whose neighbours all come later cannot be changed by anything that comes
before it, so all such components join at once, round after round, with the result of doing one at a time.

Most of that happens in the cells already. Of a component that crosses a cell's edge only a part is known there: it is
at least as large as that, and parts of one class may be one component. Where the outcome is the same in any case,
components join in their cell; the driver gets what crosses, what is not decided, and what is next to that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geounet.types import NODATA, Executor, Rect
from geounet.vector import parts
from geounet.vector.attributes import SAMPLES, Ground
from geounet.vector.cells import CellGrid
from geounet.vector.components import EDGES, Fragments, Labels, edge_labels, label_cell, least_by, sum_by, unite
from geounet.vector.source import U8, CellPlane, Plane
from geounet.vector.trace import I64, Bools

SUMS = ("count", "sum_x", "sum_y")


def adjacency(a: npt.NDArray[Any], b: npt.NDArray[Any], weight: I64 | None = None) -> tuple[I64, I64, I64]:
    """Return distinct pairs `a < b` and how often (or with which sum of weights) each occurs, sorted."""
    low, high = np.minimum(a, b).astype(np.int64), np.maximum(a, b).astype(np.int64)
    if len(low) == 0:
        return low, high, np.empty(0, np.int64)
    span = int(high.max()) + 1
    key = low * span + high
    if weight is None:
        found, length = np.unique(key, return_counts=True)
    else:
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        found, length = key[order][starts], np.add.reduceat(weight[order], starts)
    return found // span, found % span, length.astype(np.int64)


@dataclass(frozen=True)
class Unit:
    """The least area: in square metres if `ground` is given, else in pixels."""

    least: float
    ground: Ground | None = None

    def areas(self, count: I64, sum_x: I64, sum_y: I64) -> npt.NDArray[np.float64]:
        """Return the areas of components of so many pixels, with these sums of columns and rows."""
        if self.ground is None:
            return count.astype(np.float64)
        return count * self.ground.pixel_areas(sum_x / count, sum_y / count)

    @cached_property
    def smallest_pixel(self) -> float:
        """No pixel of the raster is smaller."""
        if self.ground is None:
            return 1.0
        x, y = (np.linspace(0, max(n - 1, 1), SAMPLES) for n in (self.ground.cols, self.ground.rows))
        everywhere = self.ground.pixel_areas(*(g.ravel() for g in np.meshgrid(x, y)))
        return float(everywhere.min()) * (1 - 1e-9)


@dataclass(frozen=True)
class Stage:
    """What to sieve, where, and under which name its parts stand."""

    plane: Plane
    grid: CellGrid
    folder: str
    name: str
    unit: Unit

    def path(self, what: str, index: int) -> Path:
        """Return a part's file."""
        return Path(self.folder) / f"{self.name}-{what}-{index}.npz"

    @property
    def result(self) -> CellPlane:
        """The sieved values."""
        return CellPlane(self.folder, f"{self.name}-values", self.grid)


@dataclass(frozen=True)
class Graph:
    """Components and the borders between them.

    Components are ordered by their first pixels. `count`, `sum_x`, `sum_y` are the number of their pixels and the sums
    of their columns and rows; `whole` tells those of which all is known. Borders between components `one < two` have
    `length`; there is one entry for each pair.
    """

    value: U8
    count: I64
    sum_x: I64
    sum_y: I64
    whole: Bools
    one: I64
    two: I64
    length: I64


def measure_cell(task: tuple[Stage, int]) -> int:
    """Join what can be joined in a cell; write what is left to decide. Returns the bytes."""
    stage, index = task
    path = stage.path("graph", index)
    if not path.exists():
        rect = stage.grid.rect(index)
        labels = label_cell(stage.plane.read(rect), rect, stage.grid.cols)
        graph = graph_of(labels, rect)
        joined = join_small(graph, stage.unit)
        unsure = ~joined.large
        matter = unsure[joined.one] | unsure[joined.two]
        one, two = joined.one[matter], joined.two[matter]
        left = ~graph.whole
        left[one] = True
        left[two] = True
        number = np.cumsum(left, dtype=np.int32) - 1
        pixels = np.zeros(256, np.int64)
        np.add.at(pixels, labels.value, labels.count)
        parts.save(
            path,
            {
                "first": labels.first[left],
                "value": labels.value[left],
                "count": joined.count[left],
                "sum_x": joined.sum_x[left],
                "sum_y": joined.sum_y[left],
                "low": number[one],
                "high": number[two],
                "length": joined.length[matter],
                # Of each component of the cell: which of those that are left it is part of, -1 where all is decided.
                "into": np.where(left[joined.into], number[joined.into], -1).astype(np.int32),
                "decided": labels.value[joined.into],
                "pixels": pixels,
                "counts": np.array([int(graph.whole.sum()), int((joined.into != np.arange(len(left))).sum())]),
                **edge_labels(labels.image, np.concatenate([[-1], np.where(left, number, -1)]).astype(np.int32)),
            },
        )
    return path.stat().st_size


def graph_of(labels: Labels, rect: Rect) -> Graph:
    """Return the components of a cell and the borders between them."""
    image, count = labels.image, len(labels.value)
    flat = image.ravel()
    rows, cols = np.arange(rect.y0, rect.y1), np.arange(rect.x0, rect.x1)
    sum_x = np.bincount(flat, weights=np.broadcast_to(cols, rect.shape).ravel(), minlength=count + 1)[1:]
    sum_y = np.bincount(flat, weights=np.broadcast_to(rows[:, None], rect.shape).ravel(), minlength=count + 1)[1:]
    met = []
    for one, two in ((image[:, :-1], image[:, 1:]), (image[:-1], image[1:])):
        differ = (one != two) & (one > 0) & (two > 0)
        met.append((one[differ], two[differ]))
    edges = adjacency(np.concatenate([m[0] for m in met]) - 1, np.concatenate([m[1] for m in met]) - 1)
    sums = (labels.count.astype(np.int64), sum_x.astype(np.int64), sum_y.astype(np.int64))
    return Graph(labels.value, *sums, ~labels.touches[1:], *edges)


def sieve(stage: Stage, executor: Executor) -> Sieved:
    """Write the sieved values of all cells; they are then `stage.result`."""
    Path(stage.folder).mkdir(parents=True, exist_ok=True)
    tasks = [(stage, i) for i in range(stage.grid.count)]
    size = sum(executor.map(measure_cell, tasks, f"{stage.name}: components"))
    found = _decide(stage)
    size += sum(executor.map(write_cell, tasks, f"{stage.name}: small ones"))
    return replace(found, part_bytes=size)


@dataclass(frozen=True)
class Sieved:
    """What the driver knows: the numbers of components and of those that joined others; pixels of each value before."""

    components: int
    joined: int
    pixels: dict[int, int]
    driver_bytes: int
    part_bytes: int = 0


def _decide(stage: Stage) -> Sieved:
    """Join what the cells left; writes the values of the components that are left of each."""
    grid = stage.grid
    fragments = Fragments(grid)
    tables: dict[str, list[Any]] = {name: [] for name in ("first", *SUMS)}
    low, high, length = [], [], []
    base = 0
    pixels, counts = np.zeros(256, np.int64), np.zeros(2, np.int64)
    names = ["value", "low", "high", "length", "pixels", "counts", *tables, *EDGES]
    for index in range(grid.count):
        arrays = parts.load(stage.path("graph", index), names)
        fragments.add(index, arrays["value"], {name: arrays[name] for name in EDGES})
        for name, column in tables.items():
            column.append(arrays[name])
        low.append(arrays["low"] + base)
        high.append(arrays["high"] + base)
        length.append(arrays["length"])
        pixels += arrays["pixels"]
        counts += arrays["counts"]
        base += len(arrays["value"])
    a, b = fragments.pairs()
    values = fragments.all_values()
    equal = values[a] == values[b] if len(a) else np.empty(0, np.bool_)
    component = unite(base, a[equal], b[equal]) if base else np.empty(0, np.int64)
    groups = int(component.max()) + 1 if base else 0
    table = {name: np.concatenate(column) for name, column in tables.items()}
    first = least_by(component, groups, table["first"])
    order = np.argsort(first)
    number = np.empty(groups, dtype=np.int64)
    number[order] = np.arange(groups)
    component = number[component]  # numbered by first pixel: the number is the rank
    value = np.empty(groups, dtype=np.uint8)
    value[component] = values
    across = adjacency(component[a[~equal]], component[b[~equal]])
    one = np.concatenate([component[np.concatenate(low)], across[0]])
    two = np.concatenate([component[np.concatenate(high)], across[1]])
    weight = np.concatenate([*length, across[2]])
    held = one.nbytes * 3 + component.nbytes * 2 + sum(c.nbytes for c in table.values()) + groups * 64
    count, sum_x, sum_y = (sum_by(component, groups, table[name]) for name in SUMS)
    edges = adjacency(one, two, weight)
    joined = join_small(Graph(value, count, sum_x, sum_y, np.ones(groups, np.bool_), *edges), stage.unit)
    result = value[joined.into][component]
    for index in range(grid.count):
        parts.save_array(
            stage.path("joined", index).with_suffix(".npy"),
            result[fragments.offsets[index] : fragments.offsets[index + 1]],
        )
    # Components inside of cells, of which some were left to decide, and those that cross cells.
    crossing = len(np.unique(component[_crossing(fragments, base)]))
    return Sieved(
        int(counts[0]) + crossing,
        int(counts[1]) + int((joined.into != np.arange(groups)).sum()),
        {v: int(n) for v, n in enumerate(pixels) if n},
        held,
    )


def _crossing(fragments: Fragments, count: int) -> I64:
    """Return the fragments that lie on the edge of their cell."""
    found = np.zeros(count, dtype=np.bool_)
    for index, edges in fragments.edges.items():
        for labels in edges.values():
            found[labels[labels >= 0] + fragments.offsets[index]] = True
    return np.flatnonzero(found)


@dataclass(frozen=True)
class Joined:
    """What became of a graph.

    `into` is the component that each ends up in. `count`, `sum_x`, `sum_y` are those of what has joined as well,
    `large` whether components certainly are large enough; `one`, `two`, `length` are the borders left that are not
    between two of these.
    """

    into: I64
    count: I64
    sum_x: I64
    sum_y: I64
    large: Bools
    one: I64
    two: I64
    length: I64


def join_small(graph: Graph, unit: Unit) -> Joined:
    """Join components that are too small to neighbours, as far as the outcome is certain.

    It is if all components are whole.
    """
    count, sum_x, sum_y = graph.count.copy(), graph.sum_x.copy(), graph.sum_y.copy()
    one, two, length = graph.one, graph.two, graph.length
    whole = graph.whole
    parent = np.arange(len(whole))

    def area_of(which: I64) -> npt.NDArray[np.float64]:
        """Area, or the least it can be."""
        n = count[which]
        return np.where(whole[which], unit.areas(n, sum_x[which], sum_y[which]), n * unit.smallest_pixel)

    area = area_of(parent)
    while True:
        # Only borders of small components matter.
        small = area < unit.least
        kept = small[one] | small[two]
        one, two, length = one[kept], two[kept], length[kept]
        ready = small & whole
        both = whole[one] & whole[two]
        ready[two[(area[one] < area[two]) | ((area[one] == area[two]) & ((one < two) | ~both))]] = False
        ready[one[(area[two] < area[one]) | ((area[one] == area[two]) & ((two < one) | ~both))]] = False
        source, target = _targets(graph, ready, one, two, length)
        if len(source) == 0:
            break
        parent[source] = target
        for total in (count, sum_x, sum_y):
            np.add.at(total, target, total[source])
        grown = np.unique(target)
        area[grown] = area_of(grown)
        area[source] = np.inf
        one, two = parent[one], parent[two]
        between = one != two
        one, two, length = adjacency(one[between], two[between], length[between])
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    return Joined(parent, count, sum_x, sum_y, area >= unit.least, one, two, length)


def _targets(graph: Graph, ready: Bools, one: I64, two: I64, length: I64) -> tuple[I64, I64]:
    """Return which components join, and which one each joins."""
    joins = ready[one] | ready[two]
    source = np.where(ready[one], one, two)[joins]
    target = np.where(ready[one], two, one)[joins]
    length = length[joins]
    best = np.lexsort((target, ~graph.whole[target], -length, graph.value[source] != graph.value[target], source))
    source, target, length = source[best], target[best], length[best]
    other, part = graph.value[source] != graph.value[target], ~graph.whole[target]
    first = np.diff(source, prepend=-1) != 0
    chosen = np.flatnonzero(first)
    mine = np.cumsum(first) - 1
    rivals = ~first & (other == other[chosen][mine])
    # Parts of one class may be one component, whose border is as long as theirs together: shorter, even then?
    parts_of = rivals & part
    groups, where = np.unique(mine[parts_of] * 256 + graph.value[target[parts_of]], return_inverse=True)
    together = np.zeros(len(groups), dtype=np.int64)
    np.add.at(together, where, length[parts_of])
    unsure = np.zeros(len(source), dtype=np.bool_)
    unsure[parts_of] = together[where] >= length[chosen][mine[parts_of]]
    # A whole one with a border as long as that of the chosen part: which comes first in raster order is not known.
    unsure |= rivals & part[chosen][mine] & (length == length[chosen][mine])
    certain = np.ones(len(chosen), dtype=np.bool_)
    certain[mine[unsure]] = False
    return source[chosen][certain], target[chosen][certain]


def write_cell(task: tuple[Stage, int]) -> int:
    """Write the sieved values of a cell; returns the bytes."""
    stage, index = task
    path = stage.result.path(index)
    if not path.exists():
        rect = stage.grid.rect(index)
        labels = label_cell(stage.plane.read(rect), rect, stage.grid.cols)
        found = parts.load(stage.path("graph", index), ["into", "decided"])
        joined = np.load(stage.path("joined", index).with_suffix(".npy"))
        into = found["into"]
        values = np.where(into >= 0, np.append(joined, NODATA)[into], found["decided"])
        parts.save_array(path, np.concatenate([[NODATA], values]).astype(np.uint8)[labels.image])
    return path.stat().st_size
