"""`geounet clean`: remove intermediate files."""

from __future__ import annotations

from pathlib import Path

import click

from geounet.cli.status import work_option


@click.command(short_help="Remove parts of finished or abandoned runs.")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@work_option
def clean(out: Path, work: Path | None) -> None:
    """Remove the intermediate files of finished or abandoned runs in the output folder OUT.

    Finished output stays. A run that was interrupted starts anew afterwards.
    """
    from geounet.batch.status import clean as remove

    scenes, size = remove(out, work)
    click.echo(f"{out}: removed the parts of {scenes} scenes, {size / 1e6:.1f} MB")
