"""Clusters that are started for a run elsewhere: by SLURM, on Kubernetes, through Dask Gateway."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from geounet.config.job import Cluster
from geounet.engine.settings import SCHEDULER, environment
from geounet.errors import ClusterError


@dataclass(frozen=True)
class Launcher:
    """A library that starts clusters.

    Attributes
    ----------
    package
        Its name for pip; the extra of this package that brings it is called as the kind.
    module, name
        Where its class is.
    start
        Given the class, and the section of the job: the cluster, with as many workers as are wanted on their way.
    """

    package: str
    module: str
    name: str
    start: Callable[[Any, Cluster], Any]


def _count(cluster: Cluster) -> int:
    return cluster.workers if isinstance(cluster.workers, int) else 1


def _slurm(library: Any, cluster: Cluster) -> Any:
    if shutil.which("sbatch") is None:
        raise ClusterError("cluster.kind: slurm: there is no sbatch here; run on a machine that submits to SLURM")
    options = dict(cluster.options)
    ours = [f"export {key}={value}" for key, value in environment().items()]
    running = library(**options | {"job_script_prologue": [*ours, *options.get("job_script_prologue", ())]})
    with _closed_by_errors(running):
        running.scale(jobs=_count(cluster))
        running.sync(_submitted, running)
    return running


async def _submitted(cluster: Any) -> None:
    """Wait until jobs are submitted; those that were not are submitted once more: scaling tells nobody why."""
    await cluster
    for job in cluster.workers.values():
        await job


@contextmanager
def _closed_by_errors(running: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(Exception):  # of jobs that never began, which are no news
            running.close()
        raise


def _kubernetes(library: Any, cluster: Cluster) -> Any:
    options = dict(cluster.options)
    given = options.pop("env", {})
    ours = environment()
    env = [*({"name": k, "value": v} for k, v in ours.items()), *given] if isinstance(given, list) else ours | given
    return library(n_workers=_count(cluster), env=env, **options)


def _gateway(library: Any, cluster: Cluster) -> Any:
    where = {} if cluster.address is None else {"address": cluster.address}
    running = library(**where, **cluster.options)
    with _closed_by_errors(running):
        running.scale(_count(cluster))
    return running


LAUNCHERS: Mapping[str, Launcher] = {
    "slurm": Launcher("dask-jobqueue", "dask_jobqueue", "SLURMCluster", _slurm),
    "kubernetes": Launcher("dask-kubernetes", "dask_kubernetes.operator", "KubeCluster", _kubernetes),
    "gateway": Launcher("dask-gateway", "dask_gateway", "GatewayCluster", _gateway),
}
"""By `cluster.kind`."""


def _import(name: str) -> Any:
    """Import a module, and let it change no signals.

    dask-jobqueue 0.9 takes interrupts for itself, at once and without a word: the run would end where it is. Outside
    of the main thread that raises, too.
    """
    before = signal.signal
    setattr(signal, "signal", lambda number, _: signal.getsignal(number))  # noqa: B010 - it is a function for mypy
    try:
        return import_module(name)
    finally:
        setattr(signal, "signal", before)  # noqa: B010


@contextmanager
def launched(cluster: Cluster) -> Iterator[Any]:
    """Yield a Dask cluster that is started for this run, and ended after it; its workers may come later.

    Raises
    ------
    ClusterError
        If its library is not installed, or it cannot be started.
    """
    import dask

    launcher = LAUNCHERS[cluster.kind]
    try:
        library = getattr(_import(launcher.module), launcher.name)
    except ImportError as error:
        raise ClusterError(
            f"cluster.kind: {cluster.kind} needs {launcher.package}, which cannot be imported ({error}): "
            f"pip install 'geounet[{cluster.kind}]'"
        ) from None
    with dask.config.set(SCHEDULER):
        try:
            running = launcher.start(library, cluster)
        except ClusterError:
            raise
        except Exception as error:  # of any library
            words = " ".join(str(error).split()) or type(error).__name__
            raise ClusterError(
                f"cluster.kind: {cluster.kind}: cannot be started: {words}; check cluster.options"
            ) from error
        with running:
            yield running
