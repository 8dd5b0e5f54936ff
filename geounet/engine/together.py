"""Several models on one scene: where their grids agree, each block is read once for all of them.

This fills the ledgers of the models' runs; each run then finds its blocks done, and goes on alone. What fails here is
left to the run whose block it is, which tries again and tells.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from geounet.engine.ledger import Ledger
from geounet.engine.pool import Task
from geounet.engine.scene import SceneRun
from geounet.errors import ClusterError, GeounetError, JobError, ModelError
from geounet.models.members import margin_of
from geounet.predict.infer import infer_together
from geounet.predict.recipe import Recipe

logger = logging.getLogger(__name__)


def infer_all(runs: Sequence[SceneRun]) -> None:
    """Infer the blocks that two or more runs of one scene still need, reading their pixels once.

    Raises
    ------
    GeounetError
        If the cluster is lost, a model cannot be used, or the disk is full.
    """
    groups: dict[tuple[object, ...], list[tuple[SceneRun, Recipe, Ledger]]] = {}
    for run in runs:
        try:
            plan, ledger = run.prepare()
        except (ClusterError, ModelError, JobError):
            raise
        except GeounetError as error:
            logger.debug("%s is not read together with others: %s", run.folder, error)  # its own run says so
            continue
        recipe = plan.recipe
        # What is read: the scene and its bands, resampled or not, by which tiles, for which blocks.
        key = recipe.scene, recipe.model_shape, recipe.tile, recipe.overlap, recipe.side, margin_of(run.bundle)
        groups.setdefault(key, []).append((run, recipe, ledger))
    for group in groups.values():
        if len(group) > 1:
            _infer(group)


def _infer(group: Sequence[tuple[SceneRun, Recipe, Ledger]]) -> None:
    started = time.perf_counter()
    done = [ledger.receipts("infer", recipe) for _, recipe, ledger in group]
    blocks = {str(block.id): block for block in group[0][1].blocks}
    tasks = []
    for name, block in blocks.items():
        wanting = tuple(recipe for k, (_, recipe, _) in enumerate(group) if name not in done[k])
        if len(wanting) > 1:
            tasks.append(Task(f"infer-{name}", infer_together, (wanting, block.id)))
    if not tasks:
        return
    first, names = group[0][0], ", ".join(run.bundle.card.name for run, _, _ in group)
    logger.info("%s: read once for %s", first.spec.name, names)
    finished, pixels = len(blocks) - len(tasks), 0
    first.progress.update("blocks", finished, len(blocks), names)
    for outcome in first.pool.run(tasks):
        if outcome.error is not None:
            continue
        owned = blocks[outcome.task.name.partition("-")[2]].owned
        finished, pixels = finished + 1, pixels + owned.rows * owned.cols
        first.progress.update("blocks", finished, len(blocks), names, pixels)
    for run, _, _ in group:
        run.timings["inference"] = round((time.perf_counter() - started) / len(group), 3)
