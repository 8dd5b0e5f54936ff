"""Ensembles: the mean of their members' probabilities, and what members must agree on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import geounet
from geounet.config.card import Card, TileSpec
from geounet.errors import ModelError, OutputExistsError
from geounet.models import predictor as module
from geounet.models.batch import estimate_memory
from geounet.models.bundle import Bundle, load_bundle, save_bundle, save_ensemble
from geounet.models.members import ensemble_card, margin_of, stride_of
from geounet.models.network import build, load
from geounet.models.predictor import STEPS, Predictor
from tests.support.local import card
from tests.support.models import small_unet

TILE = 64


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("members")
    return [small_unet(folder / f"fold_{k}", seed=k) for k in range(3)]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_ceilings", {})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(n: int = 2, side: int = TILE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3, side, side)).astype(np.float32)


def rewrite(bundle: Bundle, **fields: Any) -> Bundle:
    """Change a bundle's card on disk."""
    (bundle.folder / "model.json").write_text(bundle.card.model_copy(update=fields).model_dump_json())
    return load_bundle(bundle.folder)


def steps(bundle: Bundle, tiles: np.ndarray, **options: Any) -> np.ndarray:
    return Predictor(bundle, tile=TILE, **options).quantised(tiles)


def test_two_identical_members_are_the_single_model(members: list[Bundle], tmp_path: Path) -> None:
    twice = save_ensemble(tmp_path / "twice", [members[0].folder] * 2)
    for options in ({}, {"tta": "flips"}, {"precision": "bf16"}):
        np.testing.assert_array_equal(steps(twice, noise(), **options), steps(members[0], noise(), **options))


def test_different_members_give_the_mean_of_probabilities(members: list[Bundle], tmp_path: Path) -> None:
    tiles = noise()
    alone = [Predictor(b, tile=TILE).probabilities(tiles).astype(np.float64) for b in members]
    three = save_ensemble(tmp_path / "three", [b.folder for b in members])
    found = steps(three, tiles, batch=2)
    assert np.abs(found - np.mean(alone, axis=0) * STEPS).max() < 1
    # Logits would give something else.
    geometric = np.exp(np.mean(np.log(np.maximum(alone, 1e-30)), axis=0))
    geometric /= geometric.sum(axis=1, keepdims=True)
    assert np.abs(found / STEPS - geometric).max() > 0.01
    # Sums of floats: another order may turn the last bit, which is one step at most.
    backwards = save_ensemble(tmp_path / "backwards", [b.folder for b in members[::-1]])
    assert np.abs(steps(backwards, tiles) - found).max() <= 1
    assert backwards.sha256 != three.sha256


def test_sigmoid_heads_are_averaged_too(tmp_path: Path) -> None:
    pair = [small_unet(tmp_path / f"m{k}", seed=k, channels=2, activation="sigmoid") for k in range(2)]
    both = save_ensemble(tmp_path / "both", [b.folder for b in pair])
    mean = np.mean([Predictor(b, tile=TILE).probabilities(noise()) for b in pair], axis=0)
    assert np.abs(steps(both, noise()) - mean * STEPS).max() < 1


def test_members_keep_their_own_normalisation_and_fill(members: list[Bundle], tmp_path: Path) -> None:
    """Against `load_model` of each member on raw values with invalid pixels."""
    given = members[1].card.input
    scaling = [s.model_copy(update={"mean": 60.0 + 20 * k, "stddev": 30.0}) for k, s in enumerate(given.value_scaling)]
    copy = save_bundle(tmp_path / "copy", members[1].card, load(members[1]).state_dict())
    other = rewrite(copy, input=given.model_copy(update={"value_scaling": scaling, "fill": -2.0}))
    both = save_ensemble(tmp_path / "both", [members[0].folder, other.folder])
    assert np.isnan(both.reading.fill)
    assert members[0].reading.fill == 0
    raw = np.random.default_rng(3).integers(0, 255, (3, 40, 56)).astype(np.uint8)
    valid = np.ones((40, 56), dtype=bool)
    valid[10:20, 30:] = False
    options = {"device": "cpu", "precision": "fp32"}
    alone = [geounet.load_model(b.folder, **options).probabilities(raw, valid) for b in (members[0], other)]
    found = geounet.load_model(both.folder, **options).probabilities(raw, valid)
    np.testing.assert_allclose(found, np.mean(alone, axis=0), atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.2


def test_networks_may_differ(members: list[Bundle], tmp_path: Path) -> None:
    """The tile grid suits all of them, and one with valid convolutions gets its margin."""
    made = card(architecture="Unet2015", encoder="", arguments={"width": 2, "depth": 4, "padding": "valid"}, name="v",
                tile=TileSpec(size=64, overlap=0, multiple_of=16))  # fmt: skip
    valid = save_bundle(tmp_path / "valid", made, build(made).state_dict())
    both = save_ensemble(tmp_path / "both", [members[0].folder, valid.folder], description="two kinds")
    assert (stride_of(members[0]), stride_of(both)) == (8, 16)
    assert (margin_of(members[0]), margin_of(both)) == (0, 94)
    predictor = Predictor(both, tile=TILE)
    tiles = noise(side=TILE + 2 * 94)
    inner = np.ascontiguousarray(tiles[:, :, 94:-94, 94:-94])
    alone = [Predictor(members[0], tile=TILE).probabilities(inner), Predictor(valid, tile=TILE).probabilities(tiles)]
    assert np.abs(predictor.quantised(tiles) - np.mean(alone, axis=0) * STEPS).max() < 1
    assert both.card.description == "two kinds"
    assert both.card.tile == TileSpec(size=64, overlap=16, multiple_of=16)


def test_memory_holds_all_weights_but_one_forward(members: list[Bundle], tmp_path: Path) -> None:
    three = save_ensemble(tmp_path / "three", [b.folder for b in members])
    one, all_ = (estimate_memory(b, TILE, 1, "fp32") for b in (members[0], three))
    assert all_ - one == pytest.approx(2 * members[0].size, rel=0.1)
    assert three.size == sum(b.size for b in members)
    assert three.card.total_parameters == sum(b.card.total_parameters or 0 for b in members)


def test_the_files_and_their_checksum(members: list[Bundle], tmp_path: Path) -> None:
    made = save_ensemble(tmp_path / "both", [b.folder for b in members[:2]], name="two", metrics={"miou": 0.5})
    assert sorted(p.relative_to(made.folder).as_posix() for p in made.folder.rglob("*") if p.is_file()) == [
        "fold_0/model.json", "fold_0/model.safetensors", "fold_1/model.json", "fold_1/model.safetensors", "model.json",
    ]  # fmt: skip
    content = b"".join((made.folder / name).read_bytes() for name in (
        "model.json", "fold_0/model.json", "fold_0/model.safetensors", "fold_1/model.json", "fold_1/model.safetensors"
    ))  # fmt: skip
    assert made.sha256 == hashlib.sha256(content).hexdigest()
    assert (made.card.name, made.card.members, made.card.metrics) == ("two", ["fold_0", "fold_1"], {"miou": 0.5})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both"]
    rewrite(load_bundle(made.folder / "fold_1"), description="changed")
    assert load_bundle(made.folder).sha256 != made.sha256


def test_members_of_one_name_are_numbered(members: list[Bundle], tmp_path: Path) -> None:
    made = save_ensemble(tmp_path / "twice", [members[0].folder, members[0].folder])
    assert made.card.members == ["member_0", "member_1"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"activation": "sigmoid"}, "member fold_1 has activation sigmoid, the ensemble softmax"),
        ({"classes": card(channels=3).classes}, "member fold_1 has classes 0 land background, 1 building building, 2"),
        ({"input": card(bands=2).input}, "member fold_1 has bands red, green, the ensemble red, green, blue"),
        ({"tile": TileSpec(size=128, fixed=True)}, "members take tiles of 128 px only"),
    ],
)
def test_members_that_do_not_agree_are_refused(
    members: list[Bundle], tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    made = save_ensemble(tmp_path / "both", [b.folder for b in members[:2]])
    if "activation" in fields:
        fields = {**fields, "classes": card(activation="sigmoid").classes}
    rewrite(made.members[1], **fields)
    with pytest.raises(ModelError, match=words) as caught:
        load_bundle(made.folder)
    assert "\n" not in str(caught.value)
    if "tile" not in fields:
        with pytest.raises(ModelError, match=words.replace("fold_1", "x")):
            save_ensemble(tmp_path / "new", [members[0].folder, (made.folder / "fold_1").rename(tmp_path / "x")])
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(0.3, None), (0.3, None)], (0.3, None)),
        ([(None, None), (0.5, None)], (0.5, None)),
        ([(0.3, (0.2, 0.6)), (0.5, (0.3, 0.8)), (0.4, (0.1, 0.5))], (0.4, (0.3, 0.5))),
        ([(0.3, (0.2, 0.6)), (0.5, None)], (0.5, None)),
        ([(None, (0.2, 0.6)), (0.7, (0.4, 0.8))], (0.6, (0.4, 0.6))),
    ],
)
def test_an_ensemble_knows_the_resolutions_that_all_members_know(given: Any, expected: Any) -> None:
    cards = {f"m{k}": card(gsd=gsd, gsd_range=span) for k, (gsd, span) in enumerate(given)}
    found = ensemble_card("all", cards, {})
    assert (found.gsd, found.gsd_range) == expected


def test_the_overlap_of_an_ensemble_suits_all_members() -> None:
    coarse = card(name="coarse").model_copy(update={"tile": TileSpec(size=512, multiple_of=32)})
    fine = card(name="fine").model_copy(update={"tile": TileSpec(size=512, overlap=40, multiple_of=8)})
    found = ensemble_card("both", {"a": coarse, "b": fine}, {}).tile
    assert (found.overlap, found.multiple_of) == (64, 32)
    windows = coarse.model_copy(update={"tile": TileSpec(size=256, multiple_of=256)})
    tile = TileSpec(size=256, overlap=64, multiple_of=32)
    found = ensemble_card("both", {"a": fine.model_copy(update={"tile": tile}), "b": windows}, {}).tile
    assert (found.size, found.overlap, found.multiple_of) == (512, 256, 256)
    tile = TileSpec(size=224, multiple_of=32, fixed=True)
    found = ensemble_card("both", {"a": fine, "b": fine.model_copy(update={"tile": tile})}, {}).tile
    assert (found.size, found.overlap, found.fixed) == (224, 40, True)
    large = fine.model_copy(update={"tile": TileSpec(size=1024, overlap=256)})
    found = ensemble_card("both", {"a": large, "b": fine.model_copy(update={"tile": tile})}, {}).tile
    assert (found.size, found.overlap) == (224, 112)
    fine = fine.model_copy(update={"tile": TileSpec(size=64, overlap=32, multiple_of=8)})
    found = ensemble_card("both", {"a": fine, "b": coarse.model_copy(update={"tile": TileSpec(size=64)})}, {}).tile
    assert (found.overlap, found.multiple_of) == (32, 32)


def test_members_that_see_past_their_tiles_need_no_overlap() -> None:
    valid = {"architecture": "Unet2015", "encoder": "", "arguments": {"padding": "valid", "depth": 2, "width": 4}}
    plain = card().model_copy(update={"tile": TileSpec(size=64)})
    one = Card.model_validate({**plain.model_dump(), **valid, "library": "geounet"})
    assert ensemble_card("both", {"a": one, "b": one}, {}).tile.overlap == 0
    assert ensemble_card("both", {"a": one, "b": plain}, {}).tile.overlap is None


def test_members_of_other_resolutions_are_refused(members: list[Bundle], tmp_path: Path) -> None:
    cards = {"a": card(gsd=0.3, gsd_range=(0.2, 0.4)), "b": card(gsd=0.5)}
    with pytest.raises(ModelError, match=r"different ground sample distances: a 0.2 to 0.4 m, b 0.5 m"):
        ensemble_card("all", cards, {})
    made = save_ensemble(tmp_path / "both", [b.folder for b in members[:2]])
    rewrite(made.members[1], gsd=0.5)
    with pytest.raises(ModelError, match=r"member fold_1 was trained on 0.5 m, the ensemble says any ground sample"):
        load_bundle(made.folder)


def test_what_is_no_ensemble_is_refused(members: list[Bundle], tmp_path: Path) -> None:
    made = save_ensemble(tmp_path / "both", [b.folder for b in members[:2]])
    with pytest.raises(ModelError, match="two members or more, found 1"):
        save_ensemble(tmp_path / "one", [members[0].folder])
    with pytest.raises(ModelError, match="member both is an ensemble itself; list its members instead"):
        save_ensemble(tmp_path / "nested", [made.folder, members[2].folder])
    with pytest.raises(OutputExistsError, match="exists already"):
        save_ensemble(made.folder, [b.folder for b in members])
    with pytest.raises(ModelError, match="is an ensemble of 2 models, where a single network is needed"):
        load(made)
    (made.folder / "fold_1" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"fold_1.model.safetensors: no such file"):
        load_bundle(made.folder)
    (made.folder / "fold_1").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"fold_1: no such folder; model.json of the ensemble both names it"):
        load_bundle(made.folder)


def test_bundles_and_ensembles_replace_each_other(members: list[Bundle], tmp_path: Path) -> None:
    where = tmp_path / "model"
    save_ensemble(where, [b.folder for b in members[:2]])
    assert save_ensemble(where, [b.folder for b in members], overwrite=True).card.members == [
        "fold_0", "fold_1", "fold_2"
    ]  # fmt: skip
    single = save_bundle(where, members[0].card, load(members[0]).state_dict(), overwrite=True)
    assert sorted(p.name for p in where.iterdir()) == ["model.json", "model.safetensors"]
    assert single.members == ()
    assert save_ensemble(where, [b.folder for b in members[:2]], overwrite=True).members
    (where / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"more than a model bundle: notes.txt"):
        save_ensemble(where, [b.folder for b in members[:2]], overwrite=True)
    assert json.loads((where / "model.json").read_text())["members"] == ["fold_0", "fold_1"]
