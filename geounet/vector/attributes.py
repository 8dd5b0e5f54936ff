"""Lengths and areas on the ground: on the ellipsoid of the CRS, whatever its projection and units.

Areas are those of polygons on the authalic sphere with great circles for edges (spherical excess, Todhunter 1886,
§103); for edges below 2 km they agree with geodesic areas (Karney 2013) to about 1e-8. Longer edges are divided,
because what is meant are the straight lines of the CRS.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import CRSError
from scipy import ndimage

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

LONGEST_M = 2000.0
"""Edges are divided into pieces of about this length."""

SAMPLES = 65
"""Points along each axis of the table of pixel areas."""


@lru_cache(maxsize=16)
def _geodetic(crs_wkt: str) -> tuple[Geod, Transformer, float] | None:
    """Return ellipsoid, transformer to longitude and latitude, and radians per unit; none without an ellipsoid."""
    try:
        crs = CRS.from_user_input(crs_wkt)
        if crs.is_compound:
            crs = crs.sub_crs_list[0]
        base, geod = crs.geodetic_crs, crs.get_geod()
        if base is None or geod is None or not (crs.is_projected or crs.is_geographic or crs.is_bound):
            return None
        if crs.is_bound and crs.source_crs is not None:
            crs = crs.source_crs
        # Axis order is always longitude first; the unit of both axes is the same.
        radians = base.axis_info[0].unit_conversion_factor if base.axis_info else np.pi / 180
        return geod, Transformer.from_crs(crs, base, always_xy=True), float(radians)
    except CRSError:
        return None


@dataclass(frozen=True)
class Ground:
    """Where pixels lie on the ground.

    Attributes
    ----------
    crs
        WKT, or none.
    transform
        `a, b, c, d, e, f` of `x = a * col + b * row + c`, `y = d * col + e * row + f`.
    rows, cols
        Size of the raster.
    """

    crs: str | None
    transform: tuple[float, ...]
    rows: int
    cols: int

    @property
    def known(self) -> bool:
        """Whether metres are known: whether the CRS has an ellipsoid, and some of the raster a place on it."""
        return self.crs is not None and _geodetic(self.crs) is not None and bool(np.isfinite(self.step).all())

    def to_map(self, coords: npt.NDArray[Any]) -> F64:
        """Return map coordinates of pixel coordinates `(n, 2)`: x (columns), y (rows), corners at integers."""
        a, b, c, d, e, f = self.transform
        x, y = coords[:, 0].astype(np.float64), coords[:, 1].astype(np.float64)
        return np.column_stack([a * x + b * y + c, d * x + e * y + f])

    @property
    def mirrored(self) -> bool:
        """Whether what is clockwise in pixels (y down) is counter-clockwise on the map."""
        a, b, _, d, e, _ = self.transform
        return a * e - b * d > 0

    def geographic(self, coords: npt.NDArray[Any]) -> tuple[F64, F64]:
        """Return longitude and latitude in radians of pixel coordinates `(n, 2)`."""
        _, transformer, radians = self._found
        mapped = self.to_map(coords)
        longitude, latitude = transformer.transform(mapped[:, 0], mapped[:, 1])
        longitude, latitude = np.asarray(longitude) * radians, np.asarray(latitude) * radians
        # The outer half of pixels whose centres are poles lies beyond them; infinite is what a projection has not.
        beyond = np.isfinite(latitude) & (np.abs(latitude) > np.pi / 2)
        return longitude, np.where(beyond, np.copysign(np.pi / 2, latitude), latitude)

    @property
    def _found(self) -> tuple[Geod, Transformer, float]:
        found = None if self.crs is None else _geodetic(self.crs)
        if found is None:
            raise AssertionError("metres were asked of a raster without a CRS")
        return found

    @cached_property
    def step(self) -> tuple[float, float]:
        """Length of a pixel along rows and along columns at the raster's centre, in metres.

        Where the projection has no place for the centre, as beyond the limb of a planet's disc: at the nearest sample
        that has one; not finite if none has.
        """
        middle = np.array([(self.cols / 2, self.rows / 2)])
        with np.errstate(invalid="ignore"):
            along, down = self.steps(middle)
            if not np.isfinite([along, down]).all():
                x, y = np.meshgrid(np.linspace(0, self.cols, SAMPLES), np.linspace(0, self.rows, SAMPLES))
                points = np.column_stack([x.ravel(), y.ravel()])
                points = points[np.argsort(np.hypot(*(points - middle).T), kind="stable")]
                along, down = self.steps(points)
                found = int(np.argmax(np.isfinite(along) & np.isfinite(down)))
                along, down = along[found:], down[found:]
        return float(along[0]), float(down[0])

    def steps(self, points: npt.NDArray[Any]) -> tuple[F64, F64]:
        """Return the lengths of pixels along rows and along columns at pixel coordinates `(n, 2)`, in metres."""
        points = points.astype(np.float64)
        right, below = np.array((0.5, 0.0)), np.array((0.0, 0.5))
        return self._segments(points - right, points + right), self._segments(points - below, points + below)

    def bearing(self, angle: npt.NDArray[Any]) -> F64:
        """Return directions in degrees clockwise from grid north, `0 <= d < 180`.

        `angle` is in radians from the direction of rows to that of columns, in pixels that are as long as wide.
        """
        a, b, _, d, e, _ = self.transform
        cos, sin = np.cos(angle) / np.hypot(a, d), np.sin(angle) / np.hypot(b, e)
        found: F64 = np.degrees(np.arctan2(a * cos + b * sin, d * cos + e * sin)) % 180.0
        return found

    @property
    def gsd(self) -> float:
        """Ground sample distance at the raster's centre: geometric mean of both axes, in metres."""
        along, down = self.step
        return float(np.sqrt(along * down))

    def _segments(self, start: npt.NDArray[Any], end: npt.NDArray[Any]) -> F64:
        geod = self._found[0]
        lon0, lat0 = self.geographic(start)
        lon1, lat1 = self.geographic(end)
        return np.asarray(geod.inv(lon0, lat0, lon1, lat1, radians=True)[2], dtype=np.float64)

    def _divided(self, coords: npt.NDArray[Any], offsets: I64, *, closed: bool) -> tuple[F64, I64]:
        """Return lines with long edges divided; rings are closed (the first vertex again at the end)."""
        if closed:
            sizes = np.diff(offsets)
            index = np.insert(np.arange(len(coords)), offsets[1:], offsets[:-1])
            coords, offsets = coords[index], np.concatenate([[0], np.cumsum(sizes + 1)])
        points = coords.astype(np.float64)
        edge = np.abs(np.diff(points, axis=0)).max(axis=1) if len(points) > 1 else np.empty(0)
        pieces = np.maximum(1, np.ceil(edge * max(self.step) / LONGEST_M)).astype(np.int64)
        pieces[offsets[1:-1] - 1] = 1  # from the end of a line to the start of the next
        if (pieces == 1).all():
            return points, offsets
        repeat = np.append(pieces, 1)
        at = np.repeat(np.arange(len(points)), repeat)
        starts = np.concatenate([[0], np.cumsum(repeat)])
        fraction = (np.arange(starts[-1]) - starts[at]) / repeat[at]
        after = np.minimum(at + 1, len(points) - 1)
        divided = points[at] + (points[after] - points[at]) * fraction[:, None]
        return divided, starts[offsets]

    def lengths(self, coords: npt.NDArray[Any], offsets: I64, *, closed: bool = False) -> F64:
        """Return the length in metres of lines in pixel coordinates; `closed`: of rings that do not repeat a vertex."""
        if len(offsets) < 2:
            return np.empty(0)
        points, offsets = self._divided(coords, offsets, closed=closed)
        lon, lat = self.geographic(points)
        geod = self._found[0]
        length = np.zeros(len(points))
        length[:-1] = geod.inv(lon[:-1], lat[:-1], lon[1:], lat[1:], radians=True)[2]
        length[offsets[1:] - 1] = 0
        return np.add.reduceat(length, offsets[:-1])

    def ring_areas(self, coords: npt.NDArray[Any], offsets: I64) -> F64:
        """Return the area in square metres of each ring (not closed) in pixel coordinates, never negative."""
        if len(offsets) < 2:
            return np.empty(0)
        points, offsets = self._divided(coords, offsets, closed=True)
        lon, lat = self.geographic(points)
        geod = self._found[0]
        tangent = np.tan(_authalic(lat, float(geod.es)) / 2)
        turn = np.diff(lon)
        # Differences of near numbers are exact, and must stay so: the far smaller area is what they do not cancel.
        turn -= 2 * np.pi * np.round(turn / (2 * np.pi))
        t0, t1 = tangent[:-1], tangent[1:]
        excess = 2 * np.arctan2(np.tan(turn / 2) * (t0 + t1), 1 + t0 * t1)
        last = offsets[1:] - 1
        inside = np.ones(len(points), dtype=bool)
        inside[last] = False
        excess = np.where(inside, np.append(excess, 0), 0)
        total = np.add.reduceat(excess, offsets[:-1])
        turns = np.add.reduceat(np.where(inside, np.append(turn, 0), 0), offsets[:-1])
        areas: F64 = np.abs(total) * _authalic_radius2(float(geod.a), float(geod.es))
        for ring in np.flatnonzero(np.abs(turns) > 1):  # around a pole
            part = slice(offsets[ring], last[ring])
            areas[ring] = abs(geod.polygon_area_perimeter(lon[part], lat[part], radians=True)[0])
        return areas

    @cached_property
    def _pixel_areas(self) -> tuple[F64, F64, F64]:
        xs = np.linspace(0, max(self.cols - 1, 1), SAMPLES)
        ys = np.linspace(0, max(self.rows - 1, 1), SAMPLES)
        x, y = (g.ravel() for g in np.meshgrid(xs, ys))
        corners = np.stack([np.column_stack([x + dx, y + dy]) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))], axis=1)
        offsets = np.arange(0, 4 * len(x) + 1, 4)
        with np.errstate(invalid="ignore"):
            areas = self.ring_areas(corners.reshape(-1, 2), offsets).reshape(SAMPLES, SAMPLES)
        unknown = ~np.isfinite(areas)
        # Samples where the projection has no places take the nearest one's, since pixels beside them may have some.
        # Where no sample has any, areas are unknown, and nothing is smaller than another.
        if unknown.any() and not unknown.all():
            near = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
            areas = areas[tuple(near)]
        return xs, ys, areas

    def pixel_areas(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> F64:
        """Return the area in square metres of the pixels at columns `x` and rows `y`, from a table of the raster."""
        xs, ys, areas = self._pixel_areas
        u = np.clip(np.asarray(x, dtype=np.float64) / xs[-1], 0, 1) * (SAMPLES - 1)
        v = np.clip(np.asarray(y, dtype=np.float64) / ys[-1], 0, 1) * (SAMPLES - 1)
        i, j = np.minimum(u.astype(np.int64), SAMPLES - 2), np.minimum(v.astype(np.int64), SAMPLES - 2)
        u, v = u - i, v - j
        found: F64 = (areas[j, i] * (1 - u) + areas[j, i + 1] * u) * (1 - v) + (
            areas[j + 1, i] * (1 - u) + areas[j + 1, i + 1] * u
        ) * v
        return found


def _authalic_q(sine: npt.NDArray[Any], es: float) -> F64:
    """Snyder 1987, equation 3-12."""
    if es == 0:
        return np.asarray(2 * sine)
    e = np.sqrt(es)
    return np.asarray((1 - es) * (sine / (1 - es * sine**2) + np.arctanh(e * sine) / e))


def _authalic(latitude: F64, es: float) -> F64:
    """Return authalic latitudes (Snyder 1987, equation 3-11)."""
    pole = float(_authalic_q(np.array(1.0), es))
    return np.asarray(np.arcsin(np.clip(_authalic_q(np.sin(latitude), es) / pole, -1, 1)))


def _authalic_radius2(a: float, es: float) -> float:
    """Return the square of the authalic radius (Snyder 1987, equation 3-13)."""
    return a * a * float(_authalic_q(np.array(1.0), es)) / 2
