"""`geounet train`: scenes and labels in, a model bundle out."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from geounet.cli.options import folder_given, json_option

if TYPE_CHECKING:
    from geounet.config.train import TrainJob


@click.command(short_help="Learn a model from scenes and labels.")
@click.argument("file", metavar="TRAIN.yaml")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the job, as in --set run.steps=500."
)
@click.option("--out", metavar="DIR", callback=folder_given, help="Output folder.")
@click.option("--overwrite", is_flag=True, help="Replace the training of another job.")
@click.option(
    "--folds", type=click.IntRange(min=2), metavar="K", help="Cross-validate by blocks: K trainings and their ensemble."
)
@click.option("--dry-run", is_flag=True, help="Show scenes, splits, windows, classes and steps; learn nothing.")
@json_option
def train(
    file: str,
    settings: tuple[str, ...],
    out: str | None,
    overwrite: bool,
    folds: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Learn a model from scenes and labels: a model bundle for `run` comes out.

    \b
      $ geounet train workflows/train_quick.yaml
      $ geounet train job.yaml --out trained --set run.steps=500 --dry-run
      $ torchrun --nproc-per-node 2 -m geounet train job.yaml

    The same command goes on where a killed training was, and does nothing for one that is finished. DIR/model is the
    bundle, DIR/log.jsonl, DIR/curves.png and DIR/samples show how it went.

    With --folds each block of the scenes validates in one of K trainings, DIR/fold_0 and so on; DIR/folds.json has
    their measures with mean and spread, DIR/model is the ensemble of all.
    """
    # Threads that wait by spinning take the processor from those they wait for. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from geounet.config.load import InvalidJobError
    from geounet.config.train import is_segmentation, load_train
    from geounet.errors import JobError

    overrides = [*settings]
    if out is not None:
        overrides.append(f"out={out}")
    if overwrite:
        overrides.append("run.overwrite=true")
    if folds is not None:
        overrides.append(f"split.folds={folds}")
    try:
        job = load_train(file, overrides)
    except InvalidJobError:
        if not is_segmentation(file):
            raise
        raise JobError(f"{file}: is no training job but one that segments scenes; run it with `geounet run {file}`"
                       ) from None  # fmt: skip
    if dry_run:
        _show(job, as_json)
        return
    from geounet.models.memory import keep_freed_memory

    keep_freed_memory()
    if folds is not None:
        _folds(job, as_json)
        return
    from geounet.cli.progress import Progress
    from geounet.training.run import train as train_job

    with Progress() as progress:
        result = train_job(job, progress)
    if int(os.environ.get("RANK", "0")) != 0:  # torchrun: the first process speaks
        return
    if as_json:
        said = {"folder": str(result.folder), "model": str(result.bundle.folder), "sha256": result.bundle.sha256}
        click.echo(json.dumps({**said, "unchanged": result.unchanged, "metrics": result.metrics}, indent=1))
        return
    what = "finished before, nothing to do" if result.unchanged else "done"
    click.echo(f"{job.name}: {what}: {result.bundle.folder}")
    for line in scores(result.metrics):
        click.echo(line)


def _folds(job: TrainJob, as_json: bool) -> None:
    from geounet.cli.progress import Progress
    from geounet.training.folds import table, train_folds

    with Progress() as progress:
        result = train_folds(job, progress)
    if int(os.environ.get("RANK", "0")) != 0:
        return
    if as_json:
        said = {"folder": str(result.folder), "model": str(result.bundle.folder), "sha256": result.bundle.sha256}
        click.echo(json.dumps({**said, "unchanged": result.unchanged, **result.summary}, indent=1, ensure_ascii=False))
        return
    what = "finished before, nothing to do" if result.unchanged else "done"
    click.echo(f"{job.name}: {what}: {result.bundle.folder}")
    for line in table(result.summary):
        click.echo(line)


def scores(metrics: dict[str, Any]) -> list[str]:
    """Return the measures of a model as a table, a class a line."""
    if not metrics:
        return []
    miou, accuracy = _number(metrics["miou"]), _number(metrics["accuracy"])
    lines = [f"on {metrics['measured_on']} windows: mIoU {miou}, pixel accuracy {accuracy}"]
    width = max(len(name) for name in metrics["iou"])
    lines.append(f"  {'':{width}}    IoU  precision  recall")
    for name, iou in metrics["iou"].items():
        precision, recall = metrics["precision"].get(name), metrics["recall"].get(name)
        lines.append(f"  {name:{width}}  {_number(iou)}      {_number(precision)}   {_number(recall)}")
    return lines


def _number(value: float | None) -> str:
    return "    –" if value is None else f"{value:.3f}"


def _show(job: TrainJob, as_json: bool) -> None:
    from geounet.training.plan import plan

    found = plan(job)
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for line in table(found):
        click.echo(line)


def table(found: dict[str, Any]) -> list[str]:
    """Return what a dry run found, in lines."""
    windows = found["windows"]
    names = [f"{row['data']}, {row['side']}" for row in found["labels"]]
    width = max(map(len, names))
    lines = [f"{found['name']}: {found['network']}, {found['parameters'] / 1e6:.2f} M parameters, to {found['out']}"]
    for name, row in zip(names, found["labels"], strict=True):
        total = sum(row["pixels"].values())
        classes = ", ".join(f"{label} {100 * n / total:.1f} %" for label, n in row["pixels"].items())
        scenes = f"{row['scenes']} scene{'s' * (row['scenes'] != 1)}"
        lines.append(f"  {name:{width}}  {scenes}, {total / 1e6:.2f} Mpx labelled: {classes}")
        if row["side"] == "train":
            centres = ", ".join(f"{label} {100 * n:.0f} %" for label, n in row["centres"].items())
            lines.append(f"  {'':{width}}  {100 * row['share']:.0f} % of windows, centred on {centres}")
    gsd = "each scene's own" if found["gsd"] is None else f"{found['gsd']:g} m"
    scales = ", ".join(
        f"{band} {mean:.1f} ± {stddev:.1f}"
        for band, mean, stddev in zip(found["bands"], found["mean"], found["stddev"], strict=True)
    )
    lines.append(f"bands ({found['data_type']}): {scales}; ground sample distance {gsd}")
    if found["class_weights"] is not None:
        weights = ", ".join(f"{name} {value:.2f}" for name, value in found["class_weights"].items())
        lines.append(f"class weights: {weights}")
    lines.append(
        f"{found['steps']} steps, loss {found['loss']}, on {found['device']} in {found['precision']}; "
        f"{windows['train']} windows of {windows['size']} px ({windows['passes']:g} passes over the labelled pixels), "
        f"a batch takes {found['batch_ms']:.0f} ms to prepare"
    )
    lines.append(
        f"{found['validations']} validations of {windows['validation']} windows; {windows['test']} windows for the test"
    )
    return lines
