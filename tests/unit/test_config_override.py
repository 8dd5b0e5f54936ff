"""`--set key.sub=value`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from geounet.config.job import Job
from geounet.config.keys import alternatives, dotted, entries, fields, sections
from geounet.config.load import load_job
from geounet.config.override import merge, nested, parse_override
from geounet.config.train import TrainJob, load_train
from geounet.errors import JobError


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("tiling.tile=512", "tiling.tile", 512),
        ("tiling.tile=auto", "tiling.tile", "auto"),
        (" tiling . tile = 512 ", "tiling.tile", 512),
        ("vector=none", "vector", "none"),
        ("vector.buildings=false", "vector.buildings", False),
        ("vector.buildings={class: house}", "vector.buildings", {"class": "house"}),
        ("vector.buildings.class=1", "vector.buildings.class", "1"),
        ("vector.landcover.min_area_m2=1e3", "vector.landcover.min_area_m2", 1000.0),
        ("vector.landcover.classes=water,2", "vector.landcover.classes", ["water", "2"]),
        ("bands=1,2,3", "bands", [1, 2, 3]),
        ("bands=[1, red]", "bands", [1, "red"]),
        ("bands=red", "bands", ["red"]),
        ("bands=4", "bands", [4]),
        ("bands=auto", "bands", "auto"),
        ("nodata=255", "nodata", 255),
        ("nodata=0,0,255", "nodata", [0, 0, 255]),
        ("bbox=-1.5,2,3,4e2", "bbox", [-1.5, 2, 3, 400.0]),
        ("name=2024", "name", "2024"),
        ("name=a=b: c", "name", "a=b: c"),
        ("name=", "name", None),
        ("name=null", "name", "null"),
        ("cluster.address=null", "cluster.address", None),
        ("outputs.probability=yes", "outputs.probability", True),
        ("cluster.address=tcp://10.0.0.1:8786", "cluster.address", "tcp://10.0.0.1:8786"),
        ("predict.device=cuda:1", "predict.device", "cuda:1"),
    ],
)
def test_values_are_read_as_their_key_wants(text: str, path: str, value: Any) -> None:
    found = parse_override(text)
    assert found == (tuple(path.split(".")), value)
    assert type(found[1]) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiling", "expected key=value"),
        ("=5", "expected key=value"),
        ("tiling.=5", "expected key=value"),
        ("tile=5", "unknown key tile; did you mean tiling.tile?"),
        ("tiling.tyle=5", "unknown key tiling.tyle; did you mean tiling.tile?"),
        ("tiling.tile.x=5", "unknown key tiling.tile.x; tiling.tile has no keys below it"),
        ("tiling.tile=[", "the value is not YAML"),
        ("tiling[0].tile=5", "tiling takes no list"),
        ("scenes[0][1]=a.tif", "scenes[0] takes no list"),
        ("scenes[-1]=a.tif", "expected key=value"),
        ("scenes[x]=a.tif", "expected key=value"),
        ("scenes[0].nam=a", "unknown key scenes[0].nam; did you mean scenes[0].name?"),
    ],
)
def test_what_cannot_be_set(text: str, message: str) -> None:
    with pytest.raises(JobError) as info:
        parse_override(text)
    assert str(info.value).startswith(f"--set {text}: {message}")


def test_sections_are_merged_and_words_replaced() -> None:
    data = {"vector": "none", "tiling": {"tile": 64, "overlap": 8}}
    assert merge(data, {"tiling": {"tile": 96}})["tiling"] == {"tile": 96, "overlap": 8}
    assert merge(data, {"vector": {"cell": 7}})["vector"] == {"cell": 7}
    assert merge({"tiling": {"tile": 64}}, {"tiling": None}) == {"tiling": None}
    assert data == {"vector": "none", "tiling": {"tile": 64, "overlap": 8}}


def test_entries_of_lists_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_override("scenes[1].name=a, b") == (("scenes", 1, "name"), "a, b")
    assert parse_override("data [0] . labels[2].files=a,b", TrainJob) == (("data", 0, "labels", 2, "files"), ["a", "b"])
    file = tmp_path / "jobs" / "job.yaml"
    file.parent.mkdir()
    file.write_text("scenes: [a.tif, {files: [b.tif, c.tif]}]\nmodel: demo\n")
    monkeypatch.chdir(tmp_path)
    job = load_job(file, ["scenes[0]=d.tif", "scenes[1].files[1]=e.tif", "scenes[1].name=x"])
    assert job.scenes[0] == str(tmp_path / "d.tif")
    other = job.scenes[1]
    assert not isinstance(other, str)
    assert (other.files, other.name) == ([str(tmp_path / "jobs/b.tif"), str(tmp_path / "e.tif")], "x")
    with pytest.raises(JobError, match=r"^--set scenes\[2\]: scenes has 2 entries, counted from 0$"):
        load_job(file, ["scenes[2]=d.tif"])
    with pytest.raises(JobError, match=r"^--set models\[0\]: models is no list here$"):
        load_job(file, ["models[0]=demo"])
    # Numbers as keys of a value are no entries of a list.
    merged = merge({"data": [{"values": {1: "a"}}]}, nested(("data", 0, "values"), {2: "b"}))
    assert merged == {"data": [{"values": {1: "a", 2: "b"}}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text("scenes: [a.tif]\nmodels: [a, b]\ntiling: {tile: 64}\nvector: none\n")
    return file


def test_the_last_one_wins(file: Path) -> None:
    job = load_job(file, ["tiling.tile=96", "tiling.tile=128", "vector.cell=7", "vector=none"])
    assert job.tiling.tile == 128
    assert job.vector == "none"


def test_model_and_models_replace_each_other(file: Path) -> None:
    assert load_job(file, ["model=c"]).model_names() == ["c"]
    assert load_job(file, ["model=c", "models=d,e"]).model_names() == ["d", "e"]


def test_a_wrong_value_is_told_where_it_was_set(file: Path) -> None:
    with pytest.raises(
        JobError, match=r"^--set tiling\.tile=x: tiling\.tile: found 'x', expected a whole number or auto$"
    ):
        load_job(file, ["tiling.overlap=4", "tiling.tile=x"])
    with pytest.raises(JobError, match=r"job\.yaml:3: tiling: overlap 40 is over half of tile 64"):
        load_job(file, ["tiling.overlap=40"])


def nullable(root: type[BaseModel], above: tuple[str | int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every key that may be null, those of entries of lists at the first one, and its default."""
    for name, field in fields(root).items():
        path = (*above, name)
        if type(None) in alternatives(field.annotation):
            yield dotted(path), field.default
        for section in sections(field.annotation):
            yield from nullable(section, (*path, 0) if section in entries(field.annotation) else path)


@pytest.mark.parametrize("key", [key for key, _ in nullable(Job)])
def test_null_unsets_every_key_of_a_job(file: Path, key: str) -> None:
    assert parse_override(f"{key}=null") == (parse_override(f"{key}=x")[0], None)
    if key == "model":
        assert load_job(file, ["model=null"]).model_names() == ["a", "b"], "null is no other choice"
    elif key == "models":
        with pytest.raises(JobError, match="model: missing"):
            load_job(file, ["models=null"])
    else:
        found: Any = load_job(file, ["vector={}", f"{key}=null"])
        for part in key.split("."):
            found = getattr(found, part) if found is not None else None
        assert found is None


@pytest.mark.parametrize("key", [key for key, _ in nullable(TrainJob)])
def test_null_unsets_every_key_of_a_training_job(tmp_path: Path, key: str) -> None:
    assert parse_override(f"{key}=null", TrainJob)[1] is None
    file = tmp_path / "train.yaml"
    file.write_text(
        "classes: [{name: land}, {name: building}]\n"
        "data: [{scenes: a.tif, labels: [{files: b.tif}]}]\n"
        "loss: {terms: [{name: dice}]}\n"
    )
    needed = {"data[0].scenes": "expected one of scenes and generated", "data[0].labels": "labels: missing"}
    # Sections that the file lacks are there with what they need.
    lacking = {
        "data[0].complete.": "data[0].complete={rest: land}",
        "data[0].generated.": "data[0].generated={seeds: [0, 1]}",
        "data[0].labels[0].contact.": "data[0].labels[0].contact={distance_m: 1, class: {not: building}}",
    }
    more = [text for prefix, text in lacking.items() if key.startswith(prefix)]
    if key.startswith("data[0].generated."):
        more += ["data[0].scenes=null", "data[0].labels=null"]
    if key.endswith("contact.distance_m"):
        more += ["data[0].labels[0].contact.distance_px=1"]
    with pytest.raises(JobError, match=re.escape(needed[key])) if key in needed else nullcontext():
        load_train(file, [*more, f"{key}=null"])


def test_null_switches_off_what_has_another_default(tmp_path: Path) -> None:
    assert [key for key, default in [*nullable(Job), *nullable(TrainJob)] if default is not None] == ["optimiser.clip"]
    file = tmp_path / "train.yaml"
    file.write_text("classes: [land, building]\ndata: [{scenes: a.tif, labels: [{files: b.tif}]}]\n")
    assert load_train(file).optimiser.clip == 1.0
    assert load_train(file, ["optimiser.clip=null"]).optimiser.clip is None


def test_keys_that_are_not_ours() -> None:
    assert parse_override("cluster.options.queue=fast") == (("cluster", "options", "queue"), "fast")
    assert parse_override("cluster.options.scheduler_options.port=8786")[1] == 8786
    job = merge({"cluster": {"options": {"cores": 2}}}, nested(*parse_override("cluster.options.queue=fast")))
    assert job == {"cluster": {"options": {"cores": 2, "queue": "fast"}}}
    with pytest.raises(JobError, match=r"unknown key cluster\.optoins"):
        parse_override("cluster.optoins.queue=fast")
