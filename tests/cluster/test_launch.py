"""Clusters that are started for a run: by SLURM (commands that do what its do), through a real Dask Gateway."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import dask
import pytest
from distributed import LocalCluster

import geounet
from geounet.config.job import Cluster, Job
from geounet.engine import launch
from geounet.engine.cluster import connect
from geounet.engine.launch import launched
from geounet.errors import ClusterError
from tests.support.models import small_unet
from tests.support.rasters import noise, write

SBATCH = """#!/usr/bin/env bash
# Starts the job at once, in a process group of its own, on this machine.
cp "$1" "{folder}/script"
setsid bash "{folder}/script" > "{folder}/job.log" 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/usr/bin/env bash
echo "$@" >> "{folder}/cancelled"
kill -TERM -- "-$1"
"""
HOST = {"scheduler_options": {"host": "127.0.0.1"}}
REFUSING = """#!/usr/bin/env bash
echo "sbatch: error: invalid partition specified: nowhere" >&2
exit 1
"""


@pytest.fixture
def unfinished() -> Iterator[None]:
    """Collect what libraries leave open when they cannot start, in a test that is not blamed for it."""
    yield
    gc.collect()


def cannot_start(test: Any) -> Any:
    """Mark a test of a cluster that cannot start."""
    ignored = "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
    return pytest.mark.usefixtures("unfinished")(pytest.mark.filterwarnings(*ignored)(test))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of SLURM's commands, in front of all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        command(folder / name, text.format(folder=folder))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def command(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def slurm(tmp_path: Path, **options: Any) -> dict[str, Any]:
    given = {"cores": 1, "memory": "4GB", "local_directory": str(tmp_path)} | HOST
    return {"kind": "slurm", "workers": 1, "wait_s": 60, "options": given | options}


def job_of(tmp_path: Path, cluster: dict[str, Any], name: str) -> Job:
    scene, model = tmp_path / "scene.tif", tmp_path / "model"
    if not scene.exists():
        write(scene, noise(3, 150, 170))
        small_unet(model)
    data = {"scenes": [str(scene)], "model": f"{model}/", "outputs": {"folder": str(tmp_path / name)}}
    return Job.model_validate(data | {"cluster": cluster, "predict": {"device": "cpu"}, "vector": {"landcover": {}}})


def group(pid: int) -> bool:
    """Whether any process of a group is there."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_on_workers_that_slurm_starts(tmp_path: Path, commands: Path) -> None:
    result = geounet.run(job_of(tmp_path, slurm(tmp_path, queue="fast", walltime="01:00:00"), "slurm"))
    assert result.exit_code == 0
    script = (commands / "script").read_text()
    assert "#SBATCH -p fast" in script
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False" in script
    assert "export MALLOC_ARENA_MAX=1" in script
    (cancelled,) = (commands / "cancelled").read_text().split()
    assert ends(int(cancelled))
    here = geounet.run(job_of(tmp_path, {"kind": "local", "workers": 1}, "local"))
    for name in ("scene_mask.tif",):
        one, other = ((tmp_path / out / "scene" / name).read_bytes() for out in ("slurm", "local"))
        assert one == other
    assert result.scenes[0]["features"] == here.scenes[0]["features"]


def ends(pid: int, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while group(pid) and time.monotonic() < until:
        time.sleep(0.1)
    return not group(pid)


def test_its_library_leaves_interrupts_alone() -> None:
    text = "import signal; before = signal.getsignal(2); from geounet.engine.launch import _import; "
    text += "_import('dask_jobqueue'); assert signal.getsignal(2) is before; signal.signal(2, signal.SIG_IGN); "
    text += "assert signal.getsignal(2) is signal.SIG_IGN"
    subprocess.run([sys.executable, "-c", text], check=True)


@cannot_start
def test_what_slurm_says_is_told(tmp_path: Path, commands: Path) -> None:
    command(commands / "sbatch", REFUSING)
    with pytest.raises(ClusterError, match=r"cluster\.kind: slurm: no job is submitted: .*invalid partition specified"):
        geounet.run(job_of(tmp_path, slurm(tmp_path), "out"))


def test_some_jobs_are_enough(tmp_path: Path, commands: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = SBATCH.format(folder=commands).replace('cp "$1"', f'mkdir {commands}/once || exit 1\ncp "$1"')
    command(commands / "sbatch", text)
    with launched(Cluster.model_validate(slurm(tmp_path) | {"workers": 3})) as running:
        assert len(running.workers) == 3
    assert "2 of 3 jobs are not submitted" in caplog.text


def test_prologues_of_sites_are_kept(tmp_path: Path, commands: Path) -> None:
    for options, site, expected in (
        ({}, {"job-script-prologue": ["module load site"]}, "module load site"),
        ({"job_script_prologue": "module load job"}, {"job-script-prologue": ["module load site"]}, "module load job"),
        ({"env_extra": ["module load old"]}, {}, "module load old"),
    ):
        with (
            dask.config.set({f"jobqueue.slurm.{key}": value for key, value in site.items()}),
            launched(Cluster.model_validate(slurm(tmp_path, **options))),
        ):
            script = (commands / "script").read_text().splitlines()
        assert expected in script
        assert script.index(expected) > script.index("export MALLOC_ARENA_MAX=1")


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("slurm", {"job_cls": "os.system"}, "job_cls"),
        ("slurm", {"scheduler_options": {"preload": ["evil"]}}, "preload"),
        ("gateway", {"auth": "evil.Auth"}, "auth"),
    ],
)
def test_a_job_file_brings_no_code(commands: Path, kind: str, options: dict[str, Any], name: str) -> None:
    cluster = Cluster.model_validate({"kind": kind, "options": options})
    with pytest.raises(ClusterError, match=f"{name} imports code by its name"), launched(cluster):
        pass


@cannot_start
def test_options_that_a_class_does_not_take(tmp_path: Path, commands: Path) -> None:
    with pytest.raises(
        ClusterError, match=r"cluster\.kind: slurm: cannot be started: .*quue.*; check cluster\.options"
    ):
        geounet.run(job_of(tmp_path, slurm(tmp_path, quue="fast"), "out"))
    assert not (commands / "script").exists()


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.shutil, "which", lambda _: None)
    with pytest.raises(ClusterError, match="there is no sbatch here"), launched(Cluster(**slurm(tmp_path))):
        pass


def test_an_interrupt_while_jobs_wait_takes_them_back(tmp_path: Path, commands: Path) -> None:
    command(commands / "sbatch", SBATCH.replace('bash "{folder}/script"', "sleep 600").format(folder=commands))
    job = tmp_path / "job.yaml"
    job.write_text(job_of(tmp_path, slurm(tmp_path) | {"wait_s": 500}, "out").model_dump_json(by_alias=True))
    run = subprocess.Popen([sys.executable, "-m", "geounet", "run", str(job)], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (commands / "script").exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(2)
    run.send_signal(signal.SIGTERM)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 143, told
    (cancelled,) = (commands / "cancelled").read_text().split()
    assert ends(int(cancelled))


def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    """A server of Dask Gateway that starts clusters on this machine; its address."""
    pytest.importorskip("dask_gateway_server")
    web, internal = port(), port()
    config = tmp_path / "gateway.py"
    config.write_text(
        f"""
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.DaskGateway.address = "127.0.0.1:{internal}"
c.Proxy.address = "127.0.0.1:{web}"
c.UnsafeLocalBackend.clusters_directory = {str(tmp_path / "clusters")!r}
c.ClusterConfig.scheduler_cmd = [{sys.executable!r}, "-m", "distributed.cli.dask_scheduler"]
c.ClusterConfig.worker_cmd = [{sys.executable!r}, "-m", "distributed.cli.dask_worker"]
c.ClusterConfig.worker_cores = 1
c.ClusterConfig.worker_memory = "4 G"
"""
    )
    log = tmp_path / "gateway.log"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "dask_gateway_server", "-f", str(config)],
            cwd=tmp_path, env=environment, stderr=subprocess.STDOUT, stdout=output,
        )  # fmt: skip
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{web}/api/health", timeout=5):
            break  # its proxy listens before it knows where to pass things on
        assert server.poll() is None, log.read_text()
        time.sleep(0.2)
    yield f"http://127.0.0.1:{web}"
    server.terminate()
    server.wait(30)


def test_a_run_on_a_cluster_of_dask_gateway(tmp_path: Path, gateway: str) -> None:
    with dask.config.set({"gateway.auth.type": "basic", "gateway.auth.kwargs": {"username": "anna"}}):
        result = geounet.run(job_of(tmp_path, {"kind": "gateway", "address": gateway, "workers": 1}, "gateway"))
    assert result.exit_code == 0
    assert (tmp_path / "gateway" / "scene" / "scene_mask.tif").exists()


@cannot_start
def test_a_gateway_that_is_not_there(tmp_path: Path) -> None:
    cluster = {"kind": "gateway", "address": f"http://127.0.0.1:{port()}"}
    with pytest.raises(ClusterError, match=r"cluster\.kind: gateway: cannot be started"):
        geounet.run(job_of(tmp_path, cluster, "out"))


class KubeCluster(LocalCluster):
    """What the class of dask-kubernetes takes, as its version 2026.3 has it; a local cluster in its place."""

    def __init__(
        self,
        *,
        name: str | None = None,
        namespace: str | None = None,
        image: str | None = None,
        n_workers: int | None = None,
        resources: dict[str, Any] | None = None,
        env: list[dict[str, str]] | dict[str, str] | None = None,
        worker_command: list[str] | None = None,
        shutdown_on_close: bool | None = None,
        idle_timeout: int | None = None,
        quiet: bool = False,
    ) -> None:
        self.asked = {"image": image, "n_workers": n_workers, "env": env, "quiet": quiet, "idle_timeout": idle_timeout}
        LAUNCHED.append(self)
        super().__init__(n_workers=n_workers, processes=False, dashboard_address=None)


LAUNCHED: list[KubeCluster] = []


def test_what_kubernetes_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "import_module", lambda _: SimpleNamespace(KubeCluster=KubeCluster))
    options = {"image": "geounet:cpu", "env": {"MALLOC_ARENA_MAX": "2", "A": "b"}}
    with connect(Cluster(kind="kubernetes", workers=2, options=options), "cpu") as found:
        assert len(found.client.scheduler_info()["workers"]) == 2
        assert found.layout is None
    asked = LAUNCHED.pop().asked
    assert (asked["image"], asked["n_workers"]) == ("geounet:cpu", 2)
    assert asked["env"]["MALLOC_ARENA_MAX"] == "2"
    assert asked["env"]["DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE"] == "0.95"
    assert asked["env"]["A"] == "b"
    assert (asked["quiet"], asked["idle_timeout"]) == (True, 1800)


def test_lists_of_variables_and_those_of_the_site() -> None:
    def env(**options: Any) -> Any:
        return launch._kubernetes(lambda **given: given["env"], Cluster(kind="kubernetes", options=options))

    own = {"name": "A", "value": "b"}
    assert env(env=[own])[-2:] == [{"name": "MALLOC_ARENA_MAX", "value": "1"}, own]
    with dask.config.set({"kubernetes.env": {"SITE": "x"}}):
        assert env()["SITE"] == "x"


def test_a_specification_is_completed(tmp_path: Path) -> None:
    container = {"name": "worker", "image": "i", "env": [{"name": "MALLOC_ARENA_MAX", "value": "4"}]}
    spec = {"kind": "DaskCluster", "metadata": {"name": "town"},
            "spec": {"worker": {"replicas": 1, "spec": {"containers": [container]}}, "scheduler": {}}}  # fmt: skip
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    names = []
    for given in (spec, str(tmp_path / "spec.yaml")):
        cluster = Cluster(kind="kubernetes", workers=5, options={"custom_cluster_spec": given})
        made = launch._kubernetes(lambda **options: options["custom_cluster_spec"], cluster)
        worker = made["spec"]["worker"]
        assert worker["replicas"] == 5
        told = {entry["name"]: entry["value"] for entry in worker["spec"]["containers"][0]["env"]}
        assert told["MALLOC_ARENA_MAX"] == "4"
        assert told["DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE"] == "False"
        assert made["spec"]["idleTimeout"] == 1800
        names.append(made["metadata"]["name"])
    assert names[0] != names[1]
    assert all(name.startswith("town-") for name in names)
    assert container["env"] == [{"name": "MALLOC_ARENA_MAX", "value": "4"}], "the job's own is as it was"
    cluster = Cluster(kind="kubernetes", options={"custom_cluster_spec": {"kind": "Pod"}})
    with pytest.raises(ClusterError, match="custom_cluster_spec is no DaskCluster"):
        launch._kubernetes(dict, cluster)


@pytest.mark.parametrize("kind", sorted(launch.LAUNCHERS))
def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError("No module named 'x'")

    monkeypatch.setattr(launch, "import_module", missing)
    told = rf"cluster\.kind: {kind} needs dask-\w+, .* pip install 'geounet\[{kind}\]'"
    with pytest.raises(ClusterError, match=told), launched(Cluster(kind=kind)):  # type: ignore[arg-type]
        pass
