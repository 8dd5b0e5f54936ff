"""How a local cluster is laid out: the network's processes and threads, and who helps with vectors."""

from __future__ import annotations

import pytest
from distributed import system

from geounet.config.job import Cluster
from geounet.engine import cluster as module
from geounet.engine.cluster import HELPER_BYTES, Helpers, Layout, local_layout


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
    monkeypatch.setattr(system, "MEMORY_LIMIT", 64 << 30)
    assert local_layout(Cluster(**asked), "auto") == expected


def test_memory_bounds_the_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 64)
    monkeypatch.setattr(module, "gpus", list)
    monkeypatch.setattr(system, "MEMORY_LIMIT", 20 * HELPER_BYTES)
    assert local_layout(Cluster(workers=1), "cpu").helpers == 5
    monkeypatch.setattr(system, "MEMORY_LIMIT", HELPER_BYTES)
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
