"""What our own networks are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

LARGEST_WIDTH = 4096


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number within bounds.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name}: found {value!r}, expected a whole number from {least} to {most}")
    return value


def share(name: str, value: Any) -> float:
    """Return a number from 0 to below 1.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"{name}: found {value!r}, expected a number from 0 to below 1")
    return float(value)


def one_of(name: str, value: Any, words: tuple[str, ...]) -> str:
    """Return one of some words.

    Raises
    ------
    ValueError
        If it is none.
    """
    if value not in words:
        raise ValueError(f"{name}: found {value!r}, expected {' or '.join(words)}")
    return str(value)


def levels(width: int, depth: int) -> list[int]:
    """Return the channels of each level: doubled at every halving of the grid."""
    whole("depth", depth, 1, 7)
    whole("width", width, 1, LARGEST_WIDTH >> depth)
    return [width << k for k in range(depth + 1)]


def check_size(rows: int, cols: int, multiple: int) -> None:
    """Check that a grid can be halved as often as the network does.

    Raises
    ------
    RuntimeError
        If it cannot.
    """
    if rows % multiple or cols % multiple:
        raise RuntimeError(f"Wrong input shape {rows} x {cols} px: expected multiples of {multiple}")


def two_convolutions(given: int, channels: int, *, padding: int = 1, batch: bool = True) -> nn.Sequential:
    """Return two 3 × 3 convolutions with ReLU, each after its batch normalisation if asked."""
    layers: list[nn.Module] = []
    for first in (given, channels):
        layers.append(nn.Conv2d(first, channels, 3, padding=padding))
        if batch:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def initialise(network: nn.Module) -> None:
    """Draw convolutions from a normal distribution of deviation sqrt(2 / inputs), biases 0.

    He et al. 2015 (https://arxiv.org/abs/1502.01852), as section 3 of the U-Net paper asks for.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def centre(x: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """Return the `rows × cols` px in the middle of `(n, channels, rows, cols)`."""
    y0, x0 = (x.shape[-2] - rows) // 2, (x.shape[-1] - cols) // 2
    return x[..., y0 : y0 + rows, x0 : x0 + cols]


def mirrored(x: torch.Tensor, margin: int) -> torch.Tensor:
    """Return `(n, channels, rows, cols)` with `margin` px of its mirror image on every side.

    The edge pixel is not repeated; a margin wider than the image goes back and forth (torch's own padding refuses it).
    """
    for axis in (-2, -1):
        size = int(x.shape[axis])
        period = max(1, 2 * (size - 1))
        index = torch.arange(-margin, size + margin, device=x.device).abs() % period
        x = x.index_select(axis, torch.where(index < size, index, period - index))
    return x
