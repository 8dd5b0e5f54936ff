"""Files that cannot be used are refused with one line that says why and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from geounet.errors import SceneError
from geounet.raster import source
from geounet.raster.env import open_quietly
from geounet.raster.scene import SceneSpec, describe, open_scene
from geounet.raster.source import virtual_sources
from geounet.types import Rect
from tests.support.rasters import noise, write


def refused(path, match, **how):
    with pytest.raises(SceneError, match=match) as caught:
        describe(SceneSpec("x", (str(path),), **how))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message or how
    assert caught.value.exit_code == 1
    return message


def test_missing_folder_empty_and_text(tmp_path):
    refused(tmp_path / "none.tif", "no such file")
    refused(tmp_path, "a folder, expected a raster file")
    (tmp_path / "empty.tif").touch()
    refused(tmp_path / "empty.tif", r"empty file \(0 bytes\)")
    (tmp_path / "text.tif").write_text("Dear reader, this is no image.\n")
    refused(tmp_path / "text.tif", "not a raster that can be read")
    (tmp_path / "vector.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    refused(tmp_path / "vector.geojson", "not a raster that can be read")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_unreadable(tmp_path):
    path = write(tmp_path / "a.tif", noise(1, 5, 5))
    path.chmod(0)
    refused(path, "cannot be read: Permission denied")


@pytest.mark.parametrize(
    "name", ["https://example.org/a.tif", "/vsicurl/http://x/a.tif", "s3://b/a.tif", "/vsimem/a.tif"]
)
def test_only_local_files(name):
    refused(name, "not a local file")


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.97])
@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_truncated_files_fail_when_opened_or_read(tmp_path, share, compress):
    array = noise(3, 300, 300)
    path = write(tmp_path / "a.tif", array, tiled=True, blockxsize=64, blockysize=64, compress=compress)
    data = path.read_bytes()
    path.write_bytes(data[: max(4, int(len(data) * share))])
    with pytest.raises(SceneError) as caught, open_scene(SceneSpec("x", (str(path),))) as scene:
        scene.read(Rect(0, 0, 300, 300))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_damaged_block_is_named_and_the_rest_is_read(tmp_path):
    array = noise(1, 256, 256)
    path = write(tmp_path / "a.tif", array, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with open_quietly(path) as raster:
        start = int(raster.tags(ns="TIFF", bidx=1).get("BLOCK_OFFSET_1_2", 0))
    data = bytearray(path.read_bytes())
    if not start:
        # Blocks are written in order: the seventh of sixteen is 6/16 into the pixels.
        start = len(data) * 6 // 16 + 200
    data[start : start + 800] = b"\xff" * 800
    path.write_bytes(data)
    with open_scene(SceneSpec("x", (str(path),))) as scene:
        with pytest.raises(SceneError, match=r"cannot be read in rows 64 to 128, columns 0 to 256.*complete\?"):
            scene.read(Rect(64, 0, 128, 256))
        values, _ = scene.read(Rect(192, 0, 256, 256))
    np.testing.assert_array_equal(values, array[:, 192:])


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_values(tmp_path, dtype):
    refused(write(tmp_path / "a.tif", noise(1, 5, 5).astype(dtype)), "complex values")


def test_control_points_need_warping(tmp_path):
    points = [GroundControlPoint(r, c, 400000 + c, 5800000 - r) for r in (0, 10) for c in (0, 10)]
    path = tmp_path / "a b.tif"
    with open_quietly(path, "w", driver="GTiff", width=10, height=10, count=1, dtype="uint8") as raster:
        raster.write(noise(1, 10, 10))
        raster.gcps = (points, rasterio.CRS.from_epsg(32633))
    message = refused(path, "ground control points but no geotransform")
    assert message.endswith(f"gdalwarp -tps -r cubic -dstalpha '{path}' '{tmp_path / 'a b_warped.tif'}'")


@pytest.mark.parametrize(("lat", "lon", "zone"), [(45.0, 15.0, 32633), (-45.0, -179.5, 32701), (-1.0, 179.9, 32760)])
def test_rpcs_need_warping(tmp_path, lat, lon, zone):
    rpcs = RPC(
        height_off=100.0, height_scale=50.0, lat_off=lat, lat_scale=0.1, long_off=lon, long_scale=0.1,
        line_off=5.0, line_scale=5.0, samp_off=5.0, samp_scale=5.0,
        line_num_coeff=[0.0] * 20, line_den_coeff=[1.0] + [0.0] * 19,
        samp_num_coeff=[0.0] * 20, samp_den_coeff=[1.0] + [0.0] * 19,
    )  # fmt: skip
    path = tmp_path / "a.tif"
    with open_quietly(path, "w", driver="GTiff", width=10, height=10, count=1, dtype="uint8", rpcs=rpcs) as raster:
        raster.write(noise(1, 10, 10))
    message = refused(path, "RPC model but no geotransform")
    assert f"gdalwarp -rpc -t_srs EPSG:{zone} -r cubic -dstalpha" in message


def test_the_warp_command_works(tmp_path):
    import shlex
    import shutil
    import subprocess

    if shutil.which("gdalwarp") is None:
        pytest.skip("needs gdalwarp")
    points = [GroundControlPoint(r, c, 400000 + c, 5800000 - r) for r in (0, 50) for c in (0, 50)]
    path = tmp_path / "a.tif"
    with open_quietly(path, "w", driver="GTiff", width=50, height=50, count=1, dtype="uint8") as raster:
        raster.write(noise(1, 50, 50))
        raster.gcps = (points, rasterio.CRS.from_epsg(32633))
    command = refused(path, "warp it first").split("warp it first: ")[1]
    subprocess.run(shlex.split(command), check=True, capture_output=True)
    info = describe(SceneSpec("x", (str(tmp_path / "a_warped.tif"),)))
    assert info.georeferenced
    assert info.validity == ("alpha",)


def test_blocks_too_large_to_decode(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", noise(3, 100, 100), compress="deflate", blockysize=100)
    assert describe(SceneSpec("x", (str(path),))).decoded_bytes == 30_000
    monkeypatch.setattr(source, "MAX_BLOCK_BYTES", 29_999)
    message = refused(path, "blocks of 100 × 100 px")
    assert "gdal_translate -of COG" in message
    banded = write(tmp_path / "b.tif", noise(3, 100, 100), compress="deflate", blockysize=100, interleave="band")
    assert describe(SceneSpec("x", (str(banded),))).decoded_bytes == 10_000


def test_degenerate_geotransform(tmp_path):
    vrt = tmp_path / "a.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="4"><GeoTransform>0, 1, 1, 0, 1, 1</GeoTransform>'
        '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    refused(vrt, "has no area")


def vrt(path, sources):
    items = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="{int(relative)}">{name}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource>"
        for name, relative in sources
    )
    path.write_text(
        '<VRTDataset rasterXSize="5" rasterYSize="5"><GeoTransform>0, 2, 0, 0, 0, -2</GeoTransform>'
        f'<VRTRasterBand dataType="Byte" band="1">{items}</VRTRasterBand></VRTDataset>'
    )
    return path


def test_virtual_rasters_read_local_files_only(tmp_path):
    array = noise(1, 5, 5)
    write(tmp_path / "a&b.tif", array)
    inner = vrt(tmp_path / "inner.vrt", [("a&amp;b.tif", True)])
    outer = vrt(tmp_path / "outer.vrt", [(str(inner), False)])
    with open_scene(SceneSpec("x", (str(outer),))) as scene:
        np.testing.assert_array_equal(scene.read(Rect(0, 0, 5, 5))[0], array)
    assert "does not exist" in refused(vrt(tmp_path / "c.vrt", [("none.tif", True)]), "its source none.tif")
    for name in ("/vsicurl/http://127.0.0.1:9/a.tif", "https://127.0.0.1:9/a.tif", "/vsis3/bucket/a.tif"):
        remote = vrt(tmp_path / "remote.vrt", [(name, False)])
        refused(remote, "not a local file")
        hidden = vrt(tmp_path / "hidden.vrt", [("remote.vrt", True)])
        with pytest.raises(SceneError, match="not a local file"):
            describe(SceneSpec("x", (str(hidden),)))
    assert virtual_sources(str(outer)) == [str(inner), str(tmp_path / "a&b.tif")]
    assert virtual_sources(str(tmp_path / "a&b.tif")) == virtual_sources(str(tmp_path / "none.vrt")) == []
    loop = vrt(tmp_path / "loop.vrt", [("loop.vrt", True)])
    refused(loop, "nested more than")


def test_a_source_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "a.tif", noise(1, 5, 5))
    path = vrt(tmp_path / "a.vrt", [("a.tif", True)])
    original = Path.open

    def denied(self, *args, **options):
        if self.name == "a.tif":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return original(self, *args, **options)

    monkeypatch.setattr(Path, "open", denied)
    refused(path, r"a\.vrt: its source a\.tif cannot be read: Permission denied")
    assert virtual_sources(str(path)) == [str(tmp_path / "a.tif")]


def test_storage_that_fails_later_on_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", noise(1, 5, 5))
    monkeypatch.setattr("geounet.raster.scene.content_files", lambda _: [tmp_path / "gone.tif"])
    with pytest.raises(SceneError, match=r"gone\.tif: cannot be read: No such file"):
        describe(SceneSpec("x", (str(path),)))


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_virtual_rasters_through_links(tmp_path):
    array = noise(1, 5, 5)
    for folder in ("real", "links"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "real" / "a.tif", array)
    link = tmp_path / "links" / "b.vrt"
    link.symlink_to(vrt(tmp_path / "real" / "a.vrt", [("a.tif", True)]))
    with open_scene(SceneSpec("x", (str(link),))) as scene:
        np.testing.assert_array_equal(scene.read(Rect(0, 0, 5, 5))[0], array)


def test_descriptions_of_servers_are_refused_unopened(tmp_path):
    (tmp_path / "a.xml").write_text(
        '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>'
    )
    refused(tmp_path / "a.xml", "describes a server")
    (tmp_path / "a.json").write_text('{"stac_version": "1.1.0", "type": "Feature"}')
    refused(tmp_path / "a.json", "describes a server")


def test_changed_virtual_raster_sources_change_the_fingerprint(tmp_path):
    write(tmp_path / "a.tif", noise(1, 5, 5))
    spec = SceneSpec("x", (str(vrt(tmp_path / "a.vrt", [("a.tif", True)])),))
    before = describe(spec).fingerprint
    write(tmp_path / "a.tif", noise(1, 5, 5, seed=1))
    assert describe(spec).fingerprint != before


def test_changed_sources_below_virtual_rasters_change_the_fingerprint(tmp_path):
    array = noise(1, 5, 5)
    write(tmp_path / "deep.tif", array)
    vrt(tmp_path / "n1.vrt", [("deep.tif", True)])
    (tmp_path / "links").mkdir()
    spec = SceneSpec("x", (str(vrt(tmp_path / "links" / "n2.vrt", [(str(tmp_path / "n1.vrt"), False)])),))
    found = [describe(spec).fingerprint]
    write(tmp_path / "deep.tif", noise(1, 5, 5, seed=1))
    found.append(describe(spec).fingerprint)
    vrt(tmp_path / "n1.vrt", [("deep.tif", True), ("deep.tif", True)])
    found.append(describe(spec).fingerprint)
    write(tmp_path / "deep.tif.msk", np.full((1, 5, 5), 255, np.uint8))
    found.append(describe(spec).fingerprint)
    assert len(set(found)) == 4
    assert describe(spec).fingerprint == found[-1]


@pytest.mark.parametrize(
    ("how", "expected"),
    [({"compress": "jpeg"}, True), ({"compress": "deflate"}, False), ({}, False), ({"compress": "webp"}, True)],
)
def test_lossy_codecs_are_known(tmp_path, how, expected):
    try:
        path = write(tmp_path / "a.tif", noise(3, 32, 32), photometric="rgb", **how)
    except rasterio.errors.RasterioError:
        pytest.skip(f"this GDAL cannot write {how}")
    with open_quietly(path) as raster:
        assert source.lossy(raster) is expected
    virtual = vrt(tmp_path / "a.vrt", [("a.tif", True)])
    for path in (virtual, vrt(tmp_path / "b.vrt", [("a.vrt", True)])):
        with open_quietly(path) as raster:
            assert source.lossy(raster) is expected


def test_nothing_is_printed_for_refused_files(tmp_path, capfd):
    (tmp_path / "text.tif").write_text("no image")
    refused(tmp_path / "text.tif", "not a raster")
    path = write(tmp_path / "a.tif", noise(1, 64, 64), compress="deflate", transform=Affine(2, 0, 0, 0, -2, 0))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SceneError), open_scene(SceneSpec("x", (str(path),))) as scene:
        scene.read(Rect(0, 0, 64, 64))
    assert capfd.readouterr() == ("", "")
