"""What is drawn at random when a network is built, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from geounet.models.bundle import save_bundle
from geounet.models.fills import without_fills
from geounet.models.network import build, load
from tests.support.local import card

ENCODERS = ["resnet18", "tu-mobilenetv3_small_050", "tu-convnext_atto"]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_new_networks_have_the_weights_of_smp(encoder: str) -> None:
    torch.manual_seed(1)
    ours = build(card(encoder=encoder)).state_dict()
    torch.manual_seed(1)
    theirs = smp.Unet(encoder, encoder_weights=None, classes=4).state_dict()
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_loaded_networks_have_the_weights_of_the_bundle_and_draw_none(tmp_path: Path, encoder: str) -> None:
    state = build(card(encoder=encoder)).state_dict()
    made = save_bundle(tmp_path / "made", card(encoder=encoder), state)
    before = torch.random.get_rng_state()
    network = load(made)
    assert torch.equal(before, torch.random.get_rng_state())
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_only_what_is_loaded_afterwards_stays_as_it_is() -> None:
    with without_fills(everywhere=True):
        buffer = torch.zeros(4).normal_()
        weight = torch.nn.Parameter(torch.zeros(4))
        torch.nn.init.normal_(weight)
        torch.nn.init.uniform_(tensor=weight)
    assert buffer.count_nonzero() == 4
    assert not weight.count_nonzero()
    with without_fills():
        torch.nn.init.normal_(weight)
        assert torch.nn.init.normal_(torch.empty(4, device="meta")).is_meta
    assert weight.count_nonzero() == 4
