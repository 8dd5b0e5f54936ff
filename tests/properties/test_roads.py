"""Road networks of random masks: consistent, on their roads, and the same whatever the cells and workers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geounet.config.job import Roads
from geounet.testing.strategies import masks
from geounet.types import NODATA, Rect
from geounet.vector import skeleton
from geounet.vector.attributes import Ground
from geounet.vector.build import ProcessExecutor
from geounet.vector.roads import roads
from geounet.vector.thinning import thin
from tests.support.roads import UTM, WHOLE, check_consistent, made, stage, streets


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small parts: that they survive a power cut is not tested here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    """Draw values of the section's keys, in pixels of one metre."""
    return {
        "min_area_px": draw(st.sampled_from((0, 3, 20))),
        "min_hole_px": draw(st.sampled_from((0, 2, 30))),
        "min_length_px": draw(st.sampled_from((0, 4, 12))),
        "spur_widths": draw(st.sampled_from((0, 0.75, 2))),
        "junction_widths": draw(st.sampled_from((0, 0.9, 2))),
        "bridge_px": draw(st.sampled_from((0, 6, 20))),
        "bridge_blind_px": draw(st.sampled_from((0, 5, 20))),
        "smooth_widths": draw(st.sampled_from((0, 0.5, 3))),
        "tolerance_px": draw(st.sampled_from((0, 1, 4))),
    }


def stored_of(mask: Any, seed: int) -> Any:
    """Return stored probabilities that go with a mask, some of them high between its roads."""
    rng = np.random.default_rng(seed)
    stored = np.where(mask == 1, rng.integers(128, 255, mask.shape), rng.integers(0, 128, mask.shape))
    return np.where(mask == NODATA, NODATA, stored).astype(np.uint8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(masks(codes=(0, 1)), parameters(), st.integers(3, 40), st.booleans(), st.integers(0, 99))
def test_networks_are_consistent_and_the_same_for_all_cells(
    mask: Any, how: dict[str, Any], cell: int, known: bool, seed: int
) -> None:
    stored = stored_of(mask, seed) if known else None
    with tempfile.TemporaryDirectory() as folder:
        whole, found = (made(mask, c, Path(folder) / str(c), usual=True, stored=stored, **how) for c in (WHOLE, cell))
        check_consistent(whole)
        assert found.inexact_cells == 0
        assert found.nodes.equals(whole.nodes)
        assert found.edges.equals(whole.edges)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**16), st.integers(16, 90), parameters(), st.booleans(), st.sampled_from((0, 0.002, 0.03)))
def test_streets_are_the_same_for_all_cells(
    seed: int, cell: int, how: dict[str, Any], known: bool, specks: float
) -> None:
    mask = streets(160, seed)
    mask[np.random.default_rng(seed).random(mask.shape) < specks] = NODATA
    stored = stored_of(mask, seed) if known else None
    with tempfile.TemporaryDirectory() as folder:
        whole, found = (made(mask, c, Path(folder) / str(c), usual=True, stored=stored, **how) for c in (WHOLE, cell))
        check_consistent(whole)
        assert found.nodes.equals(whole.nodes)
        assert found.edges.equals(whole.edges)


@pytest.mark.parametrize("seed", range(4))
def test_a_border_that_is_barely_wide_enough_is_wide_enough(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Far less than usual, so that borders grow, and none of it to spare.
    for name in ("BORDER", "QUIET", "WIDE"):
        monkeypatch.setattr(skeleton, name, 4)
    rng = np.random.default_rng(seed)
    mask = streets(240, seed) == 1
    if seed % 2:
        mask = ndimage.gaussian_filter(rng.random((240, 240)), rng.uniform(1, 5)) > 0.49
    asked = stage(mask, 32, Path())
    whole = Rect(0, 0, *mask.shape)
    expected, _ = thin(mask, held=skeleton.exits(mask, whole, whole))
    smaller = 0
    for index in range(asked.grid.count):
        rect = asked.grid.rect(index)
        _, lines, outer, exact = skeleton.window(asked.plane, rect, asked.grid)
        assert exact
        smaller += outer != whole
        core = skeleton.grown(rect, 1).intersection(whole)
        assert (lines[core.slices_in(outer)] == expected[core.slices_in(whole)]).all()
    assert smaller > asked.grid.count / 2


@pytest.mark.parametrize("known", [True, False])
def test_two_processes_make_the_network_of_one(known: bool, tmp_path: Path) -> None:
    mask = streets(400, 7)
    stored = stored_of(mask, 7) if known else None
    one = made(mask, 150, tmp_path / "one", usual=True, stored=stored)
    ground = Ground(UTM, (1.0, 0.0, 500000.0, 0.0, -1.0, 5000000.0), *mask.shape)
    with ProcessExecutor(2) as executor:
        two = roads(stage(mask, 100, tmp_path / "two", stored), executor, ground, Roads())
    check_consistent(two)
    assert one.counts["bridges"] > 0
    assert two.edges.equals(one.edges)
    assert two.nodes.equals(one.nodes)
