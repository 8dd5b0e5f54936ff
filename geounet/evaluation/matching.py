"""Which predicted polygon is which true one, and how far apart their outlines are.

Two polygons can be a pair if their intersection over union reaches a threshold; each belongs to at most one pair. Pairs
are made in the order of falling IoU (ties: by the order of the labels, then of the prediction), so that the pairs of a
higher threshold are among those of a lower one. Where the polygons of either side do not overlap each other, no
polygon has two partners with an IoU above one half, and every way to make pairs gives these.

PoLiS (Avbelj, Müller & Bamler 2015, IEEE GRSL 12(1), equation 3) is the mean distance from the vertices of each outline
to the other outline, averaged over both directions. Outlines are outer rings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geounet.evaluation.confusion import F64, I64

Geometries = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
"""IoU from which a building counts as found: 0.5, 0.55, …, 0.95."""

_PAIRS = 100_000


@dataclass(frozen=True)
class Pairs:
    """Polygons of labels and prediction that are the same thing.

    `truth` and `found` `(pairs,)` int64 are places in the arrays they come from, `iou` float64 falls.
    """

    truth: I64
    found: I64
    iou: F64

    def reaching(self, threshold: float) -> int:
        """Return how many of the pairs, from the first, reach a threshold."""
        return int(np.searchsorted(-self.iou, -threshold, side="right"))


def overlaps(truth: Geometries, found: Geometries, least: float) -> Pairs:
    """Return all pairs whose intersection over union is at least `least` (above 0), in the order of `Pairs`."""
    if not len(truth) or not len(found):
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    one, other = shapely.STRtree(found).query(truth, predicate="intersects")
    iou = np.empty(len(one))
    sizes = shapely.area(truth), shapely.area(found)
    for low in range(0, len(one), _PAIRS):
        part = slice(low, low + _PAIRS)
        t, f = one[part], other[part]
        common = shapely.area(shapely.intersection(truth[t], found[f]))
        union = sizes[0][t] + sizes[1][f] - common
        iou[part] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    kept = iou >= least
    one, other, iou = one[kept].astype(np.int64), other[kept].astype(np.int64), iou[kept]
    order = np.lexsort((other, one, -iou))
    return Pairs(one[order], other[order], iou[order])


def matched(truth: Geometries, found: Geometries, least: float = THRESHOLDS[0]) -> Pairs:
    """Return the pairs of polygons, each polygon in one at most."""
    candidates = overlaps(truth, found, least)
    taken: tuple[set[int], set[int]] = set(), set()
    kept = []
    for k, (t, f) in enumerate(zip(candidates.truth.tolist(), candidates.found.tolist(), strict=True)):
        if t not in taken[0] and f not in taken[1]:
            taken[0].add(t)
            taken[1].add(f)
            kept.append(k)
    chosen = np.array(kept, dtype=np.int64)
    return Pairs(candidates.truth[chosen], candidates.found[chosen], candidates.iou[chosen])


@dataclass(frozen=True)
class Counts:
    """How many were found, made up and missed, at each of `THRESHOLDS`; `(10,)` int64."""

    hits: I64
    extra: I64
    missed: I64


def counts(pairs: Pairs, truth_counts: Bools, found_counts: Bools) -> Counts:
    """Count pairs and what is left over.

    Parameters
    ----------
    pairs
        From `matched`.
    truth_counts, found_counts
        Which polygons count. One that does not (it lies mostly where nothing is known) may be the partner of one that
        does, and is not missed or made up on its own.
    """
    hits, extra, missed = [], [], []
    for threshold in THRESHOLDS:
        n = pairs.reaching(threshold)
        t, f = pairs.truth[:n], pairs.found[:n]
        hits.append(int((truth_counts[t] | found_counts[f]).sum()))
        missed.append(int(truth_counts.sum() - truth_counts[t].sum()))
        extra.append(int(found_counts.sum() - found_counts[f].sum()))
    return Counts(*(np.array(c, dtype=np.int64) for c in (hits, extra, missed)))


def polis(one: Geometries, other: Geometries) -> F64:
    """Return the PoLiS distance of polygons, pair by pair, in the unit of their coordinates, `(pairs,)`."""
    total = np.zeros(len(one))
    if not len(one):
        return total
    rings = [shapely.get_exterior_ring(a) for a in (one, other)]
    for mine, theirs in (rings, rings[::-1]):
        points, index = shapely.get_coordinates(mine, return_index=True)
        last = np.append(index[1:] != index[:-1], True)  # a ring ends with its first vertex
        points, index = points[~last], index[~last]
        distances = shapely.distance(shapely.points(points), theirs[index])
        total += np.bincount(index, distances, len(one)) / np.bincount(index, minlength=len(one))
    return total / 2
