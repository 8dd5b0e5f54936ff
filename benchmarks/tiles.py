"""Tile sizes, batches and threads: throughput of the network alone, and of whole runs by number of workers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.alone import forward, timed
from benchmarks.harness import Row, interleaved, launch, note, python, report, summary
from benchmarks.material import fresh, made_up, random_model

SIDES = (256, 384, 512, 640, 768, 896, 928, 1024, 1152)
BATCHES = ((256, 2), (256, 4), (512, 2), (512, 4), (1024, 2))
"""Tile and batch that are tried beside a batch of one."""


def throughput(
    model: Path, tile: int, batch: int, precision: str, threads: int, passes: int, seconds: float
) -> float:  # fmt: skip
    """Return megapixels per second, from about as many forwards as fit into `seconds`, but at least two a pass."""
    once = forward(str(model), tile, batch, precision, threads, as_built=False)
    once()
    started = time.perf_counter()
    once()
    forwards = passes * max(2, round(seconds / (time.perf_counter() - started)))
    return forwards * batch * tile * tile / 1e6 / timed(once, forwards, passes)


def run(
    work: Path, out: Path | None, *, size: int = 4096, repeats: int = 3, sides: Sequence[int] = SIDES,
    seconds: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Measure and report; `size` is the side of the scene of the whole runs, px."""
    from geounet.machine import cores
    from geounet.models.device import resolve

    model, most = random_model(work), cores()
    precision = resolve("cpu", "auto")[1]
    arrangements = {"1 thread": (1, 1)}
    if most > 1:
        arrangements |= {f"1 pass × {most} threads": (most, 1), f"{most} passes × 1 thread": (1, most)}
    cases = [(side, 1) for side in sides] + [case for case in BATCHES if case[0] in sides]
    rates: dict[tuple[int, int, str], list[float]] = {}
    for turn in range(repeats):
        note(f"network alone, {turn + 1} of {repeats}")
        for tile, batch in cases:
            for name, (threads, passes) in arrangements.items():
                rate = throughput(model, tile, batch, precision, threads, passes, seconds)
                rates.setdefault((tile, batch, name), []).append(rate)
    rows: list[Row] = []
    for tile, batch in cases:
        row: Row = {"tile": tile, "batch": batch}
        for name in arrangements:
            row[f"{name} Mpx/s"] = round(statistics.median(rates[tile, batch, name]), 3)
        rows.append(row)

    scene = made_up(work, size)

    def whole(workers: int, *settings: str) -> Any:
        given = [part for s in ("vector=none", *settings) for part in ("--set", s)]
        command = python("-m", "geounet", "run", scene, "--model", model, "--workers", str(workers), *given)
        return lambda: launch([*command, "--out", str(fresh(work / "tiles"))])

    layouts = {f"{n} × {most // n} threads": whole(n) for n in sorted({1, most})}
    if most > 1:
        layouts[f"{most} × 1 threads, 512/128"] = whole(most, "tiling.tile=512", "tiling.overlap=128")
        layouts[f"1 × {most} threads, 512/128"] = whole(1, "tiling.tile=512", "tiling.overlap=128")
    runs = [summary(name, ended) for name, ended in interleaved(layouts, repeats).items()]
    tables = {
        f"Network alone, resnet18 U-Net, {precision}": rows,
        f"`geounet run` on {size} × {size} px, workers × threads, vectors off": runs,
    }
    return report("tiles", tables, out, precision=precision)
