"""`geounet plan`: what a run would do and take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from geounet.cli.options import json_option, takes_job

if TYPE_CHECKING:
    from geounet.config.job import Job


@click.command(short_help="Tiles, blocks, memory, disk and time of a run.")
@takes_job
@json_option
def plan(job: Job, as_json: bool) -> None:
    """Say what `geounet run` with the same arguments would do and take; runs the network once to time it.

    Disk is an upper bound, memory an estimate of the largest worker, time that of the network.
    """
    show_plan(job, as_json)


def show_plan(job: Job, as_json: bool) -> None:
    """Print the plan of a job."""
    from geounet.batch.plan import plan_job

    entries = plan_job(job)
    if as_json:
        click.echo(json.dumps(entries, indent=1))
        return
    for entry in entries:
        for line in _lines(entry):
            click.echo(line)
    total = sum(e["work_bytes"] for e in entries if "work_bytes" in e)
    if len(entries) > 1:
        click.echo(f"{len(entries)} scenes; at most {_size(total)} of parts if all were kept")


def _lines(entry: dict[str, Any]) -> list[str]:
    if entry["state"] == "refused":
        return [f"{entry['name']}: refused: {entry['error']}"]
    if entry["state"] == "done":
        return [f"{entry['name']}: already done, nothing to do"]
    grid = entry["grid"]
    resampled = f", resampled to {grid['model_grid'][1]} × {grid['model_grid'][0]}" if grid["resampled"] else ""
    continued = f" ({entry['blocks_done']} done)" if entry["blocks_done"] else ""
    time_ = f", about {entry['seconds']:.0f} s of network time" if entry["seconds"] is not None else ""
    tiles = (
        f"{grid['tiles']} tiles of {grid['tile']} px, overlap {grid['overlap']}, in {grid['blocks']} blocks{continued}"
    )
    processes = f"{entry['workers']} workers × {entry['threads']} threads"
    members = f" ({entry['networks']} networks a tile)" if entry["networks"] > 1 else ""
    size = f"{grid['scene_grid'][1]} × {grid['scene_grid'][0]} px{resampled}"
    return [
        f"{entry['name']}: {size}, model {entry['model']}{members}",
        f"  {tiles}; {grid['inferred_per_pixel']:.2f} px inferred per px",
        f"  {entry['device']}, {entry['precision']}, batch {entry['batch']}, {processes}{time_}",
        f"  memory about {_size(entry['memory_bytes'])} a worker",
        f"  disk at most {_size(entry['work_bytes'])} while running, {_size(entry['output_bytes'])} when done",
    ]


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
