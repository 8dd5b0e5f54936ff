"""Networks of smp: all architectures, and what is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

from geounet.config.card import TileSpec
from geounet.errors import ModelError
from geounet.models.bundle import save_bundle
from geounet.models.network import ARCHITECTURES, build, load, stride
from tests.support.local import card

VIT = {"encoder_depth": 2, "decoder_intermediate_channels": [16, 16], "decoder_fusion_channels": 16,
       "dynamic_img_size": True, "embed_dim": 48, "num_heads": 3}  # fmt: skip

CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "Unet": ("tu-mobilenetv3_small_050", {}, 64),
    "UnetPlusPlus": ("resnet18", {"decoder_channels": [32, 16, 16, 8, 8]}, 64),
    "MAnet": ("resnet18", {"decoder_channels": [32, 16, 16, 8, 8]}, 64),
    "Linknet": ("resnet18", {}, 64),
    "FPN": ("tu-convnext_atto", {}, 64),
    "PSPNet": ("resnet18", {}, 64),
    "PAN": ("resnet18", {}, 128),
    "DeepLabV3": ("mobilenet_v2", {}, 64),
    "DeepLabV3Plus": ("resnet18", {}, 64),
    "UPerNet": ("tu-mobilenetv3_small_050", {}, 64),
    "Segformer": ("mit_b0", {}, 64),
    "DPT": ("tu-vit_tiny_patch16_224", VIT, 64),
}


@pytest.mark.parametrize("architecture", CASES)
def test_every_architecture_returns_a_value_for_each_pixel_and_class(architecture: str) -> None:
    encoder, arguments, size = CASES[architecture]
    made = card(architecture=architecture, encoder=encoder, arguments=arguments, bands=5, channels=3)
    network = build(made).eval()
    with torch.inference_mode():
        output = network(torch.randn(1, 5, size, size))
    assert output.shape == (1, 3, size, size)
    step = stride(made.model_copy(update={"tile": TileSpec(multiple_of=1)}))
    assert step == network.encoder.output_stride
    assert size % step == 0


def test_the_table_is_that_of_smp() -> None:
    assert (
        sorted(CASES) == sorted(ARCHITECTURES) == sorted(c.__name__ for c in smp.MODEL_ARCHITECTURES_MAPPING.values())
    )
    for name, (depth, output) in ARCHITECTURES.items():
        parameters = inspect.signature(getattr(smp, name).__init__).parameters
        assert parameters["encoder_depth"].default == depth, name
        if "encoder_output_stride" in parameters:
            assert parameters["encoder_output_stride"].default == output, name
        elif name != "DPT":
            assert output == 32, name


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 32),
        ({"arguments": {"encoder_depth": 3}}, 8),
        ({"architecture": "PSPNet"}, 8),
        ({"architecture": "DeepLabV3Plus", "arguments": {"encoder_output_stride": 8}}, 8),
        ({"architecture": "PAN"}, 16),
        ({"tile": TileSpec(multiple_of=24), "arguments": {"encoder_depth": 4}}, 48),
        ({"architecture": "DPT", "encoder": "tu-vit_small_patch14_dinov2"}, 14),
    ],
)
def test_stride(fields: dict[str, Any], expected: int) -> None:
    assert stride(card(**{"tile": TileSpec(multiple_of=1), **fields})) == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architecture": "unet"}, r"did you mean Unet\?"),
        ({"architecture": "DeepLab-V3+"}, r"did you mean DeepLabV3"),
        ({"architecture": "YOLO"}, r"architecture 'YOLO': there are Unet, .*ResUnet"),
        ({"encoder": "resnet81"}, r"encoder 'resnet81': did you mean resnet18"),
        ({"encoder": "resnest14d"}, r"did you mean tu-resnest14d\?"),
        ({"encoder": "tu-mobilenetv3_smal_050"}, r"did you mean tu-mobilenetv3_small_050"),
        ({"encoder": "tu-hf-hub:someone/something"}, r"timm has no such model"),
        ({"architecture": "DPT"}, r"smp cannot build DPT with encoder resnet18 .*Only Timm encoders"),
        ({"arguments": {"decoder_chanels": [1]}}, r"arguments.decoder_chanels: did you mean decoder_channels\?"),
        ({"encoder": "tu-resnet18", "arguments": {"chanels": 1}}, r"smp cannot build Unet .*'chanels'"),
        ({"arguments": {"encoder_weights": "imagenet"}}, r"arguments.encoder_weights cannot be given"),
        ({"encoder": "tu-resnet18", "arguments": {"checkpoint_path": "x.pt"}}, r"arguments.checkpoint_path cannot"),
        ({"arguments": {"activation": "tanh"}}, r"arguments.activation 'tanh' contradicts"),
        ({"arguments": {"activation": "sigmoid"}, "output": "probabilities"}, r"'sigmoid' contradicts .*'softmax'"),
        ({"arguments": {"activation": "softmax2d"}}, r"the card's output is `probabilities`"),
    ],
)
def test_refusals(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build(card(**fields))


def test_an_invalid_depth_is_refused() -> None:
    for value in ("5", 0, True, 2.5):
        with pytest.raises(ModelError, match=r"arguments.encoder_depth: found .*, expected a whole number"):
            stride(card(arguments={"encoder_depth": value}))


def test_older_names_of_encoders_work() -> None:
    build(card(encoder="timm-mobilenetv3_small_075"))


def test_own_activation_is_left_to_the_caller() -> None:
    own = card(output="probabilities", arguments={"activation": "softmax2d"})
    torch.manual_seed(1)
    network = build(own).eval()
    torch.manual_seed(1)
    same = smp.Unet("resnet18", encoder_weights=None, classes=4, activation="softmax2d").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(x).softmax(dim=1), same(x))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = dict(build(card(channels=4)).state_dict())
    five = save_bundle(tmp_path / "five", card(channels=5), state)
    with pytest.raises(
        ModelError, match=r"segmentation_head.0.weight is \(4, 16, 3, 3\), not \(5, 16, 3, 3\)"
    ) as caught:
        load(five)
    assert "\n" not in str(caught.value)
    state["surplus"] = torch.zeros(1)
    del state["encoder.conv1.weight"], state["segmentation_head.0.bias"]
    four = save_bundle(tmp_path / "four", card(channels=4), state)
    with pytest.raises(ModelError, match=r"2 missing \(encoder.conv1.weight, .*bias\); 1 unknown \(surplus\)"):
        load(four)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = dict(build(card()).state_dict())
    state["segmentation_head.0.bias"] = torch.tensor([0.0, float("nan"), 0, 0])
    with pytest.raises(ModelError, match=r"segmentation_head.0.bias holds values that are not finite"):
        load(save_bundle(tmp_path / "nan", card(), state))
