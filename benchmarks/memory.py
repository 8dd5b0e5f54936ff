"""Memory and disk: does the raster stage grow with the scene, and does `geounet plan` tell the truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, launch, note, python, report, watched
from benchmarks.material import fresh, made_up, random_model

SIZES = (4096, 8192, 16384)
SAME = ("vector=none", "tiling.tile=512", "tiling.overlap=128")
CASES = (
    ("tiny", (*SAME, "outputs.probability=true")),
    ("tiny", ("vector=none",)),
    ("resnet18", SAME),
    ("resnet18", (*SAME, "predict.precision=fp32")),
    ("resnet18", ("vector=none",)),
)
"""Further networks and settings, at the smallest size."""


def measured(work: Path, kind: str, size: int, settings: Sequence[str]) -> Row:
    """Return plan and measurement of one run of `geounet run`, as a row."""
    scene, model, folder = made_up(work, size), random_model(work, kind), fresh(work / "memory")
    given = [part for setting in settings for part in ("--set", setting)]
    arguments = [str(scene), "--model", str(model), "--out", str(folder), *given]
    note(f"{kind} on {size} px: {' '.join(settings)}")
    (plan,) = json.loads(launch(python("-m", "geounet", "plan", *arguments, "--json")).output)
    seen = watched(python("-m", "geounet", "run", *arguments, "--json"), folder / ".geounet")
    (scene_manifest,) = json.loads(seen.ended.output)["scenes"]
    fresh(folder)
    peak, planned = seen.peaks_mib["worker"], plan["memory_bytes"] / 2**20
    return {
        "network": kind,
        "scene px": size,
        "settings": " ".join(s for s in settings if s not in SAME),
        "tiles": scene_manifest["tiles"]["inferred"],
        "blocks": scene_manifest["blocks"]["total"],
        "wall s": round(seen.ended.wall, 1),
        "worker peak MiB": round(peak, 1),
        "driver peak MiB": round(seen.peaks_mib["driver"], 1),
        "planned MiB": round(planned, 1),
        "planned / peak": round(planned / peak, 3),
        "work folder peak MB": round(seen.folder_peak / 1e6, 1),
        "planned at most MB": round(plan["work_bytes"] / 1e6, 1),
        "used of it %": round(100 * seen.folder_peak / plan["work_bytes"], 1),
    }


def run(work: Path, out: Path | None, *, sizes: Sequence[int] = SIZES, size: int | None = None) -> dict[str, Any]:
    """Measure and report: a fast network at each size with the same settings, then cases that use more.

    Parameters
    ----------
    work, out
        Folder for what is made; JSON file or None.
    sizes
        Sides of the scenes, px.
    size
        Only this size, and the other cases at this size.
    """
    sizes = (size,) if size is not None else tuple(sizes)
    growing = [measured(work, "tiny", s, SAME) for s in sizes]
    first = growing[0]["worker peak MiB"]
    for row in growing:
        row["growth %"] = round(100 * (row["worker peak MiB"] / first - 1), 2)
    cases: list[Row] = []
    for kind, settings in CASES:
        cases.append(measured(work, kind, sizes[0], settings))
    tables = {
        "Raster stage, the same settings (512/128, vectors off), one worker": growing,
        "Other settings": cases,
    }
    return report("memory", tables, out)
