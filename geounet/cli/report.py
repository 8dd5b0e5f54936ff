"""`geounet report`: the HTML report of an output folder."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(short_help="Write the HTML report of an output folder.")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
def report(out: Path) -> None:
    """Write OUT/report.html anew from OUT/manifest.json, and print its path."""
    from geounet.batch.status import refuse_scene
    from geounet.engine.manifest import is_ours
    from geounet.errors import GeounetError, JobError
    from geounet.report.html import write_report

    path = out / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GeounetError(f"{path}: no such file; {out} is no output folder of a finished run") from None
    except (OSError, ValueError) as error:
        raise GeounetError(f"{path}: not readable as JSON: {error}") from None
    if isinstance(manifest, dict):
        refuse_scene(out, manifest)
    if not is_ours(manifest):
        raise JobError(f"{path}: is not of a run of geounet; give the output folder of one")
    write_report(out / "report.html", manifest)
    click.echo(out / "report.html")
