"""k-fold cross-validation by spatial block: a training for each fold, their measures, and the ensemble of all.

Every block validates once. What the folds' measures say of a new place of the same kind is their mean, and how far it
can be trusted their spread; both are a little too good, since each fold's best weights are chosen on the blocks that
it is measured on (`split.test` keeps some out of all folds).
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geounet.atomic import write_text
from geounet.batch.lock import locked
from geounet.config.train import TrainJob
from geounet.errors import ModelError, OutputExistsError
from geounet.models.bundle import Bundle, load_bundle, save_ensemble
from geounet.models.device import resolve
from geounet.training.dataset import check_folds
from geounet.training.gather import gather
from geounet.training.ranks import joined
from geounet.training.record import DONE, FOLDS, MODEL
from geounet.training.run import TrainResult, train_on
from geounet.training.start import check_start
from geounet.types import Progress

logger = logging.getLogger(__name__)

_MEASURES = ("miou", "accuracy", "iou", "precision", "recall")


@dataclass(frozen=True)
class FoldsResult:
    """What a cross-validation left.

    Attributes
    ----------
    folder
        The output folder: `fold_0`, `fold_1`, … each as `train` leaves it, `model` (the ensemble), `folds.json`.
    bundle
        The ensemble (in processes of `torchrun` beside the first, which writes it: a member).
    summary
        Content of `folds.json`.
    unchanged
        Whether all was finished before.
    """

    folder: Path
    bundle: Bundle
    summary: dict[str, Any]
    unchanged: bool = False


def train_folds(job: TrainJob, progress: Progress | None = None) -> FoldsResult:
    """Train every fold of a job, or go on where a killed cross-validation was.

    Scenes and labels are read once, and the splits of all folds checked before the first one learns.

    Parameters
    ----------
    job
        With `split.folds`; `split.fold` is left aside.
    progress
        Told of the steps of each fold; None is silent.

    Raises
    ------
    ValueError
        If the job has no folds.
    OutputExistsError
        If the folder holds another training, and `run.overwrite` is false.
    GeounetError
        As `train`.
    """
    count = job.split.folds
    if count is None:
        raise ValueError("the job has no split.folds")
    folder = Path(job.out).absolute()
    foreign = (folder / MODEL).exists() and not (folder / FOLDS).exists()
    if ((folder / DONE).exists() or foreign) and not job.run.overwrite:
        held = "a training without folds" if (folder / DONE).exists() else f"a model that no training made ({MODEL})"
        raise OutputExistsError(f"{folder}: holds {held}; choose another folder (--out), or replace it (--overwrite)")
    device, _ = resolve(job.run.device, job.run.precision, "--set run.device=cpu")
    with ExitStack() as stack:
        ranks = stack.enter_context(joined(device))
        if ranks.first:
            stack.enter_context(locked(folder / ".folds"))
        check_start(job)
        if ranks.first:
            logger.info("%s: reading scenes and labels", job.name)
        gathered = gather(job)
        check_folds(job, gathered)
        results = []
        for number in range(count):
            logger.info("%s: fold %d of %d", job.name, number + 1, count)
            named = None if progress is None else _Named(progress, number, count)
            results.append(train_on(_fold(job, number), named, gathered))
        summary = summarised(job, results)
        bundle = _same(folder, results)
        unchanged = bundle is not None and all(result.unchanged for result in results)
        if ranks.first and not (unchanged and (folder / FOLDS).exists()):
            (folder / DONE).unlink(missing_ok=True)
            write_text(folder / FOLDS, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
            metrics = {"measured_on": f"validation of {count} folds", **summary["mean"], "spread": summary["spread"]}
            bundle = save_ensemble(
                folder / MODEL,
                [result.bundle.folder for result in results],
                names=[result.folder.name for result in results],
                name=job.name,
                overwrite=True,
                metrics=metrics,
                training={"attribution": list(job.attribution), "folds": count},
                **({"description": job.description} if job.description else {}),
            )
    return FoldsResult(folder, bundle or results[-1].bundle, summary, unchanged)


def _fold(job: TrainJob, number: int) -> TrainJob:
    """Return the job of one fold."""
    name = f"fold_{number}"
    update = {
        "name": f"{job.name}-{name}",
        "out": str(Path(job.out).absolute() / name),
        "split": job.split.model_copy(update={"fold": number}),
    }
    return job.model_copy(update=update)


class _Named:
    """Progress of one fold."""

    def __init__(self, progress: Progress, number: int, count: int) -> None:
        self._progress, self._name = progress, f"fold {number + 1} of {count}"

    def update(self, stage: str, done: int, total: int, extra: str = "", pixels: int = 0) -> None:
        """Report where a stage is."""
        self._progress.update(f"{stage}, {self._name}", done, total, extra, pixels)


def _same(folder: Path, results: Sequence[TrainResult]) -> Bundle | None:
    """Return the ensemble of exactly these models, if it is there."""
    try:
        bundle = load_bundle(folder / MODEL)
    except ModelError:
        return None
    return bundle if [m.sha256 for m in bundle.members] == [r.bundle.sha256 for r in results] else None


def summarised(job: TrainJob, results: Sequence[TrainResult]) -> dict[str, Any]:
    """Return the measures of the folds, their mean and their spread.

    Returns
    -------
    dict
        `folds`: an entry each; `mean` and `spread` (standard deviation over folds, n - 1) of each measure, over the
        folds in which it is defined; `test` the same for blocks and scenes that no fold saw, if any were kept.
    """
    sides = [_by_side(result.metrics) for result in results]
    entries = [
        {
            "fold": number,
            "folder": result.folder.name,
            "sha256": result.bundle.sha256,
            "best_step": result.bundle.card.training.get("best_step"),
            **side["validation"],
        }
        for number, (result, side) in enumerate(zip(results, sides, strict=True))
    ]
    split = job.split
    summary = {
        "name": job.name,
        "split": {"folds": split.folds, "block": split.block, "margin": split.margin, "seed": split.seed},
        "folds": entries,
        **_spread([side["validation"] for side in sides]),
    }
    if all("test" in side for side in sides):
        summary["test"] = {"folds": [side["test"] for side in sides], **_spread([side["test"] for side in sides])}
    return summary


def _by_side(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the measures of a card by the side that they were measured on."""
    if metrics.get("measured_on") == "test":
        test = {k: v for k, v in metrics.items() if k not in ("measured_on", "validation")}
        return {"validation": metrics.get("validation", {}), "test": test}
    return {"validation": {k: v for k, v in metrics.items() if k != "measured_on"}}


def _spread(measures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation over folds of each measure, and of each class of those by class."""
    mean: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    for key in _MEASURES:
        values = [m[key] for m in measures if key in m]
        if values and isinstance(values[0], dict):
            names = list(values[0])
            columns = {name: [v.get(name) for v in values] for name in names}
            mean[key] = {name: _mean(column) for name, column in columns.items()}
            spread[key] = {name: _deviation(column) for name, column in columns.items()}
        elif values:
            mean[key], spread[key] = _mean(values), _deviation(values)
    return {"mean": mean, "spread": spread}


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return round(statistics.fmean(known), 4) if known else None


def _deviation(values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return round(statistics.stdev(known), 4) if len(known) > 1 else None


def table(summary: dict[str, Any]) -> list[str]:
    """Return the measures as text: a fold a line, then mean ± spread."""
    classes = list(summary["mean"].get("iou", {}))
    widths = [max(5, len(name)) for name in classes]
    heads = "  ".join(f"{name:>{width}}" for name, width in zip(classes, widths, strict=True))
    lines = [f"{'':8}   mIoU  accuracy  {heads}"]
    rows = [(entry["folder"], entry) for entry in summary["folds"]]
    rows += [("mean", summary["mean"]), ("± spread", summary["spread"])]
    for name, row in rows:
        cells = "  ".join(_cell(row["iou"].get(c), w) for c, w in zip(classes, widths, strict=True))
        lines.append(f"{name:8}  {_cell(row.get('miou'), 5)}  {_cell(row.get('accuracy'), 8)}  {cells}")
    if "test" in summary:
        test = summary["test"]
        lines.append(
            f"on what no fold saw: mIoU {_cell(test['mean']['miou'], 0)} ± {_cell(test['spread']['miou'], 0)}, "
            f"pixel accuracy {_cell(test['mean']['accuracy'], 0)}"
        )
    return lines


def _cell(value: float | None, width: int) -> str:
    return f"{'–' if value is None else f'{value:.3f}':>{width}}"
