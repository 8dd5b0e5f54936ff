"""How often a scene was tried as it is: runs that were killed at it, and what makes it another one."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from geounet.batch.attempts import Attempts, settled
from geounet.batch.run import scene_runs, work_folder
from geounet.config.job import Job
from geounet.engine.scene import SceneRun
from geounet.errors import ClusterError


@pytest.fixture
def scene(tmp_path: Path) -> SceneRun:
    return run_of(tmp_path)


def run_of(tmp_path: Path, name: str = "a.png", **keys: Any) -> SceneRun:
    (tmp_path / name).touch()
    outputs = {"folder": str(tmp_path / "out")}
    job = Job.model_validate({"scenes": [str(tmp_path / name)], "model": "demo", "outputs": outputs, **keys})
    work_folder(job).mkdir(parents=True, exist_ok=True)
    (one,) = scene_runs(job)
    return one


def remembered(scene: SceneRun) -> dict[str, Any]:
    return dict(json.loads((scene.work / "attempts.json").read_text()))


def test_a_run_that_is_killed_is_a_try(scene: SceneRun) -> None:
    for tries in (1, 2, 3):
        Attempts(scene.work, 3).begun(scene)
        left = Attempts(scene.work, 3).given_up(scene)
        assert (left is None) == (tries < 3)
        assert remembered(scene)["a/demo"]["tries"] == tries
    assert left is not None
    assert "a.png: the run ended with no word while it was at this scene: killed, or out of memory" in left
    assert "(failed 3 times;" in left
    assert Attempts(scene.work, 3).killed(scene)
    assert Attempts(scene.work, None).given_up(scene) is None
    Attempts(scene.work, 3).ended(scene, None)
    assert remembered(scene) == {}


@pytest.mark.parametrize("part", ["receipts/infer/r0000c0000.json", "vectors/stage/cells/0.npz"])
def test_a_run_that_got_further_is_none(scene: SceneRun, part: str) -> None:
    folder = scene.work / "scenes" / "a" / "0123456789abcdef"
    Attempts(scene.work, 1).begun(scene)
    (folder / part).parent.mkdir(parents=True)
    (folder / "record.json").touch()
    (folder / part).touch()
    attempts = Attempts(scene.work, 1)
    assert attempts.given_up(scene) is None
    assert not attempts.killed(scene)
    attempts.begun(scene)
    (folder / part).with_name(".0.tmp.npz").touch()
    assert Attempts(scene.work, 1).given_up(scene) is not None, "the next one found what was there"


def test_a_run_that_ends_in_order_is_none(scene: SceneRun) -> None:
    with Attempts(scene.work, 1) as attempts:  # however it ends
        attempts.begun(scene)
        assert "begun" in remembered(scene)["a/demo"]
    assert remembered(scene) == {}
    Attempts(scene.work, 2).ended(scene, "no")
    with Attempts(scene.work, 2) as attempts:
        attempts.begun(scene)
    assert remembered(scene)["a/demo"]["tries"] == 1
    assert Attempts(scene.work, 1).given_up(scene) == "no (failed 1 time; tried again when it changes, or with --retry)"


def test_a_scene_that_changed_since_it_was_begun(scene: SceneRun) -> None:
    Attempts(scene.work, 1).begun(scene)
    Path(scene.spec.files[0]).write_text("mended")
    assert Attempts(scene.work, 1).given_up(scene) is None
    assert remembered(scene) == {}
    attempts = Attempts(scene.work, 1)
    attempts.begun(scene)
    Path(scene.spec.files[0]).write_text("mended while it was run")
    attempts.ended(scene, "no")
    assert Attempts(scene.work, 1).given_up(scene) is None


def test_a_full_disk_is_told(scene: SceneRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("geounet.batch.attempts.write_text", full)
    with pytest.raises(ClusterError, match=r"^disk full: .*attempts\.json: cannot be written \(No space left"):
        Attempts(scene.work, 1).begun(scene)


VRT = '<VRTDataset><VRTRasterBand><SourceFilename relativeToVRT="1">{}</SourceFilename></VRTRasterBand></VRTDataset>'


@pytest.mark.parametrize(
    "name", ["a.png.aux.xml", "a.aux.xml", "a.pgw", "a.PGW", "a.pngw", "a.wld", "a.prj", "a.png.msk", "a.png.ovr"]
)
def test_what_comes_beside_a_file_makes_it_another(scene: SceneRun, name: str) -> None:
    Attempts(scene.work, 1).ended(scene, "no georeference")
    (Path(scene.spec.files[0]).parent / "ab.pgw").touch()
    assert Attempts(scene.work, 1).given_up(scene) is not None
    (Path(scene.spec.files[0]).parent / name).touch()
    assert Attempts(scene.work, 1).given_up(scene) is None


@pytest.mark.parametrize("changed", ["source.tif", "inner.vrt", "area.shp", "area.dbf"])
def test_what_a_scene_is_read_from_makes_it_another(tmp_path: Path, changed: str) -> None:
    (tmp_path / "inner.vrt").write_text(VRT.format("source.tif"))
    for name in ("source.tif", "area.shp", "area.dbf"):
        (tmp_path / name).touch()
    scene = run_of(tmp_path, "a.vrt", aoi=str(tmp_path / "area.shp"))
    (tmp_path / "a.vrt").write_text(VRT.format("inner.vrt"))
    before = time.time() - 3600
    for path in tmp_path.glob("*.*"):
        os.utime(path, (before, before))
    assert settled(scene.spec, 30)
    Attempts(scene.work, 1).ended(scene, "no")
    assert Attempts(scene.work, 1).given_up(scene) is not None
    os.utime(tmp_path / changed)
    assert not settled(scene.spec, 30), "it may still be being written"
    assert Attempts(scene.work, 1).given_up(scene) is None


@pytest.mark.skipif(os.name == "nt", reason="has no such rights")
def test_rights_that_are_given_make_it_another(scene: SceneRun) -> None:
    for path in (Path(scene.spec.files[0]), scene.folder):
        scene.folder.mkdir(exist_ok=True)
        path.chmod(0o500)
        Attempts(scene.work, 1).ended(scene, "Permission denied")
        assert Attempts(scene.work, 1).given_up(scene) is not None
        path.chmod(0o700)
        assert Attempts(scene.work, 1).given_up(scene) is None
    Attempts(scene.work, 1).ended(scene, "no")
    (scene.folder / "a_mask.tif").touch()
    assert Attempts(scene.work, 1).given_up(scene) is not None
