"""Networks as their library builds them, made ready in two steps, and learning: what each step brings."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.harness import ROOT, Row, note, report
from benchmarks.material import random_model
from benchmarks.training import Contender

TILE = 1152
"""Side of a tile, px."""
JOB = ROOT / "workflows" / "train_quick.yaml"
_LOOKED_AT = ("geounet.models.prepare.pays", "geounet.training.loop.pays")
"""Who asks whether convolving before the doubling pays."""


def _after_doubling(where: str) -> AbstractContextManager[Any]:
    return patch(where, return_value=False)


def _seconds(once: Callable[[], Any], repeats: int) -> list[float]:
    once()  # the first chooses kernels
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)
    return times


def inference(model: str, precision: str, repeats: int) -> Row:
    """Return the seconds that a tile takes in one thread."""
    import torch

    from geounet.models.bundle import load_bundle
    from geounet.models.network import load
    from geounet.models.prepare import prepare

    bundle = load_bundle(model)
    bands, dtype = len(bundle.card.input.bands), torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    small, tile = (torch.randn((1, bands, side, side), generator=generator) for side in (64, TILE))
    with _after_doubling(_LOOKED_AT[0]):
        folded = prepare(load(bundle).eval(), dtype, small)
    networks = {
        "as built, s": (load(bundle).eval(), tile),
        "folded, s": (folded, tile.contiguous(memory_format=torch.channels_last)),
        "before the doubling, s": (
            prepare(load(bundle).eval(), dtype, small), tile.contiguous(memory_format=torch.channels_last)
        ),
    }  # fmt: skip
    found: Row = {"network": f"{bundle.card.name}, {precision}"}
    for name, (network, given) in networks.items():
        note(f"{found['network']}: {name}")
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found[name] = round(min(_seconds(lambda n=network, g=given: n(g), repeats)), 3)  # type: ignore[misc]
    return found


def learning(precision: str, steps: int, repeats: int, job: Path = JOB) -> Row:
    """Return the seconds that a step of training takes with all threads, fed from memory."""
    from geounet.config.train import load_train

    windows = load_train(job).sampling
    found: Row = {"training": f"{job.stem}, {precision}", "batch": f"{windows.batch} × {windows.size} px"}
    settings = (f"run.precision={precision}",)
    with _after_doubling(_LOOKED_AT[1]):
        contenders = {"after the doubling, s": Contender(job, None, settings)}
    data = contenders["after the doubling, s"].data
    contenders["before the doubling, s"] = Contender(job, None, settings, data)
    batches = {k: itertools.cycle([c.data.train.batch(n) for n in range(4)]) for k, c in contenders.items()}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for name, contender in contenders.items():
        contender.rate(batches[name], 2)
    for turn in range(repeats):  # in turn, because the machine may have other work
        note(f"{found['training']}: {turn + 1} of {repeats}")
        for name, contender in contenders.items():
            rates[name].append(contender.rate(batches[name], steps))
    return found | {name: round(windows.batch / statistics.median(rate), 3) for name, rate in rates.items()}


def run(work: Path, out: Path | None, *, repeats: int = 3, steps: int = 5, job: Path = JOB) -> dict[str, Any]:
    """Measure and report."""
    import torch

    from geounet.models.device import cpu_has_bf16

    precisions = ["fp32", *(["bf16"] if cpu_has_bf16() else [])]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    models = (str(random_model(work)), "aerial")
    tiles = [inference(model, precision, repeats) for model in models for precision in precisions]
    torch.set_num_threads(threads)
    learnt = [learning(precision, steps, repeats, job) for precision in precisions]
    return report("network", {f"a tile of {TILE} px, one thread": tiles, "a step of training": learnt}, out)
