"""The area of interest: polygons of a vector file as validity on a scene's grid."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from pyproj.exceptions import CRSError, ProjError
from rasterio.features import geometry_mask
from shapely.affinity import translate

from geounet.errors import SceneError
from geounet.raster.env import one_line
from geounet.raster.georef import horizontal
from geounet.raster.vectors import UnreadableError, layers_of, made_valid, read_layer
from geounet.types import Rect

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 1024
_BLOCKS_KEPT = 64
_PIECES = 64
"""Straight lines of the area are cut into this many pieces over its extent, because they are curved in another CRS."""


_NO_AREAS = ("Point", "LineString")


def _load(file: str) -> tuple[Any, str | None]:
    """Return the polygons of the one layer that has any, and their CRS."""
    if not Path(file).is_file():
        raise SceneError(f"{file}: no such file for the area of interest")
    found: dict[str, tuple[Any, str | None]] = {}
    try:
        for layer, kind in layers_of(file).items():
            if any(word in kind for word in _NO_AREAS):
                continue
            held = read_layer(file, layer)
            shapes = _polygons(held.shapes)
            if len(shapes):
                found[layer] = shapes, held.crs
    except UnreadableError as error:
        raise SceneError(f"{file}: {error}") from None
    if not found:
        raise SceneError(f"{file}: holds no polygons; the area of interest must be one or more polygons")
    if len(found) > 1:
        raise SceneError(
            f"{file}: has {len(found)} layers of polygons ({', '.join(found)}); the area of interest must be one: "
            f"ogr2ogr area.gpkg {shlex.quote(file)} LAYER"
        )
    return next(iter(found.values()))


def _polygons(shapes: Any) -> Any:
    """Return the valid polygons of geometries."""
    shapes = made_valid(shapes[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))])
    shapes = shapely.get_parts(shapes)
    return shapes[np.isin(shapely.get_type_id(shapes), (3, 6))]


def _turned(shapes: Any, crs: str | None) -> Any:
    """Return polygons in a CRS of longitudes also a full circle to the west and to the east of where they are.

    A scene across the antimeridian goes on beyond 180°, an area there is in two parts, one on either side.
    """
    try:
        known = None if crs is None else horizontal(pyproj.CRS.from_wkt(crs))
    except CRSError:
        return shapes
    if known is None or not known.is_geographic:
        return shapes
    circle = round(2 * math.pi / known.axis_info[0].unit_conversion_factor, 6)
    turned = [translate(shape, turn) for turn in (-circle, circle) for shape in shapes]
    return np.concatenate([shapes, np.array(turned, dtype=object)])


def _to_scene(file: str, shapes: Any, crs: str | None, scene_crs: str | None) -> Any:
    if crs is None:
        return shapes
    if scene_crs is None:
        raise SceneError(f"{file}: the area of interest has a CRS, the scene has none; give the scene its CRS first")
    try:
        source, target = pyproj.CRS.from_user_input(crs), pyproj.CRS.from_wkt(scene_crs)
        if source.equals(target, ignore_axis_order=True):
            return shapes
        move = pyproj.Transformer.from_crs(source, target, always_xy=True)
        west, south, east, north = shapely.total_bounds(shapes)
        shapes = shapely.segmentize(shapes, max(east - west, north - south) / _PIECES)

        def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.column_stack(move.transform(points[:, 0], points[:, 1]))

        moved = shapely.transform(shapes, project)
    except (ProjError, CRSError) as error:
        raise SceneError(f"{file}: cannot be transformed to the scene's CRS: {one_line(error)}") from None
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise SceneError(f"{file}: the area of interest reaches beyond where the scene's CRS is defined")
    return made_valid(moved)


class Area:
    """Where pixel centres lie inside the area of interest.

    The area is rasterized in fixed blocks of the file's grid, so that it does not depend on the window read.

    Parameters
    ----------
    file : str
        Vector file with one layer of polygons. Without a CRS of its own it is taken to be in the scene's.
    crs_wkt : str or None
        CRS of the scene.
    transform : Affine
        From pixels of the scene's file to its CRS.
    shape : tuple of int
        `(rows, cols)` of the file's grid.
    of : str
        What messages call the scene.

    Raises
    ------
    SceneError
        If it cannot be read, holds no polygons, or does not meet the scene.
    """

    def __init__(
        self, file: str, crs_wkt: str | None, transform: Affine, shape: tuple[int, int], of: str = "the scene"
    ) -> None:
        shapes, crs = _load(file)
        shapes = _to_scene(file, shapes, crs, crs_wkt)
        shapes = _turned(shapes, crs_wkt)
        inverse = ~transform

        def to_pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = points[:, 0], points[:, 1]
            return np.column_stack(
                (inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f)
            )

        shapes = shapely.transform(shapes, to_pixels)
        frame = shapely.box(0, 0, shape[1], shape[0])
        shapes = shapes[shapely.intersects(shapes, frame)]
        if len(shapes) == 0:
            raise SceneError(f"{of}: lies outside the area of interest {file}")
        self.named_crs = crs is not None
        self.fingerprint = hashlib.sha256(b"".join(shapely.to_wkb(shapes))).hexdigest()
        self._shapes = shapes
        self._tree = shapely.STRtree(shapes)
        self._shape = shape
        self._blocks: OrderedDict[tuple[int, int], NDArray[np.bool_]] = OrderedDict()

    def _block(self, row: int, col: int) -> NDArray[np.bool_]:
        key = (row, col)
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        y, x = row * _BLOCK, col * _BLOCK
        rows, cols = min(_BLOCK, self._shape[0] - y), min(_BLOCK, self._shape[1] - x)
        frame = shapely.box(x, y, x + cols, y + rows)
        shapes = self._shapes[self._tree.query(frame)]
        if len(shapes) == 0:
            inside = np.zeros((rows, cols), dtype=bool)
        elif shapely.contains_properly(shapes, frame).any():
            inside = np.ones((rows, cols), dtype=bool)
        else:
            inside = geometry_mask(shapes, (rows, cols), Affine.translation(x, y), invert=True)
        self._blocks[key] = inside
        if len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return inside

    def read(self, rect: Rect) -> NDArray[np.bool_]:
        """Return where pixel centres lie inside, bool `(rows, cols)`, for a rectangle of the file's grid."""
        out = np.empty(rect.shape, dtype=bool)
        for row in range(rect.y0 // _BLOCK, (rect.y1 - 1) // _BLOCK + 1):
            for col in range(rect.x0 // _BLOCK, (rect.x1 - 1) // _BLOCK + 1):
                block = self._block(row, col)
                whole = Rect(row * _BLOCK, col * _BLOCK, row * _BLOCK + block.shape[0], col * _BLOCK + block.shape[1])
                part = whole.intersection(rect)
                out[part.slices_in(rect)] = block[part.slices_in(whole)]
        return out
