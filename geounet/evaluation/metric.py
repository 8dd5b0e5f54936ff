"""The plane that lengths are measured in.

Coordinates of a projection whose metres are metres on the ground, within 0.2 %, are taken as they are: UTM and national
grids, where they are made for. Others (degrees, feet, Web Mercator, a projection far from its centre) are brought into
an equal-area projection about the middle of the data. Without a CRS lengths are in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from affine import Affine
from pyproj.exceptions import CRSError, ProjError

from geounet.raster.georef import horizontal

TOLERANCE = 2e-3
"""Largest deviation of a projection's metres from those on the ground."""

Unit = Literal["m", "px", "unit"]


@dataclass(frozen=True)
class Metric:
    """From coordinates of a scene to those that lengths are measured in.

    Attributes
    ----------
    unit
        `m`; `px`, for a raster without a CRS; `unit`, of the coordinates, for vectors without one.
    source, target
        CRS of the coordinates that come in, and of those that come out; None: they stay what they are.
    affine
        For `px`: from coordinates to pixels, `a, b, c, d, e, f`.
    """

    unit: Unit
    source: str | None = None
    target: str | None = None
    affine: tuple[float, ...] | None = None

    def place(self, shapes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return shapely geometries in the plane."""
        if self.affine is not None:
            a, b, c, d, e, f = self.affine
            matrix, offset = np.array([[a, d], [b, e]]), np.array([c, f])
            return np.asarray(shapely.transform(shapes, lambda p: p @ matrix + offset))
        if self.target is None:
            return shapes
        move = pyproj.Transformer.from_crs(self.source, self.target, always_xy=True)
        return np.asarray(shapely.transform(shapes, lambda p: np.column_stack(move.transform(p[:, 0], p[:, 1]))))


def metric(
    crs: str | None, transform: tuple[float, ...] | None, bounds: tuple[float, float, float, float] | None
) -> Metric:
    """Choose the plane for data.

    Parameters
    ----------
    crs
        CRS of the coordinates, WKT; None: unknown.
    transform
        From pixels to coordinates, `a, b, c, d, e, f`; None: there is no raster.
    bounds
        xmin, ymin, xmax, ymax of the data in the CRS; None: there are none.
    """
    if crs is not None and bounds is not None:
        found = _ground(crs, bounds)
        if found is not None:
            return found
    if transform is None:
        return Metric("unit")
    inverse = ~Affine(*transform)
    return Metric("px", affine=tuple(inverse)[:6])


def _ground(crs: str, bounds: tuple[float, float, float, float]) -> Metric | None:
    try:
        system = horizontal(pyproj.CRS.from_user_input(crs))
        geodetic, geod = system.geodetic_crs, system.get_geod()
        if geodetic is None or geod is None:
            return None
        x, y = (bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2
        to_degrees = pyproj.Transformer.from_crs(system, geodetic.to_2d(), always_xy=True)
        lon, lat = to_degrees.transform(x, y)
        if not (np.isfinite(lon) and np.isfinite(lat)):
            return None
        if system.is_projected and _true_to_scale(system, geod, to_degrees, bounds):
            return Metric("m")
        # degrees whatever the unit of the geodetic CRS (some count in grads)
        factor = np.degrees(geodetic.axis_info[0].unit_conversion_factor) if geodetic.axis_info else 1.0
        local = pyproj.CRS.from_proj4(
            f"+proj=laea +lon_0={lon * factor:.9f} +lat_0={lat * factor:.9f} +a={geod.a} +b={geod.b} +units=m +no_defs"
        )
        return Metric("m", source=system.to_wkt(), target=local.to_wkt())
    except (CRSError, ProjError):
        return None


def _true_to_scale(system: Any, geod: Any, to_degrees: Any, bounds: tuple[float, float, float, float]) -> bool:
    """Whether steps of one unit are one metre on the ground, both ways, at the middle and the corners of the data."""
    x0, y0, x1, y1 = bounds
    step = 50.0
    for x, y in (((x0 + x1) / 2, (y0 + y1) / 2), (x0, y0), (x1, y1), (x0, y1), (x1, y0)):
        for dx, dy in ((step, 0.0), (0.0, step)):
            ends = [to_degrees.transform(x + s * dx, y + s * dy) for s in (-1, 1)]
            length = geod.inv(*ends[0], *ends[1])[2]
            if not abs(length / (2 * step) - 1) <= TOLERANCE:  # also where it is not a number
                return False
    return True
