"""Training jobs: keys, classes, labels, paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from geounet.config.load import InvalidJobError
from geounet.config.schema import job_schema
from geounet.config.train import TrainJob, load_train, parse_train
from geounet.errors import JobError
from geounet.labels.values import IGNORED, barred_class, describe, is_partial, partial, value_of

DATA: dict[str, Any] = {"scenes": "images/*.tif", "labels": [{"files": "houses.gpkg", "class": "building"}]}
JOB: dict[str, Any] = {"classes": ["land", "building"], "data": [DATA]}


def job(**changes: Any) -> dict[str, Any]:
    return {**JOB, **changes}


def first_problem(data: dict[str, Any]) -> str:
    with pytest.raises(InvalidJobError) as caught:
        parse_train(data, "t")
    return caught.value.lines[0].removeprefix("t: ")


def test_the_least_that_a_job_says() -> None:
    found = parse_train(JOB, "t")
    assert found.codes() == {"land": 0, "building": 1}
    assert [info.kind for info in found.infos()] == ["other", "building"]
    assert found.data[0].scenes == ["images/*.tif"]
    assert [t.name for t in found.terms()] == ["cross-entropy", "dice"]


def test_codes_of_a_sigmoid_start_after_the_background() -> None:
    found = parse_train(job(classes=["building"], model={"activation": "sigmoid"}), "t")
    assert found.codes() == {"background": 0, "building": 1}
    assert [info.code for info in found.infos()] == [1]
    assert [t.name for t in found.terms()] == ["binary-cross-entropy", "dice"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"rotation": [0, 1]}}, "augment.rotation: unknown key; did you mean augment.rotation_deg?"),
        ({"samplings": {}}, "samplings: unknown key; did you mean sampling?"),
        ({"data": [{**DATA, "label": 1}]}, "data[0].label: unknown key; did you mean data[0].labels?"),
        ({"classes": ["a", "a"]}, "classes: class name used twice: a"),
        ({"classes": ["land", "ignored"]}, "no class can be named ignored"),
        ({"classes": ["building"]}, "one class and activation softmax"),
        ({"augment": {"scale": [2, 1]}}, "augment: scale: found 2 to 1"),
        ({"augment": {"gamma": [0, 1]}}, "augment: gamma: found 0 to 1, expected a lowest and a highest, of at least"),
        ({"augment": {"elastic": {"amplitude_px": [0, 20], "spacing_px": 32}}}, "folds the picture"),
        ({"augment": {"noise": {"range": [0, 1], "chance": 2}}}, "found 2, expected a number of at most 1"),
        ({"augment": {"paste": [0.5, 2]}}, "paste: found 2, expected a share of the window"),
        ({"split": {"folds": 5, "fold": 5}}, "fold 5: expected 0 to 4"),
        ({"split": {"folds": 5, "validation": ["a"]}}, "found validation and folds"),
        ({"loss": {"terms": [{"name": "dice", "gamma": 2}]}}, "gamma is no option of dice, which has: smooth"),
        ({"loss": {"class_weights": {"tree": 2}}}, "loss.class_weights: 'tree' is no class"),
        ({"bands": ["red"], "data": [{**DATA, "bands": [1, 2]}]}, "data[0].bands: 2 bands for the job's 1"),
        ({"bands": ["red", "nir", "red"]}, "bands: red is named twice"),
        ({"optimiser": {"momentum": 1}}, "optimiser.momentum: found 1, expected a number below 1"),
        (
            {"classes": ["building"], "model": {"activation": "sigmoid"}, "loss": {"class_weights": "balanced"}},
            "loss.class_weights: one class and activation sigmoid leave nothing to weigh",
        ),
        (
            {"data": [{"generated": {"seeds": [1, 2]}, "aoi": "a.gpkg", "gsd": 2}]},
            "aoi, gsd: for files; generated scenes have",
        ),
        ({"data": [{"scenes": "a.tif"}]}, "labels: missing"),
        ({"data": [{**DATA, "generated": {"seeds": [1, 2]}}]}, "expected one of scenes and generated"),
        ({"data": [{"generated": {"seeds": [2, 1]}}]}, "found 2 to 1, expected a first and a last seed"),
        ({"run": {"device": "gpu"}}, "run.device: found 'gpu', expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], message: str) -> None:
    assert message in first_problem(job(**changes))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"class": "house"}, "data[0].labels[0].class: 'house' is no class; known are land, building, ignored"),
        ({"values": {1: "house"}}, "data[0].labels[0].values.1: 'house' is no class"),
        ({"values": {1: {"not": "house"}}}, "data[0].labels[0].values.1: 'house' is no class"),
        ({"colours": {"#ffffff": "house"}}, "data[0].labels[0].colours.#ffffff: 'house' is no class"),
        ({"class": "land", "others": "house"}, "data[0].labels[0].others: 'house' is no class"),
        ({"class": "land", "contact": {"distance_m": 1}}, "labels[0].contact.class: 'contact' is no class"),
        ({"class": "land", "contact": {"class": "land"}}, "expected one of distance_m and distance_px"),
        ({"class": "land", "values": {1: "land"}}, "found values and class, expected one of them"),
        ({"column": "type"}, "column type needs values"),
        ({"colours": {"white": "land"}}, "found white, expected a colour as '#3C1098'"),
    ],
)
def test_mistakes_of_labels_are_told(label: dict[str, Any], message: str) -> None:
    assert message in first_problem(job(data=[{"scenes": "a.tif", "labels": [{"files": "b.gpkg", **label}]}]))


def test_values_may_be_numbers_words_and_truths(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(
        "classes: [land, building]\ndata:\n  - scenes: a.tif\n    labels:\n      - files: b.gpkg\n        column: c\n"
        "        values: {1: building, barn: building, -3: land, 'true': {not: land}}\n"
    )
    labels = load_train(file).data[0].labels
    assert labels is not None
    values = labels[0].values
    assert values is not None
    assert {k: v for k, v in values.items() if isinstance(v, str)} == {
        "1": "building",
        "barn": "building",
        "-3": "land",
    }
    assert value_of(values["true"], {"land": 0}) == partial(0)


def test_paths_start_from_the_file_and_overrides_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "jobs" / "t.yaml"
    file.parent.mkdir()
    file.write_text(
        "out: ../results\nclasses: [land, building]\nmodel: {start: ./old}\n"
        "data:\n  - scenes: a.tif\n    labels: [{files: b.tif}]\n"
    )
    found = load_train(file)
    assert (found.out, found.root) == (str(tmp_path / "jobs/../results"), str(tmp_path / "jobs"))
    assert found.model.start == str(tmp_path / "jobs/old")
    assert found.data[0].scenes == ["a.tif"]  # joined with root when files are looked for
    monkeypatch.chdir(tmp_path)
    text = file.read_text()
    file.write_text(text.replace("out: ../results", "out:\nroot:"))  # as if the keys were not there
    found = load_train(file)
    assert (found.out, found.root) == (str(tmp_path / "jobs/out"), str(tmp_path / "jobs"))
    file.write_text(text)
    found = load_train(file, ["root=data", "run.steps=7", "split.validation=[x, y]", "augment.scale=[0.5, 2]"])
    assert found.root == str(tmp_path / "data")
    assert found.run.steps == 7
    assert found.split.validation == ["x", "y"]
    assert found.augment.scale is not None
    assert found.augment.scale.range == [0.5, 2.0]


def test_problems_name_their_line(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("classes: [land, building]\ndata:\n  - scenes: a.tif\n    labels:\n      - fils: b.tif\n")
    with pytest.raises(InvalidJobError) as caught:
        load_train(file)
    assert f"{file}:5: data[0].labels[0].fils: unknown key; did you mean data[0].labels[0].files?" in caught.value.lines
    with pytest.raises(JobError, match=r"--set run.stepps=1: unknown key run.stepps; did you mean run.steps\?"):
        load_train(file, ["run.stepps=1"])
    file.write_text("")
    with pytest.raises(JobError, match=r"t.yaml:1: empty; a job file needs at least `classes:` and `data:`"):
        load_train(file)


def test_partial_labels() -> None:
    codes = {"land": 0, "building": 1}
    job_ = TrainJob.model_validate(job(data=[{**DATA, "complete": {"rest": {"not": "building"}}}]))
    complete = job_.data[0].complete
    assert complete is not None
    value = value_of(complete.rest, codes)
    assert value == partial(1) == 253
    assert is_partial(value)
    assert barred_class(value) == 1
    assert describe(value, codes) == "not building"
    assert not any(is_partial(v) for v in (*range(100), IGNORED))
    assert all(is_partial(partial(k)) and barred_class(partial(k)) == k for k in range(101))


@pytest.mark.parametrize(
    "data",
    [
        JOB,
        job(classes=[{"name": "a", "kind": "road", "colour": "#123456"}, "b"], data=[{"generated": {"seeds": [1, 2]}}]),
        job(augment={"scale": [0.5, 2], "noise": {"range": [0, 0.1], "chance": 0.5}}),
        job(augment={"scale": [0.5]}),
        job(augment={"scale": "wide"}),
        job(data=[{**DATA, "complete": {"area": [0, 0, 1, 1], "crs": "EPSG:4326", "rest": {"not": "land"}}}]),
        job(data=[{**DATA, "complete": {"area": [0, 0, 1], "rest": "land"}}]),
        job(data=[{**DATA, "complete": {}}]),
        job(data=[{"scenes": ["a", "b"], "labels": [{"files": "x", "values": {"1": "land"}, "others": "skip"}]}]),
        job(data=[{"scenes": [], "labels": [{"files": "x"}]}]),
        job(split={"validation": 0.2, "test": ["a"]}),
        job(data=[{**DATA, "scenes": {"name": "a", "files": ["1.tif", "2.tif"]}}]),
        job(data=[{**DATA, "scenes": ["x.tif", {"name": "a", "files": ["1.tif", "2.tif"]}]}]),
        job(data=[{**DATA, "scenes": {"name": "a"}}]),
        job(split={"validation": 2}),
        job(loss={"class_weights": {"land": 2}, "terms": [{"name": "focal", "gamma": 2}]}),
        job(loss={"terms": [{"name": "hinge"}]}),
        job(optimiser={"average": 1}),
        {"data": [DATA]},
    ],
)
def test_editors_and_the_program_agree(data: dict[str, Any]) -> None:
    try:
        parse_train(data, "test")
        valid = True
    except JobError:
        valid = False
    assert Draft7Validator(job_schema("train")).is_valid(data) is valid
