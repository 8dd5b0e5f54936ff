"""Land cover is a coverage, as close to the mask as was asked, and the same whatever the cells."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geounet.testing.strategies import masks
from geounet.types import NODATA
from geounet.vector.borders.reduce import Rule
from tests.support.coverages import in_pixels, landcover, smooth

WHOLE = 10_000


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small parts: that they survive a power cut is not tested here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def noise(size: int, classes: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, classes, (size, size)).astype(np.uint8)
    values[rng.random((size, size)) < 0.05] = NODATA
    return values


def is_coverage_of(found: dict[str, list[Any]], raw: dict[str, list[Any]], values: Any, rule: Rule) -> Any:
    """Assert that land cover is valid, without gaps or overlaps, and near the outlines `raw` of the same pixels."""
    geometry, before = in_pixels(found), in_pixels(raw)
    assert found["class_id"] == raw["class_id"]
    assert shapely.is_valid(geometry).all(), shapely.is_valid_reason(geometry)
    assert (shapely.get_type_id(geometry) == shapely.GeometryType.POLYGON).all()
    assert shapely.coverage_is_valid(geometry)
    # As many holes as before, in each polygon and in all together: no gap has opened, none has closed.
    assert shapely.get_num_interior_rings(geometry).tolist() == shapely.get_num_interior_rings(before).tolist()
    if len(geometry):
        union, as_it_was = shapely.coverage_union_all(geometry), shapely.coverage_union_all(before)
        holes = [shapely.get_num_interior_rings(shapely.get_parts(g)).sum() for g in (union, as_it_was)]
        assert holes[0] == holes[1]
        assert shapely.get_num_geometries(union) == shapely.get_num_geometries(as_it_was)
        assert shapely.area(geometry).sum() == pytest.approx(shapely.area(union))
    if (values != NODATA).all():
        assert shapely.equals(shapely.coverage_union_all(geometry), shapely.box(0, 0, *values.shape[::-1]))
    allowed = rule.tolerance_px + (rule.smooth_px / 2 + 0.5 if rule.smooth_px else 0) + 1e-9
    for polygon, pixels in zip(geometry, before, strict=True):
        corners = shapely.points(shapely.get_coordinates(pixels))
        assert shapely.distance(corners, shapely.boundary(polygon)).max() <= allowed
    return geometry


@pytest.mark.parametrize(
    ("rule", "unit"),
    [(Rule(0), 0.0), (Rule(1.5), 0.0), (Rule(1.5, 2), 30.0), (Rule(0.6), 30.0), (Rule(5), 0.0), (Rule(4, 50), 0.0)],
)
@pytest.mark.parametrize("make", [lambda: smooth(120, 4, 1), lambda: noise(60, 3, 2)])
def test_land_cover_is_the_same_coverage_for_all_cells(
    make: Callable[[], Any], rule: Rule, unit: float, tmp_path: Path
) -> None:
    values = make()
    raw = landcover(values, WHOLE, tmp_path / "raw", Rule(0), unit)
    first = landcover(values, WHOLE, tmp_path / "whole", rule, unit)
    geometry = is_coverage_of(first, raw, values, rule)
    for cell in (37, 64):
        assert landcover(values, cell, tmp_path / str(cell), rule, unit) == first
    pixels = int((values != NODATA).sum())
    assert shapely.area(in_pixels(raw)).sum() == pixels
    assert abs(shapely.area(geometry).sum() - pixels) < (0.02 if rule.smooth_px else 0.01) * pixels
    if rule.tolerance_px > 1 and not rule.smooth_px:
        before = shapely.get_num_coordinates(in_pixels(raw)).sum()
        assert shapely.get_num_coordinates(geometry).sum() < before


@given(
    masks(codes=(0, 1, 2, 3), max_rows=30, max_cols=30),
    st.integers(11, 30),
    st.sampled_from([0.3, 0.8, 1.5, 3.0, 10.0]),
    st.sampled_from([0.0, 0.0, 1.0, 3.0, 30.0]),
    st.sampled_from([0.0, 0.0, 6.0]),
)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mask(values: Any, cell: int, tolerance: float, radius: float, unit: float) -> None:
    rule = Rule(tolerance, radius)
    with tempfile.TemporaryDirectory() as folder:
        whole = landcover(values, WHOLE, Path(folder) / "whole", rule, unit)
        raw = landcover(values, WHOLE, Path(folder) / "raw", Rule(0), unit)
        found = landcover(values, cell, Path(folder) / "cells", rule, unit)
    is_coverage_of(whole, raw, values, rule)
    assert found == whole
