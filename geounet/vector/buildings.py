"""The layer `buildings`: instances, regular outlines that do not overlap, and their attributes.

1. Components of the mask are polygonized exactly (`polygons`).
2. `outline`, a task for each part: small holes are filled, small components left out, the others divided into
   instances (`instances`) and given outlines (`outlines`).
3. Outlines that overlap are settled (`neighbours`).
4. `finish`, a task for each part: attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely
from skimage import measure

from geounet.config.job import Buildings
from geounet.types import Executor
from geounet.vector import parts, polygons
from geounet.vector.attributes import F64, Ground
from geounet.vector.confidence import mean
from geounet.vector.features import areas, from_shapely, nullable, perimeters, to_shapely, wkb
from geounet.vector.instances import Divider, Instances, divided, holes, traced
from geounet.vector.neighbours import Changes, Outlined, cleared, names, ragged, unragged
from geounet.vector.outlines.clear import boxes
from geounet.vector.outlines.gate import simplified
from geounet.vector.outlines.regular import RAW, SIMPLIFIED, STATUS, TRIMMED, Outlines, regularised
from geounet.vector.polygons import Polygons, Stage, gather, polygons_of, signed_areas
from geounet.vector.schema import BUILDINGS
from geounet.vector.trace import I64

SQUARE = 0.01
"""Pixels whose sides differ by less count as square: a conformal map of the ellipsoid is so to about this."""

AT_ONCE = 500
"""Buildings that are outlined at once; they take some 35 kB each meanwhile."""


@dataclass(frozen=True)
class Least:
    """A least area, in square metres on the ground or in pixels; 0 where metres are not known."""

    value: float
    pixels: bool

    @classmethod
    def of(cls, metres: float, pixels: float | None, ground: Ground) -> Least:
        """Return what is said in one of two units."""
        if pixels is not None:
            return cls(pixels, True)
        return cls(metres if ground.known else 0.0, False)

    def rings(self, ground: Ground, some: Polygons) -> F64:
        """Return the areas of rings in the unit."""
        if self.pixels:
            return np.abs(signed_areas(some.coords, some.rings)).astype(np.float64)
        return ground.ring_areas(some.coords, some.rings)

    def dense(self, ground: Ground, some: Polygons) -> F64:
        """Return how many pixels are one of the unit, where each polygon begins."""
        if self.pixels or len(some) == 0:
            return np.ones(len(some))
        x, y = some.coords[some.rings[some.shells[:-1]]].T
        return 1 / ground.pixel_areas(x, y)


@dataclass(frozen=True)
class Drawing:
    """How buildings are made; see the job file's section `buildings`."""

    ground: Ground
    name: str
    area: Least
    hole: Least
    tolerance_px: float
    outline: str
    divider: Divider

    @classmethod
    def of(cls, section: Buildings, ground: Ground, name: str, divider: Divider) -> Drawing:
        """Return how the section of a job file says it; `name` is the class of the features."""
        tolerance = section.tolerance_px if section.tolerance_m is None else section.tolerance_m / ground.gsd
        return cls(
            ground,
            name,
            Least.of(section.min_area_m2, section.min_area_px, ground),
            Least.of(section.min_hole_m2, section.min_hole_px, ground),
            tolerance,
            section.outline,
            divider,
        )


@dataclass(frozen=True)
class _Part:
    """A part of the polygon stage to outline, or to finish."""

    stage: Stage
    drawing: Drawing
    of: Outlined
    index: int
    changes: tuple[Path, ...] = ()

    def polygons(self) -> Polygons:
        """Return the components of the part."""
        cells = self.of.grid.count
        if self.index < cells:
            return polygons_of(self.stage, "cell", self.index)
        return polygons_of(self.stage, "plan", self.index - cells)

    @property
    def features(self) -> Path:
        """Where the features go."""
        return Path(self.of.folder) / f"{self.of.name}-features-{self.index}.arrow"


@dataclass(frozen=True)
class Made:
    """Files with features, each sorted by `id`, and facts about them."""

    paths: Sequence[Path]
    components: int
    driver_bytes: int
    part_bytes: int
    whole: int
    status: dict[str, int]


def buildings(stage: Stage, drawing: Drawing, executor: Executor) -> Made:
    """Make the features of all buildings of a raster."""
    traced = polygons.polygonize(stage, executor)
    of = Outlined(stage.grid, traced.plans, stage.folder, f"{stage.name}-buildings")
    tasks = [_Part(stage, drawing, of, index) for index in range(of.count)]
    counts = [0] * of.count
    whole = size = 0
    # What crosses cells comes first: those tasks take longest.
    for receipt in executor.map(outline, tasks[::-1], f"{stage.name}: regular outlines"):
        counts[receipt["index"]] = receipt["buildings"]
        whole += receipt["whole"]
        size += receipt["bytes"]
    of.number(counts)
    changes = Changes((), {}, 0)
    if drawing.outline != "raw" and drawing.tolerance_px > 0:
        changes = cleared(of, executor)
    tasks = [replace(task, changes=changes.of(task.index)) for task in tasks]
    status = dict.fromkeys(STATUS, 0)
    for receipt in executor.map(finish, tasks, f"{stage.name}: features"):
        size += receipt.pop("bytes")
        for word, count in receipt.items():
            status[word] += count
    return Made(
        [task.features for task in tasks],
        traced.components,
        traced.driver_bytes,
        size + traced.part_bytes + changes.bytes,
        whole,
        status,
    )


def outline(task: _Part) -> dict[str, int]:
    """Outline the buildings of a part; writes them unless they are there. Returns a receipt."""
    path = task.of.part(task.index)
    if not path.exists():
        found = _instances(task.drawing, task.polygons(), task.stage.grid.cols)
        scale = even(task.drawing.ground, found.polygons, found.group)
        made = [
            _outlines(task.drawing, found.polygons.part(low, high), found.group[low:high], scale[low:high])
            for low, high in _slices(found.group)
        ]
        buildings = found.polygons
        order = np.argsort(buildings.first)
        arrays: parts.Arrays = {
            "id": buildings.first[order],
            "confidence": mean(buildings.total, buildings.counted)[order],
            "scale": scale[order],
            "whole": np.array(found.whole),
        }
        for name in ("status", "plain", "angle"):
            arrays[name] = np.concatenate([getattr(m, name) for m in made])[order]
        shapes = {name: np.concatenate([getattr(m, name) for m in made])[order] for name in ("best", "simple", "raw")}
        arrays["box"] = boxes(*shapes.values()) if len(order) else np.empty((0, 4))
        for name, some in shapes.items():
            arrays |= ragged(name, some)
        parts.save(path, arrays)
    facts = parts.load(path, ["id", "whole"])
    return {
        "index": task.index, "buildings": len(facts["id"]), "whole": int(facts["whole"]), "bytes": path.stat().st_size
    }  # fmt: skip


def _slices(group: I64) -> list[tuple[int, int]]:
    """Return where to cut so that groups stay together; one slice at least."""
    cuts = [0]
    while len(group) - cuts[-1] > AT_ONCE:
        cut = int(np.searchsorted(group, group[cuts[-1] + AT_ONCE]))
        cuts.append(cut if cut > cuts[-1] else int(np.searchsorted(group, group[cuts[-1]], side="right")))
    cuts.append(len(group))
    return list(pairwise(cuts))


def _instances(drawing: Drawing, components: Polygons, cols: int) -> Instances:
    """Leave out small components, divide the others, fill small holes."""
    ground, count = drawing.ground, len(components)
    kept = np.arange(count)
    lasting = _lasting(drawing, components, cols)
    filled = components if lasting.all() else _chosen(components, kept, lasting)
    if drawing.area.value > 0 and count:
        ring = drawing.area.rings(ground, filled)
        size = 2 * ring[filled.shells[:-1]] - np.add.reduceat(ring, filled.shells[:-1])
        kept = np.flatnonzero(size >= drawing.area.value)
    large = _chosen(components, kept)
    lasting = lasting[gather(components.shells, kept)[0]]
    least = drawing.area.value * drawing.area.dense(ground, large) if drawing.area.value > 0 else np.zeros(len(kept))
    hole = drawing.hole.value * drawing.hole.dense(ground, large) if drawing.hole.value > 0 else np.zeros(len(kept))
    if not drawing.divider.divides:
        return divided(drawing.divider, _chosen(filled, kept), least, hole, lasting, cols)
    # With their holes: between houses that touch these are courts and gaps, where nothing may leak through.
    found = divided(drawing.divider, large, least, hole, lasting, cols)
    buildings = found.polygons
    whole = np.bincount(found.group, minlength=len(kept))[found.group] == 1
    keep = np.ones(len(buildings.rings) - 1, dtype=np.bool_)
    keep[gather(buildings.shells, np.flatnonzero(whole))[0]] = lasting[gather(large.shells, found.group[whole])[0]]
    return replace(found, polygons=_chosen(buildings, np.arange(len(buildings)), keep))


def _lasting(drawing: Drawing, some: Polygons, cols: int) -> npt.NDArray[np.bool_]:
    """Return which rings of components stay: shells, holes that are not small, and those that hold a building."""
    keep = np.ones(len(some.rings) - 1, dtype=np.bool_)
    if drawing.hole.value <= 0 or len(some.rings) == len(some.shells):
        return keep
    keep = drawing.hole.rings(drawing.ground, some) >= drawing.hole.value
    keep[some.shells[:-1]] = True
    if drawing.area.pixels == drawing.hole.pixels and drawing.area.value >= drawing.hole.value:
        return keep  # what is a building has no room in a small hole
    room = np.flatnonzero(~keep & _large(drawing, some))
    label: Any = measure.label
    for ring, (mask, rect) in zip(room.tolist(), holes(drawing.divider.mask, some, room), strict=True):
        if not mask.any():
            continue
        # What is in a hole lies in it as a whole, whatever its part. Its own holes do not count: they are small, too,
        # and are filled, or stay because of a building in them.
        inside = traced(label(mask, connectivity=1).astype(np.int32), None, rect, cols)
        keep[ring] = bool(_large(drawing, inside)[inside.shells[:-1]].any())
    return keep


def _large(drawing: Drawing, some: Polygons) -> npt.NDArray[np.bool_]:
    """Return which rings reach around the least area of a building."""
    if drawing.area.value <= 0:
        return np.ones(len(some.rings) - 1, dtype=np.bool_)
    large: npt.NDArray[np.bool_] = drawing.area.rings(drawing.ground, some) >= drawing.area.value
    return large


def _chosen(some: Polygons, which: I64, keep: npt.NDArray[np.bool_] | None = None) -> Polygons:
    """Return some polygons, with all of their rings or some of all rings."""
    ring, shells = gather(some.shells, which)
    if keep is not None:
        count = np.concatenate([[0], np.cumsum(keep[ring])]).astype(np.int64)
        ring, shells = ring[keep[ring]], count[shells]
    vertex, rings = gather(some.rings, ring)
    return Polygons(
        **{name: getattr(some, name)[which] for name in polygons.TABLE},
        coords=some.coords[vertex],
        junction=some.junction[vertex],
        rings=rings,
        shells=shells,
    )


def even(ground: Ground, some: Polygons, group: I64) -> F64:
    """Return how long pixels are along x and y where each building's group begins, about 1: `(n, 2)`.

    Right angles are right on the ground, also where pixels are degrees.
    """
    if len(some) == 0 or not ground.known:
        return np.ones((len(some), 2))
    leader = np.searchsorted(group, group)
    at = some.coords[some.rings[some.shells[:-1]]][leader]
    along, down = ground.steps(at)
    with np.errstate(divide="ignore", invalid="ignore"):
        square = along / down
    # At a pole pixels have no width.
    square[~(np.isfinite(square) & (square > 0)) | (np.abs(square - 1) < SQUARE)] = 1.0
    ratio = np.sqrt(square)
    return np.column_stack([ratio, 1 / ratio])


def _outlines(drawing: Drawing, some: Polygons, group: I64, scale: F64) -> Outlines:
    """Return outlines in pixels."""
    if drawing.outline == "regular" and drawing.tolerance_px > 0:
        made = regularised(some.coords, some.rings, some.shells, group, scale, drawing.tolerance_px)
        return replace(made, **{name: _unscaled(getattr(made, name), scale) for name in ("best", "simple", "raw")})
    raw = to_shapely(some.coords, some.rings, some.shells)
    tolerance = drawing.tolerance_px if drawing.outline == "simplified" else 0.0
    simple, changed = simplified(raw, tolerance)
    status = np.where(changed, SIMPLIFIED, RAW).astype(np.int8)
    return Outlines(simple, simple, raw, status, status, np.full(len(raw), np.nan))


def _unscaled(shapes: npt.NDArray[Any], scale: F64) -> npt.NDArray[Any]:
    if len(shapes) == 0 or bool((scale == 1.0).all()):
        return shapes
    coords, rings, shells = from_shapely(shapes)
    unit = np.repeat(np.repeat(np.arange(len(shapes)), np.diff(shells)), np.diff(rings))
    return to_shapely(coords / scale[unit], rings, shells)


def finish(task: _Part) -> dict[str, int]:
    """Make the features of a part, unless they are there. Returns how many there are of each status, and `bytes`."""
    if not task.features.exists():
        parts.save_tables(task.features, [_features(task)])
    words = parts.open_table(task.features).column("reg_status").value_counts().to_pylist()
    return {"bytes": task.features.stat().st_size} | {w["values"]: w["counts"] for w in words}


def _features(task: _Part) -> pa.Table:
    drawing = task.drawing
    arrays = parts.load(
        task.of.part(task.index), ["id", "confidence", "scale", "status", "plain", "angle", *names("best")]
    )
    status, angle = arrays["status"], arrays["angle"]
    shapes = unragged(arrays, "best")
    start, end = task.of.starts[task.index : task.index + 2]
    for path in task.changes:
        changed = parts.load(path)
        mine = np.flatnonzero((changed["number"] >= start) & (changed["number"] < end))
        row = changed["number"][mine] - start
        shapes[row] = unragged(changed, "final")[mine]
        level = changed["level"][mine]
        lower = np.where(level == 0, status[row], np.where(level == 1, arrays["plain"][row], RAW))
        status[row] = np.where(changed["cut"][mine], TRIMMED, lower)
        angle[row] = np.where(level == 0, angle[row], np.nan)
    coords, rings, shells = from_shapely(shapes)
    ground = drawing.ground
    confidence = arrays["confidence"] if drawing.divider.probability is not None else np.full(len(shapes), np.nan)
    columns = {
        "id": pa.array(arrays["id"], pa.int64()),
        "geom": valid(wkb(ground, coords, rings, shells)),
        "class": pa.array([drawing.name] * len(shapes), pa.string()),
        "area_m2": nullable(areas(ground, coords, rings, shells), pa.float64()),
        "perimeter_m": nullable(perimeters(ground, coords, rings, shells), pa.float64()),
        "confidence": nullable(confidence, pa.float32()),
        "angle_deg": nullable(directions(ground, coords, rings, shells, arrays["scale"], angle), pa.float32()),
        "reg_status": pa.array([STATUS[k] for k in status], pa.string()),
    }
    schema = BUILDINGS.arrow.insert(0, pa.field("id", pa.int64()))
    return pa.table([columns[name] for name in schema.names], schema=schema)


def valid(column: pa.Array) -> pa.Array:
    """Return polygons of which none is invalid: coordinates of the map are rounded, those of pixels were not."""
    shapes = shapely.from_wkb(column.to_numpy(zero_copy_only=False))
    bad = np.flatnonzero(~shapely.is_valid(shapes))
    if len(bad) == 0:
        return column
    for k in bad.tolist():
        found = shapely.get_parts(shapely.make_valid(shapes[k]))
        largest = found[int(np.argmax(shapely.area(found)))]
        shapes[k] = shapely.orient_polygons(largest, exterior_cw=False)
    return pa.array(shapely.to_wkb(shapes), type=pa.binary())


def directions(
    ground: Ground, coords: F64, rings: I64, shells: I64, scale: F64 | None = None, frame: F64 | None = None
) -> F64:
    """Return the direction of the long axis of each shell: degrees clockwise from grid north, `0 <= d < 180`.

    Parameters
    ----------
    ground, coords, rings, shells
        Outlines in pixels.
    scale
        `(polygons, 2)` length of a pixel along x and y; left out: 1.
    frame
        `(polygons,)` direction of straight walls modulo 90 degrees, in radians from x to y in pixels of that length.
        Where it is left out or NaN, edges vote for it, weighted by length (mean of four times the angle).

    Of the two axes the one with the longer edges along it wins.
    """
    count = len(shells) - 1
    if count < 1:
        return np.empty(0)
    scale = np.ones((count, 2)) if scale is None else scale
    vertex, offsets = gather(rings, shells[:-1])
    points = coords[vertex] * np.repeat(scale, np.diff(offsets), axis=0)
    after = np.arange(1, len(points) + 1)
    after[offsets[1:] - 1] = offsets[:-1]
    edge = points[after] - points
    length, angle = np.hypot(edge[:, 0], edge[:, 1]), np.arctan2(edge[:, 1], edge[:, 0])

    def total(values: F64) -> F64:
        return np.asarray(np.add.reduceat(values, offsets[:-1]))

    axis = np.arctan2(total(length * np.sin(4 * angle)), total(length * np.cos(4 * angle))) / 4
    if frame is not None:
        axis = np.where(np.isnan(frame), axis, frame)
    deviation = angle - np.repeat(axis, np.diff(offsets))
    along, across = total(length * np.abs(np.cos(deviation))), total(length * np.abs(np.sin(deviation)))
    long = np.where(across > along * (1 + 1e-9), axis + np.pi / 2, axis)
    # A square's axes are equal but for rounding: its direction is then the one below 90 degrees.
    square = np.abs(along - across) <= along * 1e-9
    found = ground.bearing(long)
    found = np.where(square, found % 90.0, found)
    return np.where(found >= 180.0 - 1e-6, 0.0, np.round(found, 4))
