"""Random changes of colour and shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from geounet.config.data import Augment
from geounet.training.augment import Ranges, draw_shape, normalised, recoloured

EVERYTHING = {
    "symmetries": "d4", "scale": [0.5, 2], "rotation_deg": [-20, 20],
    "elastic": {"amplitude_px": [0, 3], "spacing_px": 32}, "brightness": [-0.1, 0.1], "contrast": [0.8, 1.25],
    "gamma": [0.8, 1.25], "band_brightness": [-0.05, 0.05], "band_contrast": [0.9, 1.1], "band_gamma": [0.9, 1.1],
    "saturation": [0.5, 1.5], "mixing": [0, 0.3], "noise": [0, 0.05], "blur_px": [0.1, 1], "dropout": 0.2,
}  # fmt: skip


def ranges(bands: int, clipped: bool = True) -> Ranges:
    return Ranges((100.0,) * bands, (50.0,) * bands, (0.0,) * bands, (255.0,) * bands, clipped)


def picture(bands: int, size: int = 64) -> Any:
    return np.random.default_rng(1).uniform(60, 160, (bands, size, size)).astype(np.float32)


def changed(x: Any, seed: int = 0, valid: Any = None, clipped: bool = True, fill: float = 0.0, **keys: Any) -> Any:
    """Window after recolouring, back in units of the file."""
    valid = np.ones(x.shape[1:], dtype=bool) if valid is None else valid
    rng = np.random.default_rng(seed)
    out = recoloured(x.copy(), valid, rng, Augment.model_validate(keys), ranges(len(x), clipped), fill)
    return out * 50 + 100


def test_nothing_asked_for_is_normalisation() -> None:
    x = picture(4)
    valid = x[0] > 70
    out = recoloured(x.copy(), valid, np.random.default_rng(0), Augment(), ranges(4), -2.0)
    np.testing.assert_allclose(out[:, valid], ((x - 100) / 50)[:, valid], atol=1e-5)
    assert (out[:, ~valid] == -2).all()
    np.testing.assert_allclose(normalised(x.copy(), valid, ranges(4), -2.0), out, atol=1e-5)


def test_each_change_is_what_it_says() -> None:
    x = picture(3)
    np.testing.assert_allclose(changed(x, brightness=[0.1, 0.1]), x + 25.5, atol=1e-3)
    np.testing.assert_allclose(changed(x, gamma=[2, 2]), 255 * (x / 255) ** 2, atol=1e-3)
    grey = changed(x, saturation=[0, 0])
    np.testing.assert_allclose(grey, np.broadcast_to(x.mean(axis=0), x.shape), atol=1e-3)
    out = changed(x, contrast=[0.5, 0.5])
    np.testing.assert_allclose(out.std(axis=(1, 2)), 0.5 * x.std(axis=(1, 2)), rtol=1e-3)
    np.testing.assert_allclose(out.mean(axis=(1, 2)), x.mean(axis=(1, 2)), atol=1.0)
    shift = (changed(x, band_brightness=[-0.1, 0.1]) - x).reshape(3, -1)
    assert np.ptp(shift, axis=1).max() < 1e-3
    assert len(set(np.round(shift[:, 0], 3).tolist())) == 3
    assert np.abs(shift).max() <= 25.5
    noise = changed(x, noise=[0.05, 0.05]) - x
    assert noise.std() == pytest.approx(0.05 * 255, rel=0.05)
    blurred = changed(x, blur_px=[1, 1])
    assert blurred.std() < 0.4 * x.std()
    np.testing.assert_allclose(blurred.mean(axis=(1, 2)), x.mean(axis=(1, 2)), atol=1.0)
    mixed = changed(x, mixing=[1, 1])
    weights = np.linalg.lstsq(x.reshape(3, -1).T, mixed.reshape(3, -1).T, rcond=None)[0]
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-4)
    assert (weights > -1e-4).all()


def test_colours_stay_within_eight_bits_only_where_there_are_eight() -> None:
    x = picture(3)
    assert changed(x, brightness=[0.9, 0.9]).max() <= 255.001
    np.testing.assert_allclose(changed(x, brightness=[0.9, 0.9], clipped=False), x + 0.9 * 255, atol=1e-3)
    # reflectance may be negative: that is no reason for NaN
    assert np.isfinite(changed(x - 120, gamma=[0.5, 0.5], clipped=False)).all()


def test_the_mean_that_contrast_keeps_is_that_of_valid_pixels() -> None:
    x = picture(2)
    valid = np.arange(64)[None] < np.full((64, 1), 40)
    x[:, ~valid] = 0
    out = changed(x, valid=valid, contrast=[0.5, 0.5])
    np.testing.assert_allclose(out[:, valid].mean(axis=1), x[:, valid].mean(axis=1), atol=4)  # 22 off otherwise


def test_blur_does_not_bring_in_what_is_invalid() -> None:
    x = picture(2)
    valid = np.ones((64, 64), dtype=bool)
    valid[20:40, 30:] = False
    other = np.where(valid, x, np.float32(250))
    out = [changed(v, valid=valid, blur_px=[1.5, 1.5]) for v in (x, other)]
    np.testing.assert_array_equal(out[0][:, valid], out[1][:, valid])
    flat = changed(np.where(valid, np.full_like(x, 90), np.float32(0)), valid=valid, blur_px=[2, 2])
    np.testing.assert_allclose(flat[:, valid], 90, atol=1e-2)


@pytest.mark.parametrize("bands", [1, 2, 4, 7])
def test_any_number_of_bands_and_all_at_once(bands: int) -> None:
    x = picture(bands)
    seen = [changed(x, seed=k, **EVERYTHING) for k in range(8)]
    assert all(np.isfinite(out).all() and out.shape == x.shape for out in seen)
    assert len({out.tobytes() for out in seen}) == 8
    assert (changed(x, seed=3, **EVERYTHING) == seen[3]).all()


def test_dropped_bands_are_filled_and_one_stays() -> None:
    x = picture(4)
    counts = []
    for seed in range(60):
        out = recoloured(x.copy(), x[0] > 0, np.random.default_rng(seed), Augment(dropout=0.5), ranges(4), -3.0)
        missing = (out == -3).all(axis=(1, 2))
        assert not missing.all()
        counts.append(int(missing.sum()))
    assert np.mean(counts) == pytest.approx(2, abs=0.5)


def test_chances_are_shares_of_windows() -> None:
    spec = {"brightness": {"range": [0.1, 0.1], "chance": 0.3}}
    x = picture(1, 8)
    hits = [bool((changed(x, seed=k, **spec) > x + 1).all()) for k in range(400)]
    assert np.mean(hits) == pytest.approx(0.3, abs=0.08)


def test_shapes_are_drawn_from_their_ranges() -> None:
    spec = Augment.model_validate(EVERYTHING)
    drawn = [draw_shape(np.random.default_rng(k), spec, 100) for k in range(400)]
    scales = np.log([s.scale for s in drawn])
    assert np.abs(scales).max() <= math.log(2)
    assert np.mean(scales) == pytest.approx(0, abs=0.06)  # as often larger as smaller
    assert np.quantile(scales, 0.1) < -0.4
    assert np.rad2deg([s.angle for s in drawn]).min() == pytest.approx(-20, abs=1)
    assert {s.symmetry for s in drawn} == set(range(8))
    assert max(float(np.std(s.bend)) for s in drawn if s.bend is not None) == pytest.approx(3, rel=0.3)
    flips = {draw_shape(np.random.default_rng(k), Augment(symmetries="flips"), 9).symmetry for k in range(50)}
    assert flips == {0, 2, 4, 6}
    still = draw_shape(np.random.default_rng(0), Augment(symmetries="none"), 9)
    assert (still.scale, still.angle, still.symmetry, still.bend) == (1, 0, 0, None)
