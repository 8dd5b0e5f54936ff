"""A training from its job to a model bundle: data, network, loop, checkpoints, and the card that says everything."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from geounet.atomic import write_text
from geounet.batch.lock import locked
from geounet.errors import JobError
from geounet.machine import cores
from geounet.models.bundle import Bundle, load_bundle, save_bundle
from geounet.models.device import resolve
from geounet.models.network import load
from geounet.training import about, losses
from geounet.training.curves import draw_curves
from geounet.training.dataset import Dataset, load_data
from geounet.training.gallery import Shown, draw_gallery
from geounet.training.gather import Gathered
from geounet.training.log import LOG, Log
from geounet.training.loop import Recipe, Report, Trainer, fit
from geounet.training.ranks import Ranks, freeze_unused, joined
from geounet.training.record import (
    BOARD,
    CHECKPOINTS,
    CURVES,
    DONE,
    MODEL,
    SAMPLES,
    continued,
    known_record,
    resumed,
    write_record,
)
from geounet.training.samples import Prefetch, Tiles
from geounet.training.start import check_start, start
from geounet.training.state import BEST, load_state, load_weights
from geounet.training.stop import Stop, stoppable
from geounet.training.validate import Tally, measure
from geounet.types import Progress

if TYPE_CHECKING:
    from geounet.config.train import TrainJob

logger = logging.getLogger(__name__)

_RARE = 1e-3
"""Share of pixels below which a class is weighted no higher."""


@dataclass(frozen=True)
class TrainResult:
    """What a training left.

    Attributes
    ----------
    folder
        The output folder.
    bundle
        The trained model.
    metrics
        As on its card.
    unchanged
        Whether it was finished before, and nothing was done.
    """

    folder: Path
    bundle: Bundle
    metrics: dict[str, Any]
    unchanged: bool = False


def train(job: TrainJob, progress: Progress | None = None) -> TrainResult:
    """Train a network as a job says, or go on where a killed training was.

    The output folder then holds `model/` (the bundle), `log.jsonl`, `curves.png`, `samples/` (predictions at each
    validation), `training.json`, and `checkpoints/` (`best` and `last` weights, the state). A finished training of the
    same job on the same data is left as it is.

    Parameters
    ----------
    job
        What to learn, from what, and how.
    progress
        Told of steps; None is silent.

    Raises
    ------
    JobError
        If the job contradicts itself or its data; before training starts.
    OutputExistsError
        If the folder holds the training of another job, and `run.overwrite` is false.
    LabelError, SceneError, ModelError
        If data or weights cannot be used.
    LockedError
        If another process trains in the same folder.
    """
    return train_on(job, progress)


def train_on(job: TrainJob, progress: Progress | None = None, gathered: Gathered | None = None) -> TrainResult:
    """Do what `train` does, on scenes and labels that another fold of the job has read, where there is one."""
    # Threads that wait by spinning take the processor from those they wait for, where others use it too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    folder = Path(job.out).absolute()
    device, precision = resolve(job.run.device, job.run.precision, "--set run.device=cpu")
    with ExitStack() as stack:
        ranks = stack.enter_context(joined(device))
        if ranks.first:
            stack.enter_context(locked(folder / CHECKPOINTS))
        check_start(job)
        if ranks.first and gathered is None:
            logger.info("%s: reading scenes and labels", job.name)
        data = load_data(job, gathered=gathered)
        if job.run.patience is not None and not data.validation.count:
            raise JobError("run.patience: nothing is held out to validate on; give `split`, or leave patience out")
        record: dict[str, Any] = {
            "fingerprint": about.fingerprint(job, data),
            "device": ranks.device.partition(":")[0],
            "precision": precision,
            "threads": threads_of(job),
            "processes": ranks.world,
            "versions": about.versions(),
        }
        known = resumed(folder, record["fingerprint"], overwrite=job.run.overwrite) if ranks.first else None
        ranks.wait()
        if not ranks.first:
            known = known_record(folder, record["fingerprint"])
        if known is not None and (folder / DONE).exists():
            bundle = load_bundle(folder / MODEL)
            return TrainResult(folder, bundle, bundle.card.metrics, unchanged=True)
        if known is None and ranks.first:
            write_record(folder, record)
        if known is not None:
            record = continued(folder, known, record)
        if ranks.device == "cpu":
            torch.set_num_threads(record["threads"])
        if ranks.first:
            for line in told_labels(data):
                logger.info("%s", line)
        with stoppable() as stop, closing(_Run(job, data, record, ranks, folder, stop, progress)) as run:
            result = run.finish() if run.learn() else None
        assert result is not None, "a stopped training ends with its signal"
        return result


class _Run:
    """A training under way: told by the loop how it goes, it writes what there is to see."""

    def __init__(
        self,
        job: TrainJob,
        data: Dataset,
        record: dict[str, Any],
        ranks: Ranks,
        folder: Path,
        stop: Stop,
        progress: Progress | None,
    ) -> None:
        self.job, self.data, self.record, self.ranks = job, data, record, ranks
        self.folder, self.stop, self.progress = folder, stop, progress
        self.card = about.card_of(job, data)
        network, self.initialisation = start(job, self.card)
        if ranks.world > 1:
            freeze_unused(network, len(self.card.input.bands), job.sampling.size)
        self.trainer = Trainer(network, self._loss(), recipe_of(job, record["precision"], data.partial), ranks)
        state = load_state(folder / CHECKPOINTS)
        if state is not None:
            self.trainer.restore(state)
            if ranks.first:
                logger.info("%s: goes on at step %d of %d", folder, self.trainer.step, job.run.steps)
        pictures = job.run.pictures
        mine = [k for k in range(data.validation.count) if k // job.sampling.batch % ranks.world == 0]
        self.shown = sorted({mine[(2 * k + 1) * len(mine) // (2 * pictures)] for k in range(pictures) if mine})
        """Windows to draw: spread over those that the first process measures."""
        self.log: Log | None = None
        self.pictures: dict[int, Shown] = {}
        if ranks.first:
            board = folder / BOARD if job.run.tensorboard else None
            self.log = Log(folder / LOG, self.trainer.step, board)
        self._clock, self._steps, self._waited = time.monotonic(), self.trainer.step, 0.0
        self._learned = self._clock
        """When the last validation began: rates are those of learning alone."""

    def _loss(self) -> Any:
        terms = [losses.Term(t.name, t.weight, t.options()) for t in self.job.terms()]
        weights = class_weights(self.job, self.data.counts)
        return losses.build(terms, [c.code for c in self.card.classes], self.card.head, weights)

    def learn(self) -> bool:
        """Learn to the end; false when it was stopped before."""
        trainer, ranks = self.trainer, self.ranks
        sampling, each = self.job.sampling, trainer.recipe.accumulate
        batches = Prefetch(
            lambda k: self.data.train.batch(k * ranks.world + ranks.rank),
            trainer.step * each, trainer.recipe.steps * each, sampling.threads, sampling.ahead,
        )  # fmt: skip
        with closed(batches) as upcoming:
            return fit(trainer, upcoming, self.validate, self, self.folder / CHECKPOINTS, self.stop)

    def validate(self, trainer: Trainer) -> Report | None:
        """Measure the network on the validation windows; all processes share the work."""
        self._learned = time.monotonic()
        if not self.data.validation.count:  # the last weights are as good as any
            return Report(float(trainer.step), {})
        found = self.measured(trainer.result, self.data.validation, self.shown)
        if found is None:
            return None
        tally, self.pictures = found
        scores = tally.scores()
        return Report(scores["miou"] if scores["miou"] is not None else 0.0, scores)

    def measured(
        self, network: torch.nn.Module, tiles: Tiles, shown: Sequence[int] = ()
    ) -> tuple[Tally, dict[int, Shown]] | None:
        """Return the counts of all processes over held-out windows; None when it was stopped."""
        ranks, size = self.ranks, self.job.sampling.batch
        mine = range(ranks.rank, len(tiles), ranks.world)
        ahead = Prefetch(lambda k: tiles.batch(mine[k]), 0, len(mine), self.job.sampling.threads, 2)
        numbers = (range(k * size, (k + 1) * size) for k in mine)
        with closed(ahead) as batches:
            found = measure(
                network,
                zip(numbers, batches, strict=True),
                self.card,
                torch.device(ranks.device),
                self.trainer.autocast(),
                shown,
                self.stop if ranks.world == 1 else None,
            )
        if found is None:
            return None
        tally, pictures = found
        return tally._replace(counts=ranks.total(tally.counts)), pictures

    def stepped(self, trainer: Trainer, loss: float) -> None:
        """Show how far it is."""
        if self.progress is None or not self.ranks.first:
            return
        extra = f"loss {loss:.3f}"
        if trainer.best_step and self.data.validation.count:
            extra += f" · validation mIoU {trainer.best:.3f}"
        size = self.job.sampling
        pixels = trainer.step * trainer.recipe.accumulate * size.batch * size.size**2 * self.ranks.world
        self.progress.update("steps", trainer.step, trainer.recipe.steps, extra, pixels)

    def validated(self, trainer: Trainer, loss: float, report: Report) -> None:
        """Write the log, the curves and the sample predictions."""
        assert self.log is not None
        seconds = max(self._learned - self._clock, 1e-9)
        per_step = self.job.sampling.batch * trainer.recipe.accumulate * self.ranks.world
        entry = {
            "step": trainer.step,
            "loss": round(loss, 6),
            "rate": trainer.optimiser.param_groups[-1]["lr"],
            **report.numbers,
            "best": trainer.best_step == trainer.step,
            "seconds": round(trainer.seconds, 1),
            "windows_per_s": round((trainer.step - self._steps) * per_step / seconds, 2),
            "waiting": round((trainer.waited - self._waited) / seconds, 4),
        }
        self.log.add(entry)
        said = f"step {trainer.step} of {trainer.recipe.steps}: loss {loss:.3f}"
        if report.numbers:
            iou = ", ".join(f"{name} {value:.2f}" for name, value in report.numbers["iou"].items() if value is not None)
            better = "" if entry["best"] else f", best {trainer.best:.3f} at {trainer.best_step}"
            said += f", validation mIoU {report.score:.3f}{better} ({iou})"
        logger.info("%s", said)
        colours = {c.name: c.colour for c in self.card.mask_classes()}
        draw_curves(self.log.entries, colours, self.folder / CURVES, self.job.name)
        if self.pictures:
            shown = [self.pictures[k] for k in sorted(self.pictures)]
            title = f"{self.job.name}, step {trainer.step}: validation mIoU {report.score:.3f}"
            draw_gallery(shown, self.card, self.folder / SAMPLES / f"step_{trainer.step:06d}.png", title)
        self._clock, self._steps, self._waited = time.monotonic(), trainer.step, trainer.waited

    def finish(self) -> TrainResult | None:
        """Write the bundle of the best weights, measured as it is stored; None when it was stopped meanwhile."""
        trainer, folder = self.trainer, self.folder
        bundle = folder / MODEL
        if self.ranks.first:
            save_bundle(bundle, self.card, load_weights(folder / CHECKPOINTS / BEST), half=True, overwrite=True)
        self.ranks.wait()
        network = load(load_bundle(bundle)).to(self.ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        metrics = self._metrics(network)
        if metrics is None:
            return None
        training = about.training_of(
            self.job,
            initialisation=self.initialisation,
            data=self.data,
            record=self.record,
            steps=trainer.step,
            best_step=trainer.best_step,
            seconds=trainer.seconds,
        )
        card = self.card.model_copy(update={"metrics": metrics, "training": training})
        if self.ranks.first:
            state = network.state_dict()
            saved = save_bundle(bundle, card, state, half=True, overwrite=True)
            done = {"fingerprint": self.record["fingerprint"], "model_sha256": saved.sha256, "metrics": metrics}
            write_text(folder / DONE, json.dumps({**done, "training": training}, indent=1, ensure_ascii=False) + "\n")
        self.ranks.wait()
        return TrainResult(folder, load_bundle(bundle), metrics)

    def _metrics(self, network: torch.nn.Module) -> dict[str, Any] | None:
        """Return the measures of the stored weights on each held-out side; those of the last side on top."""
        metrics: dict[str, Any] = {}
        for name, tiles in (("validation", self.data.validation), ("test", self.data.test)):
            if not tiles.count:
                continue
            found = self.measured(network, tiles)
            if found is None:
                return None
            before = {"validation": {k: v for k, v in metrics.items() if k != "measured_on"}} if metrics else {}
            metrics = {"measured_on": name, **found[0].scores(), **before}
        return metrics

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()


@contextmanager
def closed(batches: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Iterate, and end the threads behind it also where not all is taken."""
    iterator = iter(batches)
    try:
        yield iterator
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


def recipe_of(job: TrainJob, precision: str, partial: bool) -> Recipe:
    """Return how the network learns."""
    return Recipe(
        steps=job.run.steps,
        interval=job.run.epoch,
        rate=job.optimiser.rate,
        optimiser=job.optimiser.name,
        decay=job.optimiser.decay,
        momentum=job.optimiser.momentum,
        encoder_rate=job.optimiser.encoder,
        schedule=job.schedule.name,
        warmup=job.schedule.warmup,
        clip=job.optimiser.clip,
        accumulate=job.optimiser.accumulate,
        average=job.optimiser.average,
        patience=job.run.patience,
        precision=precision,
        seed=job.run.seed,
        partial=partial,
    )


def class_weights(job: TrainJob, counts: NDArray[np.int64]) -> list[float] | None:
    """Return the weight of each channel in the loss; None: all 1.

    `balanced`: by the square root of the inverse share of training pixels, with a mean of 1. Plain inverses overdo rare
    classes, whose false positives then cost nothing (compare Cui et al. 2019, arXiv 1901.05555).
    """
    asked = job.loss.class_weights
    if asked == "none":
        return None
    infos = job.infos()
    if isinstance(asked, dict):
        return [float(asked.get(info.name, 1.0)) for info in infos]
    pixels = [int(counts[info.code]) for info in infos]
    raw = [max(n / max(sum(pixels), 1), _RARE) ** -0.5 for n in pixels]
    return [value * len(raw) / sum(raw) for value in raw]


def told_labels(data: Dataset) -> list[str]:
    """Return what is learnt from and measured on, a line for each data section and side."""
    lines = []
    for tally in data.tallies:
        total = sum(tally.pixels.values())
        classes = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in tally.pixels.items())
        share = f", {100 * tally.share:.0f} % of the windows" if tally.share else ""
        lines.append(
            f"{tally.data}, {tally.side.name}: {tally.scenes} scene{'s' * (tally.scenes != 1)}{share}, "
            f"{total / 1e6:.2f} Mpx labelled ({classes})"
        )
    return lines


def threads_of(job: TrainJob) -> int:
    """Return how many threads a process computes with on a CPU: `auto` shares the cores among those of this machine."""
    if job.run.threads != "auto":
        return job.run.threads
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
