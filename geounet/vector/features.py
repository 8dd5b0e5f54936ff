"""From polygons in pixel coordinates to features on the map: geometries, and the files they wait in."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geounet.vector.attributes import F64, Ground
from geounet.vector.polygons import Polygons, gather
from geounet.vector.trace import I64, Bools


def to_shapely(coords: npt.NDArray[Any], rings: I64, shells: I64) -> npt.NDArray[np.object_]:
    """Return shapely polygons of rings that are not closed."""
    if len(shells) < 2:
        return np.empty(0, dtype=object)
    sizes = np.diff(rings)
    index = np.insert(np.arange(len(coords)), rings[1:], rings[:-1])
    offsets = np.concatenate([[0], np.cumsum(sizes + 1)])
    made: npt.NDArray[np.object_] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, coords[index].astype(np.float64), (offsets, shells)
    )
    return made


def from_shapely(polygons: npt.NDArray[np.object_]) -> tuple[F64, I64, I64]:
    """Return `coords, rings, shells` of shapely polygons; rings not closed."""
    if len(polygons) == 0:
        return np.empty((0, 2)), np.zeros(1, np.int64), np.zeros(1, np.int64)
    _, coords, (rings, shells) = shapely.to_ragged_array(polygons)
    open_ = np.ones(len(coords), dtype=np.bool_)
    open_[rings[1:] - 1] = False
    return coords[open_, :2], rings - np.arange(len(rings)), np.asarray(shells, dtype=np.int64)


def wkb(ground: Ground, coords: npt.NDArray[Any], rings: I64, shells: I64) -> pa.Array:
    """Return polygons as WKB in map coordinates, shells counter-clockwise and holes clockwise.

    Rings come clockwise in pixels for shells, as `Polygons` has them.
    """
    mapped = ground.to_map(coords)
    if not ground.mirrored:
        # Turned around from the second vertex on, so that the first one stays the first.
        sizes = np.repeat(np.diff(rings), np.diff(rings))
        start = np.repeat(rings[:-1], np.diff(rings))
        mapped = mapped[start + (start - np.arange(len(mapped))) % sizes]
    return pa.array(shapely.to_wkb(to_shapely(mapped, rings, shells)), type=pa.binary())


def areas(ground: Ground, coords: npt.NDArray[Any], rings: I64, shells: I64) -> F64:
    """Return the areas of polygons in square metres; NaN without a CRS."""
    if not ground.known or len(shells) < 2:
        return np.full(len(shells) - 1, np.nan)
    ring = ground.ring_areas(coords, rings)
    total = -np.add.reduceat(ring, shells[:-1])
    return total + 2 * ring[shells[:-1]]


def perimeters(ground: Ground, coords: npt.NDArray[Any], rings: I64, shells: I64) -> F64:
    """Return the lengths of all rings of polygons in metres; NaN without a CRS."""
    if not ground.known or len(shells) < 2:
        return np.full(len(shells) - 1, np.nan)
    return np.add.reduceat(ground.lengths(coords, rings, closed=True), shells[:-1])


def nullable(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Return a column with NULL for NaN."""
    return pa.array(values, type=kind, mask=np.isnan(values))


def chosen_rings(polygons: Polygons, which: I64) -> tuple[npt.NDArray[np.int32], Bools, I64, I64]:
    """Return `coords, junction, rings, shells` of some polygons."""
    ring, shells = gather(polygons.shells, which)
    vertex, rings = gather(polygons.rings, ring)
    return polygons.coords[vertex], polygons.junction[vertex], rings, shells
