"""Where a scene's grid lies on the ground: footprint in longitude and latitude, direction of north, size of a pixel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError, ProjError
from shapely import union_all
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box, mapping
from shapely.geometry.polygon import orient
from shapely.validation import make_valid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geounet.raster.scene import SceneInfo

_EDGE_POINTS = 16
"""Points per side of the footprint: the sides of a projected grid are curves in longitude and latitude."""

_DIGITS = 7
"""Decimals of degrees in the footprint: about a centimetre."""


def crs_of(info: SceneInfo) -> CRS | None:
    """Return the scene's CRS, or none where it has no CRS on Earth (missing, or a local engineering CRS)."""
    if not info.georeferenced or not info.crs_wkt:
        return None
    try:
        crs = CRS.from_wkt(info.crs_wkt)
    except CRSError:
        return None
    return crs if crs.geodetic_crs is not None else None


def _to_degrees(crs: CRS) -> Transformer:
    return Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)


def footprint(info: SceneInfo) -> tuple[dict[str, Any], list[float]] | None:
    """Return the outline of the scene's grid as a GeoJSON geometry and its bounding box, in WGS84 degrees.

    Follows RFC 7946: exterior rings run counterclockwise; a footprint across the antimeridian is cut there into a
    `MultiPolygon`, and its bounding box has west > east; one around a pole is closed along the pole.

    Returns
    -------
    tuple or None
        `(geometry, [west, south, east, north])`; none without a CRS, or where a point of the outline has no longitude
        and latitude (the rim of a full-disc image, for example).
    """
    crs = crs_of(info)
    if crs is None:
        return None
    x, y = _outline(info)
    try:
        lon, lat = _to_degrees(crs).transform(x, y)
    except ProjError:
        return None
    lon, lat = np.asarray(lon, dtype=float), np.clip(np.asarray(lat, dtype=float), -90.0, 90.0)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    lon = _unwrapped(lon)
    if abs(float(lon[-1] - lon[0])) > 180.0:  # the outline runs once around a pole
        pole = math.copysign(90.0, float(lat.mean()))
        lon = np.concatenate([lon, [lon[-1], lon[0]]])
        lat = np.concatenate([lat, [pole, pole]])
    ring = Polygon(np.column_stack([lon, lat]))
    shape = ring if ring.is_valid else make_valid(ring)
    world = box(-180.0, -90.0, 180.0, 90.0)
    parts: list[Polygon] = []
    for turns in (-1, 0, 1):
        piece = translate(shape, xoff=360.0 * turns).intersection(world)
        parts += [p for p in getattr(piece, "geoms", [piece]) if isinstance(p, Polygon) and p.area > 0.0]
    if not parts:
        return None
    # Around a pole, and around the world, the pieces meet again.
    merged = union_all(parts)
    parts = [orient(p, 1.0) for p in getattr(merged, "geoms", [merged])]
    west, south, east, north = shape.bounds
    if east - west >= 360.0 - 1e-9:
        west, east = -180.0, 180.0
    elif west < -180.0:
        west += 360.0
    elif east > 180.0:
        west, east = (west - 360.0, east - 360.0) if west >= 180.0 else (west, east - 360.0)
    geometry = mapping(parts[0] if len(parts) == 1 else MultiPolygon(parts))
    return (
        {"type": geometry["type"], "coordinates": _rounded(geometry["coordinates"])},
        [round(v, _DIGITS) for v in (west, south, east, north)],
    )


def _outline(info: SceneInfo) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the closed outline of the grid in the scene's CRS, with `_EDGE_POINTS` points per side."""
    step = np.linspace(0.0, 1.0, _EDGE_POINTS, endpoint=False)
    zero, one = np.zeros_like(step), np.ones_like(step)
    cols = np.concatenate([zero, step, one, 1.0 - step, [0.0]]) * info.width
    rows = np.concatenate([step, one, 1.0 - step, zero, [0.0]]) * info.height
    a, b, c, d, e, f = info.transform
    return a * cols + b * rows + c, d * cols + e * rows + f


def _unwrapped(lon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make longitudes continuous along the outline, starting within ±180 degrees."""
    steps = np.diff(lon)
    turns = np.concatenate([[0.0], np.cumsum(np.round(steps / 360.0))])
    # A step of exactly half a turn is ambiguous; it is kept.
    turns[1:][np.abs(steps) == 180.0] -= np.round(steps / 360.0)[np.abs(steps) == 180.0]
    continuous = lon - 360.0 * turns
    middle = float(continuous.min() + continuous.max()) / 2.0
    return np.asarray(continuous - 360.0 * np.round(middle / 360.0), dtype=np.float64)


def _rounded(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return round(float(value), _DIGITS)


def code(crs: CRS) -> str | None:
    """Return the CRS as `AUTHORITY:CODE` where a registry has exactly this one."""
    authority = crs.to_authority(min_confidence=90)
    return ":".join(authority) if authority else None


def ground(info: SceneInfo) -> tuple[float, float, float] | None:
    """Return how the grid lies on the ground at the scene's centre.

    Returns
    -------
    tuple or None
        `(metres per column, metres per row, bearing)`: geodesic sizes on the CRS's ellipsoid, and the direction of
        true north as an angle in degrees, clockwise from the top of the image. None without a CRS.
    """
    crs = crs_of(info)
    if crs is None:
        return None
    geod = crs.get_geod() or Geod(ellps="WGS84")
    cols = info.width / 2.0 + np.array([-0.5, 0.5, 0.0, 0.0])  # left, right, top, bottom of the central pixel
    rows = info.height / 2.0 + np.array([0.0, 0.0, -0.5, 0.5])
    a, b, c, d, e, f = info.transform
    try:
        x, y = a * cols + b * rows + c, d * cols + e * rows + f
        lon, lat = (np.asarray(v, dtype=float) for v in _to_degrees(crs).transform(x, y))
    except ProjError:
        return None
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        return None
    rightwards, _, across = geod.inv(lon[0], lat[0], lon[1], lat[1])
    upwards, _, along = geod.inv(lon[3], lat[3], lon[2], lat[2])
    if not (across > 0.0 and along > 0.0):
        return None
    # In a mirrored grid (south-up, for example) bearings grow counterclockwise in the image.
    mirrored = math.sin(math.radians(rightwards - upwards)) < 0.0
    bearing = upwards if mirrored else -upwards
    return float(across), float(along), float((bearing + 180.0) % 360.0 - 180.0)
