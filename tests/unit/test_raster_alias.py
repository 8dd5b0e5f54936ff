"""Files with names that pyogrio takes for something else, read and written all the same."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import geopandas
import pyogrio
import pytest
import shapely

from geounet.config.data import Labels
from geounet.labels.vectors import read_features
from geounet.raster.alias import readable, writable
from geounet.report import sketch
from geounet.types import Rect
from tests.support.rasters import NORTH_UP, UTM, scene, write

NAMES = ["a;b", "a!b", "a?", "q?x=1", "a\nb", "it's {band} %s", "d!r;s?/x;y!z", "é d/[a] b"]
if os.name == "nt":
    NAMES = ["a;b", "a!b", "é d/[a] b"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cwd", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def square() -> geopandas.GeoDataFrame:
    x, y = NORTH_UP.c, NORTH_UP.f
    return geopandas.GeoDataFrame({"class": ["house"]}, geometry=[shapely.box(x, y - 5, x + 5, y)], crs=UTM)


@pytest.mark.parametrize("name", NAMES)
def test_vector_files_of_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.gpkg"
    path.parent.mkdir(exist_ok=True)
    with writable(path.with_name("x.gpkg")) as file:
        pyogrio.write_dataframe(square(), file, layer="buildings")
    path.with_name("x.gpkg").rename(path)
    with readable(path) as file:
        assert pyogrio.read_dataframe(file)["class"].tolist() == ["house"]
    picture = write(tmp_path / "a.tif", [[[1] * 20] * 20])
    with scene(picture, aoi=str(path)) as cut:
        assert cut.read_validity(Rect(0, 0, 20, 20)).sum() == 100
        info = cut.info
    spec = Labels.model_validate({"files": [str(path)], "column": "class", "values": {"house": "house"}})
    assert read_features(str(path), spec, {"house": 1}).values.tolist() == [1]
    (layer,) = sketch.layers(path, info)
    assert len(list(sketch.batches(layer, info, Rect(0, 0, 20, 20), (20, 20)))) == 1
    assert not [*(tmp_path / "cwd").iterdir(), *(tmp_path / "tmp").iterdir()]


def test_what_belongs_to_a_shapefile_comes_with_it(tmp_path: Path) -> None:
    square().to_file(tmp_path / "x.shp")
    for part in sorted(tmp_path.glob("x.*")):
        part.rename(tmp_path / f"a!b;c{part.suffix}")
    with readable(str(tmp_path / "a!b;c.shp")) as file:
        found = pyogrio.read_dataframe(file)
    assert found["class"].tolist() == ["house"]
    assert found.crs == UTM
