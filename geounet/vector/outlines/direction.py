"""The direction of a building: the one most of its walls follow, modulo 90 degrees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geounet.vector.attributes import F64
from geounet.vector.trace import I64

RIGHT = np.pi / 2

REACH = np.radians(12)
"""Walls vote for directions so near their own."""

TOGETHER = np.radians(2)
"""Buildings that share walls turn by at most so much to have one direction."""

PAIRS = 4_000_000
"""Entries of the largest array."""


def turned(angle: npt.NDArray[np.float64]) -> F64:
    """Return angles modulo 90 degrees in `-45 <= a < 45` degrees."""
    found: F64 = (angle + RIGHT / 2) % RIGHT - RIGHT / 2
    return found


def dominant(angle: F64, weight: F64, offsets: I64) -> F64:
    """Return the direction modulo 90 degrees that most walls of each building follow, in radians.

    Each wall is a candidate; it gets the votes of all walls of its building, weighted by length, which fall to none at
    `REACH`. The direction is the mean of those that voted for the winner (ties: the earlier wall).

    Parameters
    ----------
    angle, weight
        `(walls,)` radians and lengths.
    offsets
        Walls of building `i` are those from `offsets[i]` to `offsets[i + 1]`.

    Returns
    -------
    directions
        `(buildings,)` in `-45 <= a < 45` degrees; 0 for a building without walls.
    """
    count = len(offsets) - 1
    found = np.zeros(count)
    sizes = np.diff(offsets)
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0]
    at = 0
    while at < len(order):
        width = int(sizes[order[at]] * 5 // 4 + 2)
        some = order[at : at + max(1, PAIRS // width**2)]
        some = some[sizes[some] <= width]
        at += len(some)
        index = offsets[some][:, None] + np.arange(width)
        real = np.arange(width) < sizes[some][:, None]
        index = np.where(real, index, offsets[some][:, None])
        a, w = angle[index], np.where(real, weight[index], 0.0)
        away = turned(a[:, None, :] - a[:, :, None])  # (buildings, candidates, voters)
        votes = w[:, None, :] * np.maximum(1 - (away / REACH) ** 2, 0)
        # One after the other, so that the sum does not depend on the padding.
        tally = np.zeros(votes.shape[:2])
        mean = np.zeros(votes.shape[:2])
        for k in range(width):
            tally += votes[:, :, k]
            mean += votes[:, :, k] * away[:, :, k]
        tally[~real] = -1.0
        winner = tally.argmax(axis=1)
        row = np.arange(len(some))
        mean = mean[row, winner] / np.maximum(tally[row, winner], 1e-300)
        found[some] = turned(a[row, winner] + mean)
    return found


def harmonised(direction: F64, weight: F64, pairs: tuple[I64, I64, F64], limit: float = TOGETHER) -> tuple[F64, I64]:
    """Give buildings that share walls one direction where theirs are near each other.

    Clusters join along shared walls, the longest first, while no member turns by more than `limit`.

    Parameters
    ----------
    direction, weight
        `(buildings,)` radians modulo 90 degrees, and how much each counts.
    pairs
        `a, b, length`: buildings that share a wall of that length.
    limit
        Radians.

    Returns
    -------
    direction, cluster
        `(buildings,)` direction of each building's cluster, and the building that stands for it.
    """
    a, b, length = pairs
    root = list(range(len(direction)))
    # Of each cluster: weight, mean, and the span of its members' directions about it.
    state = {int(k): (float(weight[k]), float(direction[k]), 0.0, 0.0) for k in np.unique(np.concatenate([a, b]))}

    def top(k: int) -> int:
        while root[k] != k:
            root[k] = root[root[k]]
            k = root[k]
        return k

    for k in np.lexsort((b, a, -length)).tolist():
        one, other = top(int(a[k])), top(int(b[k]))
        if one == other:
            continue
        (w, m, low, high), (w2, m2, low2, high2) = state[one], state[other]
        apart = float(turned(np.array(m2 - m)))
        shift = apart * w2 / (w + w2)
        low, high = min(low - shift, low2 + apart - shift), max(high - shift, high2 + apart - shift)
        if max(-low, high) > limit:
            continue
        keep, gone = min(one, other), max(one, other)
        root[gone] = keep
        state[keep] = (w + w2, m + shift, low, high)
    cluster = np.arange(len(direction))
    found = direction.copy()
    for k in state:
        cluster[k] = top(k)
        found[k] = state[int(cluster[k])][1]
    return turned(found), cluster
