"""`load_model`: whole arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import geounet
from geounet.config.card import TileSpec
from geounet.errors import ModelError
from geounet.models.bundle import Bundle, save_bundle
from geounet.models.network import build, load
from tests.support.local import card
from tests.support.models import small_unet


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_unet(tmp_path_factory.mktemp("models") / "small")


def raw(rows: int, cols: int, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(bands, rows, cols)).astype(np.uint8)


@pytest.mark.parametrize(("rows", "cols"), [(64, 64), (37, 90), (1, 1), (8, 3)])
def test_arrays_of_any_size(bundle: Bundle, rows: int, cols: int) -> None:
    model = geounet.load_model(str(bundle.folder), device="cpu", precision="fp32")
    array = raw(rows, cols)
    p = model.probabilities(array)
    assert p.dtype == np.float32
    assert p.shape == (4, rows, cols)
    values = (array.astype(np.float64) - 100) / 50
    padded = np.pad(values, ((0, 0), (0, -rows % 8), (0, -cols % 8)), mode="reflect")
    with torch.inference_mode():
        expected = load(bundle).double()(torch.from_numpy(padded[None])).softmax(dim=1)[0, :, :rows, :cols].numpy()
    np.testing.assert_allclose(p, expected, atol=1e-4)
    mask = model.predict(array)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, p.argmax(axis=0))


def test_invalid_pixels_are_filled_and_marked(bundle: Bundle) -> None:
    model = geounet.load_model(bundle.folder, device="cpu", precision="fp32")
    array = raw(40, 40).astype(np.float32)
    array[1, 4:9, 5:7] = np.nan
    mask = model.predict(array)
    assert (mask[4:9, 5:7] == 255).all()
    assert (mask != 255).sum() == 40 * 40 - 10
    valid = np.ones((40, 40), dtype=bool)
    valid[4:9, 5:7] = False
    filled = array.copy()
    filled[:, 4:9, 5:7] = 100  # the mean, which is the card's fill
    np.testing.assert_array_equal(model.probabilities(array, valid), model.probabilities(filled))
    with pytest.raises(ModelError, match="not finite where `valid` is true"):
        model.predict(array, np.ones((40, 40), dtype=bool))


def test_what_a_masked_array_masks_and_what_no_float32_holds_is_invalid(bundle: Bundle) -> None:
    model = geounet.load_model(bundle.folder, device="cpu", precision="fp32")
    array = raw(40, 40).astype(np.float64)
    hole = np.zeros(array.shape, dtype=bool)
    hole[0, :8, :8] = True
    expected = model.predict(array, ~hole.any(axis=0))
    assert (expected[:8, :8] == 255).all()
    array[:, :8, :8] = -9999
    np.testing.assert_array_equal(model.predict(np.ma.masked_array(array, hole)), expected)
    everywhere = np.ones((40, 40), dtype=bool)
    np.testing.assert_array_equal(model.predict(np.ma.masked_array(array, hole), everywhere), expected)
    array[:, :8, :8] = -1.8e308
    np.testing.assert_array_equal(model.predict(array), expected)


@pytest.mark.parametrize(("channels", "shape"), [(1, (40, 40)), (3, (3, 40, 40))])
def test_sigmoid_masks(tmp_path: Path, channels: int, shape: tuple[int, ...]) -> None:
    made = small_unet(tmp_path / "sigmoid", channels=channels, activation="sigmoid")
    model = geounet.load_model(made.folder, device="cpu", precision="fp32")
    array = raw(40, 40).astype(np.float32)
    array[:, 0, 0] = np.nan
    mask = model.predict(array)
    assert mask.shape == shape
    assert (mask[..., 0, 0] == 255).all()
    p = model.probabilities(array).reshape(channels, 40, 40)
    np.testing.assert_array_equal(mask.reshape(channels, 40, 40)[:, 1:], p[:, 1:] >= 0.5)


def test_arrays_that_do_not_fit(bundle: Bundle) -> None:
    model = geounet.load_model(bundle.folder, device="cpu", precision="fp32")
    for array in (raw(8, 8, bands=4), raw(8, 8)[0], raw(8, 0)):
        with pytest.raises(ModelError, match=r"takes an array \(bands, rows, cols\) with 3 bands \(red, green, blue\)"):
            model.predict(array)
    with pytest.raises(ModelError, match=r"valid is uint8 \(8, 8\), expected bool \(8, 8\)"):
        model.predict(raw(8, 8), np.ones((8, 8), dtype=np.uint8))


def test_networks_of_fixed_size_say_so(tmp_path: Path) -> None:
    arguments = {"encoder_depth": 2, "decoder_intermediate_channels": [16, 16], "decoder_fusion_channels": 16}
    fixed = card(
        architecture="DPT", encoder="tu-vit_tiny_patch16_224", arguments=arguments,
        tile=TileSpec(size=224, multiple_of=16, fixed=True),
    )  # fmt: skip
    made = save_bundle(tmp_path / "dpt", fixed, build(fixed).state_dict())
    model = geounet.load_model(made.folder, device="cpu", precision="fp32")
    assert model.predict(raw(224, 224)).shape == (224, 224)
    with pytest.raises(ModelError, match="takes 224 x 224 px only, found 100 x 224"):
        model.predict(raw(100, 224))
