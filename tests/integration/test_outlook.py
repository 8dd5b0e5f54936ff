"""`geounet batch --dry-run`: what a batch would do, said without doing it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from geounet.batch.attempts import Attempts
from geounet.batch.run import scene_runs, work_folder
from geounet.cli.main import main
from geounet.config.job import Job
from geounet.engine.scene import SceneRun
from tests.support.models import small_unet
from tests.support.rasters import noise, write


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a job file, a model, and scenes."""
    small_unet(tmp_path / "model")
    (tmp_path / "job.yaml").write_text(
        "scenes: [in/*.tif]\nmodel: ./model\noutputs: {folder: out}\npredict: {device: cpu}\nvector: none\n"
    )
    for name in ("done", "changed", "failing", "fresh"):
        arrive(tmp_path, name)
    return tmp_path


def arrive(place: Path, name: str, *, age_s: float = 3600) -> Path:
    (place / "in").mkdir(exist_ok=True)
    path = write(place / "in" / f"{name}.tif", noise(3, 70, 70, seed=sum(map(ord, name))))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def runs(place: Path) -> dict[str, SceneRun]:
    job = Job.from_yaml(place / "job.yaml")
    job = job.model_copy(update={"outputs": job.outputs.model_copy(update={"overwrite": True})})
    return {run.spec.name: run for run in scene_runs(job)}


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def foretold(place: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[dict[str, Any]]]:
    before = everything(place)
    code = main(["-q", "batch", str(place / "job.yaml"), "--dry-run", "--json", *options])
    assert everything(place) == before
    return code, json.loads(capsys.readouterr().out)


def test_every_scene_has_its_reason(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("done", "changed"):
        runs(place)[name].run()
    runs(place)["fresh"].prepare()
    assert foretold(place, capsys) == (0, [
        {"name": name, "model": "small", "state": state, "why": None}
        for name, state in (("changed", "unchanged"), ("done", "unchanged"), ("failing", "new"), ("fresh", "begun"))
    ])  # fmt: skip
    write(place / "in" / "changed.tif", noise(3, 70, 70, seed=9))
    os.utime(place / "in" / "changed.tif", (time.time() - 100,) * 2)
    arrive(place, "arriving", age_s=1)
    (place / "in" / "bad.tif").write_text("no raster")
    os.utime(place / "in" / "bad.tif", (time.time() - 100,) * 2)
    job = Job.from_yaml(place / "job.yaml")
    attempts = Attempts(work_folder(job), 3)
    failing = runs(place)["failing"]
    for _ in range(3):
        attempts.begun(failing)
        attempts.ended(failing, "failing.tif: cannot be read")
    code, entries = foretold(place, capsys)
    assert code == 3
    states = {entry["name"]: entry["state"] for entry in entries}
    assert states == {"arriving": "waiting", "bad": "refused", "changed": "changed", "done": "unchanged",
                      "failing": "given up", "fresh": "begun"}  # fmt: skip
    why = {entry["name"]: entry["why"] for entry in entries}
    assert why["changed"] == "scene: changed since"
    assert why["bad"].startswith(str(place / "in" / "bad.tif"))
    assert "failed 3 times" in why["failing"]
    assert foretold(place, capsys, "--retry")[1][4]["state"] == "new"


def test_what_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in runs(place).values():
        run.run()
    options = ["-q", "batch", str(place / "job.yaml"), "--dry-run"]
    assert main([*options, "--set", "predict.tta=flips"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == 'changed: changed (predict.tta: "none" → "flips")'
    assert out[-1] == "scenes: 4 changed"
    assert main(options) == 0
    assert capsys.readouterr().out == "scenes: 4 unchanged\n"


def test_a_job_that_cannot_be_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-q", "batch", str(place / "job.yaml"), "--dry-run", "--set", "model=./none"]) in (1, 2)
    assert "none" in capsys.readouterr().err
