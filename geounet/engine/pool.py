"""Running tasks on a Dask cluster through a bounded window, with our own account of deaths and retries.

Never everything at once: a dying worker makes Dask suspect every task assigned to it, so few are (docs/decisions/0005).
`retries=` of Dask is not about deaths, and its own limits are not ours to set on a shared cluster.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from geounet.engine.cluster import NETWORK, Helpers
from geounet.engine.gate import ALONE, Gate
from geounet.engine.guard import STOPPING, Raised, guarded
from geounet.errors import ClusterError, GeounetError
from geounet.machine import cores
from geounet.raster.env import one_line

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

ASK_S = 30.0
"""Seconds that workers may take to answer a question that is asked of all at once."""

LOST = "the connection to the Dask scheduler is lost; run again to continue"


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
        self.needs: Mapping[str, str] = {}
        """Files that a worker must see before it is given a task, and the settings that name them: the cluster's
        storage may not be this machine's, and a worker that joins meanwhile not like those before it."""
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

    def everywhere(self, function: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
        """Return what a function answers on each worker that is there, by its address, besides its tasks.

        Those that leave meanwhile do not count; nor do all, if one of them does not answer for `ASK_S` seconds.

        Raises
        ------
        ClusterError
            If the scheduler is lost, the function raises that, or the disk is full.
        ModelError, JobError
            If the function raises one.
        """
        found: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def ask() -> None:
            try:
                found.put(self.client.run(guarded, function, args, on_error="ignore"))
            except Exception as error:
                found.put(error)

        # Dask itself would wait for ever for a worker that hangs.
        threading.Thread(target=ask, name="geounet-asking", daemon=True).start()
        try:
            answers = found.get(timeout=ASK_S)
        except queue.Empty:
            logger.warning("a worker does not answer for %.0f s", ASK_S)
            return {}
        if isinstance(answers, OSError) or (isinstance(answers, Exception) and not self._connected):
            raise ClusterError(LOST) from answers
        if isinstance(answers, Exception):
            raise answers
        for answer in answers.values():
            if isinstance(answer, Raised):
                self._stop(answer)
        return {address: answer for address, answer in answers.items() if not isinstance(answer, Raised)}

    @property
    def _connected(self) -> bool:
        """Whether the client is connected, or still tries to be."""
        return self.client.status in ("running", "connecting")

    def _workers(self) -> dict[str, int]:
        try:
            return dict(self.client.nthreads())
        except Exception as error:  # a client that has closed raises anything
            if self._connected and not isinstance(error, OSError):
                raise
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
            here = self.everywhere(_host, ())
            if not here:  # all have just left, and of an adaptive cluster none comes but for a task
                list(self.run([Task("hello", _host, ())]))
                here = self.everywhere(_host, ())
            if not here:
                return 1  # others are asked when they are there
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
            if running and self._connected:
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
                guarded,
                task.function,
                task.args,
                key=key,
                pure=False,
                retries=0,
                priority=self.priority,
                needs=self.needs,
                **bound,
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

    def _stop(self, raised: Raised) -> None:
        """Raise what no other scene would fare better with."""
        for stops in STOPPING:
            if raised.kind == stops.__name__:
                raise stops(raised.line)
        if raised.kind == "disk":
            raise ClusterError(f"disk full: {raised.line}; free space and run again to continue")
        if raised.kind == "unseen" and Path(raised.unseen).exists():  # or it is gone for everybody
            raise ClusterError(raised.line)

    def _raised(self, task: Task, raised: Raised) -> Outcome | None:
        self._stop(raised)
        if raised.kind == "unseen":
            raised = Raised("unseen", f"{raised.unseen}: is gone")
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
        self.needs: Mapping[str, str] = {}
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

    def everywhere(self, function: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
        """Return what a function answers here; what it raises, this raises."""
        return {"here": function(*args)}

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
