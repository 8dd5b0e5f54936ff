"""What a run tells in its output folder, where nothing is to be inferred: the scenes' checks stand in for them."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from geounet.batch import run as batch_run
from geounet.batch.attempts import Attempts
from geounet.batch.lock import locked
from geounet.batch.plan import plan_job
from geounet.batch.run import Rounds, run, scene_runs
from geounet.batch.status import read_status
from geounet.config.job import Job
from geounet.engine.scene import SceneRun
from geounet.errors import JobError, LockedError, ModelError, OutputExistsError, SceneError

MADE: dict[str, Any] = {"state": "unchanged", "key": "k", "files": {}, "blocks": {"failed": []}}


@pytest.fixture
def incoming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which scenes arrive: `bad…` are refused, `denied…` not readable, `new…` to be done, others done."""

    def finished(scene: SceneRun, *, mend: bool) -> dict[str, Any] | None:
        assert not mend, "a batch makes nothing anew for blocks that failed"
        if scene.spec.name.startswith("bad"):
            raise SceneError(f"{scene.spec.files[0]}: not recognised as a raster")
        if scene.spec.name.startswith("denied"):
            raise PermissionError(errno.EACCES, "Permission denied", "/data/source.tif")
        if scene.spec.name.startswith("new"):
            return None
        return {"name": scene.spec.name, **MADE}

    monkeypatch.setattr(SceneRun, "finished", finished)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def arrive(path: Path, *, age_s: float = 3600) -> None:
    path.touch()
    os.utime(path, (time.time() - age_s,) * 2)


def job_of(incoming: Path, **outputs: Any) -> Job:
    folder = {"folder": str(incoming.parent / "out"), "overwrite": True, **outputs}
    return Job.model_validate({"scenes": [str(incoming)], "model": "demo", "outputs": folder})


def night(incoming: Path) -> tuple[int, dict[str, str], list[str]]:
    """Run a batch; return its exit code, and what the manifest in the output folder says of scenes."""
    result = run(job_of(incoming), client=MagicMock(), rounds=Rounds())
    manifest = json.loads((result.folder / "manifest.json").read_text())
    return result.exit_code, {s["name"]: s["state"] for s in manifest["scenes"]}, manifest["waiting"]


def stamps(incoming: Path) -> list[int]:
    return [(incoming.parent / "out" / name).stat().st_mtime_ns for name in ("manifest.json", "report.html")]


def test_what_is_refused_is_named_also_where_nothing_else_is_new(incoming: Path) -> None:
    out = incoming.parent / "out"
    arrive(incoming / "a.tif")
    assert night(incoming) == (0, {"a": "unchanged"}, [])
    arrive(incoming / "bad.tif")
    assert night(incoming) == (3, {"a": "unchanged", "bad": "failed"}, [])
    assert "not recognised as a raster" in (out / "report.html").read_text()
    assert [(s["name"], s["state"]) for s in read_status(out)["scenes"]] == [("bad", "failed")]
    for _ in range(3):
        assert night(incoming)[0] == 3
    assert "failed 3 times" in (out / "manifest.json").read_text(), "and then as left alone"
    (incoming / "bad.tif").unlink()
    assert night(incoming) == (0, {"a": "unchanged"}, [])
    assert read_status(out)["scenes"] == []


def test_what_the_machine_refuses_one_scene_is_a_try_of_it_alone(incoming: Path) -> None:
    for name in ("a.tif", "denied.tif"):
        arrive(incoming / name)
    for _ in range(4):
        assert night(incoming) == (3, {"a": "unchanged", "denied": "failed"}, [])
    (told,) = (s for s in read_status(incoming.parent / "out")["scenes"] if s["name"] == "denied")
    assert "denied.tif: /data/source.tif: Permission denied (failed 3 times" in told["error"]


def test_a_folder_one_may_not_look_into_is_not_done(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrive(incoming / "a.tif")
    original = Path.stat

    def stat(path: Path, **how: Any) -> os.stat_result:
        if path.parent == incoming.parent / "out" / "a":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, **how)

    monkeypatch.setattr(Path, "stat", stat)
    assert night(incoming) == (0, {"a": "unchanged"}, [])


def test_what_a_run_was_killed_at_runs_last_and_by_itself(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("new_a", "new_b", "new_c", "new_d"):
        arrive(incoming / f"{name}.tif")
    together: list[list[str]] = []

    def run_all(runs: list[SceneRun], *given: Any) -> Iterator[Any]:
        together.append([scene.spec.name for scene in runs])
        for scene in runs:
            given[-1](scene)
            if scene.spec.name == "new_c" and len(together) == 1:
                raise ProcessLookupError
            yield scene, {"name": scene.spec.name, **MADE, "state": "done"}

    monkeypatch.setattr(batch_run, "run_all", run_all)
    monkeypatch.setattr(batch_run, "Ahead", MagicMock())
    monkeypatch.setattr(Attempts, "__exit__", lambda *_: None)  # as a killed run has none
    with pytest.raises(ProcessLookupError):
        night(incoming)
    assert night(incoming)[0] == 0
    assert together == [["new_a", "new_b", "new_c", "new_d"], ["new_a", "new_b", "new_d"], ["new_c"]]
    assert json.loads((incoming.parent / "out" / ".geounet" / "attempts.json").read_text()) == {}


def test_a_scene_that_was_published_has_not_killed_the_run(incoming: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run was killed while it was at the next one."""
    arrive(incoming / "new_a.tif")
    (one,) = scene_runs(job_of(incoming))
    one.work.mkdir(parents=True)
    Attempts(one.work, 3).begun(one)
    (incoming / "new_a.tif").rename(incoming / "a.tif")  # one that is done
    notes = one.work / "attempts.json"
    notes.write_text(notes.read_text().replace("new_a", "a"))
    assert night(incoming) == (0, {"a": "unchanged"}, [])
    assert json.loads(notes.read_text()) == {}
    assert not any("ended with no word" in message for message in caplog.messages)


def test_what_waits_is_named_also_where_nothing_else_is_new(incoming: Path) -> None:
    arrive(incoming / "a.tif")
    night(incoming)
    arrive(incoming / "b.tif", age_s=0)
    assert night(incoming) == (0, {"a": "unchanged"}, ["b"])
    (incoming / "b.tif").unlink()
    assert night(incoming) == (0, {"a": "unchanged"}, [])


def test_scenes_that_come_and_go_are_named(incoming: Path) -> None:
    assert night(incoming) == (0, {}, [])
    for name in ("a.tif", "b.tif"):
        arrive(incoming / name)
        night(incoming)
    assert night(incoming)[1] == {"a": "unchanged", "b": "unchanged"}
    (incoming / "a.tif").unlink()
    assert night(incoming)[1] == {"b": "unchanged"}


@pytest.mark.parametrize("state", ["unchanged", "done"])
def test_where_nothing_is_new_nothing_is_written(incoming: Path, state: str) -> None:
    arrive(incoming / "a.tif")
    night(incoming)
    path = incoming.parent / "out" / "manifest.json"
    # As the run that did the scene says it.
    path.write_text(path.read_text().replace('"state": "unchanged"', f'"state": "{state}"'))
    before = stamps(incoming)
    assert night(incoming) == (0, {"a": state}, [])
    assert stamps(incoming) == before
    path.write_text("{")
    night(incoming)
    assert stamps(incoming) != before, "what cannot be read is made anew"


@pytest.mark.parametrize("name", ["manifest.json", "report.html"])
@pytest.mark.parametrize("text", ['{"name": "my web app", "mosaics": 3}', '["x"]', "<html>"])
def test_files_of_others_are_not_replaced_unasked(incoming: Path, name: str, text: str) -> None:
    arrive(incoming / "a.tif")
    out = incoming.parent / "out"
    out.mkdir()
    (out / name).write_text(text)
    for given in ({"rounds": Rounds()}, {}):
        job = job_of(incoming, overwrite=bool(given))
        with pytest.raises(OutputExistsError, match=rf"out/{name}: is there and not of a run; .*another output folder"):
            run(job, client=MagicMock(), **given)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, text)]


def test_files_of_others_are_replaced_where_asked(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SceneRun, "finished", lambda scene, *, mend: {"name": scene.spec.name, **MADE})
    arrive(incoming / "a.tif")
    out = incoming.parent / "out"
    out.mkdir()
    (out / "manifest.json").write_text('{"mosaics": 3, "scenes": 4}')
    (out / "report.html").write_text("<html>")
    assert run(job_of(incoming), client=MagicMock()).exit_code == 0
    (out / "manifest.json").unlink()
    before = (out / "report.html").read_text()
    assert run(job_of(incoming, overwrite=False), client=MagicMock()).exit_code == 0, "the report is a run's"
    assert before.startswith("<!DOCTYPE html>")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "format": "geounet-manifest/0"}))
    assert run(job_of(incoming, overwrite=False), client=MagicMock()).exit_code == 0


def test_another_work_folder_does_not_let_a_second_run_in(incoming: Path) -> None:
    arrive(incoming / "a.tif")
    elsewhere = job_of(incoming, work=str(incoming.parent / "work"))
    out = Path(elsewhere.outputs.folder)
    with locked(out / ".geounet"), pytest.raises(LockedError, match=f"{out}: another run"):
        run(elsewhere, client=MagicMock(), rounds=Rounds())
    with locked(batch_run.work_folder(elsewhere)), pytest.raises(LockedError, match=f"{out}: another run"):
        run(elsewhere, client=MagicMock(), rounds=Rounds())
    assert run(elsewhere, client=MagicMock(), rounds=Rounds()).exit_code == 0
    assert {p.name for p in out.iterdir()} == {".geounet", "manifest.json", "report.html"}
    assert {p.name for p in (out / ".geounet").rglob("*")} == {"lock", "work"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": "nonesuch"}, "model 'nonesuch': .*bundled models: "),
        ({"models": ["demo", "./none"]}, "none: no such folder; a bundle is a folder"),
        ({"aoi": "none.gpkg"}, "aoi: none.gpkg: no such file; expected a vector file"),
        ({"aoi": "."}, "aoi: .: is a folder; expected a vector file"),
        ({"aoi": "https://example.org/a.geojson"}, "aoi: https.* give a local vector file"),
    ],
)
def test_what_the_job_names_and_is_not_there_is_the_jobs_fault(keys: dict[str, Any], message: str) -> None:
    job = Job.model_validate({"scenes": ["a.tif"], **({"model": "demo"} if "models" not in keys else {}), **keys})
    with pytest.raises(JobError, match=message):
        run(job, client=MagicMock())
    with pytest.raises(JobError, match=message):
        plan_job(job)


def test_a_broken_bundle_is_not_the_jobs_fault(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="no such file; a model bundle holds"):
        batch_run.scene_runs(Job.model_validate({"scenes": ["a.tif"], "model": f"{tmp_path}/model"}))
