"""Ground sample distance and cropping."""

from __future__ import annotations

import math

import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio import CRS, Affine

from geounet.errors import SceneError
from geounet.raster.georef import apply, crop, ground_pixel, ground_sample_distance
from geounet.types import Rect

MARS = (
    'PROJCS["Equirectangular Mars",GEOGCS["GCS_Mars_2000",DATUM["D_Mars_2000",SPHEROID["Mars_2000",3396190,0]],'
    'PRIMEM["Reference_Meridian",0],UNIT["Degree",0.0174532925199433]],PROJECTION["Equirectangular"],'
    'PARAMETER["standard_parallel_1",0],PARAMETER["central_meridian",180],UNIT["metre",1]]'
)


def gsd(crs, transform, width=100, height=100):
    wkt = crs if crs is None or crs.startswith(("PROJ", "LOCAL", "GEOG", "ENG")) else CRS.from_user_input(crs).to_wkt()
    return ground_sample_distance(wkt, transform, width, height)


@pytest.mark.parametrize("latitude", [0.0, 27.6, -45.0, 80.0])
def test_web_mercator_is_divided_by_its_scale(latitude):
    _, y = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(10, latitude)
    transform = Affine(0.3, 0, 1e6, 0, -0.3, y + 15)
    assert gsd("EPSG:3857", transform) == pytest.approx(0.3 * math.cos(math.radians(latitude)), rel=1e-9)


def test_utm_is_on_the_ground():
    # The scale of UTM is 0.9996 at its central meridian.
    assert gsd("EPSG:32633", Affine(10, 0, 499500, 0, -10, 5800000)) == pytest.approx(10 / 0.9996, rel=1e-5)
    assert gsd("EPSG:32633", Affine(10, 0, 300000, 0, -10, 5800000)) == pytest.approx(10, rel=1e-3)


def test_degrees_are_geodesic_on_both_axes():
    transform = Affine(1e-5, 0, 10, 0, -1e-5, 60)
    geod = pyproj.Geod(ellps="WGS84")
    east = geod.inv(10, 59.9995, 10 + 1e-5, 59.9995)[2]
    north = geod.inv(10, 59.9995, 10, 59.9995 + 1e-5)[2]
    assert gsd("EPSG:4326", transform) == pytest.approx(math.sqrt(east * north), rel=1e-6)
    assert east / north == pytest.approx(0.5, rel=0.01)
    wkt = CRS.from_epsg(4326).to_wkt()
    assert ground_pixel(wkt, transform, 100, 100) == pytest.approx((math.sqrt(east * north), east / north), rel=1e-6)


@pytest.mark.parametrize(
    ("crs", "transform", "aspect"),
    [
        ("EPSG:32633", Affine(10, 0, 300000, 0, -10, 5800000), 1),
        ("EPSG:32633", Affine(10, 0, 300000, 0, -5, 5800000) @ Affine.rotation(0), 2),
        ("EPSG:32633", Affine.translation(300000, 5800000) @ Affine.rotation(30) @ Affine.scale(3, -1), 3),
        ("EPSG:3857", Affine(0.3, 0, 1e6, 0, -0.3, 8e6), 1),
        ("EPSG:3857", Affine(0.3, 0, 1e6, 0, -0.6, 8e6), 0.5),
        (None, Affine(1, 0, 0, 0, -3, 0), 1),
    ],
)
def test_width_over_height(crs, transform, aspect):
    wkt = None if crs is None else CRS.from_user_input(crs).to_wkt()
    assert ground_pixel(wkt, transform, 100, 100)[1] == pytest.approx(aspect, rel=2e-3)


def test_feet():
    # NAD83 / California zone 3 (ftUS).
    assert gsd("EPSG:2227", Affine(1, 0, 6000000, 0, -1, 2100000)) == pytest.approx(1200 / 3937, rel=1e-3)


def test_dateline():
    across = gsd("EPSG:4326", Affine(0.001, 0, 179.95, 0, -0.001, 10))
    elsewhere = gsd("EPSG:4326", Affine(0.001, 0, 20, 0, -0.001, 10))
    assert across == pytest.approx(elsewhere, rel=1e-9)
    assert gsd("EPSG:32660", Affine(10, 0, 833000, 0, -10, 1000000)) == pytest.approx(10, rel=2e-3)


def test_compound_crs_counts_its_horizontal_part():
    transform = Affine(10, 0, 499500, 0, -10, 5800000)
    assert gsd("EPSG:32633+5773", transform) == pytest.approx(gsd("EPSG:32633", transform), rel=1e-12)


def test_mars_has_its_own_ellipsoid():
    assert gsd(MARS, Affine(5, 0, 0, 0, -5, 250)) == pytest.approx(5, rel=1e-6)
    high = Affine(5, 0, 0, 0, -5, 3396190 * math.radians(60) + 250)
    assert gsd(MARS, high) == pytest.approx(5 * math.sqrt(0.5), rel=1e-3)


def test_crs_without_a_code():
    wkt = pyproj.CRS("+proj=laea +lat_0=52 +lon_0=10 +ellps=GRS80").to_wkt()
    assert ground_sample_distance(wkt, Affine(2, 0, -100, 0, -2, 100), 100, 100) == pytest.approx(2, rel=1e-6)


def test_rotated_and_anisotropic():
    rotated = Affine.translation(499500, 5800000) @ Affine.rotation(30) @ Affine.scale(2, -8)
    assert gsd("EPSG:32633", rotated) == pytest.approx(4 / 0.9996, rel=1e-4)


@pytest.mark.parametrize("wkt", [None, 'LOCAL_CS["arbitrary",UNIT["metre",1]]'])
def test_unknown_ground(wkt):
    assert ground_sample_distance(wkt, Affine(1, 0, 0, 0, -1, 0), 10, 10) is None


def test_beyond_the_definition_of_the_crs():
    assert gsd("EPSG:32633", Affine(1e9, 0, 1e12, 0, -1e9, 1e13)) is None


@given(
    st.integers(0, 99), st.integers(0, 79), st.integers(1, 100), st.integers(1, 80), st.booleans(),
    st.sampled_from([0.1, 0.29858214173896974, 1.0, 30.0, 1e-5 / 3]),
)  # fmt: skip
def test_boxes_on_pixel_edges_are_exact(x, y, cols, rows, south_up, size):
    x1, y1 = min(100, x + cols), min(80, y + rows)
    transform = Affine(size, 0, 9519391.065607566, 0, size if south_up else -size, 3203475.8554317355)
    if size < 1e-4:
        transform = Affine(size, 0, 85.5, 0, size if south_up else -size, 27.6)
    (xa, ya), (xb, yb) = apply(transform, x, y), apply(transform, x1, y1)
    box = (min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb))
    assert crop(transform, 100, 80, box, "s") == Rect(y, x, y1, x1)


def test_boxes_take_every_pixel_they_touch():
    transform = Affine(1, 0, 100, 0, -1, 200)
    assert crop(transform, 50, 50, (100.9, 197.9, 103.1, 199.5), "s") == Rect(0, 0, 3, 4)
    assert crop(transform, 50, 50, (0, 0, 1000, 1000), "s") == Rect(0, 0, 50, 50)


def test_boxes_on_rotated_grids_are_the_bounding_pixels():
    transform = Affine.translation(100, 200) @ Affine.rotation(45) @ Affine.scale(1, -1)
    box = (110.0, 195.0, 112.0, 197.0)
    rect = crop(transform, 50, 50, box, "s")
    points = [apply(~transform, x, y) for x in box[::2] for y in box[1::2]]
    assert rect.x0 <= min(c for c, _ in points) < rect.x0 + 1
    assert rect.x1 - 1 < max(c for c, _ in points) <= rect.x1
    assert rect.y0 <= min(r for _, r in points) < rect.y0 + 1
    assert rect.y1 - 1 < max(r for _, r in points) <= rect.y1


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 10, 10), r"outside the scene, which spans \[100, 150, 150, 200\]"),
        ((150, 150, 160, 160), "outside the scene"),
        ((120, 160, 110, 170), "is empty"),
        ((float("nan"), 0, 1, 1), "is empty"),
    ],
)
def test_boxes_that_miss(box, message):
    with pytest.raises(SceneError, match=message):
        crop(Affine(1, 0, 100, 0, -1, 200), 50, 50, box, "s")
