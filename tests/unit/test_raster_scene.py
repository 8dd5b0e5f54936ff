"""Scenes: what is read from which kind of file, in which bands, types and resolutions."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from rasterio import Affine
from rasterio.enums import ColorInterp as Colour

from geounet.errors import SceneError
from geounet.raster.scene import SceneInfo, SceneSpec, describe, open_scene
from geounet.types import Rect
from tests.support.rasters import NORTH_UP, noise, scene, write


def whole(opened):
    return opened.read(Rect(0, 0, *opened.info.shape))


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
)
def test_every_real_type_is_read_as_float32(tmp_path, dtype):
    array = (noise(2, 20, 33) // 2).astype(dtype)
    with scene(write(tmp_path / "a.tif", array)) as opened:
        values, valid = whole(opened)
        assert opened.info.dtype == dtype
    assert values.dtype == np.float32
    assert valid.dtype == bool
    np.testing.assert_array_equal(values, array.astype(np.float32))
    assert valid.all()


@pytest.mark.parametrize(
    ("driver", "name", "options"),
    [
        ("GTiff", "a.tif", {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}),
        ("GTiff", "b.tif", {"interleave": "band", "compress": "lzw", "predictor": 2}),
        ("JP2OpenJPEG", "a.jp2", {"quality": 100, "reversible": True}),
        ("PNG", "a.png", {"worldfile": True}),
    ],
)
def test_lossless_formats_keep_pixels_and_place(tmp_path, driver, name, options):
    array = noise(3, 70, 90)
    path = tmp_path / name
    if driver == "GTiff":
        write(path, array, **options)
    else:
        import rasterio.shutil

        rasterio.shutil.copy(write(tmp_path / "in.tif", array), path, driver=driver, **options)
    with scene(path) as opened:
        values, valid = whole(opened)
        info = opened.info
    np.testing.assert_array_equal(values, array)
    assert valid.all()
    assert info.driver == driver
    assert info.transform == pytest.approx(tuple(NORTH_UP)[:6])
    assert info.georeferenced


def test_jpeg_with_world_file(tmp_path):
    import rasterio.shutil

    flat = np.full((3, 40, 56), 90, dtype=np.uint8)
    rasterio.shutil.copy(write(tmp_path / "in.tif", flat, crs=None), tmp_path / "a.jpg", driver="JPEG", worldfile=True)
    (tmp_path / "a.jpg.aux.xml").unlink(missing_ok=True)
    assert (tmp_path / "a.wld").exists()
    with scene(tmp_path / "a.jpg") as opened:
        values, _ = whole(opened)
        info = opened.info
    assert info.transform == pytest.approx(tuple(NORTH_UP)[:6])
    assert info.crs_wkt is None
    assert info.gsd is None
    assert "no CRS" in info.warnings[0]
    assert np.abs(values - 90).max() <= 2


def test_info_travels_as_json_and_pickle(tmp_path):
    path = write(tmp_path / "a.tif", noise(3, 20, 30), nodata=0)
    info = describe(SceneSpec("a", (str(path),)))
    assert SceneInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info
    older = {key: value for key, value in info.to_dict().items() if key not in ("scaled", "colours")}
    assert SceneInfo.from_dict(older).colours == ()
    assert pickle.loads(pickle.dumps(info)) == info
    spec = SceneSpec("a", (str(path),), bands=("red", 2), nodata=(0,), bbox=(0, 0, 1, 1))
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_alpha_is_left_out_unless_asked_for(tmp_path):
    array = noise(4, 12, 12)
    array[3] = 255
    array[3, :3] = 0
    path = write(tmp_path / "a.tif", array, photometric="rgb", alpha="yes")
    with scene(path) as opened:
        values, valid = whole(opened)
        assert opened.info.band_names == ("red", "green", "blue")
        assert opened.info.validity == ("alpha",)
    assert not valid[:3].any()
    assert valid[3:].all()
    assert (values[:, :3] == 0).all()
    # Some four-band files have near infrared tagged as alpha: asked for, it is imagery and no validity.
    with scene(path, bands=(1, 2, 3, 4)) as opened:
        values, valid = whole(opened)
        assert opened.info.validity == ()
    assert valid.all()
    np.testing.assert_array_equal(values, array)


@pytest.mark.parametrize(("how", "upto"), [({}, "0"), ({"compress": "jpeg"}, "up to 127")])
def test_imagery_that_is_tagged_as_alpha_is_told(tmp_path, how, upto):
    # Four bands of uint8 are red, green, blue and alpha to rasterio, unless they are told otherwise.
    array = noise(4, 300, 300, 0)
    path = write(tmp_path / "a.tif", array, **how)
    (warning,) = describe(SceneSpec("a", (str(path),))).warnings
    assert warning.startswith("a.tif: band 4 is tagged as alpha, but looks like imagery")
    assert f"where it is {upto}, pixels are nodata; " in warning
    assert warning.endswith("gdal_edit.py -colorinterp_4 undefined")
    assert describe(SceneSpec("a", (str(path),), bands=(1, 2, 3, 4))).warnings == ()


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_alpha_with_soft_edges_is_alpha(tmp_path, share):
    array = noise(4, 300, 300)
    array[3] = np.clip(np.add.outer(np.arange(300), np.arange(300)) * 12 - 3000 * share, 0, 255)
    if share == 1:
        array[3] = 0
    path = write(tmp_path / "a.tif", array)
    assert describe(SceneSpec("a", (str(path),))).warnings == ()


def test_bands_by_number_name_and_colour(tmp_path):
    array = noise(4, 9, 9)
    path = write(
        tmp_path / "a.tif",
        array,
        colorinterp=[Colour.blue, Colour.green, Colour.red, Colour.undefined],
        descriptions=["B02", "B03", "B04", "NIR"],
    )
    for bands, wanted in [
        (None, (0, 1, 2, 3)),
        ((4, 1), (3, 0)),
        (("red", "Green", "BLUE", "nir"), (2, 1, 0, 3)),
        (("b04", 2), (2, 1)),
        ((2, 2), (1, 1)),
    ]:
        with scene(path, bands=bands) as opened:
            values, _ = whole(opened)
            np.testing.assert_array_equal(values, array[list(wanted)])
            colours = ("blue", "green", "red", "undefined")
            assert opened.info.colours == tuple(colours[i] for i in wanted)


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ((5,), r"band 5 does not exist; its bands are 1 B02, 2 B03, 3 B04, 4 B04"),
        ((0,), r"band 0 does not exist"),
        (("swir",), r"no band is named 'swir'; its bands are 1 B02"),
        (("B04",), r"2 bands are named 'B04': choose by number"),
        ((), r"no bands are chosen"),
    ],
)
def test_bands_that_do_not_exist(tmp_path, bands, message):
    path = write(tmp_path / "a.tif", noise(4, 9, 9), descriptions=["B02", "B03", "B04", "B04"])
    with pytest.raises(SceneError, match=message):
        describe(SceneSpec("a", (str(path),), bands=bands))


def test_scale_and_offset_are_applied(tmp_path):
    array = noise(2, 8, 8, dtype="int16")
    array[:, 0, 0] = -999
    path = write(tmp_path / "a.tif", array, scales=[0.0001, 2.0], offsets=[10.0, -5.0], nodata=-999)
    with scene(path) as opened:
        values, valid = whole(opened)
        assert opened.info.dtype == "int16"
    expected = array * np.array([0.0001, 2.0])[:, None, None] + np.array([10.0, -5.0])[:, None, None]
    expected[:, 0, 0] = 0
    np.testing.assert_array_equal(values, expected.astype(np.float32))
    assert not valid[0, 0]
    assert valid.sum() == 63


def test_colour_table_is_expanded_for_red_green_blue_only(tmp_path):
    index = noise(1, 10, 10, 0, 3)
    colours = {0: (10, 20, 30, 255), 1: (40, 50, 60, 255), 2: (70, 80, 90, 255)}
    path = write(tmp_path / "a.tif", index, colormap=colours, nodata=2)
    with scene(path, bands=("red", "green", "blue")) as opened:
        values, valid = whole(opened)
        assert "read as its colours" in opened.info.warnings[0]
    table = np.array([colours[i][:3] for i in range(3)]).T
    np.testing.assert_array_equal(valid, index[0] != 2)
    np.testing.assert_array_equal(values, np.where(valid, table[:, index[0]], 0))
    with scene(path) as opened:
        values, _ = whole(opened)
        assert "stored indexes are read" in opened.info.warnings[0]
    np.testing.assert_array_equal(values, np.where(valid, index, 0))


def test_bands_in_several_files(tmp_path):
    array = noise(4, 24, 30, dtype="uint16")
    one = write(tmp_path / "B2.tif", array[:1])
    two = write(tmp_path / "B3.tif", array[1:2])
    rest = write(tmp_path / "rest.tif", array[2:])
    with scene(one, two, rest) as opened:
        values, _ = whole(opened)
        assert opened.info.band_names == ("B2", "B3", "band3", "band4")
        assert opened.info.warnings == ()
    np.testing.assert_array_equal(values, array)
    with scene(one, two, rest, bands=(4, "b3")) as opened:
        values, _ = whole(opened)
    np.testing.assert_array_equal(values, array[[3, 1]])


def test_several_resolutions_meet_on_the_finest(tmp_path):
    fine = noise(1, 40, 60, dtype="uint16")
    coarse = noise(1, 20, 30, dtype="uint16", seed=1)
    coarse[0, :5] = 0
    a = write(tmp_path / "coarse.tif", coarse, transform=NORTH_UP @ Affine.scale(2), nodata=0)
    b = write(tmp_path / "fine.tif", fine)
    with scene(a, b) as opened:
        info = opened.info
        values, valid = whole(opened)
        for rect in (Rect(0, 0, 1, 1), Rect(7, 11, 32, 12), Rect(39, 0, 40, 60)):
            part, known = opened.read(rect)
            rows, cols = slice(rect.y0, rect.y1), slice(rect.x0, rect.x1)
            np.testing.assert_array_equal(part, values[:, rows, cols])
            np.testing.assert_array_equal(known, valid[rows, cols])
            np.testing.assert_array_equal(opened.read_validity(rect), known)
    assert info.shape == (40, 60)
    assert info.transform == tuple(NORTH_UP)[:6]
    assert info.warnings == ("coarse.tif: resampled from 30 × 20 px",)
    assert not valid[:10].any()
    assert valid[10:].all()
    np.testing.assert_array_equal(values[1], np.where(valid, fine[0], 0))
    # Bilinear at a quarter pixel from the centre: 9/16, 3/16, 3/16, 1/16; above lies nothing valid.
    block = coarse[0, 5:7, 10:12].astype(float)
    assert values[0, 11, 21] == pytest.approx((9 * block[0, 0] + 3 * block[0, 1] + 3 * block[1, 0] + block[1, 1]) / 16)
    assert values[0, 10, 21] == pytest.approx((3 * block[0, 0] + block[0, 1]) / 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crs": "EPSG:32634"}, "another CRS"),
        ({"transform": NORTH_UP @ Affine.translation(3, 0)}, r"another extent than .* \(a corner is 3.0 px away\)"),
        ({"transform": NORTH_UP @ Affine.scale(1.2)}, "another extent"),
    ],
)
def test_files_on_other_ground_are_refused(tmp_path, change, message):
    one = write(tmp_path / "a.tif", noise(1, 20, 20))
    two = write(tmp_path / "b.tif", noise(1, 20, 20), **change)
    with pytest.raises(SceneError, match=message):
        describe(SceneSpec("s", (str(one), str(two))))


def test_files_without_georeference_must_have_one_size(tmp_path):
    one = write(tmp_path / "a.tif", noise(1, 20, 20), crs=None, transform=None)
    two = write(tmp_path / "b.tif", noise(1, 10, 10), crs=None, transform=None)
    three = write(tmp_path / "c.tif", noise(2, 20, 20), crs=None, transform=None)
    with pytest.raises(SceneError, match="must have one size"):
        describe(SceneSpec("s", (str(one), str(two))))
    info = describe(SceneSpec("s", (str(one), str(three))))
    assert len(info.band_names) == 3
    assert not info.georeferenced
    assert info.transform == (1, 0, 0, 0, 1, 0)
    assert info.gsd is None


def test_half_a_pixel_between_resolutions_is_one_extent(tmp_path):
    # Landsat's panchromatic and multispectral grids start half a panchromatic pixel apart.
    fine = write(tmp_path / "pan.tif", noise(1, 40, 40))
    coarse = write(
        tmp_path / "ms.tif", noise(1, 20, 20), transform=NORTH_UP @ Affine.translation(0.5, 0.5) @ Affine.scale(2)
    )
    assert describe(SceneSpec("s", (str(fine), str(coarse)))).shape == (40, 40)


def test_bbox_crops_the_grid(tmp_path):
    array = noise(1, 40, 60)
    path = write(tmp_path / "a.tif", array)
    with scene(path, bbox=(400005, 5799990, 400010.2, 5799995)) as opened:
        info = opened.info
        values, _ = whole(opened)
        with pytest.raises(ValueError, match="does not lie within"):
            opened.read(Rect(0, 0, 11, 11))
    np.testing.assert_array_equal(values, array[:, 10:20, 10:21])
    assert info.transform[2] == 400005
    assert info.transform[5] == 5799995
    assert info.fingerprint != describe(SceneSpec("test", (str(path),))).fingerprint


def test_fingerprint_follows_content_and_spec_only(tmp_path):
    path = write(tmp_path / "a.tif", noise(3, 40, 60))
    spec = SceneSpec("a", (str(path),))
    first = describe(spec).fingerprint
    assert describe(spec).fingerprint == first
    assert describe(SceneSpec("a", spec.files, bands=(1,))).fingerprint != first
    assert describe(SceneSpec("a", spec.files, nodata=(255,))).fingerprint != first
    # What viewers leave beside an image does not change it.
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">1</MDI></Metadata>'
        "</PAMRasterBand></PAMDataset>"
    )
    assert describe(spec).fingerprint == first
    # A new mask beside it does.
    import rasterio

    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as raster:
        before = path.stat()
        raster.write_mask(np.zeros((40, 60), dtype=np.uint8))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (tmp_path / "a.tif.msk").exists()
    assert describe(spec).fingerprint != first


def test_rotated_south_up_and_sheared_keep_their_transform(tmp_path):
    for transform in (
        Affine(0.5, 0, 400000, 0, 0.5, 5700000),
        NORTH_UP @ Affine.rotation(30),
        NORTH_UP @ Affine.shear(20),
    ):
        path = write(tmp_path / "a.tif", noise(1, 20, 30), transform=transform)
        info = describe(SceneSpec("a", (str(path),)))
        assert info.transform == pytest.approx(tuple(transform)[:6])
        assert info.georeferenced


def test_one_pixel(tmp_path):
    with scene(write(tmp_path / "a.tif", [[[7]]], dtype="uint8")) as opened:
        values, valid = opened.read(Rect(0, 0, 1, 1))
    assert values.tolist() == [[[7.0]]]
    assert valid.all()


@pytest.mark.parametrize("rect", [Rect(0, 0, 0, 5), Rect(-1, 0, 2, 2), Rect(0, 0, 5, 6), Rect(3, 3, 2, 4)])
def test_windows_outside_are_a_programming_error(tmp_path, rect):
    with scene(write(tmp_path / "a.tif", noise(1, 5, 5))) as opened, pytest.raises(ValueError, match="does not lie"):
        opened.read(rect)


def test_names_that_rasterio_would_parse_as_urls(tmp_path):
    for name in ("a b.tif", "scène #1?x=1.tif", "zip+x.tif", "a!b.tif", "100%25.tif"):
        path = write(tmp_path / name, noise(1, 5, 5))
        assert describe(SceneSpec("a", (str(path),))).shape == (5, 5)


def test_many_bands(tmp_path):
    array = noise(60, 6, 7, dtype="uint16")
    with scene(write(tmp_path / "a.tif", array)) as opened:
        values, _ = whole(opened)
    np.testing.assert_array_equal(values, array)


def test_scenes_are_closed_after_an_error(tmp_path):
    good = write(tmp_path / "a.tif", noise(1, 5, 5))
    with pytest.raises(SceneError):
        open_scene(SceneSpec("a", (str(good), str(tmp_path / "none.tif"))))
    with pytest.raises(SceneError, match="no files"):
        open_scene(SceneSpec("a", ()))


def test_a_crs_without_a_geotransform_places_nothing(tmp_path):
    info = describe(SceneSpec("x", (str(write(tmp_path / "a.tif", noise(1, 5, 5), transform=None)),)))
    assert (info.georeferenced, info.crs_wkt, info.gsd) == (False, None, None)
    assert info.warnings == ("no georeference: results are in pixels",)
