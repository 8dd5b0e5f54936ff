"""`geounet status`: what is done, running and failed."""

from __future__ import annotations

import json
from pathlib import Path

import click

from geounet.cli.options import json_option

work_option = click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Look in this work folder only (outputs.work), not in all that runs of OUT had.",
)


@click.command(short_help="What is done, running and failed.")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@work_option
@json_option
def status(out: Path, work: Path | None, as_json: bool) -> None:
    """Say what is done, running and failed in the output folder OUT, and why."""
    from geounet.batch.status import read_status

    state = read_status(out, work)
    if as_json:
        click.echo(json.dumps(state, indent=1))
        return
    click.echo(f"{out}: {'a run is at work' if state['running'] else 'no run is at work'}")
    for scene in state["scenes"]:
        blocks = scene.get("blocks") or {}
        line = f"  {scene['name']}: {scene['state']}"
        if blocks.get("total"):
            line += f", {blocks['done']} of {blocks['total']} blocks"
        if scene.get("worker_deaths"):
            line += f", {scene['worker_deaths']} worker deaths"
        if scene.get("failed_blocks"):
            line += f", failed: {', '.join(scene['failed_blocks'])}"
        if scene.get("bytes"):
            line += f", {scene['bytes'] / 1e6:.0f} MB of parts"
        if scene.get("error"):
            line += f": {scene['error']}"
        click.echo(line)
