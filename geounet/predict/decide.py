"""From blended sums to the mask and the stored probabilities, in exact integer arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geounet.config.card import Card
from geounet.grid.weights import TOTAL
from geounet.types import NODATA, PROBABILITY_STEPS

_STORED_SHIFT = 23
"""`TOTAL >> 23` is 254, the steps of a stored probability."""

_FINE_SHIFT = 15

FINE_STEPS = TOTAL >> _FINE_SHIFT
"""Steps of a probability in the parts of a resampled scene: 65024, as uint16."""

FINE_NODATA = 65535


def decide(
    values: NDArray[np.int32] | NDArray[np.float64], whole: float, valid: NDArray[np.bool_], card: Card
) -> NDArray[np.uint8]:
    """Return the mask of probabilities given as `values / whole`.

    Parameters
    ----------
    values
        `(channels, rows, cols)`, 0 to `whole`.
    whole
        Value that stands for a probability of 1.
    valid
        `(rows, cols)`.
    card
        Says what the channels mean.

    Returns
    -------
    `(bands, rows, cols)` uint8: one band of class codes (the most probable class, the lowest among equals; with one
    sigmoid channel 1 from a probability of 0.5), or for multi-label models a 0/1 band per class. 255 where not valid.
    """
    if card.head == "softmax":
        mask = np.zeros((1, *values.shape[1:]), dtype=np.uint8)
        best = values[0].copy()
        for code in range(1, len(values)):
            better = values[code] > best
            mask[0][better] = code
            np.maximum(best, values[code], out=best)
    else:
        mask = (values >= whole / 2).astype(np.uint8)
    mask[:, ~valid] = NODATA
    return mask


def _rounded(sums: NDArray[np.int32], shift: int) -> NDArray[np.int32]:
    """Return `sums / 2**shift`, rounded half up."""
    return (sums + np.int32(1 << shift - 1)) >> np.int32(shift)


def stored(sums: NDArray[np.int32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return `round(254 p)` as uint8 of blended sums `(channels, rows, cols)`; 255 where not valid."""
    out = _rounded(sums, _STORED_SHIFT).astype(np.uint8)
    out[:, ~valid] = NODATA
    return out


def fine(sums: NDArray[np.int32], valid: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return `round(65024 p)` as uint16 of blended sums `(channels, rows, cols)`; 65535 where not valid."""
    out = _rounded(sums, _FINE_SHIFT).astype(np.uint16)
    out[:, ~valid] = FINE_NODATA
    return out


def stored_from_fine(values: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return `round(254 p)` as uint8 of interpolated fine probabilities; 255 where not valid."""
    out = np.floor(values * (PROBABILITY_STEPS / FINE_STEPS) + 0.5).astype(np.uint8)
    out[:, ~valid] = NODATA
    return out


def count_codes(mask: NDArray[np.uint8]) -> list[dict[str, int]]:
    """Return for each band how many pixels have each value."""
    counts = []
    for band in mask:
        bins = np.bincount(band.ravel(), minlength=256)
        counts.append({str(value): int(bins[value]) for value in np.flatnonzero(bins)})
    return counts


def add_counts(total: list[dict[str, int]], more: list[dict[str, int]]) -> list[dict[str, int]]:
    """Return the sum of two `count_codes`; an empty list counts as nothing."""
    if not total or not more:
        return total or more
    return [
        {code: a.get(code, 0) + b.get(code, 0) for code in sorted({*a, *b}, key=int)}
        for a, b in zip(total, more, strict=True)
    ]
