"""One scene through all stages in this process, with a small real U-Net: options, refusals, what is left behind."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rasterio.enums import ColorInterp

from geounet.batch.overlap import run_all
from geounet.batch.run import Rounds, scene_runs
from geounet.batch.run import run as run_job
from geounet.batch.status import clean, read_status
from geounet.config.card import Scaling
from geounet.config.job import Job
from geounet.config.load import job_from_options
from geounet.engine import together as together_module
from geounet.engine.cluster import Layout
from geounet.engine.plan import versions
from geounet.engine.pool import InlinePool
from geounet.engine.scene import SceneRun
from geounet.engine.together import infer_all
from geounet.errors import GeounetError, JobError, OutputExistsError, SceneError
from geounet.models.bundle import Bundle, load_bundle
from geounet.models.device import processor_name
from geounet.predict import source
from geounet.predict.probe import probe
from geounet.types import Silent
from tests.support.local import write_scene
from tests.support.models import small_unet
from tests.support.vectors import read

FAST = ("predict.device=cpu", "predict.precision=fp32", "tiling.tile=64", "tiling.overlap=16")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_unet(tmp_path_factory.mktemp("models") / "small", gsd=0.3)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    values = rng.integers(20, 255, (3, 7, 9)).repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
    return write_scene(tmp_path_factory.mktemp("scenes") / "place.tif", values)


def job_of(scene: Path | list[str], bundle: Bundle, out: Path, *settings: str) -> Job:
    scenes = scene if isinstance(scene, list) else [str(scene)]
    return job_from_options(scenes, str(bundle.folder), str(out), [*FAST, *settings])


def run(scene: Path, bundle: Bundle, out: Path, *settings: str) -> dict[str, Any]:
    """Run one scene without a cluster and return its manifest."""
    (one,) = scene_runs(job_of(scene, bundle, out, *settings))
    one.pool = InlinePool()
    done = one.finished()
    return done if done is not None else one.run()


def mask(out: Path, name: str = "place") -> np.ndarray:
    with rasterio.open(out / name / f"{name}_mask.tif") as file:
        return file.read()


def test_all_stages(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    manifest = run(scene, bundle, tmp_path, "outputs.probability=true")
    files = {p.name for p in (tmp_path / "place").iterdir()}
    assert files == {*manifest["files"].values(), "manifest.json"}
    assert json.loads((tmp_path / "place" / "manifest.json").read_text())["key"] == manifest["key"]
    assert manifest["tiles"]["inferred"] == manifest["grid"]["tiles"]
    assert sum(a["pixels"] for a in manifest["area"].values()) == 112 * 144
    assert set(manifest["features"]) == {"buildings", "road_edges", "road_nodes", "landcover"}
    assert not list((tmp_path / ".geounet").rglob("*.tif")), "parts go when the scene is done"
    item = json.loads((tmp_path / "place" / "place.json").read_text())
    assert item["assets"]["mask"]["href"].endswith("place_mask.tif")


def test_a_second_run_does_nothing_and_another_job_is_refused(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    run(scene, bundle, tmp_path, "vector=none")
    assert run(scene, bundle, tmp_path, "vector=none")["state"] == "unchanged"
    with pytest.raises(OutputExistsError, match="overwrite"):
        run(scene, bundle, tmp_path, "vector=none", "predict.tta=d4")
    assert run(scene, bundle, tmp_path, "vector=none", "predict.tta=d4", "outputs.overwrite=true")["tta"] == "d4"


def test_a_lost_file_is_made_again(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    run(scene, bundle, tmp_path, "vector=none")
    before = mask(tmp_path)
    (tmp_path / "place" / "place_mask.tif").unlink()
    run(scene, bundle, tmp_path, "vector=none")
    assert (mask(tmp_path) == before).all()


def test_names_are_as_long_as_those_of_results_may_be(bundle: Bundle, tmp_path: Path) -> None:
    """Refused before anything is inferred, not when the results are to be written."""
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") - 60
    values = np.random.default_rng(3).integers(20, 250, (3, 64, 64)).astype(np.uint8)
    name = "ж" * (longest // 2) + "a" * (longest % 2)
    settings = "outputs.probability=true", "vector.formats=[gpkg, fgb, parquet]"
    manifest = run(write_scene(tmp_path / f"{name}.tif", values), bundle, tmp_path / "out", *settings)
    assert manifest["warnings"] == []
    assert (tmp_path / "out" / name / f"{name}_road_nodes.parquet").exists()
    one = write_scene(tmp_path / f"{name}b.tif", values)
    with pytest.raises(SceneError, match=f"b.tif: its name is too long: .*leaves {longest} of the {longest + 1}"):
        run(one, bundle, tmp_path / "out", "vector=none")


def test_parts_without_a_record_are_not_continued(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    """What was resolved for other workers is not known any more, and late tasks may leave parts of it at any time."""

    class Workers(InlinePool):
        count = 4

        def threads(self, *, light: bool = False) -> int:
            return self.count

    def of(out: str, workers: int) -> SceneRun:
        (one,) = scene_runs(job_of(scene, bundle, tmp_path / out, "vector=none"))
        one.pool = Workers()
        one.pool.count = workers
        return one

    of("whole", 1).run()
    many = of("out", 4).infer()
    ledger = many.ledger
    shutil.copytree(ledger.folder, tmp_path / "late")
    ledger.record_file.unlink()
    plan, _ = of("out", 1).prepare()
    assert plan.recipe.side != many.plan.recipe.side
    assert not list(ledger.folder.rglob("*.tif"))
    (tmp_path / "late" / "record.json").unlink()
    shutil.copytree(tmp_path / "late", ledger.folder, dirs_exist_ok=True)
    assert ledger.receipts("infer", many.plan.recipe)
    assert not ledger.receipts("infer", plan.recipe)
    of("out", 1).run()
    assert (mask(tmp_path / "out") == mask(tmp_path / "whole")).all()


@pytest.mark.parametrize("tta", ["flips", "d4"])
def test_augmentation_makes_the_result_symmetric(bundle: Bundle, tmp_path: Path, tta: str) -> None:
    """The mirrored scene has the mirrored mask, which without augmentation it has not."""
    rng = np.random.default_rng(5)
    values = rng.integers(20, 255, (3, 4, 4)).repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
    same = {}
    for option in ("none", tta):
        masks = []
        for name, pixels in (("a", values), ("b", values[:, :, ::-1])):
            path = write_scene(tmp_path / option / f"{name}.tif", np.ascontiguousarray(pixels))
            run(path, bundle, tmp_path / option, "vector=none", f"predict.tta={option}")
            masks.append(mask(tmp_path / option, name))
        same[option] = (masks[0] == masks[1][:, :, ::-1]).mean()
    assert same[tta] > 0.999 > same["none"]


def test_a_window_first(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    run(scene, bundle, tmp_path, "vector=none", "bbox=[500006, 4999973, 500024, 4999991]")
    with rasterio.open(tmp_path / "place" / "place_mask.tif") as file:
        assert file.shape == (60, 60)
        assert file.bounds == pytest.approx((500006.1, 4999972.8, 500024.1, 4999990.8), abs=0.31)


def test_aoi_and_undeclared_fill(bundle: Bundle, tmp_path: Path) -> None:
    import geopandas
    from shapely import box

    values = np.random.default_rng(3).integers(20, 250, (3, 64, 96)).astype(np.uint8)
    values[:, :, :20] = 255
    path = write_scene(tmp_path / "place.tif", values)
    area = geopandas.GeoDataFrame(geometry=[box(500000, 4999980.8 + 6, 500028.8, 5000000)], crs="EPSG:32633")
    area.to_file(tmp_path / "aoi.gpkg")
    run(path, bundle, tmp_path / "out", "vector=none", "nodata=255", f"aoi={tmp_path / 'aoi.gpkg'}")
    valid = mask(tmp_path / "out")[0] != 255
    assert not valid[:, :20].any()
    assert not valid[45:].any()
    assert valid[:44, 20:].all()


def test_several_models_have_folders_of_their_own(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    other = small_unet(tmp_path / "other", seed=1, gsd=0.3)
    card = other.card.model_copy(update={"name": "other"})
    (other.folder / "model.json").write_text(card.model_dump_json())
    job = Job.model_validate(
        {
            "scenes": [str(scene)],
            "models": [str(bundle.folder), str(other.folder)],
            "outputs": {"folder": str(tmp_path / "out")},
            "vector": "none",
        }
    )
    folders = [r.folder.relative_to(tmp_path / "out").as_posix() for r in scene_runs(job)]
    assert folders == ["place/small", "place/other"]
    assert len({r._name() for r in scene_runs(job)}) == 2


def models_of(folder: Path, *differences: dict[str, Any]) -> list[Bundle]:
    """Models of different weights; each difference replaces fields of the card."""
    made = []
    for seed, fields in enumerate(differences):
        one = small_unet(folder / f"model_{seed}", seed=seed, gsd=0.3)
        card = one.card.model_copy(update={"name": f"model_{seed}", **fields})
        (one.folder / "model.json").write_text(card.model_dump_json())
        made.append(load_bundle(one.folder))
    return made


def runs_of(scene: Path, bundles: list[Bundle], out: Path, *settings: str) -> list[SceneRun]:
    job = job_of(scene, bundles[0], out, "vector=none", "outputs.probability=true", *settings)
    several = {"model": None, "models": [str(b.folder) for b in bundles]}
    runs = scene_runs(Job.model_validate({**job.model_dump(by_alias=True), **several}))
    for one in runs:
        one.pool = InlinePool()
    return runs


@pytest.mark.parametrize("settings", [("tiling.block=1",), ("tiling.block=3", "resample=auto")])
def test_models_together_read_once_and_find_what_they_find_alone(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    gsd = 0.4 if "resample=auto" in settings else 0.3
    scaled = small_unet(tmp_path / "any").card.input
    scaled = scaled.model_copy(update={"value_scaling": [Scaling(mean=60, stddev=30)] * 3})
    bundles = models_of(tmp_path, {"gsd": gsd}, {"gsd": gsd, "input": scaled}, {"gsd": gsd})
    reads: list[int] = []
    original = source.read_row
    monkeypatch.setattr(source, "read_row", lambda *args: reads.append(1) or original(*args))

    for one in runs_of(scene, bundles, tmp_path / "alone", *settings):
        one.run()
    alone, reads[:] = len(reads), []
    runs = runs_of(scene, bundles, tmp_path / "together", *settings)
    infer_all(runs)
    manifests = [one.run() for one in runs]
    assert len(reads) * len(bundles) == alone > 0
    for bundle, manifest in zip(bundles, manifests, strict=True):
        assert manifest["tiles"]["inferred"] == manifest["grid"]["tiles"]
        for name in ("place_mask.tif", "place_prob.tif"):
            paths = [tmp_path / way / "place" / bundle.card.name / name for way in ("alone", "together")]
            with rasterio.open(paths[0]) as one, rasterio.open(paths[1]) as other:
                assert (one.read() == other.read()).all()
    masks = [rasterio.open(tmp_path / "together" / "place" / b.card.name / "place_mask.tif").read() for b in bundles]
    assert (masks[0] != masks[1]).any()
    assert (masks[0] != masks[2]).any()


def test_models_of_other_grids_read_for_themselves(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = models_of(tmp_path, {}, {"gsd": 0.4}, {})
    together: list[int] = []
    original = together_module.infer_together

    def once(recipes: Any, block: Any) -> Any:
        together.append(len(recipes))
        return original(recipes, block)

    monkeypatch.setattr(together_module, "infer_together", once)
    runs = runs_of(scene, bundles, tmp_path / "out", "resample=auto")
    runs[0].prepare()
    infer_all(runs)
    assert set(together) == {2}, "the first and the third share a grid"
    plan, ledger = runs[1].prepare()
    assert len(ledger.receipts("infer", plan.recipe)) == 0
    for one in runs:
        one.run()
    together.clear()
    again = runs_of(scene, bundles, tmp_path / "out", "resample=auto")
    assert all(one.finished() is not None for one in again)


def test_scenes_that_do_not_fit_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    values = np.ones((3, 70, 70), np.uint8)
    coarse = write_scene(tmp_path / "coarse.tif", values, transform=rasterio.Affine(2, 0, 5e5, 0, -2, 5e6))
    four = write_scene(tmp_path / "four.tif", np.ones((4, 70, 70), np.uint8), photometric="MINISBLACK")
    bare = write_scene(tmp_path / "bare.tif", values, crs=None, transform=rasterio.Affine(1, 0, 0, 0, 1, 0.5))
    deep = write_scene(tmp_path / "deep.tif", values.astype(np.uint16))
    strict = small_unet(tmp_path / "strict", gsd=0.3)
    card = strict.card.model_copy(update={"input": strict.card.input.model_copy(update={"data_type": "uint8"})})
    (strict.folder / "model.json").write_text(card.model_dump_json())
    for path, of, settings, words in (
        (coarse, bundle, (), "resample: auto"),
        (four, bundle, (), "bands"),
        (bare, bundle, ("resample=auto",), "georeference"),
        (bare, bundle, ("vector.buildings.min_area_m2=10",), r"vector\.buildings\.min_area_m2"),
        (deep, strict, (), "uint16"),
    ):
        with pytest.raises(SceneError, match=words) as caught:
            run(path, of, tmp_path / "out", *settings)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists(), "a refused scene leaves nothing"
    run(coarse, bundle, tmp_path / "out", "resample=never", "vector=none")
    run(deep, strict, tmp_path / "out", "data_type=ignore", "vector=none")
    run(four, bundle, tmp_path / "out", "bands=3,2,1", "vector=none")


def test_a_model_of_a_range_takes_what_lies_in_it(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(20, 250, (3, 96, 96)).astype(np.uint8)
    (bundle,) = models_of(tmp_path, {"gsd": None, "gsd_range": (0.2, 0.8)})
    sizes = {}
    for gsd in (0.1, 0.17, 0.5, 0.95, 1.6):
        path = write_scene(tmp_path / f"{gsd}.tif", values, transform=rasterio.Affine(gsd, 0, 5e5, 0, -gsd, 5e6))
        out = tmp_path / f"out_{gsd}"
        if gsd in (0.1, 1.6):
            with pytest.raises(SceneError, match=r"trained on 0\.2 to 0\.8 m"):
                run(path, bundle, out, "vector=none")
        done = run(path, bundle, out, "vector=none", "resample=auto")
        sizes[gsd] = done["grid"]["model_grid"][0]
        assert mask(out, str(gsd)).shape == (1, 96, 96)
    assert sizes == {0.1: 48, 0.17: 96, 0.5: 96, 0.95: 96, 1.6: 192}


def test_pixels_that_are_not_square_become_square_or_are_told(bundle: Bundle, tmp_path: Path) -> None:
    """Degrees far from the equator: at 60° N a pixel is half as wide as high."""
    values = np.random.default_rng(2).integers(20, 250, (3, 64, 128)).astype(np.uint8)
    step = 0.3 * 2**0.5 / 111_400  # geometric mean: the model's 0.3 m
    path = write_scene(tmp_path / "north.tif", values, crs="EPSG:4326", transform=Affine(step, 0, 10, 0, -step, 60))
    warning = re.compile(r"a pixel is 0\.21\d × 0\.42\d m on the ground, but .* set resample: auto to make them square")
    for resample, grid in (("refuse", [64, 128]), ("never", [64, 128]), ("auto", [91, 91])):
        done = run(path, bundle, tmp_path / resample, "vector=none", f"resample={resample}")
        assert done["grid"]["model_grid"] == pytest.approx(grid, abs=1), resample
        assert done["grid"]["resampled"] == (resample == "auto")
        told = [text for text in done["warnings"] if warning.fullmatch(text)]
        assert len(told) == (resample != "auto")
        assert mask(tmp_path / resample, "north").shape == (1, 64, 128)


def test_bands_are_found_by_name(bundle: Bundle, tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(20, 250, (4, 64, 64)).astype(np.uint8)
    plain = write_scene(tmp_path / "plain.tif", values[[2, 1, 0]])
    path = tmp_path / "named.tif"
    write_scene(path, values)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("blue", "green", "red", "nir")
    coloured = tmp_path / "coloured.tif"
    write_scene(coloured, values, photometric="MINISBLACK")
    with rasterio.open(coloured, "r+") as file:
        file.descriptions = ("B02", "B03", "B04", "B08")
        file.colorinterp = [ColorInterp[name] for name in ("blue", "green", "red", "undefined")]
    for file in (plain, path, coloured):
        run(file, bundle, tmp_path / "out", "vector=none")
    for name in ("named", "coloured"):
        assert (mask(tmp_path / "out", name) == mask(tmp_path / "out", "plain")).all()


def test_impossible_tilings_are_usage_errors(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    for setting, words in (("tiling.tile=50", "multiple"), ("tiling.overlap=12", "multiple")):
        with pytest.raises(JobError, match=words):
            run(scene, bundle, tmp_path, setting)


def test_names_are_unique_and_patterns_match(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    twin = write_scene(tmp_path / "elsewhere" / "place.tif", np.ones((3, 8, 8), np.uint8))
    with pytest.raises(JobError, match="place"):
        scene_runs(job_of([str(scene), str(twin)], bundle, tmp_path))
    with pytest.raises(JobError, match="matches no file"):
        scene_runs(job_of([str(tmp_path / "*.xyz")], bundle, tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match="no raster"):
        scene_runs(job_of([str(tmp_path / "empty")], bundle, tmp_path))
    assert len(scene_runs(job_of([str(scene), str(scene.parent)], bundle, tmp_path))) == 1, "one scene, found twice"


def test_a_failed_scene_does_not_stop_the_others(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    text = tmp_path / "text.tif"
    text.write_text("no raster")
    result = run_job(job_of([str(text)], bundle, tmp_path / "out", "vector=none"))
    assert result.exit_code == 1
    assert [(s["files"], s["features"], s["area"], s["warnings"]) for s in result.scenes] == [({}, {}, {}, [])]
    assert (tmp_path / "out" / "report.html").exists()
    state = read_status(tmp_path / "out")
    assert [(s["name"], s["state"]) for s in state["scenes"]] == [("text", "failed")]


def test_a_scene_without_a_valid_pixel_is_told(bundle: Bundle, tmp_path: Path) -> None:
    write_scene(tmp_path / "fill.tif", np.full((3, 90, 80), 7, np.uint8))
    (one,) = scene_runs(job_of(tmp_path / "fill.tif", bundle, tmp_path / "out", "nodata=7", "vector=none"))
    manifest = one.run()
    assert manifest["valid_pixels"] == 0
    assert [w for w in manifest["warnings"] if w.startswith("no pixel is valid (by ")] != []


@pytest.mark.parametrize(("settings", "told"), [((), 1), (("nodata=255",), 0)])
def test_fill_that_nobody_declares_is_told(
    bundle: Bundle, tmp_path: Path, settings: tuple[str, ...], told: int
) -> None:
    values = np.random.default_rng(2).integers(20, 250, (3, 96, 128)).astype(np.uint8)
    values[:, :, 96:] = 255
    path = write_scene(tmp_path / "place.tif", values)
    manifest = run(path, bundle, tmp_path / "out", "vector=none", *settings)
    found = [text for text in manifest["warnings"] if text.startswith("25 % of the scene, along its edges, is 255 in ")]
    assert len(found) == len(manifest["warnings"]) == told


def test_what_sets_finished_output_apart_is_told(
    scene: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(file: Path, *settings: str) -> str:
        with pytest.raises(OutputExistsError) as caught:
            scene_runs(job_of(file, bundle, tmp_path / "out", "vector=none", *settings))[0].finished()
        return str(caught.value).partition("(")[2].partition(");")[0]

    copy = tmp_path / scene.name
    shutil.copy2(scene, copy)
    (one,) = scene_runs(job_of(copy, bundle, tmp_path / "out", "vector=none"))
    one.run()
    assert (
        told(copy, "tiling.overlap=24", "predict.tta=flips") == 'predict.tta: "none" → "flips"; tiling.overlap: 16 → 24'
    )
    assert told(scene) == f"scene: {copy} → {scene}"
    os.utime(copy, (1, 1))
    assert told(copy) == "scene: changed since"
    shutil.copy2(scene, copy)
    newer = {**versions(), "numpy": "99"}
    for module in ("plan", "changes"):
        monkeypatch.setattr(f"geounet.engine.{module}.versions", lambda: newer)
    assert told(copy) == f"numpy: {versions()['numpy']} → 99"


def test_the_manifest_says_what_inferred_it(
    scene: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = scene_runs(job_of(scene, bundle, tmp_path / "same", "tiling.block=1"))
    same = one.run()
    assert same["processors"] == [processor_name("cpu")]
    assert not any("processors" in line for line in same["warnings"])
    names = itertools.cycle(["A (AVX2)", "B (AVX512)"])
    monkeypatch.setattr("geounet.models.device.processor_name", lambda _: next(names))
    (one,) = scene_runs(job_of(scene, bundle, tmp_path / "mixed", "tiling.block=1"))
    mixed = one.run()
    assert mixed["processors"] == ["A (AVX2)", "B (AVX512)"]
    assert (
        "inferred on different processors (A (AVX2); B (AVX512)): pixels may differ in the last bit"
        in (mixed["warnings"])
    )


def test_interrupted_parts_are_shown_and_cleaned(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    class Stops(InlinePool):
        def run(self, tasks: Any, follow: Any = None, *, light: bool = False) -> Any:
            for outcome in super().run(tasks, follow, light=light):
                yield outcome
                if outcome.task.name.startswith("infer"):
                    raise KeyboardInterrupt

    (one,) = scene_runs(job_of(scene, bundle, tmp_path, "tiling.block=1"))
    one.pool = Stops()
    with pytest.raises(KeyboardInterrupt):
        one.run()
    (entry,) = read_status(tmp_path)["scenes"]
    assert entry["state"] == "interrupted"
    assert entry["blocks"] == {"total": 6, "done": 1}
    assert clean(tmp_path)[0] == 1
    assert read_status(tmp_path)["scenes"] == []
    with pytest.raises(GeounetError, match="no output folder"):
        read_status(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written_is_told_before_the_work(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "place").touch()  # which no folder can be made over, whoever runs this
    job = job_of(scene, bundle, tmp_path, "vector=none")
    (one,) = scene_runs(job)
    one.pool = MagicMock()
    with pytest.raises(GeounetError, match=r"place: cannot be written \(Not a directory\); let this user write there"):
        one.run()
    one.pool.run.assert_not_called()
    result = run_job(job, client=MagicMock(), rounds=Rounds(settle_s=0))
    assert (result.exit_code, [s["state"] for s in result.scenes]) == (1, ["failed"])
    assert json.loads((tmp_path / ".geounet" / "attempts.json").read_text())["place/small"]["tries"] == 1
    assert (tmp_path / "report.html").exists()
    (tmp_path / "place").unlink()
    one.pool = InlinePool()
    assert one.run()["state"] == "done"


def test_files_that_no_run_has_made_are_not_replaced(
    scene: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(scene, bundle, tmp_path / "out", "vector=none")
    (one,) = scene_runs(job)
    mine = one.folder / f"{one.spec.name}_mask.tif"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(OutputExistsError, match=r"_mask\.tif: is there, and no manifest\.json .*--overwrite"):
        scene_runs(job)[0].finished()
    assert mine.read_text() == "mine"
    (over,) = scene_runs(job_of(scene, bundle, tmp_path / "out", "vector=none", "outputs.overwrite=true"))
    assert over.finished() is None
    mine.unlink()

    # Those of a run that was killed between its names and its manifest are replaced.
    def killed(temporary: Path, path: Path) -> Path:
        named = rename(temporary, path)
        if path == mine:
            raise KeyboardInterrupt
        return named

    rename = Path.replace

    (first,) = scene_runs(job)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            first.run()
    assert mine.exists()
    assert not (mine.parent / "manifest.json").exists()
    (again,) = scene_runs(job)
    assert again.finished() is None
    assert again.run()["state"] == "done"


def test_parts_of_another_input_are_not_used(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    """The same file name with other content starts anew."""
    values = np.random.default_rng(9).integers(20, 250, (3, 112, 144)).astype(np.uint8)
    first = write_scene(tmp_path / "in" / "place.tif", values)
    (one,) = scene_runs(job_of(first, bundle, tmp_path / "out", "vector=none"))
    _, before = one.prepare(dry=True)
    write_scene(first, 255 - values)
    (two,) = scene_runs(job_of(first, bundle, tmp_path / "out", "vector=none"))
    _, after = two.prepare(dry=True)
    assert before.key != after.key
    assert before.folder != after.folder
    assert replace(one.spec) == two.spec


@pytest.mark.parametrize(("stage", "how"), [("infer", "replaced"), ("vectors", "replaced"), ("vectors", "removed")])
def test_a_scene_that_changes_while_it_is_run_is_not_published(
    scene: Path, bundle: Bundle, tmp_path: Path, stage: str, how: str
) -> None:
    """Results would be of both; those that were there before stay, and the next run makes the scene as it is then."""
    path = tmp_path / "in" / "place.tif"
    path.parent.mkdir()
    out = tmp_path / "out"
    with rasterio.open(scene) as file:
        values = file.read()
    write_scene(path, values[:, ::-1].copy())
    before = run(path, bundle, out, "tiling.block=1")
    write_scene(path, values)

    class Changes(InlinePool):
        def run(self, tasks: Any, follow: Any = None, *, light: bool = False) -> Any:
            for outcome in super().run(tasks, follow, light=light):
                if outcome.task.name.startswith(stage) and not asked:
                    asked.append(outcome)
                    if how == "removed":
                        path.rename(tmp_path / "gone.tif")
                    else:
                        write_scene(path, 255 - values)
                yield outcome

    asked: list[Any] = []
    (one,) = scene_runs(job_of(path, bundle, out, "tiling.block=1", "outputs.overwrite=true"))
    one.pool = Changes()
    with pytest.raises(SceneError, match=r"place\.tif: changed while it was run.*; run again$"):
        one.run()
    assert not list((out / ".geounet").rglob("record.json")), "its parts are of no use to anyone"
    assert asked
    assert json.loads((out / "place" / "manifest.json").read_text())["key"] == before["key"]
    assert {p.name for p in (out / "place").iterdir()} == {*before["files"].values(), "manifest.json"}
    write_scene(path, 255 - values)
    again = run(path, bundle, out, "outputs.overwrite=true", "tiling.block=1")
    alone = run(path, bundle, tmp_path / "alone", "tiling.block=1")
    assert again["key"] == alone["key"]
    assert (mask(out) == mask(tmp_path / "alone")).all()


def test_scenes_drawn_beside_each_other_are_as_each_is_alone(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small scenes are drawn whole, in threads; workers are asked once what all scenes need to know."""
    paths = [
        write_scene(tmp_path / f"s{seed}.tif", np.random.default_rng(seed).integers(20, 250, (3, 96, 128), np.uint8))
        for seed in range(5)
    ]
    asked = []

    def probing(*given: Any) -> dict[str, Any]:
        asked.append(given)
        return probe(*given)

    monkeypatch.setattr("geounet.engine.scene.probe", probing)
    runs = scene_runs(job_of([str(p) for p in paths], bundle, tmp_path / "all", "predict.batch=1"))
    assert all(one.finished() is None for one in runs)
    ended = list(run_all(runs, InlinePool(), None, Silent()))
    assert [end["state"] for _, end in ended if isinstance(end, dict)] == ["done"] * 5
    assert len(asked) <= 2, "the first two may ask at once"
    for path, (one, end) in zip(paths, ended, strict=True):
        assert isinstance(end, dict)
        assert end["files"].keys() >= {"mask", "vectors", "preview"}
        run(path, bundle, tmp_path / "alone", "predict.batch=1")
        alone = tmp_path / "alone" / path.stem
        np.testing.assert_array_equal(mask(tmp_path / "all", path.stem), mask(tmp_path / "alone", path.stem))
        assert (one.folder / end["files"]["preview"]).read_bytes() == (alone / end["files"]["preview"]).read_bytes()
        for layer, count in end["features"].items():
            found, expected = (read(folder / f"{path.stem}.gpkg", layer) for folder in (one.folder, alone))
            assert found == expected
            assert len(found["geom"]) == count


def test_how_many_blocks_there_are_is_told_when_a_scene_is_prepared(
    scene: Path, bundle: Bundle, tmp_path: Path
) -> None:
    """Also where several models have it prepared before they infer it together."""
    (one,) = scene_runs(job_of(scene, bundle, tmp_path, "tiling.block=1"))
    told: list[int] = []
    one.planned = told.append
    plan, _ = one.prepare()
    assert told == [plan.recipe.blocks.count] == [6]


def test_undeclared_fill_is_the_fault_of_its_scene_alone(bundle: Bundle, tmp_path: Path) -> None:
    """A network answers NaN to -3.4e38: that scene is refused with the place and what to do, and others go on."""
    lowest = np.finfo(np.float32).min
    values = np.random.default_rng(4).integers(20, 250, (3, 96, 128)).astype(np.float32)
    paths = [write_scene(tmp_path / name, values) for name in ("good.tif", "better.tif")]
    values[:, 70:, 100:] = lowest
    paths.insert(1, write_scene(tmp_path / "filled.tif", values))
    runs = scene_runs(job_of([str(p) for p in paths], bundle, tmp_path / "out", "vector=none"))
    ended = {run.spec.name: end for run, end in run_all(runs, InlinePool(), None, Silent())}
    refused = ended.pop("filled")
    assert isinstance(refused, SceneError)
    place = r"filled\.tif: band red holds -3\.4028\d*e\+38 near row 70, column 100; small: .* NaN"
    assert re.search(place, str(refused))
    assert "set `nodata:` to it" in str(refused)
    assert [end["state"] for end in ended.values()] == ["done", "done"]
    said = re.search(r"holds (\S+)", str(refused))
    assert said is not None
    run(paths[1], bundle, tmp_path / "declared", "vector=none", f"nodata={said.group(1)}")
    found = mask(tmp_path / "declared", "filled")[0] == 255
    assert found[70:, 100:].all()
    assert not found[:70].any()


@pytest.mark.parametrize(
    ("asked", "devices", "dry", "expected"),
    [
        ("cuda:1", ("3",), False, "cuda"),
        ("cuda:1", (), False, "cuda:1"),
        ("cuda:1", ("3",), True, "cuda:1"),
        ("auto", ("3",), False, "auto"),
        ("cpu", (), False, "cpu"),
    ],
)
def test_a_worker_of_ours_sees_one_device(
    scene: Path,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    devices: tuple[str, ...],
    dry: bool,
    expected: str,
) -> None:
    def probe(_model: str, _sha256: str, device: str, *_: Any) -> None:
        raise GeounetError(f"asked for {device}.")

    monkeypatch.setattr("geounet.engine.scene.probe", probe)
    (one,) = scene_runs(job_of(scene, bundle, tmp_path, f"predict.device={asked}"))
    one.layout = Layout(1, 1, devices)
    with pytest.raises(GeounetError, match=rf"asked for {expected}\."):
        one.prepare(dry=dry)
