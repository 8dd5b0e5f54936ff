"""A whole training in this process: what the card says, and jobs that are refused before anything is learnt."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import geounet
from geounet.cli.train import scores, table
from geounet.config.train import TrainJob
from geounet.errors import JobError, OutputExistsError
from geounet.training import run as module
from geounet.training.about import fingerprint
from geounet.training.log import read_log
from geounet.training.plan import plan
from geounet.training.record import continued
from geounet.training.run import class_weights, train
from geounet.training.state import load_state

LAND = {"land": "land", "building": "building", "road": "land", "vegetation": "land", "water": "land"}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def job(out: Path, **more: Any) -> TrainJob:
    content: dict[str, Any] = {
        "name": "tiny",
        "out": str(out),
        "licence": "MIT",
        "attribution": ["nobody's"],
        "description": "for a test",
        "classes": ["land", "building"],
        "data": [{"generated": {"seeds": [0, 2], "size": 128, "values": LAND}}],
        "split": {"validation": ["generated/1"], "test": ["generated/2"]},
        "sampling": {"size": 64, "batch": 2, "statistics": 8},
        "model": {
            "architecture": "FPN",
            "encoder": "tu-mobilenetv3_small_050",
            "arguments": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
        },
        "run": {"steps": 4, "epoch": 2, "device": "cpu", "precision": "fp32", "threads": 1, "pictures": 1},
    }
    for key, value in more.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return TrainJob.model_validate(content)


def test_no_dropout_is_another_training_than_the_networks_own(tmp_path: Path) -> None:
    data: Any = SimpleNamespace(scenes={}, ranges=SimpleNamespace(mean=(), stddev=()), tallies=())
    marks = [fingerprint(job(tmp_path, model={"dropout": rate}), data) for rate in (None, 0.0, 0.2)]
    assert len(set(marks)) == 3
    assert marks[0] == fingerprint(job(tmp_path), data)


def test_a_training_and_its_card(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "geounet")
    seen = []

    class Progress:
        def update(self, stage: str, done: int, total: int, extra: str = "", pixels: int = 0) -> None:
            seen.append((stage, done, total, extra, pixels))

    result = geounet.train(job(tmp_path / "out"), Progress())
    assert "generated, train: 1 scene, 100 % of the windows, 0.02 Mpx labelled (land " in caplog.text
    assert "step 4 of 4: loss " in caplog.text
    assert not result.unchanged
    assert seen[0][:3] == ("steps", 1, 4)
    assert seen[0][3].startswith("loss ")
    assert seen[0][4] == 2 * 64 * 64
    card = result.bundle.card
    assert card.description == "for a test"
    assert card.licence == "MIT"
    assert card.gsd == 0.3
    assert card.metrics == result.metrics
    assert card.metrics["measured_on"] == "test"
    assert card.metrics["pixels"] == card.metrics["validation"]["pixels"] == 128 * 128
    assert set(card.metrics["iou"]) == {"land", "building"}
    training = card.training
    assert training["attribution"] == ["nobody's"]
    assert training["scenes"] == {
        "train": ["generated/0"], "validation": ["generated/1"], "test": ["generated/2"],
    }  # fmt: skip
    assert training["windows"] == 8
    assert training["loss"] == "1 cross-entropy + 1 dice"
    assert training["versions"]["torch"] == torch.__version__.split("+")[0]
    assert str(tmp_path) not in card.model_dump_json()
    # the best validation is what was kept
    entries = read_log(tmp_path / "out" / "log.jsonl")
    best = max(entries, key=lambda e: e["miou"])
    assert training["best_step"] == best["step"]
    assert card.metrics["validation"]["miou"] == pytest.approx(best["miou"], abs=0.01)  # in half precision
    mask = geounet.load_model(result.bundle.folder).predict(np.full((3, 64, 64), 100, np.uint8))
    assert set(np.unique(mask)) <= {0, 1}
    text = "\n".join(scores(card.metrics))
    assert "on test windows: mIoU" in text
    assert "building" in text

    # other classes, another job
    with pytest.raises(OutputExistsError, match="finished training of another job"):
        train(job(tmp_path / "out", optimiser={"rate": 0.1}))
    # a copy elsewhere, other names and pictures: the same
    again = train(job(tmp_path / "out", run={"pictures": 0, "overwrite": True}))
    assert again.unchanged
    other = train(job(tmp_path / "out", run={"overwrite": True, "steps": 2}))
    assert not other.unchanged
    assert [e["step"] for e in read_log(tmp_path / "out" / "log.jsonl")] == [2]


def test_a_binary_network_without_validation(tmp_path: Path) -> None:
    """One sigmoid channel; nothing is held out, so the last weights are kept."""
    result = train(
        job(
            tmp_path / "out",
            classes=["building"],
            data=[{"generated": {"seeds": [0, 0], "size": 128, "values": {**dict.fromkeys(LAND, "background"),
                                                                          "building": "building"}}}],
            split={"validation": None, "test": None},
            model={"activation": "sigmoid"},
            loss={"terms": [{"name": "binary-cross-entropy"}, {"name": "lovasz", "weight": 0.5}]},
            run={"precision": "bf16"},
        )
    )  # fmt: skip
    assert result.metrics == {}
    assert scores(result.metrics) == []
    assert result.bundle.card.head == "binary"
    assert result.bundle.card.training["best_step"] == 4
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "checkpoints", "curves.png", "log.jsonl", "model", "training.json",
    }  # fmt: skip
    state = load_state(tmp_path / "out" / "checkpoints")
    assert state is not None
    assert state["best_step"] == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"split": {"validation": None, "test": None}, "run": {"patience": 2}}, "nothing is held out to validate on"),
        ({"loss": {"terms": [{"name": "binary-cross-entropy"}]}}, "is for activation sigmoid"),
        ({"sampling": {"size": 72}}, r"sampling.size: found 72, FPN .* takes multiples of 32: 64 or 96"),
        ({"model": {"dropout": 0.1, "architecture": "Unet", "encoder": "resnet18", "arguments": {}}}, "has no dropout"),
    ],
)
def test_jobs_that_contradict_themselves(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        train(job(tmp_path / "out", **more))
    assert not (tmp_path / "out" / "model").exists()


def test_another_number_of_processes_or_device(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = {"processes": 1, "device": "cpu", "precision": "fp32", "threads": 2, "fingerprint": "f"}
    known = {**now, "threads": 4, "precision": "bf16"}
    assert continued(tmp_path, known, now) == known
    elsewhere = {**known, "device": "cuda", "precision": "fp16"}
    assert continued(tmp_path, elsewhere, now) == {**known, "precision": "fp32", "threads": 2}
    assert "begun on cuda, goes on on cpu" in caplog.text
    with pytest.raises(JobError, match="begun by 2 processes, found 1"):
        continued(tmp_path, {**known, "processes": 2}, now)


def test_stopped_while_the_bundle_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start measures again; until then the training is not done."""
    original = module.measure
    calls = []

    def measure(*arguments: Any) -> Any:
        calls.append(len(calls))
        return None if len(calls) == 3 else original(*arguments)

    monkeypatch.setattr(module, "measure", measure)
    with pytest.raises(AssertionError, match="ends with its signal"):  # here without one
        train(job(tmp_path / "out"))
    assert not (tmp_path / "out" / "training.json").exists()
    result = train(job(tmp_path / "out"))
    assert not result.unchanged
    assert result.metrics["measured_on"] == "test"
    assert len(calls) == 5, "two validations, one that was stopped, and two more of the stored weights"


def test_class_weights(tmp_path: Path) -> None:
    counts = np.zeros(256, np.int64)
    counts[:2] = [900, 100]
    assert class_weights(job(tmp_path), counts) is None
    # 1/sqrt(0.9) : 1/sqrt(0.1) = 1 : 3, with a mean of 1
    assert class_weights(job(tmp_path, loss={"class_weights": "balanced"}), counts) == pytest.approx([0.5, 1.5])
    given = job(tmp_path, loss={"class_weights": {"building": 4.0}})
    assert class_weights(given, counts) == [1.0, 4.0]


def test_a_plan_counts_what_a_training_would_see(tmp_path: Path) -> None:
    found = plan(job(tmp_path / "out", loss={"class_weights": "balanced"}))
    assert found["windows"] == {"size": 64, "train": 8, "passes": 2.0, "validation": 4, "test": 4}
    assert found["validations"] == 2
    assert [(row["side"], sum(row["pixels"].values())) for row in found["labels"]] == [
        ("train", 128 * 128), ("validation", 128 * 128), ("test", 128 * 128),
    ]  # fmt: skip
    text = "\n".join(table(found))
    assert "generated, train" in text
    assert "8 windows of 64 px (2 passes over the labelled pixels)" in text
    assert not (tmp_path / "out").exists()


def test_a_finished_training_is_known_without_its_checkpoints(tmp_path: Path) -> None:
    done = train(job(tmp_path / "out"))
    weights = done.bundle.weights.read_bytes()
    shutil.rmtree(tmp_path / "out" / "checkpoints")
    assert train(job(tmp_path / "out")).unchanged
    with pytest.raises(OutputExistsError, match="finished training of another job"):
        train(job(tmp_path / "out", run={"steps": 2, "epoch": 1}))
    assert done.bundle.weights.read_bytes() == weights
    other = train(job(tmp_path / "out", run={"steps": 2, "epoch": 1, "overwrite": True}))
    assert not other.unchanged
    assert other.bundle.card.training["steps"] == 2


def test_weights_to_start_from_are_known_by_their_content(tmp_path: Path) -> None:
    start = train(job(tmp_path / "first")).folder / "checkpoints" / "last.safetensors"
    begun = train(job(tmp_path / "out", model={"start": str(start)}))
    assert train(job(tmp_path / "out", model={"start": str(start)})).unchanged
    again = train(job(tmp_path / "again", run={"seed": 5})).folder / "checkpoints" / "last.safetensors"
    assert again.read_bytes() != start.read_bytes()
    start.write_bytes(again.read_bytes())
    with pytest.raises(OutputExistsError, match="another job, or of other data"):
        train(job(tmp_path / "out", model={"start": str(start)}))
    assert begun.bundle.weights.exists()
