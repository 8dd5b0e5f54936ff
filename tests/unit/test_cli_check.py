"""`geounet check` and `geounet doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geounet.cli import doctor
from geounet.cli.main import main


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose weights file holds no tensor: enough for what is checked without torch."""
    folder = tmp_path / "model"
    folder.mkdir()
    header = b"{}"
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    scaling = [{"mean": 100, "stddev": 50}] * 3
    classes = [("ground", "background"), ("house", "building"), ("street", "road")]
    card = {
        "name": "tiny",
        "architecture": "Unet",
        "encoder": "resnet18",
        "input": {"bands": ["red", "green", "blue"], "data_type": "uint8", "value_scaling": scaling},
        "classes": [{"name": n, "code": i, "colour": "#102030", "kind": k} for i, (n, k) in enumerate(classes)],
        "tile": {"size": 256, "multiple_of": 32},
    }
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def job(folder: Path, text: str = "", scenes: str = "[a.tif]", model: str = "./model") -> str:
    file = folder / "job.yaml"
    file.write_text(f"scenes: {scenes}\nmodel: {model}\n{text}\n")
    return str(file)


def test_a_valid_job(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tif").touch()
    file = job(tmp_path)
    assert main(["check", file]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{file}: valid · model tiny (ground, house, street), layers buildings, roads, landcover\n"
    assert captured.err == ""
    assert main(["check", file, "--json", "--set", "vector=none"]) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "errors": [], "warnings": [], "models": ["tiny"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "vector: {buildings: {class: hause}}",
            "vector.buildings.class: the model tiny has no class 'hause'; did you mean house?",
        ),
        ("bands: [1, 2]", "bands: found 2, the model tiny takes 3 (red, green, blue)"),
        ("tiling: {tile: 100}", "tiling.tile: found 100, expected a multiple of 32: 96 or 128"),
        ("tiling: {tile: 10}", "tiling.tile: found 10, expected a multiple of 32: 32"),
    ],
)
def test_a_job_that_does_not_fit_the_card(
    tmp_path: Path, bundle: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tif").touch()
    file = job(tmp_path, text)
    assert main(["check", file]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"geounet: error: {file}: {message}")
    assert captured.err.count("\n") == 1


def test_a_model_that_takes_one_size_only(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads((bundle / "model.json").read_text())
    card["tile"]["fixed"] = True
    (bundle / "model.json").write_text(json.dumps(card))
    assert main(["check", job(tmp_path, "tiling: {tile: 512}")]) == 2
    assert "tiling.tile: found 512, the model tiny takes 256 only" in capsys.readouterr().err
    assert main(["check", job(tmp_path, "tiling: {tile: 256}")]) == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./none", "no such folder; a bundle is a folder with"),
        ("nonesuch", "model 'nonesuch': "),
        ("./cardless", "no such file; a model bundle holds"),
    ],
)
def test_a_model_that_is_not_there(
    tmp_path: Path, model: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cardless").mkdir()
    assert main(["check", job(tmp_path, model=model)]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_bundle(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "model.safetensors").write_bytes(b"\x00" * 64)
    assert main(["check", job(tmp_path)]) == 2
    assert "is not a safetensors file" in capsys.readouterr().err


def test_every_problem_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = job(tmp_path, "name: 5\nresample: maybe\nbogus: 1")
    assert main(["check", file]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix(f"geounet: error: {file}:").split(":")[0] for line in lines] == ["3", "4", "5"]
    assert main(["check", file, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err == ""
    assert len(json.loads(captured.out)["errors"]) == 3


def test_scenes_that_are_not_there_yet_are_warned_of(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    scenes = "[a.tif, 'b/*.tif', here, s3://bucket/x.tif, {name: n, files: [c.tif]}]"
    assert main(["check", job(tmp_path, scenes=scenes), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert [w.removeprefix(f"{tmp_path / 'job.yaml'}: ") for w in warnings] == [
        f"scenes[0]: {tmp_path / 'a.tif'}: no such file or folder",
        f"scenes[1]: {tmp_path / 'b/*.tif'}: matches no file",
        f"scenes[4].files: {tmp_path / 'c.tif'}: no such file or folder",
    ]


def test_an_area_of_interest_is_there(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tif").touch()
    file = job(tmp_path, "aoi: d.gpkg")
    assert main(["check", file]) == 2
    said = capsys.readouterr().err
    assert said == f"geounet: error: {file}: aoi: {tmp_path / 'd.gpkg'}: no such file; expected a vector file\n"
    (tmp_path / "d.gpkg").touch()
    assert main(["check", file]) == 0


def test_training_jobs_are_checked_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.yaml"
    text = "classes: [land, building]\ndata:\n  - scenes: a.tif\n    labels: [{files: b.tif}]\n"
    file.write_text(text)
    assert main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{file}: valid · training of model (land, building) from 1 data section(s)\n"
    assert "data[0].scenes: a.tif: matches no file below" in err
    assert "data[0].labels[0].files: b.tif: matches no file below" in err
    file.write_text(text.replace("files:", "file:"))
    assert main(["check", str(file)]) == 2
    assert f"{file}:4: data[0].labels[0].file: unknown key; did you mean" in capsys.readouterr().err


def test_doctor_tells_what_a_run_would_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import rasterio
    import torch

    assert main(["doctor", "--json", str(tmp_path / "not/yet")]) == 0
    result = json.loads(capsys.readouterr().out)
    found = {finding["name"]: finding for finding in result["findings"]}
    assert result["ok"] is True
    assert found["GDAL (rasterio)"]["value"] == rasterio.__gdal_version__
    assert found["torch"]["value"].startswith(torch.__version__)
    assert found["driver GPKG"]["value"] == "present"
    assert found["device"]["value"].startswith("auto → ")
    assert str(tmp_path) in found["disk"]["value"]
    assert "started and answered" in found["cluster"]["value"]
    assert {finding["state"] for finding in result["findings"]} <= {"ok", "warning"}


def test_doctor_says_what_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken_pair(*arguments: Any) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    def no_gdal() -> Any:
        raise ImportError("libexpat.so.1: cannot open shared object file")

    monkeypatch.setattr("torchvision.ops.nms", broken_pair)
    monkeypatch.setattr(doctor, "_gdal", no_gdal)
    monkeypatch.setattr(doctor, "requires", lambda name: ["click>=99", "no-such-package", "absent; extra == 'cuda'"])
    assert main(["doctor", "--quick"]) == 1
    out = capsys.readouterr().out
    assert "BROKEN   torchvision" in out
    assert "operator torchvision::nms does not exist" in out
    assert "install torch and torchvision together, in one command" in out
    assert "ImportError: libexpat.so.1" in out
    assert "libexpat1 may be missing" in out
    assert ">=99 is needed" in out
    assert "pip install 'no-such-package'" in out
    assert "absent" not in out
    assert "started and answered" not in out
    assert out.splitlines()[-1] == "broken: click, no-such-package, gdal, torchvision"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.encoder=resnet19", "model: encoder 'resnet19'"),
        ("model.architecture=Unett", "model: architecture 'Unett'"),
        ("model.start=areial", "model.start: model 'areial'"),
        ("model.start=aerial", "model.start: aerial is Unet with encoder tu-regnetx_008; only"),
    ],
)
def test_networks_and_weights_of_training_jobs_are_checked(
    tmp_path: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("classes: [land, building]\ndata:\n  - scenes: a.tif\n    labels: [{files: b.tif}]\n")
    assert main(["check", str(file), "--json", "--set", setting]) == 2
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert error.startswith(f"{file}: {message}")


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_weights_are_looked_for_before_scenes_are_read(
    tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("classes: [land, building]\ndata:\n  - scenes: none.tif\n    labels: [{files: none.tif}]\n")
    assert main(["train", str(file), *more, "--set", "model.start=areial"]) == 2
    assert "error: model.start: model 'areial': did you mean aerial?" in capsys.readouterr().err
    assert main(["train", str(file), *more, "--set", "model.start=aerial"]) == 1
    assert "only 38 of the network's" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["s.tif", "s.tif/x"])
def test_doctor_says_that_a_file_is_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "s.tif").touch()
    found = {finding.name: finding for finding in doctor._machine(tmp_path / name)}["output folder"]
    assert (found.state, found.value) == ("warning", f"{tmp_path / 's.tif'} is no folder")
    assert found.advice


def test_doctor_names_the_folder_asked_for(tmp_path: Path) -> None:
    for folder, value in ((tmp_path, str(tmp_path)), (tmp_path / "not/yet", f"{tmp_path / 'not/yet'}, to be made")):
        found = {finding.name: finding for finding in doctor._machine(folder)}["output folder"]
        assert (found.state, found.value) == ("ok", value)
