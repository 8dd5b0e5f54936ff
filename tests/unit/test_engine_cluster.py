"""How a local cluster is laid out: the network's processes and threads, and who helps with vectors."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from geounet.config.job import Cluster
from geounet.engine import cluster as module
from geounet.engine.cluster import HELPER_BYTES, VISIBLE, Helpers, Layout, gpus, local_layout
from geounet.errors import ClusterError


@pytest.mark.parametrize(
    ("cores", "gpus", "asked", "expected"),
    [
        (1, [], {}, Layout(1, 1)),
        (2, [], {}, Layout(1, 2, helpers=1)),
        (16, [], {}, Layout(4, 4, helpers=12)),
        (16, ["0"], {}, Layout(1, 16, ("0",), 15)),
        (16, ["0", "1"], {}, Layout(2, 8, ("0", "1"), 14)),
        (16, [], {"workers": 16}, Layout(16, 1)),
        (16, [], {"workers": 1, "threads": 1}, Layout(1, 1)),
        (2, [], {"helpers": 0}, Layout(1, 2)),
        (2, [], {"helpers": 3}, Layout(1, 2, helpers=3)),
        (2, [], {"threads": 8}, Layout(1, 8, helpers=1)),
        (2, [], {"workers": 4, "threads": 2}, Layout(4, 2)),
    ],
)
def test_every_core_has_work(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: list[str], asked: dict[str, int], expected: Layout
) -> None:
    monkeypatch.setattr(module, "cores", lambda: cores)
    monkeypatch.setattr(module, "gpus", lambda: gpus)
    monkeypatch.setattr(module, "memory_limit", lambda: 64 << 30)
    assert local_layout(Cluster(**asked), "auto") == expected


@pytest.mark.parametrize(
    ("cores", "gpus", "gib", "asked", "expected"),
    [
        (64, [], 8, {}, Layout(2, 4, helpers=4)),
        (64, [], 16, {}, Layout(5, 4, helpers=8)),
        (64, [], 64, {}, Layout(16, 4, helpers=32)),
        (2, [], 24, {}, Layout(1, 2, helpers=1)),
        (64, [], 1, {}, Layout(1, 4)),
        (64, [], 8, {"threads": 1}, Layout(5, 1)),
        (64, [], 8, {"workers": 16, "helpers": 0}, Layout(16, 4)),
        (64, ["0", "1", "2", "3"], 4, {}, Layout(2, 16, ("0", "1"), 2)),
    ],
)
def test_memory_bounds_the_workers_that_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    gpus: list[str],
    gib: int,
    asked: dict[str, int],
    expected: Layout,
) -> None:
    monkeypatch.setattr(module, "cores", lambda: cores)
    monkeypatch.setattr(module, "gpus", lambda: gpus)
    monkeypatch.setattr(module, "memory_limit", lambda: gib << 30)
    assert local_layout(Cluster(**asked), "auto") == expected


def test_a_cuda_cluster_is_one_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 8)
    monkeypatch.setattr(module, "gpus", lambda: ["0", "1"])
    assert local_layout(Cluster(kind="cuda"), "auto").devices == ("0", "1")
    monkeypatch.setattr(module, "gpus", list)
    monkeypatch.setenv(VISIBLE, "-1")
    with pytest.raises(ClusterError, match=r"CUDA devices here: 0 \(CUDA_VISIBLE_DEVICES is '-1'\); choose"):
        local_layout(Cluster(kind="cuda"), "auto")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0,2", ["0", "2"]),
        ("GPU-8932f937, MIG-41b3", ["GPU-8932f937", "MIG-41b3"]),
        ("NoDevFiles", []),
        ("1,-1,0", ["1"]),
    ],
)
def test_what_cuda_would_see(monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    assert module.gpus() == expected


def test_a_cuda_cluster_where_devices_have_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(module, "DEVICES", tmp_path)
    if sys.platform != "win32":
        with pytest.raises(ClusterError, match="CUDA devices here: 0"):
            local_layout(Cluster(kind="cuda"), "auto")
    (tmp_path / "dxg").touch()  # as in WSL 2
    assert local_layout(Cluster(kind="cuda"), "auto").devices == ("0",)


def test_it_is_told_that_memory_bounds_the_workers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "cores", lambda: 64)
    monkeypatch.setattr(module, "memory_limit", lambda: 8 << 30)
    with caplog.at_level("INFO", logger="geounet"):
        local_layout(Cluster(workers=16), "cpu")
        assert caplog.messages == []
        local_layout(Cluster(), "cpu")
    assert caplog.messages == ["memory holds 2 of 16 workers with 4 threads each"]


def test_memory_bounds_the_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 64)
    monkeypatch.setattr(module, "gpus", list)
    monkeypatch.setattr(module, "memory_limit", lambda: 20 * HELPER_BYTES)
    assert local_layout(Cluster(workers=1), "cpu").helpers == 5
    monkeypatch.setattr(module, "memory_limit", lambda: HELPER_BYTES)
    assert local_layout(Cluster(workers=1), "cpu").helpers == 0


class _Nanny:
    def __init__(self, address: str | None) -> None:
        self.worker_address = address


class _Cluster:
    def __init__(self) -> None:
        self.workers = {0: _Nanny("tcp://0"), 1: _Nanny("tcp://1")}
        self.asked: list[int] = []

    def scale(self, count: int) -> None:
        self.asked.append(count)


def test_helpers_are_called_once() -> None:
    cluster = _Cluster()
    helpers = Helpers(cluster, 2, 3)
    assert helpers.addresses() == set()
    helpers.call()
    helpers.call()
    assert cluster.asked == [5]
    cluster.workers |= {2: _Nanny("tcp://2"), 3: _Nanny(None)}
    assert helpers.addresses() == {"tcp://2", None}
    Helpers(cluster, 2, 0).call()
    assert cluster.asked == [5]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in place of /dev, on a machine where nothing says which devices are visible."""
    monkeypatch.setattr(module, "DEVICES", tmp_path)
    monkeypatch.delenv(VISIBLE, raising=False)
    return tmp_path


def test_cuda_counts_devices_from_zero(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus() == []
    for name in ("nvidia7", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    assert gpus() == ["0"], "a container that is given the eighth"
    for i in range(11):
        (devices / f"nvidia{i}").touch()
    assert gpus() == [str(i) for i in range(11)]
    monkeypatch.setenv(VISIBLE, "5,MIG-a")
    assert gpus() == ["5", "MIG-a"]


@pytest.mark.parametrize(
    ("visible", "asked", "expected"),
    [
        (None, "cuda", "0"),
        (None, "cuda:1", "1"),
        ("3", "cuda", "3"),
        ("3", "cuda:0", "3"),
        ("4,MIG-b", "cuda:1", "MIG-b"),
    ],
)
def test_a_device_is_one_of_those_that_are_visible(
    devices: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, asked: str, expected: str
) -> None:
    for name in ("nvidia0", "nvidia1"):
        (devices / name).touch()
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert local_layout(Cluster(), asked).devices == (expected,)


def test_a_device_that_is_not_there_is_refused(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_layout(Cluster(), "cuda:1").devices == ("1",), "without files of devices the worker finds out"
    (devices / "nvidia0").touch()
    with pytest.raises(ClusterError, match=r"predict.device: cuda:1: CUDA devices here: 1, counted from 0"):
        local_layout(Cluster(), "cuda:1")
    for visible, count in (("3", 1), ("", 0)):
        monkeypatch.setenv(VISIBLE, visible)
        with pytest.raises(ClusterError, match=rf"devices here: {count} \({VISIBLE} is '{visible}'\)"):
            local_layout(Cluster(), "cuda:1")


class _Adaptive:
    """A client whose cluster starts workers for tasks alone, or none."""

    scheduler = SimpleNamespace(address="tcp://1")

    def __init__(self, *, starts: bool) -> None:
        self.starts, self.task = starts, mock.Mock()

    def submit(self, *_: object, key: str, pure: bool) -> mock.Mock:
        assert not pure, "what is known already starts nobody"
        return self.task

    def wait_for_workers(self, count: int, timeout: float) -> None:
        assert not self.task.method_calls, "the task is there"
        if not self.starts:
            time.sleep(timeout)
            raise TimeoutError


def test_an_adaptive_cluster_is_given_a_task_to_start_a_worker_for() -> None:
    client = _Adaptive(starts=True)
    module._await_worker(client, 3)
    (call,) = client.task.method_calls
    assert call[0] == "add_done_callback", "it is kept until it is done"
    nobody = _Adaptive(starts=False)
    with pytest.raises(ClusterError, match="no worker joined tcp://1 within 1 s"):
        module._await_worker(nobody, 1)
    nobody.task.cancel.assert_called_once()
