"""A run: all scenes of a job in order on one cluster; nothing of one scene's failure reaches the next."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Container
from concurrent.futures import Future
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

from geounet.atomic import write_text
from geounet.batch import mosaic
from geounet.batch.attempts import Attempts, settled
from geounet.batch.blame import own_fault
from geounet.batch.files import Files
from geounet.batch.lock import HIDDEN, locked_output
from geounet.batch.overlap import run_all
from geounet.batch.scenes import find_scenes
from geounet.config.job import Job
from geounet.config.layers import resolve_layers
from geounet.config.load import missing_aoi
from geounet.engine.cluster import Connection, connect
from geounet.engine.input import with_members
from geounet.engine.manifest import FORMAT, check_apart, is_ours, manifest_of_run, read_manifest
from geounet.engine.plan import check_model, versions
from geounet.engine.pool import InlinePool, Pool
from geounet.engine.scene import SceneRun
from geounet.errors import GeounetError, JobError, OutputExistsError, UnknownModelError, code_of
from geounet.models.bundle import Bundle, load_bundle
from geounet.raster.scene import SceneSpec
from geounet.report.task import Ahead
from geounet.types import Progress, Silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes
    ----------
    exit_code
        0 done, 1 all scenes failed, 3 some scenes or blocks failed.
    manifest
        Content of `OUT/manifest.json`.
    folder
        The output folder.
    """

    exit_code: int
    manifest: dict[str, Any]
    folder: Path

    @property
    def scenes(self) -> list[dict[str, Any]]:
        """One entry a scene (and model): `name`, `state` (`done`, `unchanged`, `failed`), `error`, `folder`, …."""
        return list(self.manifest["scenes"])


def work_folder(job: Job) -> Path:
    """Return where ledger, lock and parts go."""
    if job.outputs.work == "auto":
        return Path(job.outputs.folder).absolute() / HIDDEN
    return Path(job.outputs.work).absolute()


@dataclass(frozen=True)
class Rounds:
    """How a job is run again and again, as scenes come and change.

    Attributes
    ----------
    settle_s
        Scenes that were written to within so many seconds are left for the next time.
    tries
        How often a scene that fails is tried as it is; None: once more, however often it failed.
    """

    settle_s: float = 30.0
    tries: int | None = 3


def scene_runs(job: Job, specs: list[SceneSpec] | None = None) -> list[SceneRun]:
    """Return the scenes and models of a job as runs that have no cluster yet.

    Parameters
    ----------
    job
        What to do.
    specs
        Its scenes, if they are known.

    Raises
    ------
    JobError
        If the scenes or their names are wrong, or there is no such model or area of interest.
    ModelError
        If a model cannot be used.
    """
    specs = find_scenes(job) if specs is None else specs
    if job.aoi is not None and (problem := missing_aoi(job.aoi)):
        raise JobError(problem)
    try:
        bundles = [load_bundle(name) for name in job.model_names()]
    except UnknownModelError as error:
        raise JobError(str(error)) from None
    for bundle in bundles:
        check_model(bundle.card)
    twice = {b.card.name for b in bundles if [o.card.name for o in bundles].count(b.card.name) > 1}
    if twice:
        raise JobError(f"models: two models are named {twice.pop()!r}; their results would overwrite each other")
    return [_scene_run(job, spec, bundle) for spec in specs for bundle in bundles]


def _scene_run(job: Job, spec: SceneSpec, bundle: Bundle) -> SceneRun:
    folder = Path(job.outputs.folder).absolute() / spec.name
    if job.models is not None:
        folder /= bundle.card.name
    spec = with_members(job, bundle.card, spec)
    check_apart(folder, spec)
    return SceneRun(InlinePool(), job, spec, bundle, folder, work_folder(job), None)


def run(job: Job, client: Any = None, progress: Progress | None = None, *, rounds: Rounds | None = None) -> RunResult:
    """Run a job: scenes in, masks and GeoPackages out.

    A run that was killed is continued; finished output of the same job, model and input is left as it is, unless
    blocks of it failed and `outputs.overwrite` is set.

    Parameters
    ----------
    job
        What to do.
    client
        A `distributed.Client` to work on; None follows `job.cluster`. It stays open.
    progress
        Told what happens; None is silent.
    rounds
        Run it as one of many times: where no scene is found there is nothing to do, scenes that are being written wait,
        and scenes that keep failing, or of which blocks failed, are left alone. The manifest names those that wait in
        `waiting`; what is finished of them stands in `scenes`, too.

    Raises
    ------
    JobError
        If scenes are missing or doubly named, there is no such model or area of interest, or other output stands in
        the way.
    ModelError
        If a model cannot be used.
    LockedError
        If another run is at work in the output folder.
    ClusterError
        If there is no cluster, or it is lost.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    progress = progress or Silent()
    specs = find_scenes(job, some=rounds is None)
    files = Files()
    waiting: dict[str, SceneSpec] = {}
    if rounds is not None:
        waiting = {spec.name: spec for spec in specs if not settled(spec, rounds.settle_s, files)}
    for spec in waiting.values():
        logger.info("%s: is being written; left for the next time", spec.files[0])
    runs = scene_runs(job, specs)
    out = Path(job.outputs.folder).absolute()
    _check_claim(out, overwrite=job.outputs.overwrite, batch=rounds is not None)
    with locked_output(out, work_folder(job)), ExitStack() as stack:
        attempts = None if rounds is None else Attempts(work_folder(job), rounds.tries)
        before = manifest_of_run(out)
        last = (before or {}).get("mosaics", [])
        mosaic.check(job, [run.bundle.card.name for run in runs], last)
        cluster = _Cluster(job, client, stack, vectors=any(map(_vectorised, runs)))
        if not all(_looks_done(scene) for scene in runs if scene.spec.name not in waiting):
            cluster.start()
        entries: dict[int, dict[str, Any]] = {}
        todo: list[tuple[int, SceneRun]] = []
        for index, scene in enumerate(runs):
            if scene.spec.name in waiting:
                if (older := _earlier(scene)) is not None:
                    entries[index] = _entry(scene, {**older, "state": "unchanged"})
                continue
            try:
                done = scene.finished(mend=rounds is None)
            except JobError:
                raise
            except Exception as error:
                left = None if attempts is None else attempts.given_up(scene)
                failure = own_fault(error, scene)
                entries[index] = _failed(scene, failure if left is None else GeounetError(left))
                if attempts is not None and left is None:
                    attempts.ended(scene, str(failure))
                continue
            if done is not None:
                logger.info("%s: already done", scene.spec.name)
                entries[index] = _entry(scene, done)
                if attempts is not None:
                    attempts.ended(scene, None)  # though the run that did it was killed before it noted that
            elif attempts is not None and (left := attempts.given_up(scene)) is not None:
                entries[index] = _failed(scene, GeounetError(left))
            else:
                todo.append((index, scene))
        if todo:
            pool, layout = cluster.pool(), cluster.get().layout
            first = todo[0][1]
            first.ahead = Ahead(first.describe, vectors=_vectorised(first))
            stack.callback(first.ahead.end)
            places = {id(scene): index for index, scene in todo}
            begun = None if attempts is None else attempts.begun
            with nullcontext() if attempts is None else attempts:
                for together in _apart([scene for _, scene in todo], attempts):
                    with closing(run_all(together, pool, layout, progress, begun)) as results:
                        for scene, ended in results:
                            entry = _failed(scene, ended) if isinstance(ended, GeounetError) else _entry(scene, ended)
                            entries[places[id(scene)]] = entry
                            if attempts is not None:
                                attempts.ended(scene, entry["error"])
        ordered = [entries[index] for index in sorted(entries)]
        here = [runs[index] for index in sorted(entries)]
        whole = [_finished(*one, waiting) for one in zip(here, ordered, strict=True)]
        made = mosaic.mosaics(job, here, whole, last, work_folder(job), cluster.pool, progress)
        exit_code = _exit_code(ordered)
        if exit_code == 0 and any(entry["state"] == "failed" for entry in made):
            exit_code = 3
        manifest = {
            "format": FORMAT,
            "job": job.model_dump(mode="json", by_alias=True),
            "versions": versions(),
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - clock, 2),
            "exit_code": exit_code,
            "scenes": ordered,
            "mosaics": made,
        }
        if rounds is not None:
            manifest["waiting"] = list(waiting)
        fresh = bool(todo) or any(entry["state"] != "unchanged" for entry in made)
        if fresh or _wanting(manifest) or before is None or _told(before) != _told(manifest):
            _write(out, manifest)
    return RunResult(exit_code, manifest, out)


def _check_claim(out: Path, *, overwrite: bool, batch: bool) -> None:
    """Check that a run's own files would replace none but those of runs; a batch overwrites results, not others' files.

    Raises
    ------
    OutputExistsError
        Naming the file.
    """
    manifest = read_manifest(out)
    if (overwrite and not batch) or is_ours(manifest):
        return
    there = [path for name in ("manifest.json", "report.html") if os.path.exists(path := out / name)]  # noqa: PTH110
    if there:
        from geounet.report.html import is_report

        if manifest is None and is_report(out / "report.html"):
            return  # a run's, which tells whose a manifest was that is gone or cannot be read
        replace = "" if batch else "set outputs.overwrite: true (--overwrite) to replace it, or "
        raise OutputExistsError(f"{there[0]}: is there and not of a run; {replace}choose another output folder")


def _looks_done(scene: SceneRun) -> bool:
    return os.path.exists(scene.folder / "manifest.json")  # noqa: PTH110 - False where one may not look


def _vectorised(scene: SceneRun) -> bool:
    return resolve_layers(scene.job, scene.bundle.card) is not None


class _Cluster:
    """The cluster of a run, started beside the checks of the scenes: both take a second or two."""

    def __init__(self, job: Job, client: Any, stack: ExitStack, *, vectors: bool) -> None:
        self._left = threading.Event()
        self._context = connect(job.cluster, job.predict.device, client, vectors=vectors, left=self._left)
        self._stack = stack
        self._wait_s = job.cluster.wait_s
        self._elsewhere = client is None and job.cluster.kind == "address"
        self._starting: Future[Any] | None = None
        self._pool: Pool | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._starting = Future()
        # A daemon: whoever interrupts a run need not wait for a cluster that does not answer.
        threading.Thread(target=self._connect, args=(self._starting,), name="geounet-cluster", daemon=True).start()
        self._stack.push(self._leave)

    def _connect(self, starting: Future[Any]) -> None:
        try:
            starting.set_result(self._context.__enter__())
        except BaseException as error:  # told by `get`
            starting.set_exception(error)

    def get(self) -> Connection:
        """Return the connection once there is one."""
        if self._starting is None:
            self.start()
        assert self._starting is not None
        connected: Connection = self._starting.result()
        return connected

    def pool(self) -> Pool:
        """Return the pool of the cluster, the same one every time."""
        if self._pool is None:
            connection = self.get()
            self._pool = Pool(connection.client, wait_s=self._wait_s, helpers=connection.helpers)
        return self._pool

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._starting is not None
        self._left.set()
        if self._elsewhere and not self._starting.done():
            return None  # nothing of ours runs there
        if self._starting.exception() is not None:
            return None  # told by `get`, or something else went wrong before
        return self._context.__exit__(kind, error, trace)


def _apart(todo: list[SceneRun], attempts: Attempts | None) -> list[list[SceneRun]]:
    """Return what is run at a time: all scenes, then each by itself at which a run was killed, so that others are done.

    One that was only beside the culprit then is not blamed again.
    """
    scenes = [list(group) for _, group in groupby(todo, key=lambda scene: scene.spec.name)]
    suspect = [attempts is not None and any(map(attempts.killed, scene)) for scene in scenes]
    others = [run for scene, alone in zip(scenes, suspect, strict=True) if not alone for run in scene]
    apart = [scene for scene, alone in zip(scenes, suspect, strict=True) if alone]
    return [others, *apart] if others else apart


def _earlier(scene: SceneRun) -> dict[str, Any] | None:
    """Return the manifest of what an earlier run made of a scene, whatever became of its input; None if it is no more.

    It must be of the same files by the same model, with the settings that decide pixels and which of them are there.
    """
    manifest = read_manifest(scene.folder)
    if manifest is None or manifest.get("state") != "done":
        return None
    settings = {"resample", "data_type", "tiling", "predict", "nodata", "bands", "aoi", "bbox", "max_failed_blocks"}
    asked = scene.job.model_dump(mode="json", include=settings)
    try:
        if manifest["model"]["sha256"] != scene.bundle.sha256:
            return None
        spec, made_of = scene.spec, manifest["input"]
        if spec.fault is None or spec.product is None:
            same = made_of["files"] == list(spec.files)
        else:  # which files of it the model takes is not known now
            same = made_of.get("product") == spec.product
        if not same:
            return None
        if any(manifest["job"][key] != value for key, value in asked.items()):
            return None
        if scene.job.probability and "probability" not in manifest["files"]:
            return None
        there = all((scene.folder / name).exists() for name in manifest["files"].values())
    except (KeyError, TypeError, AttributeError, OSError):
        return None
    return manifest if there else None


def _finished(scene: SceneRun, entry: dict[str, Any], waiting: Container[str]) -> dict[str, Any]:
    """Return what is in the output folder of a scene: its entry, or, where that tells of a failure, the earlier one."""
    if entry["state"] == "failed" and (older := _earlier(scene)) is not None:
        return _entry(scene, {**older, "state": "earlier"})
    return {**entry, "state": "earlier"} if scene.spec.name in waiting else entry


def _entry(scene: SceneRun, manifest: dict[str, Any]) -> dict[str, Any]:
    entry = {k: v for k, v in manifest.items() if k not in ("format", "job", "versions")}
    # Relative to the output folder, so that it can be moved as a whole.
    folder = scene.folder.relative_to(Path(scene.job.outputs.folder).absolute())
    entry["files"] = {key: (folder / name).as_posix() for key, name in manifest.get("files", {}).items()}
    return {**entry, "folder": folder.as_posix(), "error": None}


def _failed(scene: SceneRun, error: GeounetError) -> dict[str, Any]:
    logger.error("%s", error)
    return {
        "name": scene.spec.name,
        "state": "failed",
        "error": str(error),
        "folder": scene.folder.relative_to(Path(scene.job.outputs.folder).absolute()).as_posix(),
        "model": {"name": scene.bundle.card.name, "sha256": scene.bundle.sha256},
        "failures": scene.failures,
        "timings": scene.timings,
        # What finished scenes have, so that whoever reads them all need not ask.
        "files": {},
        "features": {},
        "area": {},
        "warnings": [],
    }


def _exit_code(entries: list[dict[str, Any]]) -> int:
    code = code_of(sum(entry["state"] == "failed" for entry in entries), len(entries))
    return 3 if code == 0 and any(e.get("blocks", {}).get("failed") for e in entries) else code


def _wanting(manifest: dict[str, Any]) -> bool:
    """Return whether a run left scenes undone: that is told anew each time."""
    return bool(manifest.get("waiting")) or any(entry["state"] == "failed" for entry in manifest["scenes"])


def _told(manifest: dict[str, Any]) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Return what changes where scenes come and go without work: which there are, whether they failed, which wait."""
    entries = manifest.get("scenes", [])
    scenes = [(entry.get("name"), entry.get("folder"), entry.get("state") == "failed") for entry in entries]
    return scenes, manifest.get("waiting", [])


def _write(out: Path, manifest: dict[str, Any]) -> None:
    from geounet.report.html import write_report

    write_text(out / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    write_report(out / "report.html", manifest)
