"""The loop: batches in, weights out. What it is made of is a state that can be stored and put back to the bit.

Everything random is a function of the seed and the step: batches by contract, dropout because the generator is seeded
anew at every step. So a state holds no generators, and a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geounet.errors import GeounetError
from geounet.models.upsample import learn_upsampled, pays
from geounet.training import optimisers, schedules
from geounet.training.average import Average
from geounet.training.ranks import Ranks
from geounet.training.state import BEST, LAST, save_state, save_weights
from geounet.training.stop import Stop

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_AGREE_EVERY = 16  # steps after which several processes ask each other whether to stop: it costs a round trip
_READ_EVERY_S = 2.0  # how often the loss is fetched from the device, which waits for it


class Batch(Protocol):
    """What is learned from in one forward and backward pass."""

    @property
    def images(self) -> NDArray[np.float32]:
        """Normalised, `(n, bands, rows, cols)`."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """`(n, rows, cols)`: class codes, partial labels, 255."""


@dataclass(frozen=True)
class Recipe:
    """How a network learns."""

    steps: int
    """Optimiser steps in all."""
    interval: int
    """Steps between validations."""
    rate: float = 1e-3
    optimiser: str = "adamw"
    decay: float = 1e-2
    momentum: float = 0.9
    encoder_rate: float = 1.0
    schedule: str = "one-cycle"
    warmup: float = 0.2
    clip: float | None = 5.0
    accumulate: int = 1
    average: float | None = 0.999
    patience: int | None = None
    """Validations without a better score after which it stops early."""
    precision: str = "fp32"
    seed: int = 1
    partial: bool = True
    """Whether labels may be partial."""
    checkpoint_s: float = 300.0


@dataclass(frozen=True)
class Report:
    """A validation: `score` decides which weights are best, `numbers` go to the log."""

    score: float
    numbers: dict[str, Any]


_FEW = 8
"""Channels of a convolution, see below."""


def memory_layout(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Return how tensors lie in memory while a network learns: channels last, which is faster.

    Not on the CPU where a strided convolution of 1 x 1 takes fewer than eight channels: there the gradient of its
    weights writes beyond its memory (torch 2.15 with AVX2), and the process dies of it, or hangs.
    """
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    strided = [c for c in convolutions if set(c.kernel_size) == {1} != set(c.stride)]
    if device.type == "cpu" and any(c.in_channels // c.groups < _FEW for c in strided):
        return torch.contiguous_format
    return torch.channels_last


class Trainer:
    """A network that learns, and all that changes while it does."""

    def __init__(self, network: nn.Module, loss: Callable[..., Tensor], recipe: Recipe, ranks: Ranks) -> None:
        self.recipe, self.ranks, self.loss = recipe, ranks, loss
        self.device = torch.device(ranks.device)
        self._layout = memory_layout(network, self.device)
        if pays(self.device.type, _DTYPES[recipe.precision]):
            learn_upsampled(network)
        self.network = network.to(self.device, memory_format=self._layout).train()  # type: ignore[call-overload]
        self.average = None if recipe.average is None else Average(self.network, recipe.average)
        self.optimiser = optimisers.build(
            self.network, recipe.optimiser, recipe.rate, decay=recipe.decay, momentum=recipe.momentum,
            encoder=recipe.encoder_rate,
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self._wrapped = ranks.wrapped(self.network)
        self.step = 0
        self.validated = 0
        """The step of the last validation."""
        self.best, self.best_step, self.stale = -math.inf, 0, 0
        self.seconds = 0.0
        """Spent learning so far, over all runs."""
        self.waited = 0.0
        """Seconds that this process waited for batches."""
        self._loss = torch.zeros((), device=self.device)
        self._losses = 0

    @property
    def result(self) -> nn.Module:
        """The network to validate and to keep: the average where there is one."""
        return self.network if self.average is None else self.average.network

    def learn(self, batches: Iterator[Batch]) -> None:
        """Take one optimiser step."""
        recipe = self.recipe
        # Hashed, because torch's generator on the CPU takes 32 bits of a seed.
        seeds = np.random.SeedSequence([recipe.seed, self.step, self.ranks.rank])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        optimisers.set_rate(self.optimiser, self.factor())
        for part in range(recipe.accumulate):
            asked = time.monotonic()
            batch = next(batches)
            self.waited += time.monotonic() - asked
            images = self._moved(torch.from_numpy(batch.images)).contiguous(memory_format=self._layout)
            labels = self._moved(torch.from_numpy(batch.labels))
            together = part == recipe.accumulate - 1 or self.ranks.world == 1
            with contextlib.nullcontext() if together else self._wrapped.no_sync():  # type: ignore[operator]
                with self.autocast():
                    logits = self._wrapped(images)
                loss = self.loss(logits, labels, recipe.partial) / recipe.accumulate
                torch.autograd.backward(self.scaler.scale(loss))
            self._loss += loss.detach()
        if recipe.clip is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.network)
        self._losses += 1
        self.step += 1

    def factor(self) -> float:
        """Return the share of the peak learning rate at this step."""
        return schedules.factor(self.recipe.schedule, self.step, self.recipe.steps, self.recipe.warmup)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which the network computes."""
        if self.recipe.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, _DTYPES[self.recipe.precision])

    def mean_loss(self) -> float:
        """Return the mean loss since the last validation; waits for the device.

        Raises
        ------
        GeounetError
            If it is not finite.
        """
        mean = float(self._loss) / max(self._losses, 1)
        if not math.isfinite(mean):
            raise GeounetError(
                f"the loss is {mean} at step {self.step}: training has diverged; use a lower rate, a longer warm-up, "
                f"gradient clipping, or precision fp32 (now {self.recipe.precision})"
            )
        return mean

    def note(self, report: Report) -> bool:
        """Take a validation into account; return whether it is the best so far."""
        self.validated = self.step
        self._loss.zero_()
        self._losses = 0
        if report.score > self.best:
            self.best, self.best_step, self.stale = report.score, self.step, 0
            return True
        self.stale += 1
        return False

    @property
    def ended(self) -> bool:
        """Whether nothing is left to learn."""
        patience = self.recipe.patience
        return self.step >= self.recipe.steps or (patience is not None and self.stale >= patience)

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values from which `restore` makes the same trainer."""
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.network.state_dict(),
            "averaged": 0 if self.average is None else self.average.count,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loss": self._loss,
            "losses": self._losses,
            **{k: getattr(self, k) for k in _COUNTERS},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put a state back."""
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])
            self.average.count = state["averaged"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self._loss.copy_(state["loss"])
        self._losses = state["losses"]
        for key in _COUNTERS:
            setattr(self, key, state[key])

    def _moved(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


_COUNTERS = ("step", "validated", "best", "best_step", "stale", "seconds")


class Told(Protocol):
    """Who is told how training goes."""

    def stepped(self, trainer: Trainer, loss: float) -> None:
        """Take note of steps, and of the mean loss since the last validation."""

    def validated(self, trainer: Trainer, loss: float, report: Report) -> None:
        """Take note of a validation; only the first process calls it."""


def fit(
    trainer: Trainer,
    batches: Iterator[Batch],
    validate: Callable[[Trainer], Report | None],
    told: Told,
    folder: Path,
    stop: Stop,
) -> bool:
    """Learn to the end, or until somebody asks to stop; then the state is in `folder`.

    Parameters
    ----------
    trainer
        New or restored.
    batches
        Of this process, from the trainer's step on.
    validate
        Measures `trainer.result`; None when it was stopped. Called by all processes.
    told
        Told of steps and validations.
    folder
        Where checkpoints go.
    stop
        Asked after each step.

    Returns
    -------
    bool
        Whether it came to the end.
    """
    recipe, ranks = trainer.recipe, trainer.ranks
    clock = saved = read = time.monotonic()
    before = trainer.seconds

    def save() -> None:
        nonlocal saved
        trainer.seconds = before + time.monotonic() - clock
        if ranks.first:
            save_state(folder, trainer.state())
        saved = time.monotonic()

    while True:
        due = trainer.step > 0 and (trainer.step % recipe.interval == 0 or trainer.step >= recipe.steps)
        if due and trainer.validated < trainer.step:
            loss = trainer.mean_loss()
            ranks.alike(trainer.result)
            report = validate(trainer)
            if report is None:
                save()
                return False
            better = trainer.note(report)
            trainer.seconds = before + time.monotonic() - clock
            if ranks.first:
                if better:
                    save_weights(folder / BEST, trainer.result)
                save_weights(folder / LAST, trainer.result)
                told.validated(trainer, loss, report)
            save()
        if trainer.ended:
            return True
        trainer.learn(batches)
        now = time.monotonic()
        if now - read > _READ_EVERY_S or trainer.step == 1:
            told.stepped(trainer, trainer.mean_loss())
            read = now
        if (ranks.world == 1 or trainer.step % _AGREE_EVERY == 0) and ranks.any(bool(stop)):
            stop.number = stop.number or signal.SIGTERM  # where only another process was told
            save()
            return False
        if now - saved > recipe.checkpoint_s:
            save()
