"""Command line of the measurements: `python -m benchmarks [NAME] …`; without a name, all of them."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.harness import note

NAMES = (
    "speed", "overhead", "reference", "seams", "precision", "memory", "tiles", "training", "buildings", "roads",
    "landcover", "cells", "scenes", "quick", "network",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measurements of geounet.")
    parser.add_argument("name", nargs="?", choices=[*NAMES, "peers", "all"], default="all")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="scenes, models, peers, outputs")
    parser.add_argument("--out", type=Path, help="JSON file, or a folder for all; default: in the work folder")
    parser.add_argument("--size", type=int, help="side of the scene, px")
    parser.add_argument("--repeats", type=int, help="runs of each contender")
    given = parser.parse_args(arguments)
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if given.name == "peers":
        from benchmarks.peers import install

        reason = install(work / "peers")
        if reason is not None:
            note(reason)
        return 0 if reason is None else 1
    names = NAMES if given.name == "all" else (given.name,)
    for name in names:
        run = import_module(f"benchmarks.{name}").run
        options = {k: v for k in ("size", "repeats") if (v := getattr(given, k)) is not None}
        options = {k: v for k, v in options.items() if k in inspect.signature(run).parameters}
        if given.out is None or given.name == "all":
            out = (given.out or work).resolve() / f"{name}.json"
        else:
            out = given.out.resolve()
        note(name)
        run(work, out, **options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
