"""Blend weights that sum exactly: integer raised-cosine ramps, partitions of unity by construction.

A probability is quantised to `STEPS` steps before it is weighted, weights are integers, so blended sums are integers:
addition is associative and neither block size, worker count, order nor restarts can change a bit (docs/decisions/0001).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNIT = 256
"""What the weights of one axis sum to at every pixel."""

STEPS = 254 * 128
"""Quantisation of a probability: the largest multiple of the 254 steps of the stored one for which `STEPS * UNIT**2 <
2**31` and whose multiple is a power of two; fits int16."""

TOTAL = STEPS * UNIT * UNIT
"""Blended sum of a probability of 1."""


def ramp(overlap: int) -> NDArray[np.int32]:
    """Return the rising half of a raised cosine over `overlap` px, 0 to `UNIT`; the falling one is `UNIT - ramp`."""
    position = (np.arange(overlap) + 0.5) / max(overlap, 1)
    rising: NDArray[np.int32] = np.rint(UNIT * np.sin(0.5 * np.pi * position) ** 2).astype(np.int32)
    return rising


def axis_weights(tile: int, overlap: int, index: int, count: int) -> NDArray[np.int32]:
    """Return the weights of tile `index` of `count` along one axis, shape `(tile,)`.

    Sides on the edge of the scene keep full weight.
    """
    weights = np.full(tile, UNIT, dtype=np.int32)
    if overlap:
        if index > 0:
            weights[:overlap] = ramp(overlap)
        if index < count - 1:
            weights[tile - overlap :] = UNIT - ramp(overlap)
    return weights
