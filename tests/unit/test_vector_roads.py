"""Centre lines and the road graph: exact over cells, consistent, nothing lost that libraries lose."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from skimage.morphology import skeletonize

from geounet.types import Rect
from geounet.vector import skeleton
from geounet.vector.attributes import Ground
from geounet.vector.build import SerialExecutor
from geounet.vector.cells import CellGrid
from geounet.vector.network import build
from geounet.vector.roads import Roads, roads
from geounet.vector.skeleton import Lines, Stage, joined, linked, squared_distances, thin_cell
from tests.support.vectors import ArrayPlane, ArrayProbability

WHOLE = 100_000
UTM = "EPSG:32633"


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def stage(mask: Any, cell: int, folder: Path, stored: Any = None) -> Stage:
    folder.mkdir(parents=True, exist_ok=True)
    probability: Any = None if stored is None else ArrayProbability(stored)
    return Stage(ArrayPlane(np.where(mask, 1, 255)), probability, CellGrid(*mask.shape, cell), str(folder), "roads")


def lines_of(asked: Stage) -> tuple[Lines, bool]:
    """All paths, and whether all cells were exact."""
    exact = sum(thin_cell((asked, i))["exact"] for i in range(asked.grid.count)) == asked.grid.count
    names = ["pixel", "squared", "stored", "offsets"]
    return joined([Lines(**skeleton.parts.load(asked.path(i), names)) for i in range(asked.grid.count)]), exact


def made(
    mask: Any, cell: int, folder: Path, *, shortest: float = 0.0, tolerance: float = 0.0, stored: Any = None
) -> Roads:
    """Roads of a mask with pixels of one metre."""
    ground = Ground(UTM, (1.0, 0.0, 500000.0, 0.0, -1.0, 5000000.0), *mask.shape)
    return roads(stage(mask, cell, folder, stored), SerialExecutor(), ground, shortest, tolerance)


def paths(lines: Lines) -> set[tuple[int, ...]]:
    return {tuple(part.tolist()) for part in np.split(lines.pixel, lines.offsets[1:-1])}


def canvas(rows: int, cols: int) -> Any:
    return np.zeros((rows, cols), dtype=bool)


def streets(size: int, seed: int) -> Any:
    """Roads of several widths that cross, curve and leave, and a square as wide as a block."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size]
    mask = canvas(size, size)
    for _ in range(9):
        angle, offset, half = rng.uniform(0, np.pi), rng.uniform(-size / 2, size / 2), rng.uniform(0.6, 9)
        bend = rng.uniform(0, 12) * np.sin((x + y) / rng.uniform(15, 60))
        mask |= np.abs((x - size / 2) * np.sin(angle) - (y - size / 2) * np.cos(angle) - offset + bend) < half
    mask[size // 3 : size // 3 + 50, size // 2 : size // 2 + 60] = True
    mask &= rng.random(mask.shape) > 0.002
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_centre_lines_of_cells_are_those_of_the_whole(seed: int, tmp_path: Path) -> None:
    mask = streets(300, seed)
    whole, _ = lines_of(stage(mask, WHOLE, tmp_path / "whole"))
    reference = skeletonize(mask)
    # Every pixel of the reference that has a neighbour is on a path, and none else.
    padded = np.pad(reference, 1)
    alone = reference & ~np.any([linked(padded, dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx], axis=0)
    assert set(whole.pixel.tolist()) == set(np.flatnonzero(reference & ~alone).tolist())
    for cell in (64, 100, 37):
        found, exact = lines_of(stage(mask, cell, tmp_path / str(cell)))
        assert exact
        assert paths(found) == paths(whole)
        order = np.argsort(found.pixel, kind="stable")
        other = np.argsort(whole.pixel, kind="stable")
        assert (found.squared[order] == whole.squared[other]).all()


def test_an_area_wider_than_the_border_makes_the_border_grow(tmp_path: Path) -> None:
    mask = canvas(420, 420)
    mask[100:330, 120:360] = True  # 115 px half-width; the first border is 64
    mask[200:206] = True
    whole, _ = lines_of(stage(mask, WHOLE, tmp_path / "whole"))
    found, exact = lines_of(stage(mask, 128, tmp_path / "cells"))
    assert exact
    assert paths(found) == paths(whole)


def test_too_wide_an_area_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton, "WIDEST", 100)
    mask = canvas(600, 600)
    mask[50:550, 50:550] = True
    _, exact = lines_of(stage(mask, 64, tmp_path))
    assert not exact
    ground = Ground(UTM, (1.0, 0.0, 500000.0, 0.0, -1.0, 5000000.0), 600, 600)
    assert roads(stage(mask, 64, tmp_path), SerialExecutor(), ground, 0, 0).inexact_cells > 0


@pytest.mark.parametrize(("shortest", "tolerance"), [(0.0, 0.0), (12.0, 1.0)])
def test_the_network_does_not_depend_on_cells(shortest: float, tolerance: float, tmp_path: Path) -> None:
    mask = streets(260, 7)
    stored = np.random.default_rng(0).integers(0, 255, mask.shape)
    first = made(mask, WHOLE, tmp_path / "whole", shortest=shortest, tolerance=tolerance, stored=stored)
    assert first.edges.num_rows > 10
    for cell in (41, 64, 130):
        found = made(mask, cell, tmp_path / str(cell), shortest=shortest, tolerance=tolerance, stored=stored)
        assert found.edges.to_pydict() == first.edges.to_pydict()
        assert found.nodes.to_pydict() == first.nodes.to_pydict()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shortest", [0.0, 20.0])
def test_every_end_is_a_node_and_degrees_match(seed: int, shortest: float, tmp_path: Path) -> None:
    found = made(streets(220, seed), 64, tmp_path, shortest=shortest, tolerance=1.0)
    edges, nodes = found.edges.to_pydict(), found.nodes.to_pydict()
    at = dict(zip(nodes["node"], shapely.from_wkb(nodes["geom"]), strict=True))
    ends: list[int] = []
    for line, start, end, length in zip(
        shapely.from_wkb(edges["geom"]), edges["from_node"], edges["to_node"], edges["length_m"], strict=True
    ):
        assert line.is_valid
        assert line.length == pytest.approx(length, rel=2e-3)
        assert shapely.Point(line.coords[0]) == at[start]
        assert shapely.Point(line.coords[-1]) == at[end]
        ends += [start, end]
    assert nodes["node"] == list(range(1, len(nodes["node"]) + 1))
    assert [ends.count(n) for n in nodes["node"]] == nodes["degree"]


def test_parallel_edges_and_loops_stay(tmp_path: Path) -> None:
    y, x = np.mgrid[0:120, 0:300]
    mask = (np.abs(np.hypot(y - 60, x - 80) - 40) < 3) & (x > 0)  # a roundabout with two arms: parallel edges
    mask |= (np.abs(y - 60) < 2) & ((x < 42) | ((x > 118) & (x < 160)))
    mask |= np.abs(np.hypot(y - 60, x - 230) - 30) < 3  # a ring without a junction
    found = made(mask, 50, tmp_path, tolerance=1.0)
    edges = found.edges.to_pydict()
    pairs = sorted(zip(edges["from_node"], edges["to_node"], strict=True))
    loops = [p for p in pairs if p[0] == p[1]]
    assert len(loops) == 1
    assert len([p for p in pairs if pairs.count(p) == 2]) == 2
    assert len(pairs) == 5
    (at,) = [i for i, node in enumerate(edges["from_node"]) if node == edges["to_node"][i]]
    ring = shapely.from_wkb(edges["geom"][at])
    assert ring.is_ring
    assert ring.length == pytest.approx(2 * np.pi * 30, rel=0.06)


def test_a_loop_on_a_stalk_stays(tmp_path: Path) -> None:
    y, x = np.mgrid[0:100, 0:140]
    mask = (np.abs(np.hypot(y - 50, x - 40) - 25) < 2) | ((np.abs(y - 50) < 2) & (x > 63) & (x < 130))
    edges = made(mask, 33, tmp_path, shortest=30.0).edges.to_pydict()
    assert sorted(a == b for a, b in zip(edges["from_node"], edges["to_node"], strict=True)) == [False, True]


def test_spurs_and_crumbs_go_but_not_links_between_junctions(tmp_path: Path) -> None:
    mask = canvas(200, 200)
    mask[50:53, 10:190] = True
    mask[120:123, 10:190] = True
    mask[50:120, 60:63] = True  # a link
    mask[53:60, 100:103] = True  # a spur of 8 m
    mask[180:183, 20:30] = True  # a crumb of 10 m
    every, pruned = made(mask, 70, tmp_path / "0"), made(mask, 70, tmp_path / "1", shortest=15.0)
    assert every.edges.num_rows == 8
    assert pruned.edges.num_rows == 5
    assert sorted(pruned.nodes.to_pydict()["degree"]) == [1, 1, 1, 1, 3, 3]
    # What the spur's junction divided is one edge again.
    assert max(pruned.edges.to_pydict()["length_m"]) == pytest.approx(127, abs=4)


def test_the_shortest_spur_of_a_fork_goes_and_the_other_stays(tmp_path: Path) -> None:
    mask = canvas(120, 200)
    mask[60:63, 10:150] = True
    for k in range(16):  # ends in a fork: 10 and 16 px
        mask[60 - k : 63 - k, 150 + k] = True
        if k < 10:
            mask[60 + k : 63 + k, 150 + k] = True
    found = made(mask, 64, tmp_path, shortest=25.0)
    assert found.edges.num_rows == 1
    assert found.edges.to_pydict()["length_m"][0] > 140 + 12


@pytest.mark.parametrize("width", [3, 5, 8, 12])
def test_width_and_confidence(width: int, tmp_path: Path) -> None:
    mask = canvas(60, 260)
    mask[20 : 20 + width, 10:250] = True
    stored = np.full(mask.shape, 127)
    edges = made(mask, 64, tmp_path, stored=stored, shortest=20.0).edges.to_pydict()
    assert edges["width_m"] == [pytest.approx(width, abs=1.01)]
    assert edges["confidence"] == [pytest.approx(0.5)]
    assert edges["bridged"] == [False]


def test_junctions_side_by_side_are_one_node(tmp_path: Path) -> None:
    mask = canvas(120, 120)
    mask[58:62, :] = True  # four arms of even width meet: thinning makes two junctions of three
    mask[:, 58:62] = True
    found = made(mask, 50, tmp_path, shortest=10.0)
    degrees = sorted(found.nodes.to_pydict()["degree"])
    assert degrees in ([1, 1, 1, 1, 4], [1, 1, 1, 1, 3, 3])
    assert found.edges.num_rows == len(degrees) - 1


def test_a_raster_wider_than_16_bits(tmp_path: Path) -> None:
    mask = canvas(12, 70_000)
    mask[4:7, 100:69_900] = True
    edges = made(mask, 20_000, tmp_path, tolerance=1.0).edges.to_pydict()
    assert len(edges["geom"]) == 1
    line = shapely.from_wkb(edges["geom"][0])
    assert line.bounds[0] < 500_110
    assert line.bounds[2] > 569_890


@pytest.mark.slow
def test_more_junctions_than_16_bits(tmp_path: Path) -> None:
    # A grid of lines: sknw ends with a segmentation fault here.
    mask = canvas(1600, 1600)
    mask[2::6] = True
    mask[:, 2::6] = True
    lines, _ = lines_of(stage(mask, 500, tmp_path))
    network = build(lines, 1600, 0.0, (1.0, 1.0))
    assert (network.degree >= 3).sum() > 65_535


def test_no_roads_no_features(tmp_path: Path) -> None:
    found = made(canvas(50, 50), 20, tmp_path)
    assert found.edges.num_rows == found.nodes.num_rows == 0


def test_all_road(tmp_path: Path) -> None:
    assert (squared_distances(np.ones((4, 5), dtype=bool)) == 25).all()
    found = made(~canvas(80, 120), 30, tmp_path)
    assert found.nodes.num_rows == len(set(found.nodes.to_pydict()["node"]))


def test_diagonal_links_give_way_to_straight_ones() -> None:
    corner = np.zeros((5, 5), dtype=bool)
    corner[1:4, 2] = corner[3, 2:4] = True
    corner[2, 3] = False
    assert linked(corner, 1, 1).sum() == 0  # (2, 2) reaches (3, 3) by way of (3, 2)
    lines = skeleton.owned_lines(corner, np.ones((5, 5), np.int64), np.full((5, 5), 255, np.uint8), Rect(0, 0, 3, 3), 3)
    assert paths(lines) == {(1, 4, 7, 8)} or paths(lines) == {(8, 7, 4, 1)}
