"""Mean probability of features, from integer sums that do not depend on the order of addition."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geounet.types import NODATA, PROBABILITY_STEPS, Rect
from geounet.vector.components import Labels
from geounet.vector.source import U8, ProbabilityPlane
from geounet.vector.trace import I64


def sums(probability: ProbabilityPlane | None, rect: Rect, values: U8, labels: Labels) -> tuple[I64, I64]:
    """Return for each label the sum of the stored probability of its class, and over how many pixels.

    Pixels without a stored probability are not counted.
    """
    count = len(labels.value)
    if probability is None:
        return np.zeros(count, np.int64), np.zeros(count, np.int64)
    stored = probability.read(rect, values)
    known = stored != NODATA
    image = labels.image[known]
    # Sums of uint8 over one cell are below 2**53, hence exact in float64.
    total = np.bincount(image, weights=stored[known], minlength=count + 1)[1:]
    return total.astype(np.int64), np.bincount(image, minlength=count + 1)[1:]


def mean(total: npt.NDArray[Any], counted: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return probabilities in `0..1`; NaN where no pixel was counted."""
    found = np.full(len(total), np.nan)
    np.divide(total, PROBABILITY_STEPS * counted.astype(np.float64), out=found, where=counted > 0)
    return found
