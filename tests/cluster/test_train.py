"""`geounet train` in real processes: killed, interrupted, resumed, refused, and two that train together."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from geounet.models.bundle import load_bundle
from geounet.training.log import read_log

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


def command(job: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "geounet", "train", str(job), "--out", str(out), *more]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_"))}


def run(job: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(job, out, *more), capture_output=True, text=True, timeout=300, check=False, env=environment()
    )


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def reference(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "out"
    done = run(job, out)
    assert done.returncode == 0, done.stderr
    assert "validation mIoU" in done.stderr
    return out


def begun(job: Path, out: Path, step: int) -> subprocess.Popen[str]:
    """Start a training, and return when it is past a step."""
    process = subprocess.Popen(command(job, out), stderr=subprocess.PIPE, text=True, env=environment())
    deadline = time.monotonic() + 120
    while not entries(out) or entries(out)[-1]["step"] < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def entries(out: Path) -> list[dict[str, Any]]:
    return read_log(out / "log.jsonl")


def test_what_a_training_leaves(reference: Path, job: Path) -> None:
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
    assert card.training["command"].startswith("geounet train train.yaml")
    assert card.training["initialisation"] == "random"
    assert all(30 < s.mean < 200 for s in card.input.value_scaling)


def test_a_finished_training_is_left_alone(reference: Path, job: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in reference.rglob("*") if p.is_file() and p.name != "lock"}
    done = run(job, reference, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["unchanged"] is True
    assert said["sha256"] == load_bundle(reference / "model").sha256
    assert before == {p: p.stat().st_mtime_ns for p in reference.rglob("*") if p.is_file() and p.name != "lock"}


def test_another_job_is_refused(reference: Path, job: Path) -> None:
    done = run(job, reference, "--set", "optimiser.rate=0.5")
    assert done.returncode == 2
    assert "finished training of another job" in done.stderr
    assert "--overwrite" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("kill", range(KILLS))
def test_killed_anywhere_it_ends_with_the_same_weights(reference: Path, job: Path, tmp_path: Path, kill: int) -> None:
    """Killed within the second, and within the third epoch."""
    out = tmp_path / "out"
    for epoch in (8, 16):
        process = begun(job, out, epoch)
        time.sleep(random.Random(kill).uniform(0, 0.4))
        process.kill()
        process.communicate()
    done = run(job, out)
    assert done.returncode == 0, done.stderr
    assert weights(out) == weights(reference)
    for ours, theirs in zip(entries(out), entries(reference), strict=True):
        measured = set(ours) - {"seconds", "windows_per_s", "waiting"}
        assert {k: ours[k] for k in measured} == {k: theirs[k] for k in measured}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_goes_on(reference: Path, job: Path, tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "out"
    process = begun(job, out, 8)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert not (out / "training.json").exists()
    done = run(job, out)
    assert done.returncode == 0, done.stderr
    assert "goes on at step" in done.stderr
    assert weights(out) == weights(reference)


def test_two_at_once(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = begun(job, out, 8)
    done = run(job, out)
    assert done.returncode == 75, done.stderr
    process.kill()
    process.communicate()


def test_two_processes_train_one_network(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    arguments = command(job, out, "--json", "--set", "run.steps=8", "--set", "run.epoch=4")[2:]
    done = subprocess.run(
        [*torchrun, *arguments], capture_output=True, text=True, timeout=300, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert 0 < said["metrics"]["miou"] < 1
    assert [e["step"] for e in entries(out)] == [4, 8]
    assert load_bundle(out / "model").card.training["processes"] == 2
