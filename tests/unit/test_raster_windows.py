"""Virtual rasters that GDAL computes: a window is the crop of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine
from rasterio.enums import Resampling
from rasterio.shutil import copy
from rasterio.vrt import WarpedVRT

from geounet.raster import windows
from geounet.raster.env import open_quietly
from geounet.raster.source import varies
from geounet.types import Rect
from tests.support.rasters import UTM, noise, scene, write

ROWS, COLS = 1400, 1100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file in degrees, and virtual rasters on it."""
    folder = tmp_path_factory.mktemp("virtual")
    degrees = Affine(0.000004, 0, 15.0, 0, -0.000003, 52.0)
    array = noise(3, ROWS, COLS)
    array[:, 500:700, 400:500] = 0
    flat = write(folder / "flat.tif", array, crs="EPSG:4326", transform=degrees, nodata=0, tiled=True)
    for name, how in (("near", Resampling.nearest), ("average", Resampling.average)):
        with open_quietly(flat) as raster, WarpedVRT(raster, crs=UTM, resampling=how) as warped:
            copy(warped, folder / f"{name}.vrt", driver="VRT")
    plain(folder / "plain.vrt", "flat.tif", ROWS, COLS)
    with open_quietly(folder / "near.vrt") as raster:
        plain(folder / "nested.vrt", "near.vrt", *raster.shape)
    plain(folder / "coarse.vrt", "flat.tif", ROWS, COLS, (ROWS * 4 // 7, COLS * 4 // 7), ' resampling="average"')
    return folder


def plain(path: Path, of: str, rows: int, cols: int, shape: tuple[int, int] | None = None, how: str = "") -> None:
    """Write a virtual raster of three bands of a file, as gdalbuildvrt does."""
    high, wide = shape or (rows, cols)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>0</NoDataValue><SimpleSource{how}>'
        f'<SourceFilename relativeToVRT="1">{of}</SourceFilename><SourceBand>{band}</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{cols}" ySize="{rows}"/>'
        f'<DstRect xOff="0" yOff="0" xSize="{wide}" ySize="{high}"/></SimpleSource></VRTRasterBand>'
        for band in (1, 2, 3)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{wide}" rasterYSize="{high}"><SRS>EPSG:4326</SRS>'
        f"<GeoTransform>15, 4e-6, 0, 52, 0, -3e-6</GeoTransform>{bands}</VRTDataset>"
    )


@pytest.mark.parametrize("name", ["near", "average", "nested", "coarse", "plain"])
def test_a_window_is_the_crop_of_the_whole(folder: Path, name: str) -> None:
    path = folder / f"{name}.vrt"
    with scene(path) as opened:
        shape = opened.info.shape
        values, valid = opened.read(Rect(0, 0, *shape))
    assert 0.5 < valid.mean() < 1
    rng = np.random.default_rng(0)
    for _ in range(12):
        y, x = (int(rng.integers(0, side - 20)) for side in shape)
        rows, cols = rng.integers(1, 700, 2)
        rect = Rect(y, x, min(y + int(rows), shape[0]), min(x + int(cols), shape[1]))
        with scene(path) as opened:
            part, known = opened.read(rect)
            only = opened.read_validity(rect)
        cut = rect.slices_in(Rect(0, 0, *shape))
        np.testing.assert_array_equal(part, values[(slice(None), *cut)])
        np.testing.assert_array_equal(known, valid[cut])
        np.testing.assert_array_equal(only, known)


def test_which_virtual_rasters_vary(folder: Path) -> None:
    found = {}
    for path in folder.iterdir():
        with open_quietly(path) as raster:
            found[path.name] = varies(raster)
    assert found == {
        "flat.tif": False, "plain.vrt": False, "near.vrt": True, "average.vrt": True, "nested.vrt": True,
        "coarse.vrt": True,
    }  # fmt: skip


def test_memory_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_BYTES_KEPT", 2 * 3 * 512 * 512)
    with open_quietly(folder / "plain.vrt") as raster:
        reader = windows.Windows(raster)
        rect = Rect(100, 50, 1300, 1099)
        np.testing.assert_array_equal(reader.read(rect, [3, 1]), raster.read([3, 1])[:, 100:1300, 50:1099])
        masks = reader.read(rect, [2], masks=True)
        np.testing.assert_array_equal(masks, raster.read_masks(2)[100:1300, 50:1099])
        assert sum(kept.nbytes for kept in reader._kept.values()) == reader._bytes <= windows._BYTES_KEPT
