"""The minimum mapping unit, against doing one component at a time."""

from __future__ import annotations

import heapq
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyproj import CRS

from geounet.types import Rect
from geounet.vector.attributes import Ground
from geounet.vector.cells import CellGrid
from geounet.vector.components import label_cell
from geounet.vector.sieve import Graph, Sieved, Stage, Unit, graph_of, join_small, sieve
from tests.support.coverages import Plain, Serial, smooth

GROUND = Ground("EPSG:32633", (1.0, 0.0, 500000.0, 0.0, -1.0, 5000000.0), 64, 64)


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small parts: that they survive a power cut is not tested here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def graph(values: Any) -> Graph:
    """Components of an array, all known, and the borders between them."""
    rect = Rect(0, 0, *values.shape)
    found = graph_of(label_cell(values, rect, rect.cols), rect)
    return replace(found, whole=np.ones_like(found.whole))


def sieved(values: Any, cell: int, folder: Path, unit: Unit) -> tuple[Any, Sieved]:
    """The array after sieving cell by cell."""
    folder.mkdir(parents=True)
    stage = Stage(Plain(values), CellGrid(values.shape[0], values.shape[1], cell), str(folder), "s", unit)
    found = sieve(stage, Serial())
    return stage.result.read(Rect(0, 0, *values.shape)), found


def one_at_a_time(graph: Graph, unit: float) -> list[int]:
    """The rule as it is told, with a queue."""
    value = graph.value
    totals = {i: [int(graph.count[i]), int(graph.sum_x[i]), int(graph.sum_y[i])] for i in range(len(value))}
    border: dict[int, dict[int, int]] = {i: {} for i in totals}
    for a, b, n in zip(graph.one.tolist(), graph.two.tolist(), graph.length.tolist(), strict=True):
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
    joined = join_small(found, Unit(unit, GROUND)).into
    assert joined.tolist() == one_at_a_time(found, unit)
    assert (joined != np.arange(len(joined))).any()


def test_what_stays_small_has_no_neighbour() -> None:
    values = np.full((20, 20), 255, dtype=np.uint8)
    values[2, 2] = 1  # alone in nodata
    values[8:18, 8:18] = 2
    values[10, 10] = 3
    found = graph(values)
    joined = join_small(found, Unit(5.0, GROUND)).into
    assert found.value[joined].tolist() == [1, 2, 2]


def test_the_longest_border_wins() -> None:
    values = np.full((6, 6), 1, dtype=np.uint8)
    values[:, 3:] = 2
    values[2, 2] = 3  # three sides to 1, one to 2
    joined = join_small(found := graph(values), Unit(2.0)).into
    assert found.value[joined].tolist() == [1, 2, 1]


def test_an_equal_class_is_joined_first() -> None:
    # Once the 3 has become 1, the pair of 1 beside it joins that, though the border with 2 is longer.
    values = np.array([[2, 2, 2, 2, 2, 2, 2], [1, 1, 1, 3, 1, 1, 2], [1, 1, 1, 1, 2, 2, 2]], dtype=np.uint8)
    found = graph(values)
    assert found.value.tolist() == [2, 1, 3, 1]
    joined = join_small(found, Unit(2.5, GROUND)).into
    assert found.value[joined].tolist() == [2, 1, 1, 1]


@pytest.mark.parametrize("unit", [Unit(2.5), Unit(9), Unit(60), Unit(30, GROUND), Unit(1e9)])
@pytest.mark.parametrize("kind", ["noise", "coarse", "blobs", "two"])
def test_cells_decide_what_the_whole_would(kind: str, unit: Unit, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    if kind == "blobs":
        values = smooth(70, 5, 2)
    elif kind == "coarse":
        values = np.kron(rng.integers(0, 3, (20, 20)), np.ones((3, 3))).astype(np.uint8)
    else:
        values = rng.integers(0, 5 if kind == "noise" else 2, (61, 58)).astype(np.uint8)
    values[rng.random(values.shape) < 0.03] = 255
    whole, found = sieved(values, 1000, tmp_path / "whole", unit)
    assert found.components == len(graph(values).value)
    assert found.pixels == {int(v): int((values == v).sum()) for v in np.unique(values[values < 255])}
    joined = join_small(start := graph(values), unit).into
    labels = label_cell(values, Rect(0, 0, *values.shape), values.shape[1])
    expected = np.append(255, start.value[joined])[labels.image].astype(np.uint8)
    assert np.array_equal(whole, expected)
    for cell in (11, 23):
        assert np.array_equal(sieved(values, cell, tmp_path / str(cell), unit)[0], expected), cell


def test_the_driver_sees_what_crosses_and_little_more(tmp_path: Path) -> None:
    values = smooth(300, 5, 1)
    _, whole = sieved(values, 1000, tmp_path / "whole", Unit(40))
    sizes = {}
    for cell in (75, 150):
        folder = tmp_path / str(cell)
        sieved(values, cell, folder, Unit(40))
        sizes[cell] = sum(len(np.load(p)["first"]) for p in folder.glob("s-graph-*.npz"))
    assert whole.components > 200
    assert sizes[150] < 0.5 * whole.components
    assert sizes[150] < 0.7 * sizes[75]


def test_a_raster_that_shows_a_disc_is_sieved_alike_in_all_cells(tmp_path: Path) -> None:
    half, side = 5.57e6, 120
    crs = CRS.from_user_input("+proj=geos +h=35785831 +sweep=y +ellps=WGS84").to_wkt()
    pixel = 2 * half / side
    disc = Ground(crs, (pixel, 0.0, -half, 0.0, -pixel, half), side, side)
    y, x = np.mgrid[0:side, 0:side]
    there = np.isfinite(disc.geographic(np.column_stack([x.ravel() + 0.5, y.ravel() + 0.5]))[0]).reshape(x.shape)
    blobs = np.kron(np.random.default_rng(0).integers(0, 3, (side // 2, side // 2)), np.ones((2, 2)))
    values = np.where(there, blobs, 255).astype(np.uint8)
    unit = Unit(60 * pixel**2, disc)
    whole, _ = sieved(values, 200, tmp_path / "whole", unit)
    assert len(graph(whole).value) < 0.6 * len(graph(values).value)
    for cell in (64, 23):
        np.testing.assert_array_equal(sieved(values, cell, tmp_path / str(cell), unit)[0], whole)
