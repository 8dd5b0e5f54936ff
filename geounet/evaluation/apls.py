"""APLS: whether routes over the predicted roads are as long as over the true ones.

Van Etten, Lindenbaum & Bacastow 2018, "SpaceNet: a remote sensing dataset and challenge series", arXiv:1807.01232.
Control points are the nodes of one graph and points along its edges, at most 50 m apart. Each is moved to the nearest
place of the other graph if there is one within 4 m. For each pair of control points with a path between them, the
relative difference of path lengths counts, at most 1; where the other graph has no place or no path, 1. The score is
one minus the mean. Both directions are taken; their harmonic mean is the result.

As in the authors' code (`apls.py`, CosmiQ Works), paths below 10 m do not count. Unlike it, points are put along
straight edges as well, so that a long straight road weighs as much as a bent one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from geounet.evaluation.confusion import F64, number, ratio
from geounet.evaluation.graph import Graph, along, distances, nearest, network, points_at, some

SPACING_M = 50.0
SNAP_M = 4.0
SHORTEST_M = 10.0
SOURCES = 500
"""Paths start at so many control points at most, drawn the same way every time; they lead to all others."""

_AT_ONCE = 16


@dataclass(frozen=True)
class Ways:
    """Sum of the differences over paths, and how many paths, from one graph to the other."""

    difference: float = 0.0
    paths: float = 0.0

    def __add__(self, other: Ways) -> Ways:
        return Ways(self.difference + other.difference, self.paths + other.paths)

    @property
    def score(self) -> float:
        """One minus the mean difference; NaN without paths."""
        return float(1 - ratio(self.difference, self.paths))


@dataclass(frozen=True)
class Apls:
    """Path differences both ways; of several scenes they add up."""

    truth_to_found: Ways = Ways()
    found_to_truth: Ways = Ways()

    def __add__(self, other: Apls) -> Self:
        return type(self)(self.truth_to_found + other.truth_to_found, self.found_to_truth + other.found_to_truth)

    @property
    def score(self) -> float:
        """Harmonic mean of both ways; 0 if one of both graphs has no paths, NaN if neither has."""
        one, other = self.truth_to_found.score, self.found_to_truth.score
        if math.isnan(one) and math.isnan(other):
            return math.nan
        if math.isnan(one) or math.isnan(other) or min(one, other) <= 0:
            return 0.0
        return 2 * one * other / (one + other)

    def scores(self) -> dict[str, Any]:
        """Return the measures as JSON values."""
        return {
            "apls": number(self.score),
            "apls_truth_to_found": number(self.truth_to_found.score),
            "apls_found_to_truth": number(self.found_to_truth.score),
        }


def apls(truth: Graph, found: Graph, *, spacing: float = SPACING_M, snap: float = SNAP_M,
         shortest: float = SHORTEST_M, sources: int = SOURCES) -> Apls:  # fmt: skip
    """Compare two road graphs.

    Parameters
    ----------
    truth, found
        Graphs in metres.
    spacing
        Largest distance of control points along an edge, metres.
    snap
        Control points further than this from the other graph are missing, metres.
    shortest
        Paths below this do not count, metres.
    sources
        Control points at which paths start, at most; with fewer control points the score is that of all pairs.
    """
    how = (spacing, snap, shortest, sources)
    return Apls(_one_way(truth, found, *how), _one_way(found, truth, *how))


def _one_way(mine: Graph, theirs: Graph, spacing: float, snap: float, shortest: float, sources: int) -> Ways:
    edge, at = along(mine, spacing)
    own = network(mine, edge, at)
    points = np.concatenate([mine.nodes, points_at(mine, edge, at)])
    count = len(points)
    point, edge, at = nearest(theirs, points, snap)
    other = network(theirs, edge, at)
    place = np.full(count, -1)
    place[point] = len(theirs.nodes) + np.arange(len(point))
    if not count:
        return Ways()
    chosen = some(count, sources)
    difference, paths = 0.0, 0
    for low in range(0, len(chosen), _AT_ONCE):
        starts = chosen[low : low + _AT_ONCE]
        true = distances(own, starts)
        seen = np.full(true.shape, np.inf)
        here = place[starts] >= 0
        if here.any():
            there = distances(other, place[starts[here]])
            seen[np.ix_(here, place >= 0)] = there[:, place[place >= 0]]
        counts = np.isfinite(true) & (true >= shortest)
        counts[np.arange(len(starts)), starts] = False
        difference += _differences(true[counts], seen[counts])
        paths += int(counts.sum())
    # Of several scenes, one whose starts were thinned out weighs as much as with all of them.
    share = count / len(chosen)
    return Ways(difference * share, paths * share)


def _differences(true: F64, seen: F64) -> float:
    relative = np.ones(len(true))
    known = np.isfinite(seen)
    relative[known] = np.minimum(1.0, np.abs(seen[known] - true[known]) / true[known])
    return float(relative.sum())
