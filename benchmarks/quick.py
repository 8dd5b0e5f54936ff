"""`workflows/train_quick.yaml` from start to end, and whether its scenes are hard enough: against colours alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import ROOT, Row, launch, note, python, report
from benchmarks.material import fresh
from geounet.config.data import Generated
from geounet.config.train import load_train
from geounet.evaluation.confusion import Confusion
from geounet.models.bundle import load_bundle
from geounet.testing.scenes import CLASSES, window
from geounet.types import Rect

JOB = ROOT / "workflows" / "train_quick.yaml"
_BITS = 5
"""Of each colour that the classifier by colour looks at."""
_FAVOURS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Powers of the classes' shares that it is tried with: 0 as often as they occur, 1 all as often."""


def _pixels(spec: Generated) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the quantised colours of all scenes, and their classes."""
    colours, classes = [], []
    for seed in range(spec.seeds[0], spec.seeds[1] + 1):
        picture, codes = window(seed, Rect(0, 0, spec.size, spec.size), gsd=spec.gsd, bands=3)
        red, green, blue = (picture >> (8 - _BITS)).astype(np.int64)
        colours.append(((red << 2 * _BITS) + (green << _BITS) + blue).ravel())
        classes.append(codes.ravel())
    return np.concatenate(colours), np.concatenate(classes)


def _counted(rows: NDArray[np.int64], classes: NDArray[np.integer[Any]], count: int) -> NDArray[np.int64]:
    """Return how often each of `count` rows has each class."""
    return np.bincount(rows * len(CLASSES) + classes, minlength=count * len(CLASSES)).reshape(count, len(CLASSES))


def _miou(found: NDArray[np.integer[Any]], truth: NDArray[np.uint8]) -> float:
    confusion = Confusion.empty(CLASSES)
    confusion.add(truth, found)
    return confusion.miou


def by_colour(learnt: Generated, unseen: Generated) -> float:
    """Return the mean IoU on unseen scenes of the classifier that knows, of each colour, how often each class has it.

    But for the bits of a colour that it drops, nothing that looks at single pixels can know more. How much it favours
    rare classes is what serves it best on the scenes that it learns from.
    """
    colours, classes = _pixels(learnt)
    counts = _counted(colours, classes, 1 << 3 * _BITS)
    shares = counts.sum(axis=0) / counts.sum()
    tables = [((counts + shares) / np.maximum(shares, 1e-9) ** favour).argmax(axis=1) for favour in _FAVOURS]
    best = max(tables, key=lambda table: _miou(table[colours], classes))
    colours, classes = _pixels(unseen)
    return _miou(best[colours], classes)


def run(work: Path, out: Path | None, *, job: Path = JOB) -> dict[str, Any]:
    """Measure and report."""
    made = fresh(work / "quick")
    ended = launch(python("-m", "geounet", "train", job, "--set", f"out={made}"))
    network = load_bundle(made / "model").card.metrics["miou"]
    note("the classifier by colour")
    learnt, unseen = (data.generated for data in load_train(job).data)
    assert learnt is not None
    assert unseen is not None
    colour = by_colour(learnt, unseen)
    row: Row = {
        "job": job.stem,
        "minutes": round(ended.wall / 60, 2),
        "mIoU on unseen scenes": network,
        "by colour alone": round(colour, 3),
        "better by": round(network - colour, 3),
    }
    fresh(made)
    return report("quick", {"A training from start to end": [row]}, out)
