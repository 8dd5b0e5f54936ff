"""Resampling: the same bits for any window, exact means, and nothing from invalid pixels."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from geounet.raster import resample
from geounet.raster.resample import ResampledScene, coverage, interpolate, model_grid, source_rect
from geounet.types import Rect

SIDE = st.integers(1, 40)


@st.composite
def cases(draw):
    """Two grids, a window of the target, pixels and validity on the source."""
    source = (draw(SIDE), draw(SIDE))
    target = (draw(SIDE), draw(SIDE))
    y0, x0 = draw(st.integers(0, target[0] - 1)), draw(st.integers(0, target[1] - 1))
    rect = Rect(y0, x0, draw(st.integers(y0 + 1, target[0])), draw(st.integers(x0 + 1, target[1])))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    dtype = draw(st.sampled_from(["uint8", "int16", "int32", "float32", "float64"]))
    planes = (rng.random((2, *source)) * 250).astype(dtype)
    share = draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    valid = rng.random(source) >= share
    return source, target, rect, planes, valid


def crop(array, rect):
    return array[..., rect.y0 : rect.y1, rect.x0 : rect.x1]


def whole(shape):
    return Rect(0, 0, *shape)


@given(cases(), st.booleans())
def test_a_window_has_the_bits_of_the_crop_of_the_whole(case, weighted):
    source, target, rect, planes, valid = case
    weight = valid if weighted else None
    full = interpolate(planes, whole(source), source, whole(target), target, weight)
    needed = source_rect(rect, target, source)
    part = interpolate(
        crop(planes, needed), needed, source, rect, target, None if weight is None else crop(weight, needed)
    )
    assert part.dtype == np.float64
    np.testing.assert_array_equal(part.view(np.uint64), np.ascontiguousarray(crop(full, rect)).view(np.uint64))
    known = coverage(crop(valid, needed), needed, source, rect, target)
    np.testing.assert_array_equal(known, crop(coverage(valid, whole(source), source, whole(target), target), rect))


@given(cases())
def test_chunks_of_rows_do_not_show(case):
    source, target, rect, planes, valid = case
    before = interpolate(planes, whole(source), source, rect, target, valid)
    chunk = resample._CHUNK
    try:
        resample._CHUNK = 1
        after = interpolate(planes, whole(source), source, rect, target, valid)
    finally:
        resample._CHUNK = chunk
    np.testing.assert_array_equal(before, after)


@given(cases())
def test_more_source_than_needed_changes_nothing(case):
    source, target, rect, planes, valid = case
    needed = source_rect(rect, target, source)
    least = interpolate(crop(planes, needed), needed, source, rect, target, crop(valid, needed))
    most = interpolate(planes, whole(source), source, rect, target, valid)
    np.testing.assert_array_equal(least, most)


def weights(j, target, source):
    """Weights of one output pixel along one axis, by the definition, as exact fractions."""
    found = {}
    scale = Fraction(source, target)
    if source >= target:
        lo, hi = j * scale, (j + 1) * scale
        for i in range(source):
            overlap = min(hi, i + 1) - max(lo, i)
            if overlap > 0:
                found[i] = overlap / scale
        return found
    position = (j + Fraction(1, 2)) * scale - Fraction(1, 2)
    first = position.numerator // position.denominator
    for i, weight in ((first, 1 - (position - first)), (first + 1, position - first)):
        if weight:
            i = min(max(i, 0), source - 1)
            found[i] = found.get(i, 0) + weight
    return found


@given(cases())
def test_values_and_coverage_follow_the_definition(case):
    source, target, rect, planes, valid = case
    planes = planes.astype("int32")
    got = interpolate(planes, whole(source), source, rect, target, valid)
    known = coverage(valid, whole(source), source, rect, target)
    y, x = (rect.y0 + rect.y1) // 2, (rect.x0 + rect.x1) // 2
    total, sums = Fraction(0), Fraction(0)
    for i, down in weights(y, target[0], source[0]).items():
        for k, across in weights(x, target[1], source[1]).items():
            if valid[i, k]:
                total += down * across
                sums += down * across * int(planes[0, i, k])
    expected = float(sums / total) if total else 0.0
    assert got[0, y - rect.y0, x - rect.x0] == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert known[y - rect.y0, x - rect.x0] == (total >= Fraction(1, 2))


@given(cases(), st.integers(-(2**30), 2**30))
def test_constants_stay_exactly(case, value):
    source, target, rect, _, valid = case
    planes = np.full((1, *source), value, dtype=np.int32)
    got = interpolate(planes, whole(source), source, rect, target, valid)
    some = interpolate(valid[None].astype(np.uint8), whole(source), source, rect, target) > 0
    np.testing.assert_array_equal(got, np.where(some, value, 0))
    np.testing.assert_array_equal(interpolate(planes, whole(source), source, rect, target), value)


@given(cases())
def test_invalid_pixels_do_not_contribute(case):
    source, target, rect, planes, valid = case
    clean = interpolate(planes.astype(float), whole(source), source, rect, target, valid)
    dirty = np.where(valid, planes.astype(float), np.nan)
    np.testing.assert_array_equal(interpolate(dirty, whole(source), source, rect, target, valid), clean)
    assert np.isfinite(clean).all()


@given(arrays.arrays(np.int32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.integers(-9, 9)))
def test_the_same_grid_is_the_identity(plane):
    shape = plane.shape
    np.testing.assert_array_equal(interpolate(plane[None], whole(shape), shape, whole(shape), shape)[0], plane)


@given(cases())
def test_means_are_kept_when_shrinking_evenly(case):
    source, _, _, planes, _ = case
    factor = 3
    big = (source[0] * factor, source[1] * factor)
    plane = np.kron(planes[0].astype(np.int64), np.ones((factor, factor), dtype=np.int64))
    np.testing.assert_array_equal(
        interpolate(plane[None], whole(big), big, whole(source), source)[0], planes[0].astype(np.int64)
    )


def test_missing_source_is_refused():
    with pytest.raises(ValueError, match="needs the source pixels"):
        interpolate(np.zeros((1, 3, 10)), Rect(0, 0, 3, 10), (10, 10), Rect(0, 0, 5, 5), (5, 5))
    with pytest.raises(ValueError, match="the source rectangle is"):
        interpolate(np.zeros((1, 9, 10)), Rect(0, 0, 10, 10), (10, 10), Rect(0, 0, 5, 5), (5, 5))


class Fake:
    """A scene in memory."""

    def __init__(self, planes, valid):
        self.planes, self.valid = planes, valid
        self.info = SimpleNamespace(
            height=valid.shape[0], width=valid.shape[1], band_names=tuple("b" * len(planes)), gsd=0.5, name="fake"
        )

    def read(self, rect):
        valid = crop(self.valid, rect)
        return np.where(valid, crop(self.planes, rect), 0).astype(np.float32), valid

    def read_validity(self, rect):
        return crop(self.valid, rect)


@given(cases(), st.sampled_from([1, 1000, 10**9]))
def test_resampled_scenes_do_not_depend_on_window_or_memory(case, strip_bytes):
    _, target, rect, planes, valid = case
    scene = ResampledScene(Fake(planes, valid), target)
    values, known = scene.read(whole(target))
    before = resample._STRIP_BYTES
    try:
        resample._STRIP_BYTES = strip_bytes
        part, part_known = scene.read(rect)
        only = scene.read_validity(rect)
    finally:
        resample._STRIP_BYTES = before
    assert part.dtype == np.float32
    np.testing.assert_array_equal(part, crop(values, rect))
    np.testing.assert_array_equal(part_known, crop(known, rect))
    np.testing.assert_array_equal(only, part_known)
    assert (part[:, ~part_known] == 0).all()


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.01, 100), st.floats(0.01, 100))
def test_model_grid(rows, cols, own, wanted):
    info = SimpleNamespace(height=rows, width=cols, gsd=own, name="s", aspect=1.0)
    shape = model_grid(info, wanted)
    assert shape == (max(1, round(rows * own / wanted)), max(1, round(cols * own / wanted)))
    info.aspect = 1.049  # what projections stretch changes no grid
    assert model_grid(info, wanted) == shape
    info.aspect = 1 / 1.049
    assert model_grid(info, wanted) == shape


@given(st.integers(100, 10**5), st.integers(100, 10**5), st.floats(0.1, 10), st.floats(0.1, 10))
def test_model_grid_makes_pixels_square(rows, cols, across, down):
    info = SimpleNamespace(height=rows, width=cols, gsd=(across * down) ** 0.5, name="s", aspect=across / down)
    high, wide = model_grid(info, 0.05)
    if not 1 / 1.051 < across / down < 1.051:
        assert high == pytest.approx(rows * down / 0.05, abs=0.51)
        assert wide == pytest.approx(cols * across / 0.05, abs=0.51)


def test_model_grid_needs_a_ground_sample_distance():
    with pytest.raises(ValueError, match="unknown"):
        model_grid(SimpleNamespace(height=1, width=1, gsd=None, name="s"), 1.0)
    with pytest.raises(ValueError, match="positive"):
        model_grid(SimpleNamespace(height=1, width=1, gsd=1.0, name="s"), 0.0)


@given(cases())
def test_objects_stay_where_they_are(case):
    # The mean position of a plane that holds its own coordinates: no drift between the grids.
    source, target, _, _, _ = case
    columns = (np.arange(source[1]) + 0.5)[None, None, :].repeat(source[0], axis=1)
    got = interpolate(columns, whole(source), source, whole(target), target)[0]
    expected = (np.arange(target[1]) + 0.5) * source[1] / target[1]
    inner = (expected >= 0.5) & (expected <= source[1] - 0.5)
    # Averaging treats source pixels as squares of one value: at most 1/8 px off within an uneven step, 0 on average.
    tolerance = 0.126 if source[1] > target[1] and source[1] % target[1] else 1e-9
    np.testing.assert_allclose(
        got[:, inner], np.broadcast_to(expected[inner], (target[0], inner.sum())), atol=tolerance, rtol=0
    )
    if source[1] >= target[1]:
        assert got.mean() == pytest.approx(expected.mean())
