"""The loop on batches from memory: it learns, accumulates, stops, and resumes to the bit."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from geounet.errors import GeounetError, PartError
from geounet.training.loop import Recipe, Report, Trainer, fit, memory_layout
from geounet.training.losses import Term, build
from geounet.training.ranks import Ranks
from geounet.training.state import BEST, LAST, STATE, load_state, load_weights, save_state
from geounet.training.stop import Stop, stoppable

RECIPE = Recipe(steps=8, interval=4, rate=5e-3, average=0.9, seed=3, partial=False)


@dataclass
class Batch:
    images: NDArray[np.float32]
    labels: NDArray[np.uint8]


def batch(k: int, n: int = 2) -> Batch:
    """Bright is class 1; a function of its number."""
    rng = np.random.default_rng(k)
    labels = np.kron(rng.integers(0, 2, (n, 4, 4)), np.ones((4, 4), int)).astype(np.uint8)
    images = labels[:, None] * 2.0 - 1 + rng.normal(0, 0.5, (n, 3, 16, 16))
    return Batch(images.astype(np.float32), labels)


def batches(first: int) -> Iterator[Batch]:
    return (batch(k) for k in itertools.count(first))


def network(dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(8, 2, 1)
    )


def trainer(recipe: Recipe = RECIPE, net: nn.Module | None = None) -> Trainer:
    loss = build([Term("cross-entropy"), Term("dice")], [0, 1], "softmax")
    return Trainer(net or network(), loss, recipe, Ranks())


class Listener:
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.reports: list[tuple[int, float, Report]] = []

    def stepped(self, trainer: Trainer, loss: float) -> None:
        self.losses.append(loss)

    def validated(self, trainer: Trainer, loss: float, report: Report) -> None:
        self.reports.append((trainer.step, loss, report))


def score(trainer: Trainer) -> Report:
    held_out = batch(10_000, 4)
    with torch.inference_mode():
        found = trainer.result.eval()(torch.from_numpy(held_out.images)).argmax(1).numpy()
    if trainer.average is None:
        trainer.network.train()
    return Report(float((found == held_out.labels).mean()), {})


def run(folder: Path, learner: Trainer, stop: Stop | None = None, validate: Any = score) -> tuple[bool, Listener]:
    listener = Listener()
    first = learner.step * learner.recipe.accumulate
    return fit(learner, batches(first), validate, listener, folder, stop or Stop()), listener


def equal(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == n and torch.equal(v, w) for (k, v), (n, w) in pairs)


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    learner = trainer(replace(RECIPE, steps=60, interval=20))
    ended, listener = run(tmp_path, learner)
    assert ended
    assert [s for s, *_ in listener.reports] == [20, 40, 60]
    assert listener.reports[-1][1] < 0.5 * listener.losses[0]
    assert learner.best == max(r.score for *_, r in listener.reports) > 0.95
    state = load_state(tmp_path)
    assert state is not None
    assert state["step"] == 60
    last = load_weights(tmp_path / LAST)
    assert all(torch.equal(v, last[k]) for k, v in learner.result.state_dict().items())
    assert (tmp_path / BEST).exists()


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_state_goes_on_to_the_bit(tmp_path: Path, name: str, precision: str) -> None:
    recipe = replace(RECIPE, optimiser=name, precision=precision, accumulate=2)
    whole = trainer(recipe)
    run(tmp_path / "whole", whole)
    # put down in the middle of an epoch, through the file, into a network that was made otherwise
    part = trainer(recipe)
    numbers = batches(0)
    for _ in range(5):
        part.learn(numbers)
    part.validated = 4
    save_state(tmp_path / "part", part.state())
    torch.manual_seed(99)
    again = trainer(recipe, nn.Sequential(*[type(m)(*a) for m, a in zip(network(), ARGUMENTS, strict=True)]))
    state = load_state(tmp_path / "part")
    assert state is not None
    again.restore(state)
    run(tmp_path / "part", again)
    assert again.step == whole.step == 8
    assert equal(whole.network, again.network)
    assert equal(whole.result, again.result)
    assert whole.best == again.best


ARGUMENTS: list[tuple[Any, ...]] = [(3, 8, 3, 1, 1), (8,), (), (0.3,), (8, 2, 1)]


def test_dropout_and_seed_matter() -> None:
    """Otherwise the test above would say little."""
    first, second, other = trainer(), trainer(), trainer(replace(RECIPE, seed=4))
    for learner in (first, second, other):
        learner.learn(batches(0))
    assert equal(first.network, second.network)
    assert not equal(first.network, other.network)


def test_accumulated_gradients_are_those_of_one_large_batch() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))  # no statistics of a batch
    loss = build([Term("cross-entropy")], [0, 1], "softmax")
    recipe = replace(RECIPE, optimiser="sgd", clip=None, decay=0.0)
    many, one = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1)), plain
    many.load_state_dict(one.state_dict())
    parts = [batch(k) for k in range(3)]
    large = Batch(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
    Trainer(many, loss, replace(recipe, accumulate=3), Ranks()).learn(iter(parts))
    Trainer(one, loss, recipe, Ranks()).learn(iter([large]))
    for a, b in zip(many.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped() -> None:
    learner = trainer(replace(RECIPE, optimiser="sgd", momentum=0.0, clip=1e-3, decay=0.0, rate=1.0, warmup=0.0,
                              schedule="constant"))  # fmt: skip
    before = [p.detach().clone() for p in learner.network.parameters()]
    learner.learn(batches(0))
    moved = [(p.detach() - q).square().sum() for p, q in zip(learner.network.parameters(), before, strict=True)]
    assert float(torch.stack(moved).sum().sqrt()) == pytest.approx(1e-3, rel=1e-2)


def test_patience(tmp_path: Path) -> None:
    scores = iter([0.3, 0.5, 0.4, 0.5, 0.2, 0.9])
    learner = trainer(replace(RECIPE, steps=100, interval=2, patience=3))
    ended, _ = run(tmp_path, learner, validate=lambda _: Report(next(scores), {}))
    assert ended
    assert learner.step == 10
    assert (learner.best, learner.best_step) == (0.5, 4)


def test_stopping_leaves_a_state(tmp_path: Path) -> None:
    stop = Stop()
    learner = trainer()

    class Impatient(Listener):
        def stepped(self, trainer: Trainer, loss: float) -> None:
            stop.number = 15

    assert not fit(learner, batches(0), score, Impatient(), tmp_path, stop)
    state = load_state(tmp_path)
    assert state is not None
    assert state["step"] == 1
    assert not (tmp_path / LAST).exists()


def test_stopping_while_validating_validates_again(tmp_path: Path) -> None:
    learner = trainer()
    assert not run(tmp_path, learner, validate=lambda _: None)[0]
    state = load_state(tmp_path)
    assert state is not None
    assert (state["step"], state["validated"]) == (4, 0)
    again = trainer()
    again.restore(state)
    whole = trainer()
    _, listener = run(tmp_path, again)
    _, expected = run(tmp_path / "whole", whole)
    assert [r[:2] for r in listener.reports] == [r[:2] for r in expected.reports]
    assert equal(again.network, whole.network)


def test_divergence_is_an_error(tmp_path: Path) -> None:
    def bad(k: int) -> Batch:
        made = batch(k)
        made.images[:] = np.nan
        return made

    with pytest.raises(GeounetError, match="loss is nan at step 1: training has diverged"):
        fit(trainer(), (bad(k) for k in itertools.count()), score, Listener(), tmp_path, Stop())


def test_a_damaged_state(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    (tmp_path / STATE).write_bytes(b"nothing of the kind")
    with pytest.raises(PartError, match="cannot be read"):
        load_state(tmp_path)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_waits_for_the_end_of_a_step_but_a_second_one_does_not(signals: int) -> None:
    done = []

    def work() -> None:
        with stoppable() as stop:
            for _ in range(signals):
                signal.raise_signal(signal.SIGINT)
            done.append(bool(stop))

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ([True] if signals == 1 else [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_state_holds_plain_values_only(tmp_path: Path) -> None:
    """`torch.load(weights_only=True)` is all it takes."""
    learner = trainer(replace(RECIPE, optimiser="sgd"))
    learner.learn(batches(0))
    save_state(tmp_path, learner.state())
    state = torch.load(tmp_path / STATE, weights_only=True)
    assert set(state) >= {"network", "average", "optimiser", "scaler", "step", "best"}


@pytest.mark.parametrize(
    ("kernel", "stride", "channels", "device", "layout"),
    [
        (1, 2, 4, "cpu", torch.contiguous_format),
        (1, 2, 8, "cpu", torch.channels_last),
        (1, 1, 4, "cpu", torch.channels_last),
        (3, 2, 4, "cpu", torch.channels_last),
        (1, 2, 4, "cuda", torch.channels_last),
    ],
)
def test_layouts_that_crash_are_not_used(
    kernel: int, stride: int, channels: int, device: str, layout: torch.memory_format
) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(channels, 16, kernel, stride), torch.nn.Conv2d(16, 16, 1, 2))
    assert memory_layout(network, torch.device(device)) == layout
