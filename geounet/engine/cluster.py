"""Connecting to a Dask cluster: one of our own on this machine, an existing one, or a caller's client."""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from geounet.config.job import Cluster
from geounet.engine.launch import LAUNCHERS, launched
from geounet.engine.settings import HERE
from geounet.errors import ClusterError
from geounet.machine import cores, memory_limit

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICES = Path("/dev")
_DEVICE = re.compile(r"\d+|(GPU|MIG)-.+")


def gpus() -> list[str]:
    """Return the identifiers of the CUDA devices that this process may use, in CUDA's order, without loading CUDA."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        # CUDA counts those before the first that is none: -1, or SLURM's NoDevFiles.
        return list(takewhile(_DEVICE.fullmatch, (part.strip() for part in visible.split(",") if part.strip())))
    # CUDA counts those that are there from 0; in a container that is given one of several, its file has another number.
    return [str(i) for i in range(sum(re.fullmatch(r"nvidia\d+", p.name) is not None for p in DEVICES.glob("nvidia*")))]


def _gpu(device: str) -> str:
    """Return the identifier of `cuda` or `cuda:N`: the N-th of those that this process may use.

    Raises
    ------
    ClusterError
        If there are fewer.
    """
    index, known = int(device.partition(":")[2] or 0), gpus()
    if not known and VISIBLE not in os.environ:  # no files of devices: the worker finds out
        return str(index)
    if index >= len(known):
        raise ClusterError(
            f"predict.device: {device}: CUDA devices here: {len(known)}{_asked()}, counted from 0; choose one of them, "
            "or auto or cpu"
        )
    return known[index]


def _unlisted() -> bool:
    """Return whether this is a system where CUDA devices have no files: Windows, and Linux in it (WSL 2)."""
    return sys.platform == "win32" or (DEVICES / "dxg").exists()


def _asked() -> str:
    return f" ({VISIBLE} is {os.environ[VISIBLE]!r})" if VISIBLE in os.environ else ""


@dataclass(frozen=True)
class Layout:
    """Processes and threads of a local cluster."""

    workers: int
    threads: int
    """Threads of the network in each worker."""
    devices: tuple[str, ...] = ()
    """CUDA device of each worker, which sees no other and has it as `cuda:0`; empty on CPU."""
    helpers: int = 0
    """Processes that come for vectors, which take one thread each."""


BASE_BYTES = 740 << 20
"""Resident memory of a worker with torch, the model's library and GDAL loaded (measured: benchmarks/memory.py)."""

PASS_BYTES = 384 << 20
"""Memory of a forward pass and of what is blended of it, as measured with a small encoder (docs/benchmarks.md); larger
ones take more."""

HELPER_BYTES = 512 << 20
"""Memory that a helper is given room for: twice what one was measured to take (docs/benchmarks.md)."""

NETWORK = "geounet-network"
"""Resource of Dask that the workers of the network have, and helpers lack."""


def local_layout(cluster: Cluster, device: str) -> Layout:
    """Return the layout of a local cluster: a worker per GPU, or one per four cores on CPU (docs/benchmarks.md).

    Workers are fewer where three quarters of the memory do not hold those, with the threads that each would have had.
    Vectors get as many processes as the network has threads, where the last quarter holds those beside its own.

    Raises
    ------
    ClusterError
        If a CUDA device is asked for that is not there.
    """
    devices = gpus() if device == "auto" else [_gpu(device)] if device.startswith("cuda") else []
    if cluster.kind == "cuda" and not devices and VISIBLE not in os.environ and _unlisted():
        devices = [_gpu("cuda")]
    if cluster.kind == "cuda" and not devices:
        raise ClusterError(f"cluster.kind: cuda: CUDA devices here: 0{_asked()}; choose kind: local for the CPU")
    workers = cluster.workers if isinstance(cluster.workers, int) else len(devices) or max(1, cores() // 4)
    threads = cluster.threads if isinstance(cluster.threads, int) else max(1, cores() // workers)
    each = BASE_BYTES + PASS_BYTES * (1 if devices else threads)
    fewer = max(1, min(workers, memory_limit() * 3 // 4 // each))
    if cluster.workers == "auto" and fewer < workers:
        logger.info("memory holds %d of %d workers with %d threads each", fewer, workers, threads)
        workers = fewer
    chosen = tuple(devices[i % len(devices)] for i in range(workers)) if devices else ()
    return Layout(workers, threads, chosen, _helpers(cluster, workers, threads))


def _helpers(cluster: Cluster, workers: int, threads: int) -> int:
    if isinstance(cluster.helpers, int):
        return cluster.helpers
    # Threads in excess of the cores are no room for more.
    idle = max(0, min(workers * (threads - 1), cores() - workers))
    return min(idle, memory_limit() // 4 // HELPER_BYTES)


class Helpers:
    """Processes of a local cluster beside those of the network, for what needs none. They come when first asked for.

    Parameters
    ----------
    cluster
        A `distributed.SpecCluster` whose own workers are named 0 to `workers` - 1, and that can `scale`.
    workers
        Workers of the network.
    count
        How many helpers there may be.
    """

    def __init__(self, cluster: Any, workers: int, count: int) -> None:
        self._cluster = cluster
        self._workers = workers
        self._count = count
        self._lock = threading.Lock()
        self._called = False

    def call(self) -> None:
        """Have them come, if they have not: this returns at once, and they take part when they are there."""
        with self._lock:
            if self._called or not self._count:
                return
            self._called = True
        logger.debug("%d more processes for vectors", self._count)
        self._cluster.scale(self._workers + self._count)

    def addresses(self) -> set[str | None]:
        """Return the addresses of those that are there."""
        nannies = list(self._cluster.workers.items())
        return {nanny.worker_address for name, nanny in nannies if name >= self._workers}


@dataclass(frozen=True)
class Connection:
    """A cluster that answers.

    Attributes
    ----------
    client
        A `distributed.Client`.
    layout
        None where the cluster is not ours.
    helpers
        Likewise.
    """

    client: Any
    layout: Layout | None = None
    helpers: Helpers | None = None


def _local(layout: Layout) -> Any:
    from distributed import Nanny, Scheduler, SpecCluster

    memory = memory_limit()

    def nanny(environment: dict[str, str], resources: dict[str, float]) -> dict[str, Any]:
        options = {
            "nthreads": 1,
            "memory_limit": memory,
            "dashboard_address": "127.0.0.1:0",
            "host": "127.0.0.1",
            "env": environment,
            "resources": resources,
            "silence_logs": logging.CRITICAL,
        }
        return {"cls": Nanny, "options": options}

    workers = {
        index: nanny({VISIBLE: layout.devices[index]} if layout.devices else {}, {NETWORK: 1})
        for index in range(layout.workers)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
    }
    with _interrupts_blocked():
        return SpecCluster(
            workers=workers,
            scheduler=scheduler,
            worker=nanny({VISIBLE: ""}, {}),
            silence_logs=logging.ERROR,
            name="geounet",
        )


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block interrupts in the threads and processes that are started meanwhile, and in what those start.

    A terminal interrupts all processes at once. The driver alone is to hear it: it ends the workers in order.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # if it had to be started later, that would undo the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def connect(
    cluster: Cluster, device: str, client: Any = None, *, vectors: bool = False, left: threading.Event | None = None
) -> Iterator[Connection]:
    """Yield the cluster of a job: one that is started for it, the one it names, or that of a caller's client.

    With `vectors` workers of our own load what those take, too, before they are asked for any. Nothing is waited for
    any more when `left` is set.

    Raises
    ------
    ClusterError
        If the scheduler cannot be reached, no worker comes within `cluster.wait_s` seconds, or there is no such device.
    """
    import dask
    from distributed import Client

    if client is not None:
        _await_worker(client, cluster.wait_s, left)
        yield Connection(client)
        return
    if cluster.kind == "address":
        try:
            asyncio.run(_greet(str(cluster.address), cluster.wait_s))
            own = Client(cluster.address, timeout=f"{cluster.wait_s}s", set_as_default=False)
        except TimeoutError:
            raise ClusterError(
                f"{cluster.address}: no Dask scheduler answers within {cluster.wait_s:g} s; check cluster.address, or "
                "raise cluster.wait_s"
            ) from None
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"{cluster.address}: no Dask scheduler answers ({error}); check cluster.address"
            ) from None
        with own:
            _await_worker(own, cluster.wait_s, left)
            yield Connection(own)
        return
    if cluster.kind in LAUNCHERS:
        with launched(cluster) as running, Client(running, set_as_default=False) as own:
            _await_worker(own, cluster.wait_s, left, "raise cluster.wait_s if they queue")
            yield Connection(own)
        return
    layout = local_layout(cluster, device)
    with (
        dask.config.set(HERE),
        _quiet(logging.getLogger("distributed")),
        _local(layout) as running,
        Client(running, set_as_default=False) as own,
    ):
        _await_worker(own, cluster.wait_s, left)
        warming = own.map(_warm, [vectors] * layout.workers, pure=False)
        yield Connection(own, layout, Helpers(running, layout.workers, layout.helpers))
        if own.status == "running":
            with suppress(Exception):  # what ended the run is to be told
                own.cancel(warming)
                own.run(_leave_at_once, on_error="ignore")


async def _greet(address: str, seconds: float) -> None:
    """Shake hands with a scheduler: a client would wait for ever for one that accepts connections and says nothing."""
    from distributed.comm.core import connect
    from distributed.security import Security

    talking = connect(address, timeout=seconds, **Security().get_connection_args("client"))
    talk = await asyncio.wait_for(talking, seconds + 1)  # it gives up by itself where nobody accepts
    talk.abort()


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep a library from telling of what we end, unless all that libraries tell is asked for."""
    before = logger.level
    if logging.getLogger().getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _warm(vectors: bool) -> None:
    """Import what every task needs, while the driver still reads headers; what vectors take, beside the first tasks."""
    from geounet.models.libraries import import_libraries, uncollected

    with uncollected():
        import geounet.models.predictor
        import geounet.predict.infer
        import geounet.predict.seal  # noqa: F401 - the imports are the work

        import_libraries()
    gc.freeze()  # what is there now is needed to the end: nobody has to look through it again
    if vectors:
        threading.Thread(target=_warm_vectors, name="geounet-imports", daemon=True).start()


def _warm_vectors() -> None:
    from geounet.models.libraries import uncollected

    with uncollected():
        import geounet.vector.buildings
        import geounet.vector.landcover
        import geounet.vector.roads  # noqa: F401 - the imports are the work


_LOOK_S = 2.0
"""How often whoever waits for workers looks whether they are still wanted."""


def _leave_at_once() -> None:
    """Let the process end without taking torch apart, which takes seconds and saves nothing."""
    atexit.register(os._exit, 0)


def _await_worker(
    client: Any, seconds: int, left: threading.Event | None = None, way: str = "start workers, or raise cluster.wait_s"
) -> None:
    """Wait for a worker, with a task: adaptive clusters start workers for tasks only, and for nobody who waits."""
    task = client.submit(int, key=f"geounet-hello-{uuid.uuid4().hex}", pure=False)  # which workers have, whatever else
    until = time.monotonic() + seconds
    while True:
        try:
            client.wait_for_workers(1, timeout=max(0.1, min(_LOOK_S, until - time.monotonic())))
            break
        except TimeoutError:
            if time.monotonic() < until and not (left is not None and left.is_set()):
                continue
            task.cancel(force=True)
            raise ClusterError(f"no worker joined {client.scheduler.address} within {seconds} s; {way}") from None
    task.add_done_callback(lambda done: done.release())  # kept till then: the worker might be taken away before
