"""Road graphs, APLS and TOPO: against networkx in plain Python, and examples with known answers."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geounet.evaluation import relaxed
from geounet.evaluation.apls import Apls, Ways, apls
from geounet.evaluation.graph import Graph, along, distances, graph, nearest, network
from geounet.evaluation.topo import Topo, fitting, topo


def lines(*courses: Any) -> np.ndarray:
    return np.array([shapely.LineString(c) for c in courses], dtype=object)


CROSS = lines([(0, 0), (100, 0)], [(100, 0), (200, 0)], [(100, -100), (100, 0)], [(100, 0), (100, 100)])


# --- the graph


def test_it_does_not_matter_how_lines_are_cut() -> None:
    whole = graph(lines([(0, 0), (100, 0), (200, 0)], [(100, -100), (100, 0), (100, 100)]))
    pieces = graph(CROSS)
    more = graph(lines([(0, 0), (50, 0)], [(50, 0), (100, 0)], *[c.coords for c in CROSS[1:]]))
    for one in (whole, pieces, more):
        assert len(one) == 4
        assert len(one.nodes) == 5
        assert one.length == pytest.approx(400)
        degree = np.bincount(np.concatenate([one.start, one.end]))
        assert sorted(degree.tolist()) == [1, 1, 1, 1, 4]
        for k in range(len(one)):
            assert one.lines[k].coords[0] == tuple(one.nodes[one.start[k]])
            assert one.lines[k].coords[-1] == tuple(one.nodes[one.end[k]])


def test_lines_that_cross_without_a_vertex_do_not_meet() -> None:
    bridge = graph(lines([(0, 0), (100, 0)], [(50, -50), (50, 50)]))
    assert (len(bridge), len(bridge.nodes)) == (2, 4)


def test_loops_parallel_edges_and_doubles() -> None:
    ring = graph(lines([(0, 0), (10, 0), (10, 10), (0, 0)]))
    assert len(ring) == 1
    assert ring.start[0] == ring.end[0]
    lens = graph(lines([(-5, 0), (0, 0)], [(0, 0), (5, 5), (10, 0)], [(0, 0), (10, 0)], [(10, 0), (15, 0)]))
    assert len(lens) == 4
    doubled = graph(np.concatenate([CROSS, CROSS[:2]]))
    assert doubled.length == pytest.approx(400)
    multi = graph(np.array([shapely.MultiLineString(list(CROSS)), shapely.Point(1, 1)], dtype=object))
    assert len(multi) == 4


def test_an_empty_graph() -> None:
    none = graph(np.empty(0, object))
    assert len(none) == 0
    assert none.length == 0
    assert len(graph(lines([(3, 3), (3, 3.001)]))) == 0  # a point, at a centimetre
    assert [len(a) for a in nearest(none, np.zeros((2, 2)), 10.0)] == [0, 0, 0]


def test_paths_over_points_put_in() -> None:
    lens = graph(lines([(-5, 0), (0, 0)], [(0, 0), (5, 5), (10, 0)], [(0, 0), (10, 0)], [(10, 0), (15, 0)]))
    point, edge, at = nearest(lens, np.array([[5.0, 4.9], [5.0, 1.0], [0.0, 9.0]]), 2.0)
    assert point.tolist() == [0, 1]
    way = distances(network(lens, edge, at), np.array([len(lens.nodes)]))[0]
    # From the top of the bow to the middle of the chord: half the bow, half the chord.
    assert way[len(lens.nodes) + 1] == pytest.approx(math.sqrt(50) + 5, abs=0.2)
    ends = [int(np.flatnonzero((lens.nodes == p).all(axis=1))[0]) for p in ((-5, 0), (15, 0))]
    whole = distances(network(lens, edge[:0], at[:0]), np.array(ends[:1]))[0]
    assert whole[ends[1]] == pytest.approx(20)  # the chord, not the bow


# --- an independent APLS and TOPO


def as_networkx(roads: Graph, places: list[tuple[int, float]]) -> nx.Graph:
    """Return the graph with places put in, as `("n", i)` for nodes and `("p", k)` for places."""
    out = nx.Graph()
    out.add_nodes_from(("n", i) for i in range(len(roads.nodes)))
    for e in range(len(roads)):
        stops = [(0.0, ("n", int(roads.start[e])))]
        stops += sorted((d, ("p", k)) for k, (edge, d) in enumerate(places) if edge == e)
        stops.append((float(roads.lengths[e]), ("n", int(roads.end[e]))))
        for (d0, a), (d1, b) in pairwise(stops):
            if a != b and (not out.has_edge(a, b) or out.edges[a, b]["weight"] > d1 - d0):
                out.add_edge(a, b, weight=d1 - d0)
    return out


def closest(roads: Graph, point: shapely.Point, within: float) -> tuple[int, float] | None:
    options = [(roads.lines[e].distance(point), e) for e in range(len(roads))]
    if not options or min(options)[0] > within:
        return None
    e = min(options)[1]
    return e, roads.lines[e].project(point)


def one_way(mine: Graph, theirs: Graph, spacing: float = 50.0, snap: float = 4.0, shortest: float = 10.0) -> float:
    places = []
    for e in range(len(mine)):
        pieces = max(1, math.ceil(mine.lengths[e] / spacing - 1e-9))
        places += [(e, mine.lengths[e] * k / pieces) for k in range(1, pieces)]
    controls = [("n", i) for i in range(len(mine.nodes))] + [("p", k) for k in range(len(places))]
    where = [shapely.Point(p) for p in mine.nodes]
    where += [mine.lines[e].interpolate(d) for e, d in places]
    put, partner = [], {}
    for control, point in zip(controls, where, strict=True):
        there = closest(theirs, point, snap)
        if there is not None:
            partner[control] = ("p", len(put))
            put.append(there)
    true = dict(nx.all_pairs_dijkstra_path_length(as_networkx(mine, places)))
    seen = dict(nx.all_pairs_dijkstra_path_length(as_networkx(theirs, put)))
    differences = []
    for a, b in combinations(controls, 2):
        if b not in true[a] or true[a][b] < shortest:
            continue
        other = seen.get(partner.get(a), {}).get(partner.get(b))
        differences.append(1.0 if other is None else min(1.0, abs(true[a][b] - other) / true[a][b]))
    return 1 - sum(differences) / len(differences) if differences else math.nan


@st.composite
def towns(draw: st.DrawFn) -> tuple[Graph, Graph]:
    """Streets of a grid with bends, and what is left of them: some missing, all moved a little."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    side = draw(st.integers(2, 3))
    corner = {
        (i, j): np.array([i * 80.0, j * 70.0]) + random.uniform(-9, 9, 2) for i in range(side) for j in range(side)
    }
    streets = []
    for (i, j), a in corner.items():
        for step in ((1, 0), (0, 1)):
            b = corner.get((i + step[0], j + step[1]))
            if b is not None and random.random() < 0.9:
                streets.append([a, (a + b) / 2 + random.uniform(-10, 10, 2), b])
    kept = [s for s in streets if random.random() < 0.8]
    shift = random.uniform(-2, 2, 2)
    extra = [[np.array([500.0, 500.0]), np.array([560.0, 520.0])]] if random.random() < 0.5 else []
    moved = [[p + shift for p in s] for s in kept]
    return graph(lines(*streets)), graph(lines(*moved, *extra))


@given(towns())
@settings(max_examples=25)
def test_apls_is_that_of_networkx(town: tuple[Graph, Graph]) -> None:
    truth, found = town
    score = apls(truth, found)
    assert score.truth_to_found.score == pytest.approx(one_way(truth, found), nan_ok=True, abs=1e-6)
    assert score.found_to_truth.score == pytest.approx(one_way(found, truth), nan_ok=True, abs=1e-6)


def test_apls_of_known_examples() -> None:
    cross = graph(CROSS)
    assert apls(cross, cross).score == pytest.approx(1.0)
    # Moved by 3 m it still fits, by 5 m nothing does (lines along their own direction apart from their ends do).
    near = graph(shapely.transform(CROSS, lambda p: p + np.array([0.0, 3.0])))
    assert apls(cross, near).score > 0.95
    away = graph(shapely.transform(CROSS, lambda p: p + 5.0))
    assert apls(cross, away).score < 0.3
    # One arm is missing: of 9 control points (5 nodes, 4 middles) two are, so 15 of 36 paths.
    short = graph(CROSS[:3])
    score = apls(cross, short)
    assert score.truth_to_found.score == pytest.approx(1 - 15 / 36)
    assert score.found_to_truth.score == pytest.approx(1.0)
    assert score.score == pytest.approx(2 * (21 / 36) / (1 + 21 / 36))


def test_a_gap_breaks_routes() -> None:
    road = graph(lines([(0, 0), (100, 0)]))
    gap = graph(lines([(0, 0), (45, 0)], [(55, 0), (100, 0)]))
    # The middle has no place; the two ends have, but no path joins them.
    assert apls(road, gap).truth_to_found.score == 0.0
    # The other way each piece is as long as it is.
    assert apls(road, gap).found_to_truth.score == pytest.approx(1.0)
    assert apls(road, gap).score == 0.0


def test_apls_without_roads() -> None:
    none, road = graph(np.empty(0, object)), graph(CROSS)
    assert apls(none, none).scores()["apls"] is None
    assert apls(road, none).scores() == {"apls": 0.0, "apls_truth_to_found": 0.0, "apls_found_to_truth": None}
    assert apls(none, road).scores() == {"apls": 0.0, "apls_truth_to_found": None, "apls_found_to_truth": 0.0}


def test_apls_of_chosen_starts_is_near_that_of_all() -> None:
    streets = [[(x, y) for y in np.arange(0, 601, 60.0)] for x in np.arange(0, 601, 60.0)]
    streets += [[(x, y) for x in np.arange(0, 601, 60.0)] for y in np.arange(0, 601, 60.0)]
    truth = graph(lines(*streets))
    found = graph(lines(*streets[3:]))
    whole, some = apls(truth, found, sources=10**6), apls(truth, found, sources=100)
    assert some.score == pytest.approx(whole.score, abs=0.05)
    assert some.truth_to_found.paths == pytest.approx(whole.truth_to_found.paths, rel=0.001)


def test_scenes_add_up() -> None:
    one = Apls(Ways(1.0, 10.0), Ways(0.0, 10.0)) + Apls(Ways(4.0, 10.0), Ways(0.0, 5.0))
    assert one.truth_to_found.score == pytest.approx(0.75)
    assert one.score == pytest.approx(2 * 0.75 / 1.75)


# --- TOPO


def walked(roads: Graph, place: tuple[int, float], radius: float, interval: float) -> list[tuple[float, float]]:
    """Points dropped along a walk, found by trying each edge in small steps."""
    net = as_networkx(roads, [place])
    way = nx.single_source_dijkstra_path_length(net, ("p", 0))
    found = {tuple(np.round(roads.lines[place[0]].interpolate(place[1]).coords[0], 5))}
    for e in range(len(roads)):
        length = roads.lengths[e]
        ends = way.get(("n", int(roads.start[e])), math.inf), way.get(("n", int(roads.end[e])), math.inf)

        def reach(s: float, e: int = e, length: float = length, ends: tuple[float, float] = ends) -> float:
            own = abs(s - place[1]) if e == place[0] else math.inf
            return min(ends[0] + s, ends[1] + length - s, own)

        # Ways grow at rate one from either end: multiples are at these candidates, if the way there is a multiple.
        limits = [t for t in (*ends, 0.0) if math.isfinite(t)]
        for k in range(1, int(radius / interval + 1e-9) + 1):
            w = k * interval
            candidates = [w - ends[0], length - (w - ends[1])] if limits else []
            if e == place[0]:
                candidates += [place[1] + w, place[1] - w]
            for s in candidates:
                if -1e-9 <= s <= length + 1e-9 and abs(reach(min(max(s, 0), length)) - w) < 1e-7:
                    found.add(tuple(np.round(roads.lines[e].interpolate(min(max(s, 0), length)).coords[0], 5)))
    return sorted(found)


def topo_by_hand(truth: Graph, found: Graph, spacing: float, radius: float, interval: float, hole: float) -> Topo:
    filled = marbles = holes = 0
    for e in range(len(truth)):
        pieces = max(1, math.ceil(truth.lengths[e] / spacing - 1e-9))
        for k in range(pieces):
            at = truth.lengths[e] * (k + 0.5) / pieces
            mine = walked(truth, (e, at), radius, interval)
            there = closest(found, truth.lines[e].interpolate(at), hole)
            theirs = walked(found, there, radius, interval) if there else []
            links = nx.Graph()
            links.add_nodes_from(("m", i) for i in range(len(mine)))
            for i, a in enumerate(mine):
                for j, b in enumerate(theirs):
                    if math.dist(a, b) <= hole:
                        links.add_edge(("m", i), ("t", j))
            top = [("m", i) for i in range(len(mine))]
            filled += len(nx.bipartite.maximum_matching(links, top_nodes=top)) // 2
            holes, marbles = holes + len(mine), marbles + len(theirs)
    return Topo(filled, marbles, holes)


@given(towns())
@settings(max_examples=12)
def test_topo_is_that_of_networkx(town: tuple[Graph, Graph]) -> None:
    truth, found = town
    if not len(truth):
        return
    score = topo(truth, found, radius=120.0, interval=12.0, hole=6.0, spacing=60.0)
    expected = topo_by_hand(truth, found, 60.0, 120.0, 12.0, 6.0)
    assert (score.holes, score.marbles, score.filled) == (expected.holes, expected.marbles, expected.filled)


def test_topo_of_known_examples() -> None:
    road = graph(lines([(0, 0), (100, 0)]))
    same = topo(road, road)
    # From the places at 25 and 75: to both ends, a point every 5 m: 21.
    assert (same.holes, same.marbles, same.filled) == (42, 42, 42)
    assert same.f1 == 1.0
    gap = graph(lines([(0, 0), (45, 0)], [(55, 0), (100, 0)]))
    score = topo(road, gap)
    # On the pieces walks end at the gap: 25 + 20 m, so 10 points of 21. All of them fill holes.
    assert (score.holes, score.marbles, score.filled) == (42, 20, 20)
    assert score.precision == 1.0
    assert score.recall == pytest.approx(20 / 42)


def test_topo_without_roads() -> None:
    none, road = graph(np.empty(0, object)), graph(CROSS)
    assert topo(none, none).scores() == {"topo_f1": None, "topo_precision": None, "topo_recall": None}
    assert topo(road, none).scores() == {"topo_f1": 0.0, "topo_precision": None, "topo_recall": 0.0}
    assert topo(none, road).scores() == {"topo_f1": 0.0, "topo_precision": 0.0, "topo_recall": None}


def test_topo_punishes_what_is_too_much() -> None:
    road = graph(CROSS[:2])
    more = graph(CROSS)
    score = topo(road, more)
    assert score.recall == 1.0
    assert score.precision < 0.7


def test_marbles_fill_as_many_holes_as_they_can() -> None:
    holes = np.array([[0.0, 0.0], [6.0, 0.0]])
    marbles = np.array([[3.0, 0.0], [0.0, 1.0]])
    # The first marble reaches both holes, the second only the first.
    assert fitting(holes, marbles, 4.0) == 2
    assert fitting(holes, holes, 4.0) == 2
    assert fitting(holes, marbles, 0.5) == 0
    assert fitting(holes, marbles[:0], 4.0) == 0


# --- relaxed, on lines


def test_lines_near_each_other() -> None:
    road = graph(lines([(0, 0), (100, 0)]))
    half = graph(lines([(0, 2), (50, 2)], [(0, 10), (50, 10)]))
    score = relaxed.lines(road, half, 3.0)
    assert score.precision == pytest.approx(0.5)
    # Beyond its end, the line at 2 m still is within 3 m of √5 m more.
    assert score.recall == pytest.approx((50 + math.sqrt(5)) / 100, abs=0.005)
    none = graph(np.empty(0, object))
    assert relaxed.lines(road, none, 3.0).scores() == {"precision": None, "recall": 0.0, "f1": 0.0}
    assert relaxed.lines(none, none, 3.0).scores()["f1"] is None


def test_points_along_edges() -> None:
    road = graph(lines([(0, 0), (100, 0)], [(0, 50), (50, 50)], [(0, 90), (51, 90)]))
    edge, at = along(road, 50.0)
    places = {(float(road.lines[e].length), float(a)) for e, a in zip(edge, at, strict=True)}
    assert places == {(100.0, 50.0), (51.0, 25.5)}
