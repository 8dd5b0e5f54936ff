"""Hausdorff distances: how far the worst part of one border lies from the other.

Between two sets of points, the directed distance is the largest of the distances to the nearest point of the other
set; the Hausdorff distance is the larger of both directions. The 95 % distance takes the 95th percentile of each
direction instead of the largest (linear interpolation, the larger of both directions), which one stray pixel does not
decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from scipy.spatial import cKDTree

from geounet.evaluation.boundary import U8, Bools
from geounet.evaluation.confusion import F64, number
from geounet.types import NODATA

SHARE = 95.0
"""Percentile of the robust distance."""

_PAIRS = 512
"""Pairs of outlines whose points are held at once."""


def border(mask: Bools) -> Bools:
    """Return the pixels of a mask, but the array's outermost, that have one of four neighbours outside of it."""
    inner = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    edge: Bools = mask[1:-1, 1:-1] & ~inner
    return edge


def both(there: F64, back: F64) -> tuple[float, float]:
    """Return Hausdorff and 95 % Hausdorff distance of the distances in both directions."""
    robust = max(float(np.percentile(d, SHARE)) for d in (there, back))
    return max(float(there.max()), float(back.max())), robust


def between(one: Bools, other: Bools, step: tuple[float, float]) -> tuple[float, float] | None:
    """Return Hausdorff and 95 % Hausdorff distance between the centres of pixels; None where a set is empty.

    Parameters
    ----------
    one, other
        `(rows, cols)`: pixels of the two sets.
    step
        Length of a pixel along a row and along a column; the result has its unit.
    """
    if not one.any() or not other.any():
        return None
    # What both have is at no distance.
    there, back = (np.zeros(int(mask.sum())) for mask in (one, other))
    alone = [mask & ~shared for mask, shared in ((one, other), (other, one))]
    for distances, mine, theirs in ((there, alone[0], other), (back, alone[1], one)):
        if mine.any():
            # Points on a grid are spread evenly: a tree that is not balanced is as good, and made sooner.
            tree = cKDTree(_centres(theirs, step), compact_nodes=False, balanced_tree=False)
            found = tree.query(_centres(mine, step))[0]
            distances[: len(found)] = found
    return both(there, back)


def _centres(mask: Bools, step: tuple[float, float]) -> F64:
    row, col = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return np.column_stack([row * step[1], col * step[0]])


@dataclass
class WindowDistances:
    """Distances between the borders of each class, window by window."""

    names: tuple[str, ...]
    values: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    """For a class the pairs `(Hausdorff, 95 %)` of the windows that have its border in labels and prediction."""
    lone: dict[int, int] = field(default_factory=dict)
    """For a class the windows that have its border in only one of both, where there is no distance."""

    def add(self, truth: U8, found: U8, step: tuple[float, float]) -> None:
        """Measure one window.

        Parameters
        ----------
        truth, found
            `(rows + 2, cols + 2)` class codes of the window and one pixel around it, 255 where either is unknown.
        step
            Length of a pixel along a row and along a column.
        """
        # A border to what is unknown or outside is none.
        known = truth != NODATA
        for code in range(len(self.names)):
            ours, theirs = truth == code, found == code
            if not ours.any() and not theirs.any():
                continue
            edges = [border(mask | ~known) & mask[1:-1, 1:-1] for mask in (ours, theirs)]
            distances = between(edges[0], edges[1], step)
            if distances is not None:
                self.values.setdefault(code, []).append(distances)
            elif edges[0].any() or edges[1].any():
                self.lone[code] = self.lone.get(code, 0) + 1

    def merge(self, other: WindowDistances) -> None:
        """Take over the windows of another."""
        for code, values in other.values.items():
            self.values.setdefault(code, []).extend(values)
        for code, count in other.lone.items():
            self.lone[code] = self.lone.get(code, 0) + count

    def scores(self) -> dict[str, Any]:
        """Return means over windows as JSON values, by class."""
        found = {}
        for code, name in enumerate(self.names):
            pairs = np.asarray(self.values.get(code, []), dtype=np.float64).reshape(-1, 2)
            means = pairs.mean(axis=0) if len(pairs) else np.full(2, math.nan)
            found[name] = {
                "hausdorff": number(means[0]),
                "hausdorff_95": number(means[1]),
                "windows": len(pairs),
                "unmatched_windows": self.lone.get(code, 0),
            }
        return found


def outlines(one: npt.NDArray[Any], other: npt.NDArray[Any], step: float) -> F64:
    """Return Hausdorff and 95 % Hausdorff distances between the outer rings of polygons, pair by pair, `(pairs, 2)`.

    Points are taken along each ring, at its vertices and between them at most `step` apart; distances are to the other
    ring itself. The result is exact to half a step.
    """
    found = np.empty((len(one), 2))
    for low in range(0, len(one), _PAIRS):
        rings = [shapely.get_exterior_ring(a[low : low + _PAIRS]) for a in (one, other)]
        ways = []
        for mine, theirs in (rings, rings[::-1]):
            points, index = shapely.get_coordinates(shapely.segmentize(mine, step), return_index=True)
            distances = shapely.distance(shapely.points(points), theirs[index])
            ways.append(np.split(distances, np.flatnonzero(np.diff(index)) + 1))
        for k, (there, back) in enumerate(zip(*ways, strict=True)):
            found[low + k] = both(there, back)
    return found
