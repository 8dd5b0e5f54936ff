"""Optimisers, from a table, and which parameters decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda groups, rate, momentum: torch.optim.AdamW(groups, rate, betas=(momentum, 0.999), fused=True),
    "adam": lambda groups, rate, momentum: torch.optim.Adam(groups, rate, betas=(momentum, 0.999), fused=True),
    "sgd": lambda groups, rate, momentum: torch.optim.SGD(
        groups, rate, momentum=momentum, nesterov=momentum > 0, fused=True
    ),
}
"""Every optimiser by the name it has in a job file."""

_UNDECAYED = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.Embedding)


def build(
    network: nn.Module, name: str, rate: float, *, decay: float = 0.0, momentum: float = 0.9, encoder: float = 1.0
) -> torch.optim.Optimizer:
    """Return an optimiser of the network's parameters.

    Parameters
    ----------
    network
        What is trained; parameters that need no gradient are left out.
    name
        Key of `OPTIMISERS`.
    rate
        Learning rate; each group keeps its own as `peak`, which the schedule scales.
    decay
        Weight decay of matrices and kernels. Biases, normalisations and vectors do not decay: pulling them to 0
        regularises nothing (Goyal et al. 2017, arXiv 1706.02677, 5.3). AdamW's is decoupled, the others' is L2.
    momentum
        SGD's momentum, or the first beta of Adam.
    encoder
        Factor of the encoder's learning rate, for encoders that are trained already.
    """
    groups: list[dict[str, Any]] = []
    for inside, factor in ((True, encoder), (False, 1.0)):
        for decays in (True, False):
            chosen = [
                parameter
                for key, parameter, decayed in _parameters(network)
                if decayed == decays and key.startswith("encoder.") == inside
            ]
            if chosen:
                peak = rate * factor
                groups.append({"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay if decays else 0.0})
    return OPTIMISERS[name](groups, rate, momentum)


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to a share of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor


def _parameters(network: nn.Module) -> list[tuple[str, nn.Parameter, bool]]:
    """Return name, parameter and whether it decays; shared parameters once."""
    found: dict[int, tuple[str, nn.Parameter, bool]] = {}
    for prefix, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in found:
                decays = parameter.ndim > 1 and name != "bias" and not isinstance(module, _UNDECAYED)
                found[id(parameter)] = (f"{prefix}.{name}" if prefix else name, parameter, decays)
    return list(found.values())
