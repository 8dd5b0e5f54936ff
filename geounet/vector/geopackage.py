"""GeoPackage 1.3: all layers in one file, each written once with its index, then styles, meanings and a project."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import pyogrio

from geounet.vector import project
from geounet.vector.content import Contents, LayerContent, placed
from geounet.vector.schema import GEOMETRY, Column
from geounet.vector.styles import qml, style

VERSION = "1.3"
"""GDAL writes 1.4 by itself, which QGIS 3.22 only supports in part."""

LAYER_STYLES = """
CREATE TABLE layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
  f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256),
  styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT,
  owner TEXT(30), ui TEXT(30), update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)
"""
"""As QGIS itself makes it."""

DATA_COLUMNS = """
CREATE TABLE IF NOT EXISTS gpkg_data_columns (
  table_name TEXT NOT NULL, column_name TEXT NOT NULL, name TEXT, title TEXT, description TEXT, mime_type TEXT,
  constraint_name TEXT,
  CONSTRAINT pk_gdc PRIMARY KEY (table_name, column_name), CONSTRAINT gdc_tn UNIQUE (table_name, name)
)
"""
DATA_CONSTRAINTS = """
CREATE TABLE IF NOT EXISTS gpkg_data_column_constraints (
  constraint_name TEXT NOT NULL, constraint_type TEXT NOT NULL, value TEXT, min NUMERIC, min_is_inclusive BOOLEAN,
  max NUMERIC, max_is_inclusive BOOLEAN, description TEXT,
  CONSTRAINT gdcc_ntv UNIQUE (constraint_name, constraint_type, value)
)
"""
"""The schema extension of OGC 12-128r17, tables 9 and 10."""


def write(out: Path, contents: Contents) -> dict[str, int]:
    """Write a GeoPackage; returns the number of features of each layer.

    Parameters
    ----------
    out
        Its final name; what stood there is replaced.
    contents
        Layers without features are there, too.

    Raises
    ------
    VectorError
        If the folder cannot be written to.
    """
    stamp = contents.stamp
    counts: dict[str, int] = {}
    with placed(out) as temporary:
        with _configured(OGR_CURRENT_DATE=stamp):
            for content in contents.layers:
                counts[content.layer.name] = _write_layer(temporary, content, contents)
        with closing(sqlite3.connect(temporary)) as connection, connection:
            _write_styles(connection, contents, stamp)
            _write_meanings(connection, contents)
            if contents.project is not None:
                project.store(connection, contents.project, contents, out.name, stamp)
    return counts


@contextmanager
def _configured(**options: str) -> Iterator[None]:
    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)


def _write_layer(path: Path, content: LayerContent, contents: Contents) -> int:
    layer, schema = content.layer, content.layer.arrow
    written = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal written
        for batch in content.batches():
            written += batch.num_rows
            # Columns come under the names of the schema; its field metadata says that `geom` is WKB.
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    # GDAL builds the index when all features are there.
    options = {"GEOMETRY_NAME": GEOMETRY, "DESCRIPTION": layer.title, "SPATIAL_INDEX": "YES"}
    with warnings.catch_warnings():
        if contents.crs is None:  # the user knows; "undefined Cartesian" says so in the file
            options["SRID"] = "-1"
            warnings.filterwarnings("ignore", message="'crs' was not provided")
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(schema, counted()),
            path,
            layer=layer.name,
            driver="GPKG",
            geometry_name=GEOMETRY,
            geometry_type=layer.geometry,
            crs=contents.crs,
            append=False,
            layer_metadata=contents.metadata or None,
            dataset_options={"VERSION": VERSION},
            layer_options=options,
        )
    return written


def _write_styles(connection: sqlite3.Connection, contents: Contents, stamp: str) -> None:
    connection.execute(LAYER_STYLES)
    connection.executemany(
        # QGIS looks for empty strings: with NULL it would not find the style.
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName,"
        " styleQML, styleSLD, useAsDefault, description, owner, update_time)"
        " VALUES ('', '', ?, ?, ?, ?, '', 1, ?, '', ?)",
        [(c.layer.name, GEOMETRY, c.layer.name, qml(c, contents.gsd), c.layer.title, stamp) for c in contents.layers],
    )
    connection.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change)"
        " VALUES ('layer_styles', 'attributes', 'layer_styles', 'Default styles', ?)",
        (stamp,),
    )


def _write_meanings(connection: sqlite3.Connection, contents: Contents) -> None:
    """Say what columns mean, for programs that know the schema extension.

    Values are named in the text and not as constraints: GDAL would hand columns with named values to data frames as
    categories of these names, and no longer as the codes that they are.
    """
    connection.execute(DATA_COLUMNS)
    connection.execute(DATA_CONSTRAINTS)
    connection.executemany(
        "INSERT INTO gpkg_extensions (table_name, column_name, extension_name, definition, scope)"
        " VALUES (?, NULL, 'gpkg_schema', 'http://www.geopackage.org/spec/#extension_schema', 'read-write')",
        [("gpkg_data_columns",), ("gpkg_data_column_constraints",)],
    )
    for content in contents.layers:
        named = style(content).values
        connection.executemany(
            "INSERT INTO gpkg_data_columns (table_name, column_name, title, description) VALUES (?, ?, ?, ?)",
            [
                (content.layer.name, c.name, c.alias, _meaning(c, named.get(c.name, c.values)))
                for c in content.layer.columns
            ],
        )


def _meaning(column: Column, values: Sequence[tuple[str, str]]) -> str:
    known = "; ".join(value if value == name else f"{value}: {name}" for value, name in values)
    return f"{column.about or column.alias} ({known})" if known else column.about or column.alias
