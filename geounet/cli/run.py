"""`geounet run`: the main job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geounet.cli.options import json_option, takes_job

if TYPE_CHECKING:
    from geounet.batch.run import RunResult
    from geounet.config.job import Job

MANY = ("_fgb", "_parquet")
"""Ends of the keys of files that hold one layer."""


@click.command(short_help="Segment scenes: masks and GeoPackages.")
@takes_job
@click.option("--dry-run", is_flag=True, help="As `geounet plan`: say what would be done, and do nothing.")
@json_option
@click.pass_context
def run(ctx: click.Context, job: Job, dry_run: bool, as_json: bool) -> None:
    """Segment scenes: scenes in, georeferenced masks and styled GeoPackages out.

    \b
      $ geounet run job.yaml
      $ geounet run scene.tif --model demo --out results
      $ geounet run 'scenes/*.tif' --model ./my_model --out results --set tiling.overlap=128

    The same command continues a run that was killed, and does nothing for scenes that are done.
    """
    if dry_run:
        from geounet.cli.plan import show_plan

        ctx.exit(show_plan(job, as_json))
    from geounet.batch.run import run as run_job
    from geounet.cli.progress import Progress

    with Progress() as progress:
        result = run_job(job, progress=progress)
    conclude(ctx, result, as_json, summary)


def conclude(
    ctx: click.Context, result: RunResult, as_json: bool, told: Callable[[dict[str, Any], Path], list[str]]
) -> None:
    """Print what a run left, as JSON or in the lines that `told` makes of it, and exit with its code."""
    if as_json:
        click.echo(json.dumps(result.manifest, indent=1))
    else:
        for line in told(result.manifest, result.folder):
            click.echo(line)
    ctx.exit(result.exit_code)


def summary(manifest: dict[str, Any], out: Path) -> list[str]:
    """Return what a person wants to know of a run, in lines."""
    lines = []
    names = [scene["name"] for scene in manifest["scenes"]]
    for scene in manifest["scenes"]:
        name = scene["name"]
        if names.count(name) > 1:
            name += f" with {scene['model']['name']}"
        if scene["state"] == "failed":
            lines.append(f"{name}: failed (why: above, and in {out / 'manifest.json'})")
            continue
        if scene["state"] == "unchanged":
            lines.append(f"{name}: already done, nothing to do ({out / scene['folder']})")
            continue
        tiles, blocks = scene["tiles"], scene["blocks"]
        seconds = sum(scene["timings"].values())
        features = ", ".join(f"{count} {layer}" for layer, count in scene.get("features", {}).items())
        lines.append(
            f"{name}: done in {seconds:.0f} s: {tiles['inferred']} tiles in {blocks['total']} blocks"
            + (f"; {features}" if features else "")
            + (f"; {len(blocks['failed'])} blocks failed and are nodata" if blocks["failed"] else "")
        )
        lines.extend(f"  warning: {warning}" for warning in scene.get("warnings", []))
        lines.extend(_shown(scene["files"], out))
    for mosaic in manifest.get("mosaics", []):
        count = len(mosaic["scenes"])
        if mosaic["state"] == "failed":
            lines.append(f"mosaic of {count} scenes: failed: {mosaic['error']}")
            continue
        features = ", ".join(f"{number} {layer}" for layer, number in mosaic.get("features", {}).items())
        done = "already done, nothing to do" if mosaic["state"] == "unchanged" else f"done in {mosaic['seconds']:.0f} s"
        earlier = f" ({', '.join(mosaic['earlier'])} as an earlier run made it)" if mosaic.get("earlier") else ""
        lines.append(f"mosaic of {count} scenes{earlier}: {done}; {features}")
        lines.extend(f"  warning: {note}" for note in mosaic.get("notes", []))
        lines.extend(_shown(mosaic["files"], out))
    return lines


def _shown(files: dict[str, str], out: Path) -> list[str]:
    """Return the files in lines: no sidecars, and formats with a file a layer in one line each."""
    single = [path for key, path in files.items() if key not in ("style", "aux") and not key.endswith(MANY)]
    lines = [f"  {out / path}" for path in single]
    for ending in MANY:
        several = [path for key, path in files.items() if key.endswith(ending)]
        if several:
            layers = ", ".join(key.removesuffix(ending) for key in files if key.endswith(ending))
            lines.append(f"  {out / Path(several[0]).parent}: {layers} as .{ending[1:]}")
    return lines
