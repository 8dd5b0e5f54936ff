"""Convolutions after a nearest-neighbour doubling, computed on the grid before it.

Where an image was doubled by repeating its pixels, several of the nine weights of a 3 × 3 convolution meet the same
pixel: their sums are a transposed convolution of 4 × 4 px and stride 2 that does the same with four weights in place of
nine. What is concatenated to the doubled image gets a convolution of its own, so neither of the two is ever made. That
such a transposed convolution and a convolution after a doubling are one function: Shi et al. 2016, "Is the
deconvolution layer the same as a convolutional layer?" (https://arxiv.org/abs/1609.07009).
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from geounet.models.device import cpu_has_bf16
from geounet.models.fills import without_fills

_BLOCKS = frozenset(
    f"segmentation_models_pytorch.decoders.{name}"
    for name in ("unet.decoder.UnetDecoderBlock", "unetplusplus.decoder.DecoderBlock", "manet.decoder.DecoderBlock")
)
"""Double, concatenate, attend, convolve, convolve, attend. By name, because importing them takes seconds."""


class Upsampled(nn.Module):
    """What a decoder block of smp does, with its first convolution on the grid before the doubling.

    Parameters
    ----------
    block
        One of smp's, with nearest interpolation and without attention to what it concatenates.
    channels
        Of the image that it doubles; the others are of what it concatenates.
    """

    def __init__(self, block: Any, channels: int) -> None:
        super().__init__()
        conv, rest = _parts(block)
        weight = conv.weight.detach()
        given, beside = channels, conv.in_channels - channels
        with without_fills(everywhere=True):
            self.up = nn.ConvTranspose2d(given, conv.out_channels, 4, stride=2, padding=1, bias=conv.bias is not None)
        self.up.weight = nn.Parameter(_summed(weight[:, :given]).contiguous(), requires_grad=False)
        if conv.bias is not None:
            self.up.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
        self.beside: nn.Module | None = None
        if beside:
            with without_fills(everywhere=True):
                self.beside = nn.Conv2d(beside, conv.out_channels, 3, padding=1, bias=False)
            self.beside.weight = nn.Parameter(weight[:, given:].clone(), requires_grad=False)
        self.rest = nn.Sequential(*rest)

    def forward(self, image: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        """Return the block's output for an image `(n, channels, rows, cols)` and for what is concatenated to it."""
        out = self.up(image)
        if self.beside is not None:
            out = out.add_(self.beside(_beside(more, named)))
        result: torch.Tensor = self.rest(out)
        return result


def _summed(weight: torch.Tensor) -> torch.Tensor:
    """Return the transposed convolution `(in, out, 4, 4)` of a 3 × 3 convolution `(out, in, 3, 3)` of a doubled image.

    A pixel `i` before the doubling reaches output `2i - 1 + t` by the weights that there look at `2i` or `2i + 1`.
    """
    for axis in (-2, -1):
        first, middle, last = weight.unbind(axis)
        weight = torch.stack((last, middle + last, first + middle, first), axis)
    return weight.transpose(0, 1)


def learn_upsampled(network: nn.Module) -> None:
    """Have the network's decoder blocks do so while it learns, with the parameters that they have, by their names."""
    for module in network.modules():
        if _fits(module):
            module.forward = MethodType(_learning, module)


def _learning(block: Any, image: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
    """Return the block's output; the sums of its weights are made anew, because the weights change."""
    sizes = [value for value in more if isinstance(value, int)]
    if sizes not in ([], [2 * side for side in image.shape[-2:]]):
        plain: torch.Tensor = type(block).forward(block, image, *more, **named)
        return plain
    conv, rest = _parts(block)
    given = image.shape[1]
    out = functional.conv_transpose2d(image, _summed(conv.weight[:, :given]), conv.bias, stride=2, padding=1)
    if given < conv.in_channels:
        out = out + functional.conv2d(_beside(more, named), conv.weight[:, given:], padding=1)
    for part in rest:
        out = part(out)
    return out


def _parts(block: Any) -> tuple[nn.Conv2d, list[nn.Module]]:
    """Return a block's first convolution, and all that follows it."""
    conv, *rest = block.conv1
    return conv, [*rest, block.conv2, *([block.attention2] if hasattr(block, "attention2") else [])]


def _beside(more: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor:
    """Return what a block is given to concatenate."""
    return next(value for value in (*more, *named.values()) if isinstance(value, torch.Tensor))


def pays(device: str, dtype: torch.dtype) -> bool:
    """Return whether it is faster: on a GPU it was never measured, and bfloat16 without instructions is not."""
    return device == "cpu" and (dtype == torch.float32 or (dtype == torch.bfloat16 and cpu_has_bf16()))


def upsampled(network: nn.Module, example: torch.Tensor) -> dict[str, nn.Module]:
    """Return what to put in place of the network's decoder blocks that double, by name.

    Which image a block doubles, and whether it is doubled at all, is seen in a forward pass of `example`.
    """
    seen: dict[str, tuple[int, bool]] = {}

    def after(name: str, image: torch.Tensor, output: torch.Tensor) -> None:
        doubled = tuple(2 * side for side in image.shape[-2:]) == tuple(output.shape[-2:])
        seen[name] = (int(image.shape[1]), doubled and name not in seen)

    blocks = {name: module for name, module in network.named_modules() if _fits(module)}
    if not blocks:
        return {}
    handles = [
        module.register_forward_hook(lambda _m, given, out, n=name: after(n, given[0], out))
        for name, module in blocks.items()
    ]
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: Upsampled(blocks[name], channels) for name, (channels, doubled) in seen.items() if doubled}


def class_name(module: nn.Module) -> str:
    """Return the full name of a module's class, which subclasses do not share."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _fits(block: Any) -> bool:
    """Return whether a module is one of smp's blocks, repeats pixels, and convolves what it concatenates as it is."""
    if class_name(block) not in _BLOCKS:  # exactly: subclasses may do otherwise
        return False
    if block.interpolation_mode != "nearest" or block.conv1 is None:
        return False
    conv = block.conv1[0]
    attention = getattr(getattr(block, "attention1", None), "attention", nn.Identity())
    return (
        type(conv) is nn.Conv2d
        and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (conv.groups, conv.padding_mode) == (1, "zeros")
        and isinstance(attention, nn.Identity)
    )
