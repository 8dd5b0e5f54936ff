"""Names and colours for QGIS and GDAL."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from pyproj import CRS
from rasterio import Affine

from geounet.config.card import ClassInfo
from geounet.raster.cog import keeps_crs, write_mask
from geounet.raster.env import open_quietly
from geounet.raster.sidecar import write_aux, write_qml
from geounet.vector.ingest import ingest
from tests.support.rasters import write
from tests.unit.test_raster_cog import CLASSES, codes, info

SYSTEM_PYTHON = "/usr/bin/python3"

QGIS = """
import json, sys
from qgis.core import QgsApplication, QgsRasterLayer
app = QgsApplication([], False)
app.initQgis()
layer = QgsRasterLayer(sys.argv[1], "mask")
renderer = layer.renderer()
out = {"valid": layer.isValid(), "type": renderer.type(), "band": renderer.band() if hasattr(renderer, "band") else 0}
if renderer.type() == "paletted":
    out["band"] = renderer.band()
    out["classes"] = [[c.value, c.label, c.color.name(), c.color.alpha()] for c in renderer.classes()]
out["bands"] = [layer.bandName(i + 1) for i in range(layer.bandCount())]
if len(sys.argv) > 2:
    from qgis.core import QgsMapSettings, QgsMapRendererParallelJob
    from qgis.PyQt.QtCore import QSize
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setExtent(layer.extent())
    settings.setOutputSize(QSize(400, 400))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(sys.argv[2])
print("RESULT" + json.dumps(out))
"""


def in_qgis(path, *more):
    """Open a raster in QGIS and return what it makes of it."""
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": "", "XDG_RUNTIME_DIR": "/tmp"}
    for name in ("GDAL_DATA", "PROJ_LIB", "PROJ_DATA", "VIRTUAL_ENV"):
        environment.pop(name, None)
    probe = [SYSTEM_PYTHON, "-c", "import qgis.core"]
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run(probe, capture_output=True, env=environment).returncode:
        pytest.skip("needs QGIS with its Python bindings")
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", QGIS, str(path), *map(str, more)], capture_output=True, text=True, env=environment
    )
    line = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert line, done.stderr
    return json.loads(line[0].removeprefix("RESULT"))


def legend(classes):
    return [[c.code, c.name, c.colour, 255] for c in classes]


@pytest.mark.qgis
def test_qgis_shows_exactly_the_classes(tmp_path):
    write_mask(write(tmp_path / "in.tif", codes(600, 600)), tmp_path / "s_mask.tif", info(600, 600), CLASSES, {})
    write_qml(tmp_path / "s_mask.qml", CLASSES)
    write_aux(tmp_path / "s_mask.tif.aux.xml", CLASSES)
    found = in_qgis(tmp_path / "s_mask.tif", tmp_path / "map.png")
    assert found["valid"]
    assert found["type"] == "paletted"
    assert found["classes"] == legend(CLASSES)
    from PIL import Image

    pixels = Image.open(tmp_path / "map.png").getcolors(10**6)
    drawn = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b, alpha) in pixels if alpha == 255}
    assert {c.colour for c in CLASSES} <= drawn


@pytest.mark.qgis
def test_qgis_shows_the_first_band_of_a_multilabel_mask(tmp_path):
    array = np.stack([(codes(300, 300)[0] == code).astype(np.uint8) for code in (0, 1, 5)])
    write_mask(write(tmp_path / "in.tif", array), tmp_path / "s_mask.tif", info(300, 300), CLASSES, {})
    write_qml(tmp_path / "s_mask.qml", CLASSES, multilabel=True)
    write_aux(tmp_path / "s_mask.tif.aux.xml", CLASSES, multilabel=True)
    found = in_qgis(tmp_path / "s_mask.tif")
    assert found["valid"]
    assert found["type"] == "paletted"
    assert found["band"] == 1
    assert found["classes"] == [[0, "no background", "#000000", 0], [1, "background", "#1f1f1f", 255]]
    assert found["bands"] == ["Band 1: background", "Band 2: building & <shed>", "Band 3: Straße"]


def test_gdal_reads_categories_and_attribute_table(tmp_path):
    gdalinfo = shutil.which("gdalinfo")
    if gdalinfo is None:
        pytest.skip("needs gdalinfo")
    write_mask(write(tmp_path / "in.tif", codes(60, 60)), tmp_path / "s_mask.tif", info(60, 60), CLASSES, {})
    write_aux(tmp_path / "s_mask.tif.aux.xml", CLASSES)
    text = subprocess.run([gdalinfo, str(tmp_path / "s_mask.tif")], capture_output=True, text=True, check=True).stdout
    assert "0: background" in text
    assert "1: building & <shed>" in text
    assert "5: Straße" in text
    assert '<GDALRasterAttributeTable tableType="thematic">' in text
    assert text.count("<Row index") == 3


def test_sidecars_are_well_formed_and_complete(tmp_path):
    write_qml(tmp_path / "a.qml", CLASSES)
    write_aux(tmp_path / "a.tif.aux.xml", CLASSES)
    entries = ET.parse(tmp_path / "a.qml").getroot().findall(".//paletteEntry")
    assert [(int(e.get("value")), e.get("label"), e.get("color")) for e in entries] == [
        (c.code, c.name, c.colour) for c in CLASSES
    ]
    root = ET.parse(tmp_path / "a.tif.aux.xml").getroot()
    names = [c.text or "" for c in root.findall(".//Category")]
    assert names == ["background", "building & <shed>", "", "", "", "Straße"]
    rows = [[f.text for f in row] for row in root.findall(".//Row")]
    assert rows[1] == ["1", "building & <shed>", "230", "25", "75", "255"]


def test_multilabel_sidecar_describes_every_band(tmp_path):
    write_aux(tmp_path / "a.tif.aux.xml", CLASSES, multilabel=True)
    bands = ET.parse(tmp_path / "a.tif.aux.xml").getroot().findall("PAMRasterBand")
    assert [band.get("band") for band in bands] == ["1", "2", "3"]
    assert [c.text for c in bands[2].findall(".//Category")] == ["no Straße", "Straße"]


def test_sidecars_do_not_depend_on_the_order_of_classes(tmp_path):
    write_aux(tmp_path / "a.xml", CLASSES)
    write_aux(tmp_path / "b.xml", list(reversed(CLASSES)))
    assert (tmp_path / "a.xml").read_bytes() == (tmp_path / "b.xml").read_bytes()


def test_quotes_in_names(tmp_path):
    awkward = [ClassInfo(name="a \"b\" 'c' & <d>", code=0, colour="#ABCDEF")]
    write_qml(tmp_path / "a.qml", awkward)
    write_aux(tmp_path / "a.xml", awkward)
    entry = ET.parse(tmp_path / "a.qml").getroot().find(".//paletteEntry")
    assert entry.get("label") == awkward[0].name
    assert entry.get("color") == "#abcdef"
    assert ET.parse(tmp_path / "a.xml").getroot().find(".//Category").text == awkward[0].name


@pytest.mark.parametrize(
    ("crs", "kept"),
    [
        ("EPSG:32633", True),
        ("EPSG:25832+5783", True),
        ("+proj=eqearth +lon_0=10 +datum=WGS84 +type=crs", False),
        ("+proj=ob_tran +o_proj=longlat +o_lon_p=-162 +o_lat_p=39.25 +lon_0=180 +type=crs", False),
    ],
)
def test_a_crs_that_geotiff_cannot_tell_is_read_from_the_sidecar(tmp_path, crs, kept):
    wkt = CRS.from_user_input(crs).to_wkt("WKT2_2019")
    about = dataclasses.replace(info(60, 60), crs_wkt=wkt)
    mask = tmp_path / "s_mask.tif"
    write_mask(write(tmp_path / "in.tif", codes(60, 60)), mask, about, CLASSES, {})
    assert keeps_crs(mask, None)
    assert keeps_crs(mask, wkt) == kept
    write_aux(tmp_path / "s_mask.tif.aux.xml", CLASSES, crs_wkt=None if kept else wkt)
    with open_quietly(mask) as raster:
        assert raster.transform == Affine(*about.transform)
        assert CRS.from_wkt(raster.crs.to_wkt()).equals(CRS.from_wkt(wkt), ignore_axis_order=True)
    assert keeps_crs(mask, wkt)
    # A sidecar of a raster without classes has nothing else.
    write_aux(tmp_path / "b.aux.xml", (), crs_wkt=wkt)
    assert [e.tag for e in ET.parse(tmp_path / "b.aux.xml").getroot()] == ["SRS"]


def test_rasters_taken_for_vectors_keep_their_crs(tmp_path):
    wkt = CRS.from_user_input("+proj=eqearth +lon_0=10 +datum=WGS84 +type=crs").to_wkt("WKT2_2019")
    file = write(tmp_path / "a.tif", codes(60, 60), nodata=0, crs=wkt)
    taken = Path(ingest(file, tmp_path / "copy").mask)
    assert taken != file
    with open_quietly(taken) as raster:
        assert CRS.from_wkt(raster.crs.to_wkt()).equals(CRS.from_wkt(wkt), ignore_axis_order=True)
