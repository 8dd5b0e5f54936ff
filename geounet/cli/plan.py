"""`geounet plan`: what a run would do and take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from geounet.cli.options import json_option, takes_job
from geounet.errors import code_of

if TYPE_CHECKING:
    from geounet.config.job import Job


@click.command(short_help="Tiles, blocks, memory, disk and time of a run.")
@takes_job
@json_option
@click.pass_context
def plan(ctx: click.Context, job: Job, as_json: bool) -> None:
    """Say what `geounet run` with the same arguments would do and take; runs the network once to time it.

    Disk is an upper bound, memory an estimate of the largest worker, time that of the network. The exit code tells
    whether scenes would be refused: 0 none, 3 some, 1 all.
    """
    ctx.exit(show_plan(job, as_json))


def show_plan(job: Job, as_json: bool) -> int:
    """Print the plan of a job; return the exit code."""
    from geounet.batch.plan import plan_job, total

    entries = plan_job(job)
    refused = sum(entry["state"] == "refused" for entry in entries)
    code = code_of(refused, len(entries))
    if as_json:
        click.echo(json.dumps(entries, indent=1))
        return code
    for entry in entries:
        for line in _lines(entry):
            click.echo(line)
    mosaic = any("mosaic_bytes" in entry for entry in entries)
    if len(entries) > 1 or mosaic:
        running, done, seconds = total(entries, local=job.cluster.here)
        joined = ", then their mosaic" if mosaic else ""
        click.echo(
            f"all: {len(entries) - refused} of {len(entries)} can be run{joined}{_time(seconds)}"
            f"; disk at most {_size(running)} while running, {_size(done)} when done"
        )
    return code


def _lines(entry: dict[str, Any]) -> list[str]:
    from geounet.engine.cluster import HELPER_BYTES

    if entry["state"] == "refused":
        return [f"{entry['name']}: refused: {entry['error']}"]
    if entry["state"] == "done":
        return [f"{entry['name']}: already done, nothing to do"]
    grid = entry["grid"]
    resampled = f", resampled to {grid['model_grid'][1]} × {grid['model_grid'][0]}" if grid["resampled"] else ""
    continued = f" ({entry['blocks_done']} done)" if entry["blocks_done"] else ""
    time_ = _time(entry["seconds"])
    tiles = (
        f"{grid['tiles']} tiles of {grid['tile']} px, overlap {grid['overlap']}, in {grid['blocks']} blocks{continued}"
    )
    processes = f"{entry['workers']} workers × {entry['threads']} threads"
    more = f", up to {_size(HELPER_BYTES)} each of {entry['helpers']} more for vectors" if entry["helpers"] else ""
    members = f" ({entry['networks']} networks a tile)" if entry["networks"] > 1 else ""
    size = f"{grid['scene_grid'][1]} × {grid['scene_grid'][0]} px{resampled}"
    return [
        f"{entry['name']}: {size}, model {entry['model']}{members}",
        f"  {tiles}; {grid['inferred_per_pixel']:.2f} px inferred per px",
        f"  {entry['device']}, {entry['precision']}, batch {entry['batch']}, {processes}{time_}",
        f"  memory about {_size(entry['memory_bytes'])} a worker{more}",
        f"  disk at most {_size(entry['work_bytes'])} while running, {_size(entry['output_bytes'])} when done",
        *(f"  warning: {warning}" for warning in entry["warnings"]),
    ]


def _time(seconds: float | None) -> str:
    from geounet.cli.progress import duration

    return "" if seconds is None else f", about {duration(seconds)} of network time"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
