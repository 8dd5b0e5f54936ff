"""Vector files: their layers, and the features of one. GDAL reads all but GeoParquet, which wheels of it leave out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError

from geounet.raster.alias import readable
from geounet.raster.env import one_line

ENDINGS = frozenset({".gpkg", ".geojson", ".json", ".geojsonl", ".shp", ".fgb", ".parquet", ".kml", ".gml", ".zip"})
"""Endings of vector files."""

_POLYGONS, _LINES = {"Polygon", "MultiPolygon"}, {"LineString", "MultiLineString"}


class UnreadableError(Exception):
    """A vector file that cannot be read; in one line, without the file's name."""


class NoLayerError(UnreadableError):
    """A layer that a vector file does not have."""


class NoColumnError(UnreadableError):
    """An attribute that a layer does not have."""


@dataclass(frozen=True)
class Layer:
    """What a layer holds, as stored.

    Attributes
    ----------
    shapes
        Array `(n,)` of shapely geometries in two dimensions; some may be missing or empty.
    columns
        Arrays `(n,)` of the attributes that were asked for, by name.
    crs
        As text; none where the file tells none.
    """

    shapes: Any
    columns: dict[str, Any]
    crs: str | None


def made_valid(shapes: Any) -> Any:
    """Return geometries with valid areas: what two parts, or two turns of an outline, both cover is covered.

    By default GEOS makes a hole of it.
    """
    return shapely.make_valid(shapes, method="structure", keep_collapsed=False)


def layers_of(file: str | Path) -> dict[str, str]:
    """Return the spatial layers of a vector file with their geometry types, as GDAL calls them.

    Raises
    ------
    UnreadableError
        If it cannot be read.
    """
    path = Path(file)
    if _parquet(path):
        kinds = {kind.removesuffix(" Z") for kind in _geo(path)["columns"][_geometry(path)].get("geometry_types", ())}
        one = "Polygon" if kinds <= _POLYGONS else "LineString" if kinds <= _LINES else "Unknown"
        return {path.stem: one if kinds else "Unknown"}
    with _told(path, None) as name:
        return {str(layer): str(kind) for layer, kind in pyogrio.list_layers(name) if kind is not None}


def columns_of(file: str | Path, layer: str | None = None) -> list[str]:
    """Return the names of a layer's attributes, of the first one if none is named.

    Raises
    ------
    UnreadableError
        If it cannot be read.
    """
    path = Path(file)
    if _parquet(path):
        _only(path, layer)
        geometries = _geo(path)["columns"]
        return [name for name in _schema(path).names if name not in geometries]
    with _told(path, layer) as name:
        return [str(field) for field in pyogrio.read_info(name, layer=layer)["fields"]]


def read_layer(file: str | Path, layer: str | None = None, columns: Sequence[str] = ()) -> Layer:
    """Return the features of a layer, of the first one if none is named.

    Raises
    ------
    UnreadableError
        If it cannot be read.
    NoLayerError, NoColumnError
        If there is no such layer or attribute.
    """
    path = Path(file)
    if columns:
        known = columns_of(path, layer)
        for column in columns:
            if column not in known:
                raise NoColumnError(f"has no attribute {column!r}; it has {', '.join(known) or 'none'}")
    if _parquet(path):
        return _read_parquet(path, layer, columns)
    with _told(path, layer) as name:
        meta, _, wkb, found = pyogrio.raw.read(name, layer=layer, columns=list(columns), force_2d=True)
        shapes = shapely.from_wkb(wkb) if wkb is not None else np.array([], dtype=object)
    names = [str(field) for field in meta["fields"]]
    return Layer(shapes, dict(zip(names, found, strict=True)), meta.get("crs"))


@contextmanager
def _told(path: Path, layer: str | None) -> Iterator[Path]:
    """Yield a name that GDAL takes; say in our words what it raises."""
    if not path.is_file():
        raise UnreadableError("no such file")
    with readable(path) as name:
        try:
            yield name
        except DataLayerError:
            names = ", ".join(str(found) for found, _ in pyogrio.list_layers(name))
            raise NoLayerError(f"has no layer {layer!r}; it has {names or 'none'}") from None
        except (DataSourceError, shapely.GEOSException) as error:
            raise UnreadableError(f"not a vector file that can be read: {one_line(error)}") from None


def _parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _schema(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UnreadableError("no such file")
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(f"not a Parquet file that can be read: {one_line(error)}") from None


def _geo(path: Path) -> dict[str, Any]:
    """Return GeoParquet's own metadata."""
    found = (_schema(path).metadata or {}).get(b"geo")
    if found is None:
        raise UnreadableError("a Parquet file without geometries; expected GeoParquet, with the metadata `geo`")
    try:
        meta: dict[str, Any] = json.loads(found)
        meta["columns"][meta["primary_column"]]
    except (ValueError, KeyError, TypeError):
        raise UnreadableError("its metadata `geo` is not GeoParquet's") from None
    return meta


def _geometry(path: Path) -> str:
    return str(_geo(path)["primary_column"])


def _only(path: Path, layer: str | None) -> None:
    if layer is not None and layer != path.stem:
        raise NoLayerError(f"has no layer {layer!r}; it has {path.stem}")


def _read_parquet(path: Path, layer: str | None, columns: Sequence[str]) -> Layer:
    import geopandas
    import pyarrow as pa

    _only(path, layer)
    geometry = _geometry(path)
    try:
        frame = geopandas.read_parquet(path, columns=[*columns, geometry])
    except (pa.ArrowException, shapely.GEOSException, OSError, ValueError) as error:
        raise UnreadableError(f"not a GeoParquet file that can be read: {one_line(error)}") from None
    shapes = shapely.force_2d(frame[geometry].to_numpy())
    crs = None if frame.crs is None else str(frame.crs.to_wkt())
    return Layer(shapes, {column: frame[column].to_numpy() for column in columns}, crs)
