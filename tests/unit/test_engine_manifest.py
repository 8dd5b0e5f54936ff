"""Publishing a scene over older output, and what counts as finished."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from geounet.engine.manifest import finished_output, publish, read_manifest
from geounet.errors import OutputExistsError


@pytest.fixture(autouse=True)
def plain_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geounet.report.stac.write_item", lambda item, **_: item.write_text("new"))


def older(folder: Path, files: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"key": "old", "state": "done", "files": files}))


def published(tmp_path: Path, **files: str) -> set[str]:
    staging, folder = tmp_path / "staging", tmp_path / "out" / "s"
    staging.mkdir()
    for name in files.values():
        (staging / name).write_text("new")
    plan: Any = SimpleNamespace(info=SimpleNamespace(name="s", files=()), card=None)
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
