"""`geounet schema`."""

from __future__ import annotations

import click


@click.command()
def schema() -> None:
    """Print the JSON schema of job files (draft 07) to stdout.

    \b
    Name it in the first line of a job file, and editors complete and check keys:
        $ geounet schema > job.schema.json
        # yaml-language-server: $schema=job.schema.json
    """
    from geounet.config.schema import schema_text

    click.echo(schema_text(), nl=False)
