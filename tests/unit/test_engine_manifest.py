"""Publishing a scene over older output, and what counts as finished."""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from geounet.atomic import temporary_beside
from geounet.engine.ledger import Ledger
from geounet.engine.manifest import (
    FORMAT,
    announce,
    check_ours,
    check_unclaimed,
    finished_output,
    publish,
    read_manifest,
    remove_parts,
)
from geounet.errors import ClusterError, OutputExistsError, SceneError


@pytest.fixture(autouse=True)
def plain_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geounet.report.stac.write_item", lambda item, **_: item.write_text("new"))


def older(folder: Path, files: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"format": FORMAT, "key": "old", "state": "done", "files": files}))


def published(tmp_path: Path, **files: str) -> set[str]:
    staging, folder = tmp_path / "staging", tmp_path / "out" / "s"
    staging.mkdir()
    for name in files.values():
        (staging / name).write_text("new")
    plan: Any = SimpleNamespace(info=SimpleNamespace(name="s", files=(), product=None), card=None)
    publish({"key": "new", "state": "done", "files": files}, plan, staging, folder, datetime.now(UTC))
    return {path.name for path in folder.iterdir()}


def test_files_that_newer_output_lacks_go(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "s"
    files = {
        "mask": "s_mask.tif", "aux": "s_mask.tif.aux.xml", "probability": "s_prob.tif", "vectors": "s.gpkg",
        "roads_fgb": "s_roads.fgb", "item": "s.json", "gone": "s_gone.tif",
    }  # fmt: skip
    older(folder, files)
    for name in (*files.values(), "notes.txt"):
        (folder / name).write_text("old")
    (folder / "s_gone.tif").unlink()
    left = published(tmp_path, mask="s_mask.tif", aux="s_mask.tif.aux.xml")
    assert left == {"s_mask.tif", "s_mask.tif.aux.xml", "s.json", "manifest.json", "notes.txt"}
    assert (folder / "s_mask.tif").read_text() == "new"
    assert (folder / "notes.txt").read_text() == "old", "not of a run"


def test_what_another_program_names_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "s"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"name": "my web app", "files": {"a": "measurements.csv"}}')
    (folder / "measurements.csv").touch()
    with pytest.raises(SceneError, match=r"manifest\.json: is not that of a run; move it"):
        check_ours(folder)
    assert "measurements.csv" not in announce(folder, Ledger(tmp_path / "work", "s", "key"), {})
    assert "measurements.csv" in published(tmp_path, mask="s_mask.tif")
    check_ours(tmp_path)  # where none is


def test_what_a_killed_publication_left_is_known_when_its_parts_are_gone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "work", "s", "key")
    (ledger.folder / "parts").mkdir(parents=True)
    remove_parts(ledger)
    assert not ledger.folder.exists()
    announce(tmp_path, ledger, {"mask": "s_mask.tif"})
    (ledger.folder / "parts").mkdir()
    remove_parts(ledger)
    assert not (ledger.folder / "parts").exists()
    assert announce(tmp_path, ledger, {}) == ["s_mask.tif"]


def test_only_plain_names_in_the_folder_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "s"
    outside = tmp_path / "out" / "other.gpkg"
    older(folder, {"a": "../other.gpkg", "b": str(outside), "c": "..", "d": "sub", "e": "manifest.json", "f": 1,
                   "g": "sub/x", "h": "S_MASK.TIF", "i": ""})  # fmt: skip
    (folder / "sub").mkdir()
    for path in (outside, folder / "sub" / "x", folder / "S_MASK.TIF"):
        path.write_text("kept")
    left = published(tmp_path, mask="s_mask.tif")
    assert left == {"s_mask.tif", "s.json", "manifest.json", "sub", "S_MASK.TIF"}
    assert (folder / "sub" / "x").exists()
    assert outside.exists()


OLD = {"mask": "s_mask.tif", "vectors": "s.gpkg", "item": "s.json"}


def whole(folder: Path) -> dict[str, str]:
    older(folder, OLD)
    for name in OLD.values():
        (folder / name).write_text("old")
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def other_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The staged files lie on another file system: they cannot be renamed."""
    replace = Path.replace

    def refuses(path: Path, target: Path) -> Path:
        if path.parent.name == "staging":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuses)


@pytest.mark.usefixtures("other_disk")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("where", ["copy", "item", "manifest"])
def test_older_output_stays_whole_if_newer_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    folder = tmp_path / "out" / "s"
    before, copy = whole(folder), shutil.copyfile

    def fails(*paths: Any, **_: Any) -> None:
        path = next(p for p in paths if p.parent == folder)
        if where == "copy" and path.name.startswith(".s_mask"):
            copy(*paths)
            return
        path.write_text("ne")
        raise OSError(number, "no", str(paths[0]))

    replaced = {"copy": "shutil.copyfile", "item": "geounet.report.stac.write_item"}
    monkeypatch.setattr(replaced.get(where, "geounet.engine.manifest.write_text"), fails)
    expected = rf"^disk full: {re.escape(str(folder))}: no; free space and run again to continue$"
    with pytest.raises(
        OSError if number == errno.EIO else ClusterError, match=None if number == errno.EIO else expected
    ):
        published(tmp_path, mask="s_mask.tif", vectors="s.gpkg")
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert (tmp_path / "staging" / "s_mask.tif").read_text() == "new", "the next run continues"


@pytest.mark.parametrize("disk", ["same", "other"])
def test_nothing_is_written_once_older_output_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, disk: str
) -> None:
    """A run that is killed meanwhile has no disk to wait for."""
    if disk == "other":
        request.getfixturevalue("other_disk")
    folder = tmp_path / "out" / "s"
    before, unlink = whole(folder), Path.unlink

    def sees(path: Path, *, missing_ok: bool = False) -> None:
        if path == folder / "manifest.json":
            ready = {p.name: p.read_text() for p in folder.iterdir() if p.name.startswith(".")}
            assert len(ready) == 4, "mask, vectors, item and manifest"
            assert "old" not in ready.values()
            assert {p.name: p.read_text() for p in folder.iterdir() if p.name not in ready} == before
            monkeypatch.setattr("geounet.engine.manifest.write_text", None)
            monkeypatch.setattr(shutil, "copyfile", None)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", sees)
    assert published(tmp_path, mask="s_mask.tif", vectors="s.gpkg") == set(before)
    assert (folder / "s.gpkg").read_text() == "new"


@pytest.mark.parametrize("at", ["s_mask.tif", "s_roads.fgb", "manifest.json"])
def test_no_file_is_left_of_runs_that_were_killed_while_they_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Of the older output, and of what the killed run was asked for, the next one makes only the mask."""
    folder, staging, replace = tmp_path / "out" / "s", tmp_path / "staging", Path.replace
    whole(folder)
    (folder / "notes.txt").write_text("old")
    plan: Any = SimpleNamespace(info=SimpleNamespace(name="s", files=(), product=None), card=None)

    def next_run(key: str, **files: str) -> None:
        ledger = Ledger(tmp_path / "work", "s", key * 16)
        staging.mkdir(exist_ok=True)
        for name in files.values():
            (staging / name).write_text("new")
        left = announce(folder, ledger, files)
        publish({"key": key, "state": "done", "files": files}, plan, staging, folder, datetime.now(UTC), left)

    def killed(path: Path, target: Path) -> Path:
        if target == folder / at:
            raise SystemExit
        return replace(path, target)

    with monkeypatch.context() as kills:
        kills.setattr(Path, "replace", killed)
        with pytest.raises(SystemExit):
            next_run("a", mask="s_mask.tif", roads_fgb="s_roads.fgb")
    assert read_manifest(folder) is None
    next_run("b", mask="s_mask.tif")
    assert {path.name for path in folder.iterdir()} == {"s_mask.tif", "s.json", "manifest.json", "notes.txt"}


def test_a_staged_file_that_is_not_seen_here_leaves_older_output(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "s"
    before = whole(folder)
    plan: Any = SimpleNamespace(info=SimpleNamespace(name="s", files=(), product=None), card=None)
    with pytest.raises(ClusterError, match=r"s_mask\.tif: .*not seen here; outputs\.work must be on storage that all"):
        publish({"files": {"mask": "s_mask.tif"}}, plan, tmp_path / "staging", folder, datetime.now(UTC))
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_what_a_killed_run_was_writing_goes(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "s"
    folder.mkdir(parents=True)
    ours = ["s_mask.tif", "s.gpkg", "manifest.json", "s.json"]
    for name in ours:
        temporary_beside(folder / name).touch()
        temporary_beside(temporary_beside(folder / name)).touch()
    other = temporary_beside(folder / "roads.gpkg")
    other.touch()
    left = published(tmp_path, mask="s_mask.tif")
    assert left == {"s_mask.tif", "s.json", "manifest.json", other.name}


@pytest.mark.parametrize("manifest", ["{", "[1]", '{"files": 3}', "{}"])
def test_a_damaged_manifest_names_nothing(tmp_path: Path, manifest: str) -> None:
    folder = tmp_path / "out" / "s"
    older(folder, {})
    (folder / "manifest.json").write_text(manifest)
    assert published(tmp_path, mask="s_mask.tif") == {"s_mask.tif", "s.json", "manifest.json"}
    assert (read_manifest(folder) or {})["key"] == "new"


def test_a_file_that_cannot_be_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out" / "s"
    older(folder, {"vectors": "s.gpkg"})
    (folder / "s.gpkg").write_text("old")
    original = Path.unlink

    def refuses(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == "s.gpkg":
            raise PermissionError(13, "opened elsewhere")
        original(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuses)
    with caplog.at_level(logging.WARNING):
        assert "manifest.json" in published(tmp_path, mask="s_mask.tif")
    assert "s.gpkg: of older output" in caplog.text


def test_output_with_failed_blocks_is_made_anew_only_where_asked(tmp_path: Path) -> None:
    manifest = {"key": "k", "state": "done", "files": {}, "blocks": {"failed": ["r0000c0000"]}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))

    def state(key: str = "k", *, overwrite: bool, mend: bool = True) -> str | None:
        found = finished_output(tmp_path, key, overwrite=overwrite, mend=mend)
        return None if found is None else str(found["state"])

    assert state(overwrite=False) == "unchanged"
    assert state(overwrite=True) is None
    assert state(overwrite=True, mend=False) == "unchanged", "a batch would never come to an end"
    assert state("other", overwrite=True, mend=False) is None
    with pytest.raises(OutputExistsError, match="overwrite"):
        state("other", overwrite=False)
    manifest["blocks"] = {"failed": []}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert state(overwrite=True) == "unchanged"


@pytest.mark.parametrize("manifest", ['["x"]', '{"name": "my web app"}', "no json"])
def test_results_beside_a_manifest_of_another_program_are_not_claimed(tmp_path: Path, manifest: str) -> None:
    folder, ledger = tmp_path / "out" / "s", Ledger(tmp_path / "work", "s", "k" * 16)
    folder.mkdir(parents=True)
    check_unclaimed(folder, "s", ledger)
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(OutputExistsError, match=r"manifest\.json: is there, and is not that of a run; .*--overwrite"):
        check_unclaimed(folder, "s", ledger)
    (folder / "manifest.json").write_text('{"format": "geounet-manifest/0"}')
    check_unclaimed(folder, "s", ledger)
