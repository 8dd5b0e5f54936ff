"""Relaxed precision and recall of roads: what lies within a tolerance of the other side is right.

On pixels after Mnih 2013 ("Machine learning for aerial image labeling", section 2.4): the share of predicted road
pixels within some pixels of a true one, and of true ones within that of a predicted one. On lines after Wiedemann,
Heipke, Mayer & Jamet 1998: correctness and completeness are the same shares of the lines' lengths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from scipy.ndimage import distance_transform_edt

from geounet.evaluation.boundary import Bools
from geounet.evaluation.confusion import F64, number, ratio
from geounet.evaluation.graph import Graph, points_at

STEP = 0.5
"""Distance of the points that stand for lines, in the unit of their coordinates."""

_EXACT = 1e-9
_WIDE = 64


@dataclass(frozen=True)
class Relaxed:
    """Amounts (pixels, or lengths) near the other side, and in all; of several scenes they add up."""

    found_near: float = 0.0
    found: float = 0.0
    truth_near: float = 0.0
    truth: float = 0.0

    def __add__(self, other: Relaxed) -> Relaxed:
        return Relaxed(
            self.found_near + other.found_near,
            self.found + other.found,
            self.truth_near + other.truth_near,
            self.truth + other.truth,
        )

    @property
    def precision(self) -> float:
        """Share of the prediction that is near; NaN without prediction."""
        return float(ratio(self.found_near, self.found))

    @property
    def recall(self) -> float:
        """Share of the labels that is near; NaN without labels."""
        return float(ratio(self.truth_near, self.truth))

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 if only one side has roads, NaN if neither has."""
        if self.truth == 0 and self.found == 0:
            return math.nan
        if self.truth == 0 or self.found == 0:
            return 0.0
        return float(np.nan_to_num(ratio(2 * self.precision * self.recall, self.precision + self.recall)))

    def scores(self) -> dict[str, Any]:
        """Return the measures as JSON values."""
        return {"precision": number(self.precision), "recall": number(self.recall), "f1": number(self.f1)}


def halo(tolerance: float, step: tuple[float, float]) -> int:
    """Return how many pixels around a window matter to it."""
    return math.ceil(tolerance / min(step) - 1e-9)


def pixels(truth: Bools, found: Bools, inner: tuple[slice, slice], tolerance: float,
           step: tuple[float, float] = (1.0, 1.0)) -> Relaxed:  # fmt: skip
    """Compare the road pixels of a window.

    Parameters
    ----------
    truth, found
        `(rows, cols)`: road pixels of the window and at least `halo` pixels around it.
    inner
        The window in these arrays.
    tolerance
        Distance of the pixels' centres that still is near.
    step
        Length of a pixel along a row and along a column, in the unit of `tolerance`.
    """
    mine, theirs = truth[inner], found[inner]
    return Relaxed(
        float((theirs & _near(truth, tolerance, step)[inner]).sum()),
        float(theirs.sum()),
        float((mine & _near(found, tolerance, step)[inner]).sum()),
        float(mine.sum()),
    )


def _near(mask: Bools, tolerance: float, step: tuple[float, float]) -> Bools:
    """Return which pixels lie within the tolerance of one of the mask."""
    if not mask.any():
        return mask
    reach = [int((tolerance + _EXACT) / size) for size in step[::-1]]
    if reach[0] * reach[1] > _WIDE:
        far: Bools = distance_transform_edt(~mask, sampling=step[::-1]) <= tolerance + _EXACT
        return far
    # A few shifts are faster than distances.
    near = np.zeros_like(mask)
    rows, cols = mask.shape
    for dy in range(-reach[0], reach[0] + 1):
        for dx in range(-reach[1], reach[1] + 1):
            if (dy * step[1]) ** 2 + (dx * step[0]) ** 2 <= (tolerance + _EXACT) ** 2:
                to = slice(max(0, dy), rows + min(0, dy)), slice(max(0, dx), cols + min(0, dx))
                of = slice(max(0, -dy), rows + min(0, -dy)), slice(max(0, -dx), cols + min(0, -dx))
                near[to] |= mask[of]
    return near


def lines(truth: Graph, found: Graph, tolerance: float) -> Relaxed:
    """Compare the lines of two graphs, with a tolerance in the unit of their coordinates."""
    near = [_share(one, other, tolerance) for one, other in ((found, truth), (truth, found))]
    return Relaxed(near[0] * found.length, found.length, near[1] * truth.length, truth.length)


def _share(roads: Graph, others: Graph, tolerance: float) -> float:
    """Return the share of a graph's length within a distance of another."""
    if not len(roads) or not len(others):
        return 0.0
    # The middles of equal pieces of each edge, which stand for the pieces.
    pieces = np.maximum(1, np.ceil(roads.lengths / STEP).astype(np.int64))
    edge = np.repeat(np.arange(len(roads)), pieces)
    first = np.concatenate([[0], np.cumsum(pieces)])
    size: F64 = (roads.lengths / pieces)[edge]
    at = (np.arange(first[-1]) - first[edge] + 0.5) * size
    points = shapely.points(points_at(roads, edge, at))
    close = np.unique(shapely.STRtree(others.lines).query(points, predicate="dwithin", distance=tolerance)[0])
    return float(size[close].sum() / size.sum())
