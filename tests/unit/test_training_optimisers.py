"""Optimisers, schedules and the average of weights, against torch's own and against formulas."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from geounet.training import optimisers, schedules
from geounet.training.average import Average
from geounet.training.ranks import freeze_unused


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.decoder = nn.Sequential(nn.Conv2d(4, 4, 1), nn.LayerNorm(5), nn.PReLU(4), nn.ConvTranspose2d(4, 2, 2))
        self.register_parameter("frozen", nn.Parameter(torch.zeros(3, 3), requires_grad=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decoder(self.encoder(x))
        return out


def test_only_matrices_and_kernels_decay() -> None:
    network = Net()
    optimiser = optimisers.build(network, "adamw", 1e-3, decay=0.1)
    names = {id(p): n for n, p in network.named_parameters()}
    decays = {names[id(p)] for g in optimiser.param_groups for p in g["params"] if g["weight_decay"] == 0.1}
    others = {names[id(p)] for g in optimiser.param_groups for p in g["params"] if g["weight_decay"] == 0}
    assert decays == {"encoder.0.weight", "decoder.0.weight", "decoder.3.weight"}
    assert decays | others == set(names.values()) - {"frozen"}
    assert not decays & others


def test_the_encoder_has_a_rate_of_its_own() -> None:
    network = Net()
    optimiser = optimisers.build(network, "sgd", 0.1, encoder=0.1)
    optimisers.set_rate(optimiser, 0.5)
    rates = {id(p): g["lr"] for g in optimiser.param_groups for p in g["params"]}
    for name, parameter in network.named_parameters():
        if name != "frozen":
            assert rates[id(parameter)] == pytest.approx(0.005 if name.startswith("encoder.") else 0.05)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.0)),
        ("adam", lambda p: torch.optim.Adam(p, 1e-2)),
        ("sgd", lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True)),
    ],
)
def test_steps_are_those_of_torch(name: str, reference) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    ours, theirs = Net().double(), Net().double()  # in single precision the bias before a normalisation drifts
    theirs.load_state_dict(ours.state_dict())
    pairs = [(ours, optimisers.build(ours, name, 1e-2)), (theirs, reference(theirs.parameters()))]
    for _ in range(3):
        x = torch.randn(2, 3, 7, 7).double()
        for network, optimiser in pairs:
            optimiser.zero_grad()
            network(x).square().mean().backward()
            optimiser.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_parameters_without_a_use_are_frozen() -> None:
    network = Net()
    network.register_module("spare", nn.Conv2d(2, 2, 1))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    freeze_unused(network.train(), 3, 7)
    names = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert names == {"frozen", "spare.weight", "spare.bias"}
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def rates_of(scheduler_class, steps: int, **options: float) -> list[float]:  # type: ignore[no-untyped-def]
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0, momentum=0.9)
    scheduler = scheduler_class(optimiser, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("steps", "share"), [(100, 0.3), (57, 0.2), (1000, 0.05), (10, 0.5)])
def test_one_cycle_is_torch_s(steps: int, share: float) -> None:
    ours = [schedules.factor("one-cycle", k, steps, share) for k in range(steps)]
    theirs = rates_of(lr_scheduler.OneCycleLR, steps, max_lr=1.0, total_steps=steps, pct_start=share)
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_cosine_and_poly_are_torch_s() -> None:
    ours = [schedules.factor("cosine", k, 50, 0) for k in range(50)]
    assert ours == pytest.approx(rates_of(lr_scheduler.CosineAnnealingLR, 50, T_max=50), abs=1e-9)
    ours = [schedules.factor("poly", k, 50, 0) for k in range(50)]
    assert ours == pytest.approx(rates_of(lr_scheduler.PolynomialLR, 50, total_iters=50, power=0.9), abs=1e-9)


@pytest.mark.parametrize("name", list(schedules.SCHEDULES))
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_every_schedule_rises_then_falls(name: str, warmup: float, steps: int) -> None:
    factors = [schedules.factor(name, k, steps, warmup) for k in range(steps)]
    assert all(0 <= f <= 1 for f in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    if 0 < warmup < 1 and steps == 40:
        assert factors[0] < 0.3
        assert max(factors) > 0.95


def test_the_average_follows_its_formula() -> None:
    torch.manual_seed(0)
    network = Net()
    average = Average(network, 0.7)
    expected = copy.deepcopy(network.state_dict())
    for n in range(30):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(2, 3, 7, 7))  # moves the statistics
        average.update(network)
        share = min(0.7, (1 + n) / (10 + n))
        for key, value in network.state_dict().items():
            kept = expected[key]
            expected[key] = share * kept + (1 - share) * value if value.is_floating_point() else value.clone()
    assert min(0.7, 30 / 39) == 0.7  # both branches of the formula were used
    for key, value in average.network.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())
    assert math.isclose(float(expected["encoder.1.num_batches_tracked"]), 30)
