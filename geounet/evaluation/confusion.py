"""The confusion matrix of classes, and the measures that follow from its counts alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from geounet.types import NODATA

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> F64:
    """Return `part / whole` as float64, NaN where `whole` is 0."""
    above, below = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    found: F64 = np.divide(above, below, out=np.full(below.shape, np.nan), where=below != 0)
    return found


def number(value: float) -> float | None:
    """Return a float for JSON: None for what is not defined."""
    return None if math.isnan(value) else float(value)


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each class of the labels was found as each class.

    Measures of a class that cannot be told are NaN: a class that occurs in neither labels nor prediction has no IoU,
    one that was never predicted no precision, one without labels no recall.

    Attributes
    ----------
    names
        Classes by code; there are `classes` of them.
    counts
        `(classes, classes)` int64: pixels of truth class (row) found as class (column). `add` changes it in place.
    """

    names: tuple[str, ...]
    counts: I64

    @classmethod
    def empty(cls, names: Sequence[str]) -> Self:
        """Return a matrix without pixels for classes in the order of their codes."""
        return cls(tuple(names), np.zeros((len(names), len(names)), dtype=np.int64))

    def add(self, truth: npt.NDArray[Any], found: npt.NDArray[Any]) -> None:
        """Count pixels; those where either array is 255 are left out.

        Parameters
        ----------
        truth, found
            Class codes of any integer type, of one shape, `0..classes - 1` or 255.

        Raises
        ------
        ValueError
            If shapes differ, or another value occurs.
        """
        if truth.shape != found.shape:
            raise ValueError(f"labels {truth.shape} and prediction {found.shape} differ in shape")
        valid = (truth != NODATA) & (found != NODATA)
        rows, cols = truth[valid].astype(np.int64), found[valid].astype(np.int64)
        size = len(self.names)
        for what, values in (("label", rows), ("prediction", cols)):
            if values.size and (values.min() < 0 or values.max() >= size):
                wrong = values[(values < 0) | (values >= size)][0]
                raise ValueError(f"{what} value {wrong}: classes are 0 to {size - 1}, 255 is ignored")
        self.counts[...] += np.bincount(rows * size + cols, minlength=size * size).reshape(size, size)

    def __add__(self, other: Confusion) -> Confusion:
        if self.names != other.names:
            raise ValueError(f"classes {self.names} and {other.names} differ")
        return Confusion(self.names, self.counts + other.counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Confusion):
            return NotImplemented
        return self.names == other.names and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]  # counts change

    @property
    def total(self) -> int:
        """Pixels counted."""
        return int(self.counts.sum())

    @property
    def hits(self) -> I64:
        """Pixels found as what they are, `(classes,)`."""
        return np.diagonal(self.counts).copy()

    @property
    def truth(self) -> I64:
        """Pixels of each class in the labels, `(classes,)`."""
        found: I64 = self.counts.sum(axis=1)
        return found

    @property
    def found(self) -> I64:
        """Pixels of each class in the prediction, `(classes,)`."""
        found: I64 = self.counts.sum(axis=0)
        return found

    @property
    def iou(self) -> F64:
        """Intersection over union (Jaccard) of each class, `(classes,)`; NaN for a class that occurs nowhere."""
        return ratio(self.hits, self.truth + self.found - self.hits)

    @property
    def dice(self) -> F64:
        """Dice coefficient of each class, which is F1, `(classes,)`; NaN for a class that occurs nowhere."""
        return ratio(2 * self.hits, self.truth + self.found)

    @property
    def precision(self) -> F64:
        """Share of a class's predicted pixels that are right, `(classes,)`; NaN for a class never predicted."""
        return ratio(self.hits, self.found)

    @property
    def recall(self) -> F64:
        """Share of a class's labelled pixels that were found, `(classes,)`; NaN for a class without labels."""
        return ratio(self.hits, self.truth)

    @property
    def accuracy(self) -> float:
        """Share of all pixels that are right; NaN without pixels."""
        return float(ratio(self.hits.sum(), self.total))

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur in labels or prediction; NaN without pixels."""
        return mean(self.iou)

    @property
    def mdice(self) -> float:
        """Mean Dice over the classes that occur in labels or prediction; NaN without pixels."""
        return mean(self.dice)

    @property
    def kappa(self) -> float:
        """Agreement beyond chance (Cohen 1960); NaN where chance alone would agree everywhere, and without pixels."""
        if self.total == 0:
            return math.nan
        chance = float((self.truth / self.total) @ (self.found / self.total))
        return float(ratio(self.accuracy - chance, 1.0 - chance))

    def to_dict(self) -> dict[str, Any]:
        """Return `classes` and `counts` (rows are labels) as JSON values."""
        return {"classes": list(self.names), "counts": self.counts.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the matrix that `to_dict` wrote."""
        names = tuple(values["classes"])
        counts = np.asarray(values["counts"], dtype=np.int64).reshape(len(names), len(names))
        return cls(names, counts)

    def scores(self) -> dict[str, Any]:
        """Return all measures as JSON values; what is not defined is None."""

        def by_class(values: F64) -> dict[str, float | None]:
            return {name: number(value) for name, value in zip(self.names, values, strict=True)}

        return {
            "pixels": self.total,
            "miou": number(self.miou),
            "accuracy": number(self.accuracy),
            "mean_dice": number(self.mdice),
            "kappa": number(self.kappa),
            "iou": by_class(self.iou),
            "dice": by_class(self.dice),
            "precision": by_class(self.precision),
            "recall": by_class(self.recall),
        }


def mean(values: F64) -> float:
    """Return the mean of what is not NaN; NaN if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
