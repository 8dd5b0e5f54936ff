"""Buildings of any mask: valid, clear of each other, near their raw shapes, and the same whatever the cells."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from geounet.testing.flaws import LEVELS, contacts, flawed
from geounet.testing.strategies import masks
from geounet.vector.outlines.gate import MIN_IOU
from tests.unit.test_vector_buildings import buildings, shapes

FEW = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a town takes long, and is not clearer for being smaller
)


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small parts: that they survive a power cut is not tested here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def made(mask: Any, cell: int, **how: Any) -> dict[str, list[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        return buildings(mask, Path(folder), cell=cell, **how)


def check(found: dict[str, list[Any]], raw: dict[str, list[Any]]) -> None:
    """What holds of all buildings; `raw` are the same ones along pixel sides."""
    assert found.get("id") == raw.get("id")
    if not found.get("id"):
        return
    geometry, sides = shapes(found), shapes(raw)
    assert shapely.is_valid(geometry).all()
    assert (shapely.get_type_id(geometry) == shapely.GeometryType.POLYGON).all()
    a, b = shapely.STRtree(geometry).query(geometry, predicate="intersects")
    pairs = a < b
    assert shapely.area(shapely.intersection(geometry[a[pairs]], geometry[b[pairs]])).sum() < 1e-6
    common = shapely.area(shapely.intersection(geometry, sides))
    assert (common / (shapely.area(geometry) + shapely.area(sides) - common)).min() > MIN_IOU - 1e-3
    assert set(found["reg_status"]) <= {"regular", "oblique", "round", "simplified", "raw", "trimmed"}
    assert all(0 <= d < 180 for d in found["angle_deg"])


@FEW
@given(masks(codes=(0, 1, 2), nodata=False), st.sampled_from((0.0, 12.0)), st.integers(3, 30))
def test_any_mask(mask: Any, least: float, cell: int) -> None:
    whole = made(mask, 1000, min_area_m2=least, min_hole_m2=2.0)
    check(whole, made(mask, 1000, min_area_m2=least, min_hole_m2=2.0, outline="raw"))
    assert made(mask, cell, min_area_m2=least, min_hole_m2=2.0) == whole


@FEW
@given(st.integers(0, 1 << 30), st.sampled_from(("none", "light", "medium", "heavy")), st.integers(20, 70))
def test_towns_with_flaws(seed: int, level: str, cell: int) -> None:
    """Houses side by side and at odd angles, and what a network would make of them."""
    rng = np.random.default_rng(seed)
    houses = []
    for _ in range(3):
        middle, turn = rng.uniform(15, 85, 2), rng.uniform(0, 90)
        width, depth = rng.uniform(8, 14), rng.uniform(10, 24)
        row = [shapely.box(k * width, 0, (k + 1) * width, depth + rng.uniform(-3, 3)) for k in range(3)]
        houses += [shapely.affinity.translate(shapely.affinity.rotate(h, turn, origin=(0, 0)), *middle) for h in row]
    labels = flawed(houses, (100, 100), LEVELS[level], seed)
    mask = np.where(labels > 0, 1, 0)
    mask[contacts(labels)] = 2
    whole = made(mask, 1000)
    check(whole, made(mask, 1000, outline="raw"))
    assert made(mask, cell) == whole
