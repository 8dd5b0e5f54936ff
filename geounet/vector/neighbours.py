"""Outlines of different parts that overlap: found part by part, settled cluster by cluster.

1. `overlaps`, a task for each part: pairs of buildings near each other, and which of them overlap. A cell also looks at
   buildings of other parts that reach into it; those that cross cells are compared with each other by tasks of their
   own.
2. `clusters`, in the driver: of the buildings that overlap others, which are near each other.
3. `settle`, a task for some clusters: see `outlines.clear`.

In the driver's memory are the boxes of what crosses cells, and the buildings that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geounet.types import Executor
from geounet.vector import parts
from geounet.vector.cells import CellGrid
from geounet.vector.components import unite
from geounet.vector.features import from_shapely, to_shapely
from geounet.vector.outlines import clear
from geounet.vector.outlines.gate import Geometries
from geounet.vector.trace import I64

PAIRS = 50_000
"""Pairs of buildings that cross cells, to a task."""

SETTLED = 2_000
"""Buildings that overlap others, to a task; a single cluster may have more."""

LEVELS = ("best", "simple", "raw")


@dataclass(frozen=True)
class Outlined:
    """Files with outlines, one for each part of a polygon stage: first those of cells, then those of plans.

    Buildings of a part are in the order of their ids; all are numbered part by part. Tasks carry this, so it is small.
    """

    grid: CellGrid
    plans: int
    folder: str
    name: str

    @property
    def count(self) -> int:
        """Number of parts."""
        return self.grid.count + self.plans

    def path(self, what: str, index: int) -> Path:
        """Return a file of this stage."""
        return Path(self.folder) / f"{self.name}-{what}-{index}.npz"

    def part(self, index: int) -> Path:
        """Return the file with the outlines of a part."""
        return self.path("outlines", index)

    def number(self, counts: Sequence[int]) -> None:
        """Write how many buildings each part has."""
        parts.save(self.path("starts", 0), {"starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)})

    @property
    def starts(self) -> I64:
        """Number of the first building of each part, and the end."""
        return _starts(self.path("starts", 0))


@lru_cache(maxsize=4)
def _starts(path: Path) -> I64:
    return parts.load(path)["starts"]


def ragged(prefix: str, shapes: Geometries) -> parts.Arrays:
    """Return polygons as arrays by name."""
    coords, rings, shells = from_shapely(shapes)
    return {f"{prefix}_coords": coords, f"{prefix}_rings": rings, f"{prefix}_shells": shells}


def unragged(arrays: parts.Arrays, prefix: str) -> Geometries:
    """Return polygons from arrays by name."""
    return to_shapely(arrays[f"{prefix}_coords"], arrays[f"{prefix}_rings"], arrays[f"{prefix}_shells"])


def names(*prefixes: str) -> list[str]:
    """Return the names of the arrays of polygons."""
    return [f"{prefix}_{name}" for prefix in prefixes for name in ("coords", "rings", "shells")]


@dataclass(frozen=True)
class _Look:
    """Buildings to compare: those of a part, also with others that reach into it; or (no part) given pairs."""

    of: Outlined
    index: int
    part: int | None
    reached: bool

    @property
    def given(self) -> Path:
        return self.of.path("given", self.index)

    @property
    def found(self) -> Path:
        return self.of.path("near", self.index)


def overlaps(task: _Look) -> dict[str, int]:
    """Find pairs that are near each other, and which of them overlap; writes them unless they are there."""
    if not task.found.exists():
        of = task.of
        if task.part is None:
            given = parts.load(task.given)
            a, b = given["a"], given["b"]
        else:
            base = int(of.starts[task.part])
            box = parts.load(of.part(task.part), ["box"])["box"]
            a, b = clear.near(box)
            a, b = a + base, b + base
            if task.reached:
                given = parts.load(task.given)
                mine, others = (np.asarray(shapely.box(*some.T)) for some in (box, given["box"]))
                other = shapely.STRtree(mine).query(others)
                a = np.concatenate([a, other[1] + base])
                b = np.concatenate([b, given["others"][other[0]]])
        a, b = np.minimum(a, b), np.maximum(a, b)
        shapes = Some(of, np.unique(np.concatenate([a, b])), ("best",))
        area = np.zeros(len(a))
        for low in range(0, len(a), PAIRS):
            some = slice(low, low + PAIRS)
            area[some] = clear.overlap(shapes.of("best", a[some]), shapes.of("best", b[some]))
        parts.save(task.found, {"a": a, "b": b, "over": area > clear.LEAST})
    return {"bytes": task.found.stat().st_size}


class Some:
    """Columns of some buildings of several parts; `numbers` are sorted."""

    def __init__(self, of: Outlined, numbers: I64, levels: Sequence[str], columns: Sequence[str] = ()) -> None:
        self._numbers = numbers
        self._shapes = {level: np.empty(len(numbers), dtype=object) for level in levels}
        self.columns: dict[str, npt.NDArray[Any]] = {}
        starts = of.starts
        part = np.searchsorted(starts, numbers, side="right") - 1
        for index in np.unique(part).tolist():
            at = np.flatnonzero(part == index)
            arrays = parts.load(of.part(index), [*names(*levels), *columns])
            row = numbers[at] - starts[index]
            for level in levels:
                self._shapes[level][at] = unragged(arrays, level)[row]
            for name in columns:
                column = self.columns.setdefault(name, np.empty(len(numbers), dtype=arrays[name].dtype))
                column[at] = arrays[name][row]

    def of(self, level: str, numbers: I64) -> Geometries:
        """Return outlines by the buildings' numbers."""
        return self._shapes[level][np.searchsorted(self._numbers, numbers)]

    def column(self, name: str, numbers: I64) -> npt.NDArray[Any]:
        """Return values by the buildings' numbers."""
        return self.columns[name][np.searchsorted(self._numbers, numbers)]


def _looks(of: Outlined) -> list[_Look]:
    """Write what the tasks have to compare beside their own parts."""
    grid, starts = of.grid, of.starts
    crossing: list[I64] = []
    boxes: list[npt.NDArray[np.float64]] = []
    for index in range(of.count):
        box = parts.load(of.part(index), ["box"])["box"]
        out = np.ones(len(box), dtype=np.bool_)
        if index < grid.count:
            y0, x0, y1, x1 = grid.rect(index)
            out = (box[:, 0] <= x0) | (box[:, 1] <= y0) | (box[:, 2] >= x1) | (box[:, 3] >= y1)
        crossing.append(np.flatnonzero(out) + starts[index])
        boxes.append(box[out])
    numbers, box = np.concatenate(crossing), np.concatenate(boxes)
    down, across = grid.shape
    low = np.clip((box[:, :2] // grid.cell).astype(np.int64), 0, [across - 1, down - 1])
    high = np.clip((box[:, 2:] // grid.cell).astype(np.int64), 0, [across - 1, down - 1])
    # The cells under each box, one entry for each.
    wide, tall = (high - low + 1).T
    entry = np.repeat(np.arange(len(numbers)), wide * tall)
    step = np.arange(len(entry)) - np.repeat(np.cumsum(wide * tall) - wide * tall, wide * tall)
    cell = (low[entry, 1] + step // wide[entry]) * across + low[entry, 0] + step % wide[entry]
    foreign = cell != np.searchsorted(starts, numbers[entry], side="right") - 1
    entry, cell = entry[foreign], cell[foreign]
    order = np.argsort(cell, kind="stable")
    bounds = np.searchsorted(cell[order], np.arange(grid.count + 1))
    looks = []
    for index in range(grid.count):
        mine = entry[order[bounds[index] : bounds[index + 1]]]
        looks.append(_Look(of, index, index, len(mine) > 0))
        if len(mine) and not looks[-1].given.exists():
            parts.save(looks[-1].given, {"others": numbers[mine], "box": box[mine]})
    whole = numbers >= starts[grid.count]
    a, b = clear.near(box[whole]) if whole.any() else (np.empty(0, np.int64), np.empty(0, np.int64))
    a, b = numbers[whole][a], numbers[whole][b]
    for at in range(0, len(a), PAIRS):
        looks.append(_Look(of, len(looks), None, True))
        if not looks[-1].given.exists():
            parts.save(looks[-1].given, {"a": a[at : at + PAIRS], "b": b[at : at + PAIRS]})
    return looks


@dataclass(frozen=True)
class _Settle:
    of: Outlined
    index: int

    @property
    def given(self) -> Path:
        return self.of.path("clusters", self.index)

    @property
    def found(self) -> Path:
        return self.of.path("settled", self.index)


def settle(task: _Settle) -> dict[str, int]:
    """Settle some clusters; writes outlines, levels and what is trimmed by the buildings' numbers."""
    if not task.found.exists():
        given = parts.load(task.given)
        members, others = given["members"], given["others"]
        some = Some(task.of, np.unique(np.concatenate([members, others])), LEVELS, ("id",))
        made: list[clear.Settled] = []
        number: list[I64] = []
        for k in range(len(given["member_offsets"]) - 1):
            mine = members[given["member_offsets"][k] : given["member_offsets"][k + 1]]
            mine = mine[np.argsort(some.column("id", mine))]
            by = others[given["other_offsets"][k] : given["other_offsets"][k + 1]]
            by = by[np.argsort(some.column("id", by))]
            made.append(clear.settled([some.of(level, mine) for level in LEVELS], some.of("best", by)))
            number.append(mine)
        parts.save(
            task.found,
            {
                "number": np.concatenate(number),
                "level": np.concatenate([m.level for m in made]),
                "cut": np.concatenate([m.cut for m in made]),
                **ragged("final", np.concatenate([m.outline for m in made])),
            },
        )
    return {"bytes": task.found.stat().st_size}


def _clusters(of: Outlined, looks: Sequence[_Look]) -> list[_Settle]:
    """Write which buildings are to be settled together; near ones that overlap nothing are in their way."""
    moving = [np.empty(0, np.int64)]
    for look in looks:
        arrays = parts.load(look.found)
        moving += [arrays["a"][arrays["over"]], arrays["b"][arrays["over"]]]
    movers = np.unique(np.concatenate(moving))
    if len(movers) == 0:
        return []
    near: list[tuple[I64, I64]] = []
    for look in looks:
        arrays = parts.load(look.found)
        touched = np.isin(arrays["a"], movers) | np.isin(arrays["b"], movers)
        near.append((arrays["a"][touched], arrays["b"][touched]))
    a, b = (np.concatenate([n[k] for n in near]) for k in (0, 1))
    ia, ib = np.searchsorted(movers, a), np.searchsorted(movers, b)
    a_moves, b_moves = np.isin(a, movers), np.isin(b, movers)
    both = a_moves & b_moves
    cluster = unite(len(movers), ia[both], ib[both])
    order = np.lexsort((movers, cluster))
    count = int(cluster.max()) + 1
    offsets = np.searchsorted(cluster[order], np.arange(count + 1))
    way = np.concatenate(
        [
            np.column_stack([cluster[ia[a_moves & ~b_moves]], b[a_moves & ~b_moves]]),
            np.column_stack([cluster[ib[b_moves & ~a_moves]], a[b_moves & ~a_moves]]),
        ]
    )
    way = np.unique(way, axis=0)
    way_offsets = np.searchsorted(way[:, 0], np.arange(count + 1))
    tasks: list[_Settle] = []
    low = 0
    while low < count:
        high = max(low + 1, int(np.searchsorted(offsets, offsets[low] + SETTLED, side="right")) - 1)
        tasks.append(_Settle(of, len(tasks)))
        if not tasks[-1].given.exists():
            parts.save(
                tasks[-1].given,
                {
                    "members": movers[order[offsets[low] : offsets[high]]],
                    "member_offsets": offsets[low : high + 1] - offsets[low],
                    "others": way[way_offsets[low] : way_offsets[high], 1],
                    "other_offsets": way_offsets[low : high + 1] - way_offsets[low],
                },
            )
        low = high
    return tasks


@dataclass(frozen=True)
class Changes:
    """Files with settled buildings, and which of them concern each part."""

    paths: tuple[Path, ...]
    of_part: dict[int, tuple[int, ...]]
    bytes: int

    def of(self, part: int) -> tuple[Path, ...]:
        """Return the files that have buildings of a part."""
        return tuple(self.paths[k] for k in self.of_part.get(part, ()))


def cleared(of: Outlined, executor: Executor) -> Changes:
    """See that no two outlines overlap; returns what changes."""
    looks = _looks(of)
    size = sum(r["bytes"] for r in executor.map(overlaps, looks, f"{of.name}: neighbours"))
    tasks = _clusters(of, looks)
    size += sum(r["bytes"] for r in executor.map(settle, tasks, f"{of.name}: overlaps"))
    of_part: dict[int, list[int]] = {}
    for task in tasks:
        part = np.searchsorted(of.starts, parts.load(task.found, ["number"])["number"], side="right") - 1
        for index in np.unique(part).tolist():
            of_part.setdefault(index, []).append(task.index)
    return Changes(tuple(t.found for t in tasks), {k: tuple(v) for k, v in of_part.items()}, size)
