"""Minimum mapping unit: components below an area join a neighbour, on the graph of all components of the raster.

In ascending order of `(area, first pixel)` each component that is too small joins the adjacent one of its own class if
there is one (others having joined may have made them neighbours), else the one with the longest shared border, ties to
the first in raster order. The area of what it joins grows. What is nodata takes no part; what has no neighbour stays.

The order is kept without a queue: a component whose neighbours all come later cannot be changed by anything that comes
before it, so all such components join at once, round after round, with the result of doing one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geounet.types import NODATA, Executor
from geounet.vector import parts
from geounet.vector.attributes import Ground
from geounet.vector.cells import CellGrid
from geounet.vector.components import EDGES, Fragments, edge_labels, label_cell, least_by, sum_by, unite
from geounet.vector.source import U8, CellPlane, Plane
from geounet.vector.trace import I64

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
class Stage:
    """What to sieve, where, and under which name its parts stand."""

    plane: Plane
    grid: CellGrid
    folder: str
    name: str

    def path(self, what: str, index: int) -> Path:
        """Return a part's file."""
        return Path(self.folder) / f"{self.name}-{what}-{index}.npz"

    @property
    def result(self) -> CellPlane:
        """The sieved values."""
        return CellPlane(self.folder, f"{self.name}-values", self.grid)


def measure_cell(task: tuple[Stage, int]) -> int:
    """Write the components of a cell and how long the borders between them are; returns the bytes."""
    stage, index = task
    path = stage.path("graph", index)
    if not path.exists():
        rect = stage.grid.rect(index)
        labels = label_cell(stage.plane.read(rect), rect, stage.grid.cols)
        image, count = labels.image, len(labels.value)
        rows, cols = np.arange(rect.y0, rect.y1), np.arange(rect.x0, rect.x1)
        flat = image.ravel()
        sum_x = np.bincount(flat, weights=np.broadcast_to(cols, rect.shape).ravel(), minlength=count + 1)[1:]
        sum_y = np.bincount(flat, weights=np.broadcast_to(rows[:, None], rect.shape).ravel(), minlength=count + 1)[1:]
        met = []
        for one, two in ((image[:, :-1], image[:, 1:]), (image[:-1], image[1:])):
            differ = (one != two) & (one > 0) & (two > 0)
            met.append((one[differ], two[differ]))
        low, high, length = adjacency(np.concatenate([m[0] for m in met]) - 1, np.concatenate([m[1] for m in met]) - 1)
        renumber = np.arange(-1, count, dtype=np.int32)
        parts.save(
            path,
            {
                "first": labels.first,
                "value": labels.value,
                "count": labels.count,
                "sum_x": sum_x.astype(np.int64),
                "sum_y": sum_y.astype(np.int64),
                "low": low,
                "high": high,
                "length": length,
                **edge_labels(image, renumber),
            },
        )
    return path.stat().st_size


def sieve(stage: Stage, executor: Executor, ground: Ground, min_area_m2: float) -> dict[str, int]:
    """Write the sieved values of all cells; they are then `stage.result`."""
    Path(stage.folder).mkdir(parents=True, exist_ok=True)
    tasks = [(stage, i) for i in range(stage.grid.count)]
    size = sum(executor.map(measure_cell, tasks, f"{stage.name}: components"))
    counts = _decide(stage, ground, min_area_m2)
    size += sum(executor.map(write_cell, tasks, f"{stage.name}: small ones"))
    return counts | {"part_bytes": size}


def _decide(stage: Stage, ground: Ground, min_area_m2: float) -> dict[str, int]:
    grid = stage.grid
    fragments = Fragments(grid)
    tables: dict[str, list[Any]] = {name: [] for name in ("first", *SUMS)}
    low, high, length = [], [], []
    base = 0
    for index in range(grid.count):
        arrays = parts.load(stage.path("graph", index))
        fragments.add(index, arrays["value"], {name: arrays[name] for name in EDGES})
        for name, column in tables.items():
            column.append(arrays[name])
        low.append(arrays["low"] + base)
        high.append(arrays["high"] + base)
        length.append(arrays["length"])
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
    count, sum_x, sum_y = (sum_by(component, groups, table[name]) for name in SUMS)
    value = np.empty(groups, dtype=np.uint8)
    value[component] = values
    across = adjacency(component[a[~equal]], component[b[~equal]])
    one = np.concatenate([component[np.concatenate(low)], across[0]])
    two = np.concatenate([component[np.concatenate(high)], across[1]])
    weight = np.concatenate([*length, across[2]])
    held = one.nbytes * 3 + component.nbytes * 2 + sum(c.nbytes for c in table.values()) + groups * 64
    joined, rounds = join_small(value, count, sum_x, sum_y, one, two, weight, ground, min_area_m2)
    result = value[joined][component]
    for index in range(grid.count):
        parts.save_array(
            stage.path("joined", index).with_suffix(".npy"),
            result[fragments.offsets[index] : fragments.offsets[index + 1]],
        )
    return {
        "components": groups,
        "joined": int((joined != np.arange(groups)).sum()),
        "rounds": rounds,
        "driver_bytes": held,
    }


def join_small(
    value: U8,
    count: I64,
    sum_x: I64,
    sum_y: I64,
    one: I64,
    two: I64,
    length: I64,
    ground: Ground,
    min_area_m2: float,
) -> tuple[I64, int]:
    """Return for each component the one it ends up in, and the number of rounds.

    Components are numbered in the order of their first pixels. `count`, `sum_x`, `sum_y` are the number of their pixels
    and the sums of their columns and rows; `one`, `two`, `length` are the borders between them.
    """
    count, sum_x, sum_y = count.copy(), sum_x.copy(), sum_y.copy()
    parent = np.arange(len(value))

    def area_of(which: I64) -> npt.NDArray[np.float64]:
        n = count[which]
        return n * ground.pixel_areas(sum_x[which] / n, sum_y[which] / n)

    area = area_of(parent)
    one, two, length = adjacency(one, two, length)
    rounds = 0
    while True:
        # Only borders of small components matter.
        small = area < min_area_m2
        kept = small[one] | small[two]
        one, two, length = one[kept], two[kept], length[kept]
        if len(one) == 0:
            break
        rounds += 1
        earlier = (area[one] < area[two]) | ((area[one] == area[two]) & (one < two))
        ready = small.copy()
        ready[np.where(earlier, two, one)] = False
        joins = ready[one] | ready[two]
        source = np.where(ready[one], one, two)[joins]
        target = np.where(ready[one], two, one)[joins]
        best = np.lexsort((target, -length[joins], value[source] != value[target], source))
        source, target = source[best], target[best]
        chosen = np.flatnonzero(np.diff(source, prepend=-1))
        source, target = source[chosen], target[chosen]
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
    return parent, rounds


def write_cell(task: tuple[Stage, int]) -> int:
    """Write the sieved values of a cell; returns the bytes."""
    stage, index = task
    path = stage.result.path(index)
    if not path.exists():
        rect = stage.grid.rect(index)
        labels = label_cell(stage.plane.read(rect), rect, stage.grid.cols)
        joined = np.load(stage.path("joined", index).with_suffix(".npy"))
        parts.save_array(path, np.concatenate([[NODATA], joined]).astype(np.uint8)[labels.image])
    return path.stat().st_size
