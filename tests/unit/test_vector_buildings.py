"""Outlines of buildings: holes, areas, simplification behind its gate, direction; features in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely

from geounet.errors import PartError
from geounet.vector import parts
from geounet.vector.attributes import Ground
from geounet.vector.buildings import MIN_IOU, FinishBuildings, directions, simplified_outlines
from geounet.vector.cells import CellGrid
from geounet.vector.features import finish_all, from_shapely
from geounet.vector.polygons import Stage, polygonize
from tests.support.vectors import ArrayPlane, ArrayProbability, SerialExecutor

METRE = Ground("EPSG:32633", (1.0, 0.0, 500000.0, 0.0, -1.0, 5000000.0), 100, 100)


def buildings(mask: Any, folder: Path, cell: int = 40, ground: Ground = METRE, **how: Any) -> dict[str, list[Any]]:
    """Buildings of a mask with pixels of one metre."""
    mask = np.asarray(mask)
    stored: Any = ArrayProbability(np.where(mask, 200, 0))
    stage = Stage(ArrayPlane(np.where(mask, 1, 255)), stored, CellGrid(*mask.shape, cell), str(folder), "buildings")
    options: dict[str, Any] = {"min_area_m2": 10.0, "min_hole_m2": 4.0, "tolerance_px": 1.5, "confidence": True} | how
    traced = polygonize(stage, SerialExecutor())
    paths, _ = finish_all(stage, traced, FinishBuildings(ground, "house", **options), SerialExecutor())
    rows: dict[str, list[Any]] = {}
    for path in paths:
        for name, column in parts.open_table(path).to_pydict().items():
            rows.setdefault(name, []).extend(column)
    order = np.argsort(rows["id"])
    return {name: [column[i] for i in order] for name, column in rows.items()}


def test_a_court_stays_and_noise_is_filled(tmp_path: Path) -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[10:90, 10:90] = True  # over four cells
    mask[30:60, 30:60] = False
    mask[70, 70] = mask[20:22, 20] = False
    found = buildings(mask, tmp_path)
    assert len(found["id"]) == 1
    outline = shapely.from_wkb(found["geom"][0])
    assert len(outline.interiors) == 1
    assert found["area_m2"][0] == pytest.approx((6400 - 900) / 0.9996**2, rel=1e-4)
    assert found["perimeter_m"][0] == pytest.approx((320 + 120) / 0.9996, rel=1e-4)
    assert found["confidence"] == [pytest.approx(200 / 254)]
    assert found["class"] == ["house"]


def test_area_counts_after_cells_are_merged(tmp_path: Path) -> None:
    mask = np.zeros((100, 100), dtype=bool)
    mask[38:42, 38:42] = True  # 16 m² on the corner of four cells, 4 m² in each
    mask[5:8, 5:8] = True  # 9 m²
    found = buildings(mask, tmp_path)
    assert found["id"] == [38 * 100 + 38]
    assert len(buildings(mask, tmp_path / "all", min_area_m2=0.0)["id"]) == 2


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()


def test_outlines_are_counter_clockwise_and_valid_on_the_map(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).random((100, 100)) < 0.6
    for ground in (METRE, Ground(METRE.crs, (0.8, 0.3, 500000.0, 0.3, -0.8, 5000000.0), 100, 100)):
        found = buildings(mask, tmp_path / "all", ground=ground, min_area_m2=0.0, tolerance_px=0.0)
        for path in (tmp_path / "all").iterdir():
            path.unlink()
        geometry = shapely.from_wkb(found["geom"])
        assert shapely.is_valid(geometry).all()
        assert all(shapely.is_ccw(g.exterior) for g in geometry)
        assert not any(shapely.is_ccw(ring) for g in geometry for ring in g.interiors)


def test_simplified_outlines_pass_the_gate(tmp_path: Path) -> None:
    y, x = np.mgrid[0:100, 0:100]
    mask = np.abs((x - 50) * 0.8 + (y - 50) * 0.6) < 30
    mask &= np.abs((y - 50) * 0.8 - (x - 50) * 0.6) < 18
    raw = buildings(mask, tmp_path, tolerance_px=0.0)
    assert raw["reg_status"] == ["raw"]
    for path in tmp_path.glob("*.*"):
        path.unlink()
    found = buildings(mask, tmp_path)
    assert found["reg_status"] == ["simplified"]
    before, after = shapely.from_wkb(raw["geom"][0]), shapely.from_wkb(found["geom"][0])
    assert len(after.exterior.coords) < len(before.exterior.coords) / 4
    assert before.intersection(after).area / before.union(after).area > MIN_IOU
    assert before.exterior.hausdorff_distance(after.exterior) <= 3.0


def test_what_simplifying_would_spoil_stays_raw() -> None:
    thin = shapely.Polygon([(0, 0), (30, 0), (30, 1), (15, 1), (15, 2), (14, 2), (14, 1), (0, 1)])
    wide = shapely.box(0, 0, 40, 40)
    outlines, simplified = simplified_outlines(np.array([thin, wide], dtype=object), 6.0)
    assert simplified.tolist() == [False, True]
    assert outlines[0] is thin


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
