from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from geounet.config.card import ClassInfo, Kind
from geounet.raster.scene import SceneSpec, describe
from geounet.report.fill import undeclared_fill
from geounet.report.picture import InputPicture
from geounet.report.preview import read_overview
from geounet.report.task import make_preview

Array = Any

CLASSES = (ClassInfo(name="land", code=1, colour="#8d99a6", kind=Kind.other),)


def ground(rows: int = 50, cols: int = 80, dtype: str = "uint8", bands: int = 3) -> Array:
    """Imagery that holds neither 0 nor the largest value."""
    return np.random.default_rng(7).integers(20, 200, (bands, rows, cols)).astype(dtype)


def shown(values: Array, valid: Array | None = None, *, lossy: bool = False) -> InputPicture:
    valid = np.ones(values.shape[1:], bool) if valid is None else valid
    return InputPicture(values.astype(np.float64), valid, ("red", "green", "blue")[: len(values)], lossy)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("uint8", 0), ("uint8", 255), ("uint16", 65535), ("int16", -9999), ("int16", -32768), ("float32", -9999)],
)
def test_a_collar_of_one_value_is_found(dtype: str, value: int) -> None:
    values = ground(dtype=dtype)
    values[:, :, :20] = value
    assert undeclared_fill(shown(values), dtype) == (value, 0.25)


def test_a_wedge_and_a_corner_count_together() -> None:
    values = ground(100, 100)
    values[:, :10, :10] = 0
    values[:, 90:, 95:] = 0
    assert undeclared_fill(shown(values), "uint8") == (0, pytest.approx(0.015))


@pytest.mark.parametrize("case", ["surrounded", "one band", "declared", "small", "no fill", "other value", "diagonal"])
def test_what_is_no_fill(case: str) -> None:
    values, valid = ground(), np.ones((50, 80), bool)
    if case == "surrounded":
        values[:, 10:40, 10:40] = 0
    elif case == "one band":
        values[0, :, :20] = 0
    elif case == "declared":
        values[:, :, :20], valid[:, :20] = 0, False
    elif case == "small":
        values[:, :3, :10] = 0
    elif case == "other value":
        values[:, :, :20] = 128
    elif case == "diagonal":  # black roofs, of which one is at the edge and touches the next by a corner only
        values[:, 2:30, 2:30] = 0
        values[:, :2, :2] = 0
    assert undeclared_fill(shown(values, valid), "uint8") is None


def test_averages_and_codecs_move_fill_a_little() -> None:
    values = ground().astype(np.float64)
    values[:, :, :20] = 0.4
    assert undeclared_fill(shown(values), "uint8") == (0, 0.25)
    assert undeclared_fill(shown(values), "float32") is None
    values[:, :, :20] = 3
    assert undeclared_fill(shown(values), "uint8") is None
    assert undeclared_fill(shown(values, lossy=True), "uint8") == (0, 0.25)


def test_damaged_pixels_are_no_fill() -> None:
    values = ground(dtype="float32")
    values[:, :, :20] = np.nan
    assert undeclared_fill(shown(values), "float32") is None


@pytest.mark.parametrize("codec", ["deflate", "jpeg"])
@pytest.mark.parametrize(("declared", "segmented"), [(None, True), (0.0, True), (None, False)])
def test_previews_tell_of_what_was_segmented(
    tmp_path: Path, codec: str, declared: float | None, *, segmented: bool
) -> None:
    values = ground(160, 320)
    values[:, :, 256:] = 0
    profile = {"driver": "GTiff", "crs": "EPSG:32645", "transform": Affine(1, 0, 354_000, 0, -1, 3_057_000)}
    size = {"height": 160, "width": 320, "dtype": "uint8"}
    with rasterio.open(tmp_path / "s.tif", "w", **profile, **size, count=3, compress=codec, photometric="RGB") as file:
        file.write(values)
    codes = np.ones((1, 160, 320), dtype=np.uint8)
    codes[:, :, 256:] = 1 if segmented else 255
    with rasterio.open(tmp_path / "m.tif", "w", **profile, **size, count=1, nodata=255) as file:
        file.write(codes)
    scene = SceneSpec("s", (str(tmp_path / "s.tif"),), nodata=None if declared is None else (declared,))
    info = describe(scene)
    assert read_overview(scene, info).lossy == (codec == "jpeg")
    notes = make_preview(tmp_path / "p.png", scene, info, tmp_path / "m.tif", CLASSES, None)
    if declared is None and segmented:
        (note,) = notes
        assert note.startswith("20 % of the scene, along its edges, is 0 in ")
        assert note.endswith("set nodata: 0")
    else:
        assert notes == []
