"""Parts of regular outlines, each against something slower that is surely right."""

from __future__ import annotations

import functools
import itertools
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import shapely

from geounet.vector.features import from_shapely, to_shapely
from geounet.vector.outlines import clear, regular
from geounet.vector.outlines.direction import dominant, harmonised
from geounet.vector.outlines.divide import FREE, Prices, divide, farthest
from geounet.vector.outlines.ellipse import drawn, ellipses
from geounet.vector.outlines.gate import passes, simplified
from geounet.vector.outlines.rings import Rings, candidates
from tests.support.vectors import polygons

ONE = np.ones((1, 2))


def traced(mask: Any, folder: Any) -> tuple[Any, Any, Any]:
    """Raw outlines of a mask as `coords, rings, shells`."""
    found = polygons(np.where(mask, 1, 255), 1000, folder)
    coords, rings, shells = from_shapely(np.array(found["geometry"], dtype=object))
    return coords.astype(np.int64), rings, shells


def blob(seed: int, size: int = 14) -> Any:
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), dtype=bool)
    for _ in range(3):
        y, x = rng.integers(1, size - 6, 2)
        mask[y : y + rng.integers(3, 6), x : x + rng.integers(3, 6)] = True
    return mask


def test_sums_of_stretches_are_those_of_their_points() -> None:
    coords = np.array([(3, 2), (9, 2), (9, 5), (6, 5), (6, 8), (3, 8), (20, 20), (22, 20), (22, 21), (20, 21)])
    rings = np.array([0, 6, 10])
    scale = np.array([(1.1, 0.9), (1.0, 1.0)])
    points = Rings.along(coords, rings, scale)
    assert points.sizes.tolist() == [24, 6]
    # Middles of the sides of pixels, around the outline.
    middles = points.places[:24] / 2 + points.origins[0]
    assert middles[:7].tolist() == [[3.5, 2], [4.5, 2], [5.5, 2], [6.5, 2], [7.5, 2], [8.5, 2], [9, 2.5]]
    assert np.isin(np.abs(np.diff(middles, axis=0)).sum(axis=1), 1).all()
    for ring, start, end in ((0, 0, 24), (0, 20, 30), (0, 23, 25), (1, 4, 9)):
        found = points.sums(np.array([ring]), np.array([start]), np.array([end]))[0]
        low, high = points.offsets[ring : ring + 2]
        place = points.places[low:high][np.arange(start, end) % (high - low)] / 2 * scale[ring]
        u, v = place.T
        assert found == pytest.approx([end - start, u.sum(), v.sum(), (u * u).sum(), (u * v).sum(), (v * v).sum()])


def residual(place: Any, direction: float | None) -> float:
    """Sum of squared distances to the best line, of a direction or of any."""
    centred = place - place.mean(axis=0)
    if direction is None:
        return float(np.linalg.svd(centred, compute_uv=False)[-1] ** 2) if len(place) > 1 else 0.0
    return float(((centred @ [-np.sin(direction), np.cos(direction)]) ** 2).sum())


@pytest.mark.parametrize("seed", range(4))
def test_divisions_are_the_cheapest_of_all(tmp_path: Any, seed: int) -> None:
    coords, rings, _ = traced(blob(seed), tmp_path)
    points = Rings.along(coords, rings, np.ones((len(rings) - 1, 2)))
    found = candidates(points)
    first = farthest(found)
    ring = int(np.argmax(points.sizes))
    # Few corners to choose from, so that all ways can be tried.
    chosen = np.unique(np.append(np.arange(4) * found.sizes[ring] // 4, first[ring]))
    low = found.offsets[ring]
    found = type(found)(found.point[low + chosen], found.place[low + chosen], np.array([0, len(chosen)]))
    places = points.places[points.offsets[ring] : points.offsets[ring + 1]] / 2
    points = Rings.along(coords[rings[ring] : rings[ring + 1]], np.array([0, rings[ring + 1] - rings[ring]]), ONE)
    start = int(np.flatnonzero(chosen == first[ring])[0])
    around = np.roll(found.point, -start)
    place = np.roll(found.place, -start, axis=0)
    around = np.append(around, around[0] + len(places))
    around[1:][around[1:] < around[0]] += len(places)
    place = np.vstack([place, place[:1]])
    angle = np.array([0.3])
    prices = Prices(2.0, 1.5, 1e9, 2.5)
    turns = prices.turns()

    @functools.cache
    def price(i: int, j: int, label: int | None) -> float:
        stretch = places[np.arange(around[i], around[j]) % len(places)]
        if label is None:
            return residual(stretch, None) + 2.0
        direction = 0.3 + label * np.pi / 4
        if (place[j] - place[i]) @ [np.cos(direction), np.sin(direction)] <= 0:
            return np.inf
        return residual(stretch, direction) + (3.5 if label % 2 else 2.0)

    def cost(corners: Any, labels: Any) -> float:
        total = sum(price(i, j, label) for i, j, label in zip(corners[:-1], corners[1:], labels, strict=True))
        return total + sum(float(turns[a, b]) for a, b in pairwise(labels) if a is not None)

    inner = range(1, len(around) - 1)
    ways = [(0, *c, len(around) - 1) for n in range(len(around) - 1) for c in itertools.combinations(inner, n)]
    free = divide(points, found, np.array([start]), None, prices, np.array([0]))
    assert free.cost[0] == pytest.approx(min(cost(way, [None] * (len(way) - 1)) for way in ways))
    best = min(cost(w, labels) for w in ways for labels in itertools.product(range(8), repeat=len(w) - 1))
    straight = divide(points, found, np.array([start]), angle, prices, np.array([0]))
    assert straight.cost[0] == pytest.approx(best)
    assert FREE not in straight.label
    assert straight.start[0] == around[0] % len(places)
    assert np.array_equal((straight.end % len(places))[:-1], straight.start[1:])


@pytest.mark.parametrize("degrees", [-44, -20, 0, 13, 30, 44])
def test_the_direction_is_that_of_most_walls(degrees: float) -> None:
    rng = np.random.default_rng(0)
    a = np.radians(degrees)
    angle = np.array([a, a + np.pi / 2, a, a - np.pi / 2, a + 0.5]) + rng.normal(0, 0.01, 5)
    found = dominant(angle, np.array([30.0, 20, 31, 20, 25]), np.array([0, 5, 5]))
    assert found[0] == pytest.approx(a, abs=0.02)
    assert found[1] == 0


def test_houses_in_a_row_get_one_direction() -> None:
    direction = np.radians([1.0, 2.0, -44.5, 30.0, 44.5])
    pairs = np.array([0, 1, 2]), np.array([1, 3, 4]), np.array([20.0, 10.0, 5.0])
    found, cluster = harmonised(direction, np.ones(5), pairs)
    assert np.degrees(found[:2]) == pytest.approx([1.5, 1.5])
    assert cluster.tolist() == [0, 0, 2, 3, 2]
    assert np.degrees(found[3]) == pytest.approx(30)
    # Across the turn of 90 degrees.
    assert abs(np.degrees(found[2])) == pytest.approx(45)
    assert found[2] == found[4]


@pytest.mark.parametrize("ratio", [1.0, 1.3, 2.0])
def test_ellipses_fit(tmp_path: Any, ratio: float) -> None:
    y, x = np.mgrid[0:80, 0:80] + 0.5
    cos, sin = np.cos(0.6), np.sin(0.6)
    u, v = (x - 41) * cos + (y - 38.5) * sin, (y - 38.5) * cos - (x - 41) * sin
    coords, rings, _ = traced(np.hypot(u / (15 * ratio), v / 15) < 1, tmp_path)
    points = Rings.along(coords, rings, ONE)
    centre, axes, angle, misfit = ellipses(points, np.array([0]))
    assert centre[0] + points.origins[0] == pytest.approx([41, 38.5], abs=0.1)
    assert axes[0] == pytest.approx([15 * ratio, 15], rel=0.02)
    assert misfit[0] / points.sizes[0] < 0.15
    if ratio > 1:
        assert angle[0] == pytest.approx(0.6, abs=0.03)
    shape = shapely.Polygon(drawn(centre[0], axes[0], float(angle[0])))
    assert shape.area == pytest.approx(np.pi * axes[0].prod(), rel=1e-6)


def test_a_square_is_no_circle(tmp_path: Any) -> None:
    for size in (6, 10, 30):
        coords, rings, shells = traced(np.pad(np.ones((size, size), dtype=bool), 3), tmp_path / str(size))
        found = regular.regularised(coords, rings, shells, np.array([0]), ONE, 1.5)
        assert found.status.tolist() == [regular.REGULAR]
        assert found.best[0].equals(shapely.Polygon(coords))


def test_the_gate() -> None:
    raw = np.array([shapely.box(0, 0, 20, 20)] * 6, dtype=object)
    bow = shapely.Polygon([(0, 0), (20, 20), (20, 0), (0, 20)])
    spike = shapely.Polygon([(0, 0), (20, 0), (20, 9), (30, 10), (20, 11), (20, 20), (0, 20)])
    outlines = np.array([shapely.box(0, 0, 20, 18), shapely.box(0, 0, 20, 16), bow, None, spike, raw[0]], dtype=object)
    assert passes(raw, outlines, 4.5).tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize("seed", range(4))
def test_the_gate_is_the_hausdorff_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw, outlines = [], []
    for _ in range(60):
        angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(8, 60))))
        ring = np.column_stack([np.cos(angle), np.sin(angle)]) * rng.uniform(17, 20, (len(angle), 1))
        hole = shapely.Point(0, 0).buffer(5).exterior.coords
        raw.append(shapely.Polygon(ring, [hole]))
        outlines.append(shapely.Polygon(ring + rng.normal(0, 0.5, ring.shape), [hole] if rng.random() < 0.9 else []))
    ones, others = np.array(raw, dtype=object), np.array(outlines, dtype=object)
    apart = shapely.hausdorff_distance(shapely.boundary(ones), shapely.boundary(others))
    plain = passes(ones, others, None)
    assert 0.5 < plain.mean() < 1
    for reach in np.quantile(apart, [0.2, 0.5, 0.8]) + 1e-6:
        assert np.array_equal(passes(ones, others, float(reach)), plain & (apart <= reach))


def test_simplified_outlines_are_near(tmp_path: Any) -> None:
    simpler = 0
    for seed in range(20):
        raw = to_shapely(*traced(blob(seed), tmp_path / str(seed)))
        outlines, _ = simplified(raw, 2.0)
        simpler += int((shapely.get_num_coordinates(outlines) < shapely.get_num_coordinates(raw)).sum())
        apart = shapely.hausdorff_distance(shapely.boundary(raw), shapely.boundary(outlines))
        assert (apart <= 2.0 + 1e-9).all()
    assert simpler > 5


def test_what_simplifying_would_spoil_stays_raw() -> None:
    thin = shapely.Polygon([(0, 0), (30, 0), (30, 1), (15, 1), (15, 2), (14, 2), (14, 1), (0, 1)])
    wide = shapely.box(0, 0, 40, 40)
    outlines, changed = simplified(np.array([thin, wide], dtype=object), 6.0)
    assert changed.tolist() == [False, True]
    assert outlines[0] is thin


def boxed(*boxes: tuple[float, float, float, float]) -> Any:
    return np.array([shapely.box(*b) for b in boxes], dtype=object)


NONE: Any = np.empty(0, dtype=object)


def test_the_later_of_two_is_trimmed() -> None:
    best, raw = boxed((0, 0, 10.5, 10), (9.5, 0, 20, 10)), boxed((0, 0, 10, 10), (10, 0, 20, 10))
    found = clear.settled([best, raw, raw], NONE)
    assert found.level.tolist() == [0, 0]
    assert found.cut.tolist() == [False, True]
    assert found.outline[1].equals(shapely.box(10.5, 0, 20, 10))


def test_the_intruder_steps_down() -> None:
    """A large outline that covers a small neighbour in its notch is the one that goes."""
    notched = shapely.Polygon([(0, 0), (40, 0), (40, 40), (25, 40), (25, 30), (15, 30), (15, 40), (0, 40)])
    small = shapely.box(16, 31, 24, 40)
    best = np.array([shapely.box(0, 0, 40, 40), small], dtype=object)
    raw = np.array([notched, small], dtype=object)
    found = clear.settled([best, raw, raw], NONE)
    assert found.level.tolist() == [1, 0]
    assert not found.cut.any()


def test_what_steps_down_keeps_clear_of_all_others() -> None:
    raw = boxed((0, 0, 20, 20), (20, 0, 40, 20), (0, 20.5, 20, 40))
    best = boxed((0, 0, 26, 20), (20, 0, 40, 20), (0, 20.5, 20, 40))
    simple = boxed((0, 0, 20, 21), (20, 0, 40, 20), (0, 20.5, 20, 40))
    found = clear.settled([best[:2], simple[:2], raw[:2]], best[2:])
    assert found.level.tolist() == [1, 0]
    assert found.outline[0].equals(shapely.box(0, 0, 20, 20.5))


@pytest.mark.parametrize("seed", range(3))
def test_however_outlines_overlap_nothing_does_in_the_end(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = boxed(*[(x, y, x + 10, y + 10) for x in range(0, 60, 10) for y in range(0, 60, 10)])
    grown = shapely.buffer(raw, rng.uniform(-0.3, 0.35, len(raw)), join_style="mitre")
    turned = np.array([shapely.affinity.rotate(g, rng.uniform(-3, 3)) for g in grown], dtype=object)
    found = clear.settled([turned, grown, raw], NONE)
    assert shapely.is_valid(found.outline).all()
    a, b = clear.near(clear.boxes(found.outline))
    assert clear.overlap(found.outline[a], found.outline[b]).max() < 1e-9
    common = shapely.area(shapely.intersection(found.outline, raw))
    assert (common / (shapely.area(found.outline) + 100 - common)).min() >= 0.85


def test_spikes_go() -> None:
    spiked = shapely.Polygon([(0, 0), (10, 0), (10, 5), (14, 5.01), (10, 5.02), (10, 10), (0, 10)])
    assert clear.without_spikes(spiked).equals(shapely.box(0, 0, 10, 10))
    assert clear.without_spikes(shapely.Polygon([(0, 0), (10, 0), (10, 0.001)])) is None


def test_a_spike_of_a_neighbour_is_not_covered() -> None:
    """Without its notch the later one would lie over the tip of the earlier one."""
    pointed = shapely.Polygon([(0, 0), (10, 0), (10, 4.9), (16, 5), (10, 5.1), (10, 10), (0, 10)])
    raw = np.array([shapely.box(0, 0, 10, 10), shapely.box(10, 0, 20, 10)], dtype=object)
    best = np.array([pointed, raw[1]], dtype=object)
    found = clear.settled([best, raw, raw], NONE)
    assert shapely.area(shapely.intersection(*found.outline)) < 1e-9
    assert found.outline[0].equals(pointed)


def test_an_outline_depends_on_its_group_alone(tmp_path: Any) -> None:
    """Bit for bit: whatever else is outlined in the same call."""
    rng = np.random.default_rng(3)
    mask = rng.random((80, 80)) < 0.57
    mask[30:60, 30:70] = True
    coords, rings, shells = traced(mask, tmp_path)
    count = len(shells) - 1
    whole = regular.regularised(coords, rings, shells, np.arange(count), np.ones((count, 2)), 1.5)
    for k in np.argsort(-shapely.area(whole.raw))[:8].tolist():
        ring = slice(shells[k], shells[k + 1] + 1)
        vertex = slice(rings[shells[k]], rings[shells[k + 1]])
        alone = regular.regularised(
            coords[vertex], rings[ring] - rings[shells[k]], np.array([0, ring.stop - 1 - ring.start]),
            np.array([0]), ONE, 1.5,
        )  # fmt: skip
        assert shapely.to_wkb(alone.best[0]) == shapely.to_wkb(whole.best[k])
        assert (alone.status[0], alone.angle[0]) == (whole.status[k], whole.angle[k]) or np.isnan(whole.angle[k])
