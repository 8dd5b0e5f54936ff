"""What `geounet status` says while runs work, after they ended in one way or another, and of what they left behind."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from geounet.batch import status as status_module
from geounet.batch.lock import locked, locked_output
from geounet.batch.status import clean, read_status
from geounet.errors import GeounetError, LockedError

RECIPE = {"model_shape": [100, 100], "tile": 64, "overlap": 0, "side": 1}


def finished(out: Path, name: str = "a", *, at: float = 1000.0) -> None:
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    blocks = {"total": 4, "done": 4, "failed": []}
    (out / name).mkdir(parents=True, exist_ok=True)
    (out / name / "manifest.json").write_text(json.dumps({"state": "done", "blocks": blocks, "finished": moment}))


def ledger(work: Path, name: str = "a", *, key: str = "b" * 16, began: float = 500.0) -> Path:
    folder = work / "scenes" / name / key
    (folder / "receipts" / "infer").mkdir(parents=True)
    (folder / "receipts" / "infer" / "r0000c0000.json").write_text("{}")
    (folder / "record.json").write_text(json.dumps({"recipe": RECIPE}))
    events = [{"time": began, "event": "start"}, {"time": began, "event": "failed", "error": "no"}]
    (folder / "journal.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events) + '{"time": ')
    return folder


def states(out: Path, work: Path | None = None) -> dict[str, str]:
    return {scene["name"]: scene["state"] for scene in read_status(out, work)["scenes"]}


def test_a_finished_scene_stays_done_whatever_was_left_behind(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "out" / ".geounet"
    finished(out)
    ledger(work)
    ledger(work, "b")
    (entry, other) = read_status(out)["scenes"]
    assert (entry["state"], entry["blocks"], entry["error"]) == ("done", {"total": 4, "done": 4}, None)
    assert entry["bytes"] > 0
    assert (other["state"], other["blocks"], other["error"]) == ("interrupted", {"total": 4, "done": 1}, "no")
    with locked(work):
        assert states(out) == {"a": "done", "b": "running"}
        ledger(work, key="a" * 16, began=time.time())
        assert states(out) == {"a": "running", "b": "running"}, "it is being replaced"
    assert states(out) == {"a": "done", "b": "interrupted"}


@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"recipe": {"tile": 0}}'])
def test_a_record_that_cannot_be_read_is_passed_over(tmp_path: Path, record: str) -> None:
    ledger(tmp_path / ".geounet")
    (ledger(tmp_path / ".geounet", "b") / "record.json").write_text(record)
    assert states(tmp_path) == {"a": "interrupted"}


def test_a_scene_that_ends_meanwhile_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run publishes a scene and removes its parts while they are looked at."""
    work = tmp_path / ".geounet"
    folder = ledger(work)
    ledger(work, "b")
    original = Path.read_text

    def ends_first(path: Path, *args: Any, **options: Any) -> str:
        if path == folder / "record.json" and path.exists():
            finished(tmp_path)
            shutil.rmtree(folder)
        return original(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", ends_first)
    with locked(work):
        assert states(tmp_path) == {"a": "done", "b": "running"}


def test_looking_takes_no_lock_and_needs_no_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / ".geounet"
    with locked(work):
        pass
    before = (work / "lock").stat().st_mtime_ns
    monkeypatch.setattr(status_module, "locked", lambda _: pytest.fail("only looks"))
    assert not read_status(tmp_path)["running"]
    assert (work / "lock").stat().st_mtime_ns == before


def test_a_run_with_a_work_folder_elsewhere_is_seen(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    finished(out)
    with locked_output(out, work):
        assert read_status(out)["running"]
        assert read_status(out, work)["running"]
    assert not read_status(out, work)["running"]


def test_what_the_last_run_could_not_do(tmp_path: Path) -> None:
    finished(tmp_path, "a")
    finished(tmp_path, "b", at=3000)
    finished(tmp_path, "c/one")
    moment = datetime.fromtimestamp(2000, UTC).isoformat(timespec="seconds")
    scenes = [
        {"name": n, "folder": f, "state": "failed", "error": "no"} for n, f in (("a", "a"), ("b", "b"), ("c", "c/two"))
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"finished": moment, "scenes": scenes}))
    told = [(s["name"], s["state"], s["error"]) for s in read_status(tmp_path)["scenes"]]
    assert told == [
        ("a", "done", "the last run failed: no"),
        ("b", "done", None),  # by a run that was killed later on
        ("c/one", "done", None),
        ("c/two", "failed", "no"),
    ]


def test_clean_removes_what_killed_runs_were_writing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(out)
    ledger(out / ".geounet")
    hexes = "0123456789abcdef" * 2
    ours = [f".town.{hexes}.tmp.gpkg", f"a/.a_mask.{hexes}.tmp.tif", f"a/.manifest.{hexes}.tmp.json",
            f"b/model/.b.{hexes}.tmp.gpkg-journal"]  # fmt: skip
    others = [f"a/.roads.{hexes}.tmp.gpkg", "a/.a_mask.tmp.tif", f"a/a_mask.{hexes}.tmp.tif", ".town.gpkg"]
    for name in (*ours, *others):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    assert clean(out)[0] == 1
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert left == {*others, "a/manifest.json", ".geounet/lock"}


@pytest.mark.parametrize("given", [True, False])
def test_what_a_run_at_work_is_writing_stays(tmp_path: Path, given: bool) -> None:
    """Its work folder is another one than that which is to be cleaned."""
    out, before, now = tmp_path / "out", tmp_path / "before", tmp_path / "now"
    with locked_output(out, before):
        pass
    ready = out / "a" / f".a_mask.{'0' * 32}.tmp.tif"
    ready.parent.mkdir()
    ready.touch()
    with locked_output(out, now), pytest.raises(LockedError, match="out: another run"):
        clean(out, before if given else None)
    assert ready.exists()
    assert clean(out, before) == (0, 0)
    assert not ready.exists()


def test_a_work_folder_with_two_names_is_cleaned(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()
    (tmp_path / "link").symlink_to(work)
    for name in (work, tmp_path / "link"):
        with locked_output(out, name):
            pass
    ledger(work)
    assert clean(out)[0] == 1


@pytest.mark.parametrize("named", [True, False])
def test_parts_that_were_half_removed_are_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Who removes them is killed when the record of what was resolved is gone."""
    out = tmp_path / "out"
    work = tmp_path / "work" if named else out / ".geounet"
    with locked_output(out, work):
        pass
    folder, original = ledger(work), shutil.rmtree

    def killed(path: Path, **_: Any) -> None:
        for record in path.rglob("record.json"):
            record.unlink()
        raise SystemExit

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(SystemExit):
        clean(out)
    monkeypatch.setattr(shutil, "rmtree", original)
    assert not folder.exists()
    assert states(out) == {}
    assert clean(out)[1] > 0, "what is left goes the next time"
    assert not list(work.rglob("*.json"))


def test_what_late_tasks_left_goes(tmp_path: Path) -> None:
    """A worker of a cluster that stays ends its task when the parts of its run are removed."""
    out, work = tmp_path / "out", tmp_path / "work"
    with locked_output(out, work):
        pass
    folder = ledger(work)
    for name in ("record.json", "journal.jsonl"):
        (folder / name).unlink()
    assert clean(out)[0] == 1
    assert not folder.exists()


@pytest.mark.parametrize("given", [True, False])
def test_other_things_in_a_work_folder_stay(tmp_path: Path, given: bool) -> None:
    """A job may name a folder that holds its scenes, too."""
    out, work = tmp_path / "out", tmp_path
    kept = [tmp_path / name for name in ("scenes/north/n.tif", f"scenes/{'c' * 16}/n.tif", "mosaics/town/m.tif",
                                         f"scenes/north/{'d' * 16}/n.tif")]  # fmt: skip
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    parts = [ledger(work), ledger(work, "b/model"), ledger(work, "north")]
    with locked_output(out, work):
        pass
    assert clean(out, work if given else None)[0] == 3
    assert [path for path in kept if not path.exists()] == []
    assert [path for path in parts if path.exists() or (path.parent.name == "model" and path.parent.exists())] == []


def test_a_folder_that_no_run_worked_in_is_refused(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    ledger(out / ".geounet")
    (other / "scenes" / "a").mkdir(parents=True)
    with pytest.raises(GeounetError, match="no work folder of a run"):
        clean(out, other)
    assert sorted(path.name for path in other.rglob("*")) == ["a", "scenes"]


@pytest.mark.parametrize("way", ["noted", "manifest"])
def test_parts_in_a_work_folder_elsewhere_are_found(tmp_path: Path, way: str) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    ledger(out / ".geounet", "old")
    folder = ledger(work, "b")
    if way == "noted":  # by a run that was killed: it left no manifest
        with locked_output(out, work):
            with pytest.raises(LockedError, match="out: another run"):
                clean(out)
            assert states(out) == {"b": "running", "old": "running"}
    else:  # of older versions
        manifest = {"scenes": [], "job": {"outputs": {"work": str(work)}}}
        (out / "manifest.json").write_text(json.dumps(manifest))
    assert states(out) == {"b": "interrupted", "old": "interrupted"}
    assert states(out, out / ".geounet") == {"old": "interrupted"}
    assert clean(out)[0] == 2
    assert not folder.exists()
    assert states(out) == {}
    shutil.rmtree(work)
    assert clean(out) == (0, 0)


@pytest.mark.parametrize("job", ["text", {"outputs": None}, {"outputs": {"work": "auto"}}, {"outputs": {"work": 3}}])
def test_a_manifest_that_names_no_work_folder(tmp_path: Path, job: Any) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"scenes": [], "job": job}))
    assert states(tmp_path) == {}
    assert clean(tmp_path) == (0, 0)
