"""Where a scene lies: ground sample distance, cropping to a bounding box, commands that georeference a file."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import pyproj
from affine import Affine
from pyproj.exceptions import CRSError, ProjError

from geounet.errors import SceneError
from geounet.types import Rect

_SNAP = 1e-4
"""Fraction of a pixel by which a bounding box may miss a pixel's edge and still mean it."""


def apply(transform: Affine, x: float, y: float) -> tuple[float, float]:
    """Return the image of a point under an affine transform."""
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    """Return the horizontal part of a compound CRS, and the CRS behind a bound one."""
    while True:
        if crs.is_compound:
            crs = crs.sub_crs_list[0]
        elif crs.is_bound and crs.source_crs is not None:
            crs = crs.source_crs
        else:
            return crs


def is_web_mercator(crs: pyproj.CRS) -> bool:
    """Whether a CRS is the spherical Mercator of web maps, however it is written."""
    operation = crs.coordinate_operation
    if operation is None:
        return False
    return "Pseudo Mercator" in operation.method_name or crs.to_epsg() == 3857


def ground_sample_distance(crs_wkt: str | None, transform: Affine, width: int, height: int) -> float | None:
    """Return the size of a pixel on the ground at the centre of a grid, metres.

    The geometric mean of the lengths of the steps to the next column and the next row: geodesic on the ellipsoid of
    the CRS, also for degrees, feet and other planets; in Web Mercator the step times the cosine of the latitude.

    Parameters
    ----------
    crs_wkt : str or None
        The CRS as WKT.
    transform : Affine
        From pixel to CRS coordinates.
    width, height : int
        Size of the grid, pixels.

    Returns
    -------
    float or None
        None without a CRS that knows where on a planet it is.
    """
    return ground_pixel(crs_wkt, transform, width, height)[0]


def ground_pixel(crs_wkt: str | None, transform: Affine, width: int, height: int) -> tuple[float | None, float]:
    """Return the `ground_sample_distance` and the width of a pixel over its height there; 1 where that is unknown."""
    unknown = None, 1.0
    if crs_wkt is None:
        return unknown
    try:
        crs = horizontal(pyproj.CRS.from_wkt(crs_wkt))
    except CRSError:
        return unknown
    geodetic = crs.geodetic_crs
    geod = crs.get_geod()
    if geodetic is None or geod is None or crs.is_geocentric:
        return unknown
    steps = [(0.5, 0.0), (0.0, 0.5)]
    col, row = width / 2, height / 2
    scale = 1.0
    try:
        to_degrees = None
        if crs.is_projected or crs.is_derived:
            to_degrees = pyproj.Transformer.from_crs(crs, geodetic, always_xy=True).transform
        if to_degrees is not None and is_web_mercator(crs):
            _, latitude = to_degrees(*apply(transform, col, row))
            lengths = [math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e)]
            scale = crs.axis_info[0].unit_conversion_factor * math.cos(math.radians(latitude))
        else:
            lengths = []
            # Degrees of the CRS may be grads: its own axis unit tells.
            degrees = 1.0 if to_degrees else math.degrees(crs.axis_info[0].unit_conversion_factor)
            for dx, dy in steps:
                ends: list[Any] = []
                for sign in (-1, 1):
                    x, y = apply(transform, col + sign * dx, row + sign * dy)
                    ends += list(to_degrees(x, y)) if to_degrees else [x * degrees, y * degrees]
                lengths.append(geod.inv(*ends)[2])
        gsd = math.sqrt(lengths[0] * lengths[1]) * scale
    except (ProjError, CRSError, ValueError):
        return unknown
    return (gsd, lengths[0] / lengths[1]) if math.isfinite(gsd) and gsd > 0 else unknown


def crop(transform: Affine, width: int, height: int, bbox: tuple[float, float, float, float], name: str) -> Rect:
    """Return the pixels of a grid that a bounding box touches.

    On rotated grids: the smallest rectangle of pixels that holds the box.

    Parameters
    ----------
    transform : Affine
        From pixel to CRS coordinates; without georeference, the identity: the box is in pixels.
    width, height : int
        Size of the grid, pixels.
    bbox : tuple of float
        xmin, ymin, xmax, ymax in the scene's CRS.
    name : str
        The scene, for messages.

    Raises
    ------
    SceneError
        If the box is empty or does not meet the scene.
    """
    xmin, ymin, xmax, ymax = bbox
    if not all(math.isfinite(v) for v in bbox) or xmin >= xmax or ymin >= ymax:
        raise SceneError(f"{name}: bbox {list(bbox)} is empty; expected xmin, ymin, xmax, ymax in the scene's CRS")
    inverse = ~transform
    corners = [apply(inverse, x, y) for x in (xmin, xmax) for y in (ymin, ymax)]
    cols, rows = [c for c, _ in corners], [r for _, r in corners]
    whole = Rect(0, 0, height, width)
    rect = Rect(
        math.floor(min(rows) + _SNAP),
        math.floor(min(cols) + _SNAP),
        math.ceil(max(rows) - _SNAP),
        math.ceil(max(cols) - _SNAP),
    ).intersection(whole)
    if rect.empty:
        points = [apply(transform, c, r) for c in (0, width) for r in (0, height)]
        west, east = min(x for x, _ in points), max(x for x, _ in points)
        south, north = min(y for _, y in points), max(y for _, y in points)
        raise SceneError(
            f"{name}: bbox {list(bbox)} lies outside the scene, which spans "
            f"[{west:.10g}, {south:.10g}, {east:.10g}, {north:.10g}] in its CRS"
        )
    return rect


def warp_command(path: Path, gcps: bool, rpcs: Any = None) -> str:
    """Return the gdalwarp command that turns ground control points or RPCs into a georeferenced GeoTIFF."""
    out = path.with_name(f"{path.stem}_warped.tif")
    if gcps:
        method = "-tps"
    else:
        method = "-rpc"
        if rpcs is not None:
            zone = int((rpcs.long_off + 180) // 6) % 60 + 1
            method += f" -t_srs EPSG:{32600 if rpcs.lat_off >= 0 else 32700}".removesuffix("00") + f"{zone:02d}"
    return f"gdalwarp {method} -r cubic -dstalpha {shlex.quote(str(path))} {shlex.quote(str(out))}"
