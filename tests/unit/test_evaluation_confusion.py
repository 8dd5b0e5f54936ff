"""The confusion matrix against brute force, and its edges."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geounet.evaluation.confusion import Confusion

NAMES = ("land", "building", "road")


def sets(truth: np.ndarray, found: np.ndarray, code: int) -> tuple[set[int], set[int], set[int]]:
    """Pixels of a class in labels and prediction, and all that count: the definitions in words of sets."""
    valid = {i for i in range(truth.size) if truth[i] != 255 and found[i] != 255}
    return {i for i in valid if truth[i] == code}, {i for i in valid if found[i] == code}, valid


def quotient(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-12) or (math.isnan(one) and math.isnan(other))


values = st.lists(st.tuples(*[st.sampled_from([0, 1, 2, 255])] * 2), max_size=40)


@given(values)
def test_measures_are_those_of_sets(pairs: list[tuple[int, int]]) -> None:
    truth = np.array([p[0] for p in pairs], dtype=np.uint8)
    found = np.array([p[1] for p in pairs], dtype=np.uint8)
    matrix = Confusion.empty(NAMES)
    matrix.add(truth, found)
    ious, dices, right, valid = [], [], 0, set()
    for code in range(3):
        a, b, valid = sets(truth, found, code)
        right += len(a & b)
        ious.append(quotient(len(a & b), len(a | b)))
        dices.append(quotient(2 * len(a & b), len(a) + len(b)))
        assert same(matrix.iou[code], ious[-1])
        assert same(matrix.dice[code], dices[-1])
        assert same(matrix.precision[code], quotient(len(a & b), len(b)))
        assert same(matrix.recall[code], quotient(len(a & b), len(a)))
    present = [v for v in ious if not math.isnan(v)]
    assert same(matrix.miou, quotient(sum(present), len(present)))
    present = [v for v in dices if not math.isnan(v)]
    assert same(matrix.mdice, quotient(sum(present), len(present)))
    assert same(matrix.accuracy, quotient(right, len(valid)))
    assert matrix.total == len(valid)


@given(values, st.integers(0, 40))
def test_parts_add_up(pairs: list[tuple[int, int]], cut: int) -> None:
    both = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    whole, first, second = (Confusion.empty(NAMES) for _ in range(3))
    whole.add(both[:, 0], both[:, 1])
    first.add(both[:cut, 0], both[:cut, 1])
    second.add(both[cut:, 0], both[cut:, 1])
    assert first + second == whole
    assert Confusion.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


def test_a_worked_example() -> None:
    # Cohen's kappa, as in Wikipedia's example of 50 proposals: p_o = 0.7, p_e = 0.5, kappa = 0.4.
    matrix = Confusion(("yes", "no"), np.array([[20, 5], [10, 15]]))
    assert matrix.accuracy == pytest.approx(0.7)
    assert matrix.kappa == pytest.approx(0.4)
    assert matrix.iou.tolist() == pytest.approx([20 / 35, 15 / 30])


def test_nothing_is_known_without_pixels() -> None:
    scores = Confusion.empty(NAMES).scores()
    assert scores["pixels"] == 0
    assert scores["miou"] is None
    assert scores["accuracy"] is None
    assert scores["kappa"] is None
    assert scores["iou"] == dict.fromkeys(NAMES)
    json.dumps(scores, allow_nan=False)


def test_one_pixel() -> None:
    matrix = Confusion.empty(NAMES)
    matrix.add(np.array([[1]], np.uint8), np.array([[1]], np.uint8))
    assert matrix.scores()["iou"] == {"land": None, "building": 1.0, "road": None}
    assert matrix.miou == 1.0
    assert matrix.accuracy == 1.0
    assert math.isnan(matrix.kappa)


def test_a_class_only_in_the_prediction_counts_as_missed() -> None:
    matrix = Confusion.empty(NAMES)
    matrix.add(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 2]))
    assert matrix.iou.tolist()[0] == 0.75
    assert matrix.iou[2] == 0.0
    assert matrix.miou == pytest.approx(0.375)
    assert math.isnan(matrix.recall[2])
    assert math.isnan(matrix.precision[1])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_unknown_values_are_refused(dtype: str) -> None:
    matrix = Confusion.empty(NAMES)
    with pytest.raises(ValueError, match="label value 3: classes are 0 to 2"):
        matrix.add(np.array([3], dtype=dtype), np.array([0], dtype=dtype))
    with pytest.raises(ValueError, match="prediction value 7"):
        matrix.add(np.array([0], dtype=dtype), np.array([7], dtype=dtype))
    assert matrix.total == 0


def test_other_shapes_and_classes_are_refused() -> None:
    matrix = Confusion.empty(NAMES)
    with pytest.raises(ValueError, match="differ in shape"):
        matrix.add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="differ"):
        matrix + Confusion.empty(("a",))
