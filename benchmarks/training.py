"""Training: windows per second out of scenes, against the same network fed with the same batches from memory.

Beside it the same from memory in a process that gives freed memory back to the system, as the C library does by itself.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import ROOT, Row, note, report
from benchmarks.material import shared

if TYPE_CHECKING:
    from geounet.training.dataset import Dataset

JOBS = ("train_quick", "train_aerial")
"""Job files of `workflows/`; those that need imagery that is not there are left out."""


class Contender:
    """A network that learns from a job's windows."""

    def __init__(
        self, job: Path, threads: int | None, overrides: Sequence[str] = (), data: Dataset | None = None
    ) -> None:
        import torch

        from geounet.config.train import load_train
        from geounet.models.device import resolve
        from geounet.training import about
        from geounet.training.dataset import load_data
        from geounet.training.loop import Trainer
        from geounet.training.losses import Term, build
        from geounet.training.ranks import Ranks
        from geounet.training.run import recipe_of, threads_of
        from geounet.training.start import start

        self.job = load_train(job, overrides)
        note(f"{job.stem}: data")
        self.data = data or load_data(self.job)
        self.card = about.card_of(self.job, self.data)
        device, self.precision = resolve(self.job.run.device, self.job.run.precision)
        if device == "cpu":
            torch.set_num_threads(threads or threads_of(self.job))
        network, _ = start(self.job, self.card)
        terms = [Term(t.name, t.weight, t.options()) for t in self.job.terms()]
        loss = build(terms, [c.code for c in self.card.classes], self.card.head)
        self.trainer = Trainer(
            network, loss, recipe_of(self.job, self.precision, self.data.partial), Ranks(device=device)
        )

    def rate(self, batches: Iterator[Any], steps: int) -> float:
        """Return windows per second over some steps."""
        started = time.perf_counter()
        for _ in range(steps):
            self.trainer.learn(batches)
        self.trainer.mean_loss()  # waits for the device
        return steps * self.job.sampling.batch * self.job.optimiser.accumulate / (time.perf_counter() - started)


def measured(job: Path, steps: int, repeats: int, threads: int | None) -> Row:
    """Return the rates of a job file; both ways take turns, because the machine may have other work."""
    from geounet.training.run import closed
    from geounet.training.samples import Prefetch

    contender = Contender(job, threads)
    sampling = contender.job.sampling
    kept = [contender.data.train.batch(k) for k in range(8)]
    memory = itertools.cycle(kept)
    ahead = Prefetch(contender.data.train.batch, 0, 10**9, sampling.threads, sampling.ahead)
    rates: dict[str, list[float]] = {"memory": [], "scenes": []}
    contender.rate(memory, 2)  # the first steps choose kernels
    with closed(ahead) as scenes:
        contender.rate(scenes, 2)
        waited, busy, learning = contender.trainer.waited, 0.0, 0.0
        for turn in range(repeats):
            note(f"{job.stem}: {turn + 1} of {repeats}")
            worked = time.process_time()
            rates["memory"].append(contender.rate(memory, steps))
            learning += time.process_time() - worked
            started = time.perf_counter()
            rates["scenes"].append(contender.rate(scenes, steps))
            busy += time.perf_counter() - started
        waited = contender.trainer.waited - waited
    # processor time, which other work on the machine hardly changes
    preparing = time.process_time()
    for k in range(1000, 1000 + steps):
        contender.data.train.batch(k)
    preparing = (time.process_time() - preparing) / steps
    learning /= repeats * steps * contender.job.optimiser.accumulate
    memory_rate, scene_rate = (statistics.median(rates[key]) for key in ("memory", "scenes"))
    return {
        "job": job.stem,
        "network": contender.card.network,
        "precision": contender.precision,
        "batch": f"{sampling.batch} × {sampling.size} px",
        "from memory, windows/s": round(memory_rate, 2),
        "from scenes, windows/s": round(scene_rate, 2),
        "slower %": round(100 * (1 - scene_rate / memory_rate), 1),
        "waiting for data %": round(100 * waited / busy, 2),
        "preparing a batch, processor ms": round(1000 * preparing),
        "learning from it, processor ms": round(1000 * learning),
        "preparing % of both": round(100 * preparing / (preparing + learning), 1),
    }


def given_back(job: Path, steps: int, repeats: int, threads: int | None) -> float:
    """Return the rate from memory of a process whose C library is left as it is."""
    contender = Contender(job, threads)
    memory = itertools.cycle([contender.data.train.batch(k) for k in range(8)])
    contender.rate(memory, 2)
    return statistics.median(contender.rate(memory, steps) for _ in range(repeats))


def run(
    work: Path, out: Path | None, *, repeats: int = 5, steps: int = 8, jobs: tuple[str, ...] = JOBS,
    threads: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure and report; `steps` of each way are taken in turn, `repeats` times."""
    # as the command does, before torch is imported: threads that spin take the processor from those that prepare data
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from geounet.errors import GeounetError
    from geounet.models.memory import keep_freed_memory

    keep_freed_memory()
    rows: list[Row] = []
    for name in jobs:
        if name == "train_aerial" and shared() is None:
            note(f"{name}: its imagery is not here")
            continue
        job = ROOT / "workflows" / f"{name}.yaml"
        try:
            row = measured(job, steps, repeats, threads)
            with multiprocessing.get_context("spawn").Pool(1) as other:
                rate = other.apply(given_back, (job, steps, repeats, threads))
            rows.append({**row, "memory given back, windows/s": round(rate, 2)})
        except GeounetError as error:
            note(f"{name}: {error}")
    return report("training", {"windows per second": rows}, out)
