"""Parts and their mosaic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geounet import atomic
from geounet.errors import PartError
from geounet.raster import parts
from geounet.raster.env import open_quietly
from geounet.raster.parts import read_part, write_mosaic, write_part
from geounet.types import Rect

TAGS = {"run": "abc", "block": "3"}


def pixels(bands, rows, cols, dtype="uint8", seed=0):
    return (
        np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (bands, rows, cols), endpoint=True).astype(dtype)
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 600), (2, 513, 64)])
def test_parts_come_back_as_they_were(tmp_path, dtype, shape):
    array = pixels(*shape, dtype="uint16").astype(dtype)
    rect = Rect(5, 7, 5 + shape[1], 7 + shape[2])
    path = tmp_path / "new" / "folder" / "p.tif"
    size = write_part(path, array, rect, 255, TAGS)
    assert size == path.stat().st_size
    got = read_part(path, TAGS)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)
    assert [p.name for p in path.parent.iterdir()] == ["p.tif"]


def test_views_are_written_right(tmp_path):
    array = pixels(3, 40, 60)[:, ::2, 5:55:3]
    write_part(tmp_path / "p.tif", array, Rect(0, 0, 20, 17), 255, TAGS)
    np.testing.assert_array_equal(read_part(tmp_path / "p.tif", TAGS), array)


def test_foreign_missing_and_damaged_parts(tmp_path):
    path = tmp_path / "p.tif"
    with pytest.raises(PartError, match="part is missing"):
        read_part(path, TAGS)
    write_part(path, pixels(1, 100, 100), Rect(0, 0, 100, 100), 255, TAGS)
    with pytest.raises(PartError, match=r"part of another run: run is 'abc', expected 'xyz'"):
        read_part(path, {"run": "xyz"})
    with pytest.raises(PartError, match="part of another run: other is None"):
        read_part(path, {"other": "1"})
    whole = path.read_bytes()
    for share in (0.0, 0.01, 0.3, 0.7, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(PartError, match="part is damaged"):
            read_part(path, TAGS)


# rasterio's log callback fails on GDAL messages that quote damaged bytes; it is not ours to mend.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_never_goes_unnoticed(tmp_path_factory, position, flip):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    path, good = folder / "p.tif", folder / "good.tif"
    array = pixels(1, 60, 70)
    if not good.exists():
        write_part(good, array, Rect(0, 0, 60, 70), 255, TAGS)
    data = bytearray(good.read_bytes())
    data[position % len(data)] ^= flip
    path.write_bytes(data)
    try:
        got = read_part(path, TAGS)
    except PartError:
        return
    np.testing.assert_array_equal(got, array)


def test_wrong_shapes_and_types(tmp_path):
    with pytest.raises(ValueError, match=r"expected \(bands, 5, 5\)"):
        write_part(tmp_path / "p.tif", pixels(1, 5, 6), Rect(0, 0, 5, 5), 255, TAGS)
    with pytest.raises(ValueError, match="not supported"):
        write_part(tmp_path / "p.tif", pixels(1, 5, 5).astype(complex), Rect(0, 0, 5, 5), 255, TAGS)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_part(tmp_path / "file" / "p.tif", pixels(1, 5, 5), Rect(0, 0, 5, 5), 255, TAGS)


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
    monkeypatch.setattr(parts, "_compression", lambda: {"compress": "DEFLATE", "zlevel": 1})
    array = pixels(1, 30, 30)
    write_part(tmp_path / "p.tif", array, Rect(0, 0, 30, 30), 255, TAGS)
    np.testing.assert_array_equal(read_part(tmp_path / "p.tif", TAGS), array)


def test_mosaic_places_parts_and_leaves_nodata(tmp_path):
    whole = pixels(2, 700, 900)
    pieces = []
    for y in range(0, 700, 300):
        for x in range(0, 900, 400):
            if (y, x) == (300, 400):
                continue
            rect = Rect(y, x, min(y + 300, 700), min(x + 400, 900))
            path = tmp_path / "parts & <more>" / f"{y}_{x}.tif"
            write_part(path, whole[:, rect.y0 : rect.y1, rect.x0 : rect.x1], rect, 255, TAGS)
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
