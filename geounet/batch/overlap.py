"""Scenes one after the other, without a pause between: while one is finished, the next is inferred.

Finishing a scene (vectors, files, picture) is for the most part this process's work, and the last blocks of a scene
leave workers without any. So two scenes are in flight. Threads wait for the blocks of both; the main thread finishes
them in order, so that an interrupt finds it there, as it would without threads.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any

from geounet.batch.tally import Tally
from geounet.engine.cluster import Layout
from geounet.engine.pool import InlinePool, Pool
from geounet.engine.scene import Inferred, Progress, SceneRun
from geounet.engine.together import infer_all
from geounet.errors import ClusterError, GeounetError, JobError, ModelError

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Scenes that have parts on disk at a time."""

STOPPING = (ClusterError, ModelError, JobError)
"""What no other scene would fare better with: it ends the run."""


def run_all(
    runs: Sequence[SceneRun], pool: Pool | InlinePool, layout: Layout | None, progress: Progress
) -> Generator[tuple[SceneRun, dict[str, Any] | GeounetError]]:
    """Run scenes; yield each in order with its manifest, or with what went wrong in it alone.

    Parameters
    ----------
    runs
        Scenes and models that have work to do; the models of a scene stand together.
    pool, layout
        The cluster. Tasks of an earlier scene go first.
    progress
        Told what happens in all scenes together.

    Raises
    ------
    GeounetError
        If the cluster is lost, a model cannot be used, or the job is wrong.
    """
    scenes = [list(group) for _, group in groupby(runs, key=lambda run: run.spec.name)]
    tally = Tally(progress, len(scenes))
    for place, scene in enumerate(scenes):
        for run in scene:
            run.pool, run.layout, run.progress = pool.share(-place), layout, tally.part()
    coming = deque(scenes)
    flying: deque[tuple[list[SceneRun], Future[list[Inferred | GeounetError]]]] = deque()
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="geounet-scene") as threads:
        try:
            while coming or flying:
                while coming and len(flying) < IN_FLIGHT:
                    scene = coming.popleft()
                    flying.append((scene, threads.submit(_infer, scene)))
                scene, inferring = flying[0]
                for run, inferred in zip(scene, inferring.result(), strict=True):
                    yield run, _finish(run, inferred)
                flying.popleft()
                tally.scene_done()
        except BaseException:
            pool.close()  # the threads are awaited, and wait for tasks themselves
            raise


def _infer(scene: Sequence[SceneRun]) -> list[Inferred | GeounetError]:
    """Infer a scene with its models; return what each led to."""
    if len(scene) > 1:
        infer_all(scene)
    ended: list[Inferred | GeounetError] = []
    for run in scene:
        logger.info("%s: starting with %s", run.spec.name, run.bundle.card.name)
        try:
            ended.append(run.infer())
        except STOPPING:
            raise
        except GeounetError as error:
            ended.append(error)
    return ended


def _finish(run: SceneRun, inferred: Inferred | GeounetError) -> dict[str, Any] | GeounetError:
    if isinstance(inferred, GeounetError):
        return inferred
    try:
        return run.finish(inferred)
    except STOPPING:
        raise
    except GeounetError as error:
        return error
