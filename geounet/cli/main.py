"""The command `geounet`: a table of commands whose modules are imported when they are called, not for `--help`."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from typing import Any, NoReturn

import click

from geounet.cli.errors import guarded

COMMANDS = {
    "demo": "Make a scene and segment it: shows everything, needs nothing.",
    "run": "Segment scenes: masks and GeoPackages. Continues a killed run.",
    "batch": "For schedulers: run the scenes that are new or changed.",
    "plan": "Tiles, blocks, memory, disk and time of a run; runs nothing.",
    "status": "What is done, running and failed in an output folder, and why.",
    "report": "Write the HTML report of an output folder.",
    "clean": "Remove intermediate files of finished or abandoned runs.",
    "vectorize": "Vectors from any class or probability raster.",
    "train": "Learn a model from scenes and labels. Continues a killed one.",
    "evaluate": "Measure predictions, or a model, against labels.",
    "model": "Show, list and import model bundles.",
    "check": "Check a job file without reading scenes.",
    "schema": "Print the JSON schema of job files.",
    "doctor": "Check the environment: versions, devices, drivers, cluster.",
}
"""Name and line in the help of every command; `geounet.cli.<name>` holds a click command `<name>`."""

EXIT_CODES = """\b
Exit codes:
    0  done (batch: also nothing to do)
    1  failed
    2  usage, or an invalid job file
    3  finished, but some scenes or blocks failed (the manifest names them)
   75  another run holds the lock: try later
  130  interrupted (a later run continues)
  143  terminated (a later run continues)
"""


class LazyGroup(click.Group):
    """A group that knows its commands' names and help from a table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"geounet.cli.{cmd_name}"), cmd_name)
        _accept_verbosity(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for an unknown name, say which one is near."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Commands: {', '.join(COMMANDS)}."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _configure(ctx: click.Context) -> None:
    from geounet.cli import logs

    logs.configure(ctx.meta.get("geounet.verbosity", 0), json_lines=ctx.meta.get("geounet.log_json", False))


def _shift(ctx: click.Context, param: click.Parameter, value: int) -> None:
    if value:
        step = value if param.name == "verbose" else -value
        ctx.meta["geounet.verbosity"] = ctx.meta.get("geounet.verbosity", 0) + step
        if ctx.parent is not None:  # the group configures by itself, after its own options
            _configure(ctx)


def _verbosity(hidden: bool) -> list[click.Parameter]:
    return [
        click.Option(
            [flag, f"--{name}"],
            count=True,
            expose_value=False,
            is_eager=True,
            callback=_shift,
            help=text,
            hidden=hidden,
        )
        for flag, name, text in (
            ("-v", "verbose", "More on stderr; twice: also of libraries."),
            ("-q", "quiet", "Less on stderr: warnings only; twice: errors only."),
        )
    ]


def _accept_verbosity(command: click.Command) -> None:
    """Let `-v` and `-q` stand behind the command's name, too."""
    taken = {flag for param in command.params for flag in param.opts}
    for option in _verbosity(hidden=True):
        if taken.isdisjoint(option.opts):
            command.params.append(option)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _accept_verbosity(inner)


@click.group(
    cls=LazyGroup,
    epilog=EXIT_CODES,
    params=_verbosity(hidden=False),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--log-json", is_flag=True, help="Logs as JSON, a line each.")
@click.version_option(package_name="geounet", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, log_json: bool) -> None:
    """Segment aerial and satellite scenes of any size with a U-Net on Dask.

    A job file or scenes go in; georeferenced masks and styled GeoPackages come out. Results are printed to stdout, logs
    and progress to stderr. `geounet COMMAND --help` tells more.
    """
    ctx.meta["geounet.log_json"] = log_json
    _configure(ctx)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments
        Instead of those of the process.
    """

    def call() -> Any:
        return cli.main(args=arguments, prog_name="geounet", standalone_mode=False)

    return guarded(call)


def script() -> NoReturn:
    """Run the command line as a process and end it.

    What is to be done at the end is done; only the interpreter's own dismantling, a second of a run, is left out.
    """
    ended: list[int] = []
    atexit.register(_leave, ended)  # the first to be registered is the last to be called
    ended.append(main())
    sys.exit(ended[0])


def _leave(ended: list[int]) -> None:
    if not ended:
        return  # something unforeseen: let Python end in its own way
    try:
        if "logging" in sys.modules:
            sys.modules["logging"].shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # nobody listens: Python knows how to end then
    os._exit(ended[0])
