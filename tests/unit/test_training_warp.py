"""Cutting windows out of scenes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from geounet.labels.values import IGNORED
from geounet.training.sources import halved
from geounet.training.splits import Side, Sides
from geounet.training.warp import Shape, cut, lattice_points, turned
from geounet.types import Rect
from tests.support.training import one_side, source

RNG = np.random.default_rng(5)
NOISE = RNG.integers(0, 256, (3, 300, 280)).astype(np.uint8)
CODES = RNG.integers(0, 5, (300, 280)).astype(np.uint8)


def smooth(rows: int, cols: int) -> Any:
    """Waves that no resampling in use blurs much."""
    y, x = np.mgrid[:rows, :cols]
    return (120 + 60 * np.sin(y / 17) + 50 * np.cos(x / 23))[None].astype(np.float32)


def window(shape: Shape, centre: tuple[float, float] = (150, 140), values: Any = NOISE, labels: Any = CODES,
           **keys: Any) -> Any:  # fmt: skip
    return cut(source(values, labels, **keys), one_side(values.shape[1:]), Side.train, centre, shape)


@pytest.mark.parametrize("kept", [True, False])
def test_without_change_a_window_is_a_crop(kept: bool) -> None:
    found = window(Shape(64), kept=kept)
    np.testing.assert_array_equal(found.values, NOISE[:, 118:182, 108:172])
    np.testing.assert_array_equal(found.labels, CODES[118:182, 108:172])
    assert found.valid.all()
    odd = window(Shape(63), kept=kept)
    assert (odd.values == NOISE[:, 119:182, 109:172]).all()


@pytest.mark.parametrize("symmetry", range(8))
def test_the_eight_symmetries(symmetry: int) -> None:
    plain, found = window(Shape(64)), window(Shape(64, symmetry=symmetry))
    np.testing.assert_array_equal(found.values, turned(plain.values, symmetry))
    np.testing.assert_array_equal(found.labels, turned(plain.labels, symmetry))
    views = {turned(plain.labels, k).tobytes() for k in range(8)}
    assert len(views) == 8


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_rotation_by_quarter_turns_is_exact(quarter: int) -> None:
    found = window(Shape(64, angle=quarter * math.pi / 2))
    plain = window(Shape(64))
    np.testing.assert_allclose(found.values, np.rot90(plain.values, quarter, axes=(1, 2)), atol=0.05)
    np.testing.assert_array_equal(found.labels, np.rot90(plain.labels, quarter))


@pytest.mark.parametrize(("scale", "angle"), [(1.3, 0.0), (2.0, 0.4), (0.8, -0.7), (0.75, 1.0)])
def test_bilinear_between_pixels_and_the_nearest_label(scale: float, angle: float) -> None:
    """The oracle is scipy's interpolation at coordinates computed one by one."""
    centre = (150.3, 139.6)
    found = window(Shape(50, scale=scale, angle=angle), centre)
    for row, col in ((0, 0), (49, 0), (13, 37), (25, 25), (49, 49)):
        down, across = (row - 24.5) / scale, (col - 24.5) / scale
        y = centre[0] + math.cos(angle) * down + math.sin(angle) * across
        x = centre[1] - math.sin(angle) * down + math.cos(angle) * across
        assert found.labels[row, col] == CODES[math.floor(y), math.floor(x)]
        for band in range(3):
            expected = ndimage.map_coordinates(NOISE[band].astype(float), [[y - 0.5], [x - 0.5]], order=1)[0]
            assert found.values[band, row, col] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.3, 0.11])
@pytest.mark.parametrize("kept", [True, False])
def test_shrinking_averages(scale: float, kept: bool) -> None:
    """A smooth picture stays what it is, and noise fades as the mean of the pixels that it covers."""
    waves = smooth(1200, 1200)
    found = window(Shape(64, scale=scale), (600, 600), waves, np.zeros((1200, 1200)), kept=kept)
    at = 600 + (np.arange(64) - 31.5) / scale
    expected = ndimage.map_coordinates(waves[0], np.meshgrid(at - 0.5, at - 0.5, indexing="ij"), order=1)
    np.testing.assert_allclose(found.values[0], expected, atol=6)
    grain = RNG.normal(100, 30, (1, 1200, 1200)).astype(np.float32)
    found = window(Shape(64, scale=scale), (600, 600), grain, np.zeros((1200, 1200)), kept=kept)
    assert found.values.std() < 30 * max(0.75 * scale, 0.12) * 1.7


def test_halving_is_the_mean_of_valid_pixels() -> None:
    values = RNG.integers(0, 256, (2, 7, 10)).astype(np.uint8)
    valid = RNG.random((7, 10)) < 0.7
    mean, known = halved(values * valid, valid)
    assert known is not None
    assert mean.shape == (2, 4, 5)
    for y in range(3):
        for x in range(5):
            here = valid[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            assert known[y, x] == (here.sum() >= 2)
            if here.any():
                expected = values[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2][:, here].mean(axis=1)
                np.testing.assert_allclose(mean[:, y, x], expected, atol=0.5)
    floats, known = halved(values.astype(np.float32), None)
    assert known is None
    np.testing.assert_allclose(floats[:, 1, 2], values[:, 2:4, 4:6].mean(axis=(1, 2)), rtol=1e-6)


def test_the_models_pixels_set_the_step() -> None:
    plain = window(Shape(40, scale=0.5))
    zoomed = cut(source(NOISE, CODES, zoom=2.0), one_side((300, 280)), Side.train, (150, 140), Shape(40))
    np.testing.assert_array_equal(plain.values, zoomed.values)
    np.testing.assert_array_equal(plain.labels, zoomed.labels)
    back = cut(source(NOISE, CODES, zoom=2.0), one_side((300, 280)), Side.train, (150, 140), Shape(40, scale=2.0))
    np.testing.assert_array_equal(back.values, NOISE[:, 130:170, 120:160])


def test_elastic_displacement_moves_image_and_labels_together() -> None:
    picture = (np.mgrid[:300, :280].sum(axis=0) // 20 % 5).astype(np.uint8)
    points = lattice_points(96, 24)
    bend = np.random.default_rng(2).standard_normal((2, points, points)).astype(np.float32) * 4
    found = window(Shape(96, bend=bend, spacing=24), values=picture[None] * np.uint8(50), labels=picture)
    plain = window(Shape(96), values=picture[None] * np.uint8(50), labels=picture)
    assert (found.labels != plain.labels).mean() > 0.1
    inner = ndimage.maximum_filter(found.labels, 5) == ndimage.minimum_filter(found.labels, 5)
    assert inner.mean() > 0.4
    np.testing.assert_allclose(found.values[0][inner], found.labels[inner] * 50, atol=1)


def test_the_displacement_has_the_standard_deviation_that_is_asked_for() -> None:
    y, x = np.mgrid[:300, :280].astype(np.float32)
    moves = []
    for seed in range(30):
        points = lattice_points(64, 16)
        bend = np.random.default_rng(seed).standard_normal((2, points, points)).astype(np.float32) * 3
        found = window(Shape(64, bend=bend, spacing=16), values=np.stack([y, x]), labels=CODES)
        moves.append(found.values - np.stack([y, x])[:, 118:182, 108:172])
    assert np.std(moves) == pytest.approx(3, rel=0.1)


def test_beyond_the_scene_it_is_reflected_and_unlabelled() -> None:
    found = window(Shape(64), (20, 140))
    np.testing.assert_array_equal(found.values[:, 12:], NOISE[:, :52, 108:172])
    np.testing.assert_array_equal(found.values[:, :12], NOISE[:, 12:0:-1, 108:172])
    assert (found.labels[:12] == IGNORED).all()
    assert (found.labels[12:] == CODES[:52, 108:172]).all()
    small = window(Shape(64, scale=1.1), (10, 10), NOISE[:, :20, :20], CODES[:20, :20])
    assert small.values.shape == (3, 64, 64)
    assert 0 < (small.labels != IGNORED).sum() <= 23**2


@pytest.mark.parametrize("scale", [1.0, 1.37, 0.6, 0.3])
def test_invalid_pixels_lend_nothing_to_their_neighbours(scale: float) -> None:
    valid = np.ones((300, 280), dtype=bool)
    valid[100:200, 100:150] = False
    valid[::7, ::5] = False
    values = np.full((2, 300, 280), 90, dtype=np.float32)
    values[:, ~valid] = 1e6
    found = window(Shape(64, scale=scale), values=values, valid=valid)
    assert 0.1 < found.valid.mean() < 0.95
    np.testing.assert_allclose(found.values[:, found.valid], 90, rtol=1e-5)


@pytest.mark.parametrize("kept", [True, False])
def test_held_out_pixels_never_reach_a_training_window(kept: bool) -> None:
    """They are poisoned, and the windows reach over them at all scales and angles."""
    edges = np.array([0, 100, 200, 300])
    table = np.array([[0, 1, 0], [0, 0, 2], [1, 0, 0]], dtype=np.uint8)
    for margin in (0, 9):
        sides = Sides(edges, edges, table, margin)
        trains = sides.mask(Rect(0, 0, 300, 300), Side.train)
        assert trains.mean() < (0.7 if margin == 0 else 0.6)
        values = np.where(trains, 50, 30000).astype(np.uint16)[None]
        labels = np.where(trains, 1, 3).astype(np.uint8)
        here = source(values, labels, kept=kept)
        rng = np.random.default_rng(0)
        seen = 0
        for k in range(150):
            points = lattice_points(48, 16)
            bend = rng.standard_normal((2, points, points)).astype(np.float32) * 3 if k % 3 == 0 else None
            shape = Shape(48, rng.uniform(0.15, 2), rng.uniform(-1, 1), int(rng.integers(8)), bend, 16)
            if k % 5 == 0:
                shape = Shape(48)
            found = cut(here, sides, Side.train, tuple(rng.uniform(0, 300, 2)), shape)
            seen += int((~found.valid).any())
            assert found.values[:, found.valid].max(initial=50) <= 50.001
            assert set(np.unique(found.labels)) <= {1, IGNORED}
        assert seen > 50


def test_windows_that_validate_see_around_their_block_but_have_no_labels_there() -> None:
    sides = Sides(np.array([0, 150, 300]), np.array([0, 280]), np.array([[0], [1]], dtype=np.uint8))
    found = cut(source(NOISE, CODES), sides, Side.validation, (150, 140), Shape(64))
    np.testing.assert_array_equal(found.values, NOISE[:, 118:182, 108:172])
    assert (found.labels[:32] == IGNORED).all()
    assert (found.labels[32:] == CODES[150:182, 108:172]).all()
