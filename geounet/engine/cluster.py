"""Connecting to a Dask cluster: one of our own on this machine, an existing one, or a caller's client."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geounet.config.job import Cluster
from geounet.errors import ClusterError

logger = logging.getLogger(__name__)

CONFIG: dict[str, Any] = {
    # The first death comes back to the driver, which decides: with the default a poisonous task kills four workers.
    "distributed.scheduler.allowed-failures": 0,
    # A hung worker is given up after two minutes instead of five; longer than any hold of the GIL while models load.
    "distributed.scheduler.worker-ttl": "120s",
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    # Results are receipts: there is nothing to spill, and a worker paused for torch's memory would hang for ever.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # All on one machine: who does not answer within seconds is dead, and its result is made again sooner than awaited.
    "distributed.comm.timeouts.connect": "5s",
    "distributed.comm.retry.count": 0,
    # Forward passes take and free hundreds of megabytes; Dask's default gives each back to the system at once, and its
    # pages are faulted in anew: 8 of 11 s that the system took in a run of 16.8 Mpx. glibc reads these at its start.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 1 << 32,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 1 << 32,
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
    # Workers that outlive a killed driver end by themselves.
    "distributed.scheduler.idle-timeout": "30 minutes",
    "distributed.admin.tick.limit": "30s",
    # Deaths and errors come back to the driver, which tells of them in its own words. This is read by workers.
    "logging.distributed": "critical",
}


def cores() -> int:
    """Return the number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the identifiers of the CUDA devices of this machine, without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [part.strip() for part in visible.split(",") if part.strip() not in ("", "-1")]
    return sorted(
        match.group(1) for p in Path("/dev").glob("nvidia*") if (match := re.fullmatch(r"nvidia(\d+)", p.name))
    )


@dataclass(frozen=True)
class Layout:
    """Processes and threads of a local cluster."""

    workers: int
    threads: int
    """Threads of the network in each worker."""
    devices: tuple[str, ...] = ()
    """CUDA device of each worker; empty on CPU."""


def local_layout(cluster: Cluster, device: str) -> Layout:
    """Return the layout of a local cluster: a worker per GPU, or one per four cores on CPU (docs/benchmarks.md)."""
    devices = gpus() if device == "auto" else ([device.partition(":")[2] or "0"] if device.startswith("cuda") else [])
    if devices:
        workers = cluster.workers if isinstance(cluster.workers, int) else len(devices)
        chosen = tuple(devices[i % len(devices)] for i in range(workers))
        threads = cluster.threads if isinstance(cluster.threads, int) else max(1, cores() // workers)
        return Layout(workers, threads, chosen)
    workers = cluster.workers if isinstance(cluster.workers, int) else max(1, cores() // 4)
    threads = cluster.threads if isinstance(cluster.threads, int) else max(1, cores() // workers)
    return Layout(workers, threads)


def _local(layout: Layout) -> Any:
    from distributed import Nanny, Scheduler, SpecCluster
    from distributed.system import MEMORY_LIMIT

    workers: dict[Any, Any] = {}
    for index in range(layout.workers):
        environment = {"CUDA_VISIBLE_DEVICES": layout.devices[index]} if layout.devices else {}
        workers[index] = {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "memory_limit": int(MEMORY_LIMIT),
                "dashboard_address": "127.0.0.1:0",
                "host": "127.0.0.1",
                "env": environment,
                "silence_logs": logging.CRITICAL,
            },
        }
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
    }
    with _interrupts_blocked():
        return SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.ERROR, name="geounet")


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
def connect(cluster: Cluster, device: str, client: Any = None) -> Iterator[tuple[Any, Layout | None]]:
    """Yield `(client, layout)`; the layout is None where the cluster is not ours.

    Raises
    ------
    ClusterError
        If the scheduler cannot be reached or no worker comes within `cluster.wait_s` seconds.
    """
    import dask
    from distributed import Client

    if client is not None:
        _await_worker(client, cluster.wait_s)
        yield client, None
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
            _await_worker(own, cluster.wait_s)
            yield own, None
        return
    layout = local_layout(cluster, device)
    with (
        dask.config.set(CONFIG),
        _quiet(logging.getLogger("distributed")),
        _local(layout) as running,
        Client(running, set_as_default=False) as own,
    ):
        _await_worker(own, cluster.wait_s)
        warming = own.map(_warm, range(layout.workers), pure=False)
        yield own, layout
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


def _warm(_: int) -> None:
    """Import what every task needs, while the driver still reads headers."""
    import geounet.models.predictor  # noqa: F401 - the import is the work
    from geounet.models.libraries import import_libraries

    import_libraries()


def _leave_at_once() -> None:
    """Let the process end without taking torch apart, which takes seconds and saves nothing."""
    atexit.register(os._exit, 0)


def _await_worker(client: Any, seconds: int) -> None:
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError:
        raise ClusterError(
            f"no worker joined {client.scheduler.address} within {seconds} s; start workers, or raise cluster.wait_s"
        ) from None
