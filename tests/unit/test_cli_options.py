"""Options that run and plan share: one job file, or scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from geounet.cli.options import json_option, takes_job
from geounet.cli.train import train
from geounet.config.job import Job
from geounet.errors import JobError


def call(*arguments: str) -> Job:
    """Run a command that takes a job, and return it."""
    seen: list[tuple[Job, bool, bool]] = []

    @click.command()
    @takes_job
    @click.option("--dry-run", is_flag=True)
    @json_option
    def command(job: Job, dry_run: bool, as_json: bool) -> None:
        seen.append((job, dry_run, as_json))

    command.main(list(arguments), standalone_mode=False)
    ((job, dry_run, as_json),) = seen
    assert (dry_run, as_json) == ("--dry-run" in arguments, "--json" in arguments)
    return job


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text("scenes: [a.tif]\nmodels: [x, y]\ntiling: {tile: 64}\n")
    return tmp_path


def test_scenes_with_a_model_and_a_folder(here: Path) -> None:
    job = call("a.tif", "s/*.tif", "--model", "demo", "--out", "o", "--json")
    assert job.scenes == [str(here / "a.tif"), str(here / "s/*.tif")]
    assert (job.model, job.outputs.folder) == ("demo", str(here / "o"))
    job = call("a.tif", "--model", "demo", "--model", "./own,two", "--out", "o=1,2", "--dry-run")
    assert job.models == ["demo", str(here / "own,two")]
    assert job.outputs.folder == str(here / "o=1,2")
    job = call("a.tif", "--set", "model=demo", "--set", "outputs.folder=o")
    assert (job.model, job.outputs.folder) == ("demo", str(here / "o"))


def test_a_job_file_with_options_over_it(here: Path) -> None:
    assert call("job.yaml").model_names() == ["x", "y"]
    job = call(
        "job.yaml", "--model", "demo", "--out", "o", "--bbox", "-1.5,2 3,4", "--overwrite", "--workers", "3",
        "--set", "tiling.tile=96", "--set", "vector=none",
    )  # fmt: skip
    assert (job.model_names(), job.outputs.folder, job.outputs.overwrite) == (["demo"], str(here / "o"), True)
    assert (job.bbox, job.cluster.workers, job.tiling.tile, job.vector) == ([-1.5, 2, 3, 4], 3, 96, "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["job.yaml", "a.tif"], "job.yaml: a job file stands alone"),
        (["a.tif", "job.YML"], "job.YML: a job file stands alone"),
        (["a.tif", "--out", "o"], "scenes need a model"),
        (["a.tif", "--model", "m"], "scenes need an output folder"),
        (["a.tif", "--model", "m", "--out", "o", "--bbox", "1,2,3"], "found '1,2,3', expected XMIN,YMIN,XMAX,YMAX"),
        (["a.tif", "--model", "m", "--out", "o", "--bbox", "3,2,1,4"], "found '3,2,1,4', expected XMIN"),
        (["a.tif", "--model", "m", "--out", "o", "--bbox", "1,2,nan,4"], "found '1,2,nan,4', expected XMIN"),
        (["a.tif", "--model", "m", "--out", "o", "--workers", "0"], "0 is not in the range x>=1"),
        (["a.tif", "--model", "m", "--out", ""], "found an empty text, expected a folder"),
        ([], "Missing argument 'JOB.yaml | SCENE...'"),
    ],
)
def test_usage(here: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as info:
        call(*arguments)
    assert message in info.value.format_message()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "demo", "--set", "model=aerial"], "--model and --set model=aerial: give one of them"),
        (["--model", "demo", "--set", "models=aerial,demo"], "--model and --set models=aerial,demo: give"),
        (["--model", "a", "--model", "b", "--set", "model=a"], "--model and --set model=a: give"),
        (["--model", "demo", "--set", "outputs.folder=p"], "--out and --set outputs.folder=p: give"),
        (["--model", "demo", "--workers", "2", "--set", " cluster.workers = 3"], "--workers and --set"),
        (["--model", "demo", "--overwrite", "--set", "outputs.overwrite=false"], "--overwrite and --set"),
    ],
)
def test_an_option_and_a_setting_do_not_contradict_each_other(here: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as info:
        call("a.tif", "--out", "o", *arguments)
    assert message in info.value.format_message()
    job = call("a.tif", "--out", "o", "--model", "demo", "--set", "model=demo", "--set", "cluster.workers=3")
    assert (job.model, job.cluster.workers) == ("demo", 3)


def test_wrong_settings_are_job_errors(here: Path) -> None:
    with pytest.raises(JobError, match=r"^--set tiling\.tile=x: tiling\.tile: found 'x'"):
        call("a.tif", "--model", "m", "--out", "o", "--set", "tiling.tile=x")
    with pytest.raises(JobError, match=r"^none\.yaml: no such file"):
        call("none.yaml")


def test_jobs_of_other_commands_are_told_apart(here: Path) -> None:
    (here / "train.yaml").write_text("classes: [land, road]\ndata: [{scenes: a.tif}]\n")
    with pytest.raises(JobError, match=r"^train\.yaml: is a training job; run it with `geounet train train\.yaml`$"):
        call("train.yaml", "--out", "o")
    with pytest.raises(JobError, match=r"^job\.yaml: is no training job .*; run it with `geounet run job\.yaml`$"):
        train.main(["job.yaml"], standalone_mode=False)
    # A mistake in the right kind of job stays what it is.
    (here / "job.yaml").write_text("scenes: [a.tif]\n")
    with pytest.raises(JobError, match="model: missing"):
        call("job.yaml")


def test_the_command_keeps_its_name_and_help() -> None:
    @click.command()
    @takes_job
    def something(job: Any) -> None:
        """Do something."""

    text = CliRunner().invoke(something, ["--help"]).output
    assert something.name == "something"
    assert "Do something." in text
    assert "JOB.yaml | SCENE..." in text
