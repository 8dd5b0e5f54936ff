"""Vector layers of a preview: read in batches, moved to picture pixels, and only as many as a picture can show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyogrio
import pyogrio.raw
import shapely
from affine import Affine
from matplotlib.path import Path as Outline

from geounet.raster.alias import readable
from geounet.types import Rect

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geounet.raster.scene import SceneInfo

LIMIT = 40_000
"""Features of a layer that are drawn at most; of more, the largest are chosen: the others are below a pixel."""

_BATCH = 4096
_BEYOND = 16
"""Pixels around the picture that outlines may reach into: their cut edges must not show."""

_SIMPLIFY_ABOVE = 40
"""Geometries with more vertices are simplified to `_TOLERANCE` before they are drawn."""
_TOLERANCE = 0.35
_SIZES = {"buildings": "area_m2", "landcover": "area_m2", "road_edges": "length_m"}
"""Column by which the largest features of a layer are chosen."""


class LayerInfo(NamedTuple):
    """A layer of a GeoPackage."""

    gpkg: Path
    name: str
    features: int
    geometry: str
    """`polygon`, `line` or `point`."""
    fields: tuple[str, ...]
    fid: str
    """Column of the feature number."""
    size: str | None
    """Column by which the largest features can be chosen; none where there is none, or it is NULL for want of a CRS."""

    @property
    def note(self) -> str:
        """What a picture of the whole layer leaves out; empty where it shows all."""
        if self.features <= LIMIT:
            return ""
        return f"largest {LIMIT:,} drawn" if self.size else f"1 in {self._step:,} drawn"

    @property
    def _step(self) -> int:
        return -(-self.features // LIMIT)

    @property
    def query(self) -> str | None:
        """SQL that chooses the features to draw of the whole layer, the same every time; none where it is all."""
        if self.features <= LIMIT:
            return None
        table, fid = _quoted(self.name), _quoted(self.fid)
        if self.size is None:
            return f"SELECT * FROM {table} WHERE {fid} % {self._step} = 1 ORDER BY {fid}"  # noqa: S608
        return f"SELECT * FROM {table} ORDER BY {_quoted(self.size)} DESC, {fid} LIMIT {LIMIT}"  # noqa: S608


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class Batch(NamedTuple):
    """Features of one layer and one class, ready to be drawn in picture pixels (x right, y down)."""

    label: str
    """The class; empty where the layer has none."""
    outline: Outline
    """One path over all features; holes run against their exteriors."""


def layers(gpkg: Path, info: SceneInfo) -> list[LayerInfo]:
    """Return the spatial layers of a scene's GeoPackage.

    Raises
    ------
    pyogrio.errors.DataSourceError
        If it cannot be read.
    """
    found = []
    with readable(gpkg) as file:
        kinds = [(str(name), str(kind)) for name, kind in pyogrio.list_layers(file) if kind is not None]  # no styles
        known = [pyogrio.read_info(file, layer=name, force_feature_count=True) for name, _ in kinds]
    for (name, kind), about in zip(kinds, known, strict=True):
        fields = tuple(str(f) for f in about["fields"])
        geometry = "polygon" if "Polygon" in kind else "line" if "Line" in kind else "point"
        size = _SIZES.get(name)
        size = size if size in fields and info.crs_wkt else None
        fid = about["fid_column"] or "fid"
        found.append(LayerInfo(gpkg, name, int(about["features"]), geometry, fields, fid, size))
    return found


def batches(layer: LayerInfo, info: SceneInfo, rect: Rect, shape: tuple[int, int]) -> Iterator[Batch]:
    """Yield what is to be drawn of a layer.

    Parameters
    ----------
    layer
        A layer of a GeoPackage.
    info
        The scene, whose CRS and grid the layer is in.
    rect
        The part of the grid that the picture shows.
    shape
        `(rows, cols)` of the picture.

    Raises
    ------
    pyogrio.errors.DataSourceError
        If the GeoPackage cannot be read.
    """
    columns = [c for c in ("class",) if c in layer.fields]
    options: dict[str, object] = {"layer": layer.name}
    if rect.shape != (info.height, info.width):
        options["bbox"] = _bounds(info, rect)
    elif layer.query:
        options = {"sql": layer.query}
    inverse = Affine.scale(shape[1] / rect.cols, shape[0] / rect.rows)
    inverse = inverse @ Affine.translation(-rect.x0, -rect.y0) @ ~Affine(*info.transform)
    left = LIMIT
    with (
        readable(layer.gpkg) as file,
        pyogrio.raw.open_arrow(file, columns=columns, batch_size=_BATCH, use_pyarrow=True, **options) as (meta, reader),
    ):
        column = meta["geometry_name"] or "wkb_geometry"
        for table in reader:
            geometries = shapely.from_wkb(table.column(column).to_numpy(zero_copy_only=False))[:left]
            left -= len(geometries)
            labels = np.full(len(geometries), "", dtype=object)
            if columns:
                labels = np.array([v or "" for v in table.column("class").to_pylist()], dtype=object)[: len(geometries)]
            moved = _moved(geometries, inverse)
            if layer.geometry != "point":
                # What lies outside is cut off here: matplotlib's own clipping draws a stray line across the picture.
                moved = shapely.clip_by_rect(moved, -_BEYOND, -_BEYOND, shape[1] + _BEYOND, shape[0] + _BEYOND)
            for label in sorted(set(labels.tolist())):
                outline = _outline(moved[labels == label], layer.geometry)
                if outline is not None:
                    yield Batch(str(label), outline)
            if left <= 0:
                return


def _bounds(info: SceneInfo, rect: Rect) -> tuple[float, float, float, float]:
    """Return the box around a part of the grid in the scene's CRS."""
    a, b, c, d, e, f = info.transform
    cols, rows = np.array([rect.x0, rect.x1, rect.x1, rect.x0]), np.array([rect.y0, rect.y0, rect.y1, rect.y1])
    x, y = a * cols + b * rows + c, d * cols + e * rows + f
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _moved(geometries: NDArray[np.object_], affine: Affine) -> NDArray[np.object_]:
    """Return geometries in picture pixels, without detail that no pixel shows."""
    matrix = np.array([[affine.a, affine.d], [affine.b, affine.e]])
    offset = np.array([affine.c, affine.f])
    moved: NDArray[np.object_] = shapely.transform(geometries, lambda xy: xy @ matrix + offset)
    large = shapely.get_num_coordinates(moved) > _SIMPLIFY_ABOVE
    moved[large] = shapely.simplify(moved[large], _TOLERANCE, preserve_topology=False)
    return moved


def _outline(geometries: NDArray[np.object_], kind: str) -> Outline | None:
    """Return one path over polygons, lines or points; none where they hold no vertex."""
    parts = shapely.get_parts(geometries[~(shapely.is_missing(geometries) | shapely.is_empty(geometries))])
    if kind == "polygon":
        # Simplification may leave lines behind.
        parts = shapely.get_rings(shapely.orient_polygons(parts[shapely.get_type_id(parts) == 3]))
    xy, index = shapely.get_coordinates(parts, return_index=True)
    if len(xy) == 0:
        return None
    codes = np.full(len(xy), Outline.LINETO, dtype=Outline.code_type)
    first = np.concatenate([[True], index[1:] != index[:-1]])
    codes[first] = Outline.MOVETO
    if kind == "polygon":
        codes[np.concatenate([first[1:], [True]])] = Outline.CLOSEPOLY
    return Outline(xy, codes)
