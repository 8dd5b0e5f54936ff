"""The layer `buildings`: a feature for each 4-connected component of the building class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import shapely

from geounet.vector.attributes import F64, Ground
from geounet.vector.confidence import mean
from geounet.vector.features import areas, from_shapely, nullable, perimeters, to_shapely, wkb
from geounet.vector.polygons import Polygons, Stage, gather
from geounet.vector.schema import BUILDINGS
from geounet.vector.trace import I64, Bools

MIN_IOU = 0.85
"""A simplified outline overlaps the raw one at least so much (intersection over union)."""


@dataclass(frozen=True)
class FinishBuildings:
    """Makes features: small ones and small holes go, outlines are simplified where that keeps them what they are."""

    ground: Ground
    name: str
    min_area_m2: float
    min_hole_m2: float
    tolerance_px: float
    confidence: bool

    def __call__(self, stage: Stage, polygons: Polygons) -> pa.Table:
        """Return the features of polygons."""
        del stage
        coords, rings, shells = self._without_small_holes(
            polygons.coords.astype(np.float64), polygons.rings, polygons.shells
        )
        kept = np.arange(len(polygons))
        if self.ground.known and self.min_area_m2 > 0:
            kept = np.flatnonzero(areas(self.ground, coords, rings, shells) >= self.min_area_m2)
            ring, shells = gather(shells, kept)
            vertex, rings = gather(rings, ring)
            coords = coords[vertex]
        raw = to_shapely(coords, rings, shells)
        outline, simplified = simplified_outlines(raw, self.tolerance_px)
        coords, rings, shells = from_shapely(outline)
        status = np.where(simplified, "simplified", "raw")
        confidence = mean(polygons.total, polygons.counted)[kept]
        columns = {
            "class": pa.array([self.name] * len(kept), pa.string()),
            "area_m2": nullable(areas(self.ground, coords, rings, shells), pa.float64()),
            "perimeter_m": nullable(perimeters(self.ground, coords, rings, shells), pa.float64()),
            "confidence": nullable(confidence if self.confidence else np.full(len(kept), np.nan), pa.float32()),
            "angle_deg": nullable(directions(self.ground, coords, rings, shells), pa.float32()),
            "reg_status": pa.array(status.tolist(), pa.string()),
        }
        features = {"id": pa.array(polygons.first[kept], pa.int64()), "geom": wkb(self.ground, coords, rings, shells)}
        schema = BUILDINGS.arrow.insert(0, pa.field("id", pa.int64()))
        return pa.table([*(features | columns).values()], schema=schema)

    def _without_small_holes(self, coords: F64, rings: I64, shells: I64) -> tuple[F64, I64, I64]:
        if not self.ground.known or self.min_hole_m2 <= 0 or len(rings) == len(shells):
            return coords, rings, shells
        keep = self.ground.ring_areas(coords, rings) >= self.min_hole_m2
        keep[shells[:-1]] = True
        count = np.concatenate([[0], np.cumsum(keep)])
        vertex, rings = gather(rings, np.flatnonzero(keep))
        return coords[vertex], rings, count[shells]


def simplified_outlines(raw: np.ndarray, tolerance: float) -> tuple[np.ndarray, Bools]:
    """Simplify outlines one by one (Douglas-Peucker without change of topology), in pixels.

    Returns
    -------
    outlines
        Simplified where the result is valid, overlaps the raw outline by `MIN_IOU` and deviates by at most twice the
        tolerance; else raw.
    simplified
        Which of them are.
    """
    if tolerance <= 0 or len(raw) == 0:
        return raw, np.zeros(len(raw), dtype=np.bool_)
    simple = shapely.orient_polygons(shapely.simplify(raw, tolerance, preserve_topology=True), exterior_cw=False)
    good = shapely.is_valid(simple) & (shapely.get_type_id(simple) == shapely.GeometryType.POLYGON)
    good &= ~shapely.is_empty(simple)
    at = np.flatnonzero(good)
    common = shapely.area(shapely.intersection(raw[at], simple[at]))
    union = shapely.area(raw[at]) + shapely.area(simple[at]) - common
    deviation = shapely.hausdorff_distance(shapely.boundary(raw[at]), shapely.boundary(simple[at]))
    good[at] = (common >= MIN_IOU * union) & (deviation <= 2 * tolerance)
    return np.where(good, simple, raw), good


def directions(ground: Ground, coords: F64, rings: I64, shells: I64) -> F64:
    """Return the direction of the long axis of each shell: degrees clockwise from grid north, `0 <= d < 180`.

    Edges vote, weighted by length, for a direction modulo 90 degrees (mean of four times the angle); of the two axes
    that remain the one with the longer edges along it wins.
    """
    if len(shells) < 2:
        return np.empty(0)
    vertex, offsets = gather(rings, shells[:-1])
    points = ground.to_map(coords[vertex])
    after = np.arange(1, len(points) + 1)
    after[offsets[1:] - 1] = offsets[:-1]
    edge = points[after] - points
    length = np.hypot(edge[:, 0], edge[:, 1])
    angle = np.arctan2(edge[:, 0], edge[:, 1])

    def total(values: F64) -> F64:
        return np.asarray(np.add.reduceat(values, offsets[:-1]))

    axis = np.arctan2(total(length * np.sin(4 * angle)), total(length * np.cos(4 * angle))) / 4
    deviation = angle - np.repeat(axis, np.diff(offsets))
    along, across = total(length * np.abs(np.cos(deviation))), total(length * np.abs(np.sin(deviation)))
    # A square's axes are equal but for rounding: its direction is then the one below 90 degrees.
    axis = np.where(across > along * (1 + 1e-9), axis + np.pi / 2, axis)
    found = np.degrees(axis) % 180.0
    found = np.where((np.abs(along - across) <= along * 1e-9), found % 90.0, found)
    return np.where(found >= 180.0 - 1e-6, 0.0, np.round(found, 4))
