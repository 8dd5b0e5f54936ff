"""A coverage of all classes, cell by cell: outlines traced, borders drawn once, faces put together.

1. `trace_cell`, a task for each cell: outlines are traced and cut into borders; those that are whole in the cell are
   drawn. Components inside of the cell become features; of the others the cell hands over chains of vertices, on which
   only the borders that leave the cell still are as in the mask.
2. `polygons.plan`, in the driver, links the chains.
3. `assemble`, a task for each plan: puts chains together, draws the borders that cross cells, makes features.

What crosses cells is small once it is drawn: a component that spans the raster takes the room of its drawn outline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geounet.types import Executor, Rect
from geounet.vector import parts
from geounet.vector.borders.arcs import Paths, as_paths, on_frame
from geounet.vector.borders.corners import FINE, AllCorners, CellCorners, packed
from geounet.vector.borders.reduce import Rule, reduced
from geounet.vector.components import Labels, edge_labels, label_cell
from geounet.vector.confidence import sums
from geounet.vector.polygons import TABLE, Stage, gather, group_offsets, plan, signed_areas
from geounet.vector.source import U8
from geounet.vector.trace import I32, I64, Bools, Pieces, corners, trace

AT_ONCE = 100_000
"""Vertices of faces that are made to features at once: on the way they take many times the room of coordinates."""

PLAN_VERTICES = 200_000
"""Vertices of a plan of components that cross cells, most of them drawn already; a single component may have more."""


@dataclass(frozen=True)
class Faces:
    """Polygons with finished borders, ordered by `first`.

    `first`, `value`, `count`, `total`, `counted` are those of `polygons.Polygons`, of the pixels. `coords`
    `(vertices, 2)` int32 are `x, y` in `FINE` parts of a pixel; ring `i` has those from `rings[i]` to `rings[i + 1]`,
    not closed, from its first vertex in raster order on, clockwise (y down) for shells; face `j` has the rings from
    `shells[j]` to `shells[j + 1]`, its shell first.
    """

    first: I64
    value: U8
    count: I64
    total: I64
    counted: I64
    coords: I32
    rings: I64
    shells: I64

    def __len__(self) -> int:
        return len(self.first)

    def some(self, which: I64) -> Faces:
        """Return some faces."""
        ring, shells = gather(self.shells, which)
        vertex, rings = gather(self.rings, ring)
        table = {name: getattr(self, name)[which] for name in TABLE}
        return Faces(**table, coords=self.coords[vertex], rings=rings, shells=shells)


Finish = Callable[[Faces], pa.Table]
"""Makes features: columns `id` (sorted), `geom` (WKB) and the layer's own."""


@dataclass(frozen=True)
class Task:
    """What a task for a cell or a plan needs to know."""

    stage: Stage
    rule: Rule
    finish: Finish
    index: int

    def features(self, what: str) -> Path:
        """Return the file of features of a `cell` or `plan`."""
        return Path(self.stage.folder) / f"{self.stage.name}-features-{what}-{self.index}.arrow"


@dataclass(frozen=True)
class Covered:
    """What came out: files of features, each sorted by `id`, and what the driver knows of them.

    `areas` is the area of the faces of each value in pixels, `pixels` what it was before borders were drawn; `vertices`
    are those of outlines before and after.
    """

    paths: Sequence[Path]
    components: int
    driver_bytes: int
    part_bytes: int
    pixels: dict[int, int]
    areas: dict[int, float]
    vertices: tuple[int, int]


def cover(stage: Stage, rule: Rule, finish: Finish, executor: Executor) -> Covered:
    """Make the features of all components of a plane; those that are there already are used."""
    Path(stage.folder).mkdir(parents=True, exist_ok=True)
    cells = [Task(stage, rule, finish, i) for i in range(stage.grid.count)]
    size = sum(executor.map(trace_cell, cells, f"{stage.name}: outlines"))
    count, crossing, held = plan(stage, PLAN_VERTICES)
    plans = [Task(stage, rule, finish, i) for i in range(count)]
    size += sum(executor.map(assemble, plans, f"{stage.name}: borders across cells"))

    pixels, areas = np.zeros(256, np.int64), np.zeros(256, np.int64)
    vertices = np.zeros(2, np.int64)
    components = crossing
    for what, number in (("cell", len(cells)), ("drawn", count)):
        for index in range(number):
            facts = parts.load(stage.path(what, index), ["pixels", "areas", "vertices", "finished"])
            pixels += facts["pixels"]
            areas += facts["areas"]
            vertices += facts["vertices"]
            components += int(facts["finished"]) if what == "cell" else 0
    return Covered(
        [t.features("cell") for t in cells] + [t.features("plan") for t in plans],
        components,
        held,
        size,
        {v: int(n) for v, n in enumerate(pixels) if n},
        {v: int(a) / (2 * FINE * FINE) for v, a in enumerate(areas) if pixels[v]},
        (int(vertices[0]), int(vertices[1])),
    )


def trace_cell(task: Task) -> int:
    """Trace one cell, draw its borders and make its features; writes its parts unless they are there. Returns bytes."""
    stage = task.stage
    path, features = stage.path("cell", task.index), task.features("cell")
    if not path.exists() or not features.exists():
        rect = stage.grid.rect(task.index)
        halo = stage.plane.read(Rect(rect.y0 - 1, rect.x0 - 1, rect.y1 + 1, rect.x1 + 1))
        values = np.ascontiguousarray(halo[1:-1, 1:-1])
        labels = label_cell(values, rect, stage.grid.cols)
        total, counted = sums(stage.probability, rect, values, labels)
        pieces = trace(halo, labels.image, labels.touches, rect, stage.grid.cols, junctions=True)
        bent = corners(halo)
        # Corners at the edge of the raster stay, so that it is covered; other vertices there are only where cells meet.
        bends = bent[pieces.coords[:, 1] - rect.y0, pieces.coords[:, 0] - rect.x0]
        fixed = pieces.junction | (bends & on_frame(pieces.coords, stage.grid.rows, stage.grid.cols))
        paths = as_paths(pieces.coords, fixed, pieces.offsets, pieces.closed)
        paths = reduced(paths, task.rule, CellCorners(bent, rect.x0, rect.y0))
        faces, handed = _parted(labels, total, counted, pieces, paths)
        _save_features(features, faces, task.finish)
        pixels = np.zeros(256, np.int64)
        np.add.at(pixels, labels.value, labels.count)
        parts.save(path, handed | packed(bent) | _facts(faces, pixels, len(pieces.coords)))
    return path.stat().st_size + features.stat().st_size


def _parted(
    labels: Labels, total: I64, counted: I64, pieces: Pieces, paths: Paths
) -> tuple[Faces, dict[str, npt.NDArray[Any]]]:
    """Return the faces inside of the cell, and the arrays of what crosses its edge."""
    table: dict[str, Any] = {
        "first": labels.first, "value": labels.value, "count": labels.count, "total": total, "counted": counted
    }  # fmt: skip
    crossing = labels.touches[1:]
    inner = ~labels.touches[pieces.label]
    twice = _twice(pieces.coords, pieces.offsets, pieces.closed)
    rings = np.flatnonzero(inner)
    # Outlines that were followed wrongly cannot have the areas of their pixels.
    area = np.zeros(len(crossing), dtype=np.int64)
    np.add.at(area, pieces.label[rings] - 1, twice[rings])
    _check(area[~crossing], labels.count[~crossing], labels.first[~crossing])
    elements, offsets = gather(paths.offsets, rings)
    order = np.cumsum(~crossing) - 1
    coords, ring, shells = ordered(paths.coords[elements], offsets, order[pieces.label[rings] - 1])
    faces = Faces(**{k: v[~crossing] for k, v in table.items()}, coords=coords, rings=ring, shells=shells)

    renumber = np.full(len(crossing) + 1, -1, dtype=np.int32)
    renumber[1:][crossing] = np.arange(int(crossing.sum()))
    handed = np.flatnonzero(~inner)
    elements, offsets = gather(paths.offsets, handed)
    arrays = {f"fragment_{name}": column[crossing] for name, column in table.items()}
    arrays |= edge_labels(labels.image, renumber)
    return faces, arrays | {
        "piece_coords": paths.coords[elements],
        "piece_fixed": paths.fixed[elements],
        "piece_raw": paths.raw[elements],
        "piece_offsets": offsets,
        "piece_closed": pieces.closed[handed],
        "piece_twice": twice[handed],
        "piece_fragment": renumber[pieces.label[handed]],
        "piece_start": pieces.start[handed],
        "piece_end": pieces.end[handed],
        "piece_same": pieces.same[handed],
        "piece_other": renumber[np.maximum(pieces.other[handed], 0)],
        "piece_other_pixel": pieces.other_pixel[handed],
    }


def assemble(task: Task) -> int:
    """Put together the components of a plan, draw what is left of their borders, make features. Returns bytes."""
    stage = task.stage
    path, features = stage.path("drawn", task.index), task.features("plan")
    if not path.exists() or not features.exists():
        arrays = parts.load(stage.path("plan", task.index))
        paths = _joined(stage, arrays)
        mapped = AllCorners(stage.grid, partial(stage.path, "cell"))
        paths = reduced(paths, task.rule, mapped)
        coords, rings, shells = ordered(paths.coords, paths.offsets, arrays["component"])
        faces = Faces(**{name: arrays[name] for name in TABLE}, coords=coords, rings=rings, shells=shells)
        _save_features(features, faces, task.finish)
        parts.save(path, _facts(faces, np.zeros(256, np.int64), 0))
    return path.stat().st_size + features.stat().st_size


def _joined(stage: Stage, arrays: parts.Arrays) -> Paths:
    """Return the rings of a plan, put together of the pieces of cells."""
    size = arrays["size"].astype(np.int64)
    where = np.concatenate([[0], np.cumsum(size)])
    coords = np.empty((where[-1], 2), dtype=np.int32)
    fixed, raw = np.empty(where[-1], dtype=np.bool_), np.empty(where[-1], dtype=np.bool_)
    twice, closed = np.empty(len(size), dtype=np.int64), np.empty(len(size), dtype=np.bool_)
    names = [f"piece_{n}" for n in ("coords", "fixed", "raw", "offsets", "closed", "twice")]
    for cell in np.unique(arrays["cell"]):
        part = parts.load(stage.path("cell", int(cell)), names)
        mine = np.flatnonzero(arrays["cell"] == cell)
        piece = arrays["piece"][mine].astype(np.int64)
        source, _ = gather(part["piece_offsets"], piece)
        target, _ = gather(where, mine)
        coords[target] = part["piece_coords"][source]
        fixed[target], raw[target] = part["piece_fixed"][source], part["piece_raw"][source]
        twice[mine], closed[mine] = part["piece_twice"][piece], part["piece_closed"][piece]
    # From the last vertex of a piece, which is as in the mask, to the first of the next one.
    after = np.arange(1, len(size) + 1)
    after[arrays["offsets"][1:] - 1] = arrays["offsets"][:-1]
    ends, begins = coords[where[1:] - 1].astype(np.int64) // FINE, coords[where[:-1]].astype(np.int64) // FINE
    begins = begins[after]
    twice += np.where(closed, 0, ends[:, 0] * begins[:, 1] - begins[:, 0] * ends[:, 1])
    area = np.zeros(len(arrays["first"]), dtype=np.int64)
    np.add.at(area, np.repeat(arrays["component"], np.diff(arrays["offsets"])), twice)
    _check(area, arrays["count"], arrays["first"])
    return _without_straight(coords, fixed, raw, where[arrays["offsets"]])


def _without_straight(coords: I32, fixed: Bools, raw: Bools, rings: I64) -> Paths:
    """Drop the vertices where a border that is as in the mask goes straight on from one cell into the next."""
    after = np.arange(1, len(coords) + 1)
    after[rings[1:] - 1] = rings[:-1]
    before = np.arange(-1, len(coords) - 1)
    before[rings[:-1]] = rings[1:] - 1
    straight = raw & ~fixed & (coords[before] == coords[after]).any(axis=1)
    kept = np.concatenate([[0], np.cumsum(~straight)])
    stay = ~straight
    return Paths(coords[stay], fixed[stay], raw[stay], kept[rings], np.ones(len(rings) - 1, np.bool_))


def _twice(coords: I32, offsets: I64, closed: Bools) -> I64:
    """Return twice the area between each run of vertices and the origin; of closed ones, twice their area. Exact."""
    if len(closed) == 0:
        return np.zeros(0, np.int64)
    x, y = coords[:, 0].astype(np.int64), coords[:, 1].astype(np.int64)
    after = np.arange(1, len(coords) + 1)
    last = offsets[1:] - 1
    after[last] = np.where(closed, offsets[:-1], last)
    return np.asarray(np.add.reduceat(x * y[after] - x[after] * y, offsets[:-1]))


def _check(twice: I64, count: I64, first: I64) -> None:
    wrong = np.flatnonzero(twice != 2 * count)
    if len(wrong):
        i = wrong[0]
        raise AssertionError(f"component {first[i]}: area {twice[i] / 2} px, {count[i]} pixels")


def ordered(coords: I32, offsets: I64, owner: I64) -> tuple[I32, I64, I64]:
    """Start each ring at its first vertex in raster order; order the rings of each owner by it, the shell first.

    Parameters
    ----------
    coords, offsets
        Rings.
    owner
        Of each ring, counted from 0 without gaps.

    Returns
    -------
    coords, rings, shells
        As `Faces` has them.
    """
    if len(owner) == 0:
        return coords, np.zeros(1, np.int64), np.zeros(1, np.int64)
    rank = (coords[:, 1].astype(np.int64) << 32) + coords[:, 0]
    least = np.minimum.reduceat(rank, offsets[:-1])
    sizes = np.diff(offsets)
    start = np.flatnonzero(rank == np.repeat(least, sizes))
    shell = signed_areas(coords, offsets) > 0
    if not np.array_equal(np.bincount(owner[shell], minlength=int(owner.max()) + 1), np.ones(int(owner.max()) + 1)):
        raise AssertionError("a face has not just one shell")
    order = np.lexsort((least, ~shell, owner))
    elements, rings = gather(offsets, order)
    begin, length = np.repeat(offsets[order], sizes[order]), np.repeat(sizes[order], sizes[order])
    elements = begin + (elements - begin + np.repeat((start - offsets[:-1])[order], sizes[order])) % length
    return coords[elements], rings, group_offsets(owner[order])


def _save_features(path: Path, faces: Faces, finish: Finish) -> None:
    # At least one slice, and at least one face in each.
    part = faces.rings[faces.shells[:-1]] // AT_ONCE
    slices = np.split(np.arange(len(faces)), np.flatnonzero(np.diff(part)) + 1)
    parts.save_tables(path, (finish(faces.some(which)) for which in slices))


def _facts(faces: Faces, pixels: I64, vertices: int) -> dict[str, npt.NDArray[Any]]:
    """Return arrays of what is summed up over all parts: pixels and (twice, `FINE`) areas by value, vertices."""
    areas = np.zeros(256, np.int64)
    np.add.at(areas, faces.value[np.repeat(np.arange(len(faces)), np.diff(faces.shells))], _rings_twice(faces))
    return {
        "pixels": pixels,
        "areas": areas,
        "vertices": np.array([vertices, len(faces.coords)]),
        "finished": np.array(len(faces)),
    }


def _rings_twice(faces: Faces) -> I64:
    return _twice(faces.coords, faces.rings, np.ones(len(faces.rings) - 1, np.bool_))
