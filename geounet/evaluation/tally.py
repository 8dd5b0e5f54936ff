"""What has been counted so far, over windows and scenes, and the measures that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geounet.config.card import ClassInfo
from geounet.evaluation.apls import Apls
from geounet.evaluation.boundary import Boundary
from geounet.evaluation.calibration import Calibration
from geounet.evaluation.confusion import F64, Confusion, mean, number, ratio
from geounet.evaluation.hausdorff import WindowDistances
from geounet.evaluation.matching import THRESHOLDS, Counts
from geounet.evaluation.relaxed import Relaxed
from geounet.evaluation.topo import Topo


@dataclass
class Buildings:
    """Counts of buildings at each threshold, and distances of the pairs at the lowest."""

    counts: Counts = field(default_factory=lambda: Counts(*(np.zeros(len(THRESHOLDS), np.int64) for _ in range(3))))
    iou: list[F64] = field(default_factory=list)
    polis: list[F64] = field(default_factory=list)
    hausdorff: list[F64] = field(default_factory=list)
    """`(pairs, 2)`: Hausdorff and 95 % Hausdorff distance."""
    truth: int = 0
    found: int = 0

    def add(self, other: Buildings) -> None:
        """Take over the counts of another scene."""
        mine, theirs = self.counts, other.counts
        self.counts = Counts(mine.hits + theirs.hits, mine.extra + theirs.extra, mine.missed + theirs.missed)
        self.iou += other.iou
        self.polis += other.polis
        self.hausdorff += other.hausdorff
        self.truth += other.truth
        self.found += other.found

    def scores(self, unit: str) -> dict[str, Any]:
        """Return the measures as JSON values; lengths in `unit`."""
        counts = self.counts
        precision = ratio(counts.hits, counts.hits + counts.extra)
        recall = ratio(counts.hits, counts.hits + counts.missed)
        f1 = ratio(2 * counts.hits, 2 * counts.hits + counts.extra + counts.missed)
        polis, iou = (np.concatenate(v) if v else np.empty(0) for v in (self.polis, self.iou))
        far = np.concatenate(self.hausdorff) if self.hausdorff else np.empty((0, 2))
        lengths = {
            "polis": mean(polis),
            "polis_median": float(np.median(polis)) if len(polis) else math.nan,
            "hausdorff": mean(far[:, 0]),
            "hausdorff_95": mean(far[:, 1]),
        }
        return {
            "truth": self.truth,
            "found": self.found,
            "f1_50": number(f1[0]),
            "precision_50": number(precision[0]),
            "recall_50": number(recall[0]),
            "f1_50_95": number(_mean_all(f1)),
            "precision_50_95": number(_mean_all(precision)),
            "recall_50_95": number(_mean_all(recall)),
            "iou_matched": number(mean(iou)),
            "polis_m": None,
            **{f"{name}_{unit}": number(value) for name, value in lengths.items()},
            "by_threshold": [
                {"iou": threshold, "true_positives": int(counts.hits[k]), "false_positives": int(counts.extra[k]),
                 "false_negatives": int(counts.missed[k]), "precision": number(precision[k]),
                 "recall": number(recall[k]), "f1": number(f1[k])}
                for k, threshold in enumerate(THRESHOLDS)
            ],
        }  # fmt: skip


def _mean_all(values: F64) -> float:
    """Return the mean; NaN if any is not defined, as then all are."""
    return float(values.mean())


@dataclass
class Roads:
    """Comparison of road graphs."""

    apls: Apls
    topo: Topo
    lines: Relaxed
    tolerance: float
    """Of the lines, in the unit of lengths; scenes may differ, this is that of the first."""

    def add(self, other: Roads) -> None:
        """Take over what was found in another scene."""
        self.apls = self.apls + other.apls
        self.topo = self.topo + other.topo
        self.lines = self.lines + other.lines


@dataclass
class Pixels:
    """Counts of pixels."""

    confusion: Confusion
    boundary: Boundary
    distances: WindowDistances
    calibration: Calibration | None
    relaxed: Relaxed
    truth_m2: F64
    found_m2: F64
    unpredicted: int = 0
    """Labelled pixels without a prediction."""

    @classmethod
    def empty(cls, names: Sequence[str], boundary_px: int, *, calibrated: bool) -> Pixels:
        """Return the counts before the first pixel."""
        order = tuple(names)
        return cls(
            Confusion.empty(order),
            Boundary.empty(order, boundary_px),
            WindowDistances(order),
            Calibration.empty(order) if calibrated else None,
            Relaxed(),
            np.zeros(len(order)),
            np.zeros(len(order)),
        )

    def add(self, other: Pixels) -> None:
        """Take over the counts of another scene."""
        self.confusion = self.confusion + other.confusion
        self.boundary = self.boundary + other.boundary
        self.distances.merge(other.distances)
        if other.calibration is not None:
            self.calibration = other.calibration if self.calibration is None else self.calibration + other.calibration
        self.relaxed = self.relaxed + other.relaxed
        self.truth_m2 = self.truth_m2 + other.truth_m2
        self.found_m2 = self.found_m2 + other.found_m2
        self.unpredicted += other.unpredicted

    def landcover(self) -> dict[str, Any]:
        """Return the area of each class in labels and prediction, over the pixels that both know, as JSON values."""
        found = {}
        for k, name in enumerate(self.confusion.names):
            mine, theirs = int(self.confusion.truth[k]), int(self.confusion.found[k])
            found[name] = {
                "truth_pixels": mine,
                "found_pixels": theirs,
                "truth_m2": number(self.truth_m2[k]),
                "found_m2": number(self.found_m2[k]),
                "error_m2": number(self.found_m2[k] - self.truth_m2[k]),
                "error_percent": number(float(ratio(100 * (theirs - mine), mine))),
            }
        return found


@dataclass
class Tally:
    """Everything counted; parts that were not compared are None."""

    infos: tuple[ClassInfo, ...]
    unit: str
    pixels: Pixels | None = None
    buildings: Buildings | None = None
    roads: Roads | None = None

    def add(self, other: Tally) -> None:
        """Take over what was counted in another scene."""
        for name in ("pixels", "buildings", "roads"):
            theirs = getattr(other, name)
            if theirs is None:
                continue
            mine = getattr(self, name)
            if mine is None:
                setattr(self, name, theirs)
            else:
                mine.add(theirs)

    def scores(self, tolerance: tuple[float, str]) -> dict[str, Any]:
        """Return all measures as JSON values; what is not defined or was not compared is None.

        Parameters
        ----------
        tolerance
            That of relaxed measures, and its unit.
        """
        found: dict[str, Any] = {"pixel": None, "buildings": None, "roads": None, "landcover": None}
        found["calibration"] = None
        relaxed = None
        if self.pixels is not None:
            pixels = self.pixels
            found["pixel"] = {
                **pixels.confusion.scores(),
                "unpredicted": pixels.unpredicted,
                "boundary": pixels.boundary.scores(),
                "hausdorff": {"unit": self.unit, **pixels.distances.scores()},
                "confusion": pixels.confusion.to_dict(),
            }
            found["landcover"] = pixels.landcover()
            if pixels.calibration is not None:
                found["calibration"] = pixels.calibration.scores()
            if pixels.relaxed.truth or pixels.relaxed.found:
                relaxed = {"tolerance": tolerance[0], "unit": tolerance[1], **pixels.relaxed.scores()}
        if self.buildings is not None:
            found["buildings"] = self.buildings.scores(self.unit)
        if self.roads is not None:
            roads = self.roads
            found["roads"] = {
                **roads.apls.scores(),
                **roads.topo.scores(),
                "relaxed": relaxed,
                "lines": {"tolerance": roads.tolerance, "unit": self.unit, **roads.lines.scores()},
                f"truth_{self.unit}": roads.lines.truth,
                f"found_{self.unit}": roads.lines.found,
            }
        return found
