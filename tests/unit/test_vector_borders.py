"""Borders: split and put back, simplified to both sides alike, shifted to where they are, rounded; never crossing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from scipy.ndimage import gaussian_filter

from geounet.types import NODATA, Rect
from geounet.vector.borders.arcs import as_paths, replace, split
from geounet.vector.borders.corners import BOX, FINE, CellCorners, free
from geounet.vector.borders.reduce import Rule, drawn
from geounet.vector.components import label_cell
from geounet.vector.trace import corners, trace
from tests.support.coverages import in_pixels, landcover, smooth


def outlines(values: Any) -> tuple[Any, CellCorners]:
    """All outlines of an array in one cell, as paths, and its corners."""
    rect = Rect(0, 0, *values.shape)
    halo = np.pad(np.asarray(values, dtype=np.uint8), 1, constant_values=NODATA)
    labels = label_cell(np.ascontiguousarray(halo[1:-1, 1:-1]), rect, rect.cols)
    pieces = trace(halo, labels.image, np.zeros_like(labels.touches), rect, rect.cols, junctions=True)
    assert pieces.closed.all()
    return as_paths(pieces.coords, pieces.junction, pieces.offsets, pieces.closed), CellCorners(corners(halo), 0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_each_border_is_found_once_and_goes_back_to_both_sides(seed: int) -> None:
    values = smooth(40, 3, seed)
    paths, _ = outlines(values)
    arcs, uses = split(paths)
    # Unit edges of all borders are those of the array, each once.
    after = arcs.following()
    edges = int((np.abs(arcs.x[after] - arcs.x) + np.abs(arcs.y[after] - arcs.y)).sum())
    halo = np.pad(values, 1, constant_values=NODATA)
    assert edges == (halo[1:] != halo[:-1]).sum() + (halo[:, 1:] != halo[:, :-1]).sum()
    assert np.bincount(uses.arc).max() == 2
    assert not uses.reverse.all()
    raw = np.column_stack([arcs.x, arcs.y]).astype(np.int32) * np.int32(FINE)
    back = replace(paths, uses, raw, arcs.offsets)
    assert not back.raw.any()
    assert back.offsets.tolist() == paths.offsets.tolist()
    for low, high in zip(paths.offsets[:-1], paths.offsets[1:], strict=True):
        ring, was = back.coords[low:high].tolist(), paths.coords[low:high].tolist()
        at = ring.index(was[0])
        assert ring[at:] + ring[:at] == was


class Dear(CellCorners):
    """Corners that have to be looked at one by one."""

    def only(self, box: Any, count: Any) -> Any:
        """Not cheap to tell."""
        return np.zeros(len(count), dtype=np.bool_)


def test_triangles_near_corners_as_geometry_tells() -> None:
    rng = np.random.default_rng(1)
    bent = rng.random((30, 40)) < 0.02
    there = Dear(bent, 5, 7)
    y, x = (i.astype(np.int64) for i in np.nonzero(bent))
    x, y = x + 5, y + 7
    low, high = np.array([6, 8]) * FINE, np.array([44, 35]) * FINE
    points = rng.integers(np.tile(low, 3), np.tile(high, 3), (600, 6))
    points[:100, 4:] = points[:100, 2:4]  # flat ones
    points[100:300] = points[100:300] // FINE * FINE
    own = rng.integers(0, len(x), 600)
    a_x, a_y, b_x, b_y, c_x, c_y = points.T
    found = free((a_x, a_y, b_x, b_y, c_x, c_y), (np.arange(600), own), (x, y), there)
    boxes = shapely.box(x * FINE - BOX, y * FINE - BOX, x * FINE + BOX, y * FINE + BOX)
    for i, corner in enumerate(points.reshape(600, 3, 2)):
        triangle = shapely.convex_hull(shapely.multipoints(corner))
        near = shapely.intersects(boxes, triangle)
        near[own[i]] = False
        assert found[i] == (not near.any()), (i, corner)
    assert 100 < found.sum() < 500


@pytest.mark.parametrize(("rise", "run"), [(1, 1), (1, 2), (2, 3), (3, 7), (1, 5), (1, 12), (4, 5), (11, 12), (5, 23)])
def test_a_slanting_line_comes_out_straight(rise: int, run: int) -> None:
    y, x = np.mgrid[0:60, 0:60]
    values = (rise * (x + 0.5) > run * (y + 0.5)).astype(np.uint8)
    paths, there = outlines(values)
    arcs, _ = split(paths)
    coords, offsets = drawn(arcs, Rule(1.5), there)
    slanted = [coords[a:b] / FINE for a, b in itertools.pairwise(offsets)]
    (border,) = [c for c in slanted if ((c > 0) & (c < 60)).all(axis=1).any()]
    inside = border[(border > 4).all(axis=1) & (border < 56).all(axis=1)]
    away = np.abs(rise * inside[:, 0] - run * inside[:, 1]) / np.hypot(rise, run)
    assert len(border) <= 4
    assert away.max(initial=0) < 0.55


def test_right_angles_stay() -> None:
    values = np.zeros((40, 50), dtype=np.uint8)
    values[10:25, 12:40] = 1
    values[18:25, 30:40] = 0
    paths, there = outlines(values)
    arcs, _ = split(paths)
    for rule in (Rule(1.5), Rule(4)):
        coords, _ = drawn(arcs, rule, there)
        assert sorted(map(tuple, coords // FINE)) == sorted(zip(arcs.x.tolist(), arcs.y.tolist(), strict=True))
        assert (coords % FINE == 0).all()


def test_areas_stay_and_rounding_does_not_shrink(tmp_path: Path) -> None:
    y, x = np.mgrid[0:200, 0:200]
    values = np.zeros((200, 200), dtype=np.uint8)
    for k, radius in enumerate((6, 10, 18, 30)):
        cy, cx = ((40, 40), (40, 110), (110, 40), (130, 130))[k]
        values[np.hypot(y + 0.5 - cy, x + 0.5 - cx) < radius] = k + 1
    for rule in (Rule(1.5), Rule(1.5, 3), Rule(3), Rule(3, 20)):
        rows = landcover(values, 64, tmp_path / str(rule), rule)
        found = in_pixels(rows)
        area = shapely.area(found)
        pixels = np.bincount(values.ravel())[rows["class_id"]]
        assert abs(area / pixels - 1).max() < (0.03 if rule.tolerance_px < 2 else 0.08), rule
        assert area.sum() == pytest.approx(values.size)
        # Without rounding: not even half as many vertices.
        kept = shapely.get_num_coordinates(found[1:]).sum()
        raw = in_pixels(landcover(values, 64, tmp_path / "raw", Rule(0)))
        assert rule.smooth_px or kept < 0.5 * shapely.get_num_coordinates(raw[1:]).sum()
    # Rounded, a disc is nearer to a circle than its polygon is.
    plain, curved = (in_pixels(landcover(values, 64, tmp_path / f"{r}", r))[-1] for r in (Rule(1.5), Rule(1.5, 10)))
    circle = shapely.Point(130, 130).buffer(30, quad_segs=64)
    off = [shapely.area(shapely.symmetric_difference(circle, p)) for p in (plain, curved)]
    assert off[1] < off[0] < 0.05 * circle.area


def test_lines_run_nearer_to_what_was_sampled_than_the_pixels_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    fine = 8
    field = gaussian_filter(rng.normal(size=(100 * fine, 100 * fine)), 5 * fine)
    truth = field > 0
    values = truth[fine // 2 :: fine, fine // 2 :: fine].astype(np.uint8)

    def wrong(rule: Rule) -> float:
        from rasterio.features import rasterize
        from rasterio.transform import Affine

        found = landcover(values, 64, tmp_path / str(rule), rule)
        shapes = zip(in_pixels(found), found["class_id"], strict=True)
        image = rasterize(shapes, truth.shape, fill=9, transform=Affine.scale(1 / fine))
        return float((image != truth).sum())

    pixels = wrong(Rule(0))
    assert wrong(Rule(1.5)) < 0.85 * pixels
    assert wrong(Rule(1.5, 2)) < 0.75 * pixels


def test_what_is_thin_survives(tmp_path: Path) -> None:
    values = np.zeros((60, 60), dtype=np.uint8)
    y, x = np.mgrid[0:60, 0:60]
    values[(x - y >= 0) & (x - y <= 1)] = 1
    values[(x + 2 * y >= 80) & (x + 2 * y <= 82)] = 2
    values[30, :] = 3
    raw = in_pixels(landcover(values, 100, tmp_path / "raw", Rule(0)))
    for rule in (Rule(1.5), Rule(10), Rule(10, 5)):
        found = in_pixels(landcover(values, 100, tmp_path / str(rule), rule))
        assert shapely.coverage_is_valid(found)
        assert (shapely.area(found) > 0.4 * shapely.area(raw)).all()
