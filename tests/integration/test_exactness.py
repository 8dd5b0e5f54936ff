"""Tiled equals direct, to the bit, with a network that is local: sizes, blocks, orders, nodata, heads."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from geounet.grid.weights import STEPS
from tests.support.local import TILE, LocalNetwork, card, run_local, use_network, write_scene

SIZES = (1, 31, TILE - 1, TILE, TILE + 1, 3 * TILE + 7)


def expected(network: LocalNetwork, values: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[Any, Any, Any]:
    x = (values.astype(np.float32) - np.float32(100)) * np.float32(1 / 50)
    p = network.probabilities(x)
    ordered = np.sort(p, axis=0)
    margin = ordered[-1] - ordered[-2] if len(p) > 1 else np.abs(2 * p[0] - 1)
    return p, margin, valid


def check(network: LocalNetwork, mask: Any, prob: Any, values: Any, valid: Any) -> None:
    p, margin, _ = expected(network, values, valid)
    head = network.card.head
    direct = p.argmax(axis=0)[None] if head == "softmax" else (p >= 0.5)
    sure = valid & (margin > 1 / STEPS) if head != "multilabel" else valid & (np.abs(p - 0.5) > 1 / STEPS).all(axis=0)
    assert (mask[:, sure] == direct[:, sure]).all()
    assert (mask[:, ~valid] == 255).all()
    assert (mask[:, valid] < 255).all()
    assert (prob[:, ~valid] == 255).all()
    half_step = 0.5 / 254 + 0.5 / STEPS
    assert np.abs(prob[:, valid] / 254 - p[:, valid]).max(initial=0) <= half_step + 1e-9


@pytest.mark.parametrize(("rows", "cols"), list(itertools.product(SIZES, SIZES)))
def test_tiled_equals_direct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, cols: int) -> None:
    network = LocalNetwork(card())
    use_network(monkeypatch, network, tmp_path)
    values = np.random.default_rng(rows * 1000 + cols).integers(0, 256, (3, rows, cols), dtype=np.uint8)
    scene = write_scene(tmp_path / "scene.tif", values)
    mask, prob, infer = run_local(tmp_path, network, scene, side=2)
    check(network, mask, prob, values, np.ones((rows, cols), bool))
    assert sum(r["tiles"] for r in infer.values()) == network.tiles


@pytest.mark.parametrize("overlap", [0, 8, 16])
def test_blocks_and_order_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlap: int) -> None:
    network = LocalNetwork(card(channels=5))
    use_network(monkeypatch, network, tmp_path)
    values = np.random.default_rng(5).integers(0, 256, (3, 150, 117), dtype=np.uint8)
    values[:, 40:90, 30:100] = 0
    scene = write_scene(tmp_path / "scene.tif", values, nodata=0)
    results = []
    for side, shuffle in ((1, None), (1, 3), (2, 4), (5, None), (99, None)):
        network.tiles = 0
        mask, prob, _ = run_local(
            tmp_path, network, scene, side=side, shuffle=shuffle, overlap=overlap, name=f"run{side}{shuffle}"
        )
        results.append((mask, prob, network.tiles))
    for mask, prob, tiles in results[1:]:
        assert (mask == results[0][0]).all()
        assert (prob == results[0][1]).all()
        assert tiles == results[0][2], "every tile is inferred once"
    check(network, results[0][0], results[0][1], values, values.any(axis=0))


@pytest.mark.parametrize(("rows", "cols"), [(2 * TILE + 1, TILE + 1), (TILE + 1, 3 * TILE + 1), (2 * TILE + 2, 97)])
def test_a_last_tile_of_one_pixel_without_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, cols: int
) -> None:
    """It is mirrored as a whole, and no pixel of it is read twice."""
    network = LocalNetwork(card())
    use_network(monkeypatch, network, tmp_path)
    values = np.random.default_rng(7).integers(0, 256, (3, rows, cols), dtype=np.uint8)
    scene = write_scene(tmp_path / "scene.tif", values)
    results = [run_local(tmp_path, network, scene, side=s, overlap=0, name=f"run{s}")[:2] for s in (1, 2, 99)]
    for mask, prob in results:
        check(network, mask, prob, values, np.ones((rows, cols), bool))
        assert (mask == results[0][0]).all()
        assert (prob == results[0][1]).all()


def test_constant_input_gives_constant_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = LocalNetwork(card())
    use_network(monkeypatch, network, tmp_path)
    scene = write_scene(tmp_path / "scene.tif", np.full((3, 103, 71), 77, np.uint8))
    mask, prob, _ = run_local(tmp_path, network, scene, side=2)
    assert (prob == prob[:, :1, :1]).all()
    assert (mask == mask[0, 0, 0]).all()


@pytest.mark.parametrize(("activation", "channels"), [("sigmoid", 1), ("sigmoid", 3), ("softmax", 2)])
def test_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, activation: str, channels: int) -> None:
    network = LocalNetwork(card(channels=channels, activation=activation), seed=2)
    use_network(monkeypatch, network, tmp_path)
    values = np.random.default_rng(1).integers(0, 256, (3, 65, 90), dtype=np.uint8)
    values[:, :20, :50] = 0
    scene = write_scene(tmp_path / "scene.tif", values, nodata=0)
    mask, prob, _ = run_local(tmp_path, network, scene)
    assert len(mask) == (channels if activation == "sigmoid" else 1)
    check(network, mask, prob, values, values.any(axis=0))


def test_tiles_without_a_valid_pixel_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = LocalNetwork(card())
    use_network(monkeypatch, network, tmp_path)
    values = np.random.default_rng(1).integers(1, 256, (3, 24 * 6 + 8, 24 * 6 + 8), dtype=np.uint8)
    values[:, :, 60:] = 0
    scene = write_scene(tmp_path / "scene.tif", values, nodata=0)
    _, _, infer = run_local(tmp_path, network, scene, side=2)
    assert sum(r["tiles"] for r in infer.values()) == 6 * 3, "tiles start at columns 0, 24, 48, 72, …"


@pytest.mark.parametrize("model_shape", [(60, 45), (200, 150), (120, 90), (60, 150), (200, 90)])
def test_resampled_is_the_same_for_any_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_shape: tuple[int, int]
) -> None:
    network = LocalNetwork(card())
    use_network(monkeypatch, network, tmp_path)
    rng = np.random.default_rng(2)
    values = rng.integers(1, 256, (3, 120, 90), dtype=np.uint8)
    values[:, 70:, 30:60] = 0
    scene = write_scene(tmp_path / "scene.tif", values, nodata=0)
    results = [
        run_local(tmp_path, network, scene, side=side, model_shape=model_shape, name=f"run{side}")[:2]
        for side in (1, 2, 99)
    ]
    for mask, prob in results:
        assert mask.shape == (1, 120, 90)
        assert (mask == results[0][0]).all()
        assert (prob == results[0][1]).all()
    mask = results[0][0][0]
    valid = values.any(axis=0)
    assert (mask[~valid] == 255).all(), "nodata of the scene stays nodata"
    assert (mask[valid] != 255).mean() > 0.95


def test_resampled_constant_stays_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = LocalNetwork(card())
    use_network(monkeypatch, network, tmp_path)
    scene = write_scene(tmp_path / "scene.tif", np.full((3, 100, 80), 77, np.uint8))
    mask, prob, _ = run_local(tmp_path, network, scene, model_shape=(37, 30))
    assert (prob == prob[:, :1, :1]).all()
    assert (mask == mask[0, 0, 0]).all()
