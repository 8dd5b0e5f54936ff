"""`geounet plan`: what it says of scenes that can be run and of those that cannot, and that it leaves no trace."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio import Affine

from geounet.batch import mosaic as mosaic_module
from geounet.batch.plan import plan_job, total
from geounet.batch.run import scene_runs, work_folder
from geounet.cli.main import main
from geounet.config.load import job_from_options
from geounet.engine import manifest as manifest_module
from geounet.engine.cluster import Layout
from geounet.engine.ledger import Ledger, folder_bytes
from geounet.engine.pool import InlinePool
from geounet.engine.scene import SceneRun
from geounet.errors import JobError
from geounet.models.bundle import Bundle
from geounet.types import Silent
from tests.support.local import write_scene
from tests.support.models import small_unet


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_unet(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def scenes(tmp_path: Path) -> list[str]:
    """Two that can be run and one that is none."""
    values = np.random.default_rng(0).integers(1, 255, (3, 96, 128)).astype(np.uint8)
    paths = [write_scene(tmp_path / f"{name}.tif", values) for name in "ab"]
    text = tmp_path / "text.tif"
    text.write_text("no raster")
    return [str(p) for p in [*paths, text]]


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["plan", *arguments, "--set", "predict.device=cpu", "--set", "predict.precision=fp32"])
    return code, capsys.readouterr().out


@pytest.mark.parametrize(("which", "code"), [((0, 1), 0), ((0, 2), 3), ((2,), 1)])
def test_the_exit_code_tells_of_refused_scenes(
    scenes: list[str],
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    which: tuple[int, ...],
    code: int,
) -> None:
    chosen = [scenes[i] for i in which]
    found, out = plan(capsys, *chosen, "--model", str(bundle.folder), "--out", str(tmp_path / "out"))
    assert found == code
    assert ("text: refused: " in out) == (2 in which)
    assert ("all: " in out) == (len(which) > 1)
    if which == (0, 2):
        assert "all: 1 of 2 can be run" in out
    assert not (tmp_path / "out").exists(), "a plan leaves no trace"


def test_json_is_for_machines(
    scenes: list[str], bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (scenes[0], "--model", str(bundle.folder), "--out", str(tmp_path / "out"), "--json")
    found, out = plan(capsys, *given)
    (entry,) = json.loads(out)
    assert found == 0
    assert entry["state"] == "planned"
    assert min(entry[key] for key in ("memory_bytes", "work_bytes", "output_bytes", "seconds")) > 0


@pytest.mark.parametrize("command", ["plan", "run"])
def test_more_memory_than_there_is_is_refused(
    scenes: list[str], bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    given = ["predict.device=cpu", "predict.precision=fp32", "predict.batch=100000000"]
    if command == "run":
        (one,) = scene_runs(job_from_options(scenes[:1], str(bundle.folder), str(tmp_path / "out"), given))
        one.layout = Layout(1, 1)
        with pytest.raises(JobError, match=r"^predict.batch: 100000000 tiles of \d+ px need about .* are available"):
            one.prepare()
        left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert left == [], "nothing is recorded that a later run would go on with"
        return
    call = (scenes[0], "--model", str(bundle.folder), "--out", str(tmp_path / "out"), "--set", given[-1])
    assert plan(capsys, *call) == (2, "")


def test_workers_of_another_cluster_may_have_more_memory(scenes: list[str], bundle: Bundle, tmp_path: Path) -> None:
    given = ["predict.device=cpu", "predict.precision=fp32", "predict.batch=100000000"]
    given += ["cluster.kind=address", "cluster.address=tcp://127.0.0.1:1"]
    job = job_from_options(scenes[:1], str(bundle.folder), str(tmp_path / "out"), given)
    (entry,) = plan_job(job)
    assert (entry["state"], entry["seconds"]) == ("planned", None)
    assert entry["memory_bytes"] > 1e12


def test_warnings_are_those_of_a_run(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).integers(1, 255, (3, 64, 64)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rasterio, about the missing geotransform
        scene = write_scene(tmp_path / "n.tif", values, crs=None, transform=Affine.identity())
    code, out = plan(capsys, str(scene), "--model", str(bundle.folder), "--out", str(tmp_path / "out"))
    assert code == 0
    assert "  warning: no georeference: results are in pixels" in out.splitlines()


def entry(name: str, work: int, output: int, seconds: float | None = 1.0, side: int = 8192) -> dict[str, object]:
    figures = {"work_bytes": work, "output_bytes": output, "seconds": seconds, "workers": 1, "helpers": 1}
    return {"name": name, "state": "planned", "grid": {"scene_grid": [side, side]}, **figures}


def test_two_scenes_in_a_row_have_parts_at_a_time() -> None:
    done = {"name": "z", "state": "done"}
    row = [entry("a", 5, 1), done, entry("b", 7, 1), entry("c", 1, 1), entry("d", 9, 1)]
    assert total(row) == (4 + 12, 4, 4.0), "a and b: what is done has none"
    models = [entry("a", 5, 1), entry("a", 6, 1), entry("b", 1, 1)]
    assert total(models) == (3 + 12, 3, 3.0), "all models of a scene"
    assert total([entry("a", 5, 1, None), entry("b", 1, 1)]) == (8, 2, None)
    assert total([done]) == (0, 0, 0)
    joined = [{**entry("a", 5, 1), "mosaic_work_bytes": 4, "mosaic_bytes": 2}]
    assert total([*joined, {**done, "mosaic_work_bytes": 7, "mosaic_bytes": 3}]) == (6 + 11, 6, 1.0), (
        "also of what is done"
    )


def test_small_scenes_have_parts_together_as_many_as_the_cluster_has_work_for() -> None:
    small = [entry(f"s{i}", 1, 0, side=1024) for i in range(9)]
    assert total(small)[0] == 2 + 2 * (1 + 1)
    assert total(small[:3])[0] == 3
    assert total(small, local=False)[0] == 9, "how large another cluster is nobody knows"
    assert total([*small[:3], entry("l", 1, 0), *small[3:5]])[0] == 3, "none beside a large one but one"
    assert total([*small[:3], entry("l", 5, 0), *small[3:5]])[0] == 6
    assert total([entry("l", 5, 0), entry("m", 5, 0), *small])[0] == 10


@pytest.mark.parametrize(
    "settings",
    [
        ("vector=none",),
        ("outputs.probability=true", "vector.formats=gpkg,fgb"),
        ("vector.landcover.min_area_px=0", "vector.roads=false", "vector.buildings=false"),
    ],
)
def test_disk_is_an_upper_bound(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    """Of a noisy scene, whose mask hardly compresses and has more borders than any other."""
    values = np.random.default_rng(0).integers(1, 255, (3, 200, 260)).astype(np.uint8)
    scene = write_scene(tmp_path / "noise.tif", values)
    given = ["predict.device=cpu", "predict.precision=fp32", "tiling.tile=64", "tiling.overlap=16", *settings]
    job = job_from_options([str(scene)], str(bundle.folder), str(tmp_path / "out"), given)
    (entry,) = plan_job(job, timing=False)
    assert entry["seconds"] is None
    sizes, whole = [], []
    remove = Ledger.remove_parts

    def seen(ledger: Ledger) -> None:
        sizes.append(ledger.bytes())
        whole.append(folder_bytes([tmp_path / "out"]))
        remove(ledger)

    monkeypatch.setattr(manifest_module, "_bring", shutil.copyfile)  # as where outputs.work is on another disk

    published = SceneRun._preview

    def before_publishing(*given: Any) -> str:
        sizes.append(folder_bytes([tmp_path / "out" / ".geounet"]))
        return published(*given)

    monkeypatch.setattr(Ledger, "remove_parts", seen)
    monkeypatch.setattr(SceneRun, "_preview", before_publishing)
    (one,) = scene_runs(job)
    manifest = one.run()
    files = [tmp_path / "out" / "noise" / name for name in manifest["files"].values()]
    assert len(sizes) == 2
    assert max(sizes) <= entry["work_bytes"]
    assert whole[0] <= total([entry])[0]
    assert sum(f.stat().st_size for f in files) <= entry["output_bytes"]


@pytest.mark.parametrize("step", [0.5, 0.2], ids=["one grid", "finer pixels"])
def test_disk_of_a_mosaic_is_an_upper_bound(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: float
) -> None:
    values = np.random.default_rng(0).integers(1, 255, (3, 200, 260)).astype(np.uint8)
    first, second = (Affine(s, 0, x, 0, -s, 4e6) for s, x in ((step, 5e5), (0.5, 5e5 + 20)))
    scenes = [write_scene(tmp_path / f"{n}.tif", values, transform=t) for n, t in (("a", first), ("b", second))]
    given = [
        "predict.device=cpu",
        "predict.precision=fp32",
        "tiling.tile=64",
        "tiling.overlap=16",
        "vector.mosaic=true",
    ]
    job = job_from_options([str(s) for s in scenes], str(bundle.folder), str(tmp_path / "out"), given)
    entries = plan_job(job, timing=False)
    running, done, _ = total(entries)
    sizes = []
    remove = mosaic_module.shutil.rmtree

    def seen(folder: Path) -> None:
        sizes.append(folder_bytes([tmp_path / "out"]))
        remove(folder)

    runs = scene_runs(job)
    made = [{"name": r.spec.name, "state": "done", **r.run()} for r in runs]
    inside = [{**m, "files": {key: f"{m['name']}/{f}" for key, f in m["files"].items()}} for m in made]
    monkeypatch.setattr(mosaic_module.shutil, "rmtree", seen)
    (joined,) = mosaic_module.mosaics(job, runs, inside, [], work_folder(job), InlinePool, Silent())
    assert joined["state"] == "done"
    assert len(sizes) == 1
    assert sizes[0] <= running
    assert sizes[0] - sum(e["output_bytes"] for e in entries) <= sum(e["mosaic_work_bytes"] for e in entries)
    files = [tmp_path / "out" / name for name in joined["files"].values()]
    assert 0 < sum(f.stat().st_size for f in files) <= sum(e["mosaic_bytes"] for e in entries)
    assert folder_bytes([tmp_path / "out"]) <= done
    settings = [part for setting in given for part in ("--set", setting)]
    code, out = plan(
        capsys, *map(str, scenes), "--model", str(bundle.folder), "--out", str(tmp_path / "new"), *settings
    )
    assert code == 0
    assert ", then their mosaic" in out
