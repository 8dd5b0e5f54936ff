"""Boundary IoU, Hausdorff distances, calibration and relaxed measures against brute force and other libraries."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist, directed_hausdorff
from skimage.metrics import hausdorff_distance

from geounet.evaluation.boundary import Boundary
from geounet.evaluation.calibration import Calibration
from geounet.evaluation.hausdorff import WindowDistances, between, outlines
from geounet.evaluation.relaxed import Relaxed, halo, pixels

NAMES = ("land", "building", "road")

codes = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 255]))


def pair(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels and prediction of one shape, 255 where either is unknown."""
    truth = draw(codes)
    found = draw(arrays(np.uint8, truth.shape, elements=st.sampled_from([0, 1, 2, 255])))
    unknown = (truth == 255) | (found == 255)
    return np.where(unknown, 255, truth).astype(np.uint8), np.where(unknown, 255, found).astype(np.uint8)


pairs = st.composite(pair)()


def padded(array: np.ndarray, by: int) -> np.ndarray:
    return np.pad(array, by, constant_values=255)


# --- boundary IoU


def band_by_erosion(mask: np.ndarray, distance: int) -> np.ndarray:
    """The authors' code in plain Python: a frame of zeros, eroded `distance` times by a square of three, subtracted."""
    image = np.pad(mask.astype(bool), 1)
    for _ in range(distance):
        eroded = np.zeros_like(image)
        for y, x in product(range(1, image.shape[0] - 1), range(1, image.shape[1] - 1)):
            eroded[y, x] = image[y - 1 : y + 2, x - 1 : x + 2].all()
        image = eroded
    return mask.astype(bool) & ~image[1:-1, 1:-1]


@given(pairs, st.integers(1, 3))
@settings(max_examples=60)
def test_boundary_iou_is_that_of_its_authors(both: tuple[np.ndarray, np.ndarray], distance: int) -> None:
    truth, found = both
    boundary = Boundary.empty(NAMES, distance)
    inner = (slice(distance, -distance), slice(distance, -distance))
    boundary.add(padded(truth, distance), padded(found, distance), inner)
    for code in range(3):
        one, other = (band_by_erosion(a == code, distance) for a in (truth, found))
        union = (one | other).sum()
        expected = (one & other).sum() / union if union else math.nan
        assert boundary.iou[code] == pytest.approx(expected, nan_ok=True)


@given(pairs, st.integers(1, 3), st.integers(1, 8))
@settings(max_examples=40)
def test_boundary_of_windows_is_that_of_the_whole(
    both: tuple[np.ndarray, np.ndarray], distance: int, side: int
) -> None:
    truth, found = (padded(a, distance) for a in both)
    rows, cols = both[0].shape
    whole, parts = Boundary.empty(NAMES, distance), Boundary.empty(NAMES, distance)
    whole.add(truth, found, (slice(distance, distance + rows), slice(distance, distance + cols)))
    for y, x in product(range(0, rows, side), range(0, cols, side)):
        h, w = min(side, rows - y), min(side, cols - x)
        part = (slice(y, y + h + 2 * distance), slice(x, x + w + 2 * distance))
        one = Boundary.empty(NAMES, distance)
        one.add(truth[part], found[part], (slice(distance, distance + h), slice(distance, distance + w)))
        parts = parts + one
    assert np.array_equal(whole.both, parts.both)
    assert np.array_equal(whole.truth, parts.truth)
    assert np.array_equal(whole.found, parts.found)


def test_boundary_iou_sees_what_iou_does_not() -> None:
    truth = np.zeros((60, 60), np.uint8)
    truth[10:50, 10:50] = 1
    found = np.zeros_like(truth)
    found[12:50, 10:50] = 1  # two rows are missing: IoU 0.95
    boundary = Boundary.empty(("land", "building"), 2)
    boundary.add(padded(truth, 2), padded(found, 2), (slice(2, -2), slice(2, -2)))
    # Bands: 40² − 36² = 304 and 38·40 − 34·36 = 296 pixels; both share the lower edge and the lower parts of the sides.
    assert boundary.truth[1] == 304
    assert boundary.found[1] == 296
    assert boundary.both[1] == 2 * 40 + 2 * 2 * 36
    assert boundary.scores()["iou"]["building"] == pytest.approx(224 / (304 + 296 - 224))


# --- Hausdorff


def far(one: np.ndarray, other: np.ndarray, step: tuple[float, float]) -> tuple[float, float] | None:
    a, b = (np.argwhere(m) * step[::-1] for m in (one, other))
    if not len(a) or not len(b):
        return None
    d = cdist(a, b)
    there, back = d.min(axis=1), d.min(axis=0)
    return max(there.max(), back.max()), max(np.percentile(there, 95), np.percentile(back, 95))


masks = arrays(bool, (7, 8))


@given(masks, masks, st.sampled_from([(1.0, 1.0), (0.3, 0.5)]))
@settings(max_examples=60)
def test_hausdorff_is_that_of_all_distances(one: np.ndarray, other: np.ndarray, step: tuple[float, float]) -> None:
    found, expected = between(one, other, step), far(one, other, step)
    if expected is None:
        assert found is None
        return
    assert found == pytest.approx(expected)
    if step == (1.0, 1.0):
        assert found[0] == pytest.approx(hausdorff_distance(one, other))
        a, b = np.argwhere(one), np.argwhere(other)
        assert found[0] == pytest.approx(max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0]))


def test_one_pixel_is_as_far_as_it_is() -> None:
    one, other = np.zeros((5, 9), bool), np.zeros((5, 9), bool)
    one[1, 1] = other[4, 5] = True
    assert between(one, other, (1.0, 1.0)) == (5.0, 5.0)
    assert between(one, other, (0.5, 2.0)) == pytest.approx((math.hypot(2, 6),) * 2)


def test_distances_of_windows() -> None:
    truth = np.zeros((22, 22), np.uint8)
    truth[5:15, 5:15] = 1
    found = np.zeros_like(truth)
    found[5:15, 8:18] = 1
    windows = WindowDistances(("land", "building", "road"))
    windows.add(truth, found, (0.5, 0.5))
    scores = windows.scores()
    assert scores["building"] == {"hausdorff": 1.5, "hausdorff_95": 1.5, "windows": 1, "unmatched_windows": 0}
    assert scores["road"] == {"hausdorff": None, "hausdorff_95": None, "windows": 0, "unmatched_windows": 0}
    other = WindowDistances(windows.names)
    other.add(truth, np.zeros_like(truth), (0.5, 0.5))
    windows.merge(other)
    assert windows.scores()["building"]["unmatched_windows"] == 1
    assert windows.scores()["building"]["windows"] == 1


def test_no_border_where_nothing_is_known() -> None:
    truth = np.full((12, 12), 255, np.uint8)
    truth[:, :6] = 1  # reaches the edge and what is unknown on all sides
    windows = WindowDistances(("land", "building"))
    windows.add(truth, truth.copy(), (1.0, 1.0))
    assert windows.scores()["building"]["windows"] == 0
    assert windows.scores()["building"]["unmatched_windows"] == 0


def test_distances_of_outlines() -> None:
    square = shapely.box(0, 0, 10, 10)
    # A spike of length 5 at the middle of a side, which no vertex of the square is near.
    spiked = shapely.Polygon([(0, 0), (4.9, 0), (5, -5), (5.1, 0), (10, 0), (10, 10), (0, 10)])
    moved = shapely.box(3, 4, 13, 14)
    found = outlines(np.array([square, square]), np.array([spiked, moved]), 0.1)
    assert found[0, 0] == pytest.approx(5.0)
    assert found[1, 0] == pytest.approx(5.0)  # corner to corner, 3 and 4
    assert found[0, 0] == pytest.approx(shapely.hausdorff_distance(square.exterior, spiked.exterior, densify=0.01))
    # The spike is a fifth of the second outline: more than 5 % of it are far away.
    assert 0 < found[0, 1] < 5
    assert outlines(np.array([square]), np.array([square]), 0.1).tolist() == [[0.0, 0.0]]


# --- calibration

probabilities = st.integers(0, 255)


@st.composite
def said(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = draw(st.integers(0, 30))
    code = st.sampled_from([0, 1, 255])
    truth = np.array(draw(st.lists(code, min_size=size, max_size=size)), np.uint8)
    found = np.array(draw(st.lists(code, min_size=size, max_size=size)), np.uint8)
    stored = draw(arrays(np.uint8, (2, size)))
    return truth, found, stored


@given(said())
def test_calibration_error_is_that_of_its_definition(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    truth, found, stored = case
    table = Calibration.empty(("land", "building"))
    table.add(truth, found, stored)
    valid = [i for i in range(len(truth)) if 255 not in (truth[i], found[i], stored[0, i], stored[1, i])]
    assert table.pixels == len(valid)
    if not valid:
        assert table.scores()["ece"] is None
        return
    bins: list[list[int]] = [[] for _ in range(15)]
    for i in valid:
        k = next(m for m in range(15) if int(stored[found[i], i]) * 15 <= 254 * (m + 1))
        bins[k].append(i)
    expected = 0.0
    for members in bins:
        if members:
            right = np.mean([truth[i] == found[i] for i in members])
            confidence = np.mean([stored[found[i], i] / 254 for i in members])
            expected += len(members) / len(valid) * abs(right - confidence)
    assert table.error() == pytest.approx(expected)
    brier = np.mean([sum((stored[c, i] / 254 - (truth[i] == c)) ** 2 for c in (0, 1)) for i in valid])
    assert table.brier == pytest.approx(brier)


def test_what_is_said_with_80_percent_and_true_in_80_of_100_is_calibrated() -> None:
    truth = np.array([1] * 80 + [0] * 20, np.uint8)
    found = np.ones(100, np.uint8)
    level = round(254 * 0.8)
    stored = np.stack([np.full(100, 254 - level), np.full(100, level)]).astype(np.uint8)
    table = Calibration.empty(("land", "building"))
    table.add(truth, found, stored)
    assert table.error() == pytest.approx(abs(0.8 - level / 254))
    scores = json.loads(json.dumps(table.scores(), allow_nan=False))
    assert scores["bins"][11] == {"pixels": 100, "confidence": pytest.approx(level / 254), "accuracy": 0.8}
    assert sum(b["pixels"] for b in scores["bins"]) == 100
    assert (table + table).pixels == 200
    assert (table + table).error() == pytest.approx(table.error())


# --- relaxed precision and recall

roads = arrays(bool, (9, 11))


@given(roads, roads, st.sampled_from([1.0, 1.5, 3.0, 9.5]), st.integers(2, 6))
@settings(max_examples=40)
def test_relaxed_measures_are_those_of_all_distances(
    truth: np.ndarray, found: np.ndarray, tolerance: float, side: int
) -> None:
    a, b = np.argwhere(truth), np.argwhere(found)
    near = cdist(a, b) <= tolerance if len(a) and len(b) else np.zeros((len(a), len(b)), bool)
    around = halo(tolerance, (1.0, 1.0))
    wide = [np.pad(m, around) for m in (truth, found)]
    total = Relaxed()
    for y, x in product(range(0, 9, side), range(0, 11, side)):
        h, w = min(side, 9 - y), min(side, 11 - x)
        part = [m[y : y + h + 2 * around, x : x + w + 2 * around] for m in wide]
        total = total + pixels(*part, (slice(around, around + h), slice(around, around + w)), tolerance)
    assert total.truth_near == near.any(axis=1).sum()
    assert total.found_near == near.any(axis=0).sum()
    assert (total.truth, total.found) == (len(a), len(b))
    assert total.precision == pytest.approx(near.any(axis=0).mean() if len(b) else math.nan, nan_ok=True)
    assert total.recall == pytest.approx(near.any(axis=1).mean() if len(a) else math.nan, nan_ok=True)


def test_a_tolerance_in_metres_is_one_on_the_ground() -> None:
    truth, found = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    truth[4, 4] = found[4, 7] = True
    inner = (slice(0, 9), slice(0, 9))
    assert pixels(truth, found, inner, 3.0, (1.0, 1.0)).precision == 1.0
    assert pixels(truth, found, inner, 3.0, (1.1, 1.0)).precision == 0.0
    assert pixels(truth, found, inner, 1.5, (0.5, 2.0)).recall == 1.0
    assert halo(1.5, (0.5, 2.0)) == 3


def test_relaxed_measures_without_roads() -> None:
    assert Relaxed().scores() == {"precision": None, "recall": None, "f1": None}
    assert Relaxed(found=5.0).scores() == {"precision": 0.0, "recall": None, "f1": 0.0}
    assert Relaxed(truth=5.0).scores() == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert Relaxed(0.0, 5.0, 0.0, 5.0).f1 == 0.0
    assert Relaxed(4.0, 5.0, 3.0, 6.0).f1 == pytest.approx(2 * 0.8 * 0.5 / 1.3)
