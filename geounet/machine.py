"""What this process may use of its machine, and what is installed on it.

Containers, systemd and SLURM limit processors and memory by control groups, and a process is bound by its own group and
by all above it: <https://docs.kernel.org/admin-guide/cgroup-v2.html>, and for version 1
<https://docs.kernel.org/scheduler/sched-bwc.html>.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

_ROOT = Path("/")

_GROUP = re.compile(r"^(\d+):([^:\n]*):(.*)$", re.MULTILINE)
"""A line of /proc/self/cgroup: number (0: version 2), controllers, path."""

_MOUNT = re.compile(r"^\S+ \S+ \S+ (\S+) (\S+) .*? - (\S+) \S+ (.*)$", re.MULTILINE)
"""A line of /proc/self/mountinfo: what is mounted of its file system, where, of which kind, with which options."""


def cores(root: Path = _ROOT) -> int:
    """Return the number of processors this process may use: by its affinity, and whole ones of its quota; at least 1.

    Parameters
    ----------
    root
        Where the system's files are.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        words = _words(group / "cpu.max") or _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdecimal() for word in words):  # no quota is `max`, or -1
            found = min(found, int(words[0]) // max(1, int(words[1])))
    return max(1, found)


def memory_limit(root: Path = _ROOT) -> int:
    """Return the bytes of memory that this process and those it starts may use: the machine's, or a limit below.

    Parameters
    ----------
    root
        Where the system's files are.
    """
    import psutil

    limit = int(psutil.virtual_memory().total)
    for group in _groups(root, "memory"):
        # Over `high` nobody is killed, but all are slowed down until nothing moves.
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            words = _words(group / name)
            if words and words[0].isdecimal():
                limit = min(limit, int(words[0]))
    if sys.platform != "win32":
        import resource

        resident = resource.getrlimit(resource.RLIMIT_RSS)[1]
        if resident != resource.RLIM_INFINITY:  # address space is no measure: libraries reserve far more than they use
            limit = min(limit, resident)
    return max(1, limit)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each package, or `not installed`: as ours is where its source tree alone is."""
    return {name: _version(name) for name in packages}


@cache
def _version(package: str) -> str:
    # Once: it reads and parses a file a package, which took most of the time of a scene that is done already.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those above it that are mounted, of both versions."""
    for number, controllers, path in _GROUP.findall(_text(root / "proc/self/cgroup")):
        unified, own = number == "0", PurePosixPath(path)
        if not unified and controller not in controllers.split(","):
            continue
        for *places, kind, options in _MOUNT.findall(_text(root / "proc/self/mountinfo")):
            if kind != ("cgroup2" if unified else "cgroup") or not (unified or controller in options.split(",")):
                continue
            # In a container the mounted tree may begin at its own group, while the path begins above.
            top, point = (_unescaped(place) for place in places)
            if ".." in own.parts or not own.is_relative_to(top):
                continue  # another part of the tree
            folder = root / point.lstrip("/")
            yield folder
            for part in own.relative_to(top).parts:
                folder /= part
                yield folder


def _unescaped(word: str) -> str:
    """Return a field of mountinfo with its octal escapes resolved."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def _words(file: Path) -> list[str]:
    return _text(file).split()


def _text(file: Path) -> str:
    """Return what is in a file; nothing where there is none: no Linux, no such controller, or a group not mounted."""
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
