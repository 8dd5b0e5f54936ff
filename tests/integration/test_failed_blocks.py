"""Blocks that fail: what the manifest counts is what the mask holds, and the holes can be filled later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from geounet.batch.mosaic import mosaics
from geounet.batch.run import _entry, scene_runs
from geounet.config.load import job_from_options
from geounet.engine.pool import InlinePool, Outcome, Task
from geounet.engine.scene import SceneRun
from geounet.models.bundle import Bundle
from geounet.types import NODATA, Silent
from tests.support.local import write_scene
from tests.support.models import small_unet

SETTINGS = (
    "predict.device=cpu", "predict.precision=fp32", "tiling.tile=64", "tiling.overlap=16", "tiling.block=1",
    "max_failed_blocks=2",
)  # fmt: skip


class Fails(InlinePool):
    """Says of some tasks that they failed."""

    def __init__(self, *names: str, urgent: bool = False) -> None:
        super().__init__()
        self.names, self.urgent = names, urgent

    def run(
        self,
        tasks: Iterable[Task],
        follow: Callable[[Outcome], Iterable[Task]] | None = None,
        *,
        light: bool = False,
    ) -> Iterator[Outcome]:
        waiting = list(tasks)
        while waiting:
            task = waiting.pop(0)
            if task.name in self.names:
                outcome = Outcome(task, None, "OSError: the disk had a bad day")
            else:
                outcome = Outcome(task, task.function(*task.args))
            follows = list(follow(outcome)) if follow is not None else []
            waiting = [*follows, *waiting] if self.urgent else [*waiting, *follows]
            yield outcome


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    values = rng.integers(20, 255, (3, 7, 9)).repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
    values[:, 60:80, 30:60] = 0
    return write_scene(tmp_path_factory.mktemp("scenes") / "place.tif", values, nodata=0)


@pytest.fixture(scope="module", params=["softmax", "multilabel"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    activation = "softmax" if request.param == "softmax" else "sigmoid"
    made = small_unet(tmp_path_factory.mktemp("models") / "small", channels=3, gsd=0.3, activation=activation)
    assert made.card.head == request.param
    return made


def run_of(scene: Path, bundle: Bundle, out: Path, *settings: str, failing: tuple[str, ...] = ()) -> SceneRun:
    (one,) = scene_runs(job_from_options([str(scene)], str(bundle.folder), str(out), [*SETTINGS, *settings]))
    one.pool = Fails(*failing)
    return one


def mask(out: Path) -> np.ndarray[Any, Any]:
    with rasterio.open(out / "place" / "place_mask.tif") as file:
        return file.read()


@pytest.mark.parametrize(
    "failing", [("infer-r0001c0001",), ("seal-r0001c0001",), ("infer-r0000c0001", "seal-r0001c0002")]
)
def test_the_manifest_counts_what_the_mask_holds(
    scene: Path, bundle: Bundle, tmp_path: Path, failing: tuple[str, ...]
) -> None:
    manifest = run_of(scene, bundle, tmp_path, "vector=none", failing=failing).run()
    values = mask(tmp_path)
    assert manifest["blocks"] == {
        "total": 6, "done": 6 - len(failing), "failed": sorted(name[-10:] for name in failing)
    }  # fmt: skip
    whole = run_of(scene, bundle, tmp_path / "whole", "vector=none").run()
    assert manifest["valid_pixels"] == (values[0] != NODATA).sum() < whole["valid_pixels"]
    area = manifest["area"]
    if bundle.card.head == "multilabel":
        expected = {c.name: int((values[k] == 1).sum()) for k, c in enumerate(bundle.card.classes)}
    else:
        expected = {c.name: int((values[0] == c.code).sum()) for c in bundle.card.mask_classes()}
        expected["nodata"] = int((values[0] == NODATA).sum())
    assert {name: entry["pixels"] for name, entry in area.items()} == expected


def test_a_seal_that_fails_leaves_its_neighbours_whole_in_any_order(
    scene: Path, bundle: Bundle, tmp_path: Path
) -> None:
    masks = []
    for urgent in (False, True):
        one = run_of(scene, bundle, tmp_path / str(urgent), "vector=none")
        one.pool = Fails("seal-r0001c0001", urgent=urgent)
        manifest = one.run()
        assert manifest["blocks"]["failed"] == ["r0001c0001"]
        masks.append(mask(tmp_path / str(urgent)))
        assert manifest["valid_pixels"] == (masks[-1][0] != NODATA).sum()
    assert (masks[0] == masks[1]).all()


def test_a_continued_run_fills_the_holes_of_a_resampled_scene(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    """A block fails, the run is killed when the scene's grid is done, and the next run's try succeeds."""
    finer = "resample=auto", "vector=none"
    made = small_unet(tmp_path / "finer", channels=3, gsd=0.2, activation=bundle.card.activation)
    run_of(scene, made, tmp_path / "whole", *finer).run()
    holes = run_of(scene, made, tmp_path / "out", *finer, failing=("infer-r0001c0001",)).infer()
    assert [str(block) for block in holes.failed] == ["r0001c0001"]
    manifest = run_of(scene, made, tmp_path / "out", *finer).run()
    assert manifest["blocks"]["failed"] == []
    values = mask(tmp_path / "out")
    assert (values == mask(tmp_path / "whole")).all()
    assert manifest["valid_pixels"] == (values[0] != NODATA).sum()


def test_overwrite_fills_the_holes(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    first = run_of(scene, bundle, tmp_path, "vector=none", failing=("infer-r0001c0001",))
    first.run()
    holes = mask(tmp_path)
    assert (run_of(scene, bundle, tmp_path, "vector=none").finished() or {})["state"] == "unchanged"
    again = run_of(scene, bundle, tmp_path, "vector=none", "outputs.overwrite=true")
    assert (again.finished(mend=False) or {})["state"] == "unchanged"
    assert again.finished() is None
    manifest = again.run()
    assert manifest["blocks"] == {"total": 6, "done": 6, "failed": []}
    assert (mask(tmp_path) != NODATA).sum() > (holes != NODATA).sum()
    assert (again.finished() or {})["state"] == "unchanged"


def test_a_mosaic_follows_what_was_filled(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    def made(before: list[dict[str, Any]], *settings: str, failing: tuple[str, ...] = ()) -> dict[str, Any]:
        one = run_of(scene, bundle, tmp_path, "vector.mosaic=true", "vector.buildings={}", *settings, failing=failing)
        entries = [_entry(one, one.finished() or one.run())]
        (mosaic,) = mosaics(one.job, [one], entries, before, tmp_path / ".geounet", InlinePool, Silent())
        return mosaic

    formats = "vector.formats=[gpkg, fgb]"
    first = made([], formats, failing=("infer-r0001c0001",))
    assert (tmp_path / "geounet_buildings.fgb").exists()
    assert made([first], formats)["state"] == "unchanged"
    second = made([first], "outputs.overwrite=true")
    assert second["state"] == "done"
    assert not list(tmp_path.glob("*.fgb")), "no longer asked for"
    assert not list((tmp_path / "place").glob("*.fgb"))
    assert made([second], "outputs.overwrite=true")["state"] == "unchanged"


def test_a_mosaic_of_scenes_that_all_failed_is_still_known(scene: Path, bundle: Bundle, tmp_path: Path) -> None:
    one = run_of(scene, bundle, tmp_path, "vector.mosaic=true")
    last = {"name": "geounet", "state": "done", "key": "k", "files": {"vectors": "geounet.gpkg"}, "scenes": ["place"]}
    failed = [{"name": "place", "state": "failed"}]
    kept = mosaics(one.job, [one], failed, [last, {**last, "name": "other"}], tmp_path, InlinePool, Silent())
    assert kept == [{**last, "state": "unchanged"}]
    assert mosaics(one.job, [one], failed, [{**last, "files": {}}], tmp_path, InlinePool, Silent()) == []
