"""Options that commands share.

scenes, --model, --out, --set, --bbox, --overwrite, --workers
    `run` and `plan`, through `takes_job`: either one job file, or scenes.
--json
    Every command whose result a machine may read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from geounet.config.job import Job

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
"""Passes `as_json: bool`."""


def _box(ctx: click.Context, param: click.Parameter, value: str | None) -> list[float] | None:
    if value is None:
        return None
    try:
        box = [float(part) for part in value.replace(",", " ").split()]
    except ValueError:
        box = []
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise click.BadParameter(f"found {value!r}, expected XMIN,YMIN,XMAX,YMAX with XMIN < XMAX and YMIN < YMAX")
    return box


def folder_given(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty folder, which would be the default one."""
    if value is not None and not value.strip():
        raise click.BadParameter("found an empty text, expected a folder; is a variable of the shell not set?")
    return value


_JOB_OPTIONS = (
    click.argument("scenes", nargs=-1, required=True, metavar="JOB.yaml | SCENE..."),
    click.option("--model", "models", multiple=True, metavar="MODEL", help="Bundled model's name, or a bundle's path."),
    click.option("--out", metavar="DIR", callback=folder_given, help="Output folder."),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the job, as in --set tiling.tile=512."
    ),
    click.option(
        "--bbox",
        callback=_box,
        metavar="XMIN,YMIN,XMAX,YMAX",
        help="Only this window, in the scene's CRS: try it first.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace finished output of another job, model or input."),
    click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes of the local cluster."),
)
_JOB_PARAMETERS = ("scenes", "models", "out", "settings", "bbox", "overwrite", "workers")


def takes_job(function: F) -> Callable[..., Any]:
    """Add the arguments and options of a job; the command is called with `job: Job` in their place."""

    @functools.wraps(function)
    def with_job(**parameters: Any) -> Any:
        own = {name: value for name, value in parameters.items() if name not in _JOB_PARAMETERS}
        return function(job=job_from(parameters), **own)

    for option in reversed(_JOB_OPTIONS):
        with_job = option(with_job)
    return with_job


def job_from(parameters: Mapping[str, Any]) -> Job:
    """Return the job that the parameters of `takes_job` describe.

    Raises
    ------
    click.UsageError
        If a job file stands beside scenes, scenes come without a model or an output folder, or an option and `--set`
        contradict each other.
    JobError
        If the job is invalid.
    """
    scenes: Sequence[str] = parameters["scenes"]
    files = [scene for scene in scenes if PurePath(scene).suffix.lower() in (".yaml", ".yml")]
    if files and len(scenes) > 1:
        raise click.UsageError(
            f"{files[0]}: a job file stands alone; put the scenes into it, or into --set scenes=A,B."
        )
    overrides = [*parameters["settings"], *_overrides(parameters)]
    _check_twice(parameters["settings"], _overrides(parameters))

    from geounet.config.load import InvalidJobError, job_from_options, load_job
    from geounet.errors import JobError

    if files:
        try:
            return load_job(files[0], overrides)
        except InvalidJobError:
            # What is wrong with it as a job is of no interest where it is none.
            from geounet.config.train import is_training

            if not is_training(files[0]):
                raise
            raise JobError(f"{files[0]}: is a training job; run it with `geounet train {files[0]}`") from None
    given = {setting.partition("=")[0].strip() for setting in overrides}
    if not given & {"model", "models"}:
        raise click.UsageError("scenes need a model: --model NAME (`geounet model list`) or --model PATH/TO/BUNDLE.")
    if not given & {"outputs.folder", "outputs"}:
        raise click.UsageError("scenes need an output folder: --out DIR.")
    return job_from_options(scenes, None, None, overrides)


_NAMES = {
    "model": "--model",
    "models": "--model",
    "outputs.folder": "--out",
    "bbox": "--bbox",
    "outputs.overwrite": "--overwrite",
    "cluster.workers": "--workers",
}
"""Options that stand for a key of the job."""


def _check_twice(settings: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse a key that `--set` and the option that stands for it give different values: neither goes first."""
    given = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    for text in settings:
        key, _, value = (part.strip() for part in text.partition("="))
        # `model` and `models` are two words for one thing.
        ours = next((k for k in given if k == key or {k, key} == {"model", "models"}), None)
        if ours is not None and (ours != key or given[ours] != value):
            raise click.UsageError(f"{_NAMES[ours]} and --set {text}: give one of them.")


def _overrides(parameters: Mapping[str, Any]) -> list[str]:
    """Return the options that stand for a key of the job as `key=value`."""
    models: Sequence[str] = parameters["models"]
    overrides = []
    if len(models) == 1:
        overrides.append(f"model={models[0]}")
    elif models:
        overrides.append(f"models={json.dumps(models)}")
    if parameters["out"] is not None:
        overrides.append(f"outputs.folder={parameters['out']}")
    if parameters["bbox"] is not None:
        overrides.append(f"bbox={json.dumps(parameters['bbox'])}")
    if parameters["overwrite"]:
        overrides.append("outputs.overwrite=true")
    if parameters["workers"] is not None:
        overrides.append(f"cluster.workers={parameters['workers']}")
    return overrides
