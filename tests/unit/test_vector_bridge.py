"""Gaps in roads: which are bridged, where to, and what bridges know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from geounet.types import NODATA
from geounet.vector.roads import RoadLayers
from tests.support.roads import check_consistent, made


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def road(gap: int = 12) -> Any:
    """A road of 8 m with a gap in its middle, and another one far from it."""
    mask = np.zeros((120, 300), dtype=np.uint8)
    mask[40:48] = mask[100:105] = 1
    mask[40:48, 150 : 150 + gap] = 0
    return mask


def bridged(layers: RoadLayers) -> list[dict[str, Any]]:
    """Bridges as rows."""
    check_consistent(layers)
    return [row for row in layers.edges.to_pylist() if row["bridged"]]


@pytest.mark.parametrize("cell", [1000, 155, 64])
def test_a_gap_in_a_road_is_bridged_if_the_probability_supports_it(cell: int, tmp_path: Path) -> None:
    mask = road()
    stored = np.where(mask == 1, 254, 0).astype(np.uint8)
    assert bridged(made(mask, cell, tmp_path / "0", usual=True, stored=stored)) == []
    stored[38:50, 150:162] = 127
    layers = made(mask, cell, tmp_path / "1", usual=True, stored=stored)
    (bridge,) = bridged(layers)
    assert sorted(layers.nodes["degree"].to_pylist()) == [1, 1, 1, 1, 2, 2]
    # From disc to disc: the gap, and what thinning leaves at both ends.
    assert 12 <= bridge["length_m"] <= 26
    assert bridge["width_m"] == pytest.approx(8, abs=1)
    assert 0.5 < bridge["confidence"] < 1
    line = shapely.from_wkb(bridge["geom"])
    assert np.ptp(np.array(line.coords)[:, 1]) < 1.1


def test_where_there_are_no_probabilities_shorter_gaps_are_bridged(tmp_path: Path) -> None:
    for gap, count in ((6, 1), (12, 0)):
        found = bridged(made(road(gap), 200, tmp_path / str(gap), usual=True))
        assert len(found) == count
        assert all(bridge["confidence"] is None for bridge in found)
    assert len(bridged(made(road(12), 200, tmp_path / "px", usual=True, bridge_blind_px=15))) == 1
    assert bridged(made(road(6), 200, tmp_path / "none", usual=True, bridge_blind_m=0)) == []


def test_no_bridge_leads_over_what_is_not_known(tmp_path: Path) -> None:
    mask = road(6)
    mask[38:50, 152] = NODATA
    assert bridged(made(mask, 200, tmp_path, usual=True)) == []


@pytest.mark.parametrize("cell", [1000, 50])
def test_a_road_that_ends_before_another_one_is_led_to_its_side(cell: int, tmp_path: Path) -> None:
    mask = np.zeros((200, 200), dtype=np.uint8)
    mask[90:100] = 1
    mask[106:, 60:68] = 1
    layers = made(mask, cell, tmp_path, usual=True)
    (bridge,) = bridged(layers)
    assert sorted(layers.nodes["degree"].to_pylist()) == [1, 1, 1, 2, 3]
    line = shapely.from_wkb(bridge["geom"])
    side = max(line.coords, key=lambda c: c[1])
    assert side == (pytest.approx(500064, abs=1), pytest.approx(5000000 - 95, abs=1))


def test_roads_side_by_side_are_not_linked(tmp_path: Path) -> None:
    mask = np.zeros((100, 300), dtype=np.uint8)
    mask[40:46, 20:180] = mask[52:58, 120:280] = 1
    assert bridged(made(mask, 200, tmp_path, usual=True)) == []


def test_what_stands_beside_a_road_makes_no_loop(tmp_path: Path) -> None:
    # A parked car that touches the road: a dead end along the road, with the road before it.
    mask = np.zeros((100, 300), dtype=np.uint8)
    mask[40:50] = 1
    mask[50:53, 140:142] = mask[53:58, 130:152] = 1
    layers = made(mask, 200, tmp_path, usual=True, min_length_m=0, spur_widths=0, bridge_blind_px=10)
    assert bridged(layers) == []
    assert made(mask, 200, tmp_path / "usual", usual=True, min_length_m=25).edges.num_rows == 1


def test_a_gap_in_a_ring_is_bridged(tmp_path: Path) -> None:
    y, x = np.mgrid[0:120, 0:120]
    ring = np.abs(np.hypot(y - 60, x - 60) - 40) < 3
    ring &= ~((np.abs(y - 60) < 4) & (x > 60))
    (bridge,) = bridged(made(ring, 50, tmp_path, usual=True))
    assert bridge["from_node"] != bridge["to_node"]


def test_of_two_roads_before_a_dead_end_the_one_it_points_at_is_linked(tmp_path: Path) -> None:
    mask = np.zeros((120, 300), dtype=np.uint8)
    mask[50:56, :140] = mask[50:56, 147:250] = 1
    mask[60:66, 147:250] = 1
    (bridge,) = bridged(made(mask, 100, tmp_path, usual=True))
    assert np.ptp(np.array(shapely.from_wkb(bridge["geom"]).coords)[:, 1]) < 1.1
