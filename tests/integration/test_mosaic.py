"""Several scenes as one: the features of overlapping pieces are those of the whole, by command and by job."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from geounet.batch import run as batch_run
from geounet.batch.mosaic import check, mosaics
from geounet.batch.run import Rounds, _entry, scene_runs
from geounet.batch.status import clean
from geounet.cli.batch import told
from geounet.cli.run import summary
from geounet.config.job import Job
from geounet.config.load import job_from_options
from geounet.engine.pool import InlinePool
from geounet.errors import GeounetError, OutputExistsError
from geounet.raster.sidecar import write_aux
from geounet.types import NODATA, Silent
from tests.support.models import small_unet
from tests.support.rasters import write
from tests.support.vectors import CLASSES, GRID, LAYERS, read, town, vectorize

WINDOWS = ((0, 0, 150, 160), (60, 100, 196, 156), (140, 0, 116, 140), (30, 20, 100, 120))
"""Row, column, rows, columns of pieces of a town of 256 px: they overlap, and cover all of it but a corner."""


def placed(row: int, col: int) -> Affine:
    a, b, c, d, e, f = tuple(GRID)[:6]
    return Affine(a, b, c + a * col, d, e, f + e * row)


def test_overlapping_pieces_give_what_the_whole_gives(tmp_path: Path) -> None:
    mask = town()
    covered = np.zeros(mask.shape, dtype=bool)
    pieces = []
    for index, (row, col, rows, cols) in enumerate(WINDOWS):
        window = np.s_[row : row + rows, col : col + cols]
        covered[window] = True
        pieces.append(tmp_path / f"piece_{index}.tif")
        write(pieces[-1], mask[window][None], nodata=NODATA, transform=placed(row, col))
        write_aux(tmp_path / f"piece_{index}.tif.aux.xml", CLASSES)
    whole = write(tmp_path / "whole.tif", np.where(covered, mask, NODATA)[None], nodata=NODATA, transform=GRID)
    write_aux(tmp_path / "whole.tif.aux.xml", CLASSES)
    kinds = ("--kind", "buildings", "--kind", "roads", "--kind", "landcover")
    assert vectorize(whole, "--out", tmp_path / "whole.gpkg", *kinds) == 0
    assert vectorize(*pieces, "--mosaic", "--out", tmp_path / "mosaic.gpkg", "--cell", 70, *kinds) == 0
    for layer in LAYERS:
        found = read(tmp_path / "mosaic.gpkg", layer)
        assert len(found["fid"]) > 3
        assert found == read(tmp_path / "whole.gpkg", layer)


def test_classes_of_all_rasters_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = np.full((40, 40), 7, np.int16), np.full((40, 40), 1000, np.int16)
    right[10:20, 10:20] = -3
    write(tmp_path / "a.tif", left[None], transform=GRID)
    write(tmp_path / "b.tif", right[None], transform=placed(0, 30))
    out = tmp_path / "x.gpkg"
    arguments = (tmp_path / "a.tif", tmp_path / "b.tif", "--out", out, "--kind", "landcover", "--preset", "raw")
    assert vectorize(*arguments) == 2
    assert "--mosaic" in capsys.readouterr().err
    assert vectorize(*arguments, "--mosaic") == 0
    found = read(out, "landcover")
    assert found["class"] == ["7", "1000", "-3"]
    # The overlap of 10 columns is the first raster's: not even the hole of the second one reaches into it.
    assert found["area_m2"] == pytest.approx([40 * 40 * 0.09, 30 * 40 * 0.09 - 9, 9], rel=1e-2)


def test_probabilities_as_one(tmp_path: Path) -> None:
    left, right = np.zeros((40, 40), np.float32), np.zeros((40, 40), np.float32)
    left[10:20, 20:40], right[10:20, 0:20] = 0.75, 0.5
    write(tmp_path / "a.tif", left[None], transform=GRID)
    write(tmp_path / "b.tif", right[None], transform=placed(0, 30))
    out = tmp_path / "x.gpkg"
    arguments = (tmp_path / "a.tif", tmp_path / "b.tif", "--mosaic", "--out", out, "--kind", "buildings")
    assert vectorize(*arguments, "--threshold", 0.5, "--preset", "raw") == 0
    found = read(out, "buildings")
    # 20 columns of the first, then 10 that only the second has.
    assert found["area_m2"] == [pytest.approx(300 * 0.09, rel=1e-3)]
    assert found["confidence"] == [pytest.approx((2 * 191 + 127) / 3 / 254)]


FAST = ("predict.device=cpu", "predict.precision=fp32", "tiling.tile=64", "tiling.overlap=16")


@pytest.fixture(scope="module")
def town_job(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A job of two scenes that overlap."""
    folder = tmp_path_factory.mktemp("job")
    bundle = small_unet(folder / "small", gsd=0.3)
    rng = np.random.default_rng(1)
    values = rng.integers(20, 255, (3, 8, 12)).repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
    for name, cols in (("west", slice(0, 112)), ("east", slice(80, 192))):
        write(folder / f"{name}.tif", values[:, :, cols], transform=placed(0, cols.start), crs="EPSG:32633")

    def job(*settings: str, out: str = "out") -> Job:
        scenes = [str(folder / "west.tif"), str(folder / "east.tif")]
        how = [*FAST, "name=two scenes/1", "vector.mosaic=true", *settings]
        return job_from_options(scenes, str(bundle.folder), str(folder / out), how)

    return job


def done(job: Job) -> list[dict[str, Any]]:
    entries = []
    for run in scene_runs(job):
        run.pool = InlinePool()
        entries.append(_entry(run, run.finished() or run.run()))
    return entries


def make(job: Job, entries: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    work = Path(job.outputs.folder) / ".geounet"
    return mosaics(job, scene_runs(job), entries, before, work, InlinePool, Silent())


def test_a_job_makes_one_geopackage_of_all_scenes(town_job: Any, capsys: pytest.CaptureFixture[str]) -> None:
    job = town_job("vector.formats=[gpkg, fgb, parquet]")
    out = Path(job.outputs.folder)
    entries = done(job)
    for entry in entries:
        files, name = entry["files"], entry["name"]
        assert files["probability"] == f"{name}/{name}_prob.tif"
        assert files["landcover_fgb"] == f"{name}/{name}_landcover.fgb"
        assert all((out / path).is_file() for path in files.values())
        assets = json.loads((out / files["item"]).read_text())["assets"]
        assert assets["landcover_parquet"]["type"] == "application/vnd.apache.parquet"
        assert assets["road_edges_fgb"]["href"] == f"./{name}_road_edges.fgb"
    killed = out / f".two_scenes_1.{'0' * 32}.tmp.gpkg-journal"
    killed.touch()
    (made,) = make(job, entries, [])
    assert (made["state"], made["scenes"]) == ("done", ["west", "east"])
    assert not killed.exists()
    assert made["files"]["vectors"] == "two_scenes_1.gpkg"
    assert made["files"]["buildings_fgb"] == "two_scenes_1_buildings.fgb"
    assert len(made["files"]) == 9
    assert all((out / path).is_file() for path in made["files"].values())
    assert not (out / ".geounet" / "mosaics" / "two_scenes_1").exists()
    # Every pixel is counted once: the union of both scenes, the first one's classes where they overlap.
    masks = {}
    for name in ("west", "east"):
        with rasterio.open(out / name / f"{name}_mask.tif") as file:
            masks[name] = file.read(1)
    union = np.concatenate([masks["west"], masks["east"][:, 32:]], axis=1)
    cover = read(out / "two_scenes_1.gpkg", "landcover")
    assert sum(cover["area_m2"]) == pytest.approx((union != NODATA).sum() * 0.09 / 0.9996**2, rel=1e-3)
    assert None not in cover["confidence"]
    lines = summary({"scenes": [], "mosaics": [made]}, out)
    assert "mosaic of 2 scenes: done" in lines[0]
    assert lines[-3].endswith("two_scenes_1.gpkg")
    assert lines[-1].endswith("buildings, road_edges, road_nodes, landcover as .parquet")

    stamp = (out / "two_scenes_1.gpkg").stat().st_mtime_ns
    (again,) = make(job, entries, json.loads(json.dumps([made])))
    assert again["state"] == "unchanged"
    assert (out / "two_scenes_1.gpkg").stat().st_mtime_ns == stamp
    (fewer,) = make(job, [entries[0], {**entries[1], "state": "failed"}], [made])
    assert (fewer["state"], fewer["scenes"]) == ("done", ["west"])


def test_a_file_of_somebody_else_is_not_replaced(town_job: Any) -> None:
    job = town_job(out="other")
    out = Path(job.outputs.folder)
    out.mkdir(parents=True)
    (out / "two_scenes_1.gpkg").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"two_scenes_1\.gpkg: is there"):
        check(job, ["small"], [])
    check(job, ["small"], [{"files": {"vectors": "two_scenes_1.gpkg"}}])
    check(town_job("outputs.overwrite=true", out="other"), ["small"], [])


def test_a_mosaic_of_a_run_that_was_killed_is_known(town_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, and no manifest names it; or that of another job came since."""
    job = town_job("vector.buildings=false", "vector.roads=false", out="killed")
    entries = done(job)
    monkeypatch.setattr("geounet.vector.build.tell", MagicMock(side_effect=SystemExit))
    with pytest.raises(SystemExit):
        make(job, entries, [])
    out = Path(job.outputs.folder)
    assert (out / "two_scenes_1.gpkg").exists()
    check(job, ["small"], [])
    other = town_job("name=other", out="killed")
    (out / "other.gpkg").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"other\.gpkg: is there"):
        check(other, ["small"], [])


def test_a_mosaic_that_fails_once_stays_this_jobs(town_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job = town_job("vector.buildings=false", "vector.roads=false", out="fails")
    entries = done(job)
    (made,) = make(job, [entries[0], {**entries[1], "state": "failed"}], [])
    with monkeypatch.context() as broken:
        broken.setattr("geounet.vector.build.geopackage", MagicMock(side_effect=GeounetError("no")))
        (failed,) = make(job, entries, [made])
    assert (failed["state"], failed["files"]) == ("failed", made["files"])
    (Path(job.outputs.folder) / ".geounet" / "mosaics.json").unlink()
    check(job, ["small"], [failed])
    (again,) = make(job, entries, [failed])
    assert (again["state"], again["scenes"]) == ("done", ["west", "east"])


def test_a_mosaic_that_cannot_be_made_is_told(town_job: Any) -> None:
    job = town_job(out="broken")
    entries = done(job)
    mask = Path(job.outputs.folder) / entries[1]["files"]["mask"]
    mask.write_bytes(mask.read_bytes()[:100])
    (made,) = make(job, entries, [])
    assert made["state"] == "failed"
    left = Path(job.outputs.folder) / ".geounet" / "mosaics"
    assert list(left.iterdir()) == [left / "two_scenes_1"]
    assert clean(Path(job.outputs.folder))[0] == 1
    assert list(left.iterdir()) == []
    assert mask.name in made["error"]
    assert "failed" in summary({"scenes": [], "mosaics": [made]}, Path(job.outputs.folder))[0]


def test_a_mosaic_keeps_scenes_that_wait_or_fail(
    town_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was finished of them lies in the output folder as before, so it is in the mosaic as before."""
    monkeypatch.setattr(batch_run._Cluster, "start", lambda _: None)
    monkeypatch.setattr(batch_run._Cluster, "get", lambda _: SimpleNamespace(layout=None))
    monkeypatch.setattr(batch_run._Cluster, "pool", lambda _: InlinePool())
    for name in ("west.tif", "east.tif"):
        shutil.copy(Path(town_job().scenes[0]).with_name(name), tmp_path)
        os.utime(tmp_path / name, (1e9, 1e9))

    def batch(*settings: str) -> tuple[batch_run.RunResult, dict[str, Any]]:
        asked = town_job("outputs.overwrite=true", *settings)
        scenes = [str(tmp_path / "west.tif"), str(tmp_path / "east.tif")]
        outputs = asked.outputs.model_copy(update={"folder": str(tmp_path / "out")})
        job = asked.model_copy(update={"scenes": scenes, "outputs": outputs})
        result = batch_run.run(job, rounds=Rounds())
        (made,) = result.manifest["mosaics"]
        return result, made

    result, made = batch()
    assert (result.exit_code, made["state"], made["scenes"], made["earlier"]) == (0, "done", ["west", "east"], [])
    stamp = (tmp_path / "out" / "two_scenes_1.gpkg").stat().st_mtime_ns

    os.utime(tmp_path / "east.tif")
    result, made = batch()
    assert result.manifest["waiting"] == ["east"]
    assert [(s["name"], s["state"]) for s in result.scenes] == [("west", "unchanged"), ("east", "unchanged")]
    assert (made["state"], made["scenes"], made["earlier"]) == ("unchanged", ["west", "east"], ["east"])
    assert told(result.manifest, result.folder) == ["nothing to do: 1 unchanged, 1 still being written"]

    (tmp_path / "east.tif").write_text("no raster")
    os.utime(tmp_path / "east.tif", (2e9, 1e9))
    result, made = batch()
    assert (result.exit_code, [s["state"] for s in result.scenes]) == (3, ["unchanged", "failed"])
    assert (made["state"], made["scenes"], made["earlier"]) == ("unchanged", ["west", "east"], ["east"])
    assert (tmp_path / "out" / "two_scenes_1.gpkg").stat().st_mtime_ns == stamp

    _, made = batch("vector.landcover={min_area_m2: 5}")
    assert (made["state"], made["scenes"], made["earlier"]) == ("done", ["west", "east"], ["east"])
    (line, *_) = summary({"scenes": [], "mosaics": [made]}, tmp_path)
    assert line.startswith("mosaic of 2 scenes (east as an earlier run made it): done")

    _, made = batch("predict.tta=flips")
    assert (made["state"], made["scenes"], made["earlier"]) == ("done", ["west"], []), "of other settings is no part"
