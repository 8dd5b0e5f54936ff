"""Scenes one after the other, without a pause between: while one is drawn or published, the next is inferred.

Finishing a scene (vectors, files, picture) is for the most part this process's work, and the last blocks of a scene
leave workers without any. So two scenes are in flight. Threads wait for the blocks of both, and one publishes; the main
thread draws, in order, so that an interrupt finds it in what may take minutes, as it would without threads.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any

from geounet.batch.tally import Tally
from geounet.engine.cluster import Layout
from geounet.engine.pool import InlinePool, Pool
from geounet.engine.scene import Drawn, Inferred, Progress, SceneRun
from geounet.engine.together import infer_all
from geounet.errors import ClusterError, GeounetError, JobError, ModelError

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Scenes that have parts on disk at a time."""

STOPPING = (ClusterError, ModelError, JobError)
"""What no other scene would fare better with: it ends the run."""

Results = list[tuple[SceneRun, dict[str, Any] | GeounetError]]


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
    inferring: deque[Future[list[Inferred | GeounetError]]] = deque()
    publishing: deque[Future[Results]] = deque()

    def launch() -> None:
        if coming:
            inferring.append(threads.submit(_infer, coming.popleft()))

    def publish(drawn: Sequence[tuple[SceneRun, Drawn | GeounetError]]) -> Results:
        results = [(run, _tried(run.publish, made)) for run, made in drawn]
        tally.scene_done()
        launch()
        return results

    with (
        ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="geounet-infer") as threads,
        ThreadPoolExecutor(1, thread_name_prefix="geounet-publish") as publisher,
    ):
        try:
            for _ in range(IN_FLIGHT):
                launch()
            for scene in scenes:
                inferred = inferring.popleft().result()
                drawn = [(run, _tried(run.draw, made)) for run, made in zip(scene, inferred, strict=True)]
                publishing.append(publisher.submit(publish, drawn))
                # The scene after the next is launched by the one before this.
                while publishing and (publishing[0].done() or len(publishing) == IN_FLIGHT):
                    yield from publishing.popleft().result()
            while publishing:
                yield from publishing.popleft().result()
        except STOPPING:
            coming.clear()
            pool.close()
            while publishing:  # what is published by now is done all the same
                yield from publishing.popleft().result()
            raise
        except BaseException:
            coming.clear()
            pool.close()  # the threads are awaited, and wait for tasks themselves
            raise


def _infer(scene: Sequence[SceneRun]) -> list[Inferred | GeounetError]:
    """Infer a scene with its models; return what each led to."""
    if len(scene) > 1:
        infer_all(scene)
    ended: list[Inferred | GeounetError] = []
    for run in scene:
        logger.info("%s: starting with %s", run.spec.name, run.bundle.card.name)
        ended.append(_tried(run.infer))
    return ended


def _tried(step: Callable[..., Any], *before: Any) -> Any:
    """Return what a step makes of the one before; what went wrong in this scene alone is handed on."""
    if before and isinstance(before[0], GeounetError):
        return before[0]
    try:
        return step(*before)
    except STOPPING:
        raise
    except GeounetError as error:
        return error
