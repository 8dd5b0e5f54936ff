"""The plan of a job: each scene resolved as a run would, without a cluster and without leaving a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rasterio import Affine

from geounet.batch.overlap import IN_FLIGHT, MOST, SMALL_PIXELS, most_in_flight
from geounet.batch.run import scene_runs
from geounet.config.job import Job, Vector
from geounet.config.layers import resolve_layers
from geounet.engine.cluster import local_layout
from geounet.engine.estimate import estimate, in_mosaic, measure
from geounet.engine.scene import SceneRun
from geounet.errors import GeounetError, JobError
from geounet.raster.scene import SceneInfo
from geounet.vector.mosaic import Grid, offset


def plan_job(job: Job, *, timing: bool = True) -> list[dict[str, Any]]:
    """Return one entry a scene and model.

    Each has `name`, `model`, `networks` (members of an ensemble; time and memory are those of all) and `state`:
    `refused` (with `error`), `done`, or `planned` with `grid`, `device`, `precision`, `batch`, `workers`, `threads`,
    `helpers` (processes that come for vectors), `blocks_done`, `memory_bytes` of a worker, `work_bytes`,
    `output_bytes`, `seconds`, `warnings` (of the scene, as a run tells them). Where a mosaic of all scenes is asked
    for, `mosaic_work_bytes` and `mosaic_bytes` are what the scene adds to it, while it is made and when done.

    Raises
    ------
    JobError
        If the job cannot be run as it is.
    ModelError
        If a model cannot be used.
    """
    entries: list[dict[str, Any]] = []
    layout = local_layout(job.cluster, job.predict.device)
    speeds: dict[tuple[Any, ...], tuple[int, float | None]] = {}
    firsts: dict[str, SceneInfo] = {}
    for scene in scene_runs(job):
        parts = len(scene.bundle.parts)
        entry: dict[str, Any] = {"name": scene.spec.name, "model": scene.bundle.card.name, "networks": parts}
        entries.append(entry)
        scene.layout = layout
        try:
            finished = scene.finished()
            entry |= _mosaic(scene, firsts)
            if finished is not None:
                entry["state"] = "done"
                continue
            plan, ledger = scene.prepare(dry=True, workers=layout.workers)
        except JobError:
            raise
        except GeounetError as error:
            entry.update(state="refused", error=str(error))
            continue
        recipe = plan.recipe
        key = (recipe.model, recipe.device, recipe.precision, recipe.tile, recipe.batch, recipe.tta)
        if timing and key not in speeds:
            speeds[key] = measure(plan)
        activations, seconds = speeds.get(key, (0, None))
        figures = estimate(plan, layout.workers, activations, seconds)
        entry.update(
            state="planned",
            grid=plan.grid_summary,
            device=recipe.device,
            precision=recipe.precision,
            batch=recipe.batch,
            workers=layout.workers,
            threads=layout.threads,
            helpers=layout.helpers if plan.layers is not None else 0,
            blocks_done=len(ledger.receipts("infer", recipe)),
            memory_bytes=figures.memory_bytes,
            work_bytes=figures.work_bytes,
            output_bytes=figures.output_bytes,
            seconds=None if figures.seconds is None else float(f"{figures.seconds:.3g}"),
            warnings=list(plan.info.warnings),
        )
    return entries


def _mosaic(scene: SceneRun, firsts: dict[str, SceneInfo]) -> dict[str, int]:
    """Return what a scene adds to its model's mosaic; `firsts`: the scenes whose grids those have, by model."""
    card = scene.bundle.card
    if not isinstance(scene.job.vector, Vector) or not scene.job.vector.mosaic:
        return {}
    layers = resolve_layers(scene.job, card)
    if layers is None:
        return {}
    _, info = scene.describe()
    first = firsts.setdefault(card.name, info)
    grid, target = (Grid(i.crs_wkt, Affine(*i.transform), i.width, i.height, 1) for i in (info, first))
    most, done = in_mosaic(layers, card, info, first, moved=offset(grid, target) is None)
    return {"mosaic_work_bytes": most, "mosaic_bytes": done}


def total(entries: Sequence[Mapping[str, Any]], *, local: bool = True) -> tuple[int, int, float | None]:
    """Return `(running, done, seconds)` of a plan: disk in bytes that all scenes take at most, and network time.

    The parts of a scene are removed when it is done; two scenes in a row have some at a time, of small ones more:
    as many as may be at all where the cluster is not `local`, and its size unknown. A mosaic of all scenes, done ones
    included, is made after them.
    """
    planned = [entry for entry in entries if entry["state"] == "planned"]
    whole = [entry for entry in entries if entry["state"] != "refused"]
    done = sum(int(entry["output_bytes"]) for entry in planned)
    scenes = [list(group) for _, group in groupby(planned, key=lambda entry: entry["name"])]
    parts = [(sum(int(entry["work_bytes"]) for entry in scene), scene[0]["grid"]["scene_grid"]) for scene in scenes]
    threads = max((int(entry["workers"]) + int(entry["helpers"]) for entry in planned), default=1)
    flying = most_in_flight(threads) if local else MOST
    most = max((_together(parts[i:], flying) for i in range(len(parts))), default=0)
    most = max(most, sum(int(entry.get("mosaic_work_bytes", 0)) for entry in whole))
    done += sum(int(entry.get("mosaic_bytes", 0)) for entry in whole)
    times = [entry["seconds"] for entry in planned]
    return done + most, done, None if None in times else sum(times)


def _together(parts: Sequence[tuple[int, Sequence[int]]], most: int) -> int:
    """Return the bytes of the parts that there may be when the first of these scenes has some; sizes, and grids."""
    small = [rows * cols <= SMALL_PIXELS for _, (rows, cols) in parts[:most]]
    count = max(IN_FLIGHT, [*small, False].index(False))
    return sum(size for size, _ in parts[:count])
