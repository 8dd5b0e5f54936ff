"""Cards of models, and the layers that follow from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geounet.config.card import Card, Kind, read_card
from geounet.config.job import Buildings, Landcover, Roads
from geounet.config.layers import resolve_layers
from geounet.config.load import parse_job
from geounet.errors import JobError, ModelError


def card(**changes: Any) -> dict[str, Any]:
    return {
        "name": "m",
        "architecture": "Unet",
        "encoder": "resnet18",
        "input": {"bands": ["red"], "data_type": "uint8", "value_scaling": [{"mean": 0, "stddev": 1}]},
        "classes": [
            {"name": name, "code": code, "colour": "#010203", "kind": kind}
            for code, (name, kind) in enumerate([("field", "background"), ("house", "building"), ("street", "road")])
        ],
        **changes,
    }


def classes(*codes: int) -> list[dict[str, Any]]:
    return [{"name": f"c{i}", "code": code, "colour": "#000000"} for i, code in enumerate(codes)]


def write(folder: Path, data: Any) -> Path:
    path = folder / "model.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_card_survives_json(tmp_path: Path) -> None:
    read = read_card(write(tmp_path, card()))
    assert read_card(write(tmp_path, read.model_dump_json())) == read
    assert (read.head, read.channels) == ("softmax", 3)
    assert {c.name: c.rgb for c in read.classes}["house"] == (1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encodr": "x"}, "encodr: unknown key; did you mean encoder?"),
        ({"encoder": 5}, "encoder: found 5, expected text"),
        ({"activation": "tanh"}, "activation: found 'tanh', expected softmax or sigmoid"),
        ({"gsd": 0}, "gsd: found 0, expected a number above 0"),
        ({"gsd": float("inf")}, "gsd: found inf, expected a finite number"),
        ({"input": {**card()["input"], "fill": float("nan")}}, "input.fill: found nan, expected a finite number"),
        ({"gsd_range": [1, 0.5]}, "gsd_range: the finest comes first, found 1, 0.5"),
        ({"gsd": 2, "gsd_range": [0.5, 1]}, "gsd 2 lies outside of gsd_range 0.5, 1"),
        ({"classes": []}, "classes: found an empty list, expected at least 1 entry"),
        ({"classes": classes(0, 2)}, "with softmax the class codes are the channels 0, 1, …, found [0, 2]"),
        ({"classes": classes(1, 1)}, "classes: class code used twice: 1"),
        ({"classes": classes(0), "activation": "sigmoid"}, "with one sigmoid channel the class has code 1"),
        ({"input": {**card()["input"], "bands": ["a", "b"]}}, "input: value_scaling has 1 entries for 2 bands"),
        (
            {"input": {**card()["input"], "value_scaling": [{"mean": 0, "stddev": 0}]}},
            "input.value_scaling[0].stddev: found 0",
        ),
        ({"encoder": ""}, "encoder: missing; expected smp encoder name"),
        ({"library": "geounet"}, "architecture Unet is of library smp, found geounet"),
        ({"architecture": "ResUnet", "library": "smp", "encoder": ""}, "architecture ResUnet is of library geounet"),
        ({"architecture": "ResUnet"}, "architecture ResUnet has no choice of encoder, found 'resnet18'"),
        ({"architecture": "Ensemble", "encoder": ""}, "`members` and architecture Ensemble belong together, found"),
        ({"members": ["a", "b"]}, "`members` and architecture Ensemble belong together, found Unet and 2 members"),
        ({"members": ["../a"]}, "members: found '../a', expected the name of a folder inside the bundle"),
        ({"members": ["a", "b", "a"]}, "members: member named twice: a"),
    ],
)
def test_invalid_cards_are_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, card(**changes))
    with pytest.raises(ModelError) as info:
        read_card(path)
    assert str(info.value).startswith(f"{path}: {message}")
    assert "\n" not in str(info.value)


def test_the_library_follows_from_the_architecture(tmp_path: Path) -> None:
    own = read_card(write(tmp_path, card(architecture="AttentionUnet", encoder="")))
    assert (own.library, own.network) == ("geounet", "AttentionUnet")
    assert (read_card(write(tmp_path, card())).library, Card(**card()).network) == ("smp", "Unet with encoder resnet18")
    both = Card(**card(architecture="Ensemble", encoder="", members=["a", "b"]))
    assert (both.library, both.network) == ("geounet", "Ensemble of 2 models")


def test_what_is_no_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file; a model bundle holds"):
        read_card(tmp_path / "model.json")
    with pytest.raises(ModelError, match="not readable as JSON"):
        read_card(write(tmp_path, "{"))
    with pytest.raises(ModelError, match="found an empty list"):
        read_card(write(tmp_path, []))


def layers(vector: Any, **changes: Any) -> Any:
    job = parse_job({"scenes": ["a"], "model": "m", **({} if vector is ... else {"vector": vector})}, "test")
    return resolve_layers(job, Card.model_validate(card(**changes)))


def test_layers_follow_from_the_card() -> None:
    found = layers(...)
    assert found.buildings == Buildings(class_="house")
    assert found.roads == Roads(class_="street")
    assert found.landcover == Landcover()
    assert layers("none") is None
    found = layers(..., classes=classes(0, 1))
    assert (found.buildings, found.roads, found.landcover) == (False, False, Landcover())


def test_a_job_can_choose_layers() -> None:
    found = layers({"cell": 64, "buildings": {"class": "street", "min_area_m2": 3}, "roads": False, "landcover": True})
    assert found.cell == 64
    assert found.buildings == Buildings(class_="street", min_area_m2=3)
    assert (found.roads, found.landcover) == (False, Landcover())
    assert layers({"landcover": {"classes": ["field"]}}).landcover.classes == ["field"]


def test_a_binary_model_has_a_background() -> None:
    one = [{"name": "house", "code": 1, "colour": "#000000", "kind": Kind.building}]
    found = layers({"landcover": {"classes": ["background", "house"]}}, classes=one, activation="sigmoid")
    assert found.landcover.classes == ["background", "house"]
    assert found.buildings == Buildings(class_="house")


@pytest.mark.parametrize(
    ("vector", "changes", "message"),
    [
        (
            {"buildings": True},
            {"classes": classes(0, 1)},
            "vector.buildings: the model m has no class of kind building",
        ),
        (
            {"buildings": {"class": "hause"}},
            {},
            "vector.buildings.class: the model m has no class 'hause'; did you mean house?",
        ),
        (
            {"roads": {"class": "x"}},
            {},
            "vector.roads.class: the model m has no class 'x'; it has field, house, street",
        ),
        ({"landcover": {"classes": ["lake"]}}, {}, "vector.landcover.classes: the model m has no class 'lake'"),
        ({"landcover": True}, {"activation": "sigmoid"}, "vector.landcover: the classes of the model m may overlap"),
    ],
)
def test_layers_that_a_model_cannot_give(vector: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as info:
        layers(vector, **changes)
    assert str(info.value).startswith(message)


def test_a_multi_label_model_has_no_coverage() -> None:
    assert layers(..., activation="sigmoid").landcover is False
