"""`geounet schema`."""

from __future__ import annotations

import click


@click.command()
@click.argument("kind", type=click.Choice(["job", "train"]), default="job")
def schema(kind: str) -> None:
    """Print the JSON schema (draft 07) of job files, or of training jobs (`train`), to stdout.

    \b
    Name it in the first line of a job file, and editors complete and check keys:
        $ geounet schema > job.schema.json
        # yaml-language-server: $schema=job.schema.json
    """
    from geounet.config.schema import schema_text

    click.echo(schema_text(kind), nl=False)
