"""The minimum mapping unit, against doing one component at a time."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest

from geounet.types import Rect
from geounet.vector.attributes import Ground
from geounet.vector.components import label_cell
from geounet.vector.sieve import adjacency, join_small

GROUND = Ground("EPSG:32633", (1.0, 0.0, 500000.0, 0.0, -1.0, 5000000.0), 64, 64)


def graph(values: Any) -> tuple[Any, ...]:
    """Components of an array and the borders between them."""
    rows, cols = values.shape
    labels = label_cell(values, Rect(0, 0, rows, cols), cols)
    image, count = labels.image, len(labels.value)
    y, x = np.indices(values.shape)
    pairs = []
    for a, b in ((image[:, :-1], image[:, 1:]), (image[:-1], image[1:])):
        met = (a != b) & (a > 0) & (b > 0)
        pairs.append((a[met] - 1, b[met] - 1))
    one, two = (np.concatenate([p[i] for p in pairs]) for i in (0, 1))
    sums = [np.bincount(image.ravel(), weights=w.ravel(), minlength=count + 1)[1:].astype(np.int64) for w in (x, y)]
    return labels.value, labels.count, sums[0], sums[1], *adjacency(one, two)


def one_at_a_time(value: Any, count: Any, sx: Any, sy: Any, one: Any, two: Any, length: Any, unit: float) -> list[int]:
    """The rule as it is told, with a queue."""
    totals = {i: [int(count[i]), int(sx[i]), int(sy[i])] for i in range(len(value))}
    border: dict[int, dict[int, int]] = {i: {} for i in totals}
    for a, b, n in zip(one.tolist(), two.tolist(), length.tolist(), strict=True):
        border[a][b] = border[b][a] = n
    parent = list(range(len(value)))

    def area(i: int) -> float:
        n, x, y = totals[i]
        return float(n * GROUND.pixel_areas(np.array([x / n]), np.array([y / n]))[0])

    queue = [(area(i), i) for i in totals]
    heapq.heapify(queue)
    while queue:
        size, i = heapq.heappop(queue)
        if i not in totals or size != area(i) or size >= unit or not border[i]:
            continue
        target = min(border[i], key=lambda j: (value[i] != value[j], -border[i][j], j))
        parent[i] = target
        for j, n in border.pop(i).items():
            del border[j][i]
            if j != target:
                border[target][j] = border[j][target] = border[target].get(j, 0) + n
        gone = totals.pop(i)
        totals[target] = [a + b for a, b in zip(totals[target], gone, strict=True)]
        heapq.heappush(queue, (area(target), target))

    def root(i: int) -> int:
        return i if parent[i] == i else root(parent[i])

    return [root(i) for i in range(len(parent))]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("unit", [1.5, 6.0, 40.0])
def test_rounds_do_what_one_at_a_time_does(seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, (40, 40)).astype(np.uint8)
    values[rng.random(values.shape) < 0.1] = 255
    found = graph(values)
    joined, rounds = join_small(*found, GROUND, unit)
    assert joined.tolist() == one_at_a_time(*found, unit)
    assert rounds < 60
    assert (joined != np.arange(len(joined))).any()


def test_what_stays_small_has_no_neighbour() -> None:
    values = np.full((20, 20), 255, dtype=np.uint8)
    values[2, 2] = 1  # alone in nodata
    values[8:18, 8:18] = 2
    values[10, 10] = 3
    found = graph(values)
    joined, _ = join_small(*found, GROUND, 5.0)
    assert found[0][joined].tolist() == [1, 2, 2]


def test_the_longest_border_wins() -> None:
    values = np.full((6, 6), 1, dtype=np.uint8)
    values[:, 3:] = 2
    values[2, 2] = 3  # three sides to 1, one to 2
    joined, _ = join_small(*(found := graph(values)), GROUND, 2.0)
    assert found[0][joined].tolist() == [1, 2, 1]


def test_an_equal_class_is_joined_first() -> None:
    # Once the 3 has become 1, the pair of 1 beside it joins that, though the border with 2 is longer.
    values = np.array([[2, 2, 2, 2, 2, 2, 2], [1, 1, 1, 3, 1, 1, 2], [1, 1, 1, 1, 2, 2, 2]], dtype=np.uint8)
    found = graph(values)
    assert found[0].tolist() == [2, 1, 3, 1]
    joined, _ = join_small(*found, GROUND, 2.5)
    assert found[0][joined].tolist() == [2, 1, 1, 1]
