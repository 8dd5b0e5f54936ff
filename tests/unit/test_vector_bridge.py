"""Gaps in roads: which are bridged, where to, and what bridges know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from geounet.types import NODATA
from geounet.vector.components import unite
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


def hidden(kind: str, turn: float = 0.0) -> Any:
    """Roads of 6 m that meet below a tree of 9 m: two that cross, or one that ends at another one."""
    y, x = np.mgrid[0:200, 0:200] - 99.5
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    x, y = cos * x + sin * y, cos * y - sin * x
    mask = np.abs(y) < 3
    mask |= (np.abs(x) < 3) & ((kind == "cross") | (y < 0))
    return mask & ~(np.maximum(np.abs(x), np.abs(y)) < 4)


@pytest.mark.parametrize("turn", [0, 8])
@pytest.mark.parametrize(("kind", "arms"), [("cross", 4), ("end", 3)])
@pytest.mark.parametrize("known", [False, True])
def test_a_hidden_junction_is_one(kind: str, arms: int, turn: float, known: bool, tmp_path: Path) -> None:
    mask = hidden(kind, turn)
    stored = np.where(mask, 254, 127).astype(np.uint8) if known else None
    whole, *others = (made(mask, c, tmp_path / str(c), usual=True, stored=stored) for c in (1000, 97, 33))
    found = bridged(whole)
    assert len(found) == arms
    assert sorted(whole.nodes["degree"].to_pylist()) == sorted([1] * arms + [2] * arms + [arms])
    (node,) = [n for n in whole.nodes.to_pylist() if n["degree"] == arms]
    assert shapely.from_wkb(node["geom"]).distance(shapely.Point(500100, 5000000 - 100)) < 1.5
    assert all(node["node"] in (row["from_node"], row["to_node"]) for row in found)
    lines = shapely.from_wkb(whole.edges["geom"].to_numpy(zero_copy_only=False))
    assert len(shapely.STRtree(lines).query(lines, predicate="crosses")[0]) == 0
    for row in found:
        assert row["width_m"] == pytest.approx(6, abs=1.5)
        assert row["length_m"] < 12
        assert row["confidence"] is None if stored is None else 0.5 < row["confidence"] < 1
    for other in others:
        assert other.edges.equals(whole.edges)
        assert other.nodes.equals(whole.nodes)


@pytest.mark.parametrize("turn", [15, 20, 30, 45])
@pytest.mark.parametrize(("kind", "arms"), [("cross", 4), ("end", 3)])
def test_roads_at_a_hidden_junction_all_reach_each_other_and_no_edges_cross(
    kind: str, arms: int, turn: float, tmp_path: Path
) -> None:
    layers = made(hidden(kind, turn), 64, tmp_path, usual=True)
    assert len(bridged(layers)) in (arms - 1, arms)
    edges = layers.edges.to_pydict()
    assert (
        len(np.unique(unite(layers.nodes.num_rows, *(np.array(edges[n]) - 1 for n in ("from_node", "to_node"))))) == 1
    )
    assert len(edges["from_node"]) == layers.nodes.num_rows - 1, "no loop"
    lines = shapely.from_wkb(edges["geom"])
    assert len(shapely.STRtree(lines).query(lines, predicate="crosses")[0]) == 0


def test_a_dead_end_is_led_to_a_bridge_over_roads_no_more_than_to_others(tmp_path: Path) -> None:
    mask = hidden("end")
    stored = np.where(mask, 254, 127).astype(np.uint8)
    assert len(bridged(made(mask, 200, tmp_path / "0", usual=True, stored=stored))) == 3
    stored[95:97, 96:104] = NODATA  # between the third road and the bridge
    mask = mask.astype(np.uint8)
    mask[95:97, 96:104] = NODATA
    assert len(bridged(made(mask, 200, tmp_path / "1", usual=True, stored=stored))) == 1
    # Where the network leads there by a short way already, there is nothing to link.
    mask = hidden("end")
    mask[80:86, 85:100] = mask[80:100, 85:89] = True
    assert len(bridged(made(mask, 200, tmp_path / "2", usual=True))) <= 1


def test_three_roads_that_cross_below_a_tree_make_one_junction(tmp_path: Path) -> None:
    y, x = np.mgrid[0:200, 0:200] - 99.5
    mask = np.zeros((200, 200), dtype=bool)
    for turn in (5, 65, 125):
        mask |= np.abs(y * np.cos(np.radians(turn)) - x * np.sin(np.radians(turn))) < 2
    mask &= np.hypot(y, x) > 6.5
    layers = made(mask, 60, tmp_path, usual=True, bridge_blind_m=15)
    assert len(bridged(layers)) == 6
    assert sorted(layers.nodes["degree"].to_pylist()) == [1] * 6 + [2] * 6 + [6]
    # Without two of the roads' ends the bridge that is left is one.
    mask[(np.abs(np.hypot(y, x) - 70) < 45) & (np.abs(np.degrees(np.arctan2(y, x)) % 180 - 5) > 20)] = False
    layers = made(mask, 60, tmp_path / "less", usual=True, bridge_blind_m=15, min_length_m=40)
    assert len(bridged(layers)) == 1
