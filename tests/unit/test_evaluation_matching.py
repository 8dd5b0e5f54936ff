"""Pairs of buildings and their distance: against formulas in plain Python and worked examples."""

from __future__ import annotations

import math
from itertools import pairwise, permutations, product

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geounet.evaluation.matching import THRESHOLDS, counts, matched, overlaps, polis


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array([shapely.box(*c) for c in corners], dtype=object)


def every(array: np.ndarray) -> np.ndarray:
    return np.ones(len(array), dtype=bool)


@st.composite
def tiles(draw: st.DrawFn) -> np.ndarray:
    """Rectangles that do not overlap: at most one in each square of 10 by 10."""
    found = []
    for row, col in product(range(2), range(2)):
        if draw(st.booleans()):
            x0, y0 = draw(st.integers(0, 4)), draw(st.integers(0, 4))
            w, h = draw(st.integers(1, 10 - x0)), draw(st.integers(1, 10 - y0))
            found.append((10 * col + x0, 10 * row + y0, 10 * col + x0 + w, 10 * row + y0 + h))
    return boxes(*found)


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0, w) * max(0, h)
    sizes = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return common / (sum(sizes) - common)


@given(tiles(), tiles())
@settings(max_examples=80)
def test_counts_are_those_of_the_best_of_all_assignments(truth: np.ndarray, found: np.ndarray) -> None:
    """Where buildings do not overlap, greedy pairs are as many as any one-to-one assignment has."""
    result = counts(matched(truth, found), every(truth), every(found))
    table = [[iou(t.bounds, f.bounds) for f in found] for t in truth]
    for k, threshold in enumerate(THRESHOLDS):
        best = 0
        wide = max(len(truth), len(found))
        for order in permutations(range(wide)):
            good = sum(
                1 for t, f in enumerate(order[: len(truth)]) if f < len(found) and table[t][f] >= threshold - 1e-12
            )
            best = max(best, good)
        assert result.hits[k] == best
        assert result.extra[k] == len(found) - best
        assert result.missed[k] == len(truth) - best


def test_half_is_enough() -> None:
    truth = boxes((0, 0, 10, 10))
    pairs = matched(truth, boxes((0, 0, 10, 5)))
    assert pairs.iou.tolist() == [0.5]
    assert pairs.reaching(0.5) == 1
    assert pairs.reaching(0.55) == 0
    assert len(matched(truth, boxes((0, 0, 10, 4.99))).iou) == 0


def test_each_building_is_in_one_pair() -> None:
    # Drawn twice in the labels, found twice in the prediction; the better ones go together.
    truth = boxes((0, 0, 10, 10), (0, 0, 10, 9))
    found = boxes((0, 0, 10, 9), (0, 0, 10, 8))
    pairs = matched(truth, found)
    assert list(zip(pairs.truth.tolist(), pairs.found.tolist(), strict=True)) == [(1, 0), (0, 1)]
    assert pairs.iou.tolist() == pytest.approx([1.0, 0.8])
    single = matched(truth, found[:1])
    assert (single.truth.tolist(), single.found.tolist()) == ([1], [0])


def test_nothing_to_find_and_nothing_found() -> None:
    none, some = boxes(), boxes((0, 0, 1, 1))
    for truth, found, expected in ((none, none, (0, 0, 0)), (none, some, (0, 1, 0)), (some, none, (0, 0, 1))):
        result = counts(matched(truth, found), every(truth), every(found))
        assert tuple(int(c[0]) for c in (result.hits, result.extra, result.missed)) == expected


def test_what_does_not_count_is_neither_missed_nor_made_up() -> None:
    truth = boxes((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    found = boxes((0, 0, 10, 10), (20, 0, 30, 10), (60, 0, 70, 10), (80, 0, 90, 10))
    pairs = matched(truth, found)
    inside = np.array([True, False, True])
    seen = np.array([True, False, True, False])
    result = counts(pairs, inside, seen)
    # The pair outside does not count; the third is missed, one of the two made up counts.
    assert (result.hits[0], result.missed[0], result.extra[0]) == (1, 1, 1)
    # A pair counts if one of both does.
    result = counts(pairs, np.array([True, True, False]), np.array([True, False, False, False]))
    assert (result.hits[0], result.missed[0], result.extra[0]) == (2, 0, 0)


def test_overlaps_of_shapes_that_only_touch_are_none() -> None:
    pairs = overlaps(boxes((0, 0, 1, 1)), boxes((1, 0, 2, 1), (1, 1, 2, 2)), 1e-9)
    assert len(pairs.iou) == 0


# --- PoLiS


def away(point: tuple[float, float], ring: list[tuple[float, float]]) -> float:
    """Distance of a point to a closed line, segment by segment."""
    best = math.inf
    for (x0, y0), (x1, y1) in pairwise(ring):
        dx, dy = x1 - x0, y1 - y0
        t = ((point[0] - x0) * dx + (point[1] - y0) * dy) / (dx * dx + dy * dy)
        t = min(1.0, max(0.0, t))
        best = min(best, math.hypot(point[0] - x0 - t * dx, point[1] - y0 - t * dy))
    return best


def polis_by_formula(a: shapely.Polygon, b: shapely.Polygon) -> float:
    rings = [list(p.exterior.coords) for p in (a, b)]
    means = [sum(away(p, other) for p in ring[:-1]) / (len(ring) - 1) for ring, other in (rings, rings[::-1])]
    return sum(means) / 2


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_polis_is_its_formula(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = [], []
    for count in (3, 5, 8):
        for shapes in (one, other):
            angle = np.sort(random.uniform(0, 2 * np.pi, count + int(random.integers(3))))
            radius = random.uniform(2, 5, len(angle))
            shapes.append(shapely.Polygon(np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])))
    expected = [polis_by_formula(a, b) for a, b in zip(one, other, strict=True)]
    assert polis(np.array(one), np.array(other)).tolist() == pytest.approx(expected)


def test_polis_of_worked_examples() -> None:
    square = shapely.box(0, 0, 10, 10)
    # Moved by one to the right: of the square's corners two are 1 from the other outline, two lie on it; and back.
    assert polis(np.array([square]), boxes((1, 0, 11, 10)))[0] == pytest.approx(0.5)
    # More vertices on the same outline change nothing.
    dense = shapely.segmentize(square, 1.0)
    assert polis(np.array([square]), np.array([dense]))[0] == 0.0
    # Grown by one on each side: the square's corners are 1 away, those of the other √2.
    grown = polis(np.array([square]), boxes((-1, -1, 11, 11)))[0]
    assert grown == pytest.approx((1 + math.sqrt(2)) / 2)
    # Holes do not matter.
    holed = square.difference(shapely.box(4, 4, 6, 6))
    assert polis(np.array([square]), np.array([holed]))[0] == 0.0
    assert len(polis(boxes(), boxes())) == 0
