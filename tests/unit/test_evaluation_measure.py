"""Whole evaluations of small scenes: against formulas on arrays, over windows, grids, CRS and kinds of labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from PIL import Image
from rasterio import Affine
from rasterio.features import rasterize
from rasterio.features import shapes as outlines
from rasterio.warp import Resampling, reproject, transform_bounds

import geounet
from geounet.errors import GeounetError, JobError, LabelError, VectorError
from geounet.evaluation.compare import EvaluationSettings
from geounet.evaluation.measure import Evaluation, evaluate
from geounet.raster.scene import SceneSpec, describe
from tests.support.evaluation import GRID, NAMES, SIZE, UTM, names_beside, raster, town
from tests.support.rasters import write


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    truth, found = town()
    return raster(tmp_path / "s_mask.tif", found, NAMES), raster(tmp_path / "labels.tif", truth, NAMES), found, truth


def iou(truth: np.ndarray, found: np.ndarray, code: int) -> float:
    valid = (truth != 255) & (found != 255)
    a, b = (truth == code) & valid, (found == code) & valid
    return float((a & b).sum() / (a | b).sum())


def polygons(codes: np.ndarray, code: int) -> list[Any]:
    mask = codes == code
    return [shapely.geometry.shape(s) for s, _ in outlines(mask.astype(np.uint8), mask, transform=GRID)]


# --- pixels


def test_pixels_of_two_masks(scene: Any) -> None:
    pred, labels, found, truth = scene
    result = evaluate(pred, labels, settings=EvaluationSettings(what=frozenset({"pixels"})))
    pixel = result.scores["pixel"]
    valid = (truth != 255) & (found != 255)
    assert pixel["pixels"] == valid.sum()
    assert pixel["unpredicted"] == ((truth != 255) & (found == 255)).sum()
    assert pixel["accuracy"] == pytest.approx((truth == found)[valid].mean())
    for code, name in NAMES.items():
        assert pixel["iou"][name] == pytest.approx(iou(truth, found, code))
        cover = result.scores["landcover"][name]
        assert cover["truth_pixels"] == ((truth == code) & valid).sum()
        assert cover["found_pixels"] == ((found == code) & valid).sum()
        assert cover["truth_m2"] == pytest.approx(cover["truth_pixels"] * 0.25, rel=2e-3)
        expected = 100 * (cover["found_pixels"] / cover["truth_pixels"] - 1)
        assert cover["error_percent"] == pytest.approx(expected)
    assert pixel["miou"] == pytest.approx(np.mean([iou(truth, found, c) for c in NAMES]))
    assert result.scores["classes"] == list(NAMES.values())
    assert result.scores["buildings"] is None
    json.dumps(result.scores, allow_nan=False)


def test_windows_do_not_matter(scene: Any) -> None:
    pred, labels, _, _ = scene
    whole = evaluate(pred, labels, settings=EvaluationSettings(window=1024)).scores
    parts = evaluate(pred, labels, settings=EvaluationSettings(window=64)).scores
    for scores in (whole, parts):
        del scores["pixel"]["hausdorff"]  # is one of windows
        for cover in scores["landcover"].values():
            for name in ("truth_m2", "found_m2", "error_m2"):  # of pixels as large as a window's middle one
                cover[name] = round(cover[name], 2)
        for name in ("apls", "topo_f1", "topo_precision", "topo_recall"):
            scores["roads"][name] = round(scores["roads"][name], 6)

    def rounded(scores: Any) -> Any:
        return json.loads(json.dumps(scores), parse_float=lambda text: round(float(text), 6))

    assert rounded(parts) == rounded(whole)


def test_the_same_scene_is_perfect(scene: Any) -> None:
    pred, _, _, _ = scene
    scores = evaluate(pred, pred).scores
    assert scores["pixel"]["miou"] == 1.0
    assert scores["pixel"]["boundary"]["mean"] == 1.0
    assert scores["pixel"]["hausdorff"]["building"]["hausdorff"] == 0.0
    assert scores["buildings"]["f1_50"] == scores["buildings"]["f1_50_95"] == 1.0
    assert scores["buildings"]["polis_m"] == 0.0
    assert scores["roads"]["apls"] == pytest.approx(1.0)
    assert scores["roads"]["topo_f1"] == 1.0
    assert scores["roads"]["relaxed"]["f1"] == 1.0


def test_labels_on_another_grid_and_in_another_crs(scene: Any, tmp_path: Path) -> None:
    pred, _, found, truth = scene
    west, south, east, north = transform_bounds(UTM, "EPSG:4326", 500000, 5299925, 500085, 5300000)
    height, width = 600, 900
    transform = Affine((east - west) / width, 0, west, 0, (south - north) / height, north)
    away = np.full((height, width), 255, np.uint8)
    reproject(
        truth, away, src_transform=GRID, src_crs=UTM, dst_transform=transform, dst_crs="EPSG:4326",
        src_nodata=255, dst_nodata=255, resampling=Resampling.nearest,
    )  # fmt: skip
    other = raster(tmp_path / "degrees.tif", away, NAMES, crs="EPSG:4326", transform=transform)
    scores = evaluate(pred, other).scores
    for code, name in NAMES.items():
        assert scores["pixel"]["iou"][name] == pytest.approx(iou(truth, found, code), abs=0.02)
    assert scores["buildings"]["f1_50"] == evaluate(pred, scene[1]).scores["buildings"]["f1_50"]


def test_classes_go_by_name(scene: Any, tmp_path: Path) -> None:
    pred, labels, _, truth = scene
    swapped = np.array([3, 2, 1, 0], np.uint8)
    other = np.where(truth == 255, 255, swapped[np.minimum(truth, 3)]).astype(np.int16)
    path = raster(tmp_path / "other.tif", other, {int(swapped[c]): n for c, n in NAMES.items()})
    assert evaluate(pred, path).scores["pixel"] == evaluate(pred, labels).scores["pixel"]


def test_masks_without_names_go_by_value(tmp_path: Path) -> None:
    truth, found = town()
    truth = np.where(truth == 2, 7, truth).astype(np.uint8)  # never predicted
    scores = evaluate(raster(tmp_path / "p.tif", found), raster(tmp_path / "t.tif", truth)).scores
    assert scores["classes"] == ["0", "1", "2", "3", "7"]
    assert scores["pixel"]["iou"]["7"] == 0.0
    assert scores["pixel"]["iou"]["2"] == 0.0
    assert scores["pixel"]["iou"]["1"] == pytest.approx(iou(truth, found, 1))
    assert scores["buildings"] is None


def test_labels_as_a_picture_in_colours(scene: Any, tmp_path: Path) -> None:
    """As the masks of the Dubai set: exact colours, without georeference, in a mask without georeference."""
    _, _, found, truth = scene
    table = np.zeros((256, 3), np.uint8)
    table[:4] = [(0x84, 0x29, 0xF6), (0x3C, 0x10, 0x98), (0x6E, 0xC1, 0xE4), (0xE2, 0xA9, 0x29)]
    table[255] = 0x9B
    Image.fromarray(table[truth]).save(tmp_path / "part_001.png")
    Image.fromarray(table[truth]).quantize(16).save(tmp_path / "palette.png")
    mask = raster(tmp_path / "part_001_mask.tif", found, NAMES, crs=None, transform=None)
    colours = {"#3C1098": "building", "#8429F6": "land", "#6EC1E4": "road", "#E2A929": "water", "#9B9B9B": "ignored"}
    for name in ("part_001.png", "palette.png"):
        scores = evaluate(mask, tmp_path / name, how={"colours": colours}).scores
        assert scores["unit"] == "px"
        assert scores["pixel"]["iou"]["building"] == pytest.approx(iou(truth, found, 1))
        assert scores["buildings"]["polis_m"] is None
        assert scores["buildings"]["polis_px"] > 0
        assert scores["landcover"]["building"]["truth_m2"] is None
        assert scores["landcover"]["building"]["truth_pixels"] > 0
    del colours["#E2A929"]
    with pytest.raises(LabelError, match="has colours that the job does not list: #E2A929"):
        evaluate(mask, tmp_path / "part_001.png", how={"colours": colours})


def test_one_class_against_the_rest(scene: Any, tmp_path: Path) -> None:
    pred, _, found, truth = scene
    binary = raster(tmp_path / "b.tif", np.where(truth == 255, 255, truth == 2).astype(np.uint8))
    scores = evaluate(pred, binary, how={"values": {"1": "road", "0": "other"}}).scores
    assert scores["classes"] == ["other", "road"]
    assert scores["pixel"]["iou"]["road"] == pytest.approx(iou(truth, found, 2))
    rest = [np.where(a == 255, 255, a == 2).astype(np.uint8) for a in (truth, found)]
    assert scores["pixel"]["iou"]["other"] == pytest.approx(iou(*rest, 0))
    assert scores["buildings"] is None
    assert scores["roads"]["topo_f1"] > 0.5


def test_several_scenes_add_up(tmp_path: Path) -> None:
    masks, labels, counts = [], [], []
    for k in range(3):
        truth, found = town(k)
        place = Affine(0.5, 0, 500000 + 1000 * k, 0, -0.5, 5300000)
        masks.append(raster(tmp_path / f"s{k}_mask.tif", found, NAMES, transform=place))
        labels.append(raster(tmp_path / f"l{k}.tif", truth, NAMES, transform=place))
        counts.append((truth, found))
    result = evaluate(masks, labels)
    truth, found = (np.concatenate([c[i] for c in counts]) for i in (0, 1))
    assert result.scores["pixel"]["iou"]["building"] == pytest.approx(iou(truth, found, 1))
    singles = [evaluate(m, t).scores for m, t in zip(masks, labels, strict=True)]
    for total, key in (("buildings", "truth"), ("buildings", "found"), ("pixel", "pixels")):
        assert result.scores[total][key] == sum(s[total][key] for s in singles)
    assert [s["name"] for s in result.scores["scenes"]] == ["s0", "s1", "s2"]
    assert [s["pixel"]["miou"] for s in result.scores["scenes"]] == [s["pixel"]["miou"] for s in singles]


def test_one_pixel(tmp_path: Path) -> None:
    for truth, found, expected in ((1, 1, 1.0), (1, 0, 0.0), (0, 1, 0.0)):
        pred = raster(tmp_path / "p.tif", np.array([[found]], np.uint8), NAMES)
        labels = raster(tmp_path / "t.tif", np.array([[truth]], np.uint8), NAMES)
        scores = evaluate(pred, labels).scores
        assert scores["pixel"]["accuracy"] == expected
        assert scores["pixel"]["iou"]["building"] == expected
        assert scores["buildings"]["f1_50"] == expected
        assert scores["pixel"]["iou"]["water"] is None
        assert scores["roads"]["apls"] is None


def test_nothing_of_a_class(scene: Any, tmp_path: Path) -> None:
    pred, labels, _, _ = scene
    none = raster(tmp_path / "none.tif", np.zeros(SIZE, np.uint8), NAMES)
    empty_truth, empty_pred = evaluate(pred, none).scores, evaluate(none, labels).scores
    assert empty_truth["buildings"]["recall_50"] is None
    assert empty_truth["buildings"]["f1_50"] == empty_truth["buildings"]["precision_50"] == 0.0
    assert empty_pred["buildings"]["precision_50"] is None
    assert empty_pred["buildings"]["f1_50"] == empty_pred["buildings"]["recall_50"] == 0.0
    assert empty_pred["roads"]["apls"] == empty_pred["roads"]["topo_f1"] == 0.0
    assert evaluate(none, none).scores["buildings"]["f1_50"] is None
    assert empty_pred["buildings"]["polis_m"] is None


def test_a_band_of_a_mask_of_several_classes(scene: Any, tmp_path: Path) -> None:
    _, _, found, truth = scene
    planes = np.stack([np.where(found == 255, 255, found == code) for code in (1, 2)]).astype(np.uint8)
    mask = write(tmp_path / "multi.tif", planes, crs=UTM, transform=GRID, nodata=255, descriptions=["building", "road"])
    roads = raster(tmp_path / "roads.tif", np.where(truth == 255, 255, truth == 2).astype(np.uint8))
    with pytest.raises(VectorError, match="has 2 bands"):
        evaluate(mask, roads)
    scores = evaluate(mask, roads, band=2, how={"class_": "road"}).scores
    assert scores["classes"] == ["background", "road"]
    assert scores["pixel"]["iou"]["road"] == pytest.approx(iou(truth, found, 2))
    assert scores["pixel"]["pixels"] == ((truth != 255) & (found != 255)).sum()
    # As many masks are: 255 is the class.
    white = raster(tmp_path / "white.tif", np.where(truth == 2, 255, 0).astype(np.uint8), nodata=None)
    known = found != 255
    a, b = (truth == 2) & known, (found == 2) & known
    assert "if 255 is a class, say which with --class" in failing(mask, white, band=2)
    scores = evaluate(mask, white, band=2, how={"class_": "road"}).scores
    assert scores["pixel"]["iou"]["road"] == pytest.approx((a & b).sum() / (a | b).sum())
    assert scores["pixel"]["pixels"] == known.sum()


def test_names_for_a_mask_without(scene: Any, tmp_path: Path) -> None:
    pred, labels, found, truth = scene
    bare, other = raster(tmp_path / "bare.tif", found), raster(tmp_path / "other.tif", truth)
    names = {str(code): name for code, name in NAMES.items()}
    expected = evaluate(pred, labels).scores
    for truths in (labels, other):
        scores = evaluate(bare, truths, names=names).scores
        assert {**scores, "scenes": []} == {**expected, "scenes": []}
    with pytest.raises(JobError, match="expected a value of the mask"):
        evaluate(bare, labels, names={"one": "land"})
    with pytest.raises(JobError, match="two values of the mask are 'land'"):
        evaluate(bare, labels, names={"0": "land", "1": "land"})


def test_a_mask_of_one_class_needs_no_names(scene: Any, tmp_path: Path) -> None:
    pred, labels, found, truth = scene
    houses = footprints(tmp_path / "houses.geojson", truth).rename(tmp_path / "two;houses!.geojson")
    one = raster(tmp_path / "one.tif", np.where(found == 255, 255, found == 1).astype(np.uint8))
    scores, expected = evaluate(one, houses).scores, evaluate(pred, houses).scores
    assert scores["classes"] == ["background", "building"]
    assert scores["buildings"] == expected["buildings"]
    assert scores["pixel"]["iou"]["building"] == expected["pixel"]["iou"]["building"]
    binary = raster(tmp_path / "two.tif", np.where(truth == 255, 255, truth == 1).astype(np.uint8))
    assert evaluate(one, binary).scores["buildings"] is None
    scores = evaluate(one, binary, how={"class_": "building"}).scores
    assert scores["buildings"] == evaluate(pred, labels).scores["buildings"]
    nothing = raster(tmp_path / "nothing.tif", np.zeros(SIZE, np.uint8))
    assert evaluate(nothing, houses).scores["buildings"]["f1_50"] == 0.0


# --- vectors


def footprints(path: Path, truth: np.ndarray, crs: str = "EPSG:4326", **columns: Any) -> Path:
    frame = geopandas.GeoDataFrame(columns, geometry=polygons(truth, 1), crs=UTM).to_crs(crs)
    frame.to_file(path)
    return path


@pytest.mark.parametrize("truth", ["vectors", "raster", "named"])
def test_0_that_is_declared_nodata_is_none_of_the_only_class(tmp_path: Path, truth: str, caplog: Any) -> None:
    """One of four houses was found: whatever a GIS declared, the others were not."""
    houses = [shapely.box(400020 + 60 * k, 5799960, 400050 + 60 * k, 5799980) for k in range(4)]
    geopandas.GeoDataFrame(geometry=houses, crs=UTM).to_file(tmp_path / "houses.gpkg")
    grid = Affine(1, 0, 400000, 0, -1, 5800000)
    every = rasterize(houses, (100, 300), transform=grid)
    scores = {}
    for nodata in (0, 255):
        found = write(tmp_path / f"found{nodata}.tif", rasterize(houses[:1], (100, 300), transform=grid)[None],
                      transform=grid, nodata=nodata)  # fmt: skip
        labels = write(tmp_path / f"labels{nodata}.tif", every[None], transform=grid, nodata=nodata)
        if truth == "named":
            for path in (found, labels):
                names_beside(path, {1: "building"} if nodata == 0 else {0: "background", 1: "building"})
        given = tmp_path / "houses.gpkg" if truth == "vectors" else labels
        scores[nodata] = evaluate(found, given, how={"class_": "building"} if truth == "raster" else {}).scores
    assert scores[0]["buildings"] == scores[255]["buildings"]
    assert scores[0]["buildings"]["f1_50"] == pytest.approx(0.4)
    assert scores[0]["pixel"]["pixels"] == scores[255]["pixel"]["pixels"] == 100 * 300
    assert scores[0]["pixel"]["miou"] == scores[255]["pixel"]["miou"] < 0.7
    assert any("declares 0 as nodata: what is 0 counts as none of it" in message for message in caplog.messages)


def test_gaps_in_roads_of_a_mask_are_bridged_as_in_a_run(tmp_path: Path) -> None:
    plane = np.zeros((1, 120, 300), np.uint8)
    plane[0, 57:64] = 1
    plane[0, 57:64, 100:105] = 0
    grid = Affine(1, 0, 400000, 0, -1, 5800000)
    line = shapely.LineString([(400000, 5799939.5), (400300, 5799939.5)])
    geopandas.GeoDataFrame(geometry=[line], crs=UTM).to_file(tmp_path / "road.gpkg")
    mask = write(tmp_path / "m.tif", plane, transform=grid)
    found = evaluate(mask, tmp_path / "road.gpkg").scores["roads"]
    assert found["apls"] > 0.95
    assert found["found_m"] > 295


def test_footprints_as_labels(scene: Any, tmp_path: Path) -> None:
    pred, labels, found, truth = scene
    path = footprints(tmp_path / "houses.geojson", truth)
    scores = evaluate(pred, path).scores
    assert scores["classes"] == ["other", "building"]
    valid = found != 255
    a, b = (truth == 1) & valid, (found == 1) & valid
    assert scores["pixel"]["iou"]["building"] == pytest.approx((a & b).sum() / (a | b).sum(), abs=0.01)
    rasters = evaluate(pred, labels).scores["buildings"]
    assert scores["buildings"]["truth"] == len(polygons(truth, 1))
    assert scores["buildings"]["f1_50"] == pytest.approx(rasters["f1_50"])
    assert scores["buildings"]["polis_m"] == pytest.approx(rasters["polis_m"], abs=0.01)


def test_only_the_area_of_interest_counts(scene: Any, tmp_path: Path) -> None:
    pred, labels, found, truth = scene
    box = (500000.0, 5299962.5, 500030.0, 5300000.0)  # the upper left 60 columns and 75 rows
    area = tmp_path / "area.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.box(*box)], crs=UTM).to_crs("EPSG:4326").to_file(area)
    corner = (slice(0, 75), slice(0, 60))
    for aoi in (box, area):
        scores = evaluate(pred, labels, aoi=aoi).scores
        assert scores["pixel"]["pixels"] == 75 * 60
        assert scores["pixel"]["iou"]["building"] == pytest.approx(iou(truth[corner], found[corner], 1))
        assert scores["buildings"]["truth"] == 3
        assert scores["buildings"]["found"] == 3
    with pytest.raises(LabelError, match="does not meet"):
        evaluate(pred, labels, aoi=(0.0, 0.0, 10.0, 10.0))


def test_vectors_against_vectors(scene: Any, tmp_path: Path) -> None:
    pred, labels, found, truth = scene
    gpkg = tmp_path / "pred.gpkg"
    geopandas.GeoDataFrame(geometry=polygons(found, 1), crs=UTM).to_file(gpkg, layer="buildings")
    houses = footprints(tmp_path / "houses.shp", truth, "EPSG:3857")
    expected = evaluate(pred, labels).scores["buildings"]
    scores = evaluate(gpkg, houses).scores
    assert scores["pixel"] is None
    assert scores["roads"] is None
    assert scores["buildings"]["f1_50"] == expected["f1_50"]
    assert scores["buildings"]["polis_m"] == pytest.approx(expected["polis_m"], rel=5e-3)
    # A vector prediction against a class raster: the raster tells what is known.
    mixed = evaluate(gpkg, labels).scores["buildings"]
    assert mixed["f1_50"] == expected["f1_50"]
    area = (500000.0, 5299962.5, 500030.0, 5300000.0)
    assert evaluate(gpkg, houses, aoi=area).scores["buildings"]["truth"] == 3
    spec = tmp_path / "labels.yaml"
    spec.write_text("labels:\n  - {files: labels.tif, values: {0: other, 1: building, 2: other, 3: other}}\n")
    assert evaluate(gpkg, labels=spec).scores["buildings"] == mixed
    # A raster of one class without names is what the vectors are.
    one = raster(tmp_path / "one.tif", np.where(truth == 255, 255, truth == 1).astype(np.uint8))
    assert evaluate(gpkg, one).scores["buildings"] == mixed
    named = evaluate(gpkg, houses, settings=EvaluationSettings(layer="buildings")).scores["buildings"]
    assert named == evaluate(gpkg, houses).scores["buildings"]
    assert "has no layer 'roofs'; it has buildings" in failing(gpkg, houses, settings=EvaluationSettings(layer="roofs"))
    nothing = tmp_path / "nothing.gpkg"
    geopandas.GeoDataFrame(geometry=[], crs=UTM).to_file(nothing, layer="buildings", geometry_type="Polygon")
    assert evaluate(nothing, houses).scores["buildings"]["f1_50"] == 0.0
    assert "values have no names" in failing(gpkg, raster(tmp_path / "many.tif", truth))


def box(x: float, y: float, side: float) -> Any:
    """A square, from metres right of and below the grid's corner."""
    return shapely.box(500000 + x, 5300000 - y - side, 500000 + x + side, 5300000 - y)


def test_buildings_that_overlap_count_in_any_order(tmp_path: Path) -> None:
    houses = [box(5, 5, 10), box(25, 5, 10)]
    labels, pred = tmp_path / "labels.gpkg", tmp_path / "found.gpkg"
    geopandas.GeoDataFrame(geometry=houses, crs=UTM).to_file(labels)
    mask = raster(tmp_path / "s_mask.tif", np.zeros(SIZE, np.uint8), NAMES)
    folder = tmp_path / "run"
    folder.mkdir()
    manifest = {
        "name": "s",
        "classes": [{"name": name, "code": code, "colour": "#123456"} for code, name in NAMES.items()],
        "files": {"mask": str(mask), "vectors": str(pred)},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    small, large = box(22, 47, 2), box(20, 45, 10)
    for extra in ([small, large], [large, small]):
        geopandas.GeoDataFrame(geometry=[*houses, *extra], crs=UTM).to_file(pred, layer="buildings")
        found = evaluate(folder, labels).scores["buildings"]
        assert (found["truth"], found["found"], found["f1_50"]) == (2, 4, pytest.approx(2 / 3))


def city(path: Path) -> tuple[Path, np.ndarray]:
    """Footprints of a city, and the pixels of a scene within it, whose edges cut houses at any place."""
    codes = np.zeros((400, 400), np.uint8)
    for n, y in enumerate(range(20, 380, 30)):
        for x in range(20 + 3 * n, 380, 26):
            codes[y : y + 20, x : x + 18] = 1
    codes[210:216, 180:195] = 0  # the edge of the scene leaves two parts of this one
    shift = Affine.translation(-180, -100)
    shapes = [shapely.geometry.shape(s) for s, _ in outlines(codes, codes == 1, transform=GRID @ shift)]
    geopandas.GeoDataFrame(geometry=shapes, crs=UTM).to_file(path)
    return path, codes[100 : 100 + SIZE[0], 180 : 180 + SIZE[1]].copy()


@pytest.mark.parametrize("gaps", [False, True])
def test_buildings_that_the_edge_of_the_scene_cuts_can_be_found(tmp_path: Path, gaps: bool) -> None:
    houses, codes = city(tmp_path / "city.gpkg")
    if gaps:  # a scene that is turned, and a hole in it
        row, col = np.indices(SIZE)
        codes[(row + col < 80) | (row - col > 90)] = 255
        codes[66:74, 60:90] = 255
    mask = raster(tmp_path / "s_mask.tif", codes, {0: "land", 1: "building"})
    for window in (64, 512):
        found = evaluate(mask, houses, settings=EvaluationSettings(window=window)).scores["buildings"]
        assert found["f1_50_95"] == 1.0
        assert found["polis_m"] == pytest.approx(0, abs=1e-6)
        assert found["found"] >= found["truth"] > 20
    # polygons that reach beyond the scene, as labels do
    folder = tmp_path / "run"
    folder.mkdir()
    manifest = {
        "name": "s",
        "classes": [{"name": name, "code": code, "colour": "#123456"} for code, name in NAMES.items()],
        "files": {"mask": str(mask), "vectors": str(houses)},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    labels = raster(tmp_path / "labels.tif", codes, {0: "land", 1: "building"})
    assert evaluate(folder, labels).scores["buildings"]["f1_50_95"] == 1.0
    area = (500010.0, 5299950.0, 500060.0, 5299990.0)
    scores = [
        evaluate(mask, houses, aoi=area).scores["buildings"],
        evaluate(mask, labels, aoi=area).scores["buildings"],
    ]
    assert [s["f1_50_95"] for s in scores] == [1.0, 1.0]


def test_a_building_with_a_spike_counts(scene: Any, tmp_path: Path) -> None:
    pred = scene[0]
    x, y, right = 500002.5, 5299997.5, 500010.0
    spiked = shapely.Polygon([(x, y), (right, y), (right + 3, y), (right, y), (right, y - 7), (x, y - 7)])
    path = tmp_path / "houses.gpkg"
    geopandas.GeoDataFrame(geometry=[spiked, box(40, 30, 8)], crs=UTM).to_file(path)
    scores = evaluate(pred, path).scores
    assert scores["buildings"]["truth"] == 2
    assert scores["landcover"]["building"]["truth_pixels"] == 15 * 14 + 16 * 16


def test_contacts_of_a_label_file(scene: Any, tmp_path: Path) -> None:
    pred, _, found, _ = scene
    geopandas.GeoDataFrame(geometry=[box(5, 5, 10), box(15.5, 5, 10)], crs=UTM).to_file(tmp_path / "houses.gpkg")

    def scores(mask: Path, contact: str, rest: str = "other") -> Any:
        path = tmp_path / "labels.yaml"
        layer = f"{{files: houses.gpkg, class: building{contact}}}"
        path.write_text(f"labels:\n  - {layer}\ncomplete: {{rest: {rest}}}\n")
        return {**evaluate(mask, labels=path).scores, "scenes": []}

    plain = scores(pred, "")
    assert plain["classes"] == ["other", "building"]
    # The prediction has no such class: what the polygons say.
    for contact in (", contact: {distance_m: 1}", ", contact: {class: {not: wall}, distance_m: 1}"):
        for rest in ("other", "{not: building}"):
            assert scores(pred, contact, rest) == plain
    # Another class is of no interest where only one is known.
    assert scores(pred, ", contact: {class: {not: road}, distance_m: 1}", "{not: building}") == plain
    # A class of its own, if the prediction knows it; without contacts in the labels it is building.
    walls = found.copy()
    walls[10:30, 30:31] = 4
    mask = raster(tmp_path / "w_mask.tif", walls, {**NAMES, 4: "contact"})
    apart = scores(mask, ", contact: {distance_m: 1}")
    assert apart["classes"] == ["other", "building", "contact"]
    # Between the houses lies one pixel, within a metre of both one more on either side, and one beyond the ends.
    pixels = apart["landcover"]["contact"]["truth_pixels"]
    assert pixels == pytest.approx(3 * 22, abs=4)
    assert apart["pixel"]["iou"]["contact"] == pytest.approx(20 / pixels)
    assert scores(mask, ", contact: {distance_m: 1}", "{not: building}") == apart
    assert scores(mask, "")["classes"] == ["other", "building"]


def test_roads_as_lines(scene: Any, tmp_path: Path) -> None:
    pred, _, found, _ = scene
    courses = [[(0, 74), (63, 74)], [(63, 74), (120, 74)], [(63, 0), (63, 74)], [(63, 74), (63, 150)]]
    roads = [shapely.LineString([GRID @ point for point in course]) for course in courses]
    path = tmp_path / "roads.gpkg"
    geopandas.GeoDataFrame(geometry=roads, crs=UTM).to_crs("EPSG:4326").to_file(path, layer="ways")
    scores = evaluate(pred, path).scores
    assert scores["pixel"] is None  # lines have no area
    assert scores["buildings"] is None
    assert scores["roads"]["lines"]["recall"] > 0.85
    assert scores["roads"]["lines"]["precision"] > 0.9
    assert scores["roads"]["apls"] > 0.95  # there is a gap, which is bridged as in a run
    assert scores["roads"]["relaxed"] is None
    wide = evaluate(pred, path, how={"width_m": 4.0}).scores
    burnt = rasterize([shapely.buffer(r, 2.0) for r in roads], out_shape=SIZE, transform=GRID)
    valid = found != 255
    a, b = (burnt == 1) & valid, (found == 2) & valid
    assert wide["pixel"]["iou"]["road"] == pytest.approx((a & b).sum() / (a | b).sum(), abs=0.02)
    assert wide["roads"]["apls"] == pytest.approx(scores["roads"]["apls"], abs=0.02)
    assert wide["roads"]["relaxed"]["f1"] > 0.9


def test_lines_without_a_width_beside_areas(scene: Any, tmp_path: Path, caplog: Any) -> None:
    pred, _, found, truth = scene
    houses, streets = tmp_path / "houses.gpkg", tmp_path / "streets.geojson"
    geopandas.GeoDataFrame(geometry=polygons(truth, 1), crs=UTM).to_file(houses)
    line = shapely.LineString([GRID @ (0, 74), GRID @ (120, 74)])
    geopandas.GeoDataFrame(geometry=[line], crs=UTM).to_crs("EPSG:4326").to_file(streets)
    result = evaluate(pred, [houses, streets])
    scores = result.scores
    assert scores["classes"] == ["other", "building"] == list(scores["pixel"]["iou"])
    valid = found != 255
    a, b = (truth == 1) & valid, (found == 1) & valid
    assert scores["pixel"]["iou"]["building"] == pytest.approx((a & b).sum() / (a | b).sum())
    # Roads of the prediction are not wrong, where labels say that there is no building.
    assert scores["pixel"]["accuracy"] == pytest.approx((a == b)[valid].mean())
    assert scores["roads"]["relaxed"] is None
    assert scores["roads"]["lines"]["recall"] > 0.7  # there is a gap
    assert "road: lines of the labels have no width" in caplog.text
    assert "--width-m" in caplog.text
    result.write_page(tmp_path / "page.html")
    wide = evaluate(pred, [houses, streets], how={"width_m": 4.0}).scores
    assert wide["classes"] == ["other", "building", "road"]
    assert wide["roads"]["relaxed"]["precision"] > 0.5
    # What is probably road counts as the rest.
    likely = np.stack([np.where(valid, np.where(found == code, 200, 18), 255) for code in NAMES]).astype(np.uint8)
    path = write(tmp_path / "s_prob.tif", likely, crs=UTM, transform=GRID, nodata=255)
    calibration = evaluate(pred, [houses, streets], probability=path).scores["calibration"]
    assert list(calibration["class_ece"]) == ["other", "building"]
    assert calibration["pixels"] == valid.sum()
    said = np.where(found == 1, 200, 236)[valid] / 254
    assert calibration["brier"] == pytest.approx((2 * (said - (a == b)[valid]) ** 2).mean())
    # Without a rest nothing is known where the prediction has roads.
    spec = tmp_path / "labels.yaml"
    spec.write_text("labels:\n  - {files: houses.gpkg, class: building}\n  - {files: streets.geojson, class: road}\n")
    bare = evaluate(pred, labels=spec).scores
    assert "road" not in bare["classes"]
    assert bare["pixel"]["pixels"] == (a & (found != 2)).sum()


def test_attributes_tell_classes(scene: Any, tmp_path: Path) -> None:
    pred, _, found, truth = scene
    shapes, kinds = [], []
    for code, kind in ((0, "Open"), (1, "House"), (2, "Way"), (3, "Lake")):
        for polygon in polygons(truth, code):
            shapes.append(polygon)
            kinds.append(kind)
    path = tmp_path / "cover.gpkg"
    geopandas.GeoDataFrame({"Niveau": kinds}, geometry=shapes, crs=UTM).to_file(path, layer="cover")
    values = {"Open": "land", "House": "building", "Way": "road", "Lake": "water"}
    how = {"column": "Niveau", "values": values}
    scores = evaluate(pred, path, how=how).scores
    for code, name in NAMES.items():
        assert scores["pixel"]["iou"][name] == pytest.approx(iou(truth, found, code))
    spec = tmp_path / "labels.yaml"
    spec.write_text(
        "labels:\n  - files: cover.gpkg\n    column: Niveau\n    values: {Open: land, House: building, Way: road}\n"
        "    others: ignored\n"
    )
    partly = evaluate(pred, labels=spec).scores
    assert partly["landcover"]["water"]["truth_pixels"] == 0
    assert partly["pixel"]["iou"]["building"] == pytest.approx(scores["pixel"]["iou"]["building"])


def test_what_is_left_blank(scene: Any, tmp_path: Path) -> None:
    pred, _, found, truth = scene
    valid = found != 255
    kinds = [1] * len(polygons(truth, 1)) + [3] * len(polygons(truth, 3))
    path = tmp_path / "map.gpkg"
    shapes = polygons(truth, 1) + polygons(truth, 3)
    geopandas.GeoDataFrame({"kind": kinds}, geometry=shapes, crs=UTM).to_file(path)
    how = {"column": "kind", "values": {"1": "building", "3": "water"}}
    scores = evaluate(pred, path, how=how).scores
    assert scores["pixel"]["pixels"] == (np.isin(truth, (1, 3)) & valid).sum()
    scores = evaluate(pred, path, how={**how, "rest": "other"}).scores
    assert scores["pixel"]["pixels"] == valid.sum()
    assert scores["classes"] == ["other", "building", "water"]
    scores = evaluate(pred, path, how={**how, "rest": "land"}).scores
    assert scores["classes"] == list(NAMES.values())
    houses = footprints(tmp_path / "houses.gpkg", truth)
    assert evaluate(pred, houses).scores["pixel"]["pixels"] == valid.sum()
    assert evaluate(pred, houses, how={"rest": "ignored"}).scores["pixel"]["pixels"] == ((truth == 1) & valid).sum()
    with pytest.raises(LabelError, match="kind has none of the values that the job lists; it has '1', '3'"):
        evaluate(pred, path, how={"column": "kind", "values": {"House": "building"}, "others": "ignored"})


def test_what_is_only_ruled_out_is_other(scene: Any, tmp_path: Path) -> None:
    pred, _, _, truth = scene
    footprints(tmp_path / "houses.geojson", truth, UTM)
    spec = tmp_path / "labels.yaml"
    spec.write_text("labels:\n  - {files: houses.geojson, class: building}\ncomplete: {rest: {not: building}}\n")
    ours, theirs = evaluate(pred, labels=spec).scores, evaluate(pred, tmp_path / "houses.geojson").scores
    assert ours["pixel"] == theirs["pixel"]
    assert ours["buildings"] == theirs["buildings"]


# --- calibration


def test_probabilities_of_a_mask(scene: Any, tmp_path: Path) -> None:
    pred, labels, found, truth = scene
    random = np.random.default_rng(3)
    stored = random.integers(0, 60, (4, *SIZE)).astype(np.uint8)
    for code in NAMES:
        stored[code][found == code] = random.integers(150, 255, (found == code).sum())
    stored[:, found == 255] = 255
    path = write(tmp_path / "prob.tif", stored, crs=UTM, transform=GRID, nodata=255,
                 descriptions=[f"p({n})" for n in NAMES.values()])  # fmt: skip
    calibration = evaluate(pred, labels, probability=path).scores["calibration"]
    valid = (truth != 255) & (stored != 255).all(axis=0)
    chosen = np.take_along_axis(stored, np.minimum(found, 3)[None].astype(int), 0)[0][valid] / 254
    right = (truth == found)[valid]
    place = np.maximum(0, np.ceil(chosen * 15 - 1e-9).astype(int) - 1)
    parts = [(np.mean(place == k), right[place == k].mean(), chosen[place == k].mean()) for k in np.unique(place)]
    assert calibration["pixels"] == valid.sum()
    assert calibration["ece"] == pytest.approx(sum(w * abs(r - c) for w, r, c in parts))
    # Of a class against the rest, probabilities of the rest add up.
    rest = evaluate(pred, labels, probability=path, how={"values": {"1": "building", "0": "other", "2": "other",
                                                                    "3": "other"}}).scores  # fmt: skip
    assert rest["calibration"]["pixels"] == valid.sum()
    for scale, dtype, nodata in ((1 / 254, "uint8", 255), (1 / 2540, "uint16", 65535)):
        scaled = np.where(stored == 255, nodata, stored * (10.0 if dtype == "uint16" else 1)).astype(dtype)
        write(path, scaled, crs=UTM, transform=GRID, nodata=nodata, scales=(scale,) * 4,
              descriptions=[f"p({n})" for n in NAMES.values()])  # fmt: skip
        assert evaluate(pred, labels, probability=path).scores["calibration"] == calibration
    write(path, scaled, crs=UTM, transform=GRID, nodata=nodata, scales=(1.0,) * 4)
    with pytest.raises(VectorError, match="holds values from 0 to 2540, with its scale; expected probabilities"):
        evaluate(pred, labels, probability=path)
    small = write(tmp_path / "small.tif", stored[:, :10], crs=UTM, transform=GRID)
    with pytest.raises(VectorError, match="10 x 170 pixels, but the mask has 150 x 170"):
        evaluate(pred, labels, probability=small)


# --- output of a run


def test_the_folder_of_a_run(scene: Any, tmp_path: Path) -> None:
    pred, labels, found, _ = scene
    folder = tmp_path / "out" / "s"
    folder.mkdir(parents=True)
    raster(folder / "s_mask.tif", found)
    geopandas.GeoDataFrame(geometry=polygons(found, 1), crs=UTM).to_file(folder / "s.gpkg", layer="buildings")
    entry = {
        "name": "s", "state": "done", "folder": "s", "files": {"mask": "s/s_mask.tif", "vectors": "s/s.gpkg"},
        "classes": [{"name": n, "code": c, "colour": "#123456"} for c, n in NAMES.items()],
        "model": {"name": "m", "head": "softmax"},
    }  # fmt: skip
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"scenes": [entry]}))
    own = {**entry, "files": {"mask": "s_mask.tif", "vectors": "s.gpkg"}}
    (folder / "manifest.json").write_text(json.dumps(own))
    whole, one = evaluate(tmp_path / "out", labels).scores, evaluate(folder, labels).scores
    assert whole == one
    expected = evaluate(pred, labels).scores
    assert whole["pixel"] == expected["pixel"]
    assert whole["buildings"]["f1_50"] == expected["buildings"]["f1_50"]
    second = {**entry, "model": {"name": "n", "head": "softmax"}}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"scenes": [entry, second]}))
    with pytest.raises(JobError, match="several models"):
        evaluate(tmp_path / "out", labels)
    entry["model"]["head"] = "multilabel"
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"scenes": [entry]}))
    with pytest.raises(JobError, match="overlap"):
        evaluate(tmp_path / "out", labels)


def test_labels_beyond_the_scene_of_predicted_vectors_do_not_count(
    scene: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, found, truth = scene
    folder = tmp_path / "s"
    folder.mkdir()
    raster(folder / "s_mask.tif", found)
    gpkg = folder / "s.gpkg"
    geopandas.GeoDataFrame(geometry=polygons(found, 1), crs=UTM).to_file(gpkg, layer="buildings")
    streets = [shapely.LineString([GRID @ (0, 74), GRID @ (120, 74)])]
    geopandas.GeoDataFrame(geometry=streets, crs=UTM).to_file(gpkg, layer="road_edges")
    files = {"mask": "s_mask.tif", "vectors": "s.gpkg"}
    classes = [{"name": n, "code": c, "colour": "#123456"} for c, n in NAMES.items()]
    manifest: dict[str, Any] = {"name": "s", "state": "done", "files": files, "classes": classes}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    beyond = [box(500 + 20 * k, 500, 10) for k in range(20)]
    labels = tmp_path / "houses.gpkg"
    geopandas.GeoDataFrame(geometry=[*polygons(truth, 1), *beyond], crs=UTM).to_crs("EPSG:4326").to_file(labels)
    expected = evaluate(folder, labels).scores["buildings"]
    scores = evaluate(gpkg, labels).scores
    assert scores["pixel"] is None
    assert scores["buildings"]["truth"] == expected["truth"] == len(polygons(truth, 1))
    assert scores["buildings"]["f1_50"] == expected["f1_50"]
    assert "outside" not in caplog.text
    # A file of labels that is larger than the scene, as raster.
    wide = np.pad(truth, ((50, 50), (50, 50)), constant_values=1)
    place = GRID @ Affine.translation(-50, -50)
    mixed = evaluate(gpkg, raster(tmp_path / "wide.tif", wide, NAMES, transform=place)).scores["buildings"]
    assert mixed["truth"] <= expected["truth"]
    # An area of interest is within it, and lines end at it.
    area = (500000.0, 5299962.5, 500030.0, 5300000.0)
    assert evaluate(gpkg, labels, aoi=area).scores["buildings"]["truth"] == 3
    ways = tmp_path / "ways.gpkg"
    line = shapely.LineString([GRID @ (0, 74), GRID @ (1200, 74)])
    geopandas.GeoDataFrame(geometry=[line], crs=UTM).to_file(ways)
    assert evaluate(gpkg, ways).scores["roads"]["truth_m"] == pytest.approx(85, abs=1)
    # Without the mask the scene tells its size; of vectors of others nothing does, and it is said.
    manifest["input"] = describe(SceneSpec("s", (str(folder / "s_mask.tif"),))).to_dict()
    (folder / "s_mask.tif").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert evaluate(gpkg, labels).scores["buildings"]["truth"] == len(polygons(truth, 1))
    (folder / "manifest.json").unlink()
    assert evaluate(gpkg, labels).scores["buildings"]["truth"] == len(polygons(truth, 1)) + len(beyond)
    assert "s: 20 of 28 labels lie outside the predicted extent; give --aoi" in caplog.messages


def test_scenes_without_labels_are_left_out_and_named(tmp_path: Path) -> None:
    masks = []
    truth, found = town()
    for k, name in enumerate(("zanzi", "banepa", "blank")):
        place = Affine(0.5, 0, 500000 + 1000 * k, 0, -0.5, 5300000)
        masks.append(raster(tmp_path / f"{name}_mask.tif", found, NAMES, transform=place))
    labels = raster(tmp_path / "labels.tif", truth, NAMES)
    houses = footprints(tmp_path / "houses.gpkg", truth)
    for path in (labels, houses):
        alone, both = evaluate(masks[0], path).scores, evaluate(masks[:2], path).scores
        assert alone["left_out"] == []
        assert both["left_out"] == ["banepa"]
        assert {**both, "left_out": []} == alone
    # Where it is said that all is labelled, nothing there is a finding.
    told = evaluate(masks[:2], houses, how={"rest": "other"}).scores
    assert told["left_out"] == []
    assert told["buildings"]["found"] == 2 * evaluate(masks[0], houses).scores["buildings"]["found"]
    # Labels that are there and know nothing.
    unknown = raster(tmp_path / "unknown.tif", np.full(SIZE, 255, np.uint8), NAMES,
                     transform=Affine(0.5, 0, 502000, 0, -0.5, 5300000))  # fmt: skip
    both = evaluate([masks[0], masks[2]], [labels, unknown]).scores
    assert both["left_out"] == ["blank"]
    assert [entry["name"] for entry in both["scenes"]] == ["zanzi"]


def test_kinds_are_those_of_the_manifest(scene: Any, tmp_path: Path) -> None:
    _, _, found, truth = scene
    names = {0: "land", 1: "hut", 2: "way", 3: "water"}
    labels = raster(tmp_path / "huts.tif", truth, names)
    houses = footprints(tmp_path / "houses.gpkg", truth, UTM, what=["hut"] * len(polygons(truth, 1)))
    raster(tmp_path / "bare.tif", found)
    kinds = {"hut": "building", "way": "road"}
    classes = [{"name": n, "code": c, "colour": "#123456", "kind": kinds.get(n, "other")} for c, n in names.items()]
    manifest: dict[str, Any] = {"name": "s", "files": {"mask": "bare.tif"}, "classes": classes}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    expected = evaluate(*scene[:2]).scores
    scores = evaluate(tmp_path, labels).scores
    assert scores["buildings"] == expected["buildings"]
    assert scores["roads"] == expected["roads"]
    # Nobody said that polygons are huts, and what lies between.
    assert evaluate(tmp_path, houses).scores["classes"] == ["other", "hut"]
    how = {"column": "what", "values": {"hut": "hut", "way": "way"}, "others": "skip"}
    assert evaluate(tmp_path, houses, how=how).scores["classes"] == ["other", "hut", "way"]
    # Manifests of before tell no kinds, and some day there may be others.
    for kind in ({}, {"kind": "bridge"}):
        manifest["classes"] = [{"name": n, "code": c, "colour": "#123456"} | kind for c, n in NAMES.items()]
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        assert evaluate(tmp_path, scene[1]).scores["buildings"] == expected["buildings"]


def test_the_page(scene: Any, tmp_path: Path) -> None:
    pred, labels, found, _ = scene
    picture = write(tmp_path / "image.tif", np.stack([found % 200 + 20] * 3), crs=UTM, transform=GRID)
    result = evaluate(pred, labels, image=picture, settings=EvaluationSettings(window=64))
    assert isinstance(result, Evaluation)
    result.write_page(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    for word in ("Mean IoU", "Confusion", "Worst windows", "APLS", "PoLiS", "building", "data:image/png"):
        assert word in html
    assert "http" not in html.replace("http-equiv", "")
    worst = max(result.windows, key=lambda w: w.wrong if w.known > 0.25 * 64 * 64 else 0)
    assert f"{100 * worst.wrong:.1f} % of {worst.known:,} pixels wrong" in html


def test_pictures_show_what_is_wrong(scene: Any) -> None:
    from geounet.evaluation.pictures import GAP, PANEL, chosen, window_picture

    pred, labels, found, truth = scene
    result = evaluate(pred, labels, settings=EvaluationSettings(window=1024))
    (window,) = chosen(result.windows, 5, worst=True)
    picture = np.asarray(window_picture(result, window))
    side = round(SIZE[0] * PANEL / SIZE[1])
    assert picture.shape == (side, 3 * PANEL + 2 * GAP, 3)
    red = (picture[:, 2 * (PANEL + GAP) :] == (214, 40, 40)).all(axis=2).mean()
    valid = (truth != 255) & (found != 255)
    assert red == pytest.approx(((truth != found) & valid).mean(), abs=0.02)


def test_public_name() -> None:
    assert geounet.evaluate is evaluate


# --- what is wrong is said in one line


def failing(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(GeounetError) as info:
        evaluate(*args, **kwargs)
    message = str(info.value)
    assert "\n" not in message
    return message


def test_wrong_input_is_told(scene: Any, tmp_path: Path) -> None:
    pred, labels, found, truth = scene
    assert "no such file" in failing(tmp_path / "none.tif", labels)
    assert "no such file" in failing(pred, tmp_path / "none.tif")
    assert "no such file" in failing(tmp_path / "none.gpkg", labels)
    assert "holds no manifest.json" in failing(tmp_path, labels)
    assert "either as files" in failing(pred)
    floats = raster(tmp_path / "f.tif", found.astype(np.float32))
    assert "is float32, expected a mask" in failing(floats, labels)
    picture = write(tmp_path / "rgb.tif", np.zeros((3, *SIZE), np.uint8), photometric="rgb")
    assert "a picture, expected a mask of one band" in failing(picture, labels)
    assert "for a picture whose colours are classes say which" in failing(pred, picture)
    far = raster(tmp_path / "far.tif", truth, NAMES, transform=Affine(0.5, 0, 600000, 0, -0.5, 5300000))
    assert "does not overlap its scenes" in failing(pred, far)
    bare = raster(tmp_path / "bare.tif", truth[:100], NAMES, crs=None, transform=None)
    assert "is 170 × 100 px, the scene s is 170 × 150" in failing(pred, bare)
    nine = np.where(truth == 3, 9, truth).astype(np.uint8)
    odd = raster(tmp_path / "odd.tif", nine, {0: "land", 1: "building", 2: "road"})
    assert "has values that the job does not list: 9" in failing(pred, odd)
    strange = raster(tmp_path / "strange.tif", truth, {0: "land", 1: "building", 2: "road", 3: "lava"})
    assert "its class 'lava' is none of the prediction" in failing(pred, strange)
    assert "no class 'castle'" in failing(pred, labels, how={"values": {"1": "castle"}})
    (tmp_path / "text.geojson").write_text("{}")
    assert "not a vector file" in failing(pred, tmp_path / "text.geojson")
    assert failing(pred, labels, how={"column": "a", "values": {"b": "land"}}).endswith("are its pixel values")


def test_wrong_vectors_are_told(scene: Any, tmp_path: Path) -> None:
    pred, _, found, truth = scene
    houses = footprints(tmp_path / "h.gpkg", truth, kind=["x"] * len(polygons(truth, 1)))
    assert "has no layer 'roofs'" in failing(pred, houses, how={"layer": "roofs"})
    assert "has no attribute 'level'" in failing(pred, houses, how={"column": "level", "values": {"x": "building"}})
    assert "kind has values that the job does not list: 'x'" in failing(
        pred, houses, how={"column": "kind", "values": {"y": "building"}}
    )
    empty = tmp_path / "empty.gpkg"
    geopandas.GeoDataFrame(geometry=[], crs=UTM).to_file(empty, layer="none", geometry_type="Polygon")
    assert "holds no features" in failing(pred, empty)
    bare = raster(tmp_path / "bare_mask.tif", found, NAMES, crs=None, transform=None)
    assert "has a CRS (EPSG:4326), bare has none" in failing(bare, houses)
    places = tmp_path / "places.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.Point(500010, 5299990)], crs=UTM).to_file(places, layer="buildings")
    assert "nothing to compare" in failing(places, houses)
    lone = raster(tmp_path / "lone_mask.tif", np.minimum(found, 1), {0: "ground", 1: "plot"})
    assert "which class its polygons are is not clear" in failing(lone, houses)
    (tmp_path / "l.yaml").write_text("labels:\n  - {files: h.gpkg, klass: building}\n")
    assert failing(pred, labels=tmp_path / "l.yaml").startswith(f"{tmp_path / 'l.yaml'}:2: ")
    assert pyogrio.list_layers(houses).tolist()[0][0] == "h"


def test_nothing_in_common_is_told(tmp_path: Path) -> None:
    truth, found = town()
    truth[:, 80:], found[:, :80] = 255, 255
    pred, labels = raster(tmp_path / "p.tif", found, NAMES), raster(tmp_path / "t.tif", truth, NAMES)
    assert "have no pixel in common" in failing(pred, labels)
    strange = raster(tmp_path / "strange.tif", np.full(SIZE, 9, np.uint8), None)
    names_beside(strange, {0: "land", 1: "building"})
    # The value without a name is a class of its own in the mask, which the labels lack.
    scores = evaluate(strange, raster(tmp_path / "l.tif", np.zeros(SIZE, np.uint8), {0: "land", 1: "building"})).scores
    assert scores["pixel"]["accuracy"] == 0.0
