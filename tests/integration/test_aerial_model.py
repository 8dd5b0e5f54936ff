"""The bundled model `aerial`: its card says where it comes from, and it knows what it was shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

import geounet
from geounet.models.bundle import Bundle, load_bundle
from geounet.testing.scenes import CLASSES
from geounet.testing.scenes import window as made_up
from geounet.types import Rect

COLOURS = {0x3C1098: 0, 0x8429F6: 1, 0x6EC1E4: 2, 0xFEDD3A: 3, 0xE2A929: 4}
"""Of the labels of Dubai: building, land, road, vegetation, water."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("aerial")


@pytest.fixture(scope="module")
def model() -> geounet.Model:
    return geounet.load_model("aerial", device="cpu")


def test_the_card_says_where_it_comes_from(bundle: Bundle) -> None:
    card = bundle.card
    assert [c.name for c in card.classes] == ["building", "land", "road", "vegetation", "water"]
    assert [c.kind for c in card.classes] == ["building", "other", "road", "other", "other"]
    assert card.licence == "CC-BY-4.0"
    whose = " ".join(card.training["attribution"])
    assert "CC0" in whose
    assert "OpenStreetMap contributors, ODbL" in whose
    assert "Her Majesty the Queen in Right of Canada" in whose
    assert card.training["command"].startswith("geounet train workflows/train_aerial_towns.yaml")
    assert {name.split("/")[0] for name in card.training["scenes"]["train"]} == {
        "dubai_mbrsc",
        "banepa_oam",
        "bakerlake_nb",
    }, "only data whose licence allows it"
    assert card.gsds is not None
    assert card.gsds[0] <= 0.15
    assert card.gsds[1] >= 1.5
    assert card.metrics["iou"].keys() == {c.name for c in card.classes}
    assert "held out" in card.metrics["measured_on"]


def test_it_ships(bundle: Bundle) -> None:
    assert sum(p.stat().st_size for p in bundle.folder.iterdir()) < 30_000_000
    assert bundle.folder.parent.name == "bundled"


def labels(path: Path, window: Window) -> np.ndarray:
    with rasterio.open(path) as file:
        planes = file.read([1, 2, 3], window=window) if file.count >= 3 else None
        if planes is None:  # a palette
            table = np.array([file.colormap(1).get(i, (0, 0, 0, 255))[:3] for i in range(256)], np.uint32)
            planes = np.moveaxis(table[file.read(1, window=window)], -1, 0)
    keys = (planes[0].astype(np.uint32) << 16) | (planes[1].astype(np.uint32) << 8) | planes[2]
    found = np.full(keys.shape, 255, np.uint8)
    for key, code in COLOURS.items():
        found[keys == key] = code
    return found


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("tile", "part", "least"), [(4, 5, 0.5), (6, 4, 0.6), (7, 2, 0.7), (8, 5, 0.8)])
def test_it_knows_what_it_was_shown(
    shared_data: Path, model: geounet.Model, tile: int, part: int, least: float
) -> None:
    folder = shared_data / "dubai_mbrsc" / f"tile{tile}"
    window = Window(0, 0, 512, 512)
    with rasterio.open(folder / f"images/image_part_{part:03}.jpg") as file:
        image = file.read(window=window)
    truth = labels(folder / f"masks/image_part_{part:03}.png", window)
    found = model.predict(image)
    known = truth != 255
    assert known.mean() > 0.5
    assert (found[known] == truth[known]).mean() >= least


def test_it_finds_roofs_in_a_made_up_town(model: geounet.Model) -> None:
    """Not what it has learnt from, but a network whose weights were lost or whose bands were swapped finds none."""
    image, truth = made_up(20_001, Rect(0, 0, 512, 512))
    found = model.predict(image) == 0
    roofs = truth == CLASSES.index("building")
    assert roofs.mean() > 0.1
    assert found[roofs].mean() > 0.25
    assert found[roofs].mean() > 5 * found[~roofs].mean()


def test_bf16_says_nearly_the_same() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 8, 8)).repeat(40, axis=1).repeat(40, axis=2).astype(np.uint8)
    full, half = (
        geounet.load_model("aerial", device="cpu", precision=p).probabilities(image) for p in ("fp32", "bf16")
    )
    assert np.abs(full - half).mean() < 0.02
