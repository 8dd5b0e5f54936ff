"""The GeoPackage as QGIS opens it: its project with all layers, styles and paths that survive a move; what is drawn."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from rasterio import Affine

from geounet.raster.sidecar import write_aux
from geounet.types import NODATA
from geounet.vector import backdrop
from geounet.vector.symbols import ramp
from tests.support.rasters import write
from tests.support.vectors import CLASSES, GRID, LAYERS, build, request, town, vectorize

LOOK = """
import json, os, sys
from qgis.core import (QgsApplication, QgsExpressionContext, QgsExpressionContextUtils, QgsMapRendererParallelJob,
                       QgsMapSettings, QgsProject, QgsRectangle)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor
QgsApplication.setPrefixPath("/usr", True)
application = QgsApplication([], False)
application.initQgis()
messages = []
QgsApplication.messageLog().messageReceived.connect(lambda text, tag, level: messages.append(f"{tag}: {text}"))
gpkg, name, folder = sys.argv[1:4]
project = QgsProject.instance()
answer = {"read": project.read(f"geopackage:{gpkg}?projectName={name}"), "layers": {}, "order": []}
root = project.layerTreeRoot()
for group in root.children():
    for node in group.children():
        layer = node.layer()
        found = {"group": group.name(), "shown": node.isVisible(), "valid": layer is not None and layer.isValid()}
        if found["valid"]:
            found.update(source=layer.source(), crs=layer.crs().authid(), type=layer.type())
            if layer.type() == 0:
                renderer = layer.renderer()
                found.update(renderer=renderer.type(), features=layer.featureCount(), opacity=layer.opacity(),
                    scales=layer.hasScaleBasedVisibility() and layer.minimumScale(), tip=layer.mapTipTemplate(),
                    display=layer.displayExpression(),
                    aliases={f.name(): layer.attributeAlias(i) for i, f in enumerate(layer.fields())},
                    widgets={f.name(): layer.editorWidgetSetup(i).type() for i, f in enumerate(layer.fields())})
                context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(layer))
                from qgis.core import QgsExpression
                for feature in layer.getFeatures():
                    context.setFeature(feature)
                    text = QgsExpression.replaceExpressionText(layer.mapTipTemplate(), context)
                    expression = QgsExpression(layer.displayExpression())
                    found.update(tip=text, display=expression.evaluate(context), wrong=expression.hasEvalError())
                    break
        answer["layers"][node.name()] = found
answer["order"] = [layer.name() for layer in root.layerOrder()]
answer.update(title=project.title(), crs=project.crs().authid(), ellipsoid=project.ellipsoid(),
              extent=project.viewSettings().defaultViewExtent().toString(3), messages=messages)
settings = QgsMapSettings()
settings.setOutputSize(QSize(300, 300))
settings.setExtent(project.viewSettings().defaultViewExtent())
settings.setDestinationCrs(project.crs())
settings.setBackgroundColor(QColor(120, 200, 255))
context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(None))
context.appendScope(QgsExpressionContextUtils.mapSettingsScope(settings))
settings.setExpressionContext(context)
def draw(layers, name):
    settings.setLayers(layers)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(os.path.join(folder, name + ".png"))
    return [error.message for error in job.errors()]
errors = draw([layer for layer in root.layerOrder() if root.findLayer(layer).isVisible()], "all")
for layer in root.layerOrder():
    errors += draw([layer], layer.name())
answer["errors"] = errors
print(json.dumps(answer))
sys.stdout.flush()
os._exit(0)
"""

PAPER = np.array([120, 200, 255])
"""Colour where nothing is drawn; no style has it."""

Look = Callable[[Path, str], dict[str, Any]]


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Opens the project of a GeoPackage in QGIS and says what is there; pictures go beside the script."""
    if subprocess.run(["/usr/bin/python3", "-c", "import qgis.core"], capture_output=True, check=False).returncode:
        pytest.skip("needs QGIS with its Python bindings in /usr/bin/python3")
    folder = tmp_path_factory.mktemp("look")
    (folder / "look.py").write_text(LOOK)

    def open_project(gpkg: Path, name: str) -> dict[str, Any]:
        done = subprocess.run(
            ["/usr/bin/python3", str(folder / "look.py"), str(gpkg), name, str(folder)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"QT_QPA_PLATFORM": "offscreen", "XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)},
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        answer["folder"] = folder
        return answer

    return open_project


def picture(answer: dict[str, Any], name: str) -> Any:
    """Colours `(rows, cols, 3)` of what was drawn."""
    from PIL import Image

    return np.asarray(Image.open(answer["folder"] / f"{name}.png").convert("RGB")).astype(int)


def drawn(answer: dict[str, Any], name: str) -> Any:
    """Where something was drawn."""
    return (np.abs(picture(answer, name) - PAPER) > 8).any(axis=2)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """The output folder of a scene as `run` leaves it, its input, and the report."""
    top = tmp_path_factory.mktemp("project")
    mask = town()
    scenes, home = top / "scenes", top / "out" / "town"
    scenes.mkdir()
    image = np.stack([mask * 40 + 60] * 3).astype(np.uint16) * 16
    scene = write(scenes / "town.tif", image, transform=GRID, nodata=0)
    rng = np.random.default_rng(4)
    stored = np.where(mask == NODATA, NODATA, rng.integers(120, 255, (len(CLASSES), *mask.shape)))
    asked = request(home, mask, probability=stored, cell=100)
    below = backdrop.masks(str(home / "mask.tif"), CLASSES)
    below += backdrop.probabilities(str(home / "prob.tif"), [(CLASSES[1], 2)])
    below.append(backdrop.scene(str(scene), "town"))
    import dataclasses

    asked = dataclasses.replace(asked, out=home / "town.gpkg", backdrops=tuple(below))
    report = build(asked)
    shutil.rmtree(home / "work")
    return top, home / "town.gpkg", report


def document(gpkg: Path) -> ET.Element:
    """The project's XML."""
    with sqlite3.connect(f"file:{gpkg}?mode=ro", uri=True) as file:
        ((name, metadata, content),) = file.execute("SELECT name, metadata, content FROM qgis_projects")
    assert set(json.loads(metadata)) == {"last_modified_time", "last_modified_user"}
    with zipfile.ZipFile(BytesIO(bytes.fromhex(content))) as archive:
        assert archive.namelist() == [f"{name}.qgs"]
        return ET.fromstring(archive.read(f"{name}.qgs"))


def test_the_project_names_no_place_of_the_machine(result: Any) -> None:
    top, gpkg, _ = result
    root = document(gpkg)
    text = ET.tostring(root, encoding="unicode")
    assert str(top) not in text
    sources = [node.text or "" for node in root.iter("datasource")]
    assert sorted(sources) == sorted(
        [*(f"./town.gpkg|layername={name}" for name in LAYERS), "./mask.tif", "./prob.tif", "../../scenes/town.tif"]
    )
    names = [node.get("name") for node in root.iter("layer-tree-layer")]
    assert names == [
        "Road nodes", "Roads", "Buildings", "Land cover", "Mask", "Probability: building", "town"]  # fmt: skip
    identifiers = [node.text for node in root.iter("id")]
    assert len(set(identifiers)) == len(identifiers) == 7
    assert [node.get("id") for node in root.iter("layer-tree-layer")] == identifiers


def test_a_project_is_no_layer(result: Any) -> None:
    _, gpkg, _ = result
    with sqlite3.connect(f"file:{gpkg}?mode=ro", uri=True) as file:
        known = {name for (name,) in file.execute("SELECT table_name FROM gpkg_contents")}
    assert known == {*LAYERS, "layer_styles"}


@pytest.mark.qgis
def test_the_project_opens_with_all_layers_after_a_move(result: Any, look: Look, tmp_path: Path) -> None:
    top, _, report = result
    moved = shutil.copytree(top, tmp_path / "elsewhere (2)")
    answer = look(moved / "out" / "town" / "town.gpkg", "town")
    assert answer["read"]
    assert answer["messages"] == answer["errors"] == []
    assert (answer["title"], answer["crs"]) == ("town", "EPSG:32633")
    assert answer["ellipsoid"].startswith("PARAMETER:6378137.0:6356752.3")
    assert answer["order"] == list(answer["layers"])
    for name, layer in answer["layers"].items():
        assert layer["valid"], name
        assert layer["crs"] == "EPSG:32633"
        assert layer["source"].startswith(str(moved)), "found where it was moved to"
        assert layer["group"] == ("Rasters" if layer["type"] else "Vectors")
        assert layer["shown"] == (layer["group"] == "Vectors" or name == "town")
    xmin, ymin, xmax, ymax = (float(v) for side in answer["extent"].split(" : ") for v in side.split(","))
    assert xmin < 500000 < 500000 + 256 * 0.3 < xmax
    assert ymin < 5000000 - 256 * 0.3 < 5000000 < ymax
    vectors = {name: layer for name, layer in answer["layers"].items() if layer["group"] == "Vectors"}
    assert {name: (layer["renderer"], layer["features"]) for name, layer in vectors.items()} == {
        "Road nodes": ("categorizedSymbol", report["layers"]["road_nodes"]),
        "Roads": ("graduatedSymbol", report["layers"]["road_edges"]),
        "Buildings": ("graduatedSymbol", report["layers"]["buildings"]),
        "Land cover": ("categorizedSymbol", report["layers"]["landcover"]),
    }
    assert vectors["Road nodes"]["scales"] == 5000
    assert vectors["Land cover"]["opacity"] == pytest.approx(0.7)
    assert vectors["Land cover"]["widgets"]["class_id"] == "ValueMap"
    assert vectors["Buildings"]["widgets"] | {"x": 0} == {
        "fid": "TextEdit", "class": "TextEdit", "area_m2": "TextEdit", "perimeter_m": "TextEdit",
        "confidence": "Range", "angle_deg": "TextEdit", "reg_status": "ValueMap", "x": 0}  # fmt: skip
    assert vectors["Roads"]["widgets"]["bridged"] == "CheckBox"
    assert vectors["Buildings"]["aliases"]["area_m2"] == "area (m²)"
    for layer in vectors.values():
        assert not layer["wrong"]
        assert "[%" not in layer["tip"]
        assert str(layer["display"]) in layer["tip"]
        assert "None" not in layer["tip"]
    assert "m²" in vectors["Buildings"]["display"]
    assert vectors["Buildings"]["display"].startswith("building 1, ")
    assert "confidence" in vectors["Buildings"]["tip"]


@pytest.mark.qgis
def test_what_is_drawn(result: Any, look: Look) -> None:
    _, gpkg, _ = result
    answer = look(gpkg, "town")
    # The picture has the extent of the scene and 2 % around it; each picture pixel is a pixel of the mask.
    side = 300
    place = ((np.arange(side) + 0.5) / side * 1.04 - 0.02) * 256
    index = np.clip(place.astype(int), 0, 255)
    inside = (place > 0) & (place < 256)
    mask = np.where(inside[:, None] & inside[None, :], town()[index][:, index], NODATA)

    def shown(name: str, code: int) -> Any:
        return np.median(picture(answer, name)[mask == code], axis=0)

    # Probabilities are 0.74 on average: the third of five tints, through which the ground shows.
    tint = np.array(ramp(CLASSES[1].rgb, 5)[2])
    assert shown("Buildings", 1) == pytest.approx((150 * tint + 105 * PAPER) / 255, abs=2)
    for info in CLASSES[2:]:  # most houses are smaller than the mapping unit
        # Seven tenths of the class's colour.
        assert shown("Land cover", info.code) == pytest.approx(0.7 * np.array(info.rgb) + 0.3 * PAPER, abs=2)
    assert (picture(answer, "Mask")[mask == 3] == CLASSES[3].rgb).all(axis=1).mean() > 0.95
    roads = drawn(answer, "Roads")
    # As wide as in the mask: centre lines are drawn with the width on the ground.
    assert (roads & (mask == 2)).sum() > 0.85 * (mask == 2).sum()
    assert roads.sum() < 1.35 * (mask == 2).sum()
    assert drawn(answer, "Road nodes").any()
    # Nothing is drawn where there are no data, and 16-bit values are stretched: not black.
    nodata = (np.add.outer(place, place) < 40) & inside[:, None] & inside[None, :]
    assert not drawn(answer, "Land cover")[nodata].any()
    levels = picture(answer, "town")[mask != NODATA]
    assert np.percentile(levels, 90) - np.percentile(levels, 10) > 100


@pytest.mark.qgis
@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326", None])
def test_projects_of_other_systems(crs: str | None, look: Look, tmp_path: Path) -> None:
    grids = {
        "EPSG:3857": Affine(0.6, 0, 1_500_000, 0, -0.6, 8_000_000),
        "EPSG:4326": Affine(4e-6, 0, 13.0, 0, -3e-6, 52.0),
        None: None,
    }
    mask = write(tmp_path / "mask.tif", town(128)[None], crs=crs, transform=grids[crs], nodata=NODATA)
    write_aux(tmp_path / "mask.tif.aux.xml", CLASSES)
    kinds = ("--kind", "buildings", "--kind", "roads", "--kind", "landcover")
    assert vectorize(mask, "--out", tmp_path / "v.gpkg", *kinds) == 0
    answer = look(tmp_path / "v.gpkg", "v")
    assert answer["read"]
    assert answer["errors"] == []
    assert answer["crs"] == (crs or "")
    assert all(layer["valid"] for layer in answer["layers"].values())
    # Where a raster without georeference lies in QGIS is no place of features.
    rasters = [] if crs is None else ["mask"]
    assert list(answer["layers"]) == ["Road nodes", "Roads", "Buildings", "Land cover", *rasters]
    # No probabilities: one colour for all buildings.
    assert answer["layers"]["Buildings"]["renderer"] == "singleSymbol"
    for name in ("Buildings", "Land cover", "Roads", *rasters):
        assert drawn(answer, name).mean() > 0.02, name


@pytest.mark.qgis
def test_probabilities_below_their_vectors(look: Look, tmp_path: Path) -> None:
    values = np.zeros((60, 60), dtype=np.float32)
    values[10:50, 10:50] = 180.0
    write(tmp_path / "scores.tif", values[None], transform=GRID)
    out = tmp_path / "x.gpkg"
    assert vectorize(tmp_path / "scores.tif", "--out", out, "--kind", "buildings", "--threshold", 100) == 0
    answer = look(out, "x")
    assert answer["layers"]["scores"]["valid"]
    scores = drawn(answer, "scores")
    assert scores[150, 150]
    assert not scores[20, 20]
