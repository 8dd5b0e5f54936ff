"""Which files of folders and patterns are scenes, and which are what runs left."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from geounet.batch.scenes import find_scenes
from geounet.config.job import Job
from geounet.engine.manifest import FORMAT
from geounet.errors import GeounetError, JobError

KEY = "0123456789abcdef"


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def parts(work: Path) -> None:
    """What a killed run leaves."""
    folder = work / "scenes" / "a" / KEY
    touched(
        folder / "r0000c0000_core_mask.tif", folder / "mask.vrt", work / "scenes" / "a" / "model" / KEY / "prob.vrt"
    )
    touched(work / "mosaics" / "town" / KEY / "mosaic.vrt")


def names(scenes: Path | str, out: Path, work: Path | str = "auto") -> list[str]:
    job = Job.model_validate(
        {"scenes": [str(scenes)], "model": "demo", "outputs": {"folder": str(out), "work": str(work)}}
    )
    return [spec.name for spec in find_scenes(job)]


@pytest.mark.parametrize("scene", ["https://x.y/a.tif", {"name": "n", "files": ["b.tif", "/vsis3/b/a.tif"]}])
def test_remote_scenes_are_refused_by_their_address(scene: Any, tmp_path: Path) -> None:
    job = Job.model_validate({"scenes": [scene], "model": "demo", "outputs": {"folder": str(tmp_path)}})
    with pytest.raises(JobError, match=r"^(https://x\.y|/vsis3/b)/a\.tif: not a local file; copy it to this machine"):
        find_scenes(job)


@pytest.mark.parametrize("pattern", ["", "**/*.[tv]*"])
def test_results_and_parts_are_no_scenes(tmp_path: Path, pattern: str) -> None:
    data = tmp_path / "data"
    touched(data / "a.tif", data / "sub" / "b.tif", data / "out" / "a" / "a_mask.tif")
    parts(data / "work")
    assert names(data / pattern if pattern else data, data / "out", data / "work") == ["a", "b"]


def test_parts_beside_a_default_work_folder(tmp_path: Path) -> None:
    touched(tmp_path / "a.tif")
    parts(tmp_path / "out" / ".geounet")
    assert names(tmp_path, tmp_path / "out") == ["a"]


@pytest.mark.parametrize("scenes", ["scenes", "scenes/*", ".", "scenes/**/*.*"])
def test_scenes_in_the_work_folder_are_found(tmp_path: Path, scenes: str) -> None:
    """Somebody's scratch folder, say; parts lie beside the scenes, but not as scenes do."""
    touched(tmp_path / "scenes" / "a.tif", tmp_path / "scenes" / KEY / "b.tif")
    parts(tmp_path)
    expected = ["a"] if scenes == "scenes/*" else ["b", "a"]
    assert names(tmp_path / scenes, tmp_path / "out", tmp_path) == expected


def results(out: Path, scene: Path) -> None:
    """What a run left of one scene."""
    folder = out / scene.stem
    touched(folder / f"{scene.stem}_mask.tif", folder / f"{scene.stem}_preview.png")
    (out / "manifest.json").write_text(json.dumps({"format": FORMAT, "scenes": []}))
    manifest = {"format": FORMAT, "name": scene.stem, "input": {"files": [str(scene)]}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("pattern", ["", "**/*.[tp][in]*"])
def test_results_of_earlier_runs_elsewhere_are_no_scenes(
    tmp_path: Path, pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    touched(data / "a.tif", data / "b" / "b.tif", data / "c" / "c.tif")
    results(data, data / "b" / "b.tif")  # beside the scene itself
    results(data / "old", data / "a.tif")
    (data / "c" / "manifest.json").write_text('{"format": "somebody else\'s"}')
    if not pattern:
        parts(data / "old" / ".geounet")
    with caplog.at_level(logging.INFO, "geounet"):
        assert names(data / pattern if pattern else data, tmp_path / "new") == ["a", "b", "c"]
    count = 4 if pattern else 8
    assert [r.getMessage().partition(": ")[2] for r in caplog.records] == [
        f"files of earlier runs that are left out: {count}"
    ]


def test_a_folder_of_results_alone_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    results(tmp_path, Path("/data/a.tif"))
    with pytest.raises(JobError, match=r"holds no raster .*; files of earlier runs, which are no scenes: 2$"):
        names(tmp_path, tmp_path / "new")
    with pytest.raises(JobError, match=r"matches no file; files of earlier runs, .*: 1$"):
        names(tmp_path / "*" / "*_mask.tif", tmp_path / "new")


@pytest.mark.parametrize("pattern", ["", "*.tif"])
def test_scenes_in_the_output_folder_are_told(tmp_path: Path, pattern: str, caplog: pytest.LogCaptureFixture) -> None:
    touched(tmp_path / "a.tif", tmp_path / "b.tif")
    results(tmp_path / "a", tmp_path / "a.tif")
    with pytest.raises(JobError, match=r"; 2 lie in the output folder .*, which is not searched; choose another one"):
        names(tmp_path / pattern if pattern else tmp_path, tmp_path)
    assert "of what it finds, 2 lie in the output folder" in caplog.text, "where none are wanted that is all one hears"


@pytest.fixture
def denied(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of folders that cannot be listed, also by root."""
    names: set[str] = set()
    original = os.scandir

    def scandir(path: Any = ".") -> Any:
        if not isinstance(path, int) and Path(path).name in names:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return names


@pytest.mark.parametrize("some", [True, False])
@pytest.mark.parametrize("pattern", ["", "*.tif", "**/*.tif"])
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
    tmp_path: Path, denied: set[str], pattern: str, some: bool
) -> None:
    touched(tmp_path / "in" / "a.tif")
    job = Job.model_validate({"scenes": [str(tmp_path / "in" / pattern)], "model": "demo"})
    assert [spec.name for spec in find_scenes(job, some=some)] == ["a"]
    denied.add("in")
    with pytest.raises(GeounetError, match=r"in: cannot be listed \(Permission denied\), so scenes") as found:
        find_scenes(job, some=some)
    assert found.value.exit_code == 1


def test_a_pattern_that_begins_nowhere_is_not_an_empty_folder(tmp_path: Path) -> None:
    job = Job.model_validate({"scenes": [str(tmp_path / "share" / "*" / "*.tif")], "model": "demo"})
    with pytest.raises(GeounetError, match=r"share: cannot be listed \(No such file or directory\)") as found:
        find_scenes(job, some=False)
    assert found.value.exit_code == 1
    with pytest.raises(JobError, match="matches no file"):
        find_scenes(job)
    (tmp_path / "share").mkdir()
    assert find_scenes(job, some=False) == []


@pytest.mark.parametrize("pattern", ["", "*/*.tif", "*/*/*.tif", "**/*.tif"])
def test_folders_below_that_cannot_be_listed_are_told(
    tmp_path: Path, denied: set[str], pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    deep = "mine" if pattern != "*/*/*.tif" else "mine/deep"
    touched(tmp_path / "in" / deep / "a.tif", tmp_path / "in" / "theirs" / "b.tif")
    touched(tmp_path / "in" / "out" / "c" / "c_mask.tif", tmp_path / "in" / "lost+found" / "d.tif")
    denied.update({"theirs", "c", "lost+found"})
    assert names(tmp_path / "in" / pattern, tmp_path / "in" / "out") == ["a"]
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told == [f"{tmp_path / 'in' / 'theirs'}: cannot be listed (Permission denied); scenes there are not found"]
