"""`geounet train` in real processes: killed, interrupted, resumed, refused, and two that train together."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from geounet.batch.lock import locked
from geounet.cli.main import main
from geounet.models.bundle import load_bundle
from geounet.training.log import read_log
from geounet.training.state import load_state

pytestmark = pytest.mark.slow

STEPS = 24
JOB = f"""
name: tiny
classes: [land, building, road]
data:
- generated:
    seeds: [0, 3]
    size: 256
    values: {{land: land, building: building, road: road, vegetation: land, water: land}}
split: {{validation: 0.25, block: 256}}
sampling: {{size: 64, batch: 2}}
augment: {{scale: [0.8, 1.25], brightness: [-0.1, 0.1]}}
model:
  architecture: FPN
  encoder: tu-mobilenetv3_small_050
  arguments: {{decoder_pyramid_channels: 32, decoder_segmentation_channels: 32}}
optimiser: {{average: 0.9}}
run: {{steps: {STEPS}, epoch: 8, device: cpu, precision: fp32, threads: 1, pictures: 2}}
"""
KILLS = int(os.environ.get("GEOUNET_KILLS", "2"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jobs") / "train.yaml"
    path.write_text(JOB)
    return path


def arguments(job: Path, out: Path, *more: str) -> list[str]:
    return ["train", str(job), "--out", str(out), *more]


def process(job: Path, out: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_"))}
    command = [sys.executable, "-m", "geounet", *arguments(job, out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Training in this process sets torch's threads; other tests have their own idea of them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def reference(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "out"
    assert main(arguments(job, out)) == 0
    return out


def wait_for(run: subprocess.Popen[str], out: Path, step: int) -> None:
    """Return when a training has logged a validation at `step` or later."""
    deadline = time.monotonic() + 120
    while not entries(out) or entries(out)[-1]["step"] < step:
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def entries(out: Path) -> list[dict[str, Any]]:
    return read_log(out / "log.jsonl")


def test_what_a_training_leaves(reference: Path) -> None:
    names = {p.name for p in reference.iterdir()}
    assert names == {"checkpoints", "curves.png", "log.jsonl", "model", "samples", "training.json"}
    assert {p.name for p in (reference / "checkpoints").iterdir()} == {
        "best.safetensors", "last.pt", "last.safetensors", "lock", "record.json",
    }  # fmt: skip
    assert [e["step"] for e in entries(reference)] == [8, 16, 24]
    assert sorted(p.name for p in (reference / "samples").iterdir()) == [f"step_{k:06d}.png" for k in (8, 16, 24)]
    card = load_bundle(reference / "model").card
    assert card.name == "tiny"
    assert card.metrics["measured_on"] == "validation"
    assert set(card.metrics["iou"]) == {"land", "building", "road"}
    assert card.training["steps"] == STEPS
    assert card.training["initialisation"] == "random"
    assert all(30 < s.mean < 200 for s in card.input.value_scaling)


def test_a_finished_training_is_left_alone(reference: Path, job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in reference.rglob("*") if p.is_file() and p.name != "lock"}
    assert main(arguments(job, reference, "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["unchanged"] is True
    assert said["sha256"] == load_bundle(reference / "model").sha256
    assert before == {p: p.stat().st_mtime_ns for p in reference.rglob("*") if p.is_file() and p.name != "lock"}


def test_another_job_is_refused(reference: Path, job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(job, reference, "--set", "optimiser.rate=0.5")) == 2
    said = capsys.readouterr().err
    assert "finished training of another job" in said
    assert "--overwrite" in said


def test_two_at_once(reference: Path, job: Path) -> None:
    with locked(reference / "checkpoints"):
        assert main(arguments(job, reference)) == 75


@pytest.mark.parametrize("kill", range(KILLS))
def test_stopped_and_killed_it_ends_with_the_same_weights(
    reference: Path, job: Path, tmp_path: Path, kill: int
) -> None:
    """Stopped within the second epoch, killed anywhere in what is left, then run to the end."""
    out = tmp_path / "out"
    number, code = [(signal.SIGTERM, 143), (signal.SIGINT, 130)][kill % 2]
    stopped = process(job, out)
    wait_for(stopped, out, 8)
    stopped.send_signal(number)
    said = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == code, said
    assert "Traceback" not in said
    state = load_state(out / "checkpoints")
    assert state is not None
    assert 8 <= state["step"] < STEPS

    killed = process(job, out)
    rng = random.Random(kill)
    wait_for(killed, out, rng.choice([8, 16]))
    time.sleep(rng.uniform(0, 0.4))
    killed.kill()
    killed.communicate()

    assert main(arguments(job, out)) == 0
    assert weights(out) == weights(reference)
    for ours, theirs in zip(entries(out), entries(reference), strict=True):
        measured = set(ours) - {"seconds", "windows_per_s", "waiting"}
        assert {k: ours[k] for k in measured} == {k: theirs[k] for k in measured}


def test_two_processes_train_one_network(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "geounet"]
    more = arguments(job, out, "--json", "--set", "run.steps=8", "--set", "run.epoch=4")
    done = subprocess.run([*torchrun, *more], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert 0 < said["metrics"]["miou"] < 1
    assert [e["step"] for e in entries(out)] == [4, 8]
    assert load_bundle(out / "model").card.training["processes"] == 2
