"""Mask and probability COGs."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from rasterio import CRS, Affine
from rasterio.errors import NotGeoreferencedWarning
from rio_cogeo import cog_validate

from geounet.config.card import ClassInfo
from geounet.raster.cog import write_mask, write_probability
from geounet.raster.env import open_quietly
from geounet.raster.parts import write_mosaic
from geounet.raster.scene import SceneInfo
from geounet.types import Rect
from tests.support.rasters import NORTH_UP, write, write_part

CLASSES = [
    ClassInfo(name="background", code=0, colour="#1f1f1f"),
    ClassInfo(name="building & <shed>", code=1, colour="#e6194b"),
    ClassInfo(name="Straße", code=5, colour="#f5b800"),
]
TAGS = {"TIFFTAG_SOFTWARE": "geounet 1", "GEOUNET_MODEL": 'aerial "a" <1>', "GEOUNET_FINGERPRINT": "00ff"}


def info(rows, cols, transform=NORTH_UP, crs="EPSG:32633"):
    referenced = transform is not None
    return SceneInfo(
        name="s", files=("s.tif",), driver="GTiff", width=cols, height=rows, band_names=("red",), dtype="uint8",
        crs_wkt=CRS.from_user_input(crs).to_wkt() if crs else None,
        transform=tuple(transform if referenced else Affine.identity())[:6], georeferenced=referenced, gsd=0.5,
        validity=(), fingerprint="", block_shape=(512, 512), decoded_bytes=1, warnings=(),
    )  # fmt: skip


def codes(rows, cols, seed=0):
    """Class codes in patches, with a nodata corner and stripes of one pixel."""
    rng = np.random.default_rng(seed)
    patches = rng.choice(np.array([0, 1, 5], dtype=np.uint8), (rows // 24 + 1, cols // 24 + 1))
    array = np.kron(patches, np.ones((24, 24), dtype=np.uint8))[:rows, :cols]
    array[:, ::40] = 5
    array[: rows // 5, : cols // 3] = 255
    return array[None]


def validate(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        valid, errors, doubts = cog_validate(str(path), strict=True)
    assert valid, errors
    assert not errors
    assert not doubts


def gdal_validate(path):
    python = "/usr/bin/python3"
    module = "osgeo_utils.samples.validate_cloud_optimized_geotiff"
    if not Path(python).exists() or subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
        pytest.skip("needs GDAL's own Python utilities")
    done = subprocess.run([python, "-m", module, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is a valid cloud optimized GeoTIFF" in done.stdout


@pytest.fixture
def mask(tmp_path):
    array = codes(1500, 1700)
    dest = tmp_path / "out" / "s_mask.tif"
    write_mask(write(tmp_path / "in.tif", array, nodata=255), dest, info(1500, 1700), CLASSES, TAGS)
    return array, dest


def test_mask_is_a_cog_with_all_that_contracts_promise(mask):
    array, dest = mask
    validate(dest)
    with open_quietly(dest) as raster:
        np.testing.assert_array_equal(raster.read(), array)
        assert raster.dtypes == ("uint8",)
        assert raster.nodata == 255
        assert raster.transform == NORTH_UP
        assert raster.crs.to_epsg() == 32633
        assert raster.block_shapes == [(512, 512)]
        assert raster.compression.name == "deflate"
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        colours = raster.colormap(1)
        tags = raster.tags()
        assert raster.overviews(1) == [2, 4]
    assert colours[1] == (230, 25, 75, 255)
    assert colours[5] == (245, 184, 0, 255)
    assert colours[255][3] == 0
    assert {key: tags[key] for key in TAGS} == TAGS
    assert [p.name for p in dest.parent.iterdir()] == ["s_mask.tif"]


def test_mask_passes_gdals_validator(mask):
    gdal_validate(mask[1])


def test_overviews_hold_the_mode_of_real_classes(mask):
    array, dest = mask
    for level, factor in enumerate((2, 4)):
        with open_quietly(dest, overview_level=level) as raster:
            small = raster.read(1)
        assert set(np.unique(small)) <= {0, 1, 5, 255}
        # Wherever one value fills a whole cell, the overview holds it.
        rows, cols = small.shape[0] - 1, small.shape[1] - 1
        cells = array[0, : rows * factor, : cols * factor].reshape(rows, factor, cols, factor)
        same = cells.max(axis=(1, 3)) == cells.min(axis=(1, 3))
        assert same.mean() > 0.5
        np.testing.assert_array_equal(small[:rows, :cols][same], cells.min(axis=(1, 3))[same])


def test_nodata_gives_way_to_classes_in_overviews(tmp_path):
    array = np.full((1, 1024, 1024), 255, dtype=np.uint8)
    array[0, ::2, ::2] = 1
    array[0, 512:] = 255
    write_mask(write(tmp_path / "in.tif", array), tmp_path / "m.tif", info(1024, 1024), CLASSES, {})
    with open_quietly(tmp_path / "m.tif", overview_level=0) as raster:
        small = raster.read(1)
    assert (small[:256] == 1).all()
    assert (small[256:] == 255).all()


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (None, None),
        (NORTH_UP, None),
        (NORTH_UP @ Affine.rotation(30), "EPSG:32633"),
        (Affine(0.5, 0, 400000, 0, 0.5, 5700000), "EPSG:32633"),
        (Affine(1e-5 / 3, 0, 179.999, 0, -1e-5 / 7, 27.6), "EPSG:4326"),
        (NORTH_UP, "EPSG:32633+5773"),
        (NORTH_UP, "+proj=laea +lat_0=52.25 +lon_0=10.125 +ellps=GRS80"),
    ],
)
@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (600, 530)])
def test_grid_of_the_mask_is_the_scenes(tmp_path, transform, crs, shape):
    array = codes(*shape)
    about = info(*shape, transform=transform, crs=crs)
    rect = Rect(0, 0, *shape)
    write_part(tmp_path / "p.tif", array)
    write_mosaic(tmp_path / "m.vrt", shape, 1, "uint8", 255, [(rect, tmp_path / "p.tif")])
    write_mask(tmp_path / "m.vrt", tmp_path / "mask.tif", about, CLASSES, TAGS)
    validate(tmp_path / "mask.tif")
    with open_quietly(tmp_path / "mask.tif") as raster:
        np.testing.assert_array_equal(raster.read(), array)
        assert tuple(raster.transform)[:6] == about.transform
        assert (raster.crs is None) == (about.crs_wkt is None)
        if about.crs_wkt is not None:
            assert raster.crs == CRS.from_wkt(about.crs_wkt)


def test_multilabel_mask_has_a_band_a_class(tmp_path):
    array = np.stack([(codes(700, 600)[0] == code).astype(np.uint8) for code in (0, 1, 5)])
    array[:, :50, :50] = 255
    write_mask(write(tmp_path / "in.tif", array), tmp_path / "m.tif", info(700, 600), CLASSES, TAGS)
    validate(tmp_path / "m.tif")
    with open_quietly(tmp_path / "m.tif") as raster:
        np.testing.assert_array_equal(raster.read(), array)
        assert raster.descriptions == ("background", "building & <shed>", "Straße")
        assert raster.nodatavals == (255, 255, 255)
        assert raster.mask_flag_enums[0][0].name == "nodata"
    with open_quietly(tmp_path / "m.tif", overview_level=0) as raster:
        assert set(np.unique(raster.read())) <= {0, 1, 255}


@pytest.mark.parametrize("count", [1, 3, 4])
def test_probability(tmp_path, count):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 254, (count, 1100, 1030), endpoint=True).astype(np.uint8)
    array[:, :300, :400] = 255
    classes = [ClassInfo(name=f"class {i}", code=i, colour="#112233") for i in range(count)]
    dest = tmp_path / "prob.tif"
    write_probability(write(tmp_path / "in.tif", array), dest, info(1100, 1030), classes, TAGS)
    validate(dest)
    with open_quietly(dest) as raster:
        np.testing.assert_array_equal(raster.read(), array)
        assert raster.descriptions == tuple(f"p(class {i})" for i in range(count))
        assert raster.scales == (1 / 254,) * count
        assert raster.offsets == (0.0,) * count
        assert raster.nodatavals == (255,) * count
        assert "alpha" not in {c.name for c in raster.colorinterp}
        assert raster.tags()["GEOUNET_FINGERPRINT"] == "00ff"
    with open_quietly(dest, overview_level=0) as raster:
        small = raster.read().astype(float)
    assert (small[:, :149, :199] == 255).all()
    cells = array[:, 400:1100, 500:1030].reshape(count, 350, 2, 265, 2).mean(axis=(2, 4))
    assert np.abs(small[:, 200:550, 250:515] - cells).max() <= 0.5
    # Average without the nodata pixels: an odd edge mixes valid and invalid.
    assert small[:, 151:].max() <= 254


def test_sources_that_do_not_fit(tmp_path):
    path = write(tmp_path / "in.tif", codes(50, 60))
    with pytest.raises(ValueError, match=r"60 × 50 px of uint8, expected 61 × 50"):
        write_mask(path, tmp_path / "m.tif", info(50, 61), CLASSES, {})
    two = write(tmp_path / "two.tif", np.concatenate([codes(50, 60)] * 2))
    with pytest.raises(ValueError, match="2 bands for 3 classes"):
        write_mask(two, tmp_path / "m.tif", info(50, 60), CLASSES, {})
    with pytest.raises(ValueError, match="2 bands for 3 classes"):
        write_probability(two, tmp_path / "m.tif", info(50, 60), CLASSES, {})
    wide = write(tmp_path / "wide.tif", codes(50, 60).astype("uint16"))
    with pytest.raises(ValueError, match="of uint16"):
        write_mask(wide, tmp_path / "m.tif", info(50, 60), CLASSES, {})
    assert not (tmp_path / "m.tif").exists()


def test_a_missing_part_fails_and_leaves_nothing(tmp_path):
    rect = Rect(0, 0, 600, 600)
    write_part(tmp_path / "p.tif", codes(600, 600))
    write_mosaic(tmp_path / "m.vrt", (600, 600), 1, "uint8", 255, [(rect, tmp_path / "p.tif")])
    data = (tmp_path / "p.tif").read_bytes()
    (tmp_path / "p.tif").write_bytes(data[: len(data) // 2])
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="mask"):
        write_mask(tmp_path / "m.vrt", tmp_path / "out" / "mask.tif", info(600, 600), CLASSES, {})
    (tmp_path / "p.tif").unlink()
    with pytest.raises(OSError, match="mask"):
        write_mask(tmp_path / "m.vrt", tmp_path / "out" / "mask.tif", info(600, 600), CLASSES, {})
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_scene(tmp_path):
    script = """
import sys, resource
from pathlib import Path
import numpy as np
from tests.unit.test_raster_cog import CLASSES, info
from geounet.raster.cog import write_mask
from geounet.raster.parts import write_mosaic
from geounet.types import Rect
from tests.support.rasters import write_part
side, folder = int(sys.argv[1]), Path(sys.argv[2])
array = np.kron(np.random.default_rng(0).integers(0, 2, (32, 32)), np.ones((64, 64))).astype(np.uint8)[None]
pieces = []
for y in range(0, side, 2048):
    for x in range(0, side, 2048):
        rect = Rect(y, x, y + 2048, x + 2048)
        write_part(folder / f"{y}_{x}.tif", array)
        pieces.append((rect, folder / f"{y}_{x}.tif"))
write_mosaic(folder / "m.vrt", (side, side), 1, "uint8", 255, pieces)
write_mask(folder / "m.vrt", folder / "mask.tif", info(side, side), CLASSES, {})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peaks = []
    for side in (4096, 16384):
        folder = tmp_path / str(side)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", script, str(side), str(folder)],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        peaks.append(int(done.stdout))
        shutil.rmtree(folder)
    # The larger mask has 320 MiB with its overviews, the smaller one 20; what grows is the width of a row of tiles.
    assert peaks[1] - peaks[0] < 128, peaks


def test_info_is_replaceable():
    # Other parts of the program derive one description from another.
    assert dataclasses.replace(info(5, 5), width=7).shape == (5, 7)
