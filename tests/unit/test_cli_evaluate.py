"""`geounet evaluate`: options, tables, JSON, files, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio import Affine

from geounet.batch.run import RunResult
from geounet.cli.evaluate import repeated
from geounet.cli.main import main
from tests.support.evaluation import NAMES, raster, town


@pytest.fixture
def scene(tmp_path: Path) -> tuple[str, str]:
    truth, found = town()
    pred, labels = raster(tmp_path / "s_mask.tif", found, NAMES), raster(tmp_path / "labels.tif", truth, NAMES)
    return str(pred), str(labels)


def test_json_has_the_keys_of_the_contract(scene: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    pred, labels = scene
    assert main(["evaluate", "--pred", pred, "--truth", labels, "--json"]) == 0
    scores: Any = json.loads(capsys.readouterr().out)
    for path in ("pixel.miou", "pixel.accuracy", "pixel.iou.building", "buildings.f1_50", "buildings.polis_m",
                 "roads.apls", "roads.topo_f1"):  # fmt: skip
        value = scores
        for key in path.split("."):
            value = value[key]
        assert isinstance(value, float), path
        assert path == "buildings.polis_m" or 0 < value <= 1, path


def test_tables(scene: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    pred, labels = scene
    assert main(["evaluate", "--pred", pred, "--truth", labels]) == 0
    out = capsys.readouterr().out
    for word in (*NAMES.values(), "mean", "pixel accuracy", "PoLiS, m", "APLS", "TOPO", "within 3 px", "no prediction"):
        assert word in out, word
    assert max(len(line) for line in out.splitlines()) <= 110
    assert main(["evaluate", "--pred", pred, "--truth", labels, "--what", "roads", "--tolerance-m", "2"]) == 0
    out = capsys.readouterr().out
    assert "PoLiS" not in out
    assert "accuracy" not in out


def test_a_folder_with_page_and_json(
    scene: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pred, labels = scene
    command = ["evaluate", "--pred", pred, "--truth", labels, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert str(tmp_path / "out" / "evaluation.html") in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert main([*command, "--json"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--json", "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out) == written


def test_options_reach_the_evaluation(scene: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    pred, labels = scene
    command = ["evaluate", "--pred", pred, "--truth", labels, "--json"]
    box = "500000,5299962.5,500030,5300000"
    assert main([*command, "--aoi", box, "--aoi-crs", "EPSG:32633", "--boundary-px", "2", "--tolerance-px", "1"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["pixel"]["pixels"] == 75 * 60
    assert scores["pixel"]["boundary"]["distance_px"] == 2
    assert scores["roads"]["relaxed"]["tolerance"] == 1.0
    assert main([*command, "--values", "1=building,0=other,2=other,3=other", "--min-area-m2", "60"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["classes"] == ["other", "building"]
    assert scores["buildings"]["truth"] < 8
    assert main([*command, "--class", "building", "--what", "pixels"]) == 0
    assert json.loads(capsys.readouterr().out)["buildings"] is None


def test_several_words_after_an_option() -> None:
    assert repeated(["--pred", "a", "b", "--json", "--truth", "c"]) == [
        "--pred", "a", "--pred", "b", "--json", "--truth", "c",
    ]  # fmt: skip
    assert repeated(["--out", "x", "--scenes=a", "--model", "m"]) == ["--out", "x", "--scenes=a", "--model", "m"]
    assert repeated(["--truth"]) == ["--truth"]
    assert repeated(["--truth", "--json"]) == ["--json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --pred, or --model and --scenes"),
        (["--model", "demo"], "--model and --scenes go together"),
        (["--pred", "P"], "give labels"),
        (["--pred", "P", "--truth", "T", "--labels", "L"], "give labels"),
        (["--pred", "P", "--truth", "T", "--set", "a=1"], "--set goes with --model"),
        (["--pred", "P", "--truth", "T", "--what", "trees"], "expected any of pixels, buildings, roads"),
        (["--pred", "P", "--truth", "T", "--tolerance-px", "1", "--tolerance-m", "1"], "one of them"),
        (["--pred", "P", "--truth", "T", "--aoi", "1,2,3"], "XMIN,YMIN,XMAX,YMAX"),
        (["--pred", "P", "--truth", "T", "--values", "building"], "expected VALUE=CLASS"),
        (["--pred", "P", "--truth", "T", "--colours", "red=building"], "expected a colour as '#3C1098'"),
        (["--pred", "P", "--truth", "T", "--values", "1=house"], "no class 'house' in the prediction"),
        (["--pred", "P", "--truth", "T", "--class", "land", "--values", "1=land"], "expected one of them"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, scene: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"P": scene[0], "T": scene[1], "L": "labels.yaml"}
    assert main(["evaluate", *[names.get(a, a) for a in arguments]]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_wrong_files_end_in_one_line(
    scene: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pred, labels = scene
    values = np.full((150, 170), 7, np.uint8)
    seven = raster(tmp_path / "seven.tif", values, {0: "land"})
    for arguments in (
        ["--pred", "none.tif", "--truth", labels],
        ["--pred", pred, "--truth", str(seven)],
        ["--pred", pred, "--truth", labels, "--aoi", "0,0,1,1"],
        ["--pred", pred, "--truth", labels, "--probability", labels],
    ):
        assert main(["evaluate", *arguments]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if "INFO" not in line]
        assert len(lines) == 1
        assert lines[0].startswith("geounet: error: ")


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'rasterio', 'geopandas', 'distributed', 'scipy', 'rich', 'matplotlib'}"
    code = f"import sys, geounet.cli.evaluate; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_scenes_without_labels_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, found = town()
    masks = []
    for name, east in (("zanzi", 500000), ("banepa", 510000)):
        place = Affine(0.5, 0, east, 0, -0.5, 5300000)
        masks.append(str(raster(tmp_path / f"{name}_mask.tif", found, NAMES, transform=place)))
    labels = str(raster(tmp_path / "zanzi.tif", truth, NAMES, transform=Affine(0.5, 0, 500000, 0, -0.5, 5300000)))
    assert main(["evaluate", "--pred", *masks, "--truth", labels]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "banepa: no labels, left out"


@pytest.mark.parametrize("kept", [True, False])
def test_a_folder_that_is_gone_is_not_pointed_at(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("geounet.batch.run.run", lambda job, progress: RunResult(1, {}, Path(job.outputs.folder)))
    out = tmp_path / "out"
    more = ["--out", str(out)] if kept else []
    assert main(["evaluate", "--model", "demo", "--scenes", "s.tif", "--truth", "t.tif", *more]) == 1
    where, seen = (f"{out}: ", " and in its manifest.json") if kept else ("", "")
    expected = f"geounet: error: {where}no scene could be segmented; why stands above{seen}\n"
    assert capsys.readouterr().err == expected
