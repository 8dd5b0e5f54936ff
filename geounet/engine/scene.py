"""The driver of one scene: its stages in order, each continued from what the ledger says is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geounet.atomic import check_name, check_writable
from geounet.config.job import Job, Vector
from geounet.config.layers import WITHOUT_METRES, metres_asked, resolve_layers
from geounet.engine.changes import changes
from geounet.engine.cluster import Layout
from geounet.engine.drawing import cells, draw_whole, vector_request
from geounet.engine.estimate import check_memory
from geounet.engine.input import check_unchanged, describe_input
from geounet.engine.ledger import Ledger
from geounet.engine.manifest import (
    announce,
    check_ours,
    check_unclaimed,
    count_pixels,
    finished_output,
    publish,
    remove_parts,
    scene_manifest,
)
from geounet.engine.plan import (
    Plan,
    choose_grid,
    job_key,
    keeps_probability,
    pixel_key,
    resolve_tiling,
    versions,
)
from geounet.engine.pool import InlinePool, Outcome, Pool, PoolExecutor, Task
from geounet.engine.storage import check_receipt, check_work
from geounet.engine.timer import Timer
from geounet.errors import ClusterError, GeounetError, SceneError
from geounet.grid.blocks import Block, BlockId
from geounet.models.bundle import Bundle
from geounet.predict.decide import add_counts
from geounet.predict.infer import infer_block
from geounet.predict.probe import best_batch, memory_needed, probe
from geounet.predict.recipe import Recipe
from geounet.predict.regrid import chunks, regrid_chunk
from geounet.predict.seal import seal_block
from geounet.predict.stitch import model_mosaic, stitch
from geounet.raster.scene import SceneInfo, SceneSpec
from geounet.report.task import Ahead, make_preview
from geounet.types import Progress, Silent

if TYPE_CHECKING:
    from geounet.vector.request import VectorRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inferred:
    """A scene whose pixels are all in parts: what is left to do for it hardly needs the cluster."""

    plan: Plan
    ledger: Ledger
    receipts: dict[str, dict[str, Any]]
    """Of the inferred blocks, by name."""
    counts: list[dict[str, int]]
    """Pixels by code, a mask band each."""
    failed: tuple[BlockId, ...]
    started: datetime


@dataclass(frozen=True)
class Drawn:
    """A scene whose rasters and vectors are complete, under names of their own."""

    inferred: Inferred
    files: dict[str, str]
    """Names in the staging folder, by key."""
    features: dict[str, Any]
    pictured: bool = False
    """Whether the preview was drawn, or could not be."""


@dataclass
class SceneRun:
    """One scene and one model, from the input to the published files."""

    pool: Pool | InlinePool
    job: Job
    spec: SceneSpec
    bundle: Bundle
    folder: Path
    """Where the finished files go."""
    work: Path
    layout: Layout | None
    progress: Progress = field(default_factory=Silent)
    timings: dict[str, float] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    ahead: Ahead | None = None
    """Has read the scene for its picture, perhaps."""
    pixels: int | None = None
    """Size of the scene, once `finished` has looked."""
    planned: Callable[[int], None] = field(default=lambda _blocks: None)
    """Told how many blocks are to be inferred, once that is known."""

    def run(self) -> dict[str, Any]:
        """Do what is left to do, publish the files, and return the scene's manifest.

        Raises
        ------
        GeounetError
            If the scene is refused or fails, the cluster is lost, or other output stands in the way.
        """
        return self.publish(self.draw(self.infer()))

    def infer(self) -> Inferred:
        """Do the first part of `run`: make the parts of the scene.

        Raises
        ------
        GeounetError
            If the scene is refused or fails, or the cluster is lost.
        """
        started = datetime.now(UTC)
        plan, ledger = self.prepare()
        recipe = plan.recipe
        ledger.note("start", blocks=recipe.blocks.count, tile=recipe.tile)
        self.pool.on_event = lambda event, details: ledger.note(event, **details)
        with self._timed("inference"):
            infer, seal, failed = self._blocks(recipe, ledger)
        counts: list[dict[str, int]] = []
        if recipe.resampled:
            with self._timed("regrid"):
                counts = self._regrid(recipe, ledger, failed)
        else:
            counts = count_pixels(plan, [*infer.items(), *seal.items()], failed)
        return Inferred(plan, ledger, infer, counts, failed, started)

    def draw(self, inferred: Inferred, *, aside: bool = False) -> Drawn:
        """Do the second part of `run`: rasters and vectors.

        With `aside` workers do it in few tasks, the picture of vectors too: this process has other scenes to see to.

        Raises
        ------
        GeounetError
            If that fails, or the cluster is lost.
        """
        plan, ledger, failed = inferred.plan, inferred.ledger, inferred.failed
        staging = ledger.folder / "final"
        tags = self._tags(plan)
        with self._timed("stitch"):
            given = plan.recipe, plan.info, failed, str(staging), self.job.probability, tags
            files: dict[str, str] = dict(self._one("stitch", stitch, given, light=aside)["files"])
        features: dict[str, Any] = {}
        if plan.layers is not None:
            with self._timed("vectors"):
                tags["date"] = _stamp(inferred.started)
                features = self._vectors(vector_request(self.job, plan, ledger, self.folder, tags, failed), plan, aside)
            files |= features.pop("files")
        pictured = aside and plan.layers is not None
        if pictured:
            self._picture(plan, staging, files, aside)
        return Drawn(inferred, files, features, pictured)

    def publish(self, drawn: Drawn) -> dict[str, Any]:
        """Do the last part of `run`, without the cluster: picture, manifest, final names; return the manifest.

        Raises
        ------
        GeounetError
            If that fails, or the scene is not what it was at the start: then nothing is published, and its parts go.
        """
        inferred, files = drawn.inferred, dict(drawn.files)
        plan, ledger, started = inferred.plan, inferred.ledger, inferred.started
        staging = ledger.folder / "final"
        if not drawn.pictured:
            self._picture(plan, staging, files)
        try:
            check_unchanged(plan)  # nothing reads it any more
        except SceneError:
            remove_parts(ledger)
            raise
        manifest = scene_manifest(
            plan=plan,
            bundle=self.bundle,
            job=self.job,
            key=job_key(self.job, ledger.key),
            started=started,
            timings=self.timings,
            infer=inferred.receipts,
            counts=inferred.counts,
            features=drawn.features,
            failures=self.failures,
            warnings=self.warnings,
            files=files,
            deaths=self.pool.deaths,
        )
        publish(manifest, plan, staging, self.folder, started, announce(self.folder, ledger, files))
        ledger.remove_parts()
        return manifest

    # Preparation ---------------------------------------------------------------------------------------------------

    def describe(self) -> tuple[SceneSpec, SceneInfo]:
        """Describe the scene with the bands that the model takes, and check them.

        Raises
        ------
        SceneError
            If it cannot be read or does not fit the card.
        """
        return describe_input(self.job, self.bundle.card, self.spec)

    def finished(self, *, mend: bool = True) -> dict[str, Any] | None:
        """Return the manifest of this job's finished output, or None if there is work to do. Needs no cluster.

        Where `overwrite` is set, and `mend`, output with failed blocks is no finished one.

        Raises
        ------
        SceneError
            If the scene is refused.
        OutputExistsError
            If finished output of another job, model or input, or files of no run are in the folder, and `overwrite` is
            not set.
        """
        spec, info = self.describe()
        self.pixels = info.width * info.height
        choose_grid(info, self.bundle.card, self.job)
        self._layers(info)
        pixels, overwrite = pixel_key(self.job, self.bundle, info, spec), self.job.outputs.overwrite
        told = partial(changes, job=self.job, bundle=self.bundle, info=info)
        key = job_key(self.job, pixels)
        done = finished_output(self.folder, key, overwrite=overwrite, mend=mend, changed=told)
        if done is None and not overwrite:
            check_unclaimed(self.folder, info.name, Ledger(self.work, self._name(), pixels))
        elif done is None and not mend:
            check_ours(self.folder)
        return done

    def begun(self) -> bool:
        """Return whether parts of this scene are there as it is asked for now, which a run continues."""
        spec, info = self.describe()
        return Ledger(self.work, self._name(), pixel_key(self.job, self.bundle, info, spec)).read_record() is not None

    def prepare(self, *, dry: bool = False, workers: int | None = None) -> tuple[Plan, Ledger]:
        """Resolve the job for this scene for a number of workers (None: those there are); `dry` leaves no record."""
        spec, info = self.describe()
        check_name(self.folder, info.name, info.files[0])
        if not dry:
            check_writable(self.folder)  # now, and not after hours of work
        shape, ratio = choose_grid(info, self.bundle.card, self.job)
        key = pixel_key(self.job, self.bundle, info, spec)
        ledger = Ledger(self.work, self._name(), key)
        if not dry:
            check_work(self.pool, self.work)
        record = ledger.read_record()
        if record is not None:
            here = {"folder": str(ledger.folder), "model": str(self.bundle.folder), "threads": self._threads()}
            recipe = Recipe.from_dict({**record["recipe"], **here})
        else:
            recipe = self._resolve(spec, info, shape, key, ledger, workers or self.pool.threads() or 1, dry=dry)
            if not dry:
                ledger.write_record({"recipe": asdict(recipe), "versions": versions(), "scene": info.to_dict()})
        inputs = {**dict.fromkeys(spec.files, "scenes"), **({} if spec.aoi is None else {spec.aoi: "aoi"})}
        self.pool.needs = {str(ledger.record_file): "outputs.work", **inputs}
        layers = self._layers(info)
        self.planned(recipe.blocks.count)
        return Plan(recipe, info, self.bundle.card, ratio, self.job.probability, layers), ledger

    def _layers(self, info: SceneInfo) -> Vector | None:
        """Return the layers to make; a scene whose metres are unknown is refused where options are in metres."""
        from geounet.vector.attributes import Ground  # late: pyproj

        layers = resolve_layers(self.job, self.bundle.card)
        ground = Ground(info.crs_wkt, info.transform, info.height, info.width)
        if layers is not None and not ground.known:
            for given in metres_asked(layers):
                raise SceneError(f"{info.files[0]}: has no coordinate system that tells metres, which {given} needs; "
                                 f"{WITHOUT_METRES}")  # fmt: skip
        return layers

    def _name(self) -> str:
        return self.folder.name if self.job.models is None else f"{self.folder.parent.name}/{self.folder.name}"

    def _threads(self) -> int:
        if self.layout is not None:
            return self.layout.threads
        if isinstance(self.job.cluster.threads, int):
            return self.job.cluster.threads
        # On a cluster that is not ours: what its workers' machines have, shared by all worker threads there.
        return self.pool.cores_per_thread()

    def _resolve(
        self,
        spec: SceneSpec,
        info: SceneInfo,
        shape: tuple[int, int],
        key: str,
        ledger: Ledger,
        workers: int,
        *,
        dry: bool,
    ) -> Recipe:
        job, bundle, threads = self.job, self.bundle, self._threads()
        device = job.predict.device
        if device == "auto" and job.cluster.kind == "cuda":
            device = "cuda"  # an error where it cannot be used, instead of a slow run
        elif not dry and device.startswith("cuda") and self.layout is not None and self.layout.devices:
            device = "cuda"  # the worker of a local cluster sees the one that was asked for, and no other
        asked = str(bundle.folder), bundle.sha256, device, job.predict.precision
        answer = self._answer("probe", probe, asked)
        tile, overlap, side = resolve_tiling(shape, bundle.card, job, int(answer["multiple"]), workers, threads)
        batch = job.predict.batch
        if batch == "auto":
            batch = self._answer("batch", best_batch, (str(bundle.folder), answer["device"], answer["precision"], tile))
        if self.layout is not None and job.cluster.here:  # others' workers may have more memory than is here
            where = str(bundle.folder), answer["device"], answer["precision"], tile
            check_memory(job, tile, int(batch), lambda n: int(self._answer("memory", memory_needed, (*where, n))))
        return Recipe(
            scene=spec,
            fingerprint=key,
            model=str(bundle.folder),
            model_sha256=bundle.sha256,
            scene_shape=(info.height, info.width),
            model_shape=shape,
            tile=tile,
            overlap=overlap,
            side=side,
            device=answer["device"],
            precision=answer["precision"],
            batch=int(batch),
            tta=job.predict.tta,
            threads=threads,
            keep_probability=keeps_probability(job),
            folder=str(ledger.folder),
        )

    # Stages --------------------------------------------------------------------------------------------------------

    def _blocks(
        self, recipe: Recipe, ledger: Ledger
    ) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], tuple[BlockId, ...]]:
        """Infer and seal all blocks; return the receipts of both and the blocks that failed."""
        blocks = {str(block.id): block for block in recipe.blocks}
        infer, seal = ledger.receipts("infer", recipe), ledger.receipts("seal", recipe)
        failed: list[BlockId] = []
        lost: set[BlockId] = set()  # those whose inference failed: of others, what neighbours need is there
        # What was sealed without a neighbour that failed then is sealed again: it may succeed now.
        submitted = {name for name, receipt in seal.items() if not receipt["failed"]}

        def unlocked(around: Iterable[Block]) -> list[Task]:
            tasks = []
            for block in around:
                name = str(block.id)
                if name in submitted or name not in infer or not block.strips:
                    continue
                if all(str(giver) in infer or giver in lost for giver in block.givers.values()):
                    submitted.add(name)
                    missing = tuple(giver for giver in block.givers.values() if giver in lost)
                    tasks.append(Task(f"seal-{name}", seal_block, (recipe, block.id, missing), urgent=True))
            return tasks

        def follow(outcome: Outcome) -> list[Task]:
            stage, _, name = outcome.task.name.partition("-")
            block = blocks[name]
            if outcome.error is not None:
                self.failures.append({"block": name, "stage": stage, "error": outcome.error})
                ledger.note("failed", block=name, stage=stage, error=outcome.error)
                failed.append(block.id)
                lost.update([block.id] if stage == "infer" else [])
            else:
                check_receipt(recipe.receipt(stage, name))
                (infer if stage == "infer" else seal)[name] = outcome.result
            if stage != "infer":
                return []
            row, col = block.id
            around = (str(BlockId(row + dy, col + dx)) for dy in (0, 1) for dx in (0, 1))
            return unlocked(blocks[key] for key in around if key in blocks)

        todo = [Task(f"infer-{name}", infer_block, (recipe, b.id)) for name, b in blocks.items() if name not in infer]
        todo = unlocked(blocks.values()) + todo
        total, pixels = len(blocks), 0
        self.progress.update("blocks", len(infer), total)
        for outcome in self.pool.run(todo, follow):
            stage, _, name = outcome.task.name.partition("-")
            pixels += blocks[name].owned.rows * blocks[name].owned.cols if stage == "infer" else 0
            self.progress.update("blocks", len(infer), total, f"{len(failed)} failed", pixels)
            if len(set(failed)) > self.job.max_failed_blocks:
                raise GeounetError(
                    f"{recipe.scene.files[0]}: {len(set(failed))} of {total} blocks failed (max_failed_blocks is "
                    f"{self.job.max_failed_blocks}); first: {self.failures[0]['block']}: {self.failures[0]['error']}"
                )
        if not infer:
            raise SceneError(f"{recipe.scene.files[0]}: every block failed; first: {self.failures[0]['error']}")
        return infer, seal, tuple(dict.fromkeys(failed))

    def _regrid(self, recipe: Recipe, ledger: Ledger, failed: tuple[BlockId, ...]) -> list[dict[str, int]]:
        mosaic = str(model_mosaic(recipe, self.bundle.card.channels, failed))
        # Chunks made while blocks were missing must not outlive the blocks' second chance, which may be a later run's.
        made = {} if failed else ledger.receipts("regrid", recipe)
        receipts = {name: receipt for name, receipt in made.items() if receipt.get("failed") == []}
        todo: list[Task] = []
        counts: list[dict[str, int]] = []
        for rect in chunks(recipe):
            name = f"{rect.y0:07d}_{rect.x0:07d}"
            if name in receipts:
                counts = add_counts(counts, receipts[name]["counts"])
            else:
                todo.append(Task(f"regrid-{name}", regrid_chunk, (recipe, mosaic, rect, failed)))
        for done, outcome in enumerate(self.pool.run(todo), start=1):
            if outcome.error is not None:
                raise GeounetError(f"{recipe.scene.files[0]}: {outcome.task.name}: {outcome.error}")
            counts = add_counts(counts, outcome.result["counts"])
            self.progress.update("chunks", done, len(todo))
        return counts

    def _vectors(self, request: VectorRequest, plan: Plan, aside: bool) -> dict[str, Any]:
        from geounet.vector.build import geopackage, tell

        result: dict[str, Any]
        if aside or cells(plan) == 1:
            self.progress.update("vectors", 0, 1)
            result = self._one("vectors", draw_whole, (request,), light=True)
            self.progress.update("vectors", 1, 1)
        else:
            told = PoolExecutor(self.pool, lambda label, done, total: self.progress.update(label, done, total))
            result = geopackage(request, told)
        tell(request, result)
        return result

    def _picture(self, plan: Plan, staging: Path, files: dict[str, str], aside: bool = False) -> None:
        """Draw the preview, and add it to the files."""
        with self._timed("preview"):
            try:
                files["preview"] = self._preview(plan, staging, files, aside)
            except ClusterError:
                raise
            except Exception as error:  # a picture is not worth the scene
                self.warnings.append(f"no preview: {error}")
                logger.warning("%s: no preview: %s", self.spec.files[0], error)
                logger.debug("no preview", exc_info=True)

    def _preview(self, plan: Plan, staging: Path, files: dict[str, str], aside: bool) -> str:
        card, name = plan.card, plan.info.name
        classes = card.classes if card.head == "multilabel" else card.mask_classes()
        dest = staging / f"{name}_preview.png"
        gpkg = staging / files["vectors"] if "vectors" in files else None
        given = dest, plan.recipe.scene, plan.info, staging / files["mask"], classes, gpkg
        if aside:
            self.warnings += self._one("preview", make_preview, given, light=True)
        else:  # here: this process had time to load what it takes while the workers loaded the network
            self.warnings += make_preview(*given, self.ahead)
        return dest.name

    def _one(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], *, light: bool = False) -> Any:
        (outcome,) = self.pool.run([Task(name, function, args)], light=light)
        if outcome.error is not None:
            raise GeounetError(f"{self.spec.files[0]}: {name}: {outcome.error}")
        return outcome.result

    def _answer(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Return what a worker answered when a scene of this run first asked this."""
        key = name, *args
        if key not in self.pool.answers:
            self.pool.answers[key] = self._one(name, function, args)
        return self.pool.answers[key]

    def _tags(self, plan: Plan) -> dict[str, str]:
        return {
            "TIFFTAG_SOFTWARE": f"geounet {versions()['geounet']}",
            "GEOUNET_MODEL": plan.card.name,
            "GEOUNET_MODEL_SHA256": self.bundle.sha256,
            "GEOUNET_FINGERPRINT": plan.recipe.fingerprint,
            "GEOUNET_INPUT": ", ".join(Path(f).name for f in plan.info.files),
        }

    def _timed(self, stage: str) -> Timer:
        return Timer(self.timings, stage)


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
