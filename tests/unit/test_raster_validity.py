"""One validity per pixel: the rules of docs/decisions/0003-validity.md."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio import Affine

from geounet.errors import SceneError
from geounet.raster import validity
from geounet.raster.aoi import Area
from geounet.raster.env import open_quietly
from geounet.raster.scene import SceneSpec, describe
from geounet.types import Rect
from tests.support.rasters import NORTH_UP, UTM, noise, scene, write

BOX = '{"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": "%s"}}, "features": [%s]}'
FEATURE = '{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": %s}}'


def read(opened):
    values, valid = opened.read(Rect(0, 0, *opened.info.shape))
    np.testing.assert_array_equal(opened.read_validity(Rect(0, 0, *opened.info.shape)), valid)
    assert (values[:, ~valid] == 0).all()
    assert np.isfinite(values).all()
    return values, valid


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("int64", 2**63 - 1), ("int64", -(2**63)), ("int64", -(2**53 + 1)), ("uint64", 2**64 - 1), ("int64", -9999)],
)
def test_nodata_that_no_float_holds(tmp_path, dtype, nodata):
    array = np.full((1, 4, 4), 7, dtype=dtype)
    array[0, 0, 0] = nodata
    array[0, 0, 1] = nodata - 1 if nodata > 0 else nodata + 1
    name = write(tmp_path / "a.tif", array).name
    kind = {"int64": "Int64", "uint64": "UInt64"}[dtype]
    declares = tmp_path / "a.vrt"  # rasterio writes none
    declares.write_text(
        f'<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="{kind}" band="1"><NoDataValue>{nodata}'
        f'</NoDataValue><SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    with scene(declares) as opened:
        _, valid = read(opened)
        assert opened.info.validity == ("nodata",)
    assert not valid[0, 0]
    assert valid.sum() == 15


def test_zero_without_a_declaration_is_a_value(tmp_path):
    array = noise(3, 10, 10)
    array[2] = 0
    array[:, 0, 0] = 0
    with scene(write(tmp_path / "a.tif", array)) as opened:
        values, valid = read(opened)
        assert opened.info.validity == ()
    assert valid.all()
    np.testing.assert_array_equal(values, array)


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("uint8", 255), ("uint16", 65535), ("float32", 0.0)])
def test_possible_values_mean_nodata_where_all_bands_hold_them(tmp_path, dtype, nodata):
    array = noise(3, 6, 6, dtype=dtype)
    array[0, 0, 0] = nodata
    array[:2, 0, 1] = nodata
    array[:, 0, 2] = nodata
    path = write(tmp_path / "a.tif", array, nodata=nodata)
    with scene(path) as opened:
        values, valid = read(opened)
        assert "nodata" in opened.info.validity
    assert np.argwhere(~valid).tolist() == [[0, 2]]
    assert values[1, 0, 0] == array[1, 0, 0]
    # Only chosen bands count.
    with scene(path, bands=(1, 2)) as opened:
        assert np.argwhere(~read(opened)[1]).tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("int16", -9999), ("int16", -32768), ("float32", -9999.0), ("float32", 3.4028235e38), ("float64", -1.7e308)],
)
def test_impossible_values_in_one_band_make_the_pixel_invalid(tmp_path, dtype, nodata):
    array = noise(3, 6, 6, dtype=dtype)
    array[1, 0, 0] = nodata
    array[:, 0, 2] = nodata
    path = write(tmp_path / "a.tif", array, nodata=nodata)
    with scene(path) as opened:
        assert np.argwhere(~read(opened)[1]).tolist() == [[0, 0], [0, 2]]
    with scene(path, bands=(1, 3)) as opened:
        assert np.argwhere(~read(opened)[1]).tolist() == [[0, 2]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("nodata", [None, np.nan, -1.0])
def test_what_is_not_a_number_is_never_valid(tmp_path, bad, nodata):
    array = noise(2, 6, 6, dtype="float32")
    array[1, 3, 4] = bad
    with scene(write(tmp_path / "a.tif", array, nodata=nodata)) as opened:
        assert np.argwhere(~read(opened)[1]).tolist() == [[3, 4]]
        assert "nan" in opened.info.validity


def test_doubles_beyond_float32_are_invalid(tmp_path):
    array = noise(1, 4, 4, dtype="float64")
    array[0, 1, 1] = 1e300
    with scene(write(tmp_path / "a.tif", array)) as opened:
        assert np.argwhere(~read(opened)[1]).tolist() == [[1, 1]]


def test_nodata_that_the_type_cannot_hold_is_said(tmp_path):
    vrt = tmp_path / "a.vrt"
    write(tmp_path / "a.tif", noise(1, 4, 4))
    vrt.write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1">'
        "<NoDataValue>0.5</NoDataValue><SimpleSource>"
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with scene(vrt) as opened:
        assert read(opened)[1].all()
        info = opened.info
    assert info.validity == ()
    assert any("0.5 cannot occur in uint8" in w for w in info.warnings)


def test_nodata_beyond_the_type_is_quiet(tmp_path):
    vrt = tmp_path / "a.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Float32" band="1">'
        "<NoDataValue>1e300</NoDataValue></VRTRasterBand></VRTDataset>"
    )
    with scene(vrt) as opened:
        assert read(opened)[1].shape == (4, 4)


@pytest.mark.parametrize("internal", [True, False])
def test_masks_inside_and_beside(tmp_path, internal):
    mask = np.full((20, 20), 255, dtype=np.uint8)
    mask[4:9, 2:7] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write(tmp_path / "a.tif", noise(3, 20, 20), mask=mask, photometric="rgb")
    assert (tmp_path / "a.tif.msk").exists() != internal
    # The block cache's neighbour: environments that hide sidecars must not reach us.
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), scene(path) as opened:
        np.testing.assert_array_equal(read(opened)[1], mask != 0)
        assert opened.info.validity == ("mask",)


def test_sources_are_combined(tmp_path):
    array = noise(4, 10, 10)
    array[3] = 255
    array[3, 0] = 0
    array[:3, 1] = 9
    array[:3, 2] = 255
    path = write(tmp_path / "a.tif", array, photometric="rgb", alpha="yes", nodata=9)
    with scene(path, nodata=(255,)) as opened:
        valid = read(opened)[1]
        assert opened.info.validity == ("alpha", "nodata", "fill")
    assert not valid[:3].any()
    assert valid[3:].all()


def test_fill_is_exact_in_lossless_files(tmp_path):
    array = noise(3, 30, 30)
    array[:, :9] = 255
    array[:, 20, 20] = 255
    array[:, 21, 21] = 254
    array[:2, 22, 22] = 255
    path = write(tmp_path / "a.tif", array)
    with scene(path, nodata=(255,)) as opened:
        valid = read(opened)[1]
    expected = np.ones((30, 30), dtype=bool)
    expected[:9] = False
    expected[20, 20] = False
    np.testing.assert_array_equal(valid, expected)
    with scene(path, nodata=(255, 255, 17)) as opened:
        np.testing.assert_array_equal(read(opened)[1], ~((array[:2] == 255).all(0) & (array[2] == 17)))
    with scene(path, nodata=(-9999,)) as opened:
        assert read(opened)[1].all()
    with pytest.raises(SceneError, match="2 nodata values for 3 bands"):
        describe(SceneSpec("a", (str(path),), nodata=(0, 0)))


def jpeg(path, **how):
    """Write a white corner, a white hole, bright noise and single white pixels, compressed with loss."""
    array = noise(3, 200, 240, 60, 200)
    array[:, :50, :70] = 255
    array[:, 120:150, 100:160] = 255
    array[:, 180, 10:230:20] = 255
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    return write(path, array, compress="jpeg", photometric="ycbcr", **tiles, **how)


@pytest.mark.parametrize("declared", [False, True])
def test_fill_in_lossy_files_is_found_and_bright_pixels_are_kept(tmp_path, declared):
    path = jpeg(tmp_path / "a.tif", nodata=255 if declared else None)
    truth = np.zeros((200, 240), dtype=bool)
    truth[:50, :70] = True
    truth[120:150, 100:160] = True
    with scene(path, nodata=None if declared else (255,)) as opened:
        filled = ~read(opened)[1]
        assert opened.info.validity == ("nodata" if declared else "fill",)
    inner = np.zeros_like(truth)
    inner[:40, :60] = True
    inner[130:142, 114:146] = True
    assert filled[inner].all()
    assert not filled[~truth].any()


def test_nodata_in_lossy_files_has_no_specks(tmp_path, monkeypatch):
    # What compression makes of white: a roof with single pixels of 255, a border of 251 to 255.
    array = noise(3, 64, 64, 60, 200)
    array[:, 40:60, 40:60] = np.where(noise(1, 20, 20, 0, 12) == 0, 255, 240)
    array[:, :16] = noise(3, 16, 64, 251, 256)
    path = write(tmp_path / "a.tif", array, nodata=255)
    with scene(path) as opened:
        np.testing.assert_array_equal(read(opened)[1], ~(array == 255).all(axis=0))
    monkeypatch.setattr("geounet.raster.layer.lossy", lambda _: True)
    with scene(path) as opened:
        valid = read(opened)[1]
    assert not valid[:16].any()
    assert valid[16:].all()


def test_alpha_of_lossy_files_need_not_be_zero(tmp_path):
    array = noise(4, 64, 64)
    array[3] = 255
    array[3, :30, :37] = 0
    expected = array[3] > 0
    path = write(
        tmp_path / "a.tif", array, compress="jpeg", photometric="rgb", interleave="band", alpha="yes", jpeg_quality=75
    )
    with scene(path) as opened, open_quietly(path) as raster:
        transparent = raster.read(4)[~expected]
        assert len(np.unique(transparent)) > 1, "compression moved some"
        np.testing.assert_array_equal(read(opened)[1], expected)
    array[3, 40:, 40:] = 1  # without loss, half transparent is valid
    with scene(write(tmp_path / "b.tif", array, compress="deflate", photometric="rgb", alpha="yes")) as opened:
        np.testing.assert_array_equal(read(opened)[1], expected)


@pytest.fixture(scope="module", params=[False, True], ids=["fill", "nodata"])
def lossy(request, tmp_path_factory):
    """A scene of lossy fill, and what it is as a whole."""
    declared = request.param
    path = jpeg(tmp_path_factory.mktemp("lossy") / "a.tif", nodata=255 if declared else None)
    with scene(path, nodata=None if declared else (255,)) as opened:
        yield opened, read(opened)


@given(y=st.integers(0, 199), x=st.integers(0, 239), rows=st.integers(1, 200), cols=st.integers(1, 240))
def test_lossy_fill_does_not_depend_on_the_window(lossy, y, x, rows, cols):
    opened, (values, valid) = lossy
    rect = Rect(y, x, min(y + rows, 200), min(x + cols, 240))
    part, known = opened.read(rect)
    np.testing.assert_array_equal(known, valid[rect.y0 : rect.y1, rect.x0 : rect.x1])
    np.testing.assert_array_equal(part, values[:, rect.y0 : rect.y1, rect.x0 : rect.x1])


def test_lossy_fill_at_the_files_edge_may_be_narrow():
    plane = np.full((30, 30), 100, dtype=np.uint8)
    plane[:3] = 254
    plane[:, 27:] = 255
    plane[10:15, 10:15] = 255
    padded = ((7, 7), (7, 7))
    found = validity.filled_lossy([plane], [255], padded)
    expected = np.zeros((30, 30), dtype=bool)
    expected[:3] = True
    expected[:, 27:] = True
    np.testing.assert_array_equal(found, expected)


def test_real_fill_of_a_drone_mosaic(shared_data):
    with scene(shared_data / "banepa_oam" / "banepa_scene_z19.tif", nodata=(255,)) as opened:
        valid = opened.read_validity(Rect(0, 0, *opened.info.shape))
    # 257,451 pixels are exactly white, 889 of them single bright pixels of roofs.
    assert 255_000 < (~valid).sum() < 268_000
    from scipy.ndimage import label

    assert label(~valid)[1] <= 3


def area(path, crs, rings):
    path.write_text(BOX % (crs, ",".join(FEATURE % ring for ring in rings)))
    return str(path)


def test_area_of_interest_takes_pixel_centres(tmp_path):
    path = write(tmp_path / "a.tif", noise(1, 20, 20))
    # From just left of the centre of column 4 to just right of the centre of column 9, rows 2 to 5.
    box = [[[400002.2, 5799999.0], [400004.8, 5799999.0], [400004.8, 5799997.0], [400002.2, 5799997.0],
            [400002.2, 5799999.0]]]  # fmt: skip
    with scene(path, aoi=area(tmp_path / "a.geojson", "urn:ogc:def:crs:EPSG::32633", [box])) as opened:
        valid = read(opened)[1]
        assert opened.info.validity == ("aoi",)
    expected = np.zeros((20, 20), dtype=bool)
    expected[2:6, 4:10] = True
    np.testing.assert_array_equal(valid, expected)


def test_area_of_interest_in_another_crs_on_a_rotated_grid(tmp_path):
    from shapely import Point, Polygon

    transform = NORTH_UP @ Affine.rotation(30)
    path = write(tmp_path / "a.tif", noise(1, 60, 70), transform=transform)
    corners = [transform @ (c, r) for c, r in ((12.3, 8.1), (55.4, 20.2), (31.7, 49.9))]
    move = pyproj.Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)
    degrees = [list(move.transform(*p)) for p in corners]
    aoi = area(tmp_path / "a.geojson", "urn:ogc:def:crs:OGC:1.3:CRS84", [[[*degrees, degrees[0]]]])
    with scene(path, aoi=aoi) as opened:
        valid = read(opened)[1]
        for rect in (Rect(0, 0, 7, 70), Rect(20, 30, 21, 31), Rect(33, 5, 60, 44)):
            np.testing.assert_array_equal(opened.read_validity(rect), valid[rect.y0 : rect.y1, rect.x0 : rect.x1])
    triangle = Polygon(corners)
    expected = [[triangle.contains(Point(transform @ (c + 0.5, r + 0.5))) for c in range(70)] for r in range(60)]
    assert (valid != np.array(expected)).sum() == 0


def test_area_of_interest_that_is_no_vector_file(tmp_path):
    path = write(tmp_path / "a.tif", noise(1, 20, 30))
    (tmp_path / "x.gpkg").write_text("hello")
    with pytest.raises(SceneError, match=r"x\.gpkg: not a vector file .* supported file format$"):
        describe(SceneSpec("a", (str(path),), aoi=str(tmp_path / "x.gpkg")))


def test_area_of_interest_over_many_blocks(tmp_path):
    path = write(tmp_path / "a.tif", np.full((1, 2100, 1300), 5, dtype=np.uint8), compress="deflate")
    ring = [[[400010.3, 5799990.1], [400600.2, 5799700.7], [400330.9, 5799005.2], [400010.3, 5799990.1]]]
    aoi = area(tmp_path / "a.geojson", "urn:ogc:def:crs:EPSG::32633", [ring])
    with scene(path, aoi=aoi) as opened:
        valid = read(opened)[1]
        for rect in (Rect(1000, 1000, 1050, 1050), Rect(1023, 0, 1025, 1300), Rect(500, 1023, 2100, 1026)):
            np.testing.assert_array_equal(opened.read_validity(rect), valid[rect.y0 : rect.y1, rect.x0 : rect.x1])
        bbox = (400100, 5799400, 400300, 5799600)
        window = np.s_[800:1200, 200:600]
    with scene(path, aoi=aoi, bbox=bbox) as opened:
        np.testing.assert_array_equal(read(opened)[1], valid[window])
    from rasterio.features import geometry_mask
    from shapely import Polygon

    truth = geometry_mask([Polygon(ring[0])], valid.shape, NORTH_UP, invert=True)
    assert (valid != truth).sum() == 0


def test_an_area_on_both_sides_of_the_antimeridian(tmp_path):
    # RFC 7946 cuts what crosses it: one part ends at 180°, the other begins at −180°.
    parts = [f"[[[{x0}, 9.5], [{x1}, 9.5], [{x1}, 10.5], [{x0}, 10.5], [{x0}, 9.5]]]"
             for x0, x1 in ((179.5, 180), (-180, -179.5))]  # fmt: skip
    aoi = area(tmp_path / "a.geojson", "urn:ogc:def:crs:OGC:1.3:CRS84", parts)
    expected = np.zeros((20, 20), dtype=bool)
    expected[5:15, 5:15] = True
    for west in (179, -181):
        path = write(
            tmp_path / f"{west}.tif", noise(1, 20, 20), crs="EPSG:4326", transform=Affine(0.1, 0, west, 0, -0.1, 11)
        )
        with scene(path, aoi=aoi) as opened:
            np.testing.assert_array_equal(read(opened)[1], expected)
    with pytest.raises(SceneError, match="lies outside the area of interest"):
        describe(
            SceneSpec("a", (str(write(tmp_path / "b.tif", noise(1, 20, 20), crs="EPSG:4326",
                                      transform=Affine(0.1, 0, 0, 0, -0.1, 11))),), aoi=aoi)
        )  # fmt: skip


@pytest.mark.parametrize("step", [0.3, 30, 3000], ids=["small", "tile", "continent"])
@pytest.mark.parametrize("east", [0.0, 0.078], ids=["middle", "beside"])
def test_the_edge_of_a_large_area_is_curved_as_it_should_be(tmp_path, step, east):
    """A parallel, in UTM: straight pieces of a 64th of the area lie 10 px beside it."""
    size = 500
    to_utm = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True)
    x, y = to_utm.transform(10 + east, 45)
    transform = Affine(step, 0, x - size / 2 * step, 0, -step, y + size / 2 * step)
    box = [[5, 45], [15, 45], [15, 55], [5, 55], [5, 45]]
    file = area(tmp_path / "a.geojson", "urn:ogc:def:crs:OGC:1.3:CRS84", [[box]])
    found = Area(file, pyproj.CRS("EPSG:32632").to_wkt(), transform, (size, size)).read(Rect(0, 0, size, size))
    cols, rows = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    lon, lat = to_utm.transform(transform.a * cols + transform.c, transform.e * rows + transform.f, direction="INVERSE")
    assert (found != ((lon > 5) & (lon < 15) & (lat > 45) & (lat < 55))).sum() <= 0.02 * size * 2


@pytest.mark.parametrize("crs", ["EPSG:32601", "EPSG:3031"])
def test_a_large_area_around_a_scene_that_crosses_the_antimeridian_or_holds_a_pole(tmp_path, crs):
    south, north = (-5, 5) if crs == "EPSG:32601" else (-90, -85)
    parts = [[[[x, south], [x + 180, south], [x + 180, north], [x, north], [x, south]]] for x in (-180, 0)]
    file = area(tmp_path / "a.geojson", "urn:ogc:def:crs:OGC:1.3:CRS84", parts)
    known = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = known.transform(180, (-90, 5)[south == -5])
    transform = Affine(4000, 0, x - 200 * 4000, 0, -4000, y + 200 * 4000)
    found = Area(file, pyproj.CRS(crs).to_wkt(), transform, (400, 400)).read(Rect(0, 0, 400, 400))
    cols, rows = np.meshgrid(np.arange(400) + 0.5, np.arange(400) + 0.5)
    _, lat = known.transform(transform.a * cols + transform.c, transform.e * rows + transform.f, direction="INVERSE")
    assert (found != ((lat > south) & (lat < north))).sum() <= 40


def test_an_area_in_one_of_several_layers(tmp_path):
    import geopandas
    from shapely import LineString, box

    path = write(tmp_path / "a.tif", noise(1, 20, 20))
    file = tmp_path / "the area.gpkg"
    left, right = box(400000, 5799990, 400005, 5800000), box(400005, 5799990, 400010, 5800000)
    for layer, shape in (("ways", LineString([(400000, 5799990), (400009, 5799999)])), ("left", left)):
        geopandas.GeoDataFrame(geometry=[shape], crs=UTM).to_file(file, layer=layer)
    with scene(path, aoi=str(file)) as opened:
        assert read(opened)[1].sum(axis=0).tolist() == [20] * 10 + [0] * 10
    geopandas.GeoDataFrame(geometry=[right], crs=UTM).to_file(file, layer="right")
    with pytest.raises(
        SceneError, match=r"2 layers of polygons \(left, right\); .*: ogr2ogr area.gpkg '.*area.gpkg' LAYER$"
    ):
        describe(SceneSpec("a", (str(path),), aoi=str(file)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file for the area of interest"),
        ("not a vector", "not a vector file that can be read"),
        (BOX % ("urn:ogc:def:crs:EPSG::32633", ""), "holds no polygons"),
        (
            BOX % ("urn:ogc:def:crs:EPSG::32633", FEATURE.replace("Polygon", "LineString") % "[[0, 0], [1, 1]]"),
            "holds no polygons",
        ),
        (
            BOX % ("urn:ogc:def:crs:EPSG::32633", FEATURE % "[[[0, 0], [1, 0], [1, 1], [0, 0]]]"),
            "lies outside the area",
        ),
    ],
)
def test_unusable_areas(tmp_path, content, message):
    path = write(tmp_path / "a.tif", noise(1, 20, 20))
    if content is not None:
        (tmp_path / "x.geojson").write_text(content)
    with pytest.raises(SceneError, match=message):
        describe(SceneSpec("a", (str(path),), aoi=str(tmp_path / "x.geojson")))


def test_area_needs_a_scene_with_a_crs(tmp_path):
    path = write(tmp_path / "a.tif", noise(1, 20, 20), crs=None)
    aoi = area(tmp_path / "a.geojson", "urn:ogc:def:crs:EPSG::32633", ["[[[0, 0], [1, 0], [1, 1], [0, 0]]]"])
    with pytest.raises(SceneError, match="the scene has none"):
        describe(SceneSpec("a", (str(path),), aoi=aoi))


@pytest.mark.parametrize(
    ("nodata", "dtype", "expected"),
    [(-9999, "uint8", False), (255, "uint8", True), (0.5, "uint8", False), (np.nan, "int16", False),
     (-1, "int8", True), (1e20, "float32", True), (np.nan, "float32", True), (65536, "uint16", False)],
)  # fmt: skip
def test_what_can_occur(nodata, dtype, expected):
    assert validity.occurs(nodata, dtype) is expected


def test_rounded_decimal_notations_are_equal():
    lowest = np.float32(-3.4028235e38)
    plane = np.array([[lowest, 0, np.nan]], dtype=np.float32)
    assert validity.equals(plane, -3.40282346600000016e38).tolist() == [[True, False, False]]
    assert validity.equals(np.array([[0.1, 0.1001]], dtype=np.float32), 0.1).tolist() == [[True, False]]
    assert validity.equals(np.array([[-9999, -9998.999]], dtype=np.float32), -9999).tolist() == [[True, False]]
