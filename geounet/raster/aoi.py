"""The area of interest: polygons of a vector file as validity on a scene's grid."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections import OrderedDict
from collections.abc import Callable
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
_PIECES, _MOST_PIECES = 64, 2**16
"""Straight lines of the area are cut into so many pieces over its extent, because they are curved in another CRS."""

_CHORD_PX = 0.02
"""How far the middle of a piece may lie beside its line, where the scene is."""

_SIDE = 33
"""Points per side of a grid over the scene that tell where it lies in the area's CRS."""

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


def _circle(crs: pyproj.CRS) -> float | None:
    """Return what a full circle of longitude measures in a CRS; None where there are no longitudes."""
    known = horizontal(crs)
    return round(2 * math.pi / known.axis_info[0].unit_conversion_factor, 6) if known.is_geographic else None


def _turned(shapes: Any, crs: str | None) -> Any:
    """Return polygons in a CRS of longitudes also a full circle to the west and to the east of where they are.

    A scene across the antimeridian goes on beyond 180°, an area there is in two parts, one on either side.
    """
    try:
        circle = None if crs is None else _circle(pyproj.CRS.from_user_input(crs))
    except CRSError:
        return shapes
    if circle is None:
        return shapes
    turned = [translate(shape, turn) for turn in (-circle, circle) for shape in shapes]
    return np.concatenate([shapes, np.array(turned, dtype=object)])


def _near(shapes: Any, crs: str, grid: NDArray[np.float64]) -> Any:
    """Return what of polygons lies around a scene: what is far away may have no place in its CRS.

    Parameters
    ----------
    shapes, crs
        Polygons and their CRS.
    grid
        The scene's points there, `(rows, cols, 2)`.
    """
    if not np.isfinite(grid).all():
        return shapes
    circle = _circle(pyproj.CRS.from_user_input(crs))
    if circle is not None:
        x = np.unwrap(np.unwrap(grid[..., 0], period=circle), axis=0, period=circle)
        if np.ptp(x) > circle / 2:  # around a pole
            return shapes
        grid, shapes = np.stack([x, grid[..., 1]], axis=-1), _turned(shapes, crs)
    (x0, y0), (x1, y1) = grid.min(axis=(0, 1)), grid.max(axis=(0, 1))
    beyond = max(x1 - x0, y1 - y0) / 8
    return _polygons(shapely.intersection(shapes, shapely.box(x0 - beyond, y0 - beyond, x1 + beyond, y1 + beyond)))


def _beside(shapes: Any, project: Callable[..., Any], to_pixels: Callable[..., Any], shape: tuple[int, int]) -> float:
    """Return how far the middle of a side of polygons lies beside where it belongs, px, at most in the scene."""
    points, rings = shapely.get_coordinates(shapely.get_rings(shapes), return_index=True)
    same = rings[1:] == rings[:-1]
    with np.errstate(invalid="ignore"):  # what is not finite is nowhere
        ends = to_pixels(project(points))
        middle = to_pixels(project((points[1:] + points[:-1]) / 2)) - (ends[1:] + ends[:-1]) / 2
        off = np.hypot(middle[:, 0], middle[:, 1])[:, None]
        low, high = np.minimum(ends[1:], ends[:-1]) - off, np.maximum(ends[1:], ends[:-1]) + off
    there = same & (low < shape[::-1]).all(axis=1) & (high > 0).all(axis=1)
    return float(off[there].max(initial=0))


def _cut(shapes: Any, project: Callable[..., Any], to_pixels: Callable[..., Any], shape: tuple[int, int]) -> Any:
    """Return polygons whose sides are short enough to stay straight in the scene's CRS."""
    west, south, east, north = shapely.total_bounds(shapes)
    pieces = _PIECES
    while True:
        cut = shapely.segmentize(shapes, max(east - west, north - south) / pieces)
        if pieces >= _MOST_PIECES or _beside(cut, project, to_pixels, shape) < _CHORD_PX:
            return cut
        pieces *= 4


def _to_scene(
    file: str, shapes: Any, crs: str | None, scene_crs: str | None, transform: Affine, shape: tuple[int, int]
) -> Any:
    if crs is None:
        return shapes
    if scene_crs is None:
        raise SceneError(f"{file}: the area of interest has a CRS, the scene has none; give the scene its CRS first")
    try:
        source, target = pyproj.CRS.from_user_input(crs), pyproj.CRS.from_wkt(scene_crs)
        if source.equals(target, ignore_axis_order=True):
            return shapes
        move = pyproj.Transformer.from_crs(source, target, always_xy=True)

        def project(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.column_stack(move.transform(points[:, 0], points[:, 1]))

        cols, rows = np.meshgrid(np.linspace(0, shape[1], _SIDE), np.linspace(0, shape[0], _SIDE))
        a, b, c, d, e, f, *_ = transform
        grid = move.transform(a * cols + b * rows + c, d * cols + e * rows + f, direction="INVERSE")
        shapes = _near(shapes, crs, np.stack(grid, axis=-1))
        if len(shapes) == 0:
            return shapes
        shapes = _cut(shapes, project, _pixels(transform), shape)
        moved = shapely.transform(shapes, project)
    except (ProjError, CRSError) as error:
        raise SceneError(f"{file}: cannot be transformed to the scene's CRS: {one_line(error)}") from None
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise SceneError(f"{file}: the area of interest reaches beyond where the scene's CRS is defined")
    return made_valid(moved)


def _pixels(transform: Affine) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    inverse = ~transform

    def to_pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points[:, 0], points[:, 1]
        return np.column_stack((inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f))

    return to_pixels


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
        shapes = _to_scene(file, shapes, crs, crs_wkt, transform, shape)
        shapes = _turned(shapes, crs_wkt)
        shapes = shapely.transform(shapes, _pixels(transform))
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
