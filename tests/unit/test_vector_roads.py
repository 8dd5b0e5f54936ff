"""Centre lines and the road graph: exact over cells, consistent, nothing lost that libraries lose."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from scipy import ndimage
from skimage import morphology as untyped

from geounet.config.job import Roads
from geounet.types import NODATA, Rect
from geounet.vector import skeleton
from geounet.vector.attributes import Ground
from geounet.vector.build import SerialExecutor
from geounet.vector.cells import CellGrid
from geounet.vector.clean import Clean, Least, clean
from geounet.vector.components import unite
from geounet.vector.network import Graph, contract, thinned
from geounet.vector.prune import Metric, lasting
from geounet.vector.roads import roads
from geounet.vector.skeleton import squared_distances, weights_of
from geounet.vector.thinning import thin
from tests.support.roads import WHOLE, check_consistent, lines_of, made, stage, streets
from tests.support.vectors import ArrayPlane

morphology: Any = untyped


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def canvas(rows: int, cols: int) -> Any:
    return np.zeros((rows, cols), dtype=bool)


def raw(mask: Any, folder: Path, cell: int = WHOLE, **more: Any) -> dict[str, Any]:
    """Edges without any cleaning."""
    found: dict[str, Any] = made(mask, cell, folder, **more).edges.to_pydict()
    return found


def network(mask: Any, cell: int, folder: Path) -> Graph:
    asked = stage(mask, cell, folder)
    return contract(thinned(asked, SerialExecutor())[0], mask.shape[1])


@pytest.mark.parametrize("seed", range(6))
def test_thinning_is_that_of_the_library(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((50, 60)) < rng.uniform(0.3, 0.9)
    if seed % 2:
        mask = ndimage.gaussian_filter(rng.random((90, 80)), rng.uniform(1, 4)) > 0.5
    lines, steps = thin(mask)
    assert (lines == morphology.thin(mask)).all()
    assert steps > 0
    assert thin(lines)[1] == 0


def test_a_diagonal_two_pixels_wide_keeps_its_length() -> None:
    mask = np.eye(60, dtype=bool) | np.eye(60, k=1, dtype=bool)
    assert thin(mask)[0].sum() >= 59
    assert morphology.skeletonize(mask).sum() < 10  # Zhang & Suen eat it from the ends


def test_pixels_that_are_held_stay() -> None:
    mask = canvas(21, 60)
    mask[5:16] = True
    lines, _ = thin(mask, held=np.array([10 * 60]))
    assert lines[10, 0]
    assert ndimage.label(lines, np.ones((3, 3)))[1] == 1


@pytest.mark.parametrize("weights", [(1, 1), (256, 64)])
def test_distances(weights: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    mask = ndimage.gaussian_filter(rng.random((70, 90)), 3) > 0.48
    at = np.flatnonzero(mask)
    found = squared_distances(mask, at, weights)
    exact = ndimage.distance_transform_edt(mask, sampling=np.sqrt(weights)) ** 2
    np.testing.assert_allclose(found, exact.ravel()[at], rtol=1e-9)


def test_weights_follow_the_shape_of_pixels() -> None:
    assert weights_of((1.0, 1.01)) == (1, 1)
    across, down = 0.5, 1.0  # a degree of longitude at 60° north
    rows, cols = weights_of((across, down))
    assert rows / cols == pytest.approx((down / across) ** 2, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_centre_lines_of_cells_are_those_of_the_whole(seed: int, tmp_path: Path) -> None:
    mask = streets(300, seed) == 1
    whole = lines_of(stage(mask, WHOLE, tmp_path / "whole"))
    # Every pixel of the reference that has a neighbour is on a path, and none else; but where roads leave the raster.
    reference = morphology.thin(mask)
    alone = reference & (ndimage.convolve(reference.astype(int), np.ones((3, 3)), mode="constant") == 1)
    inner = np.zeros_like(mask)
    inner[40:-40, 40:-40] = True
    pixels = np.unique(np.concatenate([p for p, _ in whole]))
    expected = np.flatnonzero(reference & ~alone & inner)
    assert set(pixels[inner.ravel()[pixels]].tolist()) == set(expected.tolist())
    for cell in (64, 100, 37):
        found = lines_of(stage(mask, cell, tmp_path / str(cell)))
        links = [np.concatenate([np.column_stack([p[:-1], p[1:]]) for p, _ in ls]) for ls in (whole, found)]
        one, other = (set(map(tuple, np.sort(link, axis=1).tolist())) for link in links)
        assert one == other
        squares = [dict(zip(*(np.concatenate(c).tolist() for c in zip(*ls, strict=True)), strict=True))
                   for ls in (whole, found)]  # fmt: skip
        assert squares[0] == squares[1]


def test_an_area_wider_than_the_border_makes_the_border_grow(tmp_path: Path) -> None:
    mask = canvas(420, 420)
    mask[100:330, 120:360] = True  # 115 px half-width; the first border is 96
    mask[200:206] = True
    whole, found = (made(mask, cell, tmp_path / str(cell), min_length_m=5.0) for cell in (WHOLE, 128))
    assert found.inexact_cells == 0
    assert found.edges.to_pydict() == whole.edges.to_pydict()


@pytest.mark.parametrize("column", [0, 10])
@pytest.mark.parametrize("rows", [60, 5])
def test_widths_of_a_road_over_all_of_a_narrow_raster_are_the_same_in_all_cells(
    rows: int, column: int, tmp_path: Path
) -> None:
    mask = canvas(rows, 500)
    mask[:, column:] = True
    whole, *others = (made(mask, cell, tmp_path / str(cell)) for cell in (WHOLE, 256, 64))
    assert whole.edges.num_rows > 0
    for found in others:
        assert found.inexact_cells == 0
        assert found.edges.equals(whole.edges)
        assert found.nodes.equals(whole.nodes)


def test_roads_where_pixels_are_much_longer_than_wide_are_the_same_in_all_cells(tmp_path: Path) -> None:
    # As in degrees at 80° north: the side that is nearest is many columns off, and few rows.
    mask = canvas(150, 470)
    mask[7:143, 10:460] = mask[73:77] = True
    ground = Ground("EPSG:4326", (1 / 144000, 0.0, 20.0, 0.0, -1 / 144000, 80.4), 150, 470)
    section = Roads()
    whole, *others = (
        roads(stage(mask, cell, tmp_path / str(cell)), SerialExecutor(), ground, section) for cell in (WHOLE, 32, 16)
    )
    assert whole.edges.num_rows > 0
    for found in others:
        assert found.inexact_cells == 0
        assert found.edges.equals(whole.edges)


@pytest.mark.parametrize("weights", [(1, 1), (256, 64)])
def test_distances_beyond_the_widest_border_are_as_far_as_that(
    weights: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skeleton, "WIDEST", 150)
    found = {}
    for start in (0, 10):
        mask = canvas(30, 900)
        mask[:, start:] = True
        for cell in (WHOLE, 70):
            asked = replace(stage(mask, cell, tmp_path / f"{start} {cell}"), weights=weights)
            links = [dict(zip(*(v.tolist() for v in line), strict=True)) for line in lines_of(asked)]
            found[start, cell] = {pixel: squared for line in links for pixel, squared in line.items()}
        assert found[start, WHOLE] == found[start, 70]
        assert max(found[start, WHOLE].values()) == 150**2 * min(weights)


def test_too_wide_an_area_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton, "WIDEST", 100)
    mask = canvas(600, 600)
    mask[50:550, 50:550] = True
    assert made(mask, 64, tmp_path).inexact_cells > 0


@pytest.mark.parametrize("seed", range(3))
def test_what_the_thinning_encloses_is_a_cycle(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.random((200, 220)), 4) > 0.5
    graph = network(mask, 64, tmp_path)
    pieces = len(np.unique(unite(len(graph.pixel), graph.start, graph.end)))
    between = ndimage.label(np.pad(~mask, 1, constant_values=True))[1]
    assert len(graph) - len(graph.pixel) + pieces == between - 1


def test_the_graph_knows_its_steps_and_pixels(tmp_path: Path) -> None:
    mask = streets(200, 3) == 1
    for cell in (WHOLE, 50):
        graph = network(mask, cell, tmp_path / str(cell))
        found = lines_of(stage(mask, WHOLE, tmp_path / "lines"))
        links = sum(len(pixels) - 1 for pixels, _ in found)
        # All links are steps of edges, but those within a junction.
        assert 0.97 * links < graph.steps.sum() <= links
        assert (graph.size >= graph.steps.sum(axis=1)).all()
        assert (graph.low <= np.minimum(graph.first, graph.last)).all()
        assert (np.diff(graph.pixel) > 0).all()
        assert (np.diff(graph.low) >= 0).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", [{}, {"usual": True}])
def test_every_end_is_a_node_and_degrees_match(seed: int, how: dict[str, Any], tmp_path: Path) -> None:
    check_consistent(made(streets(220, seed), 64, tmp_path, tolerance_px=1.0, **how))


def test_parallel_edges_and_loops_stay(tmp_path: Path) -> None:
    y, x = np.mgrid[0:120, 0:300]
    mask = (np.abs(np.hypot(y - 60, x - 80) - 40) < 3) & (x > 0)  # a roundabout with two arms: parallel edges
    mask |= (np.abs(y - 60) < 2) & ((x < 42) | ((x > 118) & (x < 160)))
    mask |= np.abs(np.hypot(y - 60, x - 230) - 30) < 3  # a ring without a junction
    for folder, how in (("raw", {"tolerance_px": 1.0}), ("usual", {"usual": True})):
        layers = made(mask, 50, tmp_path / folder, **how)
        check_consistent(layers)
        edges = layers.edges.to_pydict()
        pairs = sorted(zip(edges["from_node"], edges["to_node"], strict=True))
        assert len([p for p in pairs if p[0] == p[1]]) == 1
        assert len([p for p in pairs if pairs.count(p) == 2]) == 2
        assert len(pairs) == 5
        (at,) = [i for i, node in enumerate(edges["from_node"]) if node == edges["to_node"][i]]
        ring = shapely.from_wkb(edges["geom"][at])
        assert ring.is_ring
        assert ring.length == pytest.approx(2 * np.pi * 30, rel=0.06)


def test_parallel_carriageways_stay_two(tmp_path: Path) -> None:
    mask = canvas(120, 400)
    mask[50:56] = mask[60:66] = True  # 6 m each, 4 m between them
    mask[10:110, 150:156] = True
    edges = made(mask, 100, tmp_path, usual=True).edges.to_pydict()
    middles = np.array([shapely.from_wkb(g).centroid.y for g, n in zip(edges["geom"], edges["length_m"], strict=True)
                        if n > 140])  # fmt: skip
    assert len(middles) == 4
    assert np.ptp(middles) == pytest.approx(10, abs=0.6)


def test_a_loop_on_a_stalk_stays(tmp_path: Path) -> None:
    y, x = np.mgrid[0:100, 0:140]
    mask = (np.abs(np.hypot(y - 50, x - 40) - 25) < 2) | ((np.abs(y - 50) < 2) & (x > 63) & (x < 130))
    for cell in (WHOLE, 33):
        edges = made(mask, cell, tmp_path / str(cell), min_length_m=30.0).edges.to_pydict()
        assert sorted(a == b for a, b in zip(edges["from_node"], edges["to_node"], strict=True)) == [False, True]


def test_spurs_and_crumbs_go_but_not_links_between_junctions(tmp_path: Path) -> None:
    mask = canvas(200, 200)
    mask[50:53, 10:190] = True
    mask[120:123, 10:190] = True
    mask[50:120, 60:63] = True  # a link
    mask[53:60, 100:103] = True  # a spur of 8 m
    mask[180:183, 20:30] = True  # a crumb of 10 m
    every, pruned = made(mask, 70, tmp_path / "0"), made(mask, 70, tmp_path / "1", min_length_m=15.0)
    assert every.edges.num_rows == 8
    assert pruned.edges.num_rows == 5
    assert sorted(pruned.nodes.to_pydict()["degree"]) == [1, 1, 1, 1, 3, 3]
    # What the spur's junction divided is one edge again.
    assert max(pruned.edges.to_pydict()["length_m"]) == pytest.approx(129, abs=2)


def test_the_shorter_spur_of_a_fork_goes_and_the_other_stays(tmp_path: Path) -> None:
    mask = canvas(120, 200)
    mask[60:63, 10:150] = True
    for k in range(16):  # ends in a fork: 10 and 16 px
        mask[60 - k : 63 - k, 150 + k] = True
        if k < 10:
            mask[60 + k : 63 + k, 150 + k] = True
    found = made(mask, 64, tmp_path, min_length_m=25.0)
    assert found.edges.num_rows == 1
    assert found.edges.to_pydict()["length_m"][0] > 140 + 12


def test_dead_ends_are_measured_from_the_side_of_the_road(tmp_path: Path) -> None:
    mask = canvas(200, 300)
    mask[60:90, :] = True  # 30 m wide
    mask[90:98, 140:148] = True  # sticks out by 8 m; the line is 23 m long
    graph = network(mask, WHOLE, tmp_path)
    metric = Metric((1.0, 1.0), 1.0)
    exits = np.flatnonzero(np.isin(np.arange(mask.size) % 300, (0, 299)))
    for shortest, stays in ((6.0, True), (12.0, False)):
        kept = graph.chosen(lasting(graph, metric, shortest, 0.0, exits, mask.shape, loose=False)).smoothed()
        assert (kept.degree == 3).any() == stays


def test_lines_reach_the_end_of_the_road_without_a_hook(tmp_path: Path) -> None:
    mask = canvas(100, 300)
    mask[40:61, 50:250] = True  # thinning forks towards the corners
    edges = made(mask, 64, tmp_path, usual=True).edges.to_pydict()
    (line,) = shapely.from_wkb(edges["geom"])
    ends = np.array(line.coords)[[0, -1]] - (500000, 5000000)
    np.testing.assert_allclose(ends, [[50, -50.5], [250, -50.5]], atol=1.6)
    assert np.ptp(np.array(line.coords)[:, 1]) < 1.1


@pytest.mark.parametrize("angle", [90, 60, 50])
def test_a_crossing_is_one_node_where_the_roads_cross(angle: int, tmp_path: Path) -> None:
    y, x = np.mgrid[0:240, 0:240] + 0.5
    turn = np.radians(angle)
    mask = (np.abs(y - 120) < 6) | (np.abs((x - 120) * np.sin(turn) - (y - 120) * np.cos(turn)) < 6)
    layers = made(mask, 100, tmp_path, usual=True)
    nodes = layers.nodes.to_pydict()
    assert sorted(nodes["degree"]) == [1, 1, 1, 1, 4]
    at = shapely.from_wkb(nodes["geom"][nodes["degree"].index(4)])
    assert (at.x - 500000, 5000000 - at.y) == (pytest.approx(120, abs=1), pytest.approx(120, abs=1))


def test_roads_that_join_leave_the_other_one_straight(tmp_path: Path) -> None:
    mask = canvas(200, 300)
    mask[60:80] = True
    mask[60:, 140:160] = True
    layers = made(mask, WHOLE, tmp_path, usual=True)
    nodes = layers.nodes.to_pydict()
    at = shapely.from_wkb(nodes["geom"][nodes["degree"].index(3)])
    assert 5000000 - at.y == pytest.approx(70, abs=0.8)  # thinning draws it 2.5 px towards the other road
    for line in shapely.from_wkb(layers.edges.to_pydict()["geom"]):
        assert line.length < 1.002 * shapely.Point(line.coords[0]).distance(shapely.Point(line.coords[-1]))


@pytest.mark.parametrize("angle", [90, 45, 25])
def test_lines_leave_the_raster_in_the_middle_of_the_road(angle: int, tmp_path: Path) -> None:
    y, x = np.mgrid[0:200, 0:300] + 0.5
    turn = np.radians(angle)
    mask = np.abs((x - 120) * np.sin(turn) - (200 - y) * np.cos(turn)) < 7
    mask[:60] = False
    nodes = made(mask, 128, tmp_path, usual=True).nodes.to_pydict()
    points = shapely.from_wkb(nodes["geom"])
    (edge,) = [p for p in points if p.y == 5000000 - 200]
    assert edge.x - 500000 == pytest.approx(120, abs=1.5)


def test_lines_do_not_leave_the_road(tmp_path: Path) -> None:
    mask = streets(400, 5) == 1
    ground = Ground("EPSG:32633", (1.0, 0.0, 500000.0, 0.0, -1.0, 5000000.0), *mask.shape)
    usual = Roads(bridge_blind_m=0, min_hole_m2=0, min_area_m2=0)
    found = roads(stage(mask, 128, tmp_path), SerialExecutor(), ground, usual)
    near = ndimage.binary_dilation(mask, np.ones((3, 3)))
    lines = shapely.from_wkb(found.edges["geom"].to_numpy(zero_copy_only=False))
    along = np.arange(0.25, lines[0].length if len(lines) == 1 else max(g.length for g in lines), 0.5)
    for line in lines:
        points = shapely.get_coordinates(shapely.line_interpolate_point(line, along[along < line.length]))
        row, col = (5000000 - points[:, 1]).astype(int), (points[:, 0] - 500000).astype(int)
        assert near[np.clip(row, 0, 399), np.clip(col, 0, 399)].all()


def test_smooth_lines_have_few_vertices_and_the_right_length(tmp_path: Path) -> None:
    y, x = np.mgrid[0:300, 0:600] + 0.5
    middle = 150 + 60 * np.sin(x / 60)
    slope = np.cos(x / 60)
    mask = np.abs(y - middle) < 5 * np.sqrt(1 + slope**2)
    edges = made(mask, 128, tmp_path, usual=True).edges.to_pydict()
    (line,) = shapely.from_wkb(edges["geom"])
    true = shapely.LineString([(t, 150 + 60 * np.sin(t / 60)) for t in np.linspace(0, 600, 2000)])
    drawn = shapely.transform(line, lambda c: np.column_stack([c[:, 0] - 500000, 5000000 - c[:, 1]]))
    assert shapely.hausdorff_distance(true, drawn, densify=0.001) < 2.5
    assert edges["length_m"][0] == pytest.approx(true.length, rel=0.01)
    assert len(line.coords) < 80


@pytest.mark.parametrize("width", [3, 5, 8, 12, 21])
@pytest.mark.parametrize("angle", [0, 20])
def test_width_and_confidence(width: int, angle: int, tmp_path: Path) -> None:
    y, x = np.mgrid[0:120, 0:260] + 0.5
    turn = np.radians(angle)
    across = (y - 60.3) * np.cos(turn) - (x - 130) * np.sin(turn)
    along = (x - 130) * np.cos(turn) + (y - 60.3) * np.sin(turn)
    mask = (np.abs(across) < width / 2) & (np.abs(along) < 90)
    stored = np.full(mask.shape, 127)
    edges = made(mask, 64, tmp_path, stored=stored, usual=True).edges.to_pydict()
    assert edges["width_m"] == [pytest.approx(width, abs=1.0)]
    assert edges["confidence"] == [pytest.approx(0.5)]
    assert edges["bridged"] == [False]


def test_widths_are_those_of_the_ground_where_pixels_are_not_square(tmp_path: Path) -> None:
    # 60° north: a degree of longitude is half as long as one of latitude.
    ground = Ground("EPSG:4326", (1e-5, 0.0, 10.0, 0.0, -1e-5, 60.0), 200, 400)
    for rows, cols, width in ((slice(90, 100), slice(20, 380), 11.1), (slice(20, 180), slice(190, 210), 11.1)):
        mask = canvas(200, 400)
        mask[rows, cols] = True
        asked = stage(mask, 128, tmp_path / str(rows))
        edges = roads(asked, SerialExecutor(), ground, Roads()).edges.to_pydict()
        assert edges["width_m"] == [pytest.approx(width, rel=0.1)]


def test_a_raster_wider_than_16_bits(tmp_path: Path) -> None:
    mask = canvas(12, 70_000)
    mask[4:7, 100:69_900] = True
    edges = made(mask, 20_000, tmp_path, usual=True).edges.to_pydict()
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
    found = made(mask, 500, tmp_path, usual=True, min_hole_m2=0)
    assert (found.nodes["degree"].to_numpy() >= 3).sum() > 65_535


def test_a_speck_in_a_hole_goes_with_it(tmp_path: Path) -> None:
    mask = canvas(60, 200)
    mask[20:32] = True
    mask[24:29, 98:103] = False
    mask[26, 100] = True
    for cell in (WHOLE, 50):
        found = made(mask, cell, tmp_path / str(cell), min_area_m2=20, min_hole_m2=30)
        assert (found.edges.num_rows, found.nodes.num_rows) == (1, 2)  # no loop around either


def test_specks_go_before_holes_are_filled(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    values = (ndimage.gaussian_filter(rng.random((90, 130)), 1) > 0.5).astype(np.uint8)
    values[30:60, 40:50] = 255
    values[5:13, 5:13] = 1
    values[6:12, 6:12] = 0  # a speck around a hole
    values[20:40, 5:25] = 1
    values[24:36, 9:21] = 0
    values[27:33, 12:18] = 1
    values[29:31, 14:16] = 0  # a hole in a speck in a hole
    values[60:85, 90:125] = 1
    values[[62, 70, 71, 84], [92, 100, 101, 110]] = values[72:82, 104:114] = 255  # one in the side
    values[75:78, 106:109] = 0  # not known all around
    values[0:9, 100:120] = 1
    values[0, 110] = values[5, 105:115] = 255  # one at the raster's edge
    expected = values.copy()
    label, _ = ndimage.label(values == 1, np.ones((3, 3)))
    expected[(np.bincount(label.ravel()) < 40)[label] & (label > 0)] = 0
    label, count = ndimage.label(expected != 1)
    keep = np.bincount(label.ravel()) >= 150
    keep[[0, *label[0], *label[-1], *label[:, 0], *label[:, -1]]] = True
    expected[~keep[label]] = 1
    assert count > (~keep).sum() > 5
    assert (expected[20:40, 5:25] == 1).all()
    assert (expected[61:84, 91:124] == 1).all()
    assert (expected[84, 110], expected[0, 110], expected[5, 110], expected[40, 45]) == (255, 255, 1, 255)
    for cell in (WHOLE, 40, 17):
        plane: Any = ArrayPlane(values)
        for kind, least in (("speck", 40), ("hole", 150)):
            grid = CellGrid(*values.shape, cell)
            ground = Ground(None, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), *values.shape)
            asked = Clean(plane, grid, str(tmp_path / str(cell)), "roads", ground, kind, Least(least, True))
            clean(asked, SerialExecutor())
            plane = asked
        np.testing.assert_array_equal(plane.read(Rect(0, 0, 90, 130)), expected)
        np.testing.assert_array_equal(plane.read(Rect(11, 7, 52, 99)), expected[11:52, 7:99])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pixels_without_data_in_a_road_do_not_shatter_it(size: int, tmp_path: Path) -> None:
    mask = np.zeros((60, 300), dtype=np.uint8)
    mask[24:37, 20:280] = 1  # 13 px wide; its thinning would go around each
    rng = np.random.default_rng(size)
    for x in range(30, 265, 20):
        y = rng.integers(25, 36 - size)
        mask[y : y + size, x : x + size] = NODATA
    stored = np.where(mask == 1, 127, np.where(mask == NODATA, NODATA, 0)).astype(np.uint8)
    whole, found = (made(mask, cell, tmp_path / str(cell), usual=True, stored=stored) for cell in (WHOLE, 47))
    assert whole.edges.equals(found.edges)
    edges = whole.edges.to_pydict()
    assert edges["length_m"] == [pytest.approx(260, abs=2)]
    assert edges["width_m"] == [pytest.approx(13, abs=1)]
    assert edges["confidence"] == [pytest.approx(0.5)], "what has no data counts for nothing"
    # What is larger stays, and so does what the road does not enclose.
    mask[22:40, 100:140] = NODATA
    assert made(mask, 64, tmp_path / "gap", usual=True).edges.num_rows == 2


def test_no_roads_no_features(tmp_path: Path) -> None:
    found = made(canvas(50, 50), 20, tmp_path, usual=True)
    assert found.edges.num_rows == found.nodes.num_rows == 0


@pytest.mark.parametrize("shape", [(80, 120), (1, 1), (1, 90), (3, 3)])
def test_all_road(shape: tuple[int, int], tmp_path: Path) -> None:
    assert (squared_distances(np.ones((4, 5), dtype=bool), np.arange(20), (1, 1)) == 25).all()
    check_consistent(made(~canvas(*shape), 30, tmp_path / "0"))
    check_consistent(made(~canvas(*shape), 30, tmp_path / "1", usual=True))


def test_diagonal_links_give_way_to_straight_ones() -> None:
    corner = np.zeros((5, 5), dtype=bool)
    corner[1:4, 2] = corner[3, 2:4] = True
    # (2, 2) reaches (3, 3) by way of (3, 2)
    none = np.empty(0, np.int64)
    lines = skeleton.owned_lines(corner, np.ones(4, np.int64), np.full(4, 255, np.uint8), none, Rect(0, 0, 3, 3), 3)
    assert lines.pixel.tolist() in ([1, 4, 7, 8], [8, 7, 4, 1])


def test_cells_may_be_done_again(tmp_path: Path) -> None:
    mask = streets(150, 1)
    first = made(mask, 40, tmp_path, usual=True)
    again = made(mask, 40, tmp_path, usual=True)
    assert again.edges.to_pydict() == first.edges.to_pydict()
