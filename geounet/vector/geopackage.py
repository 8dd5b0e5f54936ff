"""Writing the GeoPackage: each layer once, in batches, with its index and style; the name appears when all is there."""

from __future__ import annotations

import logging
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyogrio

from geounet.atomic import temporary_beside
from geounet.config.card import ClassInfo
from geounet.errors import VectorError
from geounet.vector.schema import GEOMETRY, Layer
from geounet.vector.styles import qml

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class LayerContent:
    """A layer, its features in order (`fid` counts from 1), and the classes it shows."""

    layer: Layer
    batches: Callable[[], Iterator[pa.RecordBatch]]
    classes: Sequence[ClassInfo]


def write(out: Path, layers: Sequence[LayerContent], crs: str | None, metadata: dict[str, str]) -> dict[str, int]:
    """Write a GeoPackage; returns the number of features of each layer.

    Parameters
    ----------
    out
        Its final name; what stood there is replaced.
    layers
        Written in this order; layers without features are there too.
    crs
        WKT or authority code; none: undefined Cartesian.
    metadata
        Of each layer. `date` (ISO 8601) is also the time stamp of what is in the file.

    Raises
    ------
    VectorError
        If the folder cannot be written to.
    """
    temporary = temporary_beside(out.with_suffix(".gpkg"))
    stamp = _stamp(metadata.get("date"))
    counts: dict[str, int] = {}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VectorError(f"{out}: its folder cannot be made ({error.strerror}); give another --out") from error
    try:
        with _configured(OGR_CURRENT_DATE=stamp):
            for content in layers:
                counts[content.layer.name] = _write_layer(temporary, content, crs, metadata)
        _write_styles(temporary, layers, stamp)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(out)
    except (OSError, sqlite3.OperationalError, pyogrio.errors.DataSourceError) as error:
        raise VectorError(f"{out}: the GeoPackage cannot be written ({error}); give a folder that can") from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
    return counts


def _stamp(date: str | None) -> str:
    try:
        moment = datetime.fromisoformat(date) if date else datetime.now(UTC)
    except ValueError as error:
        raise VectorError(f"metadata `date`: not an ISO 8601 date: {date!r}") from error
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


@contextmanager
def _configured(**options: str) -> Iterator[None]:
    before = {name: pyogrio.get_gdal_config_option(name) for name in options}
    pyogrio.set_gdal_config_options(options)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)


def _write_layer(path: Path, content: LayerContent, crs: str | None, metadata: dict[str, str]) -> int:
    layer, schema = content.layer, content.layer.arrow
    written = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal written
        for batch in content.batches():
            written += batch.num_rows
            # Columns come under the names of the schema; its field metadata says that `geom` is WKB.
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    options = {"GEOMETRY_NAME": GEOMETRY, "DESCRIPTION": layer.title, "SPATIAL_INDEX": "YES"}
    with warnings.catch_warnings():
        if crs is None:  # the user knows; "undefined Cartesian" says so in the file
            options["SRID"] = "-1"
            warnings.filterwarnings("ignore", message="'crs' was not provided")
        _stream(path, layer, pa.RecordBatchReader.from_batches(schema, counted()), crs, metadata, options)
    return written


def _stream(
    path: Path,
    layer: Layer,
    reader: pa.RecordBatchReader,
    crs: str | None,
    metadata: dict[str, str],
    options: dict[str, str],
) -> None:
    pyogrio.write_arrow(
        reader,
        path,
        layer=layer.name,
        driver="GPKG",
        geometry_name=GEOMETRY,
        geometry_type=layer.geometry,
        crs=crs,
        append=False,
        layer_metadata=metadata or None,
        dataset_options={"VERSION": VERSION},
        layer_options=options,
    )


def _write_styles(path: Path, layers: Sequence[LayerContent], stamp: str) -> None:
    connection = sqlite3.connect(path)
    try:
        with connection:
            connection.execute(LAYER_STYLES)
            connection.executemany(
                # QGIS looks for empty strings: with NULL it would not find the style.
                "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName,"
                " styleQML, styleSLD, useAsDefault, description, owner, update_time)"
                " VALUES ('', '', ?, ?, ?, ?, '', 1, ?, '', ?)",
                [(c.layer.name, GEOMETRY, c.layer.name, qml(c.layer, c.classes), c.layer.title, stamp) for c in layers],
            )
            connection.execute(
                "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change)"
                " VALUES ('layer_styles', 'attributes', 'layer_styles', 'Default styles', ?)",
                (stamp,),
            )
    finally:
        connection.close()
