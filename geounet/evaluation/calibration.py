"""Calibration: whether pixels that are said to be building with 80 % are building in 80 of 100 cases.

Stored probabilities have 255 steps, so counting them by step loses nothing: any binning follows from the counts.

The expected calibration error of the chosen class is that of Guo, Pleiss, Sun & Weinberger 2017 (ICML), equation 3,
with 15 bins `((m - 1) / 15, m / 15]`; by class it is that of Nixon et al. 2019 (static calibration error) before the
mean. The Brier score (Brier 1950) is the mean over pixels of the squared differences, summed over classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from geounet.evaluation.boundary import U8
from geounet.evaluation.confusion import F64, I64, mean, number, ratio
from geounet.types import NODATA, PROBABILITY_STEPS

BINS = 15
LEVELS = PROBABILITY_STEPS + 1


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often what was said with each stored probability came true.

    Attributes
    ----------
    names
        Classes by code.
    said, true
        `(classes + 1, 255)` int64: pixels for which a class has the stored probability, and those of them that are of
        the class. The last row is about the chosen class, whichever it is. `add` changes them in place.
    """

    names: tuple[str, ...]
    said: I64
    true: I64

    @classmethod
    def empty(cls, names: tuple[str, ...]) -> Self:
        """Return the counts before the first pixel."""
        shape = (len(names) + 1, LEVELS)
        return cls(names, np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64))

    def add(self, truth: U8, found: U8, stored: U8) -> None:
        """Count pixels; those where labels, prediction or a probability is 255 are left out.

        Parameters
        ----------
        truth, found
            `(rows, cols)` class codes.
        stored
            `(classes, rows, cols)` probabilities, `round(254 * p)`.
        """
        valid = (truth != NODATA) & (found != NODATA) & (stored != NODATA).all(axis=0)
        truth, found, stored = truth[valid], found[valid], stored[:, valid]
        for code in range(len(self.names)):
            self._count(code, stored[code], truth == code)
        chosen = np.take_along_axis(stored, found[None].astype(np.intp), axis=0)[0]
        self._count(len(self.names), chosen, truth == found)

    def _count(self, row: int, stored: U8, right: Any) -> None:
        self.said[row] += np.bincount(stored, minlength=LEVELS)
        self.true[row] += np.bincount(stored[right], minlength=LEVELS)

    def __add__(self, other: Calibration) -> Calibration:
        if self.names != other.names:
            raise ValueError(f"classes {self.names} and {other.names} differ")
        return Calibration(self.names, self.said + other.said, self.true + other.true)

    @property
    def pixels(self) -> int:
        """Pixels counted."""
        return int(self.said[-1].sum())

    def curve(self, row: int = -1, bins: int = BINS) -> tuple[I64, F64, F64]:
        """Return the reliability curve of a class, or of the chosen class.

        Returns
        -------
        count, said, true
            Of each bin: its pixels, their mean probability and the share of them that is of the class (NaN: no pixel).
        """
        level = np.arange(LEVELS)
        # Whole numbers: a probability at the edge of two bins belongs to the lower one.
        place = np.maximum(0, -(-level * bins // PROBABILITY_STEPS) - 1)

        def by_bin(values: I64) -> I64:
            total = np.zeros(bins, dtype=np.int64)
            np.add.at(total, place, values)
            return total

        count = by_bin(self.said[row])
        said = ratio(by_bin(self.said[row] * level), count * PROBABILITY_STEPS)
        return count, said, ratio(by_bin(self.true[row]), count)

    def error(self, row: int = -1, bins: int = BINS) -> float:
        """Return the expected calibration error of a class, or of the chosen class; NaN without pixels."""
        count, said, true = self.curve(row, bins)
        some = count > 0
        return float(ratio((count[some] * np.abs(true[some] - said[some])).sum(), count.sum()))

    @property
    def brier(self) -> float:
        """Brier score, 0 (sure and right) to 2; NaN without pixels."""
        p = np.arange(LEVELS) / PROBABILITY_STEPS
        said, true = self.said[:-1], self.true[:-1]
        return float(ratio((true * (1 - p) ** 2 + (said - true) * p**2).sum(), self.pixels))

    def scores(self) -> dict[str, Any]:
        """Return the measures as JSON values."""
        errors = [self.error(row) for row in range(len(self.names))]
        count, said, true = self.curve()
        return {
            "pixels": self.pixels,
            "ece": number(self.error()),
            "brier": number(self.brier),
            "class_ece": {name: number(value) for name, value in zip(self.names, errors, strict=True)},
            "mean_class_ece": number(mean(np.array(errors))),
            "bins": [
                {"pixels": int(n), "confidence": number(s), "accuracy": number(t)}
                for n, s, t in zip(count, said, true, strict=True)
            ],
        }
