"""The exponential moving average of a network's weights, which generalises better than the last step's.

Polyak and Juditsky 1992 (https://doi.org/10.1137/0330046); torch's `AveragedModel` waits for the GPU at every update.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from torch import Tensor, nn


class Average:
    """The average of a network's weights and of its normalisations' statistics.

    Parameters
    ----------
    network
        Copied; the average starts as its weights.
    decay
        Share of the average that stays at each update, at most: `(1 + n) / (10 + n)` at the n-th, while that is less,
        so that the random start is forgotten early.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self.count = 0
        self._floats, self._others = _tensors(self.network)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Draw the average towards the network's weights."""
        floats, others = _tensors(network)
        share = min(self.decay, (1 + self.count) / (10 + self.count))
        get_ema_multi_avg_fn(share)(self._floats, floats, self.count)  # type: ignore[no-untyped-call]
        for kept, fresh in zip(self._others, others, strict=True):  # counters
            kept.copy_(fresh)
        self.count += 1


def _tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the floating tensors and the others, each in the network's order."""
    tensors = [t.detach() for t in (*network.parameters(), *network.buffers())]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]
