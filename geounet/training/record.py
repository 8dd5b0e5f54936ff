"""What a training was begun with, and whether it may go on: a folder holds one training of one job on one data."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from geounet.atomic import write_text
from geounet.errors import JobError, OutputExistsError
from geounet.training.log import LOG
from geounet.training.state import BEST, LAST, STATE

logger = logging.getLogger(__name__)

CHECKPOINTS, MODEL, DONE = "checkpoints", "model", "training.json"
CURVES, SAMPLES, BOARD = "curves.png", "samples", "tensorboard"
"""What an output folder holds, besides the log."""

FOLDS = "folds.json"
"""That of a cross-validation, whose model is an ensemble, holds the measures of all folds, their mean and spread."""

_RECORD = "record.json"


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write what a training begins with."""
    write_text(folder / CHECKPOINTS / _RECORD, json.dumps(record, indent=1) + "\n")


def known_record(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the record of the same training begun before; None where there is none."""
    known = _held(folder)
    return known if known is not None and known.get("fingerprint") == fingerprint else None


def _held(folder: Path) -> dict[str, Any] | None:
    """Return what is recorded of the training in a folder; of a finished one also where checkpoints were cleared."""
    for file in (folder / CHECKPOINTS / _RECORD, folder / DONE):
        if file.exists():
            known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return known
    return None


def continued(folder: Path, known: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return what counts of a training that goes on: what was resolved at its first start, where that still can be.

    With other threads or another precision bits would differ, with other processes also what a step is.

    Raises
    ------
    JobError
        If another number of processes goes on.
    """
    if known["processes"] != now["processes"]:
        raise JobError(
            f"{folder}: begun by {known['processes']} processes, found {now['processes']}; go on with as many, or "
            "start anew (--overwrite, or another --out)"
        )
    if known["device"] != now["device"]:
        logger.warning("%s: begun on %s, goes on on %s: not to the same bits", folder, known["device"], now["device"])
        return {**known, **{key: now[key] for key in ("device", "precision", "threads")}}
    return known


def resumed(folder: Path, fingerprint: str, *, overwrite: bool) -> dict[str, Any] | None:
    """Return the record of the same training begun before; None where there is none, or it was cleared away.

    Raises
    ------
    OutputExistsError
        If the folder holds another training.
    """
    if (folder / FOLDS).exists():
        held = "a cross-validation"
    elif (known := known_record(folder, fingerprint)) is not None:
        return known
    elif _held(folder) is not None:
        state = "finished" if (folder / DONE).exists() else "unfinished"
        held = f"the {state} training of another job, or of other data"
    elif (folder / MODEL).exists():
        held = f"a model that no training made ({MODEL})"
    else:
        return None
    if not overwrite:
        raise OutputExistsError(f"{folder}: holds {held}; choose another folder (--out), or replace it (--overwrite)")
    for name in (DONE, FOLDS, LOG, CURVES):
        (folder / name).unlink(missing_ok=True)
    for name in (STATE, BEST, LAST, _RECORD):
        (folder / CHECKPOINTS / name).unlink(missing_ok=True)
    for name in (SAMPLES, BOARD):
        shutil.rmtree(folder / name, ignore_errors=True)
    return None
