"""`geounet vectorize`: any class raster, any probability raster, every option, and what it refuses."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import Affine
from rasterio.enums import ColorInterp

from geounet.batch.run import scene_runs
from geounet.config.card import ClassInfo, Kind
from geounet.config.job import Job
from geounet.errors import VectorError
from geounet.raster.sidecar import write_aux
from geounet.types import NODATA
from geounet.vector.ingest import ingest, ingest_probability
from geounet.vector.standalone import Order
from geounet.vector.standalone import vectorize as standalone
from geounet.vector.wanted import class_for
from tests.support.models import small_unet
from tests.support.rasters import write
from tests.support.vectors import CLASSES, GRID, read, town, vectorize


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """A mask as `run` writes it, with its sidecar."""
    path = write(tmp_path / "town_mask.tif", town()[None], nodata=NODATA, transform=GRID)
    write_aux(tmp_path / "town_mask.tif.aux.xml", CLASSES)
    return path


def features(path: Path, layer: str) -> dict[str, list[Any]]:
    return read(path, layer)


@pytest.mark.parametrize(
    ("kind", "layers"),
    [("buildings", ["buildings"]), ("roads", ["road_edges", "road_nodes"]), ("landcover", ["landcover"])],
)
def test_kinds_by_the_names_in_the_sidecar(
    kind: str, layers: list[str], mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "x.gpkg"
    assert vectorize(mask, "--out", out, "--kind", kind, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["layers"]) == layers
    assert all(report["layers"].values())
    assert [p.name for p in out.parent.iterdir()] == ["x.gpkg"]
    assert pyogrio.read_info(out, layer=layers[0])["layer_metadata"]["source"] == "town_mask.tif"
    if kind == "landcover":
        assert set(features(out, "landcover")["class"]) == {c.name for c in CLASSES}
    if kind == "buildings":
        assert set(features(out, "buildings")["class"]) == {"building"}


def test_class_by_name_and_by_code(mask: Path, tmp_path: Path) -> None:
    for wanted, name in (("green", "a"), ("3", "b")):
        assert vectorize(mask, "--out", tmp_path / f"{name}.gpkg", "--kind", "buildings", "--class", wanted) == 0
    assert features(tmp_path / "a.gpkg", "buildings") == features(tmp_path / "b.gpkg", "buildings")
    assert set(features(tmp_path / "a.gpkg", "buildings")["class"]) == {"green"}


def test_cells_and_workers_change_nothing(mask: Path, tmp_path: Path) -> None:
    for name, how in (("a", ()), ("b", ("--cell", 50)), ("c", ("--cell", 90, "--workers", 2))):
        assert vectorize(mask, "--out", tmp_path / f"{name}.gpkg", "--kind", "landcover", *how) == 0
    first = features(tmp_path / "a.gpkg", "landcover")
    assert features(tmp_path / "b.gpkg", "landcover") == first
    assert features(tmp_path / "c.gpkg", "landcover") == first


def test_every_key_of_the_sections(mask: Path, tmp_path: Path) -> None:
    def count(kind: str, *how: object) -> tuple[int, int]:
        out = tmp_path / "k.gpkg"
        assert vectorize(mask, "--out", out, "--kind", kind, "--overwrite", *how) == 0
        found = features(out, {"roads": "road_edges"}.get(kind, kind))
        return len(found["fid"]), int(shapely.get_num_coordinates(shapely.from_wkb(found["geom"])).sum())

    every, vertices = count("buildings", "--min-area-m2", 0, "--min-hole-m2", 0, "--tolerance-px", 0)
    assert count("buildings", "--min-area-m2", 15, "--tolerance-px", 0)[0] < every
    assert count("buildings", "--min-area-m2", 0, "--min-hole-m2", 500, "--tolerance-px", 0)[1] < vertices
    assert count("buildings", "--min-area-m2", 0, "--min-hole-m2", 0, "--tolerance-px", 2)[1] < vertices
    every, vertices = count("roads", "--preset", "raw")
    assert count("roads", "--preset", "raw", "--min-length-m", 8)[0] < every
    assert count("roads", "--preset", "raw", "--spur-widths", 1)[0] < every
    assert count("roads", "--preset", "raw", "--tolerance-px", 2)[1] < vertices
    every, vertices = count("landcover", "--min-area-m2", 0, "--tolerance-px", 0)
    assert count("landcover", "--min-area-m2", 40, "--tolerance-px", 0)[0] < every
    assert count("landcover", "--min-area-m2", 0, "--tolerance-px", 2)[1] < vertices
    assert count("landcover", "--classes", "green,2")[0] < count("landcover")[0]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int8"])
def test_integers_of_all_types(dtype: str, tmp_path: Path) -> None:
    values = np.zeros((60, 80), dtype=dtype)
    values[10:30, 10:30] = 7
    values[40:50, 40:70] = 100 if dtype in ("int8", "uint8") else 1000
    write(tmp_path / "classes.tif", values[None], nodata=0, transform=GRID)
    out = tmp_path / "x.gpkg"
    assert vectorize(tmp_path / "classes.tif", "--out", out, "--kind", "landcover", "--min-area-m2", 0) == 0
    found = features(out, "landcover")
    assert found["class"] == ["7", "100" if dtype in ("int8", "uint8") else "1000"]
    assert [shapely.area(shapely.from_wkb(g)) for g in found["geom"]] == pytest.approx([36, 27])


def test_negative_values_and_255_as_a_class(tmp_path: Path) -> None:
    values = np.full((40, 40), -5, dtype=np.int16)
    values[5:20, 5:20] = 255
    found = ingest(write(tmp_path / "a.tif", values[None]), tmp_path)
    assert found.values == {0: -5, 1: 255}
    assert [c.name for c in found.classes] == ["-5", "255"]
    binary = np.zeros((40, 40), dtype=np.uint8)
    binary[5:30, 5:30] = 255
    write(tmp_path / "b.tif", binary[None], transform=GRID)
    out = tmp_path / "b.gpkg"
    # The only class that is not 0: no --class is needed.
    assert vectorize(tmp_path / "b.tif", "--out", out, "--kind", "buildings") == 0
    assert features(out, "buildings")["class"] == ["255"]
    assert features(out, "buildings")["area_m2"] == [pytest.approx(625 * 0.09, rel=1e-2)]


def test_the_only_class_may_be_the_only_value(tmp_path: Path) -> None:
    values = np.zeros((40, 40), dtype=np.uint8)
    values[5:30, 5:30] = 255
    found = ingest(write(tmp_path / "a.tif", values[None], nodata=0), tmp_path / "work")
    assert found.values == {0: 255}
    assert class_for(found, Kind.building).name == "255"


def both_layers(raster: Path, out: Path, *how: object) -> dict[str, int]:
    """Number of features of buildings and roads."""
    assert vectorize(raster, "--out", out, "--kind", "buildings", "--kind", "roads", "--overwrite", *how) == 0
    return {layer: len(features(out, layer)["fid"]) for layer in ("buildings", "road_edges", "road_nodes")}


@pytest.mark.parametrize("code", [None, 0, 3])
def test_a_class_that_is_named_but_has_no_pixels_makes_an_empty_layer(code: int | None, tmp_path: Path) -> None:
    values = np.zeros((60, 60), dtype=np.uint8) if code is not None else np.full((60, 60), NODATA, dtype=np.uint8)
    values[10:40, 10:40] = NODATA if code is None else code
    path = write(tmp_path / "m.tif", values[None], nodata=NODATA, transform=GRID)
    write_aux(tmp_path / "m.tif.aux.xml", CLASSES)
    out = tmp_path / "x.gpkg"
    assert both_layers(path, out) == {"buildings": 0, "road_edges": 0, "road_nodes": 0}
    for how in (("--class", "building"), ("--class", 1), ("--class", "HOUSE"), ("--class", 77)):
        assert vectorize(path, "--out", out, "--kind", "buildings", "--overwrite", *how) == 0, how
        assert features(out, "buildings")["fid"] == []
    assert vectorize(path, "--out", out, "--kind", "landcover", "--classes", "building", "--overwrite") == 0
    assert features(out, "landcover")["fid"] == []
    assert vectorize(path, "--out", out, "--kind", "landcover", "--overwrite") == 0
    assert set(features(out, "landcover")["class"]) <= {"background", "green"}


@pytest.mark.parametrize("nodata", [None, NODATA, 0])
def test_a_tile_without_the_class_makes_an_empty_layer(nodata: int | None, tmp_path: Path) -> None:
    path = write(tmp_path / "m.tif", np.zeros((1, 60, 60), np.uint8), nodata=nodata, transform=GRID)
    assert both_layers(path, tmp_path / "x.gpkg") == {"buildings": 0, "road_edges": 0, "road_nodes": 0}


def test_a_value_that_nothing_has_is_told(mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.gpkg"
    assert vectorize(mask, "--out", out, "--kind", "buildings", "--class", 12) == 0
    assert features(out, "buildings")["fid"] == []
    assert "--class 12: no valid pixel has this value, and no name stands for it; the raster has 0 background, 1 b" in (
        capsys.readouterr().err
    )
    assert vectorize(mask, "--out", out, "--kind", "landcover", "--classes", "3,1000", "--overwrite") == 0
    assert set(features(out, "landcover")["class"]) == {"green"}
    assert "--classes 1000: no valid pixel" in capsys.readouterr().err


def test_names_that_are_no_buildings_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.where(town() == 3, 3, 0).astype(np.uint8)
    path = write(tmp_path / "m.tif", values[None], nodata=NODATA, transform=GRID)
    write_aux(tmp_path / "m.tif.aux.xml", [c for c in CLASSES if c.kind == Kind.other])
    assert vectorize(path, "--out", tmp_path / "x.gpkg", "--kind", "buildings") == 2
    assert "none of the classes is named building; the raster has 0, 3 green" in capsys.readouterr().err


def test_values_of_classes_without_pixels_are_codes_that_are_free(tmp_path: Path) -> None:
    values = np.full((20, 20), -5, dtype=np.int16)
    values[5:10] = 700
    path = write(tmp_path / "a.tif", values[None], transform=GRID)
    write_aux(tmp_path / "a.tif.aux.xml", CLASSES)
    found = ingest(path, tmp_path / "work")
    assert found.values == {0: 0, 1: 1, 2: 2, 3: 3, 4: -5, 5: 700}
    assert [c.name for c in found.classes] == ["-5", *(c.name for c in CLASSES), "700"]
    assert found.absent == {0, 1, 2, 3}
    assert class_for(found, Kind.building).code == 1


def test_all_codes_are_used(tmp_path: Path) -> None:
    values = np.arange(1, 256, dtype=np.uint8).reshape(5, 51).repeat(2, axis=0)
    path = write(tmp_path / "a.tif", values[None], transform=GRID)
    write_aux(tmp_path / "a.tif.aux.xml", CLASSES)
    # 0 has a name and no pixels: its code is that of 255.
    assert ingest(path, tmp_path / "work").values == {0: 255} | {value: value for value in range(1, 255)}


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("uint8", (1, 2, 255)), ("uint16", (111, 231, 523)), ("int16", (-9999, 0, 7)), ("uint16", (3, 300, 65535))],
)
def test_class_id_is_the_value_of_the_raster(dtype: str, values: tuple[int, ...], tmp_path: Path) -> None:
    raster = np.array(values, dtype=dtype).repeat(20)[:, None].repeat(30, axis=1)
    path = write(tmp_path / "c.tif", raster[None], transform=GRID)
    names = [f"name {value}" for value in values]
    rows = "".join(f"<Row><F>{value}</F><F>{name}</F></Row>" for value, name in zip(values, names, strict=True))
    fields = "".join(f"<FieldDefn><Usage>{usage}</Usage></FieldDefn>" for usage in (5, 2))
    table = f"<GDALRasterAttributeTable>{fields}{rows}</GDALRasterAttributeTable>"
    aux = f'<PAMDataset><PAMRasterBand band="1">{table}</PAMRasterBand></PAMDataset>'
    (tmp_path / "c.tif.aux.xml").write_text(aux)
    out = tmp_path / "x.gpkg"
    how = ("--kind", "landcover", "--min-area-m2", 0, "--overwrite", "--cell", 32)
    assert vectorize(path, "--out", out, *how, "--format", "gpkg", "--format", "fgb", "--format", "parquet") == 0
    found = features(out, "landcover")
    assert dict(zip(found["class"], found["class_id"], strict=True)) == dict(zip(names, values, strict=True))
    tables = (pyogrio.read_arrow(tmp_path / "x_landcover.fgb")[1], pq.read_table(tmp_path / "x_landcover.parquet"))
    assert [sorted(t["class_id"].to_pylist()) for t in tables] == [sorted(values)] * 2
    with closing(sqlite3.connect(out)) as connection:
        said = "SELECT description FROM gpkg_data_columns WHERE column_name = 'class_id'"
        (text,) = connection.execute(said).fetchone()
        (qml,) = connection.execute("SELECT styleQML FROM layer_styles WHERE f_table_name = 'landcover'").fetchone()
    assert "; ".join(f"{value}: {name}" for value, name in zip(values, names, strict=True)) in text
    for value, name in zip(values, names, strict=True):
        assert f'value="{value}" symbol="{values.index(value)}" label="{name}"' in qml
    # Whatever else the rasters beside it hold.
    plain = np.full((1, 60, 30), 1, np.uint8)
    second = write(tmp_path / "d.tif", plain, nodata=NODATA, transform=GRID @ Affine.translation(30, 0))
    assert vectorize(path, second, "--mosaic", "--out", out, *how) == 0
    assert set(features(out, "landcover")["class_id"]) == {*values, 1}


def test_a_value_that_class_id_cannot_hold_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.ones((40, 40), dtype=np.uint32)
    values[:10] = 2**32 - 1
    path = write(tmp_path / "a.tif", values[None], transform=GRID)
    assert vectorize(path, "--out", tmp_path / "x.gpkg", "--kind", "landcover", "--min-area-m2", 0) == 0
    assert features(tmp_path / "x.gpkg", "landcover")["class_id"] == [0, 1]
    assert "class_id 0 stands for the value 4294967295" in capsys.readouterr().err


def test_of_two_names_of_a_kind_the_one_that_occurs_is_taken(tmp_path: Path) -> None:
    values = np.zeros((40, 40), dtype=np.uint8)
    values[5:30, 5:30] = 2
    path = write(tmp_path / "a.tif", values[None], transform=GRID)
    classes = [ClassInfo(name=n, code=i, colour="#102030") for i, n in enumerate(("land", "house", "roof"))]
    write_aux(tmp_path / "a.tif.aux.xml", classes)
    assert class_for(ingest(path, tmp_path), Kind.building).name == "roof"


@pytest.fixture
def multilabel(tmp_path: Path) -> Path:
    """A band of 0 and 1 for houses, trees and roads each, called so."""
    values = town()
    bands = np.stack([np.where(values == NODATA, NODATA, values == code) for code in (1, 3, 2)]).astype(np.uint8)
    names = ("building", "Trees", "road")
    return write(tmp_path / "multi.tif", bands, nodata=NODATA, transform=GRID, descriptions=names)


@pytest.mark.parametrize("sidecar", [True, False])
def test_of_several_bands_the_one_of_the_class_is_taken(sidecar: bool, multilabel: Path, tmp_path: Path) -> None:
    if sidecar:
        write_aux(tmp_path / "multi.tif.aux.xml", [CLASSES[1], CLASSES[3], CLASSES[2]], multilabel=True)
    found = {}
    for name, kind, how in (
        ("a", "roads", ()),
        ("b", "roads", ("--class", "ROAD")),
        ("c", "roads", ("--class", "street")),
        ("d", "roads", ("--band", 3)),
        ("e", "buildings", ()),
        ("f", "buildings", ("--class", "building")),
        ("g", "buildings", ("--band", 1, "--class", 1)),
        ("h", "buildings", ("--class", "trees" if not sidecar else "green")),
    ):
        out = tmp_path / f"{name}.gpkg"
        if name == "h" and sidecar:
            continue  # the band is called otherwise than its class
        assert vectorize(multilabel, "--out", out, "--kind", kind, *how) == 0, how
        found[name] = features(out, "road_edges" if kind == "roads" else "buildings")
    assert found["a"]["fid"]
    assert found["a"] == found["b"] == found["c"] == found["d"]
    assert found["e"]["class"][0] == "building"
    assert found["e"] == found["f"] == found["g"]
    if not sidecar:
        assert found["h"]["class"][0] == "Trees"


def test_bands_that_do_not_say_what_they_are_must_be_named(
    multilabel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write(tmp_path / "plain.tif", np.zeros((3, 30, 30), np.uint8), transform=GRID)
    listed = "it has the bands 1 building, 2 Trees, 3 road; name one with --class, or give its number with --band"
    for raster, how, text in (
        (
            multilabel,
            ("--kind", "roads", "--class", "raod"),
            f"multi.tif: --class raod: no band is described so; {listed}",
        ),
        (multilabel, ("--kind", "roads", "--class", 1), f"--class 1: no band is described so; {listed}"),
        (multilabel, ("--kind", "landcover"), f"which band holds the classes is not clear; {listed}"),
        (multilabel, ("--kind", "buildings", "--kind", "roads"), "buildings are in band 1, roads in band 3; make one"),
        (
            plain,
            ("--kind", "roads"),
            "no band is described so; it has the bands 1, 2, 3; give the number of one with --ba",
        ),
    ):
        assert vectorize(raster, "--out", tmp_path / "x.gpkg", *how) == 2, how
        assert text in capsys.readouterr().err
    assert not (tmp_path / "x.gpkg").exists()


def test_a_band_of_classes_beside_another_one_and_opacity(tmp_path: Path) -> None:
    values = np.stack([town(128), np.full((128, 128), 90)]).astype(np.uint8)
    values[0][values[0] == NODATA] = 0
    for name, colours in (("confidence", ("gray", "undefined")), ("alpha", ("gray", "alpha"))):
        path = write(tmp_path / f"{name}.tif", values, transform=GRID, colorinterp=[ColorInterp[c] for c in colours])
        write_aux(tmp_path / f"{name}.tif.aux.xml", CLASSES)
        out = tmp_path / f"{name}.gpkg"
        assert vectorize(path, "--out", out, "--kind", "buildings") == 0
        assert set(features(out, "buildings")["class"]) == {"building"}
    assert vectorize(path, "--out", out, "--kind", "landcover", "--overwrite") == 0


def test_mosaics_of_tiles_without_the_class(tmp_path: Path) -> None:
    right = GRID @ Affine.translation(64, 0)
    for name, place, values in (("a", GRID, np.zeros((64, 64))), ("b", right, town(64) == 1)):
        bands = np.stack([np.ones((64, 64)), values]).astype(np.uint8)
        names = ("land", "roof") if name == "a" else ("roof", "land")
        write(tmp_path / f"{name}.tif", bands if name == "a" else bands[::-1], transform=place, descriptions=names)
    both = (tmp_path / "a.tif", tmp_path / "b.tif", "--mosaic", "--out", tmp_path / "x.gpkg")
    assert vectorize(*both, "--kind", "buildings", "--min-area-m2", 0) == 0
    assert set(features(tmp_path / "x.gpkg", "buildings")["class"]) == {"roof"}


def test_palette_colours_and_masks(tmp_path: Path) -> None:
    values = town(128)
    valid = np.where(values == NODATA, 0, 255).astype(np.uint8)
    values[values == NODATA] = 0
    path = write(tmp_path / "p.tif", values[None], mask=valid, colormap={1: (10, 20, 30, 255), 2: (200, 100, 0, 255)})
    found = ingest(path, tmp_path / "work")
    assert {c.code: c.colour for c in found.classes}[1] == "#0a141e"
    assert {c.code: c.colour for c in found.classes}[2] == "#c86400"
    assert Path(found.mask).name == "mask.tif"
    out = tmp_path / "p.gpkg"
    assert vectorize(path, "--out", out, "--kind", "landcover", "--min-area-m2", 0, "--tolerance-px", 0) == 0
    total = shapely.area(shapely.from_wkb(features(out, "landcover")["geom"])).sum()
    assert total == pytest.approx((valid > 0).sum() * 0.25)


def test_a_mask_of_ours_is_not_copied(mask: Path, tmp_path: Path) -> None:
    found = ingest(mask, tmp_path / "work")
    assert found.mask == str(mask)
    assert [(c.name, c.code, c.colour, c.kind) for c in found.classes] == [
        (c.name, c.code, c.colour, c.kind) for c in CLASSES
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threshold", [0.7, 0.1, 1.0])
def test_a_value_that_is_the_threshold_reaches_it(dtype: str, threshold: float, tmp_path: Path) -> None:
    values = np.zeros((4, 30), dtype=dtype)
    values[1] = np.nextafter(values.dtype.type(threshold), values.dtype.type(0))
    values[2] = threshold
    path = write(tmp_path / "p.tif", values[None], transform=GRID)
    with rasterio.open(ingest_probability(path, tmp_path / "work", None, Kind.building, threshold).mask) as mask:
        assert mask.read(1)[:, 0].tolist() == [0, 0, 1, 0]


def test_a_threshold_below_all_numbers_of_the_type_is_not_zero(tmp_path: Path) -> None:
    values = np.zeros((4, 30), dtype=np.float32)
    values[2] = 0.5
    path = write(tmp_path / "p.tif", values[None], transform=GRID)
    with rasterio.open(ingest_probability(path, tmp_path / "work", None, Kind.building, 1e-60).mask) as mask:
        assert mask.read(1)[:, 0].tolist() == [0, 0, 1, 0]


def test_probabilities(tmp_path: Path) -> None:
    values = np.zeros((60, 60), dtype=np.float32)
    values[10:30, 10:30] = 0.75
    values[40:50, 10:40] = 0.4
    values[0, :5] = np.nan
    write(tmp_path / "p.tif", values[None], transform=GRID)
    for threshold, count in ((0.5, 1), (0.4, 2), (0.9, 0)):
        out = tmp_path / f"{threshold}.gpkg"
        assert vectorize(tmp_path / "p.tif", "--out", out, "--kind", "buildings", "--threshold", threshold) == 0
        assert len(features(out, "buildings")["fid"]) == count
    found = features(tmp_path / "0.5.gpkg", "buildings")
    assert found["confidence"] == [pytest.approx(191 / 254)]
    assert found["class"] == ["building"]


def test_our_probability_raster(tmp_path: Path) -> None:
    stored = np.zeros((2, 60, 60), dtype=np.uint8)
    stored[0] = 254
    stored[1, 10:30, 10:30], stored[0, 10:30, 10:30] = 200, 54
    stored[:, 50:] = NODATA
    names = ("p(background)", "p(house)")
    path = write(tmp_path / "p.tif", stored, nodata=NODATA, scales=(1 / 254,) * 2, descriptions=names, transform=GRID)
    out = tmp_path / "x.gpkg"
    assert vectorize(path, "--out", out, "--kind", "buildings", "--threshold", 0.5, "--class", "house") == 0
    found = features(out, "buildings")
    assert found["class"] == ["house"]
    assert found["confidence"] == [pytest.approx(200 / 254)]
    by_band = ingest_probability(path, tmp_path / "w", "building", Kind.building, 0.5, band=2)
    assert by_band.classes[1].name == "house"


@pytest.fixture
def probabilities(tmp_path: Path) -> Path:
    """Probabilities as `run` writes them: land, houses, trees."""
    stored = np.zeros((3, 60, 60), dtype=np.uint8)
    stored[0] = 254
    stored[:, 10:30, 10:30] = np.array([4, 200, 50])[:, None, None]
    stored[:, 40:50, 10:30] = np.array([4, 50, 200])[:, None, None]
    names = ("p(land)", "p(Building)", "p(vegetation)")
    return write(
        tmp_path / "s_prob.tif", stored, nodata=NODATA, scales=(1 / 254,) * 3, descriptions=names, transform=GRID
    )


def test_the_band_of_a_class_is_found_by_name_kind_and_code(
    probabilities: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.gpkg"
    ask: tuple[object, ...] = (probabilities, "--out", out, "--threshold", 0.5, "--overwrite", "--kind")
    for how in ((), ("--class", "building"), ("--class", "p(Building)"), ("--class", "house"), ("--band", 2)):
        assert vectorize(*ask, "buildings", *how) == 0, how
        assert (found := features(out, "buildings"))["class"] == ["Building"]
        assert shapely.from_wkb(found["geom"][0]).bounds[3] == 5000000 - 10 * 0.3
    assert vectorize(*ask, "buildings", "--class", 1) == 2, "no mask beside it tells the codes"
    classes = [ClassInfo(name=n, code=i, colour="#102030") for i, n in enumerate(("land", "Building", "vegetation"))]
    write_aux(tmp_path / "s_mask.tif.aux.xml", classes)
    for code, name in ((1, "Building"), (2, "vegetation")):
        assert vectorize(*ask, "buildings", "--class", code) == 0
        assert features(out, "buildings")["class"] == [name]
    capsys.readouterr()
    listed = "it has the bands 1 p(land), 2 p(Building), 3 p(vegetation); name one with --class, or give its number"
    for how, wish in (
        (("buildings", "--class", "raod"), "--class raod"),
        (("buildings", "--class", 3), "--class 3"),
        (("roads",), "a class of kind road"),
    ):
        assert vectorize(*ask, *how) == 2, how
        assert f"s_prob.tif: {wish}: no band is described so; {listed}" in capsys.readouterr().err
    assert vectorize(*ask, "landcover") == 2
    assert f"s_prob.tif: which band is meant is not clear; {listed}" in capsys.readouterr().err
    # Bands of a multi-label mask have no codes.
    write_aux(tmp_path / "s_mask.tif.aux.xml", classes, multilabel=True)
    assert vectorize(*ask, "buildings", "--class", 1) == 2


def test_a_single_band_is_meant_unless_it_says_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.zeros((1, 60, 60), dtype=np.float32)
    values[0, 10:30, 10:30] = 0.75
    out = tmp_path / "x.gpkg"
    for text, how, name in (
        (None, (), "building"),
        (None, ("--class", "hut"), "hut"),
        ("score", (), "building"),
        ("p(roof)", (), "roof"),
        ("p(hut)", ("--class", "hut"), "hut"),
        ("p(hut)", (), None),
        ("p(road)", (), None),
        ("road", (), None),
        ("p(road)", ("--class", "raod"), None),
    ):
        path = write(tmp_path / "p.tif", values, descriptions=(text,), transform=GRID)
        code = vectorize(path, "--out", out, "--kind", "buildings", "--threshold", 0.5, "--overwrite", *how)
        assert code == (2 if name is None else 0), (text, how)
        said = capsys.readouterr().err
        if name is None:
            assert f"it has the band 1 {text}; name one with --class" in said
        else:
            assert features(out, "buildings")["class"] == [name]


def test_class_codes_are_no_probabilities(mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.gpkg"
    assert vectorize(mask, "--out", out, "--kind", "buildings", "--threshold", 0.5) == 1
    assert "town_mask.tif: band 1 has names for its values (" in (said := capsys.readouterr().err)
    assert "leave --threshold out, and choose with --class" in said
    assert not out.exists()
    write(tmp_path / "palette.tif", town(64)[None], nodata=NODATA, colormap={1: (200, 0, 0, 255)})
    write(tmp_path / "plain.tif", town(64)[None], nodata=NODATA)
    for name, words in (("palette.tif", "has a colour table"), ("plain.tif", "whole numbers up to 3 without a scale")):
        with pytest.raises(VectorError, match=f"{name}: band 1 {words if 'has' in words else 'holds ' + words}"):
            ingest_probability(tmp_path / name, tmp_path / "w", "building", Kind.building, 0.5)
    both = write(tmp_path / "both.tif", (town(64) == 1).astype(np.uint8)[None])
    found = ingest_probability(both, tmp_path / "w", "building", Kind.building, 0.5)
    assert found.probability is not None, "0 and 1 are probabilities as well"


def test_probabilities_are_no_classes(probabilities: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.gpkg"
    for kind, how in (("buildings", ()), ("landcover", ()), ("buildings", ("--band", 2))):
        assert vectorize(probabilities, "--out", out, "--kind", kind, *how) == 1
        said = capsys.readouterr().err
        assert "s_prob.tif: holds probabilities (p(" in said
        assert "no classes; add --threshold 0.5 --class NAME" in said
    bare = write(tmp_path / "bare.tif", np.full((1, 9, 9), 3, np.uint8), nodata=NODATA, scales=(1 / 254,))
    assert vectorize(bare, "--out", out, "--kind", "buildings") == 1
    assert "bare.tif: holds probabilities, no classes" in capsys.readouterr().err


def test_thresholds_that_none_or_all_values_reach(
    probabilities: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write(tmp_path / "u.tif", np.full((1, 9, 9), 3, np.uint8), scales=(0.01,))
    real = write(tmp_path / "f.tif", np.full((1, 9, 9), 0.3, np.float32))
    for path, threshold, words in (
        (probabilities, 50, "band 2 holds probabilities; expected a number above 0, at most 1"),
        (probabilities, -1, "expected a number above 0, at most 1"),
        (probabilities, 0, "expected a number above 0, at most 1"),
        (whole, 50, "band 1 is uint8, with its scale 0 to 2.55; expected a number above 0, at most 2.55"),
        (real, 50, "f.tif are 0 to 1; expected a number above 0, at most 1"),
        (real, -1, "expected a number above 0, at most 1"),
    ):
        assert vectorize(path, "--out", tmp_path / "x.gpkg", "--kind", "buildings", "--threshold", threshold) == 2
        assert f"--threshold {threshold}: " in (said := capsys.readouterr().err)
        assert words in said
    assert not (tmp_path / "x.gpkg").exists()


def test_scores_beyond_one_are_no_confidence(tmp_path: Path) -> None:
    values = np.zeros((1, 40, 40), dtype=np.uint8)
    values[0, 5:25, 5:25] = 200
    path = write(tmp_path / "s.tif", values, transform=GRID)
    assert vectorize(path, "--out", tmp_path / "x.gpkg", "--kind", "buildings", "--threshold", 128) == 0
    found = features(tmp_path / "x.gpkg", "buildings")
    assert len(found["fid"]) == 1
    assert found["confidence"] == [None]


@pytest.mark.parametrize("threshold", [(), ("--threshold", 1)])
def test_messages_of_mosaics_name_the_files_that_were_given(
    threshold: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without a nodata value all of them are copied.
    values = (town(64) == 1).astype(np.uint8)[None]
    first = write(tmp_path / "first.tif", values, transform=GRID)
    for name, place, crs, words in (
        ("finer", GRID @ Affine.scale(0.5), 32633, "finer.tif is not on the grid of first.tif"),
        ("beside", GRID @ Affine.translation(64.3, 0), 32633, "beside.tif lies 0.30 px off the grid"),
        ("far", GRID @ Affine.translation(1e7, 1e7), 32633, f"{first}: the scenes lie so far apart"),
        ("away", Affine(0.1, 0, -120, 0, -0.1, 89), 4326, f"{tmp_path / 'away.tif'}: would have"),
        ("bare", None, None, f"{tmp_path / 'bare.tif'}: has no georeference"),
        ("local", GRID, None, f"{tmp_path / 'local.tif'}: has no coordinate system"),
    ):
        other = write(tmp_path / f"{name}.tif", values, transform=place, crs=crs and f"EPSG:{crs}")
        out = tmp_path / f"{name}.gpkg"
        code = vectorize(first, other, "--mosaic", "--out", out, "--kind", "buildings", *threshold)
        assert code == (0 if name in ("finer", "beside") else 1)
        said = capsys.readouterr().err
        assert words in said
        assert ".tmp" not in said
    one = write(tmp_path / "one.tif", values, crs=None)
    assert vectorize(one, "--out", tmp_path / "one.gpkg", "--kind", "buildings", "--min-area-m2", 5, *threshold) == 2
    assert f"{one} has no coordinate system" in capsys.readouterr().err


def test_gaps_in_roads_beside_nodata_are_bridged_where_there_is_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.zeros((1, 120, 200), dtype=np.uint8)
    values[0, 40:60] = values[0, 100:112] = 1
    values[0, 38:62, 90:105] = 0  # 4.5 m
    said = "1 is the only class, so that what is nodata counts as no road and gaps in it are bridged"
    out = tmp_path / "x.gpkg"
    ask: tuple[object, ...] = ("--out", out, "--kind", "roads", "--overwrite")

    def bridges(raster: Path, *how: object) -> tuple[int, bool]:
        assert vectorize(raster, *ask, *how) == 0
        return sum(features(out, "road_edges")["bridged"]), said in capsys.readouterr().err

    gis = write(tmp_path / "gis.tif", values, nodata=0, transform=GRID)
    assert bridges(write(tmp_path / "plain.tif", values, transform=GRID)) == (1, False)
    usual = features(out, "road_edges")
    assert bridges(gis) == (1, True)
    assert features(out, "road_edges") == usual
    assert bridges(gis, "--cell", 50, "--kind", "landcover") == (1, True)
    assert features(out, "road_edges") == usual
    assert features(out, "landcover")["class"] == ["1", "1", "1"], "what is nodata becomes no feature"
    assert bridges(gis, "--bridge-blind-m", 0) == (0, False)
    assert bridges(gis, "--preset", "raw") == (0, False)
    beside = write(tmp_path / "beside.tif", values, nodata=0, transform=GRID @ Affine.translation(200, 0))
    assert bridges(gis, beside, "--mosaic") == (2, True)
    assert bridges(write(tmp_path / "masked.tif", values, mask=values[0] * 255, transform=GRID)) == (1, True)
    # Where there are other classes, or names for some, nodata is what is not known.
    values[0, 70:80, 20:30] = 2
    assert bridges(write(tmp_path / "two.tif", values, nodata=0, transform=GRID), "--class", 1) == (0, False)
    values = np.where(values == 1, 2, NODATA).astype(np.uint8)
    run = write(tmp_path / "run.tif", values, nodata=NODATA, transform=GRID)
    write_aux(tmp_path / "run.tif.aux.xml", CLASSES)
    assert bridges(run) == (0, False)
    # A name for nodata is none.
    write_aux(tmp_path / "gis.tif.aux.xml", [CLASSES[0], CLASSES[2].model_copy(update={"code": 1})])
    assert vectorize(gis, *ask) == 0
    assert "road is the only class" in capsys.readouterr().err


def test_output_is_not_overwritten_unasked(mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.gpkg"
    out.write_text("mine")
    assert vectorize(mask, "--out", out, "--kind", "buildings") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert vectorize(mask, "--out", out, "--kind", "buildings", "--overwrite") == 0
    assert features(out, "buildings")["fid"]


def test_refusals(mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.tif").write_text("nothing")
    (tmp_path / "empty.tif").touch()
    whole = mask.read_bytes()
    (tmp_path / "half.tif").write_bytes(whole[: len(whole) // 2])
    noise = np.random.default_rng(0).random((1, 50, 50))
    write(tmp_path / "float.tif", noise.astype(np.float32))
    write(tmp_path / "many.tif", (noise * 60000).astype(np.uint16))
    write(tmp_path / "complex.tif", noise.astype(np.complex64))
    write(tmp_path / "local.tif", town(64)[None], crs=None, transform=None, nodata=NODATA)
    good: tuple[object, ...] = (mask, "--out", tmp_path / "x.gpkg", "--kind")
    for arguments, code, text in (
        ((tmp_path / "missing.tif", *good[1:], "buildings"), 1, "missing.tif"),
        ((tmp_path, *good[1:], "buildings"), 1, "is a folder"),
        ((tmp_path / "text.tif", *good[1:], "buildings"), 1, "text.tif"),
        ((tmp_path / "empty.tif", *good[1:], "buildings"), 1, "empty.tif"),
        ((tmp_path / "half.tif", *good[1:], "landcover"), 1, "half.tif"),
        ((tmp_path / "float.tif", *good[1:], "buildings"), 1, "--threshold"),
        ((tmp_path / "many.tif", *good[1:], "landcover"), 1, "255 different values"),
        ((tmp_path / "complex.tif", *good[1:], "landcover"), 1, "complex"),
        ((tmp_path / "local.tif", *good[1:], "landcover", "--min-area-m2", 5), 2, "no coordinate system"),
        ((*good, "houses"), 2, "houses"),
        ((*good, "buildings", "--class", "tent"), 2, "1 building"),
        ((*good, "buildings", "--band", 2), 2, "no band 2"),
        ((*good, "buildings", "--min-length-m", 2), 2, "--min-length-m"),
        ((*good, "landcover", "--class", "green"), 2, "--classes"),
        ((*good, "landcover", "--classes", "green,sea"), 2, "error: --classes sea: no such class"),
        ((*good, "buildings", "--contact", "sea"), 2, "error: --contact sea: no such class"),
        ((*good, "buildings", "--min-area-m2", -1), 2, "min_area_m2: found -1.0, expected a number of at least 0"),
        ((mask, "--out", tmp_path / "x.shp", "--kind", "buildings"), 2, ".gpkg"),
        ((mask, "--kind", "buildings"), 2, "--out"),
    ):
        assert vectorize(*arguments) == code, arguments
        said = capsys.readouterr()
        assert text in said.err, arguments
        assert "Traceback" not in said.err
        assert said.out == ""
    assert not (tmp_path / "x.gpkg").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_several_classes_and_no_name_that_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "c.tif", town(64)[None], nodata=NODATA)
    assert vectorize(tmp_path / "c.tif", "--out", tmp_path / "x.gpkg", "--kind", "roads") == 2
    assert "--class is needed" in capsys.readouterr().err
    assert vectorize(tmp_path / "c.tif", "--out", tmp_path / "x.gpkg", "--kind", "roads", "--class", 2) == 0


@pytest.mark.slow
def test_every_real_raster_is_processed_or_refused(shared_data: Path, tmp_path: Path) -> None:
    for path in sorted((shared_data / "geotiff_zoo").rglob("*.tif")):
        if path.stat().st_size > 3e6:
            continue
        try:
            found = ingest(path, tmp_path / "work")
        except VectorError as error:
            said = str(error)
        else:
            said = path.name
            assert len(found.classes) <= 255
        assert path.name in said
        assert "\n" not in said


@pytest.mark.slow
def test_a_real_road_mask(shared_data: Path, tmp_path: Path) -> None:
    path = min((shared_data / "mass_roads" / "masks").glob("*.tif*"))
    out = tmp_path / "x.gpkg"
    assert vectorize(path, "--out", out, "--kind", "roads") == 0
    edges, nodes = features(out, "road_edges"), features(out, "road_nodes")
    assert len(edges["fid"]) > 30
    assert max(nodes["degree"]) >= 3
    assert 3 < np.median(edges["width_m"]) < 20


def results(folder: Path, name: str = "scene", *, transform: Affine = GRID, seed: int = 0) -> tuple[Path, Path]:
    """Mask and probabilities of a run of a real network; its GeoPackage lies beside them."""
    values = np.random.default_rng(seed).integers(20, 255, (3, 12, 14)).repeat(16, axis=1).repeat(16, axis=2)
    values[:, 60:90, 30:70] = 0
    write(folder / f"{name}.tif", values.astype(np.uint8), nodata=0, transform=transform)
    model = folder / "model"
    if not model.exists():
        small_unet(model)
    data = {
        "scenes": [str(folder / f"{name}.tif")], "model": f"{model}/", "predict": {"device": "cpu"},
        "outputs": {"folder": str(folder / "out"), "probability": True},
        "vector": {
            "buildings": {"min_area_px": 4}, "roads": {"min_area_px": 4, "min_length_px": 2},
            "landcover": {"min_area_px": 9}, "cell": 80,
        },
    }  # fmt: skip
    (run,) = scene_runs(Job.model_validate(data))
    run.run()
    return run.folder / f"{name}_mask.tif", run.folder / f"{name}_prob.tif"


WISHES = ("--kind", "buildings", "--kind", "roads", "--kind", "landcover")


def test_vectors_anew_from_what_a_run_left(tmp_path: Path) -> None:
    mask, probability = results(tmp_path)
    out = tmp_path / "anew.gpkg"
    made = mask.with_name("scene.gpkg")
    keys: dict[str, tuple[Any, ...]] = {
        "buildings": ("--min-area-px", 4), "landcover": ("--min-area-px", 9),
        "roads": ("--min-area-px", 4, "--min-length-px", 2),
    }  # fmt: skip
    for kind, given in keys.items():
        arguments = (mask, "--probability", probability, "--out", out, "--kind", kind, *given, "--overwrite")
        assert vectorize(*arguments) == 0
        for layer in ("road_edges", "road_nodes") if kind == "roads" else (kind,):
            found = read(out, layer)
            assert found == read(made, layer)
            assert len(found["fid"]) > 3
            assert layer == "road_nodes" or all(np.isfinite(found["confidence"]))


def test_probabilities_of_another_form(tmp_path: Path) -> None:
    mask, probability = results(tmp_path)
    with rasterio.open(probability) as dataset:
        stored, names, transform = dataset.read(), dataset.descriptions, dataset.transform
    floats = np.where(stored == NODATA, np.nan, stored / 254 * (1 + 1e-6)).astype(np.float32)
    order = [2, 0, 3, 1]  # bands go by their names
    other = write(tmp_path / "other.tif", floats[order], transform=transform, nodata=np.nan,
                  descriptions=tuple(names[i] for i in order))  # fmt: skip
    for file, out in ((probability, "a.gpkg"), (other, "b.gpkg")):
        assert vectorize(mask, "--probability", file, "--out", tmp_path / out, *WISHES) == 0
    for layer in ("buildings", "road_edges", "landcover"):
        assert read(tmp_path / "a.gpkg", layer) == read(tmp_path / "b.gpkg", layer)


def test_several_rasters_with_their_probabilities(tmp_path: Path) -> None:
    a, b, c, d, e, f = tuple(GRID)[:6]
    one = results(tmp_path, "one")
    two = results(tmp_path, "two", transform=Affine(a, b, c + a * 224, d, e, f), seed=1)
    out = tmp_path / "both.gpkg"
    arguments = (one[0], two[0], "--probability", one[1], "--probability", two[1], "--mosaic", "--out", out)
    assert vectorize(*arguments, *WISHES) == 0
    confidence = np.array(read(out, "landcover")["confidence"], dtype=float)
    assert np.isfinite(confidence).all()


def test_probabilities_that_do_not_fit(mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, cols = town().shape
    plain = np.full((2, rows, cols), 0.5, np.float32)
    names = ("building", "p(road)")
    a, b, c, d, e, f = tuple(GRID)[:6]
    cases: dict[str, tuple[Path, str, int]] = {
        "small": (write(tmp_path / "small.tif", plain[:, :50], descriptions=names, transform=GRID),
                  "px, but", 1),
        "moved": (write(tmp_path / "moved.tif", plain, descriptions=names, transform=Affine(a, b, c + a, d, e, f)),
                  "its pixels lie elsewhere", 1),
        "large": (write(tmp_path / "large.tif", plain * 300, descriptions=names, transform=GRID),
                  "band 1 holds values from 150 to 150", 1),
        "other": (write(tmp_path / "other.tif", plain, descriptions=("x", "y"), transform=GRID),
                  "no band is described as one of the classes background, building, road, green, but as x, y", 2),
        "gone": (tmp_path / "gone.tif", "no such file", 1),
        "crs": (write(tmp_path / "crs.tif", plain, descriptions=names, transform=GRID, crs="EPSG:32610"),
                f"its pixels lie elsewhere than those of {mask}", 1),
    }  # fmt: skip
    for path, message, code in cases.values():
        assert vectorize(mask, "--probability", path, "--out", tmp_path / "x.gpkg", "--kind", "buildings") == code
        assert message in capsys.readouterr().err
    assert vectorize(mask, "--probability", mask, "--threshold", 0.5, "--out", tmp_path / "x.gpkg", "--kind",
                     "buildings") == 2  # fmt: skip
    assert "--probability goes with class rasters" in capsys.readouterr().err
    assert vectorize(mask, mask, "--mosaic", "--probability", mask, "--out", tmp_path / "x.gpkg", "--kind",
                     "buildings") == 2  # fmt: skip
    assert "1 for 2 rasters" in capsys.readouterr().err
    assert not (tmp_path / "x.gpkg").exists()


def test_it_tells_how_far_it_is(tmp_path: Path) -> None:
    class Heard:
        def __init__(self) -> None:
            self.stages: dict[str, list[tuple[int, int]]] = {}

        def update(self, stage: str, done: int, total: int, extra: str = "", pixels: int = 0) -> None:
            self.stages.setdefault(stage, []).append((done, total))

    write(tmp_path / "a.tif", town()[None].astype(np.int16) * 7, transform=GRID)
    heard = Heard()
    order = Order([tmp_path / "a.tif"], tmp_path / "a.gpkg", {"landcover": {}}, cell=64)
    assert standalone(order, heard)["layers"]["landcover"] > 0
    assert len(heard.stages) > 2
    assert "rows" in heard.stages
    for told in heard.stages.values():
        assert told[0][0] == 0
        assert told[-1][0] == told[-1][1] > 0
