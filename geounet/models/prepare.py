"""A network made ready for inference: fewer operations, narrower weights, the memory layout that is fastest."""

from __future__ import annotations

import logging
import math

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-4
"""Largest difference of logits that folding may cause, relative to their range. Right: 1e-6; wrong: about 1."""


def prepare(network: nn.Module, dtype: torch.dtype, example: torch.Tensor) -> nn.Module:
    """Fold batch normalisations, choose the memory layout, and narrow the weights that autocast would narrow.

    Measured for a resnet18 U-Net of 512 px, AVX512-BF16, 2 threads: 343 ms a tile as built, 255 ms in channels_last,
    130 ms with autocast to bfloat16, 117 ms with all that is done here.

    Parameters
    ----------
    network
        In evaluation mode, float32, on the CPU. It may be changed.
    dtype
        What the network will compute in; narrower than float32 inside `torch.autocast`.
    example
        A small input of a size that the network takes, `(n, bands, rows, cols)`.
    """
    _fold(network, example)
    network.to(memory_format=torch.channels_last)
    if dtype != torch.float32:
        # Autocast casts the weights of these at every forward, to the same bits. Exact types only: subclasses may
        # compute with their weights before the operation that is autocast.
        for module in network.modules():
            if type(module) in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear):
                module.to(dtype)
    return network


@torch.no_grad()  # not inference_mode: copies made in it are tensors that some operators refuse
def _fold(network: nn.Module, example: torch.Tensor) -> None:
    """Fold batch normalisations into the convolutions whose output they normalise.

    Which belong together is seen in a forward pass, not guessed from names. What a forward cannot show (that nothing
    else takes the convolution's output) is checked on the result: where it differs, nothing is folded.
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
        elif type(module) is nn.BatchNorm2d and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(lambda _m, i, n=name: before_normalisation(n, i[0])))
    try:
        expected = network(example)
    finally:
        for handle in handles:
            handle.remove()
        outputs.clear()

    replaced: dict[str, nn.Module] = {}
    for norm, conv in pairs.items():
        if calls[norm] == calls[conv] == 1:
            replaced[conv], replaced[norm] = network.get_submodule(conv), network.get_submodule(norm)
            fused = fuse_conv_bn_eval(replaced[conv], replaced[norm])  # type: ignore[type-var, arg-type]
            _replace(network, conv, fused)
            _replace(network, norm, nn.Identity())
    try:
        difference = float((network(example) - expected).abs().amax() / (expected.amax() - expected.amin() + 1e-30))
        problem = f"folding them changes logits by {difference:g} of their range"
    except (AttributeError, RuntimeError) as error:  # the network asks its normalisation for something
        difference, problem = math.inf, str(error)
    if not difference <= _TOLERANCE:
        logger.debug("batch normalisations stay: %s", problem)
        for name, module in replaced.items():
            _replace(network, name, module)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
