"""Speed from end to end: against the network alone, and against other programs, all from one interleaved run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.harness import ROOT, Ended, Row, interleaved, launch, note, python, report, summary
from benchmarks.material import fresh, made_up, random_model, read_mask
from geounet.models.device import cpu_has_bf16

TILE, OVERLAP = 512, 128
_MODULES = {"monai": "monai", "terratorch": "terratorch", "geodeep": "geodeep"}


def geounet(scene: Path, model: Path, out: Path, *settings: str) -> Ended:
    """Run `geounet run` without vectors, from its start to its end, into an empty folder."""
    given = [part for setting in settings for part in ("--set", setting)]
    command = python("-m", "geounet", "run", scene, "--model", model, "--out", fresh(out), "--set", "vector=none")
    return launch([*command, *given, "--json"])


def manifest(ended: Ended) -> dict[str, Any]:
    """Return the manifest that `geounet run --json` printed."""
    result: dict[str, Any] = json.loads(ended.output)
    return result


def alone(model: Path, tiles: int, tile: int, precision: str, threads: int, batch: int = 1, *more: str) -> Ended:
    """Send tiles through the network alone, in a process of its own."""
    given = ["--tiles", str(tiles), "--tile", str(tile), "--batch", str(batch), "--precision", precision]
    return launch(python("-m", "benchmarks.alone", model, *given, "--threads", str(threads), *more))


def run(
    work: Path, out: Path | None, *, size: int = 4096, repeats: int = 3, others: bool = True,
    precisions: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure and report.

    Parameters
    ----------
    work
        Folder for scenes, models, outputs and the peers.
    out
        JSON file; None writes none.
    size
        Side of the scene, px.
    repeats
        Runs of each contender; medians are reported.
    others
        Whether the other programs take part.
    precisions
        In which all take part at the same tile and overlap; None: fp32, and bf16 where the processor multiplies in it.
    """
    if precisions is None:
        precisions = ("fp32", "bf16") if cpu_has_bf16() else ("fp32",)
    scene, model = made_up(work, size), random_model(work)
    absent: dict[str, str] = {}
    if others:
        reason = peers.install(work / "peers")
        absent = {} if reason is None else dict.fromkeys(("monai", "terratorch", "geodeep"), reason)
        note(f"peers cannot be installed: {reason}" if reason else "peers are installed")

    # Once before it counts: what `auto` means here, and scene and modules in the page cache.
    first = manifest(geounet(scene, model, work / "speed" / "first"))
    made = first["scenes"][0]
    tile, tiles, batch, auto = made["grid"]["tile"], made["tiles"]["inferred"], made["batch"], made["precision"]
    threads = _threads(made)

    def own(name: str, *settings: str) -> Callable[[], Ended]:
        return lambda: geounet(scene, model, work / "speed" / name, *settings)

    contenders: dict[str, Callable[[], Ended]] = {
        "geounet": own("geounet"),
        "network": lambda: alone(model, tiles, tile, auto, threads, batch, "--passes", str(threads)),
        "network, one pass": lambda: alone(model, tiles, tile, auto, threads, batch),
    }
    grid = len(peers.starts(size, TILE, OVERLAP)) ** 2
    for precision in precisions:
        same = (f"tiling.tile={TILE}", f"tiling.overlap={OVERLAP}", f"predict.precision={precision}")
        contenders[f"geounet {precision}"] = own(f"geounet_{precision}", *same)
        contenders[f"network {precision}"] = _alone(model, grid, precision, threads, "--passes", str(threads))
        contenders[f"network, one pass {precision}"] = _alone(model, grid, precision, threads)
        contenders[f"network as built, one pass {precision}"] = _alone(model, grid, precision, threads, "--as-built")
        for kind in peers.KINDS if others else ():
            if kind not in absent:
                contenders[f"{kind} {precision}"] = _peer(work, scene, model, kind, precision, threads)
    if others and "bf16" in precisions:
        contenders["loop bf16 channels_last"] = _peer(
            work, scene, model, "loop", "bf16", threads, "--channels-last", name="loop_channels_last"
        )
    if others and "geodeep" not in absent:
        onnx = _onnx(work, scene, model, threads)
        contenders["geodeep fp32"] = lambda: _geodeep(work, scene, onnx, threads)
    results = interleaved(contenders, repeats)

    tables = {
        f"All, {size} × {size} px, median of {repeats}": [summary(name, runs) for name, runs in results.items()],
        "(a) end to end against the same tiles through the network alone": _against_network(results, made),
    }
    if others:
        for precision in precisions:
            tables[f"(b) tile {TILE}, overlap {OVERLAP}, {precision}: wall time of others over ours"] = _against(
                results, f"geounet {precision}", [f"{kind} {precision}" for kind in ("loop", "monai", "terratorch")]
            )
        shipped = [name for name in results if name.endswith("fp32") and not name.startswith(("geounet", "network"))]
        tables["(c) our defaults against others as shipped (fp32): wall time of others over ours"] = _against(
            results, "geounet", shipped
        )
        tables["The same work? Share of pixels whose class differs from the loop's in fp32"] = _agreement(work)
    tables["Where the time goes in `geounet run`, s"] = _stages(results)
    settings = {"size": size, "repeats": repeats, "threads": threads, "defaults": made["grid"], "precision": auto}
    return report("speed", tables, out, settings=settings, absent=absent)


def _threads(made: dict[str, Any]) -> int:
    from geounet.config.job import Cluster
    from geounet.engine.cluster import local_layout

    layout = local_layout(Cluster(), made["device"])
    return layout.threads * layout.workers


def _alone(model: Path, tiles: int, precision: str, threads: int, *more: str) -> Callable[[], Ended]:
    return lambda: alone(model, tiles, TILE, precision, threads, 1, *more)


def _peer(
    work: Path, scene: Path, model: Path, kind: str, precision: str, threads: int, *more: str, name: str | None = None
) -> Callable[[], Ended]:
    out = work / "speed" / f"{name or f'{kind}_{precision}'}.tif"
    command = python("-m", "benchmarks.peers", kind, scene, model, out, "--tile", str(TILE), "--overlap", str(OVERLAP))
    given = ["--threads", str(threads), "--precision", precision, *more]

    def go() -> Ended:
        out.unlink(missing_ok=True)
        return launch([*command, *given], path=(ROOT, work / "peers"))

    return go


def _onnx(work: Path, scene: Path, model: Path, threads: int) -> Path:
    dest = work / "model_resnet18.onnx"
    if not dest.exists():
        command = python("-m", "benchmarks.peers", "onnx", scene, model, dest, "--threads", str(threads))
        launch([*command, "--tile", str(TILE), "--overlap", str(OVERLAP)], path=(ROOT, work / "peers"))
    return dest


def _geodeep(work: Path, scene: Path, onnx: Path, threads: int) -> Ended:
    out = work / "speed" / "geodeep_fp32.tif"
    out.unlink(missing_ok=True)
    command = python("-m", "geodeep.scripts.main", scene, onnx, "-t", "mask", "-o", out, "-q")
    return launch([*command, "--max-threads", str(threads)], path=(work / "peers",))


def _median(runs: Sequence[Ended]) -> float:
    return statistics.median(r.wall for r in runs)


def _inside(runs: Sequence[Ended]) -> float:
    return float(statistics.median(r.said["seconds"] for r in runs))


def _against_network(results: dict[str, list[Ended]], made: dict[str, Any]) -> list[Row]:
    rows = []
    pairs = [("geounet", "network", f"defaults: {made['grid']['tile']}/{made['grid']['overlap']}, {made['precision']}")]
    pairs += [
        (name, name.replace("geounet", "network"), f"{TILE}/{OVERLAP}, {name.split()[1]}")
        for name in results
        if name.startswith("geounet ")
    ]
    for ours, bare, what in pairs:
        # The better of the two ways to use the threads: passes side by side, or all threads in one pass.
        bare = min(bare, bare.replace("network", "network, one pass"), key=lambda name: _inside(results[name]))
        run, process, inside = _median(results[ours]), _median(results[bare]), _inside(results[bare])
        built = results.get(f"network as built, one pass {ours.partition(' ')[2]}")
        rows.append(
            {
                "settings": what,
                "run s": round(run, 2),
                "network with its start-up s": round(process, 2),
                "ratio": round(run / process, 3),
                "network without start-up s": round(inside, 2),
                "ratio without": round(run / inside, 3),
                "network as built, without s": round(_inside(built), 2) if built else None,
            }
        )
    return rows


def _against(results: dict[str, list[Ended]], ours: str, names: Sequence[str]) -> list[Row]:
    own = _median(results[ours])
    rows: list[Row] = [{"what": ours, "wall s": round(own, 2), "ratio": 1.0}]
    for name in names:
        if name in results:
            wall = _median(results[name])
            rows.append({"what": name, "wall s": round(wall, 2), "ratio": round(wall / own, 2)})
    return rows


def _agreement(work: Path) -> list[Row]:
    folder = work / "speed"
    reference = folder / "loop_fp32.tif"
    if not reference.exists():
        return []
    truth = read_mask(reference)
    paths = [*sorted(folder.glob("*.tif")), *sorted(folder.glob("*/*/*_mask.tif"))]
    rows: list[Row] = []
    for path in paths:
        name = path.stem if path.parent == folder else path.relative_to(folder).parts[0]
        if path != reference and name != "first":
            rows.append({"what": name, "differs %": round(100 * float(np.mean(read_mask(path) != truth)), 2)})
    return rows


def _stages(results: dict[str, list[Ended]]) -> list[Row]:
    rows = []
    for name, runs in results.items():
        if name.partition(" ")[0] != "geounet":
            continue
        middle = sorted(runs, key=lambda r: r.wall)[len(runs) // 2]
        whole = manifest(middle)
        stages = whole["scenes"][0]["timings"]
        inside = sum(stages.values())
        rows.append(
            {
                "run": name,
                "wall": round(middle.wall, 2),
                "start and end of the process": round(middle.wall - whole["seconds"], 2),
                "cluster, probe, publishing": round(whole["seconds"] - inside, 2),
                **stages,
            }
        )
    return rows
