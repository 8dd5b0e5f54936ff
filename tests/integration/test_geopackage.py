"""The GeoPackage of a scene: layers, columns, styles, validity, and what does not change it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import Geod, Transformer

from geounet.config.card import ClassInfo, Kind
from geounet.config.job import Vector
from geounet.errors import JobError, VectorError
from geounet.types import NODATA
from geounet.vector.build import ProcessExecutor, SerialExecutor, geopackage
from tests.support.vectors import CLASSES, LAYERS, build, read, request, town

COLUMNS = {
    "buildings": ["class", "area_m2", "perimeter_m", "confidence", "angle_deg", "reg_status"],
    "road_edges": ["from_node", "to_node", "length_m", "width_m", "confidence", "bridged"],
    "road_nodes": ["node", "degree"],
    "landcover": ["class_id", "class", "area_m2", "confidence"],
}
GEOMETRY = {"buildings": "Polygon", "road_edges": "LineString", "road_nodes": "Point", "landcover": "Polygon"}


def probability(mask: Any) -> Any:
    rng = np.random.default_rng(4)
    stored = rng.integers(0, 255, (len(CLASSES), *mask.shape))
    return np.where(mask == NODATA, NODATA, stored)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A town with all layers, made once, with its request and report."""
    mask = town()
    asked = request(tmp_path_factory.mktemp("town"), mask, probability=probability(mask), cell=100)
    return mask, asked, build(asked)


def test_layers_and_columns_are_those_of_the_contract(scene: Any) -> None:
    _, asked, report = scene
    assert pyogrio.list_layers(asked.out)[:, 0].tolist()[:4] == list(LAYERS)
    for name in LAYERS:
        info = pyogrio.read_info(asked.out, layer=name)
        assert list(info["fields"]) == COLUMNS[name]
        assert info["geometry_type"] == GEOMETRY[name]
        assert info["crs"] == "EPSG:32633"
        assert info["features"] == report["layers"][name] > 0
        assert info["layer_metadata"]["model"] == "test"
        found = read(asked.out, name)
        assert found["fid"] == list(range(1, info["features"] + 1))
        assert shapely.is_valid(shapely.from_wkb(found["geom"])).all()
    assert report["seconds"]["total"] > 0
    assert report["part_bytes"] > 0
    assert report["driver_bytes_per_component"]["landcover"] > 0


def test_notes_name_the_scene_where_the_file_is_not_in_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for home, name in ((tmp_path / "results" / "town", "town"), (None, str(tmp_path / "town.gpkg"))):
        asked = request(
            tmp_path, town(64), crs=None, out=tmp_path / "town.gpkg", home=home,
            layers=Vector.model_validate({"buildings": {}}),
        )  # fmt: skip
        caplog.clear()
        build(asked)
        assert [r.getMessage().partition(": no coordinate system")[0] for r in caplog.records] == [name]


def test_one_file_of_version_1_3_with_indexes(scene: Any) -> None:
    _, asked, _ = scene
    assert sorted(p.name for p in asked.out.parent.iterdir()) == ["cell100.gpkg", "mask.tif", "prob.tif", "work"]
    with sqlite3.connect(f"file:{asked.out}?mode=ro", uri=True) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (10300,)
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for name in LAYERS:
            assert f"rtree_{name}_geom" in tables
        stamps = set(file.execute("SELECT last_change FROM gpkg_contents"))
        assert stamps == {("2024-05-06T07:08:09.000Z",)}


def test_styles_are_where_qgis_looks(scene: Any) -> None:
    _, asked, _ = scene
    with sqlite3.connect(f"file:{asked.out}?mode=ro", uri=True) as file:
        rows = file.execute(
            "SELECT f_table_name, styleQML FROM layer_styles WHERE f_table_catalog = '' AND f_table_schema = ''"
            " AND f_geometry_column = 'geom' AND useAsDefault"
        ).fetchall()
        assert file.execute("SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'").fetchone() == (
            "attributes",
        )
    assert sorted(name for name, _ in rows) == sorted(LAYERS)
    qml = dict(rows)
    for info in CLASSES:
        assert f'label="{info.name}"' in qml["landcover"]
        red, green, blue = info.rgb
        assert f"{red},{green},{blue}," in qml["landcover"]


def test_the_validator_finds_nothing(scene: Any) -> None:
    _, asked, _ = scene
    probe = ["/usr/bin/python3", "-c", "import osgeo_utils.samples.validate_gpkg"]
    if shutil.which(probe[0]) is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs GDAL's Python samples (validate_gpkg)")
    result = subprocess.run(
        ["/usr/bin/python3", "-W", "ignore", "-m", "osgeo_utils.samples.validate_gpkg", "--extra", str(asked.out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


QGIS = """
import json, os, sys
from qgis.core import (QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsVectorLayer)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor
QgsApplication.setPrefixPath("/usr", True)
application = QgsApplication([], False)
application.initQgis()
found, layers = {}, []
for name in ("landcover", "road_edges", "road_nodes", "buildings"):
    layer = QgsVectorLayer(f"{sys.argv[1]}|layername={name}", name, "ogr")
    renderer = layer.renderer()
    labels = []
    if renderer.type() == "categorizedSymbol":
        labels = [c.label() for c in renderer.categories()]
    elif renderer.type() == "graduatedSymbol":
        labels = [r.label() for r in renderer.ranges()]
    aliases = {f.name(): layer.attributeAlias(i) for i, f in enumerate(layer.fields())}
    found[name] = [layer.isValid(), layer.featureCount(), renderer.type(), labels, aliases, layer.crs().authid()]
    layers.append(layer)
settings = QgsMapSettings()
settings.setLayers(layers[::-1])
settings.setOutputSize(QSize(300, 300))
settings.setExtent(layers[0].extent())
settings.setDestinationCrs(layers[0].crs())
settings.setBackgroundColor(QColor(255, 255, 255))
job = QgsMapRendererParallelJob(settings)
job.start()
job.waitForFinished()
image = job.renderedImage()
if len(sys.argv) > 2:
    image.save(sys.argv[2])
colours = {}
for y in range(0, 300, 2):
    for x in range(0, 300, 2):
        c = image.pixelColor(x, y)
        key = f"{c.red() // 32},{c.green() // 32},{c.blue() // 32}"
        colours[key] = colours.get(key, 0) + 1
print(json.dumps([found, colours]))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.qgis
def test_qgis_shows_layers_names_and_colours(scene: Any, tmp_path: Path) -> None:
    _, asked, report = scene
    probe = subprocess.run(["/usr/bin/python3", "-c", "import qgis.core"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("needs QGIS with its Python bindings in /usr/bin/python3")
    (tmp_path / "look.py").write_text(QGIS)
    shutil.copy(asked.out, tmp_path / "town.gpkg")
    result = subprocess.run(
        ["/usr/bin/python3", str(tmp_path / "look.py"), str(tmp_path / "town.gpkg")],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"QT_QPA_PLATFORM": "offscreen", "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    found, colours = json.loads(result.stdout.splitlines()[-1])
    for name, (valid, count, _, _, aliases, crs) in found.items():
        assert valid
        assert count == report["layers"][name]
        assert crs == "EPSG:32633"
        assert all(aliases[column] for column in COLUMNS[name])
    assert found["landcover"][2:4] == ["categorizedSymbol", [c.name for c in CLASSES]]
    assert found["road_edges"][2] == "graduatedSymbol"
    assert len(found["road_edges"][3]) == 5
    assert found["buildings"][2:4] == ["graduatedSymbol", [
        "below 0.6: look first", "0.6 to 0.7", "0.7 to 0.8", "0.8 to 0.9", "0.9 to 1"]]  # fmt: skip
    assert found["road_nodes"][2:4] == ["categorizedSymbol", ["dead end", "junction"]]
    # Rendered: grey ground, red houses, green woods, yellow roads.
    shown = {tuple(int(v) for v in key.split(",")): n for key, n in colours.items() if n > 50}
    assert any(r == g == b and r < 7 for r, g, b in shown)
    assert any(r > g + 2 and r > b + 2 for r, g, b in shown)
    assert any(g > r and g > b for r, g, b in shown)
    assert any(r >= 7 and g >= 5 and b <= 2 for r, g, b in shown)


class ShuffledExecutor:
    """Does the work in another order, and hands results over in yet another."""

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], label: str) -> Iterator[Any]:
        del label
        order = np.random.default_rng(3).permutation(len(items))
        done = [function(items[i]) for i in order]
        yield from reversed(done)


def contents(path: Path) -> dict[str, Any]:
    return {name: read(path, name) for name in LAYERS}


def test_nothing_depends_on_cells_order_or_workers(scene: Any, tmp_path: Path) -> None:
    _, asked, _ = scene
    expected = contents(asked.out)
    for cell in (37, 64, 4096):
        other = dataclasses.replace(asked, cell=cell, out=tmp_path / f"{cell}.gpkg", work=tmp_path / "work")
        geopackage(other, ShuffledExecutor())
        assert contents(other.out) == expected
    other = dataclasses.replace(asked, out=tmp_path / "two.gpkg", work=tmp_path / "two")
    with ProcessExecutor(2) as executor:
        geopackage(other, executor)
    assert contents(other.out) == expected


def test_how_many_are_made_at_once_changes_nothing(scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, asked, _ = scene
    monkeypatch.setattr("geounet.vector.buildings.AT_ONCE", 3)
    monkeypatch.setattr("geounet.vector.neighbours.PAIRS", 5)
    monkeypatch.setattr("geounet.vector.neighbours.SETTLED", 2)
    monkeypatch.setattr("geounet.vector.parts.BATCH", 7)
    monkeypatch.setattr("geounet.vector.polygons.PLAN_VERTICES", 50)
    other = dataclasses.replace(asked, out=tmp_path / "few.gpkg", work=tmp_path / "work")
    build(other)
    assert contents(other.out) == contents(asked.out)


def test_areas_are_geodesic_and_add_up(scene: Any) -> None:
    mask, asked, _ = scene
    everything = Vector.model_validate({"landcover": {"min_area_m2": 0, "tolerance_px": 0}})
    raw = dataclasses.replace(asked, layers=everything, out=asked.work / "raw.gpkg")
    build(raw)
    found = read(raw.out, "landcover")
    pixel = 0.09 / 0.9996**2
    assert sum(found["area_m2"]) == pytest.approx((mask != NODATA).sum() * pixel, rel=1e-6)
    for code in range(4):
        mine = [a for a, c in zip(found["area_m2"], found["class_id"], strict=True) if c == code]
        assert sum(mine) == pytest.approx((mask == code).sum() * pixel, rel=1e-6)
    frame = pyogrio.read_dataframe(asked.out, layer="landcover").to_crs(4326)
    geod = Geod(ellps="WGS84")
    for polygon, area in zip(frame.geometry, frame["area_m2"], strict=True):
        assert area == pytest.approx(abs(geod.geometry_area_perimeter(polygon)[0]), rel=1e-5)


def test_landcover_is_a_coverage_without_small_ones(scene: Any) -> None:
    mask, asked, _ = scene
    found = read(asked.out, "landcover")
    geometry = shapely.from_wkb(found["geom"])
    assert shapely.coverage_is_valid(geometry)
    assert shapely.area(geometry).sum() == pytest.approx((mask != NODATA).sum() * 0.09, rel=2e-3)
    tree = shapely.STRtree(geometry)
    for i, (polygon, area) in enumerate(zip(geometry, found["area_m2"], strict=True)):
        if area < 45:  # simplification moves borders by some percent
            touching = tree.query(polygon, predicate="intersects")
            shared = [j for j in touching if j != i and polygon.intersection(geometry[j]).length > 0]
            assert shared == []


def test_confidence_is_the_mean_over_raw_pixels(tmp_path: Path) -> None:
    mask = np.zeros((50, 50), dtype=np.uint8)
    mask[10:30, 10:30] = 1
    stored = np.full((4, 50, 50), 254)
    stored[1, 10:20], stored[1, 20:30] = 127, 0
    sections = Vector.model_validate({"buildings": {}, "landcover": {"min_area_m2": 10}})
    asked = request(tmp_path, mask, probability=stored, cell=17, layers=sections)
    build(asked)
    assert read(asked.out, "buildings")["confidence"] == [pytest.approx(0.25)]
    assert read(asked.out, "landcover")["confidence"] == [pytest.approx(1.0), pytest.approx(0.25)]


def test_without_probabilities_confidence_is_null(tmp_path: Path) -> None:
    asked = request(tmp_path, town(), cell=100)
    build(asked)
    for name in ("buildings", "road_edges", "landcover"):
        confidences = read(asked.out, name)["confidence"]
        assert confidences
        assert set(confidences) == {None}


def test_layers_without_features_are_there(tmp_path: Path) -> None:
    asked = request(tmp_path, np.full((40, 40), NODATA), cell=16)
    report = build(asked)
    assert report["layers"] == dict.fromkeys(LAYERS, 0)
    for name in LAYERS:
        assert list(pyogrio.read_info(asked.out, layer=name)["fields"]) == COLUMNS[name]
        assert read(asked.out, name)["fid"] == []


def test_only_the_layers_asked_for(tmp_path: Path) -> None:
    asked = request(tmp_path, town(64), layers=Vector.model_validate({"buildings": True, "roads": False}))
    assert list(build(asked)["layers"]) == ["buildings"]


def test_contact_separates_buildings_and_is_building_in_landcover(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[10:30, 10:50] = 1
    mask[10:30, 29:31] = 4
    classes = (*CLASSES, ClassInfo(name="wall", code=4, colour="#ffffff", kind=Kind.contact))
    asked = request(tmp_path, mask, classes=classes, cell=16)
    build(asked)
    assert len(read(asked.out, "buildings")["fid"]) == 2
    cover = read(asked.out, "landcover")
    assert cover["class"] == ["background", "building"]
    assert cover["area_m2"][1] == pytest.approx(20 * 40 * 0.09 / 0.9996**2, rel=1e-6)


def test_classes_of_landcover(tmp_path: Path) -> None:
    chosen = Vector.model_validate({"landcover": {"classes": ["green", "road"]}})
    asked = request(tmp_path, town(), layers=chosen)
    build(asked)
    assert set(read(asked.out, "landcover")["class"]) == {"green", "road"}
    wrong = dataclasses.replace(asked, layers=Vector.model_validate({"landcover": {"classes": ["sea"]}}))
    with pytest.raises(JobError, match=r"sea.*background, building"):
        build(wrong)


def test_multilabel_masks(tmp_path: Path) -> None:
    mask = town(128)
    bands = np.stack([np.where(mask == NODATA, NODATA, mask == c.code) for c in CLASSES[1:]]).astype(np.uint8)
    sections = Vector.model_validate({"buildings": {}, "roads": {}})
    several = request(tmp_path / "m", bands, classes=CLASSES[1:], multilabel=True, layers=sections)
    single = request(tmp_path / "s", mask, layers=sections)
    build(several)
    build(single)
    for name in LAYERS[:3]:
        assert read(several.out, name) == read(single.out, name)
    cover = dataclasses.replace(several, layers=Vector.model_validate({"landcover": {}}))
    with pytest.raises(JobError, match="multi-label"):
        build(cover)


def test_without_a_coordinate_system(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = request(tmp_path, town(128), crs=None, transform=None)
    report = build(asked)
    assert "no coordinate system" in report["notes"][0]
    assert "no coordinate system" in caplog.text
    found = read(asked.out, "buildings")
    assert set(found["area_m2"]) == set(found["perimeter_m"]) == {None}
    assert set(read(asked.out, "road_edges")["length_m"]) == {None}
    assert set(read(asked.out, "landcover")["area_m2"]) == {None}
    with sqlite3.connect(f"file:{asked.out}?mode=ro", uri=True) as file:
        assert set(file.execute("SELECT srs_id FROM gpkg_geometry_columns")) == {(-1,)}
    for section, key in (("buildings", "min_area_m2"), ("roads", "min_length_m"), ("landcover", "min_area_m2")):
        wrong = dataclasses.replace(asked, layers=Vector.model_validate({section: {key: 5}}))
        with pytest.raises(JobError, match=f"vector.{section}.{key}.*no coordinate system"):
            build(wrong)
    none = dataclasses.replace(asked, layers=Vector.model_validate({"buildings": {"min_area_m2": 0}}))
    build(none)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", "EPSG:2263"])
def test_other_units(crs: str, tmp_path: Path) -> None:
    from rasterio import Affine

    grids = {
        "EPSG:3857": Affine(0.6, 0, 1_500_000, 0, -0.6, 8_000_000),
        "EPSG:4326": Affine(4e-6, 0, 13.0, 0, -3e-6, 52.0),
        "EPSG:2263": Affine(1, 0.1, 990_000, 0.1, -1, 200_000),
    }
    asked = request(tmp_path, town(128), crs=crs, transform=grids[crs])
    build(asked)
    frame = pyogrio.read_dataframe(asked.out, layer="buildings").to_crs(4326)
    geod = Geod(ellps="WGS84")
    assert len(frame) > 3
    for polygon, area, length in zip(frame.geometry, frame["area_m2"], frame["perimeter_m"], strict=True):
        # EPSG:2263 is on GRS 80, and shifted by metres: that changes nothing here.
        assert area == pytest.approx(abs(geod.geometry_area_perimeter(polygon)[0]), rel=1e-4)
        rings = [polygon.exterior, *polygon.interiors]
        assert length == pytest.approx(sum(geod.geometry_length(ring) for ring in rings), rel=1e-4)
        assert area >= 9
    roads = pyogrio.read_dataframe(asked.out, layer="road_edges").to_crs(4326)
    assert len(roads) > 5
    for line, length in zip(roads.geometry, roads["length_m"], strict=True):
        assert length == pytest.approx(geod.geometry_length(line), rel=1e-4)
    cover = pyogrio.read_dataframe(asked.out, layer="landcover").to_crs(4326)
    for polygon, area in zip(cover.geometry, cover["area_m2"], strict=True):
        assert area == pytest.approx(abs(geod.geometry_area_perimeter(polygon)[0]), rel=1e-4)
    # Roads of 3 to 10 px: their width is of the ground, not of the map.
    middle = frame.geometry.iloc[0].centroid
    a, b, _, d, e, _ = tuple(grids[crs])[:6]
    to_map = Transformer.from_crs(4326, crs, always_xy=True)
    x, y = to_map.transform(middle.x, middle.y)
    steps = [to_map.transform(x + dx, y + dy, direction="INVERSE") for dx, dy in ((a, d), (b, e))]
    sides = [geod.inv(middle.x, middle.y, *step)[2] for step in steps]
    pixel = float(np.sqrt(np.prod(sides)))
    assert 2 * pixel < roads["width_m"].median() < 13 * pixel


def test_features_are_numbered_by_their_first_pixels(scene: Any) -> None:
    mask, asked, _ = scene
    everything = Vector.model_validate({
        "buildings": {"min_area_m2": 0, "min_hole_m2": 0, "tolerance_px": 0},
        "landcover": {"min_area_m2": 0, "tolerance_px": 0},
    })  # fmt: skip
    raw = dataclasses.replace(asked, layers=everything, out=asked.work / "order.gpkg")
    build(raw)
    for name in ("buildings", "landcover"):
        found = read(raw.out, name)
        firsts = []
        for polygon in shapely.from_wkb(found["geom"]):
            x, y = shapely.get_coordinates(polygon).T
            row, col = np.round((5000000 - y) / 0.3).astype(int), np.round((x - 500000) / 0.3).astype(int)
            firsts.append(min(zip(row.tolist(), col.tolist(), strict=True)))
        assert firsts == sorted(firsts)
        assert len(set(firsts)) == len(firsts) > 10
        assert found["fid"] == list(range(1, len(firsts) + 1))
        if name == "landcover":
            assert [mask[first] for first in firsts] == found["class_id"]


class Interrupted(Exception):
    """Stands for a kill."""


class FailingExecutor(SerialExecutor):
    """Stops after so many pieces of work; counts those that are done."""

    def __init__(self, after: int) -> None:
        self.left = after

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], label: str) -> Iterator[Any]:
        for result in super().map(function, items, label):
            if self.left == 0:
                raise Interrupted
            self.left -= 1
            yield result


def test_a_killed_build_goes_on(scene: Any, tmp_path: Path) -> None:
    _, original, _ = scene
    expected = contents(original.out)
    asked = dataclasses.replace(original, out=tmp_path / "town.gpkg", work=tmp_path / "work", cell=64)
    for after in (0, 3, 20, 40, 70):
        with pytest.raises(Interrupted):
            geopackage(asked, FailingExecutor(after))
        assert not asked.out.exists()
    before = {p: p.stat().st_mtime_ns for p in asked.work.rglob("*-cell-*.npz")}
    assert len(before) >= 16
    build(asked)
    assert contents(asked.out) == expected
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["town.gpkg"]


def test_parts_of_other_rasters_or_options_are_not_used(tmp_path: Path) -> None:
    asked = request(tmp_path, town(64, seed=1))
    build(asked)
    before = read(asked.out, "landcover")
    (tmp_path / "mask.tif").unlink()
    asked = request(tmp_path, town(64, seed=2))
    build(asked)
    assert read(asked.out, "landcover") != before
    finer = dataclasses.replace(asked, layers=Vector.model_validate({"landcover": {"min_area_m2": 0}}))
    assert finer.fingerprint() != asked.fingerprint()
    assert (
        dataclasses.replace(asked, identity="a").fingerprint() != dataclasses.replace(asked, identity="b").fingerprint()
    )


def test_refusals_are_one_clear_line(tmp_path: Path) -> None:
    asked = request(tmp_path, town(64))
    (tmp_path / "broken.tif").write_bytes(b"II*\0 nothing")
    for wrong, error, text in (
        ({"mask": str(tmp_path / "missing.tif")}, VectorError, "missing.tif"),
        ({"mask": str(tmp_path / "broken.tif")}, VectorError, "broken.tif"),
        ({"layers": Vector.model_validate({"buildings": {"class": "hut"}})}, JobError, "hut.*background, building"),
        ({"classes": CLASSES[:1]}, JobError, "no class of kind building"),
        ({"out": tmp_path / "mask.tif" / "x.gpkg"}, VectorError, "folder cannot be made"),
        ({"metadata": {"date": "yesterday"}}, VectorError, "yesterday"),
    ):
        with pytest.raises(error, match=text) as caught:
            build(dataclasses.replace(asked, **wrong))
        assert "\n" not in str(caught.value)
    small = request(tmp_path / "small", town(32), probability=np.zeros((4, 32, 32)))
    with pytest.raises(VectorError, match="32 x 32 pixels"):
        build(dataclasses.replace(asked, probability=small.probability))


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    asked = request(tmp_path, town(64))
    build(asked)
    before = asked.out.read_bytes()
    with pytest.raises(VectorError):
        build(dataclasses.replace(asked, metadata={"date": "never"}))
    assert asked.out.read_bytes() == before
