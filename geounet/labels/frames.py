"""The grid of a scene, and how coordinates of label files get onto it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj.exceptions import CRSError, ProjError

from geounet.errors import LabelError
from geounet.raster.env import one_line
from geounet.raster.georef import apply, horizontal
from geounet.raster.scene import SceneInfo
from geounet.types import Rect

_EDGE_POINTS = 16
"""Points per side of an outline: straight sides are curves in another CRS."""


@dataclass(frozen=True)
class Frame:
    """The grid of a scene.

    Attributes
    ----------
    name : str
        What messages call the scene.
    shape : tuple of int
        `(rows, cols)`.
    transform : tuple of float
        `a, b, c, d, e, f` of `x = a * col + b * row + c`, `y = d * col + e * row + f`; the identity: no georeference.
    crs : str or None
        CRS as WKT.
    gsd : float or None
        Ground sample distance, metres.
    """

    name: str
    shape: tuple[int, int]
    transform: tuple[float, float, float, float, float, float]
    crs: str | None
    gsd: float | None

    @classmethod
    def of(cls, name: str, info: SceneInfo, gsd: float | None) -> Frame:
        """Return the frame of a scene; `gsd` is taken where the scene does not tell its own."""
        crs = info.crs_wkt if info.georeferenced else None
        return cls(name, info.shape, info.transform, crs, info.gsd if info.gsd is not None else gsd)

    @property
    def georeferenced(self) -> bool:
        """Whether it lies somewhere on Earth, or at least in a plane with coordinates."""
        return self.transform != tuple(Affine.identity())[:6]

    def metres(self) -> tuple[float, float] | None:
        """Return the lengths of the steps to the next column and the next row, metres at the centre; None: unknown."""
        if self.gsd is None:
            return None
        across, down = _steps(self.crs, self.transform, self.shape)
        # their geometric mean is the ground sample distance, as everywhere in this package
        factor = self.gsd / math.sqrt(across * down)
        return across * factor, down * factor

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (n, 2) in the scene's CRS as columns and rows, (0, 0) at the corner of the first pixel."""
        inverse = ~Affine(*self.transform)
        x, y = points[:, 0], points[:, 1]
        return np.column_stack((inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f))

    def bounds(self, crs: str | None) -> tuple[float, float, float, float] | None:
        """Return xmin, ymin, xmax, ymax of the scene in a CRS (None: its own); None where it cannot be transformed."""
        points = self._border(crs)
        if not np.isfinite(points).all():
            return None
        low, high = points.min(axis=0), points.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def part(self, rect: Rect) -> Frame:
        """Return the frame of a rectangle of the scene's pixels."""
        affine = Affine(*self.transform) @ Affine.translation(rect.x0, rect.y0)
        return replace(self, shape=rect.shape, transform=tuple(affine)[:6])

    def outline(self) -> shapely.Polygon | None:
        """Return the scene's outline in longitude and latitude; None without a CRS that has them."""
        try:
            points = self._border("OGC:CRS84")
        except LabelError:
            return None
        return shapely.Polygon(points) if np.isfinite(points).all() else None

    def _border(self, crs: str | None) -> NDArray[np.float64]:
        rows, cols = self.shape
        t = np.linspace(0, 1, _EDGE_POINTS, endpoint=False)
        x = np.concatenate([t * cols, np.full_like(t, cols), (1 - t) * cols, np.zeros_like(t)])
        y = np.concatenate([np.zeros_like(t), t * rows, np.full_like(t, rows), (1 - t) * rows])
        a, b, c, d, e, f = self.transform
        points = np.column_stack((a * x + b * y + c, d * x + e * y + f))
        move = mover(self.crs, crs)
        if move is not None:
            points = np.column_stack(move.transform(points[:, 0], points[:, 1]))
        return points


def _steps(
    crs: str | None, transform: tuple[float, float, float, float, float, float], shape: tuple[int, int]
) -> tuple[float, float]:
    """Return the lengths of a column and a row at the centre, in a common unit."""
    affine = Affine(*transform)
    plain = math.hypot(affine.a, affine.d), math.hypot(affine.b, affine.e)
    if crs is None:
        return plain
    try:
        system = horizontal(pyproj.CRS.from_wkt(crs))
        geodetic, geod = system.geodetic_crs, system.get_geod()
        if geodetic is None or geod is None or system.is_projected:
            return plain  # of projections in use, the scale hardly depends on the direction
        row, col = shape[0] / 2, shape[1] / 2
        lengths = []
        for dx, dy in ((0.5, 0.0), (0.0, 0.5)):
            (x0, y0), (x1, y1) = (apply(affine, col - dx, row - dy), apply(affine, col + dx, row + dy))
            lengths.append(float(geod.inv(x0, y0, x1, y1)[2]))
    except (CRSError, ProjError, ValueError):
        return plain
    return (lengths[0], lengths[1]) if min(lengths) > 0 else plain


@lru_cache(maxsize=64)
def mover(source: str | None, target: str | None) -> Any:
    """Return pyproj's transformer between two CRS (longitude or easting first); None where there is nothing to do.

    Raises
    ------
    LabelError
        If a CRS is unknown.
    """
    if source is None or target is None:
        return None
    try:
        here, there = pyproj.CRS.from_user_input(source), pyproj.CRS.from_user_input(target)
        if here.equals(there, ignore_axis_order=True):
            return None
        return pyproj.Transformer.from_crs(here, there, always_xy=True)
    except (CRSError, ProjError) as error:
        raise LabelError(f"no transformation between two coordinate systems: {one_line(error)}") from None


def on_earth(crs: str | None) -> str | None:
    """Return a CRS that tells where on Earth things are; None for others, as GeoPackages without a CRS have one."""
    if crs is None:
        return None
    try:
        return crs if pyproj.CRS.from_user_input(crs).geodetic_crs is not None else None
    except CRSError:
        return crs  # unknown to pyproj: whoever transforms says so


def overlap(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    """Whether two boxes xmin, ymin, xmax, ymax share ground."""
    if one is None or other is None:
        return False
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def crs_name(crs: str | None) -> str:
    """Return a short name of a CRS for messages."""
    if crs is None:
        return "no CRS"
    try:
        system = pyproj.CRS.from_user_input(crs)
    except CRSError:
        return "an unknown CRS"
    authority = system.to_authority(min_confidence=70)
    return ":".join(authority) if authority else system.name
