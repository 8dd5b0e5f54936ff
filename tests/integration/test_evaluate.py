"""`geounet evaluate` through a model: segmented, then measured, against labels of all kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio

import geounet
from geounet.cli.main import main
from geounet.testing.scenes import CLASSES, SceneTruth, generate


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneTruth:
    folder = tmp_path_factory.mktemp("scene")
    return generate(folder / "town.tif", width=448, height=384, seed=21, labels=folder / "town_labels.tif")


@pytest.fixture(scope="module")
def evaluated(scene: SceneTruth, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("out")
    values = ",".join(f"{code}={name}" for code, name in enumerate(CLASSES))
    command = ["evaluate", "--model", "demo", "--scenes", str(scene.path), "--truth", str(scene.labels)]
    assert main([*command, "--values", values, "--out", str(out), "--set", "cluster.workers=1"]) == 0
    return out, json.loads((out / "evaluation.json").read_text())


def test_a_model_is_measured(scene: SceneTruth, evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, scores = evaluated
    with rasterio.open(scene.labels) as labels, rasterio.open(out / "town" / "town_mask.tif") as mask:
        truth, found = labels.read(1), mask.read(1)
    valid = (truth != 255) & (found != 255)
    assert scores["pixel"]["accuracy"] == pytest.approx((truth == found)[valid].mean())
    for code, name in enumerate(CLASSES):
        a, b = (truth == code) & valid, (found == code) & valid
        expected = (a & b).sum() / (a | b).sum() if (a | b).any() else None
        assert scores["pixel"]["iou"][name] == (None if expected is None else pytest.approx(expected))
    assert scores["pixel"]["miou"] > 0.6
    # The run brings probabilities along, and the picture.
    assert scores["calibration"]["pixels"] == valid.sum()
    assert 0 < scores["calibration"]["ece"] < 0.1
    html = (out / "evaluation.html").read_text()
    assert "Reliability" in html
    assert scores["buildings"]["f1_50"] > 0.5


def test_its_folder_gives_the_same(scene: SceneTruth, evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, scores = evaluated
    result = geounet.evaluate(out, scene.labels)
    assert json.loads(json.dumps(result.scores)) == scores


def test_the_manifest_tells_kinds(evaluated: tuple[Path, dict[str, Any]]) -> None:
    out, _ = evaluated
    expected = {info.name: info.kind.value for info in geounet.load_model("demo").card.mask_classes()}
    (entry,) = json.loads((out / "manifest.json").read_text())["scenes"]
    for manifest in (entry, json.loads((out / "town" / "manifest.json").read_text())):
        assert {c["name"]: c["kind"] for c in manifest["classes"]} == expected


def test_against_true_vectors(scene: SceneTruth, evaluated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, scores = evaluated
    vectors = scene.vectors()
    houses, roads = tmp_path / "houses.geojson", tmp_path / "roads.gpkg"
    geopandas.GeoDataFrame(geometry=list(vectors.buildings), crs=scene.crs).to_crs(4326).to_file(houses)
    frame = geopandas.GeoDataFrame({"width": vectors.widths}, geometry=list(vectors.roads), crs=scene.crs)
    frame.to_file(roads)
    found = geounet.evaluate(out, houses).scores
    with rasterio.open(scene.labels) as labels:
        nodata = np.argwhere(labels.read(1) == 255)
    assert len(nodata)  # houses there were not to be found
    assert found["buildings"]["truth"] < len(vectors.buildings)
    # Trees hide parts of the true outlines, which labels in pixels do not have.
    assert found["buildings"]["f1_50"] == pytest.approx(scores["buildings"]["f1_50"], abs=0.2)
    assert found["buildings"]["polis_m"] < 3
    streets = geounet.evaluate(out, roads).scores
    assert streets["pixel"] is None
    assert streets["roads"]["lines"]["recall"] > 0.6
    assert streets["roads"]["topo_f1"] > 0.4
