"""`geounet train --folds` in real processes: killed between and within folds, and two that train together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geounet.models.bundle import load_bundle
from geounet.training.log import read_log

pytestmark = pytest.mark.slow

JOB = """
name: tiny
classes: [land, building, road]
data:
- generated:
    seeds: [0, 1]
    size: 192
    values: {land: land, building: building, road: road, vegetation: land, water: land}
split: {block: 96}
sampling: {size: 32, batch: 2}
model: {architecture: ResUnet, arguments: {width: 4, depth: 2}}
run: {steps: 12, epoch: 2, device: cpu, precision: fp32, threads: 1, pictures: 0}
"""
COMMAND = [sys.executable, "-m", "geounet", "train"]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jobs") / "train.yaml"
    path.write_text(JOB)
    return path


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_"))}


def test_killed_in_its_second_fold_it_goes_on(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, str(job), "--folds", "2", "--out", str(out)]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment())
    deadline = time.monotonic() + 120
    while not read_log(out / "fold_1" / "log.jsonl"):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.kill()
    run.wait()
    first = (out / "fold_0" / "model" / "model.safetensors").stat().st_mtime_ns
    assert not (out / "model").exists()
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, env=environment(), timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (out / "fold_0" / "model" / "model.safetensors").stat().st_mtime_ns == first
    assert json.loads(done.stdout)["sha256"] == load_bundle(out / "model").sha256


def test_two_processes_train_all_folds(job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "geounet"]
    more = ["train", str(job), "--folds", "2", "--out", str(out), "--json", "--set", "run.steps=4"]
    done = subprocess.run([*torchrun, *more], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["sha256"] == load_bundle(out / "model").sha256
    assert [m.card.training["processes"] for m in load_bundle(out / "model").members] == [2, 2]
