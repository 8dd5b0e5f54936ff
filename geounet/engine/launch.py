"""Clusters that are started for a run elsewhere: by SLURM, on Kubernetes, through Dask Gateway."""

from __future__ import annotations

import logging
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from geounet.config.job import Cluster
from geounet.engine.settings import SCHEDULER, environment
from geounet.errors import ClusterError

logger = logging.getLogger(__name__)


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
    import dask

    if shutil.which("sbatch") is None:
        raise ClusterError("cluster.kind: slurm: there is no sbatch here; run on a machine that submits to SLURM")
    options = dict(cluster.options)
    _refuse(options, "job_cls", "scheduler_cls")
    _refuse(options.get("scheduler_options") or {}, "preload", "preload_argv")
    given: Any = None
    for name in ("job_script_prologue", "env_extra"):  # what it is called, and was
        given = given or options.pop(name, None) or dask.config.get(f"jobqueue.slurm.{name.replace('_', '-')}", None)
    given = [given] if isinstance(given, str) else list(given or ())
    ours = [f"export {key}={value}" for key, value in environment().items()]
    running = library(**options, job_script_prologue=[*ours, *given])
    with _closed_by_errors(running):
        running.scale(jobs=_count(cluster))
        refused = running.sync(_submitted, running)
        if len(refused) == _count(cluster):
            raise ClusterError(f"cluster.kind: slurm: no job is submitted: {refused[0]}; check cluster.options")
    if refused:
        logger.warning("%d of %d jobs are not submitted: %s", len(refused), _count(cluster), refused[0])
    return running


async def _submitted(cluster: Any) -> list[str]:
    """Wait until jobs are submitted, and return why others are not.

    Those are submitted once more: scaling tells nobody why.
    """
    await cluster
    refused = []
    for job in cluster.workers.values():
        try:
            await job
        except Exception as error:
            refused.append(" ".join(str(error).split()))
    return refused


def _refuse(options: Mapping[str, Any], *names: str) -> None:
    """Refuse options that import what they name: a job file says what to do, and brings no code."""
    for name in names:
        if name in options:
            raise ClusterError(f"cluster.options: {name} imports code by its name, which a job file may not")


@contextmanager
def _closed_by_errors(running: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(Exception):  # which would hide the first one
            _close(running)
        raise


def _close(running: Any) -> None:
    from distributed import Status

    for job in getattr(running, "workers", {}).values():
        if hasattr(job, "job_id"):
            # dask-jobqueue leaves it as it is, and closing gets stuck where anything still knows such a job.
            job.status = Status.closing
    running.close()


def _kubernetes(library: Any, cluster: Cluster) -> Any:
    import dask

    # Its own progress goes to stdout; and a cluster whose run was killed is to go by itself.
    options = {"quiet": True, "idle_timeout": _IDLE_S} | cluster.options
    given = options.pop("env", None) or dask.config.get("kubernetes.env", None) or {}
    named = [{"name": key, "value": value} for key, value in environment().items()]
    env = [*named, *given] if isinstance(given, list) else environment() | given
    if "custom_cluster_spec" in options:
        options["custom_cluster_spec"] = _completed(options["custom_cluster_spec"], cluster, named)
    return library(n_workers=_count(cluster), env=env, **options)


_IDLE_S = 1800


def _completed(spec: Any, cluster: Cluster, env: list[dict[str, str]]) -> dict[str, Any]:
    """Return a specification of a cluster with what this run wants: else the library takes it as it stands.

    Its name is made unique: two runs with one name would share a cluster, which ends with the first of them.
    """
    found = yaml.safe_load(Path(spec).read_text(encoding="utf-8")) if isinstance(spec, str) else deepcopy(spec)
    try:
        workers = found["spec"]["worker"]
        for container in workers["spec"]["containers"]:
            own = container.get("env") or []
            told = {entry["name"] for entry in own}
            container["env"] = [*(entry for entry in env if entry["name"] not in told), *own]
        metadata = found["metadata"]
        metadata["name"] = f"{metadata['name']}-{uuid.uuid4().hex[:8]}"
    except (KeyError, TypeError, AttributeError) as error:
        raise ClusterError(f"cluster.options: custom_cluster_spec is no DaskCluster (it lacks {error})") from None
    workers["replicas"] = _count(cluster)
    found["spec"].setdefault("idleTimeout", _IDLE_S)
    return dict(found)


_AUTHENTICATION = ("kerberos", "basic", "jupyterhub")
"""Names that Dask Gateway knows; it imports others."""


def _gateway(library: Any, cluster: Cluster) -> Any:
    where = {} if cluster.address is None else {"address": cluster.address}
    if cluster.options.get("auth") not in (None, *_AUTHENTICATION):
        _refuse(cluster.options, "auth")
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
        try:
            yield running
        finally:
            _close(running)
