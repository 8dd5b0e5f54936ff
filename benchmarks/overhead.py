"""Where the wall time of a `geounet run` goes: its process, imports, cluster, the worker's first steps, each stage."""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import contextlib  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

IMPORTS = (
    "click", "pydantic", "geounet.config.job", "numpy", "rasterio", "pyproj", "distributed", "torch",
    "segmentation_models_pytorch", "matplotlib.figure", "geounet.batch.run", "geounet.report.preview",
)  # fmt: skip


def traced(scene: str, model: str, out: str, settings: Sequence[str]) -> dict[str, Any]:
    """Run a job in this process as the command line does, and say when each step began and ended."""
    marks: list[tuple[float, str]] = []

    def mark(label: str) -> None:
        marks.append((time.perf_counter() - STARTED, label))

    from geounet.config.load import job_from_options

    mark("import of the job's models")
    from geounet.batch import run as batch_run
    from geounet.engine import scene as engine

    mark("import of the driver's modules")
    job = job_from_options([scene], model, out, ["vector=none", *settings])
    mark("job read")
    batch: Any = batch_run  # its names are replaced below
    connect, one, blocks = batch.connect, engine.SceneRun._one, engine.SceneRun._blocks
    preview = engine.SceneRun._preview
    receipts: dict[str, Any] = {}

    @contextlib.contextmanager
    def connected(*given: Any, **more: Any) -> Iterator[Any]:
        mark("scene described, model read")
        with connect(*given, **more) as found:
            mark("cluster started")
            yield found
            mark("published")
        mark("cluster closed")

    def single(self: Any, name: str, function: Any, args: Any, **how: Any) -> Any:
        mark(f"before {name}")
        result = one(self, name, function, args, **how)
        mark(name)
        return result

    def inferred(self: Any, recipe: Any, ledger: Any) -> Any:
        mark("before blocks")
        result = blocks(self, recipe, ledger)
        mark("blocks")
        receipts.update(result[0])
        return result

    def drawn(self: Any, *given: Any) -> Any:
        mark("before preview")
        result = preview(self, *given)
        mark("preview")
        return result

    batch.connect = connected
    engine.SceneRun._one, engine.SceneRun._blocks = single, inferred  # type: ignore[method-assign]
    engine.SceneRun._preview = drawn  # type: ignore[method-assign]
    try:
        result = batch.run(job)
    finally:
        batch.connect = connect
        engine.SceneRun._one, engine.SceneRun._blocks = one, blocks  # type: ignore[method-assign]
        engine.SceneRun._preview = preview  # type: ignore[method-assign]
    mark("manifest and report")
    steps, before = [], 0.0
    for when, label in marks:
        steps.append((label, round(when - before, 3)))
        before = when
    inside: dict[str, float] = {}
    for receipt in receipts.values():
        for name, seconds in receipt["seconds"].items():
            inside[name] = inside.get(name, 0.0) + seconds
    return {
        "steps": steps,
        "blocks": inside,
        "all": before,
        "grid": result.scenes[0]["grid"],
        "precision": result.scenes[0]["precision"],
    }


def imported(modules: Sequence[str]) -> dict[str, float]:
    """Return the seconds that each import takes, after those before it."""
    from importlib import import_module

    seconds = {}
    for name in modules:
        started = time.perf_counter()
        import_module(name)
        seconds[name] = time.perf_counter() - started
    return seconds


def run(work: Path, out: Path | None, *, size: int = 4096, repeats: int = 3) -> dict[str, Any]:
    """Measure and report; `size` is the side of the scene, px."""
    from benchmarks.harness import Row, launch, note, python, report
    from benchmarks.material import fresh, made_up, random_model
    from benchmarks.speed import alone
    from geounet.machine import cores

    scene, model = made_up(work, size), random_model(work)
    runs: list[dict[str, float]] = []
    bare: list[tuple[dict[str, float], dict[str, Any]]] = []
    imports: list[dict[str, float]] = []
    for turn in range(repeats + 1):
        folder = fresh(work / "overhead")
        ended = launch(python("-m", "benchmarks.overhead", "trace", scene, model, folder))
        said = ended.said
        if turn == 0:  # the page cache is warm after it
            continue
        note(f"{turn} of {repeats}: {ended.wall:.1f} s")
        runs.append({**dict(said["steps"]), "end of the process": ended.wall - said["all"]} | {"wall": ended.wall})
        inside = said["blocks"]
        grid = said["grid"]
        bare.append(
            (
                inside,
                alone(model, grid["tiles"], grid["tile"], said["precision"], cores(), 1, "--passes", str(cores())).said,
            )
        )
        imports.append(launch(python("-m", "benchmarks.overhead", "imports")).said)

    def middle(values: Sequence[float]) -> float:
        return round(statistics.median(values), 3)

    steps: list[Row] = [{"step": key, "s": middle([r.get(key, 0.0) for r in runs])} for key in runs[0]]
    parts: list[Row] = [{"part": key, "s": middle([inside.get(key, 0.0) for inside, _ in bare])} for key in bare[0][0]]
    parts.append({"part": "the same tiles through the network alone", "s": middle([b["seconds"] for _, b in bare])})
    parts.append({"part": "its process until the first forward is done", "s": middle([b["ready"] for _, b in bare])})
    modules: list[Row] = [{"module": key, "s": middle([i[key] for i in imports])} for key in imports[0]]
    tables = {
        "Steps of a run, driver's clock": steps,
        "Inside the blocks, sums over all blocks, worker's clock": parts,
        "Imports in this order, warm": modules,
    }
    return report("overhead", tables, out, settings={"size": size, "repeats": repeats})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one traced process: `trace SCENE MODEL OUT [KEY=VALUE …]`, or `imports`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["trace", "imports"])
    parser.add_argument("given", nargs="*")
    asked = parser.parse_args(arguments)
    if asked.what == "imports":
        print(json.dumps(imported(IMPORTS)))
        return
    scene, model, out, *settings = asked.given
    print(json.dumps(traced(scene, model, out, settings)))


if __name__ == "__main__":
    main()
