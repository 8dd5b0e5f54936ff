"""Planes to measure in, shapes from rasters, shares of polygons, parts of lines."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.features import rasterize
from rasterio.features import shapes as outlines

from geounet.evaluation.graph import SAME, graph
from geounet.evaluation.metric import metric
from geounet.evaluation.shapes import AREAS, LINES, Clipped, Coverage, Trimmed, parts, polygonized, skeletonized, within
from geounet.types import Rect
from geounet.vector.attributes import Ground
from tests.support.vectors import ArrayPlane

NEPAL = (85.5188, 27.6292, 85.5233, 27.6344)


def wkt(code: str) -> str:
    return pyproj.CRS.from_user_input(code).to_wkt()


def geodesic(crs: str, line: shapely.LineString) -> float:
    move = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    lon, lat = move.transform(*shapely.get_coordinates(line).T)
    return float(pyproj.Geod(ellps="WGS84").line_length(lon, lat))


@pytest.mark.parametrize("code", ["EPSG:4326", "EPSG:3857", "EPSG:32645", "EPSG:2263", "EPSG:2953", "EPSG:3035"])
def test_lengths_are_those_on_the_ground(code: str) -> None:
    lon, lat = {"EPSG:2263": (-74.0, 40.7), "EPSG:2953": (-67.0, 46.0), "EPSG:3035": (15.0, 48.0)}.get(
        code, (85.52, 27.63)
    )
    to_crs = pyproj.Transformer.from_crs("OGC:CRS84", code, always_xy=True)
    x, y = to_crs.transform(np.array([lon, lon + 0.001]), np.array([lat, lat + 0.0007]))
    line = shapely.LineString(np.column_stack([x, y]))
    plane = metric(wkt(code), (1, 0, 0, 0, -1, 0), line.bounds)
    assert plane.unit == "m"
    placed = plane.place(np.array([line]))[0]
    assert placed.length == pytest.approx(geodesic(code, line), rel=1e-6 if plane.target else 2e-3)


def test_metres_of_national_grids_are_taken_as_they_are() -> None:
    square = np.array([shapely.box(500000, 3000000, 500010, 3000005)])
    plane = metric(wkt("EPSG:32645"), None, (500000, 3000000, 501000, 3001000))
    assert plane.target is None
    assert plane.place(square)[0] is square[0]
    # Far from its meridian UTM's metres are none.
    assert metric(wkt("EPSG:32645"), None, (1200000, 3000000, 1201000, 3001000)).target is not None


def test_without_crs_lengths_are_in_pixels() -> None:
    plane = metric(None, (0.5, 0, 100, 0, -0.5, 200), (100, 100, 200, 200))
    assert plane.unit == "px"
    assert plane.place(np.array([shapely.LineString([(100, 200), (110, 200)])]))[0].length == pytest.approx(20)
    assert metric(None, None, None).unit == "unit"
    local = 'LOCAL_CS["hall",UNIT["metre",1]]'
    assert metric(local, (1, 0, 0, 0, -1, 0), (0, 0, 1, 1)).unit == "px"


def test_single_parts_of_all_sorts() -> None:
    bow = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])  # crosses itself: two triangles
    many = shapely.MultiPolygon([shapely.box(5, 0, 6, 1), shapely.box(7, 0, 8, 1)])
    line = shapely.LineString([(0, 0), (3, 4)])
    mixed = shapely.GeometryCollection([shapely.box(9, 0, 10, 1), line, shapely.Point(0, 0)])
    shapes = np.array([bow, many, line, mixed, shapely.Point(1, 1)], dtype=object)
    assert sorted(shapely.area(parts(shapes, AREAS)).tolist()) == [1, 1, 1, 1, 1]
    assert shapely.length(parts(shapes, LINES)).tolist() == [5, 5]
    assert len(parts(np.empty(0, object), AREAS)) == 0
    assert all(shapely.is_valid(parts(shapes, AREAS)))


def test_parts_that_overlap_are_one_without_a_hole() -> None:
    both = shapely.MultiPolygon([shapely.box(0, 0, 4, 4), shapely.box(2, 2, 6, 6)])
    (found,) = parts(np.array([both], dtype=object), AREAS)
    assert found.area == 28
    assert len(found.interiors) == 0


@given(values=arrays(np.uint8, (7, 9), elements=st.sampled_from([1, 255])))
@settings(max_examples=25)
def test_polygons_of_a_plane_are_those_of_gdal(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray) -> None:
    found = polygonized(ArrayPlane(values), values.shape, tmp_path_factory.mktemp("p"), "x")
    expected = [shapely.geometry.shape(s) for s, v in outlines(values, connectivity=4) if v == 1]
    assert sorted(shapely.normalize(p).wkt for p in found) == sorted(shapely.normalize(p).wkt for p in expected)


def test_centre_lines_of_a_plane(tmp_path: Path) -> None:
    values = np.full((60, 80), 255, np.uint8)
    values[28:33, 5:75] = 1
    ground = Ground(wkt("EPSG:32633"), (2.0, 0.0, 500000.0, 0.0, -2.0, 5300000.0), 60, 80)
    found = graph(skeletonized(ArrayPlane(values), ground, tmp_path, "x"))
    assert len(found) == 1
    assert found.length == pytest.approx(2 * 70, abs=1), "to the ends of the area"
    assert found.nodes[:, 1] == pytest.approx([5300000 - 2 * 30.5] * 2, abs=2)
    empty = np.full((60, 80), 255, np.uint8)
    assert len(skeletonized(ArrayPlane(empty), ground, tmp_path, "none")) == 0


def windows(shape: tuple[int, int], side: int) -> list[Rect]:
    return [
        Rect(y, x, min(y + side, shape[0]), min(x + side, shape[1]))
        for y in range(0, shape[0], side)
        for x in range(0, shape[1], side)
    ]


_QUARTERS = ((1, 1), (9, 1), (1, 8), (9, 8))


@given(arrays(bool, (12, 14)), st.integers(3, 14), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_shares_of_polygons_are_those_of_their_pixels(known: np.ndarray, side: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # One in each of four squares, so that they do not overlap; some reach over the edge.
    sizes = random.integers(1, 7, (4, 2))
    shapes = np.array([shapely.box(x, y, x + w, y + h) for (x, y), (w, h) in zip(_QUARTERS, sizes, strict=True)])
    cover = Coverage(shapes)
    for rect in windows(known.shape, side):
        cover.add(rect, known[rect.y0 : rect.y1, rect.x0 : rect.x1])
    for shape, counts in zip(shapes, cover.counts(), strict=True):
        burnt = rasterize([(shape, 1)], out_shape=known.shape, transform=Affine.identity()).astype(bool)
        # Pixels beyond the array are not known.
        whole = max(burnt.sum(), 0.95 * shape.area)
        assert counts == (known[burnt].sum() > 0 and 2 * known[burnt].sum() >= whole)


@given(arrays(bool, (12, 14)), st.integers(3, 14), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_polygons_that_overlap_count_each_on_its_own(known: np.ndarray, side: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    low, size = random.integers(-1, 12, (12, 2)), random.integers(1, 9, (12, 2))
    shapes = np.array([shapely.box(*a, *(a + b)) for a, b in zip(low, size, strict=True)])
    cover, alone = Coverage(shapes), [Coverage(shapes[k : k + 1]) for k in range(len(shapes))]
    for rect in windows(known.shape, side):
        for one in (cover, *alone):
            one.add(rect, known[rect.y0 : rect.y1, rect.x0 : rect.x1])
    assert cover.counts().tolist() == [bool(one.counts()[0]) for one in alone]


def test_polygons_without_a_pixel_centre_count_with_their_pixel() -> None:
    tiny = np.array([shapely.box(2.1, 3.1, 2.2, 3.2), shapely.box(5.1, 3.1, 5.2, 3.2)])
    known = np.zeros((8, 8), bool)
    known[3, 2] = True
    cover = Coverage(tiny)
    for rect in windows(known.shape, 4):
        cover.add(rect, known[rect.y0 : rect.y1, rect.x0 : rect.x1])
    assert cover.counts().tolist() == [True, False]


@given(arrays(bool, (12, 14)), st.integers(3, 14), st.integers(0, 2**32 - 1))
@example(np.ones((12, 14), bool), 3, 73)  # two lines that meet at the edge of a window, and cross within it
@settings(max_examples=40)
def test_parts_of_lines_lie_on_known_pixels(known: np.ndarray, side: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    lines = np.array([shapely.LineString(random.uniform((-2, -2), (16, 14), (4, 2))) for _ in range(3)])
    clipped = Clipped(lines)
    for rect in windows(known.shape, side):
        clipped.add(rect, known[rect.y0 : rect.y1, rect.x0 : rect.x1])
    area = shapely.union_all([shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(known)])
    expected = shapely.intersection(shapely.union_all(lines), area).length
    found = clipped.lines()
    assert shapely.union_all(found).length == pytest.approx(expected, abs=1e-6)
    # Pieces of neighbouring windows meet: as a graph they are as long. What has both ends in common is one piece.
    ends = [e for line in found for e in pairwise(shapely.get_coordinates(line))]
    pieces = {frozenset(tuple(np.round(p / SAME)) for p in e): np.linalg.norm(e[1] - e[0]) for e in ends}
    assert graph(found).length == pytest.approx(sum(pieces.values()), abs=0.2)


def test_a_line_over_windows_is_one_edge() -> None:
    clipped = Clipped(np.array([shapely.LineString([(1.3, 1.7), (97.1, 55.9)])]))
    known = np.ones((64, 100), bool)
    for rect in windows(known.shape, 10):
        clipped.add(rect, known[rect.y0 : rect.y1, rect.x0 : rect.x1])
    assert len(clipped.lines()) > 10
    assert len(graph(clipped.lines())) == 1


@given(arrays(bool, (12, 14)), st.integers(3, 14), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_parts_of_polygons_lie_where_something_was_predicted(predicted: np.ndarray, side: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    low, size = random.uniform(-4, 14, (6, 2)), random.uniform(1, 9, (6, 2))
    shapes = np.array([shapely.box(*a, *(a + b)) for a, b in zip(low, size, strict=True)])
    zone = shapely.Polygon([(0, 0), (14, 0), (14, 9), (5, 12), (0, 12)])
    trims = {n: Trimmed(shapes, zone, 0.0) for n in (side, 14)}
    for n, trim in trims.items():
        for rect in windows(predicted.shape, n):
            trim.add(rect, predicted[rect.y0 : rect.y1, rect.x0 : rect.x1])
    found, place, whole = trims[side].polygons()
    area = shapely.union_all([shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(predicted)])
    beyond = shapely.box(-9, -9, 30, 30).difference(shapely.box(0, 0, 14, 12))  # zone cuts that
    for k, shape in enumerate(shapes):
        expected = shape.intersection(area.union(beyond)).intersection(zone)
        assert shapely.area(found[place == k]).sum() == pytest.approx(expected.area, abs=1e-9)
        if expected.area == shape.area:
            assert found[place == k].tolist() == [shape]
            assert whole[place == k].all()
    # the same vertices whatever the windows
    others, theirs, _ = trims[14].polygons()
    assert place.tolist() == theirs.tolist()
    assert (shapely.get_num_coordinates(found) == shapely.get_num_coordinates(others)).all()
    assert shapely.equals(found, others).all()


def test_what_an_edge_leaves_of_a_polygon() -> None:
    square = shapely.box(-4, 2, 6, 8)
    fork = shapely.box(-6, 10, 5, 20).difference(shapely.box(0, 12, 5, 18))
    comb = shapely.box(-9, 30, 0.5, 40).difference(shapely.box(0, 31, 1, 40))  # half a pixel of it is within
    longer = comb.union(shapely.box(-9, 45, 7, 50)).union(shapely.box(-9, 30, -8, 50))  # and of this one much more
    shapes = np.array([square, shapely.box(1, 1, 2, 2), fork, shapely.box(-9, 0, -8, 1), comb, longer])
    found, place, whole = Trimmed(shapes, shapely.box(0, 0, 100, 100), 1.0).polygons()
    assert (place.tolist(), whole.tolist()) == ([0, 1, 2, 2, 4, 5], [False, True, *[False] * 4])
    assert found[1] == shapes[1]
    assert found[0].equals(shapely.box(0, 2, 6, 8))
    assert sorted(shapely.area(found[2:]).tolist()) == [0.5, 10, 10, 35]
    found, place, whole = Trimmed(shapes, None, 1.0).polygons()
    assert whole.all()
    assert found.tolist() == shapes.tolist()
    assert Trimmed(shapes[:0], shapely.box(0, 0, 9, 9), 1.0).polygons()[0].tolist() == []


def test_polygons_within_an_area() -> None:
    area = shapely.box(0, 0, 10, 10)
    shapes = np.array(
        [shapely.box(1, 1, 2, 2), shapely.box(8, 0, 12, 1), shapely.box(9, 0, 12, 1), shapely.box(20, 0, 21, 1)]
    )
    assert within(shapes, area).tolist() == [True, True, False, False]
