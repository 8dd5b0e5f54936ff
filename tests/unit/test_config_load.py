"""Job files: what is read, what is refused and in which words, and where paths lead."""

from __future__ import annotations

import glob
import json
import math
import pickle
from pathlib import Path

import pytest

from geounet.config.job import BandSet, Job, Vector
from geounet.config.load import InvalidJobError, job_from_options, load_job, parse_job
from geounet.errors import JobError

BASE = "scenes: [a.tif]\nmodel: aerial\n"


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "job.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def refusal(folder: Path, text: str | bytes, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(JobError) as info:
        load_job(write(folder, text), overrides)
    message = str(info.value)
    assert "\n" not in message
    assert info.value.exit_code == 2
    return message.replace(str(folder / "job.yaml"), "job.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "job.yaml:1: empty; a job file needs"),
        ("# only a comment\n", "job.yaml:1: empty"),
        ("- a\n- b\n", "job.yaml:1: found a list, expected keys and values"),
        ("just words\n", "job.yaml:1: found text ('just words'), expected keys and values"),
        ("model: x\n\tscenes: [a]\n", "job.yaml:2: not valid YAML: a tab where spaces are expected"),
        ("scenes: [a\nmodel: x\n", "job.yaml:2: not valid YAML: expected ',' or ']'"),
        ("name: a: b\n", "job.yaml:1: not valid YAML: a second `:` in one line"),
        ("model: x\nscenes: [a]\nmodel: y\n", "job.yaml:3: the key `model` occurs twice, first in line 1"),
        (BASE + "tiling:\n  tile: 64\n  tile: 96\n", "job.yaml:5: the key `tile` occurs twice, first in line 4"),
        (BASE + "on: 3\n", "job.yaml:3: the key on is not text to YAML; put quotes around it"),
        ("scenes: &a [*a]\nmodel: x\n", "job.yaml:1: scenes[0]: found a list of 1, expected text or keys"),
        (
            "scenes: !!python/object/apply:os.getcwd []\n",
            "job.yaml:1: not valid YAML: could not determine a constructor",
        ),
        ("---\na: 1\n---\nb: 2\n", "job.yaml:3: not valid YAML: but found another document"),
        (b"name: \x00\n", "job.yaml: not valid YAML: unacceptable character"),
        (b"name: \xff\xfe\n", "job.yaml: not text in UTF-8"),
    ],
)
def test_what_is_no_job_file_is_refused_with_its_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert refusal(tmp_path, text).startswith(expected)


def test_deep_nesting_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "nested too deeply" in refusal(tmp_path, "scenes: " + "[" * 5000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tilling: {tile: 64}", "3: tilling: unknown key; did you mean tiling?"),
        ("overlap: 64", "3: overlap: unknown key; did you mean tiling.overlap?"),
        ("tiling:\n  tyle: 64", "4: tiling.tyle: unknown key; did you mean tiling.tile?"),
        (
            "vector:\n  buildings:\n    clas: house",
            "5: vector.buildings.clas: unknown key; did you mean vector.buildings.class?",
        ),
        ("predict:\n  zzzzz: 1", "4: predict.zzzzz: unknown key; known here: device, precision, batch, tta"),
        ("tiling: {tile: -5}", "3: tiling.tile: found -5, expected a number above 0 or auto"),
        ("tiling: {tile: 51x}", "3: tiling.tile: found '51x', expected a whole number or auto"),
        ("tiling: {tile: 64.0}", "3: tiling.tile: found 64.0, expected a whole number or auto"),
        ("tiling: {tile: '64'}", "3: tiling.tile: found '64', expected a whole number or auto"),
        ("tiling: {tile: 64, overlap: 33}", "3: tiling: overlap 33 is over half of tile 64; at most 32"),
        ("tiling: {overlap: -1}", "3: tiling.overlap: found -1, expected a number of at least 0 or auto"),
        ("tiling: 5", "3: tiling: found 5, expected keys (tile, overlap, block)"),
        ("name: on", "3: name: found true (so YAML reads on, yes and true: put quotes around text), expected text"),
        ("name: 2024", "3: name: found 2024, expected text"),
        ("max_failed_blocks: yes", "3: max_failed_blocks: found true (so YAML reads"),
        ("max_failed_blocks: -1", "3: max_failed_blocks: found -1, expected a number of at least 0"),
        ("outputs: {probability: 1}", "3: outputs.probability: found 1, expected true or false"),
        ("vector: off", "3: vector: found false (so YAML reads off, no and false"),
        (
            "vector: all",
            "3: vector: found 'all', expected keys (preset, formats, mosaic, cell, buildings, roads, ",
        ),
        (
            "vector: {roads: 5}",
            "3: vector.roads: found 5, expected keys (class, min_area_m2, min_area_px, min_hole_m2, ",
        ),
        (
            "vector: {landcover: {classes: []}}",
            "3: vector.landcover.classes: found an empty list, expected at least 1 entry",
        ),
        (
            "vector: {buildings: {min_area_m2: .inf}}",
            "3: vector.buildings.min_area_m2: found inf, expected a finite number",
        ),
        ("bbox: [1, 2, 3]", "3: bbox: found a list of 3, expected at least 4 entries"),
        ("bbox: [3, 2, 1, 4]", "3: bbox: found 3, 2, 1, 4, expected xmin, ymin, xmax, ymax"),
        ("predict: {device: gpu}", "3: predict.device: found 'gpu', expected auto, cpu, cuda or cuda:N"),
        ("resample: maybe", "3: resample: found 'maybe', expected refuse, auto or never"),
        (
            "cluster: {kind: slrum}",
            "3: cluster.kind: found 'slrum', expected local, cuda, address, slurm",
        ),
        (
            "cluster: {kind: local, options: {cores: 1}}",
            "3: cluster: options go with kind: slurm, kubernetes",
        ),
        (
            "cluster: {kind: cuda}\npredict: {device: cpu}",
            " cluster.kind: cuda and predict.device: cpu contradict each other",
        ),
        ("cluster: {kind: address}", "3: cluster: kind: address needs the scheduler's address"),
        ("cluster: {address: 'tcp://x:1'}", "3: cluster: address tcp://x:1 goes with kind: address or gateway"),
        ("outputs: {folder: 's3://b/c'}", "3: outputs.folder: found s3://b/c, expected a folder of this file system"),
        ("outputs: {work: /vsimem/w}", "3: outputs.work: found /vsimem/w, expected a folder of this file system"),
        ("models: [b, c]", " found both model and models, expected one of them"),
        ("bands: [0]", "3: bands[0]: found 0, expected a number of at least 1 or text"),
    ],
)
def test_what_a_job_must_not_say(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, BASE + text + "\n").removeprefix("job.yaml:").startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: x\n", "job.yaml: scenes: missing; expected files, globs, folders, STAC items"),
        ("scenes: [a]\n", "job.yaml: model: missing; expected a bundled model's name or the path of a bundle"),
        ("scenes: [a]\nmodels: [b, c, b]\n", "job.yaml:2: models: named twice: b"),
        ("scenes: a.tif\nmodel: x\n", "job.yaml:1: scenes: found 'a.tif', expected a list"),
        ("scenes: []\nmodel: x\n", "job.yaml:1: scenes: found an empty list, expected at least 1 entry"),
        ("scenes:\n- a\n- 5\nmodel: x\n", "job.yaml:3: scenes[1]: found 5, expected text or keys (name, files)"),
        ("scenes:\n- name: a\nmodel: x\n", "job.yaml:2: scenes[0].files: missing; expected files in band order"),
        (
            "scenes:\n- {name: a/b, files: [c]}\nmodel: x\n",
            "job.yaml:2: scenes[0].name: found 'a/b', expected the scene's",
        ),
        ("scenes: [a]\nmodel: [x, y]\n", "job.yaml:2: model: found a list of 2, expected text"),
    ],
)
def test_what_a_job_must_say(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, text).startswith(expected)


def test_further_problems_are_counted_and_kept(tmp_path: Path) -> None:
    file = write(tmp_path, BASE + "name: 5\nresample: maybe\nbogus: 1\n")
    with pytest.raises(
        InvalidJobError, match=r"name: found 5, expected text \(and 2 more: `geounet check` lists all\)"
    ) as i:
        load_job(file)
    assert [line.removeprefix(f"{file}:")[0] for line in i.value.lines] == ["3", "4", "5"]
    again = pickle.loads(pickle.dumps(i.value))
    assert (str(again), again.lines) == (str(i.value), i.value.lines)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"none\.yaml: no such file; expected a job file"):
        load_job(tmp_path / "none.yaml")
    with pytest.raises(JobError, match="is a folder; expected a job file"):
        load_job(tmp_path)


def test_keys_without_values_keep_their_defaults(tmp_path: Path) -> None:
    job = load_job(
        write(tmp_path, BASE + "vector:\n  # cell: 64\n  roads:\noutputs:\ntiling: {tile:, overlap: 8}\nname:\n")
    )
    assert job.vector == Vector()
    assert job.tiling.tile == "auto"
    assert job.tiling.overlap == 8
    assert job.name == "geounet"
    assert job.outputs.folder == str(tmp_path / "out")
    assert "tilling: unknown key" in refusal(tmp_path, BASE + "tilling:\n")


def test_dates_are_text_and_exponents_are_numbers(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, BASE + "name: 2024-05-01\nnodata: [.nan, 1e3, -5]\n"))
    assert job.name == "2024-05-01"
    assert isinstance(job.nodata, list)
    assert math.isnan(job.nodata[0])
    assert job.nodata[1:] == [1000.0, -5.0]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert load_job(write(tmp_path, b"\xef\xbb\xbf" + BASE.encode())).model == "aerial"


def test_merge_keys_and_aliases_work(tmp_path: Path) -> None:
    text = BASE + "vector:\n  buildings: &b {class: house, tolerance_px: 2}\n  roads: {<<: *b, class: street}\n"
    # `tolerance_px` is a key of both sections.
    job = load_job(write(tmp_path, text))
    assert isinstance(job.vector, Vector)
    assert job.vector.roads is not None
    assert job.vector.model_dump(by_alias=True, exclude_unset=True)["roads"] == {"class": "street", "tolerance_px": 2.0}


def test_paths_of_a_job_file_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    write(
        folder,
        "scenes: [s/*.tif, /abs/x.tif, ~/y.tif, 's3://bucket/k.tif', /vsizip/a.zip/b.tif,\n"
        "         {name: n, files: [b1.tif, b2.tif]}]\n"
        "models: [aerial, ./own, ../other/m]\naoi: area.gpkg\noutputs: {folder: results, work: scratch}\n",
    )
    job = load_job(Path("../jobs/job.yaml"))
    base = str(elsewhere / "../jobs")
    assert job.scenes[:5] == [
        f"{base}/s/*.tif", "/abs/x.tif", str(tmp_path / "home/y.tif"), "s3://bucket/k.tif", "/vsizip/a.zip/b.tif",
    ]  # fmt: skip
    assert job.scenes[5] == BandSet(name="n", files=[f"{base}/b1.tif", f"{base}/b2.tif"])
    assert job.models == ["aerial", f"{base}/own", f"{base}/../other/m"]
    assert (job.aoi, job.outputs.folder, job.outputs.work) == (
        f"{base}/area.gpkg",
        f"{base}/results",
        f"{base}/scratch",
    )
    assert Path(job.outputs.folder).resolve() == folder / "results"


def test_paths_of_the_command_line_start_at_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    file = write(folder, BASE)
    monkeypatch.chdir(tmp_path)
    job = load_job(file, ["outputs.folder=o", "aoi=area.gpkg", "scenes=x.tif,y.tif", "model=./m", "outputs.work=auto"])
    assert job.outputs.folder == str(tmp_path / "o")
    assert job.outputs.work == "auto"
    assert job.aoi == str(tmp_path / "area.gpkg")
    assert job.scenes == [str(tmp_path / "x.tif"), str(tmp_path / "y.tif")]
    assert job.model == str(tmp_path / "m")
    job = job_from_options(["x.tif"], "./m", None)
    assert (job.scenes, job.model) == ([str(tmp_path / "x.tif")], str(tmp_path / "m"))
    assert job.outputs.folder == str(tmp_path / "out")


def test_brackets_of_the_job_files_folder_are_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "year [2024]"
    folder.mkdir()
    (folder / "a.tif").touch()
    job = load_job(write(folder, "scenes: ['*.tif', a.tif]\nmodel: m\n"))
    assert isinstance(job.scenes[0], str)
    assert glob.glob(job.scenes[0]) == [str(folder / "a.tif")]
    assert job.scenes[1] == str(folder / "a.tif")


def test_plain_values_are_validated_as_they_are() -> None:
    job = parse_job({"scenes": ["a.tif"], "model": "m"}, "request")
    assert (job.scenes, job.outputs.folder) == (["a.tif"], "out")
    with pytest.raises(JobError, match=r"^request: scenes\[0\]: found 5"):
        parse_job({"scenes": [5], "model": "m"}, "request")


def test_python_callers_may_give_paths() -> None:
    job = Job(scenes=[Path("a.tif"), BandSet(name="n", files=[Path("b.tif")])], model=Path("m/n"))  # type: ignore[list-item,arg-type]
    assert job.scenes == ["a.tif", BandSet(name="n", files=["b.tif"])]
    assert job.model == str(Path("m/n"))


def test_a_job_survives_json(tmp_path: Path) -> None:
    text = BASE + "nodata: .nan\nvector: {buildings: {class: house}, roads: false}\nbands: [1, red]\n"
    job = Job.from_yaml(write(tmp_path, text))
    for text in (job.model_dump_json(by_alias=True), json.dumps(job.model_dump(mode="json", by_alias=True))):
        again = Job.model_validate(json.loads(text))
        assert isinstance(again.nodata, float)
        assert math.isnan(again.nodata)
        assert again.model_copy(update={"nodata": 0.0}) == job.model_copy(update={"nodata": 0.0})


def test_the_contracts_example_is_valid(tmp_path: Path) -> None:
    job = load_job(
        write(
            tmp_path,
            """
name: banepa
scenes: [scenes/*.tif]            # files, globs, folders (recursive, known raster endings, never OUT), STAC items, …
model: aerial                     # a bare name is a bundled model; a path has a slash. models: [a, b] for several
bands: auto                       # or names, or 1-based indexes
nodata: auto                      # or a value that marks undeclared fill
aoi: area.gpkg                    # optional
resample: refuse                  # ground sample distances differ by over 20 %: refuse | auto | never
tiling:  {tile: auto, overlap: auto, block: auto}      # px, px, tiles per side of a block
predict: {device: auto, precision: auto, batch: auto, tta: none}     # tta: none | flips | d4
outputs: {folder: out, probability: false, work: auto, overwrite: false}
vector:                           # left out: the layers that follow from the card. none: no GeoPackage
  cell: auto                      # px per side of a vector cell
  buildings: {class: building, min_area_m2: 10}
  roads:     {class: road}
  landcover: {min_area_m2: 50, tolerance_px: 1.5}      # all classes unless `classes:` names some
max_failed_blocks: 0
cluster: {kind: local, workers: auto, threads: auto}   # local | address | cuda | slurm | kubernetes | gateway
""",
        )
    )
    assert job.vector != "none"
    assert job.model_names() == ["aerial"]
