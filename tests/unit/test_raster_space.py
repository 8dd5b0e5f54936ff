"""A full disk: told as one where GDAL only says that it failed, on a small one where the system lets us make it."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rasterio.errors import RasterioIOError

from geounet.engine.guard import guarded
from geounet.errors import PartError
from geounet.predict.stitch import _whole
from geounet.raster import space as module
from geounet.raster.slabs import SlabWriter
from geounet.raster.space import check_space, disk_full


def caught(function: Any, *args: Any) -> Exception:
    with pytest.raises(Exception) as found:
        function(*args)
    return found.value


def test_the_reason_is_found_wherever_it_is() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def hidden() -> None:
        try:
            raise full
        except OSError:
            raise PartError("damaged") from None

    def while_closing() -> None:
        try:
            raise full
        finally:
            raise RasterioIOError("cannot close")

    assert disk_full(full) is full
    assert disk_full(caught(hidden)) is full
    assert disk_full(caught(while_closing)) is full
    assert disk_full(RuntimeError("sqlite3_exec(COMMIT) failed: database or disk is full")) is not None
    for other in (OSError(errno.EIO, "Input/output error"), RasterioIOError("Write failed"), None):
        assert disk_full(other) is None


def test_space_is_checked_and_nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_space(tmp_path)
    with pytest.raises(OSError, match="No space left") as found:
        check_space(tmp_path, 1 << 62)
    assert (found.value.errno, found.value.filename) == (errno.ENOSPC, str(tmp_path))

    def quota(_: int) -> bytes:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(module.os, "urandom", quota)
    with pytest.raises(OSError, match="quota"):
        check_space(tmp_path)
    assert list(tmp_path.iterdir()) == []


class Fails:
    """A dataset that GDAL cannot write to."""

    def __init__(self, inner: Any, where: str) -> None:
        self.inner, self.where = inner, where

    def write(self, *_: Any, **__: Any) -> None:
        if self.where == "write":
            raise RasterioIOError("Write failed. See previous exception for details.")

    def close(self) -> None:
        self.inner.close()
        if self.where == "close":
            raise RasterioIOError("cannot close")


def write_slabs(folder: Path, where: str, rows: int) -> None:
    with SlabWriter(folder / "x.tif", (1, rows, 64), "uint8", 255, {}) as writer:
        writer._dataset = Fails(writer._dataset, where)
        writer.write(np.zeros((1, rows, 64), np.uint8))


@pytest.mark.parametrize("where", ["write", "close"])
@pytest.mark.parametrize("rows", [100, 600])
@pytest.mark.parametrize("full", [True, False])
def test_a_part_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, rows: int, full: bool
) -> None:
    """In the first rows, or in those that are written at the end; nothing of it stays and keeps the disk full."""
    if full:
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=-1))
    assert guarded(write_slabs, (tmp_path, where, rows)).kind == ("disk" if full else "defect")
    assert list(tmp_path.iterdir()) == []


def test_a_raster_that_cannot_be_made_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [tmp_path / "a.tif", tmp_path / "missing.tif"]
    parts[0].write_bytes(bytes(1000))

    def fails(*_: Any) -> None:
        raise OSError("x_mask.tif: cannot be written: TIFFRewriteDirectory:Error fetching directory count")

    with pytest.raises(PartError, match="run again to make missing parts anew"):
        _whole(fails, parts, tmp_path / "mask.vrt", tmp_path / "x_mask.tif")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1999))
    with pytest.raises(OSError, match="No space left"):
        _whole(fails, parts, tmp_path / "mask.vrt", tmp_path / "x_mask.tif")


ON_A_SMALL_DISK = """
import sys
from pathlib import Path
import numpy as np, rasterio
from geounet.config.card import ClassInfo, Kind
from geounet.engine.guard import guarded
from geounet.predict.stitch import _whole
from geounet.raster.cog import write_mask
from geounet.raster.scene import SceneSpec, describe
from geounet.raster.slabs import SlabWriter

small, source = Path(sys.argv[1]), Path(sys.argv[2])

def slabs():
    with SlabWriter(small / "x.tif", (1, 3000, 4096), "uint8", 255, {}) as writer:
        for _ in range(30):
            writer.write(np.random.default_rng(0).integers(0, 200, (1, 100, 4096), dtype=np.uint8))

def raster():
    info = describe(SceneSpec(name="s", files=(str(source),)))
    classes = [ClassInfo(name="land", code=0, colour="#000000", kind=Kind.background)]
    _whole(write_mask, [source], source, small / "mask.tif", info, classes, {})

print(guarded(slabs, ()).kind, guarded(raster, ()).kind, *small.iterdir())
"""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    small, source = tmp_path / "small", tmp_path / "source.tif"
    small.mkdir()
    script = 'mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@"'
    mount = ["unshare", "-rm", "sh", "-c", script, "-", str(small)]
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    from tests.support.local import write_scene

    write_scene(source, np.random.default_rng(0).integers(0, 200, (1, 3000, 4096), dtype=np.uint8))
    command = [*mount, sys.executable, "-c", ON_A_SMALL_DISK, str(small), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["disk", "disk"], done.stderr
