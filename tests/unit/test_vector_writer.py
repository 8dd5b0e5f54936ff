"""The formats of vector files: one source of features, the same content in each; complete or absent."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from pyproj import CRS

from geounet.errors import VectorError
from geounet.raster.alias import readable
from geounet.vector.content import Contents, LayerContent, placed
from geounet.vector.schema import LANDCOVER, LAYERS, ROAD_NODES, Layer
from geounet.vector.writer import FORMATS, destinations, write
from tests.support.vectors import CLASSES

META = {"model": "test", "date": "2024-05-06T07:08:09Z"}
SIDE = 30


def squares(count: int, layer: Layer = LANDCOVER, batch: int = 50) -> Callable[[], Iterator[pa.RecordBatch]]:
    """Batches of unit squares, rows of `SIDE`, with a value of every type of the layer."""

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, count, batch):
            index = np.arange(start, min(start + batch, count))
            x, y = 500000.0 + index % SIDE, 5000000.0 - index // SIDE
            shapes = shapely.points(x, y) if layer.geometry == "Point" else shapely.box(x, y, x + 1, y + 1)
            columns = {"class_id": index % 4, "class": [f"class {i % 4}" for i in index], "area_m2": index * 0.5}
            columns |= {"confidence": np.where(index % 3 == 0, np.nan, index / (count + 1))}
            columns |= {"node": index + 1, "degree": index % 5}
            arrays = [pa.array(shapely.to_wkb(shapes), pa.binary())]
            arrays += [pa.array(columns[c.name], c.type, from_pandas=True) for c in layer.columns]
            yield pa.RecordBatch.from_arrays(arrays, schema=layer.arrow)

    return batches


def contents(count: int, crs: str | None = "EPSG:32633") -> Contents:
    layers = [LayerContent(layer, squares(count, layer), CLASSES) for layer in (LANDCOVER, ROAD_NODES)]
    return Contents(layers, crs, META, 0.5)


def test_names_follow_from_that_of_the_geopackage(tmp_path: Path) -> None:
    everything = destinations(tmp_path / "a.b.gpkg", list(FORMATS), ["buildings", "landcover"])
    assert {key: path.name for key, path in everything.items()} == {
        "vectors": "a.b.gpkg",
        "buildings_fgb": "a.b_buildings.fgb",
        "landcover_fgb": "a.b_landcover.fgb",
        "buildings_parquet": "a.b_buildings.parquet",
        "landcover_parquet": "a.b_landcover.parquet",
    }
    one = destinations(tmp_path / "x.fgb", ["fgb", "gpkg"], ["buildings"])
    assert {key: path.name for key, path in one.items()} == {"buildings_fgb": "x.fgb", "vectors": "x.gpkg"}


def test_every_format_holds_the_same(tmp_path: Path) -> None:
    count = 730
    counts, files = write(tmp_path / "town.gpkg", list(FORMATS), contents(count))
    assert counts == {"landcover": count, "road_nodes": count}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in files.values())
    for layer in ("landcover", "road_nodes"):
        whole = pyogrio.read_dataframe(files["vectors"], layer=layer, fid_as_index=True).reset_index()
        assert whole["fid"].tolist() == list(range(1, count + 1))
        streamed = pyogrio.read_dataframe(files[f"{layer}_fgb"]).sort_values("fid", ignore_index=True)
        columns = geopandas.read_parquet(files[f"{layer}_parquet"])
        assert columns["fid"].tolist() == whole["fid"].tolist()
        for other in (streamed, columns):
            assert sorted(other.columns) == sorted(whole.columns)
            assert other.crs == whole.crs == CRS("EPSG:32633")
            assert other.geometry.geom_equals_exact(whole.geometry, 0).all()
            for name in (column for column in whole.columns if column != "geometry"):
                assert np.array_equal(
                    other[name].to_numpy(), whole[name].to_numpy(), equal_nan=whole[name].dtype.kind == "f"
                ), name


def test_flatgeobuf_is_indexed_and_says_what_it_is(tmp_path: Path) -> None:
    _, files = write(tmp_path / "town.gpkg", ["fgb"], contents(400))
    info = pyogrio.read_info(files["landcover_fgb"])
    assert info["features"] == 400
    assert info["capabilities"]["fast_spatial_filter"] == 1
    assert info["layer_metadata"]["model"] == "test"
    assert (info["layer_name"], info["geometry_type"]) == ("landcover", "Polygon")
    few = pyogrio.read_dataframe(files["landcover_fgb"], bbox=(500003.2, 4999998.2, 500003.8, 4999998.8))
    assert few["fid"].tolist() == [2 * SIDE + 4]


def test_geoparquet_follows_its_specification(tmp_path: Path) -> None:
    _, files = write(tmp_path / "town.gpkg", ["parquet"], contents(400))
    file = pq.ParquetFile(files["landcover_parquet"])
    geo = json.loads(file.metadata.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert (column["encoding"], column["geometry_types"], column["edges"]) == ("WKB", ["Polygon"], "planar")
    assert CRS.from_json_dict(column["crs"]) == CRS("EPSG:32633")
    assert column["bbox"] == [500000.0, 4999987.0, 500030.0, 5000001.0]
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert file.metadata.metadata[b"geounet:model"] == b"test"
    assert b"area on the ground" in file.schema_arrow.field("area_m2").metadata[b"description"]
    # Row groups are the batches, and readers skip them by their boxes.
    assert file.metadata.num_row_groups == 8
    few = geopandas.read_parquet(files["landcover_parquet"], bbox=(500003.2, 4999998.2, 500003.8, 4999998.8))
    assert few["fid"].tolist() == [2 * SIDE + 4]


EQUAL_EARTH = "+proj=eqearth +lon_0=10 +datum=WGS84 +type=crs"  # no authority has it


@pytest.mark.parametrize("crs", [None, "EPSG:4326", "EPSG:2263", EQUAL_EARTH])
def test_empty_layers_and_other_systems(crs: str | None, tmp_path: Path) -> None:
    for count in (0, 3):
        folder = tmp_path / str(count)
        _, files = write(folder / "x.gpkg", list(FORMATS), contents(count, crs))
        for name, path in files.items():
            if path.suffix == ".parquet":
                frame = geopandas.read_parquet(path)
            else:
                frame = pyogrio.read_dataframe(path, layer="landcover" if name == "vectors" else None)
            assert len(frame) == count
            if crs is not None:
                assert frame.crs == CRS(crs)
            elif path.suffix == ".gpkg":
                assert not frame.crs.is_geographic  # "Undefined Cartesian SRS"
                assert not frame.crs.is_projected
            else:
                assert frame.crs is None


@pytest.mark.parametrize("name", list(FORMATS))
def test_files_are_complete_or_absent(name: str, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def failing() -> Iterator[pa.RecordBatch]:
        yield from squares(200)()
        raise Stopped

    good = contents(10)
    write(tmp_path / "x.gpkg", [name], good)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    bad = Contents([LayerContent(LANDCOVER, failing, CLASSES)], "EPSG:32633", META)
    with pytest.raises((Stopped, OSError, RuntimeError, pa.ArrowException, VectorError)):
        write(tmp_path / "x.gpkg", [name], bad)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_same_features_give_the_same_files(name: str, tmp_path: Path) -> None:
    def written(folder: str) -> dict[str, bytes]:
        _, files = write(tmp_path / folder / "x.gpkg", [name], contents(120))
        return {p.name: p.read_bytes() for p in files.values()}

    if name == "gpkg":
        dumps = []
        for folder in ("a", "b"):
            _, files = write(tmp_path / folder / "x.gpkg", [name], contents(120))
            with sqlite3.connect(f"file:{files['vectors']}?mode=ro", uri=True) as file:
                tables = [r[0] for r in file.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
                dumps.append({t: file.execute(f'SELECT * FROM "{t}"').fetchall() for t in tables})
        assert dumps[0] == dumps[1]
    else:
        assert written("a") == written("b")


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not have")
@pytest.mark.parametrize("name", ["a;b", "a!b", "a?", "d!r;/a!b;c", "a\nb"])
def test_names_that_pyogrio_takes_for_something_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    _, files = write(tmp_path / f"{name}.gpkg", list(FORMATS), contents(3))
    assert sorted(files.values()) == sorted(p for p in tmp_path.rglob("*") if p.is_file())
    for key, path in files.items():
        if path.suffix == ".parquet":
            assert pq.ParquetFile(path).metadata.num_rows == 3
            continue
        with readable(path) as file:
            assert len(pyogrio.read_dataframe(file, layer="landcover" if key == "vectors" else None)) == 3


@pytest.mark.parametrize(
    "error", [pyogrio.errors.FieldError("no such field"), sqlite3.DatabaseError("disk image is malformed")]
)
def test_what_drivers_say_is_one_error_of_ours(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(VectorError, match="cannot be written"), placed(tmp_path / "x.gpkg"):
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        sqlite3.OperationalError("database or disk is full"),
        pyogrio.errors.DataLayerError("Could not add feature to layer at index 7"),
    ],
)
def test_a_full_disk_is_no_fault_of_the_vectors(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geounet.raster.space.shutil.disk_usage", lambda _: SimpleNamespace(free=-1))
    with pytest.raises(OSError, match=r"No space left|quota") as found, placed(tmp_path / "x.gpkg"):
        raise error
    assert found.value.errno == (errno.EDQUOT if isinstance(error, OSError) else errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []


ON_A_SMALL_DISK = """
import sys
from pathlib import Path
from geounet.engine.pool import guarded
from geounet.vector.writer import write
from tests.unit.test_vector_writer import contents

small = Path(sys.argv[1])
print(*(guarded(write, (small / "x.gpkg", [name], contents(60_000))).kind for name in ("gpkg", "fgb", "parquet")))
print(*small.iterdir())
"""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=2m tmpfs "$1" && shift && exec "$@"'
    mount = ["unshare", "-rm", "sh", "-c", script, "-", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    command = [*mount, sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["disk"] * 3, done.stderr


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in FORMATS:
        with pytest.raises(VectorError, match=r"file.*cannot be made") as refused:
            write(tmp_path / "file" / "x.gpkg", [name], contents(3))
        assert "\n" not in str(refused.value)


def test_columns_say_what_they_mean(tmp_path: Path) -> None:
    _, files = write(tmp_path / "x.gpkg", ["gpkg"], contents(3))
    with sqlite3.connect(f"file:{files['vectors']}?mode=ro", uri=True) as file:
        rows = file.execute("SELECT table_name, column_name, title, description FROM gpkg_data_columns").fetchall()
        assert len(rows) == len(LANDCOVER.columns) + len(ROAD_NODES.columns)
        about = {(table, column): (title, text) for table, column, title, text in rows}
        # The R-tree holds what the layer holds.
        for layer in ("landcover", "road_nodes"):
            assert file.execute(f"SELECT rtreecheck('rtree_{layer}_geom')").fetchone() == ("ok",)
            assert file.execute(f"SELECT count(*) FROM rtree_{layer}_geom").fetchone() == (3,)
    assert about[("landcover", "area_m2")][0] == "area (m²)"
    assert "1: building" in about[("landcover", "class_id")][1]
    for layer in LAYERS:
        for column in layer.columns:
            assert column.alias
            assert ("m²)" in column.alias) == column.name.endswith("_m2")
