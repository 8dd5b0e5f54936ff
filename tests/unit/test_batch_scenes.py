"""Which files of folders and patterns are scenes, and which are what runs left."""

from __future__ import annotations

from pathlib import Path

import pytest

from geounet.batch.scenes import find_scenes
from geounet.config.job import Job

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
    touched(work / "mosaics" / "town" / "mosaic.vrt")


def names(scenes: Path | str, out: Path, work: Path | str = "auto") -> list[str]:
    job = Job.model_validate(
        {"scenes": [str(scenes)], "model": "demo", "outputs": {"folder": str(out), "work": str(work)}}
    )
    return [spec.name for spec in find_scenes(job)]


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
