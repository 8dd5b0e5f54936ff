"""Scenes one after the other, without a pause between: while one is drawn or published, the next is inferred.

The last blocks of a scene leave workers without any, and drawing it (vectors, files, picture) has stretches that are
this process's work. So two scenes are in flight; small ones more, as many as keep all workers busy. A thread a scene
waits for its blocks, and one publishes. What takes this process long, the main thread does, in order, so that an
interrupt finds it there, as it would without threads.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any, NamedTuple

from geounet.batch.blame import own_fault
from geounet.batch.tally import Tally
from geounet.engine.cluster import Layout
from geounet.engine.drawing import FEW_CELLS, cells
from geounet.engine.pool import InlinePool, Pool
from geounet.engine.scene import Drawn, Inferred, SceneRun
from geounet.engine.together import infer_all
from geounet.errors import ClusterError, GeounetError, JobError, ModelError
from geounet.types import Progress

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Scenes that have parts on disk at a time, whatever their size."""

SMALL_PIXELS = 1 << 24
"""Of scenes up to this size more are in flight: as many as the cluster has work for."""

MOST = 64
"""Each has a thread of this process, and parts on disk."""

STOPPING = (ClusterError, ModelError, JobError)
"""What no other scene would fare better with: it ends the run."""

Results = list[tuple[SceneRun, dict[str, Any] | GeounetError]]


class _Reached(NamedTuple):
    """How far a thread got with a scene, one entry a model."""

    inferred: Sequence[Inferred | GeounetError]
    drawn: Sequence[Drawn | GeounetError] | None
    """None: the main thread draws."""


def most_in_flight(threads: int) -> int:
    """Return how many small scenes may have parts on disk at a time on a cluster that runs so many tasks at once."""
    return min(MOST, IN_FLIGHT + 2 * threads)


class _Flight:
    """Which scenes are under way, and whether another one may be.

    Parameters
    ----------
    scenes
        The runs of each scene.
    pool
        The cluster.
    begin
        Called with a scene that may begin.
    """

    def __init__(
        self, scenes: Sequence[list[SceneRun]], pool: Pool | InlinePool, begin: Callable[[list[SceneRun]], None]
    ) -> None:
        self.coming = deque(scenes)
        self._pool, self._begin = pool, begin
        self._lock = threading.Lock()
        self._under_way: dict[int, bool] = {}
        """By identity: whether the scene is small."""
        self._blocks: dict[int, int | None] = {}
        """Of scenes that are being inferred; None: not known yet."""

    def launch(self) -> None:
        """Begin as many scenes as may be under way."""
        with self._lock:
            while self.coming and self._room():
                scene = self.coming.popleft()
                self._under_way[id(scene)] = _small(scene)
                self._blocks[id(scene)] = None
                self._begin(scene)

    def _room(self) -> bool:
        if len(self._under_way) < IN_FLIGHT:
            return True
        if not (_small(self.coming[0]) and all(self._under_way.values())):
            return False
        if None in self._blocks.values():
            return False
        if len(self._under_way) >= most_in_flight(self._pool.threads(light=True)):
            return False
        # One task running and one waiting for each thread of the network.
        return sum(blocks or 0 for blocks in self._blocks.values()) < 2 * self._pool.threads()

    def planned(self, scene: list[SceneRun], blocks: int) -> None:
        """Note how many blocks of a scene are to be inferred."""
        with self._lock:
            self._blocks[id(scene)] = blocks
        self.launch()

    def inferred(self, scene: list[SceneRun]) -> None:
        """Note that a scene has no block left to infer."""
        with self._lock:
            self._blocks.pop(id(scene), None)
        self.launch()

    def ended(self, scene: list[SceneRun]) -> None:
        """Note that a scene has no parts left."""
        with self._lock:
            self._under_way.pop(id(scene), None)
        self.launch()

    def stop(self) -> None:
        """Begin no other scene."""
        with self._lock:
            self.coming.clear()


def _small(scene: Sequence[SceneRun]) -> bool:
    return all(run.pixels is not None and run.pixels <= SMALL_PIXELS for run in scene)


def run_all(
    runs: Sequence[SceneRun],
    pool: Pool | InlinePool,
    layout: Layout | None,
    progress: Progress,
    begun: Callable[[SceneRun], None] | None = None,
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
    begun
        Called with each scene and model before anything is done for it, in a thread of its own.

    Raises
    ------
    GeounetError
        If the cluster is lost, a model cannot be used, the job is wrong, the disk is full, or the output or work
        folder cannot be written any more.
    """
    scenes = [list(group) for _, group in groupby(runs, key=lambda run: run.spec.name)]
    tally = Tally(progress, len(scenes))
    reached: deque[Future[_Reached]] = deque()
    flight = _Flight(scenes, pool, lambda scene: reached.append(threads.submit(reach, scene)))
    for place, scene in enumerate(scenes):
        for run in scene:
            run.pool, run.layout, run.progress = pool.share(-place), layout, tally.part()
            run.planned = lambda blocks, of=scene: flight.planned(of, blocks)  # type: ignore[misc]

    def reach(scene: list[SceneRun]) -> _Reached:
        if begun is not None:
            for run in scene:
                begun(run)
        inferred = _infer(scene)
        flight.inferred(scene)
        if len(scenes) == 1 or not all(map(_quick, inferred)):
            return _Reached(inferred, None)
        if flight.coming and any(not isinstance(made, GeounetError) and made.plan.layers for made in inferred):
            pool.help()
        drawn = [_tried(run, run.draw, made, aside=True) for run, made in zip(scene, inferred, strict=True)]
        return _Reached(inferred, drawn)

    def publish(scene: list[SceneRun], drawn: Sequence[Drawn | GeounetError]) -> Results:
        results = [(run, _tried(run, run.publish, made)) for run, made in zip(scene, drawn, strict=True)]
        tally.scene_done()
        flight.ended(scene)
        return results

    publishing: deque[Future[Results]] = deque()
    with (
        ThreadPoolExecutor(MOST, thread_name_prefix="geounet-scene") as threads,
        ThreadPoolExecutor(1, thread_name_prefix="geounet-publish") as publisher,
    ):
        try:
            flight.launch()
            for scene in scenes:
                inferred, drawn = reached.popleft().result()
                if drawn is None:
                    drawn = [_tried(run, run.draw, made) for run, made in zip(scene, inferred, strict=True)]
                publishing.append(publisher.submit(publish, scene, drawn))
                # The next scene has begun when no more than one before it is left to publish.
                while publishing and (publishing[0].done() or len(publishing) == IN_FLIGHT):
                    yield from publishing.popleft().result()
            while publishing:
                yield from publishing.popleft().result()
        except STOPPING:
            flight.stop()
            pool.close()
            while publishing:  # what is published by now is done all the same
                yield from publishing.popleft().result()
            raise
        except BaseException:
            flight.stop()
            pool.close()  # the threads are awaited, and wait for tasks themselves
            raise


def _quick(made: Inferred | GeounetError) -> bool:
    """Return whether a scene is drawn by one worker at a stretch, which this process need only wait for."""
    return isinstance(made, GeounetError) or cells(made.plan) <= FEW_CELLS


def _infer(scene: Sequence[SceneRun]) -> list[Inferred | GeounetError]:
    """Infer a scene with its models; return what each led to."""
    if len(scene) > 1:
        _tried(scene[0], infer_all, scene)  # the run whose block fails there tries again, and tells
    ended: list[Inferred | GeounetError] = []
    for run in scene:
        logger.info("%s: starting with %s", run.spec.name, run.bundle.card.name)
        ended.append(_tried(run, run.infer))
    return ended


def _tried(run: SceneRun, step: Callable[..., Any], *before: Any, **more: Any) -> Any:
    """Return what a step makes of the one before; what went wrong in this scene alone is handed on."""
    if before and isinstance(before[0], GeounetError):
        return before[0]
    try:
        return step(*before, **more)
    except STOPPING:
        raise
    except Exception as error:
        return own_fault(error, run)
