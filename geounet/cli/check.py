"""`geounet check`."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geounet.cli.errors import EXIT_USAGE, say_error
from geounet.cli.options import json_option

if TYPE_CHECKING:
    from geounet.config.card import Card
    from geounet.config.job import Job
    from geounet.config.train import TrainJob

logger = logging.getLogger(__name__)


@click.command()
@click.argument("file", metavar="JOB.yaml")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the job, as for `run`.")
@json_option
def check(file: str, settings: tuple[str, ...], as_json: bool) -> int:
    """Check a job file, or a training job, without reading a scene.

    Checks syntax, keys and values, that the models exist, that their cards and weights files are whole, and that they
    have the classes that the job names, and that its area of interest is there. Patterns of scenes that match nothing
    are only warned of: scenes may come later. Of a training job, the network is built and the weights to start from are
    compared with it; nothing is downloaded. Exit code 2 if `run` (or `train`) would refuse the job.

    \b
        $ geounet check workflows/quickstart.yaml
        $ geounet check workflows/train_quick.yaml
    """
    from geounet.config.load import InvalidJobError, load_job, missing_aoi
    from geounet.config.train import is_training, load_train
    from geounet.errors import JobError, ModelError
    from geounet.models.bundle import load_bundle

    errors: list[str] = []
    warnings: list[str] = []
    models: list[Card] = []
    said = ""
    try:
        if is_training(file):
            training = load_train(file, settings)
            names = ", ".join(info.name for info in training.infos())
            said = f"training of {training.name} ({names}) from {len(training.data)} data section(s)"
        else:
            job = load_job(file, settings)
    except InvalidJobError as error:
        errors = error.lines
    except JobError as error:
        errors = [str(error)]
    else:
        if said:
            # Only here: this imports torch and builds the network.
            from geounet.training.start import check_start

            try:
                check_start(training)
            except (JobError, ModelError) as error:
                errors.append(f"{file}: {error}")
        for name in () if said else job.model_names():
            try:
                card = load_bundle(name).card
                models.append(card)
                errors += [f"{file}: {problem}" for problem in misfits(job, card)]
            except ModelError as error:
                errors.append(f"{file}: {error}")
        if not said and job.aoi is not None and (problem := missing_aoi(job.aoi)):
            errors.append(f"{file}: {problem}")
        warnings = [f"{file}: {warning}" for warning in (unlabelled(training) if said else absent(job))]

    if as_json:
        result = {"valid": not errors, "errors": errors, "warnings": warnings, "models": [m.name for m in models]}
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        for warning in warnings:
            logger.warning("%s", warning)
        for line in errors:
            say_error(line)
        if not errors:
            click.echo(f"{file}: valid · {said or ' · '.join(_summary(job, card) for card in models)}")
    return EXIT_USAGE if errors else 0


def misfits(job: Job, card: Card) -> Iterator[str]:
    """Yield what a job asks of a model that its card rules out."""
    from geounet.config.layers import resolve_layers
    from geounet.errors import JobError

    try:
        resolve_layers(job, card)
    except JobError as error:
        yield str(error)
    if job.bands != "auto" and len(job.bands) != len(card.input.bands):
        wanted = ", ".join(card.input.bands)
        yield f"bands: found {len(job.bands)}, the model {card.name} takes {len(card.input.bands)} ({wanted})"
    tile = job.tiling.tile
    if isinstance(tile, int):
        if card.tile.fixed and tile != card.tile.size:
            yield f"tiling.tile: found {tile}, the model {card.name} takes {card.tile.size} only"
        elif tile % card.tile.multiple_of:
            below = tile - tile % card.tile.multiple_of
            near = f"{below} or {below + card.tile.multiple_of}" if below else str(card.tile.multiple_of)
            yield f"tiling.tile: found {tile}, expected a multiple of {card.tile.multiple_of}: {near}"


def absent(job: Job) -> Iterator[str]:
    """Yield the scenes of a job, files, folders and patterns, that match nothing now."""
    from geounet.config.job import BandSet
    from geounet.config.keys import is_remote

    named = [(f"scenes[{i}]", s) for i, s in enumerate(job.scenes) if isinstance(s, str)]
    named += [(f"scenes[{i}].files", f) for i, s in enumerate(job.scenes) if isinstance(s, BandSet) for f in s.files]
    for key, path in named:
        if is_remote(path) or Path(path).exists():
            continue
        if not glob.has_magic(path):
            yield f"{key}: {path}: no such file or folder"
        elif next(glob.iglob(path, recursive=True), None) is None:
            yield f"{key}: {path}: matches no file"


def unlabelled(job: TrainJob) -> Iterator[str]:
    """Yield the files and patterns of a training job that match nothing now."""
    from geounet.config.job import BandSet

    for number, data in enumerate(job.data):
        entries = [entry.files if isinstance(entry, BandSet) else [entry] for entry in data.scenes or ()]
        named = [("scenes", pattern) for patterns in entries for pattern in patterns]
        named += [(f"labels[{k}].files", p) for k, layer in enumerate(data.labels or ()) for p in layer.files]
        for key, pattern in named:
            path = str(Path(job.root) / Path(pattern).expanduser())
            if not Path(path).exists() and next(glob.iglob(path, recursive=True), None) is None:
                yield f"data[{number}].{key}: {pattern}: matches no file below {job.root}"


def _summary(job: Job, card: Card) -> str:
    from geounet.config.layers import resolve_layers

    layers = resolve_layers(job, card)
    names = [n for n in ("buildings", "roads", "landcover") if layers is not None and getattr(layers, n) is not False]
    classes = ", ".join(c.name for c in card.mask_classes())
    return f"model {card.name} ({classes}), layers {', '.join(names) or 'none'}"
