"""Networks made ready: fewer layers, the same function."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from geounet.models import upsample as module
from geounet.models.network import build
from geounet.models.prepare import prepare
from geounet.models.upsample import Upsampled, _summed, learn_upsampled
from tests.support.local import card

BLOCKS = (smp.decoders.unet.decoder.UnetDecoderBlock, smp.decoders.unetplusplus.decoder.DecoderBlock,
          smp.decoders.manet.decoder.DecoderBlock)  # fmt: skip


def drawn(architecture: str, encoder: str = "resnet18", **more: Any) -> torch.nn.Module:
    """A network of smp whose normalisations do something."""
    torch.manual_seed(0)
    return stirred(smp.create_model(architecture, encoder, encoder_weights=None, classes=3, **more))


def stirred(network: torch.nn.Module) -> torch.nn.Module:
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 2)
            part.bias.data.normal_(0, 0.2)
    return network.eval().requires_grad_(False)


def count(network: torch.nn.Module, *kinds: type) -> int:
    return sum(isinstance(part, kinds) for part in network.modules())


def largest(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / (expected.max() - expected.min()))


def test_folding_leaves_no_normalisation_and_the_same_result() -> None:
    torch.manual_seed(0)
    network = stirred(build(card()))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network(x)
        ready = prepare(network, torch.float32, x)
        found = ready(x)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in ready.modules())
    assert largest(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("architecture", "encoder", "more", "blocks"),
    [
        ("Unet", "resnet18", {}, 5),
        ("Unet", "resnet18", {"encoder_depth": 3, "decoder_channels": (64, 32, 16)}, 3),
        ("Unet", "resnet18", {"decoder_use_norm": False}, 5),
        ("Unet", "resnet18", {"decoder_use_norm": {"type": "instancenorm", "affine": True}}, 5),
        ("Unet", "tu-regnetx_002", {}, 5),
        ("UnetPlusPlus", "resnet18", {}, 11),
        ("MAnet", "resnet18", {}, 1),
        ("Unet", "resnet18", {"decoder_attention_type": "scse"}, 0),
        ("Unet", "resnet18", {"decoder_interpolation": "bilinear"}, 0),
    ],
)
def test_blocks_that_repeat_pixels_convolve_before(
    architecture: str, encoder: str, more: dict[str, Any], blocks: int
) -> None:
    network = drawn(architecture, encoder, **more).double()  # else rounding shows where variances are small
    x = torch.randn(2, 3, 96, 160, dtype=torch.float64)
    expected, before = network(x), count(network, *BLOCKS)
    ready = prepare(network, torch.float32, torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert count(ready, Upsampled) == blocks
    assert count(ready, *BLOCKS) == before - blocks
    assert largest(ready(x), expected) < 1e-12


def test_a_gpu_and_bfloat16_without_instructions_keep_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 3, 64, 64)
    assert count(prepare(drawn("Unet"), torch.float32, x, device="cuda"), Upsampled) == 0
    for has in (False, True):
        monkeypatch.setattr(module, "cpu_has_bf16", lambda has=has: has)
        assert count(prepare(drawn("Unet"), torch.bfloat16, x), Upsampled) == (5 if has else 0)
        assert count(prepare(drawn("Unet"), torch.float32, x), Upsampled) == 5


def test_weights_of_what_replaces_blocks_are_narrowed() -> None:
    ready = prepare(drawn("Unet"), torch.bfloat16, torch.randn(1, 3, 64, 64))
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    assert {part.weight.dtype for part in ready.modules() if isinstance(part, kinds)} == {torch.bfloat16}


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 6), cols=st.integers(1, 6), given=st.integers(1, 3), made=st.integers(1, 3))
def test_sums_of_weights_convolve_a_doubled_image(rows: int, cols: int, given: int, made: int) -> None:
    generator = torch.Generator().manual_seed(rows * 1000 + cols * 100 + given * 10 + made)
    image = torch.randn(1, given, rows, cols, generator=generator, dtype=torch.float64)
    weight = torch.randn(made, given, 3, 3, generator=generator, dtype=torch.float64)
    expected = functional.conv2d(functional.interpolate(image, scale_factor=2, mode="nearest"), weight, padding=1)
    found = functional.conv_transpose2d(image, _summed(weight), stride=2, padding=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("architecture", "more"),
    [("Unet", {}), ("Unet", {"decoder_attention_type": "scse"}), ("UnetPlusPlus", {}), ("MAnet", {})],
)
def test_learning_has_the_same_gradients(architecture: str, more: dict[str, Any]) -> None:
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    made = {}
    for fast in (False, True):
        network = drawn(architecture, **more).double().requires_grad_(True).train()
        if fast:
            learn_upsampled(network)
            network = copy.deepcopy(network)
        logits = network(x)
        torch.autograd.backward((logits**2).mean())
        made[fast] = (logits, {name: part.grad for name, part in network.named_parameters()})
    assert list(made[True][1]) == list(made[False][1])
    torch.testing.assert_close(made[True][0], made[False][0])
    for name, gradient in made[False][1].items():
        torch.testing.assert_close(made[True][1][name], gradient, msg=name)


def test_a_copy_that_learns_has_its_own_weights() -> None:
    first = drawn("Unet").requires_grad_(True)
    learn_upsampled(first)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for part in second.parameters():
            part.zero_()
    x = torch.randn(1, 3, 64, 64)
    assert not second(x).any()
    assert first(x).any()


def test_a_block_that_does_not_double_is_left_alone() -> None:
    block = BLOCKS[0](8, 4, 6).eval()
    image, beside = torch.randn(1, 8, 5, 5), torch.randn(1, 4, 15, 15)
    expected = block(image, 15, 15, skip_connection=beside)
    learn_upsampled(block)
    torch.testing.assert_close(block(image, 15, 15, skip_connection=beside), expected)


def test_normalisations_of_timm_that_activate_are_folded() -> None:
    network = drawn("Unet", "tu-regnetx_002")
    assert any(type(part).__name__ == "BatchNormAct2d" for part in network.modules())
    x = torch.randn(1, 3, 64, 64)
    expected = network(x)
    ready = prepare(network, torch.float32, x)
    assert count(ready, torch.nn.BatchNorm2d) == 0
    assert largest(ready(x), expected) < 1e-5


class Twice(torch.nn.Module):
    """Takes a convolution's output before and after its normalisation: folding would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1)
        self.norm = torch.nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        result: torch.Tensor = self.norm(y) + y
        return result


def test_folding_is_undone_where_it_changes_the_result() -> None:
    network = Twice().eval().requires_grad_(False)
    network.norm.running_var.fill_(9)
    x = torch.randn(1, 3, 8, 8)
    expected = network(x)
    ready = prepare(network, torch.float32, x)
    assert isinstance(ready.get_submodule("norm"), torch.nn.BatchNorm2d)
    torch.testing.assert_close(ready(x), expected)
