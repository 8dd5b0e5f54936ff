"""Areas and lengths on the ground, against pyproj's geodesic ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from pyproj import CRS, Geod, Transformer

from geounet.config.job import Vector
from geounet.errors import JobError
from geounet.vector.attributes import Ground
from geounet.vector.build import check_metres
from tests.support.vectors import build, read, request

PARTIAL = {
    "mollweide": ("+proj=moll +ellps=WGS84", (3e5, 0.0, -1.8e7, 0.0, -3e5, 9e6)),
    "robinson": ("+proj=robin +ellps=WGS84", (3e5, 0.0, -1.8e7, 0.0, -3e5, 9e6)),
    "geostationary": ("+proj=geos +h=35785831 +sweep=y +ellps=WGS84", (1.4e5, 0.0, -8.4e6, 0.0, -1.4e5, 5.6e6)),
}
"""Projections without places in the corners of a raster of 60 × 120 px."""

US_FEET = "EPSG:2263"  # New York, survey feet

SCENES = {
    "utm": ("EPSG:32633", (0.3, 0.0, 500000.0, 0.0, -0.3, 5000000.0)),
    "web mercator": ("EPSG:3857", (0.5, 0.0, 1_500_000.0, 0.0, -0.5, 8_000_000.0)),
    "degrees": ("EPSG:4326", (1e-5, 0.0, 13.0, 0.0, -1e-5, 52.0)),
    "feet": (US_FEET, (1.0, 0.0, 990000.0, 0.0, -1.0, 200000.0)),
    "rotated": ("EPSG:32633", (0.26, 0.15, 500000.0, 0.15, -0.26, 5000000.0)),
    "south up": ("EPSG:32733", (0.3, 0.0, 500000.0, 0.0, 0.3, 7000000.0)),
    "compound": ("EPSG:32633+5773", (0.3, 0.0, 500000.0, 0.0, -0.3, 5000000.0)),
    "equal area": ("EPSG:3035", (2.0, 0.0, 4_300_000.0, 0.0, -2.0, 3_000_000.0)),
    "antimeridian": ("EPSG:32760", (5.0, 0.0, 817000.0, 0.0, -5.0, 8_000_000.0)),
    "polar": ("EPSG:3413", (10.0, 0.0, 100_000.0, 0.0, -10.0, -200_000.0)),
}

# Two rings: an L, and a small square.
COORDS = np.array(
    [(2, 3), (90, 3), (90, 40), (30, 40), (30, 160), (2, 160), (200, 10), (203, 10), (203, 13), (200, 13)]
)
RINGS = np.array([0, 6, 10])


def ground(name: str, rows: int = 400, cols: int = 300) -> Ground:
    crs, transform = SCENES[name]
    return Ground(CRS.from_user_input(crs).to_wkt(), transform, rows, cols)


def geographic(scene: Ground, coords: Any) -> tuple[Any, Any, Geod]:
    """Longitude and latitude in degrees of pixel coordinates, by another way than the package's."""
    crs = CRS.from_user_input(scene.crs)
    crs = crs.sub_crs_list[0] if crs.is_compound else crs
    mapped = scene.to_map(np.asarray(coords))
    assert crs.geodetic_crs is not None
    lon, lat = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(mapped[:, 0], mapped[:, 1])
    geod = crs.get_geod()
    assert geod is not None
    return lon, lat, geod


@pytest.mark.parametrize("name", SCENES)
def test_areas_and_lengths_are_geodesic(name: str) -> None:
    scene = ground(name)
    lon, lat, geod = geographic(scene, COORDS)
    areas, lengths = scene.ring_areas(COORDS, RINGS), scene.lengths(COORDS, RINGS, closed=True)
    for i in range(2):
        part = slice(RINGS[i], RINGS[i + 1])
        area, length = geod.polygon_area_perimeter(lon[part], lat[part])
        # pyproj sums areas down to the equator: it is off by some 1e-5 m² by itself, see the next test.
        assert areas[i] == pytest.approx(abs(area), rel=2e-7, abs=5e-5)
        assert lengths[i] == pytest.approx(length, rel=2e-7)


def test_small_areas_keep_their_digits() -> None:
    # On the central meridian of UTM the scale is 0.9996 exactly.
    scene = Ground("EPSG:32633", (0.01, 0.0, 499999.995, 0.0, -0.01, 5000000.0), 100, 100)
    pixel = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    assert scene.ring_areas(pixel, np.array([0, 4]))[0] == pytest.approx(1e-4 / 0.9996**2, rel=1e-5)


@pytest.mark.parametrize("name", SCENES)
def test_lines(name: str) -> None:
    scene = ground(name)
    lon, lat, geod = geographic(scene, COORDS)
    lengths = scene.lengths(COORDS, RINGS)
    for i in range(2):
        part = slice(RINGS[i], RINGS[i + 1])
        assert lengths[i] == pytest.approx(geod.line_length(lon[part], lat[part]), rel=1e-8)


def test_long_edges_are_those_of_the_crs() -> None:
    # A box of 60 degrees along parallels, which are no geodesics: its area is that between parallels.
    scene = Ground("EPSG:4326", (0.5, 0.0, 0.0, 0.0, -0.5, 60.0), 200, 200)
    box = np.array([(0, 0), (120, 0), (120, 20), (0, 20)])
    geod = Geod(ellps="WGS84")
    line = shapely.segmentize(shapely.box(0, 50, 60, 60), 0.01)
    expected = abs(geod.geometry_area_perimeter(line)[0])
    assert scene.ring_areas(box, np.array([0, 4]))[0] == pytest.approx(expected, rel=1e-5)


def test_a_ring_around_the_pole() -> None:
    scene = Ground(CRS("EPSG:3413").to_wkt(), (1000.0, 0.0, -100_000.0, 0.0, -1000.0, 100_000.0), 200, 200)
    box = np.array([(50, 50), (150, 50), (150, 150), (50, 150)])
    lon, lat, geod = geographic(scene, box)
    assert scene.ring_areas(box, np.array([0, 4]))[0] == pytest.approx(
        abs(geod.polygon_area_perimeter(lon, lat)[0]), rel=1e-3
    )


def test_pixels_may_reach_beyond_the_poles() -> None:
    # A global grid whose first and last rows have the poles as their centres.
    earth = Ground(CRS("EPSG:4326").to_wkt(), (1.0, 0.0, -180.5, 0.0, -1.0, 90.5), 181, 360)
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(360), np.arange(181)))
    corners = np.stack([np.column_stack([x + dx, y + dy]) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))], axis=1)
    areas = earth.ring_areas(corners.reshape(-1, 2), np.arange(0, 4 * len(x) + 1, 4))
    assert areas.sum() == pytest.approx(510_065_621_724_000, rel=1e-6)
    assert np.isfinite(earth.lengths(corners.reshape(-1, 2), np.arange(0, 4 * len(x) + 1, 4), closed=True)).all()
    assert (earth.pixel_areas(x, y) > 0).all()


def test_a_coverage_adds_up() -> None:
    scene = ground("web mercator")
    y, x = (a.ravel() for a in np.mgrid[0:20, 0:20])
    squares = np.stack([np.column_stack([x + dx, y + dy]) for dx, dy in ((0, 0), (1, 0), (1, 1), (0, 1))], axis=1)
    each = scene.ring_areas(squares.reshape(-1, 2), np.arange(0, 1601, 4))
    whole = scene.ring_areas(np.array([(0, 0), (20, 0), (20, 20), (0, 20)]), np.array([0, 4]))
    assert each.sum() == pytest.approx(whole[0], rel=1e-8)
    assert scene.pixel_areas(x, y) == pytest.approx(each, rel=1e-4)


def test_web_mercator_shrinks_with_latitude() -> None:
    scene = ground("web mercator")
    _, lat, _ = geographic(scene, np.array([(150.0, 200.0)]))
    assert scene.gsd == pytest.approx(0.5 * np.cos(np.radians(lat[0])), rel=5e-3)


@pytest.mark.parametrize("crs", [None, 'LOCAL_CS["site",UNIT["metre",1]]', "not a crs"])
def test_without_an_ellipsoid_metres_are_unknown(crs: str | None) -> None:
    assert not Ground(crs, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), 10, 10).known


def test_without_a_geotransform_metres_are_unknown(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), dtype=np.uint8)
    mask[10:30, 10:30] = 1
    asked = request(tmp_path, mask, crs="EPSG:32633", transform=None)
    assert check_metres(asked, Ground(None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 40, 50))
    build(asked)
    assert read(asked.out, "buildings")["area_m2"] == [None]
    with pytest.raises(JobError, match="no coordinate system"):
        build(replace(asked, layers=Vector.model_validate({"buildings": {"min_area_m2": 5}})))


def partial(name: str, dx: float = 0.0) -> Ground:
    crs, (a, b, c, d, e, f) = PARTIAL[name]
    return Ground(CRS.from_user_input(crs).to_wkt(), (a, b, c + dx, d, e, f), 60, 120)


@pytest.mark.parametrize("name", PARTIAL)
def test_pixels_beside_what_a_projection_has_no_places_for_have_areas(name: str) -> None:
    scene = partial(name)
    y, x = (v.ravel() for v in np.mgrid[0:60, 0:120])
    lon, _ = scene.geographic(np.column_stack([x + 0.5, y + 0.5]))
    assert 0.1 < np.isinf(lon).mean() < 0.9
    assert scene.known
    found = scene.pixel_areas(x, y)
    assert (np.isfinite(found) & (found > 0)).all()
    if name == "mollweide":  # all pixels are alike
        np.testing.assert_allclose(found, 9e10, rtol=1e-2)


def test_sizes_are_those_of_the_nearest_place_where_the_centre_has_none() -> None:
    scene = partial("mollweide", dx=1.9e7)  # the centre is beyond the right end of the world
    assert np.isinf(scene.geographic(np.array([(60.0, 30.0)]))[0]).all()
    assert scene.known
    assert 1e5 < scene.gsd < 6e5
    assert not partial("mollweide", dx=1e9).known
