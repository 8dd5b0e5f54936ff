"""Vector files: layers, attributes and features, GeoParquet among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import CRS

from geounet.raster.vectors import (
    NoColumnError,
    NoLayerError,
    UnreadableError,
    columns_of,
    layers_of,
    read_layer,
)


def frame(shapes: list[Any] | None = None, crs: Any = "EPSG:32645") -> geopandas.GeoDataFrame:
    shapes = shapes or [shapely.box(0, 0, 2, 1), None, shapely.box(5, 5, 6, 9)]
    columns = {"name": ["a", None, "c d"][: len(shapes)], "storeys": [1, 2, 3][: len(shapes)]}
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs)


def write(path: Path, data: geopandas.GeoDataFrame) -> Path:
    if path.suffix == ".parquet":
        data.to_parquet(path)
    else:  # under a name that pyogrio takes
        plain = path.with_name("a" + path.suffix)
        data.to_file(plain, layer=path.stem) if path.suffix == ".gpkg" else data.to_file(plain)
        plain.rename(path)
    return path


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a!b;c.gpkg", "a.parquet", "a!b;c.parquet"])
def test_every_format_gives_the_same(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, frame())
    assert list(layers_of(path)) == [path.stem]
    assert "Polygon" in layers_of(path)[path.stem]
    assert columns_of(path) == ["name", "storeys"]
    found = read_layer(path, None, ("storeys", "name"))
    assert found.columns["storeys"].tolist() == [1, 2, 3]
    assert [None if pd.isna(n) else n for n in found.columns["name"]] == ["a", None, "c d"]
    assert [shapely.is_missing(s) for s in found.shapes] == [False, True, False]
    assert shapely.equals(found.shapes[2], shapely.box(5, 5, 6, 9))
    assert CRS(found.crs) == CRS("EPSG:32645")
    assert read_layer(path, path.stem).columns == {}


@pytest.mark.parametrize("ending", [".gpkg", ".parquet"])
def test_what_is_not_there_is_named(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a{ending}", frame())
    with pytest.raises(NoLayerError, match="has no layer 'b'; it has a"):
        read_layer(path, "b")
    with pytest.raises(NoColumnError, match="has no attribute 'height'; it has name, storeys"):
        read_layer(path, None, ["height"])
    with pytest.raises(UnreadableError, match="no such file"):
        read_layer(tmp_path / f"b{ending}")
    (tmp_path / f"c{ending}").write_text("no such thing")
    for ask in (read_layer, layers_of, columns_of):
        with pytest.raises(UnreadableError, match="that can be read"):
            ask(tmp_path / f"c{ending}")


def test_parquet_without_geometries(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UnreadableError, match="without geometries"):
        read_layer(tmp_path / "a.parquet")


def test_geoparquet_with_heights_lines_and_no_crs(tmp_path: Path) -> None:
    lines = [shapely.LineString([(0, 0, 5), (1, 1, 6)]), shapely.MultiLineString([[(0, 0, 1), (2, 2, 1)]])]
    path = write(tmp_path / "a.parquet", frame(lines, crs=None))
    assert layers_of(path) == {"a": "LineString"}
    found = read_layer(path)
    assert found.crs is None
    assert not shapely.has_z(found.shapes).any()
    np.testing.assert_array_equal(shapely.get_coordinates(found.shapes[0]), [[0, 0], [1, 1]])
    mixed = write(tmp_path / "b.parquet", frame([lines[0], shapely.box(0, 0, 1, 1)]))
    assert layers_of(mixed) == {"b": "Unknown"}
