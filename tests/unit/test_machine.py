"""What a process may use: affinity, quotas and limits of control groups in made-up trees; what is installed."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from geounet import machine
from geounet.machine import cores, memory_limit, versions

GB = 10**9

V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU = "33 24 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "35 24 0:31 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
DISK = "23 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores and 64 GB, without limits of its own."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GB))
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def system(root: Path, groups: str, mounts: list[str], files: Mapping[str, str]) -> Path:
    """Make up what Linux tells of a process's control groups."""
    written = {"proc/self/cgroup": groups, "proc/self/mountinfo": "\n".join([DISK, *mounts, ""])}
    for name, text in (written | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def test_where_nothing_limits(tmp_path: Path) -> None:
    assert (cores(tmp_path), memory_limit(tmp_path)) == (16, 64 * GB)
    free = system(
        tmp_path, "0::/a.slice/b.service", [V2], {"a.slice/cpu.max": "max 100000", "a.slice/memory.max": "max"}
    )
    assert (cores(free), memory_limit(free)) == (16, 64 * GB)


def test_lines_of_another_form_are_passed_over(tmp_path: Path) -> None:
    mounts = ["29 23 0:26 / /mnt/caf\\303\\251 rw - cgroup2 cgroup2 rw", "29 23", "", V2]
    found = system(tmp_path, "broken\n0::/", mounts, {"memory.max": str(GB)})
    assert memory_limit(found) == GB


def test_this_machine_has_something() -> None:
    assert cores() >= 1
    assert 0 < memory_limit() <= 64 * GB


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("400000 100000", 4),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("9900000 100000", 16),
        ("max 100000", 16),
        ("", 16),
    ],
)
def test_whole_cores_of_a_quota_count(tmp_path: Path, quota: str, expected: int) -> None:
    assert cores(system(tmp_path, "0::/", [V2], {"cpu.max": quota})) == expected


def test_a_service_is_bound_by_its_own_group(tmp_path: Path) -> None:
    # systemd's MemoryMax= and CPUQuota=; the root of a machine's tree has no such files.
    files = {"system.slice/a.service/cpu.max": "200000 100000", "system.slice/a.service/memory.max": str(8 * GB)}
    found = system(tmp_path, "0::/system.slice/a.service", [V2], files)
    assert (cores(found), memory_limit(found)) == (2, 8 * GB)


def test_a_process_is_bound_by_all_groups_above_it(tmp_path: Path) -> None:
    # SLURM limits the job, and tasks lie below it.
    files = {
        "slurm/cpu.max": "1200000 100000",
        "slurm/job_7/cpu.max": "400000 100000",
        "slurm/job_7/step_0/cpu.max": "max 100000",
        "slurm/job_7/memory.max": str(16 * GB),
        "slurm/job_7/step_0/memory.max": str(32 * GB),
        "slurm/job_8/memory.max": str(1 * GB),
    }
    found = system(tmp_path, "0::/slurm/job_7/step_0", [V2], files)
    assert (cores(found), memory_limit(found)) == (4, 16 * GB)


def test_a_limit_that_slows_down_is_one(tmp_path: Path) -> None:
    assert (
        memory_limit(system(tmp_path, "0::/", [V2], {"memory.max": str(9 * GB), "memory.high": str(8 * GB)})) == 8 * GB
    )


V1_FILES = {
    "cpu,cpuacct/cpu.cfs_quota_us": "-1",
    "cpu,cpuacct/cpu.cfs_period_us": "100000",
    "cpu,cpuacct/job/cpu.cfs_quota_us": "250000",
    "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
    "memory/memory.limit_in_bytes": "9223372036854771712",
    "memory/job/memory.limit_in_bytes": str(4 * GB),
}


def test_version_1(tmp_path: Path) -> None:
    mounts = [V1_CPU.format(top="/"), V1_MEMORY.format(top="/")]
    found = system(tmp_path, "5:cpu,cpuacct:/job\n4:memory:/job\n1:name=systemd:/init.scope", mounts, V1_FILES)
    assert (cores(found), memory_limit(found)) == (2, 4 * GB)


def test_version_1_with_an_empty_version_2_beside_it(tmp_path: Path) -> None:
    unified = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    mounts = [V1_CPU.format(top="/"), V1_MEMORY.format(top="/"), unified]
    found = system(tmp_path, "5:cpu,cpuacct:/\n4:memory:/job\n0::/job", mounts, V1_FILES)
    assert (cores(found), memory_limit(found)) == (16, 4 * GB)


def test_a_container_sees_its_own_part_of_the_tree(tmp_path: Path) -> None:
    mounts = [V1_CPU.format(top="/docker/ab\\134x2d"), V1_MEMORY.format(top="/docker/ab\\134x2d")]
    groups = "5:cpu,cpuacct:/docker/ab\\x2d\n4:memory:/docker/ab\\x2d/job"
    files = V1_FILES | {"cpu,cpuacct/cpu.cfs_quota_us": "600000"}
    found = system(tmp_path, groups, mounts, files)
    assert (cores(found), memory_limit(found)) == (6, 4 * GB)


def test_another_part_of_the_tree_is_no_limit_of_ours(tmp_path: Path) -> None:
    mounts = [V1_MEMORY.format(top="/docker/other"), V2]
    files = {"memory/memory.limit_in_bytes": str(GB), "cpu.max": "100000 100000"}
    found = system(tmp_path, "4:memory:/docker/ours\n0::/../ours", mounts, files)
    assert (cores(found), memory_limit(found)) == (16, 64 * GB)


def test_limits_of_the_process_itself_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (-1, 2 * GB) if kind == resource.RLIMIT_RSS else (-1, -1))
    found = system(tmp_path, "0::/", [V2], {"cpu.max": "400000 100000", "memory.max": str(8 * GB)})
    assert (cores(found), memory_limit(found)) == (1, 2 * GB)


def test_versions_of_what_is_and_is_not_installed() -> None:
    found = versions(("numpy", "no-such-package"))
    assert found == {"numpy": np.__version__, "no-such-package": "not installed"}
    found["numpy"] = "changed"
    assert versions(("numpy",)) == {"numpy": np.__version__}


def test_versions_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("importlib.metadata.version", lambda name: read.append(name) or "1.0")
    machine._version.cache_clear()
    assert [versions(["a", "b"]), versions(["b", "a"])] == [{"a": "1.0", "b": "1.0"}] * 2
    assert read == ["a", "b"]
    machine._version.cache_clear()


def test_a_plain_source_tree_has_results_and_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from geounet.engine import plan
    from geounet.training import about

    monkeypatch.setattr(plan, "PACKAGES", ("no-such-package", "numpy"))
    monkeypatch.setattr(about, "_PACKAGES", ("no-such-package",))
    assert plan.versions() == {"no-such-package": "not installed", "numpy": np.__version__}
    assert about.versions() == {"python": platform.python_version(), "no-such-package": "not installed"}
