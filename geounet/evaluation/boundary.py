"""Boundary IoU: how well the borders of classes agree (Cheng, Girshick, Dollár, Berg & Kirillov 2021, CVPR).

Of each class only the pixels within a distance of its border count, in labels and prediction alike. As in the authors'
code the distance is that of the square (Chebyshev), and what lies outside of the raster does not belong to the class;
pixels that are ignored count as outside. The authors take 2 % of an image's diagonal as the distance, which says
nothing where images are scenes of any size: here it is a number of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter, minimum_filter

from geounet.evaluation.confusion import F64, I64, mean, number, ratio
from geounet.types import NODATA

U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


def bands(classes: U8, distance: int) -> Bools:
    """Return which pixels lie within `distance` px of a pixel of another class; beyond the array there is 255.

    Parameters
    ----------
    classes
        `(rows, cols)` class codes, 255 for none.
    distance
        Pixels, at least 1; a border has so many pixels on each side.
    """
    size = 2 * distance + 1
    low = minimum_filter(classes, size=size, mode="constant", cval=NODATA)
    high = maximum_filter(classes, size=size, mode="constant", cval=NODATA)
    found: Bools = low != high
    return found


@dataclass(frozen=True, eq=False)
class Boundary:
    """Pixels near borders: of each class in the labels, in the prediction, and in both.

    `both`, `truth` and `found` are `(classes,)` int64; `add` changes them in place.
    """

    names: tuple[str, ...]
    distance: int
    both: I64
    truth: I64
    found: I64

    @classmethod
    def empty(cls, names: tuple[str, ...], distance: int) -> Self:
        """Return the counts before the first pixel."""
        return cls(names, distance, *(np.zeros(len(names), dtype=np.int64) for _ in range(3)))

    def add(self, truth: U8, found: U8, inner: tuple[slice, slice]) -> None:
        """Count the pixels of a window.

        Parameters
        ----------
        truth, found
            `(rows, cols)` class codes of the window and at least `distance` px around it, 255 where either is unknown.
        inner
            The window in these arrays.
        """
        size = len(self.names)
        near_truth, near_found = (bands(a, self.distance)[inner] for a in (truth, found))
        truth, found = truth[inner], found[inner]
        for counts, codes in (
            (self.truth, truth[near_truth]),
            (self.found, found[near_found]),
            (self.both, truth[near_truth & near_found & (truth == found)]),
        ):
            counts += np.bincount(codes, minlength=256)[:size]

    def __add__(self, other: Boundary) -> Boundary:
        if (self.names, self.distance) != (other.names, other.distance):
            raise ValueError("boundaries of other classes or another distance cannot be added")
        return Boundary(
            self.names, self.distance, self.both + other.both, self.truth + other.truth, self.found + other.found
        )

    @property
    def iou(self) -> F64:
        """Boundary IoU of each class; NaN for a class without borders in labels and prediction."""
        return ratio(self.both, self.truth + self.found - self.both)

    def scores(self) -> dict[str, Any]:
        """Return the measures as JSON values."""
        by_class = {name: number(value) for name, value in zip(self.names, self.iou, strict=True)}
        return {"distance_px": self.distance, "mean": number(mean(self.iou)), "iou": by_class}
