"""A job that is run again and again: scenes come, change, fail, and are still being written."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

from geounet.batch import run as batch_run
from geounet.batch.run import Rounds, RunResult, run
from geounet.cli.batch import told
from geounet.cli.main import cli
from geounet.config.job import Job
from geounet.errors import JobError
from geounet.models.bundle import Bundle
from tests.support.local import write_scene
from tests.support.models import small_unet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_unet(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        yield client


def arrive(path: Path, seed: int, *, age_s: float = 3600) -> Path:
    values = np.random.default_rng(seed).integers(1, 255, (3, 90, 110)).astype(np.uint8)
    return aged(write_scene(path, values, nodata=0), age_s)


def aged(path: Path, age_s: float) -> Path:
    when = time.time() - age_s
    os.utime(path, (when, when))
    return path


def job_of(folder: Path, bundle: Bundle, **more: Any) -> Job:
    return Job.model_validate(
        {
            "scenes": [str(folder / "incoming")],
            "model": str(bundle.folder),
            "tiling": {"tile": 64, "overlap": 16},
            "predict": {"device": "cpu", "precision": "fp32"},
            "vector": "none",
            "outputs": {"folder": str(folder / "out"), "overwrite": True},
            **more,
        }
    )


def states(result: RunResult) -> dict[str, str]:
    return {scene["name"]: scene["state"] for scene in result.scenes}


def test_scenes_come_and_change(tmp_path: Path, bundle: Bundle, client: Client) -> None:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    job, rounds = job_of(tmp_path, bundle), Rounds(settle_s=30)

    def batch() -> RunResult:
        return run(job, client, rounds=rounds)

    with pytest.raises(JobError, match="holds no raster"):
        run(job, client)
    nothing = batch()
    assert nothing.exit_code == 0
    assert nothing.scenes == []
    assert told(nothing.manifest, nothing.folder) == ["nothing to do: no scenes"]

    arrive(incoming / "a.tif", 1)
    arrive(incoming / "b.tif", 2, age_s=0)
    first = batch()
    assert states(first) == {"a": "done"}, "b may still be arriving"
    assert first.manifest["waiting"] == ["b"]
    assert told(first.manifest, first.folder)[-1] == "scenes: 1 done, 1 still being written"
    aged(incoming / "b.tif", 60)
    assert states(batch()) == {"a": "unchanged", "b": "done"}
    again = batch()
    assert (again.exit_code, states(again)) == (0, {"a": "unchanged", "b": "unchanged"})
    assert told(again.manifest, again.folder) == ["nothing to do: 2 unchanged"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["exit_code"] == 0

    before = (tmp_path / "out" / "a" / "a_mask.tif").read_bytes()
    arrive(incoming / "a.tif", 3)
    assert states(batch()) == {"a": "done", "b": "unchanged"}
    assert (tmp_path / "out" / "a" / "a_mask.tif").read_bytes() != before


def test_what_keeps_failing_is_left_alone_and_named(tmp_path: Path, bundle: Bundle, client: Client) -> None:
    incoming = tmp_path / "incoming"
    arrive(incoming / "good.tif", 1)
    broken = incoming / "broken.tif"
    broken.write_bytes(b"II*\0 and then nothing")
    aged(broken, 3600)
    job = job_of(tmp_path, bundle)

    def batch(tries: int | None = 2) -> dict[str, Any]:
        result = run(job, client, rounds=Rounds(0, tries))
        assert result.exit_code == 3
        return next(scene for scene in result.scenes if scene["name"] == "broken")

    reasons = [str(batch()["error"]) for _ in range(4)]
    assert reasons[0] == reasons[1], "tried twice"
    assert reasons[2] == reasons[3]
    assert reasons[2].startswith(reasons[0])
    assert "failed 2 times" in reasons[2], "then left alone, and named"
    assert batch(tries=None)["error"] == reasons[0], "--retry tries it all the same"
    assert "failed 3 times" in batch()["error"]
    aged(broken, 1800)
    assert batch()["error"] == reasons[0], "as another file it is tried again"

    broken.unlink()
    arrive(broken, 4)
    result = run(job, client, rounds=Rounds(0, 2))
    assert (result.exit_code, states(result)) == (0, {"broken": "done", "good": "unchanged"})
    assert json.loads((tmp_path / "out" / ".geounet" / "attempts.json").read_text()) == {}


def test_what_was_given_up_and_is_done_all_the_same_is_done(tmp_path: Path, bundle: Bundle, client: Client) -> None:
    from geounet.batch.attempts import Attempts

    arrive(tmp_path / "incoming" / "a.tif", 1)
    job = job_of(tmp_path, bundle)
    (scene,) = batch_run.scene_runs(job)
    work = batch_run.work_folder(job)
    Attempts(work, 1).ended(scene, "the disk was full")
    left = run(job, client, rounds=Rounds(0, 1))
    assert states(left) == {"a": "failed"}
    assert "the disk was full (failed 1 time;" in left.scenes[0]["error"]
    assert states(run(job, client)) == {"a": "done"}, "a plain run knows nothing of it"
    again = run(job, client, rounds=Rounds(0, 1))
    assert (again.exit_code, states(again)) == (0, {"a": "unchanged"})


def test_a_date_far_ahead_does_not_wait_for_ever(tmp_path: Path) -> None:
    from geounet.batch.attempts import settled
    from geounet.raster.scene import SceneSpec

    path = arrive(tmp_path / "a.tif", 1, age_s=-86_400)
    spec = SceneSpec(name="a", files=(str(path),))
    assert settled(spec, 30)
    aged(path, -5)
    assert not settled(spec, 30), "clocks of two machines may differ by seconds"
    aged(path, 31)
    assert settled(spec, 30)
    path.unlink()
    assert settled(spec, 30), "told as missing, by the scene itself"


def test_the_command(tmp_path: Path, bundle: Bundle, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    arrive(tmp_path / "incoming" / "a.tif", 1, age_s=10)
    seen: list[Rounds | None] = []

    def with_client(job: Job, progress: Any, rounds: Rounds | None) -> RunResult:
        assert job.outputs.overwrite
        seen.append(rounds)
        return run(job, client, progress, rounds=rounds)

    monkeypatch.setattr(batch_run, "run", with_client)
    settings = ["--model", str(bundle.folder), "--out", str(tmp_path / "out"), "--set", "vector=none"]
    command = ["batch", str(tmp_path / "incoming"), *settings, "--set", "tiling.tile=64", "--set", "tiling.overlap=16"]
    waits = CliRunner().invoke(cli, command)
    assert (waits.exit_code, waits.stdout.strip()) == (0, "nothing to do: 1 still being written")
    done = CliRunner().invoke(cli, [*command, "--settle", "0", "--retry"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("a: done in")
    assert done.stdout.rstrip().endswith("scenes: 1 done")
    shown = CliRunner().invoke(cli, [*command, "--settle", "0", "--tries", "5", "--json"])
    assert [scene["state"] for scene in json.loads(shown.stdout)["scenes"]] == ["unchanged"]
    assert seen == [Rounds(30.0, 3), Rounds(0.0, None), Rounds(0.0, 5)]
