"""How Dask is set up: its scheduler and its workers, where they are ours, here or on other machines."""

from __future__ import annotations

from typing import Any

SCHEDULER: dict[str, Any] = {
    # The first death comes back to the driver, which decides: with the default a poisonous task kills four workers.
    "distributed.scheduler.allowed-failures": 0,
    # A hung worker is given up after two minutes instead of five; longer than any hold of the GIL while models load.
    "distributed.scheduler.worker-ttl": "120s",
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    # It ends with this process. A driver that looks at thousands of scenes, or merges a large one, has no task at the
    # cluster for long, and is there all the same.
    "distributed.scheduler.idle-timeout": None,
    "distributed.admin.tick.limit": "30s",
}
"""Of a scheduler that runs in this process."""

WORKER: dict[str, Any] = {
    # Results are receipts: there is nothing to spill, and a worker paused for torch's memory would hang for ever.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
}

MALLOC = {"MALLOC_TRIM_THRESHOLD_": 1 << 32, "MALLOC_MMAP_THRESHOLD_": 1 << 32, "MALLOC_ARENA_MAX": 1}
"""Environment of workers, which glibc reads at its start. Forward passes take and free hundreds of megabytes; Dask's
default gives each back to the system at once, and its pages are faulted in anew: 8 of 11 s that the system took in a
run of 16.8 Mpx."""

HERE: dict[str, Any] = {
    **SCHEDULER,
    **WORKER,
    **{f"distributed.nanny.pre-spawn-environ.{key}": value for key, value in MALLOC.items()},
    # All on one machine: who does not answer within seconds is dead, and its result is made again sooner than awaited.
    "distributed.comm.timeouts.connect": "5s",
    "distributed.comm.retry.count": 0,
    # Deaths and errors come back to the driver, which tells of them in its own words. This is read by workers.
    "logging.distributed": "critical",
}
"""Of a cluster on this machine."""


def environment() -> dict[str, str]:
    """Return the environment of workers on other machines, which do not see the settings of this process."""
    settings = {f"DASK_{key.replace('.', '__').upper()}": str(value) for key, value in WORKER.items()}
    return settings | {key: str(value) for key, value in MALLOC.items()}
