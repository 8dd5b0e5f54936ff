"""Measures of a first training in the card of the one that continues it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from geounet.errors import ModelError, OutputExistsError
from geounet.models.bundle import Bundle, load_bundle, save_bundle
from geounet.training.release import main, release
from tests.support.models import small_unet

SCORES = {"miou": 0.5, "accuracy": 0.7, "iou": {"a": 0.5}, "precision": {"a": 0.6}, "recall": {"a": 0.6}, "pixels": 9}


def with_card(folder: Path, seed: int, **fields: object) -> Bundle:
    bundle = small_unet(folder, seed=seed)
    card = bundle.card.model_copy(update=fields)
    return save_bundle(folder, card, load_file(bundle.weights), half=True, overwrite=True)


def test_weights_of_one_and_measures_of_the_other(tmp_path: Path) -> None:
    scenes = {"train": ["a.tif"], "validation": [f"lagoon/{k}.tif" for k in range(9)], "test": ["town.tif"]}
    training = {"scenes": scenes, "steps": 5, "attribution": ["somebody"], "command": "geounet train first.yaml"}
    test = {**SCORES, "miou": 0.3}
    first = with_card(
        tmp_path / "first", 1, metrics={"measured_on": "test", **test, "validation": SCORES}, training=training
    )
    final = with_card(tmp_path / "final", 2, metrics={}, training={"steps": 7, "attribution": ["somebody"]})
    out = tmp_path / "out"
    assert main([str(final.folder), "--measured", str(first.folder), "--out", str(out)]) == 0
    made = load_bundle(out)
    before, after = load_file(final.weights), load_file(made.weights)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert made.card.metrics["miou"] == 0.5
    assert made.card.metrics["measured_on"] == "lagoon, held out of the training that this one continues"
    assert made.card.metrics["test"]["miou"] == 0.3
    assert made.card.metrics["test"]["measured_on"] == "town.tif, held out likewise"
    assert made.card.training["steps"] == 7
    assert made.card.training["earlier"]["command"] == "geounet train first.yaml"
    with pytest.raises(OutputExistsError):
        release(final.folder, first.folder, out)

    # a third training goes on from what was released: the measures stay those of the first, the chain is kept
    third = with_card(tmp_path / "third", 3, metrics={}, training={"steps": 9, "attribution": ["somebody"]})
    again = release(third.folder, out, tmp_path / "again").card
    assert again.metrics == made.card.metrics
    assert again.training["steps"] == 9
    assert again.training["earlier"]["steps"] == 7
    assert again.training["earlier"]["earlier"]["command"] == "geounet train first.yaml"


def test_nothing_is_claimed_that_was_not_measured(tmp_path: Path) -> None:
    plain = with_card(tmp_path / "plain", 1, metrics={}, training={})
    measured = with_card(tmp_path / "measured", 2, metrics=SCORES, training={"scenes": {"validation": ["a"]}})
    with pytest.raises(ModelError, match="no scenes were held out"):
        release(plain.folder, plain.folder, tmp_path / "out")
    with pytest.raises(ModelError, match="its own training"):
        release(measured.folder, measured.folder, tmp_path / "out")
    fewer = measured.card.classes[:2]
    other = measured.card.model_copy(update={"classes": fewer})
    weights = load_file(measured.weights)
    odd = save_bundle(tmp_path / "odd", other, weights, half=True)
    with pytest.raises(ModelError, match="its classes are not those"):
        release(plain.folder, odd.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_between_two(tmp_path: Path) -> None:
    training = {"scenes": {"validation": ["a.tif"]}}
    first = with_card(tmp_path / "first", 1, metrics=SCORES, training=training)
    final = with_card(tmp_path / "final", 2, metrics={}, training={"steps": 7})
    out = tmp_path / "out"
    options = ["--measured", str(first.folder), "--out", str(out), "--share", "0.25"]
    assert main([str(final.folder), *options]) == 0
    made = load_bundle(out)
    one, other, between = (load_file(bundle.weights) for bundle in (first, final, made))
    for key, value in between.items():
        if value.is_floating_point():
            expected = 0.75 * one[key].float() + 0.25 * other[key].float()
            assert torch.allclose(value.float(), expected, rtol=2e-3, atol=1e-3)  # half precision
        else:
            assert torch.equal(value, other[key])
    assert made.card.training["averaged"] == {"share": 0.25, "with": first.sha256}
    with pytest.raises(ModelError, match="--share 0: expected a number above 0"):
        release(final.folder, first.folder, tmp_path / "x", share=0)
    wider = small_unet(tmp_path / "wider", channels=4)
    weights = {**load_file(wider.weights), "more": torch.zeros(1)}
    save_bundle(tmp_path / "wider", first.card, weights, overwrite=True)
    with pytest.raises(ModelError, match="their networks differ"):
        release(final.folder, tmp_path / "wider", tmp_path / "x", share=0.5)
    assert not (tmp_path / "x").exists()
