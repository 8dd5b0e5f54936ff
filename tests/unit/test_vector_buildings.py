"""Buildings: holes, areas, instances, status and direction of outlines; features in files."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from scipy.ndimage import label

from geounet.config.job import Buildings
from geounet.errors import PartError
from geounet.types import Rect
from geounet.vector import instances, parts
from geounet.vector.attributes import Ground
from geounet.vector.build import SerialExecutor
from geounet.vector.buildings import Drawing, directions
from geounet.vector.buildings import buildings as make
from geounet.vector.cells import CellGrid
from geounet.vector.features import from_shapely
from geounet.vector.instances import Divider, Either, by_contact, by_probability, traced
from geounet.vector.outlines.gate import MIN_IOU
from geounet.vector.outlines.regular import STATUS
from geounet.vector.polygons import Stage
from geounet.vector.schema import BUILDINGS
from tests.support.vectors import ArrayPlane, ArrayProbability

METRE = Ground("EPSG:32633", (1.0, 0.0, 500000.0, 0.0, -1.0, 5000000.0), 100, 100)


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small parts: that they survive a power cut is not tested here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def buildings(
    mask: Any, folder: Path, cell: int = 40, ground: Ground = METRE, stored: Any = None, **how: Any
) -> dict[str, list[Any]]:
    """Buildings of a mask (1 building, 2 contact) with pixels of one metre."""
    mask = np.asarray(mask).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    plane: Any = ArrayPlane(np.where(mask == 1, 1, 255))
    contact = None
    if (mask == 2).any():
        contact = ArrayPlane(np.where(mask == 2, 1, 255))
        plane = Either((plane, contact))
    probability: Any = ArrayProbability(np.where(mask, 200, 0) if stored is None else stored)
    section = Buildings.model_validate(how)
    divider = Divider(plane, contact, probability, section.instances == "probability")
    stage = Stage(plane, probability, CellGrid(len(mask), len(mask[0]), cell), str(folder), "test")
    made = make(stage, Drawing.of(section, ground, "house", divider), SerialExecutor())
    rows: dict[str, list[Any]] = {}
    for path in made.paths:
        for name, column in parts.open_table(path).to_pydict().items():
            rows.setdefault(name, []).extend(column)
    order = np.argsort(rows["id"])
    assert sum(made.status.values()) == len(order)
    return {name: [column[i] for i in order] for name, column in rows.items()}


def shapes(found: dict[str, list[Any]]) -> Any:
    return shapely.from_wkb(np.array(found["geom"], dtype=object))


def burnt(shape: Any, size: int = 100) -> Any:
    """Pixels whose centres lie in a shape; y down."""
    y, x = np.mgrid[0:size, 0:size] + 0.5
    return shapely.contains_xy(shape, x, y)


def corners(shape: Any) -> int:
    return int(shapely.get_num_coordinates(shape.exterior)) - 1


def test_a_court_stays_and_noise_is_filled(tmp_path: Path) -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[10:90, 10:90] = True  # over four cells
    mask[30:60, 30:60] = False
    mask[70, 70] = mask[20:22, 20] = False
    found = buildings(mask, tmp_path)
    assert len(found["id"]) == 1
    outline = shapes(found)[0]
    assert len(outline.interiors) == 1
    assert found["area_m2"][0] == pytest.approx((6400 - 900) / 0.9996**2, rel=1e-4)
    assert found["perimeter_m"][0] == pytest.approx((320 + 120) / 0.9996, rel=1e-4)
    assert found["confidence"] == [pytest.approx(200 / 254)]
    assert found["class"] == ["house"]
    assert found["reg_status"] == ["regular"]
    assert corners(outline) == 4


def test_area_counts_after_cells_are_merged(tmp_path: Path) -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[38:42, 38:42] = True  # 16 m² on the corner of four cells, 4 m² in each
    mask[5:8, 5:8] = True  # 9 m²
    found = buildings(mask, tmp_path / "some")
    assert found["id"] == [38 * 100 + 38]
    assert len(buildings(mask, tmp_path / "all", min_area_m2=0.0)["id"]) == 2


def test_outlines_are_counter_clockwise_and_valid_on_the_map(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).random((100, 100)) < 0.6
    turned = Ground(METRE.crs, (0.8, 0.3, 500000.0, 0.3, -0.8, 5000000.0), 100, 100)
    for tolerance in (0.0, 1.5):
        for k, ground in enumerate((METRE, turned)):
            folder = tmp_path / f"{tolerance}-{k}"
            geometry = shapes(buildings(mask, folder, ground=ground, min_area_m2=0.0, tolerance_px=tolerance))
            assert shapely.is_valid(geometry).all()
            assert all(shapely.is_ccw(g.exterior) for g in geometry)
            assert not any(shapely.is_ccw(ring) for g in geometry for ring in g.interiors)


SHAPES = {
    "rectangle": (shapely.box(-30, -18, 30, 18), 4),
    "L": (shapely.Polygon([(-30, -25), (30, -25), (30, 0), (0, 0), (0, 25), (-30, 25)]), 6),
    "T": (shapely.Polygon([(-34, -20), (34, -20), (34, 4), (10, 4), (10, 28), (-10, 28), (-10, 4), (-34, 4)]), 8),
    "cut corner": (shapely.Polygon([(-30, -25), (12, -25), (30, -7), (30, 25), (-30, 25)]), 5),
    "slanted": (shapely.Polygon([(-30, -25), (30, -25), (30, 10), (-30, 25)]), 4),
}


@pytest.mark.parametrize("turn", [0, 7, 23, 45, 71])
@pytest.mark.parametrize("name", SHAPES)
def test_walls_are_straight_and_angles_right(tmp_path: Path, name: str, turn: float) -> None:
    shape, count = SHAPES[name]
    truth = shapely.affinity.translate(shapely.affinity.rotate(shape, turn, origin=(0, 0)), 50, 50)
    found = buildings(burnt(truth), tmp_path)
    (outline,) = shapely.transform(shapes(found), lambda c: (c - [500000, 5000000]) * [1, -1])
    assert corners(outline) == count
    assert outline.intersection(truth).area / outline.union(truth).area > 0.97
    assert outline.exterior.hausdorff_distance(truth.exterior) < 1.5
    assert found["reg_status"] == ["oblique" if name == "slanted" else "regular"]
    if name != "slanted":
        edge = np.diff(shapely.get_coordinates(outline), axis=0)
        angle = np.degrees(np.arctan2(edge[:, 1], edge[:, 0]))
        away = (angle - angle[0] + 22.5) % 45 - 22.5
        assert np.abs(away).max() < 0.01
        assert (np.abs((angle[0] - turn + 22.5) % 45 - 22.5)) < 1


def test_round_ones_are_recognised(tmp_path: Path) -> None:
    for name, shape in {
        "disc": shapely.Point(50.3, 49.6).buffer(20),
        "ellipse": shapely.affinity.rotate(shapely.affinity.scale(shapely.Point(50, 50).buffer(20), 1.8, 1), 30),
    }.items():
        found = buildings(burnt(shape), tmp_path / name)
        assert found["reg_status"] == ["round"]
        (outline,) = shapely.transform(shapes(found), lambda c: (c - [500000, 5000000]) * [1, -1])
        assert outline.intersection(shape).area / outline.union(shape).area > 0.97
        assert 12 <= corners(outline) <= 64
        assert outline.area == pytest.approx(shape.area, rel=0.01)
    assert found["angle_deg"] == [pytest.approx(120, abs=2)]  # 30° from east towards south


def test_right_angles_are_right_on_the_ground(tmp_path: Path) -> None:
    """At 60° a degree of longitude is half as long as one of latitude."""
    ground = Ground("EPSG:4326", (1e-5, 0.0, 10.0, 0.0, -1e-5, 60.0), 100, 100)
    truth = shapely.affinity.rotate(shapely.box(20, 35, 80, 65), 30)  # in even pixels
    pixels = shapely.affinity.scale(truth, 2**0.5, 0.5**0.5, origin=(50, 50))
    found = buildings(burnt(pixels, 120), tmp_path, ground=ground)
    points = shapely.get_coordinates(shapes(found)[0]) * [0.5, 1]
    edge = np.diff(points, axis=0)
    assert len(edge) == 4
    angle = np.degrees(np.arctan2(edge[:, 1], edge[:, 0]))
    assert np.abs((angle - angle[0] + 45) % 90 - 45).max() < 0.2
    assert found["angle_deg"][0] == pytest.approx(120, abs=1.5)


def row(count: int = 4, contact: bool = True, gap: int = 0) -> Any:
    """Houses in a row: 12 px wide, 20 px deep, the last one deeper; contact between them, with a gap in it."""
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[30:50, 20 : 20 + 12 * count] = 1
    mask[50:58, 20 + 12 * (count - 1) : 20 + 12 * count] = 1
    if contact:
        for k in range(1, count):
            mask[30 + gap : 50, 19 + 12 * k : 21 + 12 * k] = 2
    return mask


def test_row_houses_need_a_contact_class(tmp_path: Path) -> None:
    assert len(buildings(row(contact=False), tmp_path / "without")["id"]) == 1
    for gap in (0, 2):
        found = buildings(row(gap=gap), tmp_path / f"{gap}")
        assert found["id"] == [30 * 100 + 20 + 12 * k for k in range(4)]
        geometry = shapes(found)
        assert found["reg_status"] == ["regular"] * 4
        # Walls are the same line, vertex by vertex: nothing overlaps, nothing is between.
        whole: Any = shapely.union_all(geometry)
        assert whole.geom_type == "Polygon"
        assert len(whole.interiors) == 0
        assert shapely.coverage_is_valid(geometry)
        for a, b in pairwise(geometry):
            assert shapely.relate_pattern(a, b, "F***1****")
            assert shapely.length(a.intersection(b)) == pytest.approx(20, abs=0.5)
        assert [corners(g) for g in geometry] == [4, 4, 4, 5]


def test_confidence_of_each_instance(tmp_path: Path) -> None:
    mask = row(2)
    mask[40:42, 25] = 0  # a hole that is filled does not count
    stored = np.where(np.arange(100) < 32, 100, 220)[None, :].repeat(100, 0)
    stored[40:42, 25] = 0
    found = buildings(mask, tmp_path, stored=stored)
    assert found["confidence"] == [pytest.approx(100 / 254), pytest.approx(220 / 254)]


def test_small_instances_join_a_neighbour(tmp_path: Path) -> None:
    mask = row(3)
    mask[30:33, 23:26] = 2
    mask[31, 24] = 1  # a speck within contact
    assert len(buildings(mask, tmp_path)["id"]) == 3


def test_what_is_open_between_houses_stays_open(tmp_path: Path) -> None:
    """A slit between two houses is a hole of the component; filled, it would join them."""
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[20:60, 20:60] = 1
    mask[22:58, 40] = 0
    mask[20:22, 39:42] = mask[58:60, 39:42] = 2
    found = buildings(mask, tmp_path, min_hole_m2=50.0)
    assert len(found["id"]) == 2


def courts() -> Any:
    """A house with a court that holds a house with a court that holds one; and with courts that hold none."""
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[10:90, 10:90] = 1
    mask[12:32, 12:32] = 0
    mask[14:30, 14:30] = 1
    mask[17:27, 17:27] = 0
    mask[20:24, 20:24] = 1
    mask[12:32, 62:82] = 0
    mask[16:18, 70:72] = 1  # too small for a house
    mask[60:64, 60:64] = 0
    mask[70:80, 40:50] = 0
    mask[72:78, 42:48] = 1
    mask[73:77, 43:47] = 0  # its own court is filled
    return mask


@pytest.mark.parametrize(
    ("how", "areas"),
    [
        ({"min_hole_m2": 500.0}, [6400 - 400 - 100, 256 - 100, 16, 36]),
        ({"min_area_px": 10, "min_hole_px": 500}, [6400 - 400 - 100, 256 - 100, 16, 36]),
        ({"min_area_px": 10, "min_hole_m2": 500.0}, [6400 - 400 - 100, 256 - 100, 16, 36]),
        ({"min_area_m2": 0.0, "min_hole_m2": 500.0}, [6400 - 900, 256 - 100, 4, 16, 36]),
    ],
)
def test_a_court_with_a_house_in_it_stays_open(how: dict[str, Any], areas: list[int], tmp_path: Path) -> None:
    how["outline"] = "raw"
    whole = buildings(courts(), tmp_path / "whole", cell=200, **how)
    geometry = shapes(whole)
    assert shapely.area(geometry).tolist() == areas
    assert shapely.area(shapely.union_all(geometry)) == pytest.approx(shapely.area(geometry).sum())
    for cell in (20, 33, 64):
        assert buildings(courts(), tmp_path / str(cell), cell=cell, **how) == whole


def test_outlines_in_courts_do_not_overlap(tmp_path: Path) -> None:
    geometry = shapes(buildings(courts(), tmp_path, min_hole_m2=500.0))
    assert len(geometry) == 4
    assert shapely.area(shapely.union_all(geometry)) == pytest.approx(shapely.area(geometry).sum())


def test_a_court_of_a_divided_component_stays_open(tmp_path: Path) -> None:
    mask = courts()
    mask[10:90, 55:57] = 2  # two houses; the courts with a house lie in one of them
    found = {cell: buildings(mask, tmp_path / str(cell), cell=cell, outline="raw", min_hole_m2=500.0)
             for cell in (200, 33)}  # fmt: skip
    assert found[200] == found[33]
    geometry = shapes(found[200])
    assert len(geometry) == 5
    assert shapely.area(shapely.union_all(geometry)) == pytest.approx(shapely.area(geometry).sum())
    assert sum(len(g.interiors) for g in geometry) == 3


def test_components_too_large_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "LARGEST", 500)
    assert len(buildings(row(), tmp_path)["id"]) == 1


def test_hills_of_the_probability_are_instances(tmp_path: Path) -> None:
    x = np.arange(100)
    valley = 120 + 130 * np.minimum(np.abs(x - 44) / 20, 1)
    stored = np.where(row(contact=False) > 0, valley[None, :], 0).astype(np.uint8)
    one = buildings(row(contact=False), tmp_path / "one", stored=stored)
    assert len(one["id"]) == 1
    two = buildings(row(contact=False), tmp_path / "two", stored=stored, instances="probability")
    assert two["id"] == [3020, pytest.approx(3044, abs=2)]


def test_labels_of_divided_masks_are_whole_and_connected() -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        mask = rng.random((40, 40)) < 0.8
        mask = label(mask)[0] == 1
        contact = mask & (rng.random((40, 40)) < 0.3)
        for labels in (
            by_contact(mask, contact, 10.0),
            by_probability(mask, rng.integers(0, 255, (40, 40), dtype=np.uint8), 10.0),
        ):
            assert np.array_equal(labels > 0, mask)
            assert np.bincount(labels[mask])[1:].min() >= 10 or labels.max() == 1
            polygons = traced(labels, None, Rect(5, 7, 45, 47), 1000)
            assert polygons.count.sum() == mask.sum()
            assert len(polygons) == labels.max()


def test_at_the_poles_pixels_have_no_shape(tmp_path: Path) -> None:
    mask = np.zeros((46, 90), dtype=np.uint8)
    mask[0, 10:20] = mask[1:6, 40:50] = mask[45, 60:70] = 1
    earth = Ground("EPSG:4326", (4.0, 0.0, -182.0, 0.0, -4.0, 92.0), 46, 90)
    found = buildings(mask, tmp_path, ground=earth)
    assert len(found["id"]) == 3
    assert shapely.is_valid(shapes(found)).all()
    assert all(np.isfinite(found[name]).all() for name in ("area_m2", "perimeter_m", "angle_deg"))


def test_what_is_not_to_be_drawn_straight(tmp_path: Path) -> None:
    truth = shapely.affinity.rotate(shapely.box(20, 32, 80, 68), 37)
    raw = buildings(burnt(truth), tmp_path / "raw", outline="raw")
    assert raw["reg_status"] == buildings(burnt(truth), tmp_path / "zero", tolerance_px=0.0)["reg_status"] == ["raw"]
    assert shapes(raw)[0].area == burnt(truth).sum()
    simple = buildings(burnt(truth), tmp_path / "simple", outline="simplified")
    assert simple["reg_status"] == ["simplified"]
    before, after = shapes(raw)[0], shapes(simple)[0]
    assert corners(after) < corners(before) / 4
    assert before.intersection(after).area / before.union(after).area > MIN_IOU
    assert before.exterior.hausdorff_distance(after.exterior) <= 3.0


def test_thin_things_stay_what_they_are(tmp_path: Path) -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[20:80, 20] = mask[20, 20:80] = mask[50, 20:60] = True
    found = buildings(mask, tmp_path)
    (outline,) = shapes(found)
    truth = burnt(shapely.box(0, 0, 100, 100)) & mask
    assert outline.area == pytest.approx(truth.sum(), rel=0.15)


@pytest.mark.parametrize("angle", [0, 10, 37, 45, 60, 89, 90, 120, 179])
def test_direction_of_the_long_axis(angle: float) -> None:
    # Rectangles with a corner cut off; degrees clockwise from north.
    shape = shapely.Polygon([(0, 0), (10, 0), (10, 26), (6, 30), (0, 30)])
    turned = shapely.affinity.rotate(shape, -angle, origin=(0, 0))
    # METRE's rows run south.
    pixels = shapely.transform(turned, lambda c: c * [1, -1])
    found = directions(METRE, *from_shapely(np.array([pixels], dtype=object)))
    assert min(abs(found[0] - angle), 180 - abs(found[0] - angle)) < 3


def test_a_square_has_one_direction() -> None:
    for turn in (0, 90, 180, 270):
        square = shapely.affinity.rotate(shapely.box(0, 0, 10, 10), 30 + turn, origin="centroid")
        found = directions(METRE, *from_shapely(np.array([square], dtype=object)))
        assert found[0] == pytest.approx(30, abs=1e-3)  # y is down in pixels


def test_the_schema_knows_all_words() -> None:
    (column,) = (c for c in BUILDINGS.columns if c.name == "reg_status")
    assert tuple(word for word, _ in column.values) == STATUS


def table(ids: list[int]) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), "name": [f"n{i}" for i in ids]})


def test_features_of_many_files_come_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ids = rng.permutation(1000)
    paths = []
    for k, part in enumerate(np.array_split(ids, 7)):
        paths.append(tmp_path / f"{k}.arrow")
        ids_of = sorted(part.tolist())
        parts.save_tables(paths[-1], [table(ids_of[:50]), table(ids_of[50:])])
    paths.append(tmp_path / "none.arrow")
    parts.save_tables(paths[-1], [table([])])
    monkeypatch.setattr(parts, "BATCH", 90)
    schema = pa.schema([("id", pa.int64()), ("name", pa.string())])
    batches = list(parts.merged(paths, schema))
    assert max(b.num_rows for b in batches) == 90
    found = pa.Table.from_batches(batches).to_pydict()
    assert found == {"id": list(range(1000)), "name": [f"n{i}" for i in range(1000)]}


def test_a_damaged_part_is_told(tmp_path: Path) -> None:
    path = tmp_path / "part.npz"
    parts.save(path, {"a": np.arange(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(PartError, match=r"part\.npz"):
        parts.load(path)
    features = tmp_path / "part.arrow"
    features.write_bytes(b"nothing")
    with pytest.raises(PartError, match=r"part\.arrow"):
        parts.open_table(features)
