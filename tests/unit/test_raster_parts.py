"""Parts and their mosaic."""

from __future__ import annotations

import numpy as np
import pytest

from geounet import atomic
from geounet.raster import parts
from geounet.raster.env import open_quietly
from geounet.raster.parts import write_mosaic
from geounet.raster.slabs import SlabWriter
from geounet.types import Rect
from tests.support.rasters import write_part

TAGS = {"run": "abc", "block": "3"}


def pixels(bands, rows, cols, dtype="uint8", seed=0):
    return (
        np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (bands, rows, cols), endpoint=True).astype(dtype)
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 600), (2, 513, 64), (1, 1100, 33)])
@pytest.mark.parametrize("slab", [0, 1, 100, 512])
def test_parts_come_back_as_they_were(tmp_path, dtype, shape, slab):
    array = pixels(*shape, dtype=dtype)
    path = tmp_path / "new" / "folder" / "p.tif"
    size = write_part(path, array, tags=TAGS, slab=slab)
    assert size == path.stat().st_size
    with open_quietly(path) as part:
        got = part.read()
        assert part.tags().items() >= TAGS.items()
        assert set(part.nodatavals) == {255}
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)
    assert [p.name for p in path.parent.iterdir()] == ["p.tif"]


def test_views_are_written_right(tmp_path):
    array = pixels(3, 40, 60)[:, ::2, 5:55:3]
    write_part(tmp_path / "p.tif", array, slab=7)
    with open_quietly(tmp_path / "p.tif") as part:
        np.testing.assert_array_equal(part.read(), array)


def test_a_part_that_is_not_whole_gets_no_name(tmp_path):
    writer = SlabWriter(tmp_path / "p.tif", (1, 20, 20), "uint8", 255, {})
    with pytest.raises(ValueError, match="12 of 20 rows were written"), writer:
        writer.write(pixels(1, 12, 20))

    def stops():
        with SlabWriter(tmp_path / "p.tif", (1, 20, 20), "uint8", 255, {}) as writer:
            writer.write(pixels(1, 20, 20))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stops()
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_part(tmp_path / "file" / "p.tif", pixels(1, 5, 5))


def test_nothing_is_left_after_an_error(tmp_path):
    def fail():
        with atomic.atomic(tmp_path / "a[1].tif") as temporary:
            temporary.write_bytes(b"x")
            temporary.with_name(temporary.name + ".ovr.tmp").write_bytes(b"x")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic.atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "old"
    atomic.write_text(path, "new")
    assert path.read_text() == "new"


def test_deflate_where_there_is_no_zstd(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "compression", lambda: {"compress": "DEFLATE", "zlevel": 1})
    array = pixels(1, 30, 30)
    write_part(tmp_path / "p.tif", array)
    with open_quietly(tmp_path / "p.tif") as part:
        assert part.compression.name == "deflate"
        np.testing.assert_array_equal(part.read(), array)


def test_mosaic_places_parts_and_leaves_nodata(tmp_path):
    whole = pixels(2, 700, 900)
    pieces = []
    for y in range(0, 700, 300):
        for x in range(0, 900, 400):
            if (y, x) == (300, 400):
                continue
            rect = Rect(y, x, min(y + 300, 700), min(x + 400, 900))
            path = tmp_path / "parts & <more>" / f"{y}_{x}.tif"
            write_part(path, whole[:, rect.y0 : rect.y1, rect.x0 : rect.x1], tags=TAGS)
            pieces.append((rect, path))
    expected = whole.copy()
    expected[:, 300:600, 400:800] = 255
    vrt = tmp_path / "out" / "m.vrt"
    transform = (0.1, 0.0, 85.51878000000001, 0.0, -0.1, 27.62919)
    write_mosaic(vrt, (700, 900), 2, "uint8", 255, iter(pieces), "EPSG:4326", transform)
    with open_quietly(vrt) as raster:
        np.testing.assert_array_equal(raster.read(), expected)
        assert raster.nodatavals == (255, 255)
        assert tuple(raster.transform)[:6] == transform
        assert raster.crs.to_epsg() == 4326
    # Paths are relative: the folder may move.
    (tmp_path / "out").rename(tmp_path / "moved")
    with open_quietly(tmp_path / "moved" / "m.vrt") as raster:
        np.testing.assert_array_equal(raster.read(), expected)


def test_mosaic_without_parts_or_georeference(tmp_path):
    write_mosaic(tmp_path / "m.vrt", (20, 30), 1, "uint16", 9, [])
    with open_quietly(tmp_path / "m.vrt") as raster:
        assert (raster.read() == 9).all()
        assert raster.transform.is_identity
        assert raster.crs is None


@pytest.mark.parametrize("rect", [Rect(0, 0, 0, 5), Rect(0, 0, 21, 5), Rect(-1, 0, 5, 5)])
def test_mosaic_refuses_pieces_outside(tmp_path, rect):
    with pytest.raises(ValueError, match="does not lie within"):
        write_mosaic(tmp_path / "m.vrt", (20, 30), 1, "uint8", 255, [(rect, tmp_path / "p.tif")])
    with pytest.raises(ValueError, match="not supported"):
        write_mosaic(tmp_path / "m.vrt", (20, 30), 1, "complex64", 255, [])
