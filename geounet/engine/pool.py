"""Running tasks on a Dask cluster through a bounded window, with our own account of deaths and retries.

Never everything at once: a dying worker makes Dask suspect every task assigned to it, so few are (docs/decisions/0005).
`retries=` of Dask is not about deaths, and its own limits are not ours to set on a shared cluster.
"""

from __future__ import annotations

import logging
import queue
import random
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from geounet.engine.cluster import NETWORK, Helpers
from geounet.engine.gate import ALONE, Gate
from geounet.errors import ClusterError, GeounetError, JobError, ModelError, ValuesError
from geounet.machine import cores
from geounet.raster.env import one_line
from geounet.raster.space import disk_full

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

DEATHS = 4
"""Worker deaths after which a task is given up; from `ALONE` on it runs by itself, so that the blame is its own."""

TRIES = 2
"""Executions of a task that raises, before it counts as failed."""

FETCH_S = 5.0
"""Seconds that a receipt may take from its worker before others are looked at: it may be busy, or dying."""

TICK = 1.0
"""Seconds between looks at the cluster while nothing finishes."""

STOPPING: tuple[type[GeounetError], ...] = (ModelError, JobError, ClusterError)
"""What no other task would fare better with, `ValuesError` apart."""

LOST = "the connection to the Dask scheduler is lost; run again to continue"


@dataclass(frozen=True)
class Raised:
    """What a task raised, told by its worker in words.

    Exceptions do not all survive the way from a worker (some cannot be pickled), and Dask would log each with its
    traceback.
    """

    kind: str
    """Name of the class of a `GeounetError` (of its base, if that is one of `STOPPING`), `disk` for a full disk, else
    `defect`."""
    line: str
    trace: str = ""


def guarded(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Call a function on a worker; return its result, or what it raised."""
    try:
        return function(*args)
    except Exception as error:
        if full := disk_full(error):
            return Raised("disk", str(full))
        if isinstance(error, GeounetError):
            return Raised(_kind(error), str(error))
        return Raised("defect", f"{type(error).__name__}: {error}", traceback.format_exc())


def _kind(error: GeounetError) -> str:
    if not isinstance(error, ValuesError):
        for stops in STOPPING:
            if isinstance(error, stops):
                return stops.__name__
    return type(error).__name__


@dataclass
class Task:
    """One call to make somewhere."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    urgent: bool = False
    """Whether it goes before those that wait."""
    deaths: int = 0
    tries: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    task: Task
    result: Any = None
    error: str | None = None
    """One line; None if it succeeded."""


class Pool:
    """A client with a window. One pool has one thread at a time; `share` gives another thread its own.

    Parameters
    ----------
    client
        A `distributed.Client`.
    wait_s
        How long the cluster may be without workers, seconds.
    priority
        Tasks of a higher one go first.
    gate
        Shared by the pools of one cluster.
    helpers
        Processes of the cluster that the network must not be sent to; None: there are none.
    """

    def __init__(
        self,
        client: Any,
        *,
        wait_s: float = 120.0,
        priority: int = 0,
        gate: Gate | None = None,
        helpers: Helpers | None = None,
    ) -> None:
        self.client = client
        self.wait_s = wait_s
        self.priority = priority
        self.gate = gate or Gate()
        self.helpers = helpers
        self.on_event: Callable[[str, dict[str, Any]], None] = lambda _event, _details: None
        """Called with `(event, details)` for deaths and retries."""
        self.deaths = 0

    def share(self, priority: int = 0) -> Pool:
        """Return a pool on the same cluster that counts for itself."""
        return Pool(self.client, wait_s=self.wait_s, priority=priority, gate=self.gate, helpers=self.helpers)

    @property
    def answers(self) -> dict[Any, Any]:
        """What workers answered to questions that need no second answer; the same for all pools of this cluster."""
        return self.gate.answers

    def help(self) -> None:
        """Have helpers come, where the cluster can have some: there will be many light tasks."""
        if self.helpers is not None:
            self.helpers.call()

    def close(self) -> None:
        """Make all pools of this cluster stop waiting for their tasks."""
        self.gate.closed.set()

    def threads(self, *, light: bool = False) -> int:
        """Return how many tasks the cluster can run at once, as of now: such that need the network, or `light` ones.

        Raises
        ------
        ClusterError
            If the scheduler is lost.
        """
        threads = self._workers()
        if light or self.helpers is None:
            return sum(threads.values())
        others = self.helpers.addresses()
        return sum(count for address, count in threads.items() if address not in others)

    @property
    def _connected(self) -> bool:
        """Whether the client is connected, or still tries to be."""
        return self.client.status in ("running", "connecting")

    def _workers(self) -> dict[str, int]:
        try:
            return dict(self.client.nthreads())
        except OSError as error:
            raise ClusterError(LOST) from error

    def cores_per_thread(self) -> int:
        """Return how many processors each worker thread may use: the least over the machines, at least 1.

        The workers are asked once for all pools of the cluster; those that leave meanwhile do not count.

        Raises
        ------
        ClusterError
            If the scheduler is lost.
        """
        if self.gate.cores is None:
            try:
                here = self.client.run(_host, on_error="ignore")
            except OSError as error:
                raise ClusterError(LOST) from error
            if not here:
                return 1  # all have just left: others are asked when they are there
            threads: dict[str, int] = {}
            for address, count in self._workers().items():
                if address in here:
                    name = here[address][0]
                    threads[name] = threads.get(name, 0) + count
            self.gate.cores = min(max(1, cores // max(1, threads.get(name, 1))) for name, cores in here.values())
        return self.gate.cores

    def window(self, *, light: bool = False) -> int:
        """Return how many tasks may be at the cluster: one running and one waiting for each thread."""
        return max(2, 2 * self.threads(light=light))

    def run(
        self,
        tasks: Iterable[Task],
        follow: Callable[[Outcome], Iterable[Task]] | None = None,
        *,
        light: bool = False,
    ) -> Iterator[Outcome]:
        """Yield the outcome of every task, in any order; `follow` returns the tasks that an outcome unlocks.

        None of `light` tasks needs the network, so helpers do them, too. They are called where there are more of them
        than the workers take at once.

        Raises
        ------
        ClusterError
            If the scheduler is lost, no worker is there for `wait_s` seconds, or workers cannot do the job: they lack
            access to a folder, space on its disk, or what this process has installed.
        ModelError, JobError
            If the model cannot be used, or the job is wrong: no other task would fare better.
        """
        waiting: deque[Task] = deque(tasks)
        suspects: deque[Task] = deque()
        running: dict[Any, Task] = {}
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        lonely_since: float | None = None
        if light and self.helpers is not None and len(waiting) > self.window():
            self.helpers.call()
        window = self.window(light=light)
        refreshed = time.monotonic()
        try:
            while waiting or suspects or running:
                if self.gate.closed.is_set():
                    raise ClusterError("the run was given up")
                while len(running) < window and (task := self._admitted(waiting, suspects)):
                    future = self._submit(task, light=light)
                    running[future] = task
                    future.add_done_callback(finished.put)
                try:
                    future = finished.get(timeout=TICK)
                except queue.Empty:
                    lonely_since = self._watch(lonely_since, light=light)
                    window = self.window(light=light)
                    continue
                lonely_since = None
                if time.monotonic() - refreshed > 10 * TICK:
                    window, refreshed = self.window(light=light), time.monotonic()
                if not future.done():  # its receipt went down with its worker, and Dask has the task done again
                    future.add_done_callback(finished.put)
                    continue
                try:
                    result, error = self._fetch(future)
                except TimeoutError:
                    finished.put(future)
                    continue
                task = running.pop(future)
                self.gate.leave(task)
                outcome = self._judge(task, result, error)
                future.release()
                if outcome is None:
                    if task.deaths >= ALONE:
                        suspects.append(task)
                    else:
                        waiting.appendleft(task)
                    continue
                if follow is not None:
                    for unlocked in follow(outcome):
                        (waiting.appendleft if unlocked.urgent else waiting.append)(unlocked)
                yield outcome
        finally:
            for task in running.values():
                self.gate.leave(task)
            for task in suspects:
                self.gate.withdraw(task)
            if running:
                self.client.cancel(list(running), force=True)

    def _admitted(self, waiting: deque[Task], suspects: deque[Task]) -> Task | None:
        """Take the next task that the gate lets pass: suspects come last, or where one of them holds up the others.

        Each has its own queue: behind a task that waits for it, a suspect would wait for that one in turn.
        """
        for tasks in (waiting, suspects):
            if tasks and self.gate.enter(tasks[0]):
                return tasks.popleft()
        return None

    def _submit(self, task: Task, *, light: bool) -> Any:
        # A key of its own for each attempt: on a shared scheduler an erred key would be answered from memory.
        key = f"geounet-{task.name}-{uuid.uuid4().hex[:12]}"
        bound = {} if light or self.helpers is None else {"resources": {NETWORK: 1}}
        try:
            return self.client.submit(
                guarded, task.function, task.args, key=key, pure=False, retries=0, priority=self.priority, **bound
            )
        except Exception as error:
            if self._connected:
                raise
            raise ClusterError(LOST) from error

    def _watch(self, lonely_since: float | None, *, light: bool) -> float | None:
        if not self._connected:
            raise ClusterError(LOST)
        if self.threads(light=light):
            return None
        now = time.monotonic()
        if lonely_since is not None and now - lonely_since > self.wait_s:
            raise ClusterError(f"no worker for {self.wait_s:.0f} s; run again to continue")
        return lonely_since if lonely_since is not None else now

    def _fetch(self, future: Any) -> tuple[Any, Exception | None]:
        """Return the result of a future, or what it ended with.

        Raises
        ------
        TimeoutError
            If that takes longer than `FETCH_S`.
        """
        from distributed import CancelledError

        try:
            if future.status == "finished":
                return future.result(timeout=FETCH_S), None
            return None, future.exception(timeout=FETCH_S) or CancelledError(str(future.key))
        except TimeoutError:
            raise
        except Exception as raised:
            return None, raised

    def _judge(self, task: Task, result: Any, error: Exception | None) -> Outcome | None:
        """Return the outcome, or None if the task is to be run again."""
        from distributed import CancelledError, KilledWorker

        if isinstance(result, Raised):
            return self._raised(task, result)
        if error is None:
            return Outcome(task, result)
        if not isinstance(error, KilledWorker | CancelledError | OSError | TimeoutError):
            # Of Dask itself, for example a worker that lacks this package.
            raise ClusterError(
                f"{task.name}: Dask cannot have it done ({type(error).__name__}: {one_line(error)}); is the same "
                "geounet installed where the workers are?"
            ) from error
        if not self._connected:
            raise ClusterError(LOST)
        if getattr(error, "reason", None) == "scheduler-connection-lost":
            return None  # no worker died: it is run again once the client is connected, or ends with the wait for that
        task.deaths += 1
        self.deaths += 1
        self.on_event("death", {"task": task.name, "deaths": task.deaths})
        logger.warning("%s: its worker died (%d of %d)", task.name, task.deaths, DEATHS)
        if task.deaths < DEATHS:
            return None
        return Outcome(task, error=f"the worker died {task.deaths} times while at it")

    def _raised(self, task: Task, raised: Raised) -> Outcome | None:
        for stops in STOPPING:
            if raised.kind == stops.__name__:
                raise stops(raised.line)
        if raised.kind == "disk":  # which no other scene would fare better with
            raise ClusterError(f"disk full: {raised.line}; free space and run again to continue")
        task.tries += 1
        self.on_event("error", {"task": task.name, "try": task.tries, "error": raised.line})
        if task.tries < TRIES:
            logger.warning("%s: %s; trying again", task.name, raised.line)
            return None
        if raised.kind == "defect":
            logger.error("%s failed:\n%s", task.name, raised.trace)
        return Outcome(task, error=raised.line)


def _host() -> tuple[str, int]:
    import platform

    return platform.node(), cores()


class InlinePool:
    """Runs tasks one by one in this process: for `plan`, and wherever a cluster would be in the way.

    Parameters
    ----------
    shuffle
        Seed of a random order; None keeps the given one.
    """

    deaths = 0

    def __init__(self, shuffle: int | None = None) -> None:
        self.on_event: Callable[[str, dict[str, Any]], None] = lambda _event, _details: None
        self.answers: dict[Any, Any] = {}
        self._random = None if shuffle is None else random.Random(shuffle)  # noqa: S311 - an order, not a secret

    def threads(self, *, light: bool = False) -> int:
        """Return 1."""
        return 1

    def cores_per_thread(self) -> int:
        """Return 1."""
        return 1

    def share(self, priority: int = 0) -> InlinePool:
        """Return this pool."""
        return self

    def help(self) -> None:
        """Do nothing: there is nobody."""

    def close(self) -> None:
        """Do nothing: nobody waits."""

    def run(
        self,
        tasks: Iterable[Task],
        follow: Callable[[Outcome], Iterable[Task]] | None = None,
        *,
        light: bool = False,
    ) -> Iterator[Outcome]:
        """Yield the outcome of every task; what a task raises, this raises."""
        waiting = deque(tasks)
        while waiting:
            if self._random is not None:
                waiting.rotate(self._random.randrange(len(waiting)))
            task = waiting.popleft()
            outcome = Outcome(task, task.function(*task.args))
            if follow is not None:
                waiting.extend(follow(outcome))
            yield outcome


class PoolExecutor:
    """The pool as a `geounet.types.Executor`, for work that needs no network.

    Parameters
    ----------
    pool
        Where to run.
    progress
        Called with `(label, done, total)`.
    """

    def __init__(self, pool: Pool | InlinePool, progress: Callable[[str, int, int], None] | None = None) -> None:
        self._pool = pool
        self._progress = progress or (lambda _label, _done, _total: None)

    def map(self, function: Callable[[T], R], items: Sequence[T], label: str) -> Iterator[R]:
        """Yield `function(item)` for every item, in any order.

        Raises
        ------
        GeounetError
            If an item fails for good.
        """
        tasks = [Task(f"{label}-{index}", function, (item,)) for index, item in enumerate(items)]
        for done, outcome in enumerate(self._pool.run(tasks, light=True), start=1):
            if outcome.error is not None:
                raise GeounetError(f"{outcome.task.name}: {outcome.error}")
            self._progress(label, done, len(tasks))
            yield outcome.result
