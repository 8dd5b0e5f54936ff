"""What all measurements share: running processes and watching them, tables, JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]

Row = dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """A process that ended well."""

    wall: float
    """Seconds from its start to its end, as a user would wait."""
    cpu: float
    """Processor seconds of it and its children: tells a busy machine from a slow program."""
    peak_mib: float
    """Largest resident size of any one of its processes, MiB."""
    output: str
    """Its standard output."""

    @property
    def said(self) -> dict[str, Any]:
        """The JSON object in the last line of its output; empty if there is none."""
        lines = self.output.strip().splitlines()
        try:
            said = json.loads(lines[-1]) if lines else {}
        except json.JSONDecodeError:
            return {}
        return said if isinstance(said, dict) else {}


def python(*arguments: str | Path) -> list[str]:
    """Return the command that runs this Python with arguments."""
    return [sys.executable, *(str(a) for a in arguments)]


_LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - started
with open(sys.argv[1], "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss], file)
"""
# A small process in between: Linux counts the memory of the process that starts another into the other's peak.


def launch(command: Sequence[str], *, threads: int | None = None, path: Sequence[Path] = ()) -> Ended:
    """Run a command to its end.

    Parameters
    ----------
    command
        Program and arguments; the working directory is the repository.
    threads
        `OMP_NUM_THREADS` for programs that cannot be told otherwise; None leaves it unset.
    path
        Folders put in front of Python's module path.

    Raises
    ------
    RuntimeError
        If it fails; with the end of what it said.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(str(p) for p in path)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryDirectory() as folder:
        usage = Path(folder) / "usage.json"
        small = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(usage)]
        process = subprocess.run([*small, *command], cwd=ROOT, env=environment, stdout=out, stderr=err, check=False)
        said, complaint = (_read(file) for file in (out, err))
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} could not be started:\n{complaint[-4000:]}")
        code, wall, cpu, peak = json.loads(usage.read_text(encoding="utf-8"))
    if code != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{said[-2000:]}\n{complaint[-4000:]}")
    return Ended(wall, cpu, peak / (2**20 if sys.platform == "darwin" else 2**10), said)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", errors="replace")


@dataclass
class Watched:
    """What was seen of a process tree and of a folder while it ran."""

    ended: Ended
    peaks_mib: dict[str, float]
    """Largest resident size by role: `driver` is the command's process, `worker` the largest that it started."""
    folder_peak: int
    """Largest size of the watched folder's files, bytes."""


def watched(command: Sequence[str], folder: Path | None = None, every_s: float = 0.05, **how: Any) -> Watched:
    """Run a command and watch the memory of its processes and the size of a folder.

    On Linux the high-water mark that the kernel keeps is read, so that nothing between two looks is missed.
    """
    import psutil

    me = psutil.Process()
    strangers = {p.pid for p in me.children(recursive=True)}
    peaks: dict[str, float] = {"driver": 0.0, "worker": 0.0}
    largest = 0
    done = threading.Event()

    def look() -> None:
        nonlocal largest
        next_folder = 0.0
        while not done.is_set():
            launchers = {p.pid for p in me.children()}
            for process in me.children(recursive=True):
                if process.pid in strangers or process.pid in launchers:
                    continue
                try:
                    role = "driver" if process.ppid() in launchers else "worker"
                    peaks[role] = max(peaks[role], _high_water(process) / 2**20)
                except (psutil.Error, OSError):
                    continue
            if folder is not None and time.monotonic() >= next_folder:
                largest = max(largest, folder_bytes(folder))
                next_folder = time.monotonic() + 0.5
            done.wait(every_s)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        ended = launch(command, **how)
    finally:
        done.set()
        watcher.join()
    return Watched(ended, peaks, largest)


def _high_water(process: Any) -> int:
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return int(process.memory_info().rss)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder; what vanishes meanwhile counts as nothing."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(where) / name).stat().st_size
            except OSError:
                continue
    return total


def interleaved(contenders: Mapping[str, Callable[[], Ended]], repeats: int) -> dict[str, list[Ended]]:
    """Run all contenders in turn, `repeats` times over, so that a busy minute of the machine hits all of them alike."""
    results: dict[str, list[Ended]] = {name: [] for name in contenders}
    for turn in range(repeats):
        for name, run in contenders.items():
            ended = run()
            results[name].append(ended)
            note(f"{turn + 1}/{repeats} {name}: {ended.wall:.1f} s (cpu {ended.cpu:.1f} s), load {load():.1f}")
    return results


def summary(name: str, runs: Sequence[Ended]) -> Row:
    """Return the median of several runs as a row."""
    return {
        "what": name,
        "wall s": round(statistics.median(r.wall for r in runs), 2),
        "fastest s": round(min(r.wall for r in runs), 2),
        "cpu s": round(statistics.median(r.cpu for r in runs), 1),
        "peak MiB": round(max(r.peak_mib for r in runs)),
    }


def load() -> float:
    """Return how many processes wanted to run in the last minute, on average."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    import torch

    from geounet.engine.plan import versions
    from geounet.machine import cores
    from geounet.models.device import cpu_has_bf16

    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": cpu_has_bf16(),
        "cores": cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
    }


def note(text: str) -> None:
    """Say on stderr how far a measurement is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table, columns in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in cells), 3) for i, c in enumerate(columns)] if rows else []

    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(v.ljust(w) for v, w in zip(values, widths, strict=True)) + " |"

    return "\n".join([line(columns), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, cells)])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return "–" if value is None else str(value)


def report(name: str, tables: Mapping[str, Sequence[Row]], out: Path | None, **more: Any) -> dict[str, Any]:
    """Print tables and write them as JSON; return what was written."""
    result = {
        "benchmark": name,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine(),
        "load": [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        **more,
        "tables": {title: list(rows) for title, rows in tables.items()},
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f"{out.name}.tmp-{os.getpid()}")
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(out)
    for title, rows in tables.items():
        print(f"\n{title}\n\n{table(rows)}")
    print(f"\n{result['machine']['processor']}, {result['machine']['cores']} cores; load {result['load']}", flush=True)
    return result
