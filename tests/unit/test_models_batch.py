"""Memory estimates and batch sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from geounet.config.card import TileSpec
from geounet.errors import ModelError
from geounet.models import batch as module
from geounet.models.batch import auto_batch, estimate_memory
from geounet.models.bundle import Bundle, save_bundle
from geounet.models.network import build
from tests.support.local import card
from tests.support.models import small_unet


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_unet(tmp_path_factory.mktemp("models") / "small")


def test_activations_grow_with_area_batch_and_width(tmp_path: Path) -> None:
    made = save_bundle(tmp_path / "unet", card(), build(card()).state_dict())
    weights = made.weights.stat().st_size
    base = estimate_memory(made, 256, 1, "fp32") - weights
    assert estimate_memory(made, 512, 1, "fp32") - weights == pytest.approx(4 * base, rel=0.02)
    assert estimate_memory(made, 256, 4, "fp32") - weights == pytest.approx(4 * base, rel=0.02)
    assert estimate_memory(made, 256, 1, "bf16") - weights == pytest.approx(0.5 * base, rel=0.15)
    # Measured as growth of the process's peak: 124 to 142 MB for a forward of 512 px, beside 57 MB of weights.
    assert 0.75 * 190e6 < estimate_memory(made, 512, 1, "fp32") < 1.25 * 190e6


def test_a_size_that_the_network_does_not_take_is_refused(tmp_path: Path) -> None:
    made = save_bundle(tmp_path / "fpn", card(architecture="FPN"), build(card(architecture="FPN")).state_dict())
    with pytest.raises(ModelError, match=r"FPN with encoder resnet18 does not take tiles of 500 px: Wrong input shape"):
        estimate_memory(made, 500, 1, "fp32")


def test_one_tile_at_a_time_on_a_cpu(bundle: Bundle) -> None:
    assert auto_batch(bundle, "cpu", "bf16", 64) == 1


@pytest.mark.parametrize(("tiles_that_fit", "expected"), [(1.2, 1), (2.5, 2), (9, 8), (1000, 64)])
def test_a_gpu_takes_what_its_memory_holds(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tiles_that_fit: float, expected: int
) -> None:
    tried: list[int] = []

    class Pretended:
        def __init__(self, _bundle: Bundle, **options: Any) -> None:
            assert options["device"] == "cuda:0"
            self.batch = options["batch"]

        def trial(self) -> None:
            tried.append(self.batch)

    weights = estimate_memory(bundle, 64, 1, "bf16") - (one := _activations(bundle))
    free = int((weights + one * tiles_that_fit) / module._SHARE)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 10 * free))
    monkeypatch.setattr("geounet.models.predictor.Predictor", Pretended)
    assert auto_batch(bundle, "cuda:0", "bf16", 64) == expected
    assert tried == [expected]


def _activations(bundle: Bundle) -> int:
    return estimate_memory(bundle, 64, 2, "bf16") - estimate_memory(bundle, 64, 1, "bf16")


def test_the_footprint_of_a_fixed_size_network_is_known() -> None:
    fixed = card(architecture="DPT", encoder="tu-vit_tiny_patch16_224", tile=TileSpec(size=224, fixed=True))
    made = Bundle(Path(), fixed, "")
    assert estimate_memory(made, 224, 1, "fp32") > 50e6
    with pytest.raises(ModelError, match="does not take tiles of 256 px"):
        estimate_memory(made, 256, 1, "fp32")
