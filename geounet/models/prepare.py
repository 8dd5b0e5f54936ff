"""A network made ready for inference: fewer operations, narrower weights, the memory layout that is fastest."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from geounet.models.upsample import class_name, pays, upsampled

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-4
"""Largest difference of logits that a replacement may cause, relative to their range. Right: 1e-6; wrong: about 1."""

_ACTIVATING = "timm.layers.norm_act.BatchNormAct2d"
"""timm's batch normalisation that drops (nothing, in evaluation) and activates, too."""


def prepare(network: nn.Module, dtype: torch.dtype, example: torch.Tensor, *, device: str = "cpu") -> nn.Module:
    """Replace layers by fewer that do the same, choose the memory layout, and narrow the weights that autocast would.

    What each step brings, `python -m benchmarks network` measures: about 2.0 s a tile as built, 1.1 s after all of them
    (resnet18 U-Net of 1152 px, AVX512-BF16, one thread).

    Parameters
    ----------
    network
        In evaluation mode, float32, on the CPU. It may be changed.
    dtype
        What the network will compute in; narrower than float32 inside `torch.autocast`.
    example
        A small input of a size that the network takes, `(n, bands, rows, cols)`.
    device
        Where it will compute.
    """
    with torch.no_grad():  # not inference_mode: copies made in it are tensors that some operators refuse
        expected = network(example)
        _replace_if_equal(network, _folded(network, example), example, expected, "folded batch normalisations")
        if pays(device, dtype):
            _replace_if_equal(network, upsampled(network, example), example, expected, "convolutions before doubling")
    network.to(memory_format=torch.channels_last)
    if dtype != torch.float32:
        # Autocast casts the weights of these at every forward, to the same bits. Exact types only: subclasses may
        # compute with their weights before the operation that is autocast.
        for module in network.modules():
            if type(module) in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear):
                module.to(dtype)
    return network


def _folded(network: nn.Module, example: torch.Tensor) -> dict[str, nn.Module]:
    """Return convolutions with the batch normalisations of their output in them, and what is left of those, by name.

    Which belong together is seen in a forward pass, not guessed from names. What a forward cannot show (that nothing
    else takes the convolution's output) is for the caller to check.
    """
    outputs: dict[int, tuple[str, torch.Tensor]] = {}
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}

    def after_convolution(name: str, output: torch.Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        outputs[id(output)] = (name, output)  # held, so that its id stays its own

    def before_normalisation(name: str, given: torch.Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        if id(given) in outputs:
            pairs[name] = outputs[id(given)][0]

    handles = []
    for name, module in network.named_modules():
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(lambda _m, _i, o, n=name: after_convolution(n, o)))
        elif (type(module) is nn.BatchNorm2d or class_name(module) == _ACTIVATING) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(lambda _m, i, n=name: before_normalisation(n, i[0])))
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
        outputs.clear()

    folded: dict[str, nn.Module] = {}
    for name, conv in pairs.items():
        if calls[name] == calls[conv] == 1:
            norm: Any = network.get_submodule(name)
            folded[conv] = fuse_conv_bn_eval(network.get_submodule(conv), norm)  # type: ignore[type-var]
            folded[name] = nn.Sequential(norm.drop, norm.act) if class_name(norm) == _ACTIVATING else nn.Identity()
    return folded


def _replace_if_equal(
    network: nn.Module, modules: dict[str, nn.Module], example: torch.Tensor, expected: torch.Tensor, what: str
) -> None:
    """Put modules in place of the network's; where logits differ from what is expected, put them back."""
    if not modules:
        return
    before = {name: network.get_submodule(name) for name in modules}
    for name, module in modules.items():
        _replace(network, name, module)
    try:
        difference = float((network(example) - expected).abs().amax() / (expected.amax() - expected.amin() + 1e-30))
        problem = f"they change logits by {difference:g} of their range"
    except (AttributeError, RuntimeError) as error:  # the network asks a module for something
        difference, problem = math.inf, str(error)
    if not difference <= _TOLERANCE:
        logger.debug("without %s: %s", what, problem)
        for name, module in before.items():
            _replace(network, name, module)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
