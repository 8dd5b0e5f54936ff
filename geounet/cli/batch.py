"""`geounet batch`: the main job for schedulers, again and again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geounet.cli.options import json_option, takes_job
from geounet.cli.run import conclude, summary
from geounet.errors import code_of

if TYPE_CHECKING:
    from geounet.batch.run import Rounds
    from geounet.config.job import Job


@click.command(short_help="For schedulers: run the scenes that are new or changed.")
@takes_job
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Leave scenes that were written to more recently for the next time: they may be arriving.",
)
@click.option(
    "--tries",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="How often a scene that fails is tried as it is.",
)
@click.option("--retry", is_flag=True, help="Try all scenes that failed once more.")
@click.option("--dry-run", is_flag=True, help="Say what would be done with each scene, and why, and do nothing.")
@json_option
@click.pass_context
def batch(ctx: click.Context, job: Job, settle: float, tries: int, retry: bool, dry_run: bool, as_json: bool) -> None:
    """Run the scenes of a job that are new or changed, and replace their results once the new ones are whole.

    \b
      $ geounet batch nightly.yaml
      15 2 * * *  geounet --quiet batch /srv/geounet/nightly.yaml

    Where nothing is new, nothing is done (exit code 0). A scene that failed is tried again the next times; after
    --tries it is left alone until it, the job or the model changes, and named each time (exit code 3). A batch that
    was killed is continued by the next one; one that is still at work is left to it (exit code 75).
    """
    from geounet.batch.run import Rounds
    from geounet.batch.run import run as run_job
    from geounet.cli.progress import Progress

    job = job.model_copy(update={"outputs": job.outputs.model_copy(update={"overwrite": True})})
    rounds = Rounds(settle_s=settle, tries=None if retry else tries)
    if dry_run:
        ctx.exit(_foretell(job, rounds, as_json))
    with Progress() as progress:
        result = run_job(job, progress=progress, rounds=rounds)
    conclude(ctx, result, as_json, told)


def _foretell(job: Job, rounds: Rounds, as_json: bool) -> int:
    """Print what a batch would do; return the exit code: 3 if some scenes would not be done, 1 if all."""
    from geounet.batch.outlook import outlook

    entries = outlook(job, rounds)
    bad = sum(entry["state"] in ("refused", "given up") for entry in entries)
    code = code_of(bad, len(entries))
    if as_json:
        click.echo(json.dumps(entries, indent=1))
        return code
    states: dict[str, int] = {}
    for entry in entries:
        states[entry["state"]] = states.get(entry["state"], 0) + 1
        if entry["state"] != "unchanged":
            name = entry["name"] if job.models is None else f"{entry['name']}/{entry['model']}"
            click.echo(f"{name}: {entry['state']}{f' ({why})' if (why := entry['why']) else ''}")
    click.echo("scenes: " + (", ".join(f"{count} {state}" for state, count in states.items()) or "none"))
    return code


def told(manifest: dict[str, Any], out: Path) -> list[str]:
    """Return what a batch did, in lines: what is as it was is only counted."""
    scenes = manifest["scenes"]
    news = [scene for scene in scenes if scene["state"] != "unchanged"]
    mosaics = [mosaic for mosaic in manifest.get("mosaics", []) if mosaic["state"] != "unchanged"]
    lines = summary({**manifest, "scenes": news, "mosaics": mosaics}, out)
    waiting = manifest.get("waiting", [])
    states = [scene["state"] for scene in scenes if scene["name"] not in waiting]
    counts = [(state, states.count(state)) for state in ("done", "failed", "unchanged")]
    counts.append(("still being written", len(waiting)))
    said = ", ".join(f"{count} {state}" for state, count in counts if count)
    if any(count for state, count in counts if state in ("done", "failed")):
        lines.append(f"scenes: {said}")
    else:
        lines.append("nothing to do" + (f": {said}" if said else ": no scenes"))
    return lines
