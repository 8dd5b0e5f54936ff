"""Which sizes of tiles a network takes, found out without its weights."""

from __future__ import annotations

from typing import Any

import torch

from geounet.config.card import Card
from geounet.errors import first_line

_LARGEST = 16
"""Multiples of the stride are tried up to so many times it: windows of attention want whole numbers of them."""


@torch.inference_mode()
def refusal(network: torch.nn.Module, card: Card, size: int) -> str | None:
    """Return why a network on torch's `meta` device does not take a size, or none."""
    network.eval()
    try:
        output = network(torch.empty((1, len(card.input.bands), size, size), device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        return first_line(error)
    if tuple(output.shape) != (1, card.channels, size, size):
        return f"it returns {tuple(output.shape)}, not a value for each pixel and class"
    return None


def multiple_of(network: Any, card: Card, size: int, step: int) -> int | None:
    """Return of what sizes must be a multiple, or none where a network takes no size but this one.

    Parameters
    ----------
    network
        On torch's `meta` device.
    card
        Its card.
    size
        A size that it takes, a multiple of `step`.
    step
        The network's stride.
    """
    factor = 1
    while factor <= _LARGEST and size % (factor * step) == 0:
        if refusal(network, card, size + factor * step) is None:
            return factor * step
        factor *= 2
    return None
