"""Label rasters on the grid of a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from pyproj import Transformer
from rasterio import CRS
from rasterio.enums import ColorInterp

from geounet.config.data import Labels
from geounet.errors import LabelError
from geounet.labels.frames import Frame
from geounet.labels.rasters import RasterLayer
from geounet.labels.values import IGNORED, partial
from geounet.labels.vectors import UNKNOWN
from geounet.types import Rect
from tests.support.rasters import NORTH_UP, UTM, write

CODES = {"land": 0, "building": 1, "road": 2}
SHAPE = (60, 80)
WHOLE = Rect(0, 0, *SHAPE)
HERE = Frame("scene", SHAPE, tuple(NORTH_UP)[:6], CRS.from_string(UTM).to_wkt(), 0.5)
NOWHERE = Frame("scene", SHAPE, tuple(Affine.identity())[:6], None, None)
COLOURS = {"#3C1098": "building", "#8429F6": "land", "#6EC1E4": {"not": "road"}, "#9B9B9B": "ignored"}
RGB = np.array([[0x3C, 0x10, 0x98], [0x84, 0x29, 0xF6], [0x6E, 0xC1, 0xE4], [0x9B, 0x9B, 0x9B]], dtype=np.uint8)
MEANT = np.array([1, 0, partial(2), IGNORED])


def classes(low: int = 0, high: int = 3, shape: tuple[int, int] = SHAPE) -> Any:
    return np.random.default_rng(1).integers(low, high, shape).astype(np.uint8)


def read(file: Path, frame: Frame = HERE, rect: Rect = WHOLE, **keys: Any) -> Any:
    layer = RasterLayer(str(file), Labels.model_validate({"files": [str(file)], **keys}), CODES, frame)
    try:
        return layer.read(rect)
    finally:
        layer.close()


def test_without_a_table_values_are_our_codes_and_255_is_no_label(tmp_path: Path) -> None:
    values = classes()
    values[3, 4] = 255
    found = read(write(tmp_path / "a.tif", values[None]))
    expected = values.astype(np.int16)
    expected[3, 4] = UNKNOWN
    np.testing.assert_array_equal(found, expected)
    rect = Rect(5, 7, 31, 40)
    np.testing.assert_array_equal(read(tmp_path / "a.tif", rect=rect), expected[rect.slices_in(WHOLE)])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_values_nodata_and_masks(tmp_path: Path, dtype: str) -> None:
    values = classes(1, 5).astype(dtype)
    file = write(tmp_path / "a.tif", values[None], nodata=4)
    found = read(file, values={1: "building", 2: "ignored", 3: {"not": "road"}})
    np.testing.assert_array_equal(found, np.array([0, 1, IGNORED, partial(2), UNKNOWN])[values.astype(int)])
    mask = np.arange(80)[None] > np.arange(60)[:, None]
    file = write(tmp_path / "b.tif", values[None], mask=mask)
    found = read(file, **{"class": "road"})
    np.testing.assert_array_equal(found, np.where(mask, 2, UNKNOWN))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("moved", [False, True])
def test_nodata_that_the_job_lists_is_what_it_says(tmp_path: Path, dtype: str, moved: bool) -> None:
    """Masks of one class often declare 0."""
    values = classes(0, 2).astype(dtype)
    shift = Affine.translation(30, 20) if moved else Affine.identity()  # also to another grid: a VRT stands between
    file = write(tmp_path / "a.tif", values[None], nodata=0, transform=NORTH_UP @ shift)
    found = read(file, values={0: {"not": "building"}, 1: "building"})
    expected = np.full(SHAPE, UNKNOWN)
    here = expected[20:, 30:] if moved else expected
    here[:] = np.array([partial(1), 1])[values.astype(int)[: here.shape[0], : here.shape[1]]]
    np.testing.assert_array_equal(found, expected)
    here[:] = np.array([UNKNOWN, 1])[values.astype(int)[: here.shape[0], : here.shape[1]]]
    np.testing.assert_array_equal(read(file, values={1: "building"}), expected)


def test_of_a_binary_mask_all_but_0_is_the_class(tmp_path: Path) -> None:
    values = classes() * 100
    found = read(write(tmp_path / "a.png", values[None], driver="PNG", crs=None, transform=None), NOWHERE,
                 **{"class": "building"})  # fmt: skip
    np.testing.assert_array_equal(found, np.where(values > 0, 1, UNKNOWN))


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_pictures(tmp_path: Path, alpha: bool) -> None:
    which = classes(0, 4)
    picture = RGB[which].transpose(2, 0, 1)
    if alpha:
        picture = np.concatenate([picture, np.full((1, *SHAPE), 255, dtype=np.uint8)])
        picture[3, :5] = 0
    file = write(tmp_path / "a.png", picture, driver="PNG", crs=None, transform=None)
    expected = MEANT[which]
    if alpha:
        expected[:5] = UNKNOWN
    np.testing.assert_array_equal(read(file, NOWHERE, colours=COLOURS), expected)


@pytest.mark.parametrize("shift", [0, 3])
def test_a_colour_is_nodata_where_all_of_its_bands_are(tmp_path: Path, shift: int) -> None:
    picture = np.array([[0, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 0]], dtype=np.uint8)[classes(0, 4)]
    colours = {"#00FF00": "building", "#0000FF": "road", "#FF0000": "land"}
    file = write(tmp_path / "a.tif", picture.transpose(2, 0, 1), nodata=0, photometric="RGB",
                 transform=NORTH_UP @ Affine.translation(shift, 0))  # fmt: skip
    found = read(file, colours=colours)[:, shift:]
    np.testing.assert_array_equal(found, np.array([UNKNOWN, 1, 2, 0])[classes(0, 4)][:, : 80 - shift])


def test_colours_of_a_colour_table(tmp_path: Path) -> None:
    which = classes(0, 4)
    table = {k + 7: (*colour, 255) for k, colour in enumerate(RGB.tolist())}
    file = write(
        tmp_path / "a.png", which[None] + 7, driver="PNG", crs=None, transform=None, colormap=table,
        colorinterp=[ColorInterp.palette],
    )  # fmt: skip
    np.testing.assert_array_equal(read(file, NOWHERE, colours=COLOURS), MEANT[which])
    by_value = {str(k + 7): meaning for k, meaning in enumerate(COLOURS.values())}
    np.testing.assert_array_equal(read(file, NOWHERE, values=by_value), MEANT[which])


@pytest.mark.parametrize("epsg", [32633, 3857, 4326])
def test_another_grid_and_crs_give_the_nearest_label(tmp_path: Path, epsg: int) -> None:
    """The oracle: the label under each pixel's centre, by pyproj."""
    move = Transformer.from_crs(UTM, epsg, always_xy=True)
    cols, rows = np.meshgrid(np.arange(80) + 0.5, np.arange(60) + 0.5)
    x, y = move.transform(400000 + 0.5 * cols, 5800000 - 0.5 * rows)
    step = np.ptp(x) / 50  # labels of 0.8 m
    grid = Affine(step, 0, x.min() - 3.3 * step, 0, -step, y.max() + 2.1 * step)
    there = np.kron(classes(1, 3, (30, 30)), np.ones((3, 3), dtype=np.uint8))
    file = write(tmp_path / "a.tif", there[None], crs=CRS.from_epsg(epsg), transform=grid)
    found = read(file, values={1: "building", 2: "road"})
    expected = there[np.floor((grid.f - y) / step).astype(int), np.floor((x - grid.c) / step).astype(int)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_what_lies_beyond_the_labels_is_unknown(tmp_path: Path, dtype: str) -> None:
    file = write(tmp_path / "a.tif", np.full((1, 20, 20), 2, dtype), transform=NORTH_UP @ Affine.translation(70, 50))
    found = read(file)
    assert (found[50:, 70:] == 2).all()
    assert (found == 2).sum() == 10 * 10
    assert (found == UNKNOWN).sum() == 60 * 80 - 100


@pytest.mark.parametrize(
    ("array", "keys", "message"),
    [
        (np.full((1, 60, 80), 7, np.uint8), {}, "has values that the job does not list: 7; add them to `values`"),
        (np.full((1, 60, 80), 7, np.uint8), {"values": {1: "road"}}, "does not list: 7"),
        (np.full((3, 60, 80), 7, np.uint8), {"colours": COLOURS}, "has colours that the job does not list: #070707"),
        (np.full((1, 60, 80), 7, np.uint8), {"colours": COLOURS}, "no colour table"),
        (np.full((1, 60, 80), 0.5, np.float32), {"values": {1: "road"}}, "holds fractions"),
        (np.full((1, 60, 80), 7, np.uint8), {"band": 2}, "has 1 bands, so there is no band 2"),
        (np.full((1, 60, 80), 7, np.uint8), {"column": "a", "values": {1: "road"}}, "`column` is for vector files"),
        (np.full((1, 60, 80), 7, np.uint8), {"values": {"tree": "road"}}, "'tree' is no whole number"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, array: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read(write(tmp_path / "a.tif", array), **keys)


def test_a_picture_needs_its_colours_listed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", RGB[classes(0, 4)].transpose(2, 0, 1), driver="PNG", crs=None, transform=None)
    with pytest.raises(LabelError, match="is a picture with red, green and blue; list its `colours`"):
        read(file, NOWHERE)
    file = write(tmp_path / "a.jpg", RGB[classes(0, 4)].transpose(2, 0, 1), driver="JPEG", crs=None, transform=None)
    with pytest.raises(LabelError, match="JPEG changes colours"):
        read(file, NOWHERE, colours=COLOURS)


def test_other_values_may_be_skipped_ignored_or_a_class(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tif", classes(1, 3)[None])
    values = classes(1, 3)
    for others, value in (("skip", UNKNOWN), ("ignored", IGNORED), ("land", 0), ({"not": "road"}, partial(2))):
        found = read(file, values={1: "building"}, others=others)
        np.testing.assert_array_equal(found, np.where(values == 1, 1, value))


def test_sizes_must_agree_without_georeference(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", classes(0, 3, (60, 79))[None], driver="PNG", crs=None, transform=None)
    with pytest.raises(LabelError, match=r"a.png: is 79 × 60 px, the scene scene is 80 × 60; neither has georeference"):
        read(file, NOWHERE)
    placed = write(tmp_path / "b.tif", classes(0, 3, (60, 79))[None])
    with pytest.raises(LabelError, match="the scene has no georeference, so sizes must be equal"):
        read(placed, NOWHERE)


def test_files_that_are_no_rasters(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("no raster")
    with pytest.raises(LabelError, match="not a raster that can be read"):
        read(tmp_path / "a.tif")
    with pytest.raises(LabelError, match="no such file"):
        read(tmp_path / "b.tif")
