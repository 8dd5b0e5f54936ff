"""`geounet train --folds`: every block validates once; what is left of it is a table and one model."""

from __future__ import annotations

import json
import logging
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import geounet
from geounet.cli.main import main
from geounet.config.train import load_train
from geounet.errors import LabelError, ModelError
from geounet.models.bundle import load_bundle
from geounet.training import folds as module
from geounet.training.dataset import check_folds
from geounet.training.folds import summarised, table, train_folds
from geounet.training.gather import gather
from geounet.training.plan import plan
from tests.support.rasters import noise, write

JOB = """
name: tiny
classes: [land, building, road]
data:
- generated:
    seeds: [0, 2]
    size: 192
    values: {land: land, building: building, road: road, vegetation: land, water: land}
split: {block: 96}
sampling: {size: 32, batch: 2}
model: {architecture: ResUnet, arguments: {width: 4, depth: 2}}
run: {steps: 6, epoch: 3, device: cpu, precision: fp32, threads: 1, pictures: 0}
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads, root = torch.get_num_threads(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    torch.set_num_threads(threads)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("geounet").setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jobs") / "train.yaml"
    path.write_text(JOB)
    return path


@pytest.fixture(scope="module")
def done(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folds") / "out"
    assert main(["train", str(job), "--folds", "3", "--out", str(out), "--quiet"]) == 0
    return out


def test_every_block_validates_once(done: Path) -> None:
    summary = json.loads((done / "folds.json").read_text())
    assert [entry["folder"] for entry in summary["folds"]] == ["fold_0", "fold_1", "fold_2"]
    assert sum(entry["pixels"] for entry in summary["folds"]) == 3 * 192 * 192
    assert summary["split"] == {"folds": 3, "block": 96, "margin": 0, "seed": 0}
    means = [load_bundle(done / f"fold_{k}" / "model").card.input.value_scaling[0].mean for k in range(3)]
    assert len(set(means)) == 3, "each fold is normalised by its own training pixels"


def test_mean_and_spread_are_those_of_the_folds(done: Path) -> None:
    summary = json.loads((done / "folds.json").read_text())
    scores = [load_bundle(done / f"fold_{k}" / "model").card.metrics for k in range(3)]
    assert summary["mean"]["miou"] == pytest.approx(statistics.mean(s["miou"] for s in scores), abs=1e-4)
    assert summary["spread"]["iou"]["land"] == pytest.approx(
        statistics.stdev(s["iou"]["land"] for s in scores), abs=1e-4
    )
    card = load_bundle(done / "model").card
    assert card.metrics["miou"] == summary["mean"]["miou"]
    assert card.metrics["measured_on"] == "validation of 3 folds"


def test_the_ensemble_is_one_model(done: Path) -> None:
    array = np.random.default_rng(0).integers(20, 250, (3, 48, 40)).astype(np.uint8)
    options = {"device": "cpu", "precision": "fp32"}
    alone = [geounet.load_model(done / f"fold_{k}" / "model", **options).probabilities(array) for k in range(3)]
    model = geounet.load_model(done / "model", **options)
    assert (model.card.name, model.card.members) == ("tiny", ["fold_0", "fold_1", "fold_2"])
    np.testing.assert_allclose(model.probabilities(array), np.mean(alone, axis=0), atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


def test_finished_folds_are_left_alone(done: Path, job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file() and p.name != "lock"}
    assert main(["train", str(job), "--folds", "3", "--out", str(done), "--json", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["unchanged"] is True
    assert said["sha256"] == load_bundle(done / "model").sha256
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*") if p.is_file() and p.name != "lock"} == before


def test_a_stopped_cross_validation_goes_on(
    done: Path, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["train", str(job), "--folds", "3", "--out", str(out), "--quiet"]
    real = module.train_on
    trained: list[tuple[int, bool]] = []

    def stopping(one: Any, *more: Any) -> Any:
        if one.split.fold == 1:
            raise ModelError("stopped here")
        return real(one, *more)

    def recording(one: Any, *more: Any) -> Any:
        result = real(one, *more)
        trained.append((one.split.fold, result.unchanged))
        return result

    monkeypatch.setattr(module, "train_on", stopping)
    assert main(arguments) == 1
    assert "stopped here" in capsys.readouterr().err
    assert not (out / "folds.json").exists()
    assert not (out / "model").exists()
    monkeypatch.setattr(module, "train_on", recording)
    assert main(arguments) == 0
    assert trained == [(0, True), (1, False), (2, False)]
    for k in range(3):
        weights = [p / f"fold_{k}" / "model" / "model.safetensors" for p in (out, done)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_another_number_of_folds_is_another_training(done: Path, job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(job), "--folds", "2", "--out", str(done), "--quiet"]) == 2
    assert "holds the finished training of another job" in capsys.readouterr().err


def test_a_training_without_folds_does_not_replace_them(
    done: Path, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_bundle(done / "model").sha256
    assert main(["train", str(job), "--out", str(done), "--quiet"]) == 2
    assert "holds a cross-validation; choose another folder" in capsys.readouterr().err
    assert load_bundle(done / "model").sha256 == before


@pytest.mark.parametrize("more", [[], ["--folds", "2"]])
def test_a_model_that_no_training_made_is_not_replaced(
    done: Path, job: Path, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done / "fold_0" / "model", tmp_path / "out" / "model")
    assert main(["train", str(job), "--out", str(tmp_path / "out"), "--quiet", *more]) == 2
    assert "holds a model that no training made (model)" in capsys.readouterr().err


RARE = """
name: rare
classes: [land, building]
root: {root}
data: [{{scenes: s.tif, labels: [{{files: labels.tif}}]}}]
split: {{block: 96, folds: 4{more}}}
sampling: {{size: 32, batch: 2, statistics: 4}}
model: {{architecture: ResUnet, arguments: {{width: 4, depth: 2}}}}
run: {{steps: 2, epoch: 2, device: cpu, precision: fp32, threads: 1, pictures: 0}}
"""


def rare(root: Path, more: str = "") -> Path:
    """A scene of sixteen blocks, one of which has buildings."""
    labels = np.zeros((1, 384, 384), dtype=np.uint8)
    labels[:, 120:140, 220:250] = 1
    write(root / "s.tif", noise(3, 384, 384))
    write(root / "labels.tif", labels)
    path = root / "rare.yaml"
    path.write_text(RARE.format(root=root, more=more))
    return path


def test_a_class_in_one_block_is_told_before_any_fold_learns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = load_train(rare(tmp_path))
    caplog.set_level("INFO", "geounet")
    plan(spec)
    said = [r.getMessage() for r in caplog.records if "so this fold does not learn it" in r.getMessage()]
    assert len(said) == 1
    assert "of 4: class building: all pixels of it are held out for validation, " in said[0]
    caplog.clear()
    result = train_folds(spec)
    lines = [r.getMessage() for r in caplog.records]
    assert lines.index(said[0]) < lines.index("rare: fold 1 of 4")
    assert lines.count("rare: reading scenes and labels") == 1
    assert len(result.bundle.members) == 4


def test_a_class_that_no_fold_can_learn_is_an_error_before_any(tmp_path: Path) -> None:
    for seed in range(60):
        spec = load_train(rare(tmp_path, f", test: 0.1, seed: {seed}"), [f"out={tmp_path / 'out'}"])
        try:
            check_folds(spec, gather(spec))
        except LabelError:
            break
    for attempt in (plan, train_folds):
        with pytest.raises(LabelError, match=r"class building: no pixel of it in the labels to train on \(all are held "
                                             r"out for test\)"):  # fmt: skip
            attempt(spec)
    assert not list(tmp_path.glob("out/fold_*"))


def test_mistakes(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, words in (
        (["--folds", "1"], 2, "--folds"),
        (["--folds", "3", "--set", "split.validation=0.2"], 2, "found validation and folds, expected one of them"),
        (["--folds", "40"], 2, "too few"),
    ):
        assert main(["train", str(job), "--out", str(tmp_path / "out"), "--quiet", *arguments]) == code, arguments
        assert words in capsys.readouterr().err
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "training.json").write_text("{}")
    assert main(["train", str(job), "--out", str(tmp_path / "single"), "--quiet", "--folds", "3"]) == 2
    assert "holds a training without folds" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no split\.folds"):
        train_folds(load_train(job))


def test_classes_that_a_fold_lacks_are_left_out(job: Path) -> None:
    """Mean and spread are over the folds that know a measure; measures of the test side are kept apart."""

    def result(k: int, road: float | None, test: float) -> Any:
        own = {"miou": 0.1 * k, "accuracy": 0.5, "iou": {"land": 0.5, "road": road}, "precision": {}, "recall": {}}
        over = {**own, "miou": test}
        bundle = SimpleNamespace(sha256=str(k), card=SimpleNamespace(training={}))
        metrics = {"measured_on": "test", **over, "validation": own}
        return SimpleNamespace(metrics=metrics, bundle=bundle, folder=Path(f"fold_{k}"))

    results: Any = [result(0, None, 0.3), result(1, 0.2, 0.5), result(2, 0.6, 0.7)]
    summary = summarised(load_train(job, ["split.folds=3"]), results)
    assert summary["mean"]["miou"] == 0.1
    assert summary["spread"]["miou"] == 0.1
    assert summary["mean"]["iou"] == {"land": 0.5, "road": 0.4}
    assert summary["spread"]["iou"] == {"land": 0.0, "road": 0.2828}
    assert summary["test"]["mean"]["miou"] == 0.5
    assert summary["test"]["spread"]["miou"] == 0.2
    lines = table(summary)
    assert lines[1].split() == ["fold_0", "0.000", "0.500", "0.500", "–"]
    assert lines[4].split() == ["mean", "0.100", "0.500", "0.500", "0.400"]
    assert lines[-1] == "on what no fold saw: mIoU 0.500 ± 0.200, pixel accuracy 0.500"
