"""Polygons and lines: from vector files and class rasters, and which part of them lies where something is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize
from rasterio.features import shapes as outlines

from geounet.config.job import Roads
from geounet.errors import VectorError
from geounet.evaluation.confusion import I64
from geounet.evaluation.matching import Bools, Geometries
from geounet.labels.frames import on_earth
from geounet.raster import vectors
from geounet.types import Rect
from geounet.vector import polygons, skeleton
from geounet.vector.attributes import Ground
from geounet.vector.build import SerialExecutor
from geounet.vector.cells import CellGrid
from geounet.vector.features import to_shapely
from geounet.vector.request import DEFAULT_CELL
from geounet.vector.roads import roads
from geounet.vector.source import Plane

AREAS, LINES = (3, 6), (1, 5)
"""Type numbers of shapely: polygons, lines; the second of each is the multi-part one."""

_POLYGONS = 20_000
"""Polygons whose neighbours are looked for at once."""


def layers_of(path: Path) -> dict[str, str]:
    """Return the spatial layers of a vector file with their geometry types, as GDAL calls them.

    Raises
    ------
    VectorError
        If it cannot be read.
    """
    try:
        return vectors.layers_of(path)
    except vectors.UnreadableError as error:
        raise VectorError(f"{path}: {error}") from None


def read_shapes(path: Path, layer: str) -> tuple[Geometries, str | None]:
    """Return the geometries of a layer, none missing or empty, and its CRS.

    Raises
    ------
    VectorError
        If it cannot be read.
    """
    try:
        found = vectors.read_layer(path, layer)
    except vectors.UnreadableError as error:
        raise VectorError(f"{path}: layer {layer} cannot be read: {error}") from None
    shapes = np.asarray(found.shapes, dtype=object)
    return shapes[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))], on_earth(found.crs)


def parts(shapes: Geometries, kinds: tuple[int, ...]) -> Geometries:
    """Return the single polygons or lines of geometries, made valid; what has no extent is left out."""
    if not len(shapes):
        return np.empty(0, dtype=object)
    broken = np.isin(shapely.get_type_id(shapes), AREAS) & ~shapely.is_valid(shapes)
    if broken.any():
        shapes = shapes.copy()
        shapes[broken] = vectors.made_valid(shapes[broken])
    # A collection may hold collections.
    single = shapely.get_parts(shapely.get_parts(shapes))
    single = single[np.isin(shapely.get_type_id(single), kinds)]
    size = shapely.area(single) if kinds == AREAS else shapely.length(single)
    return np.asarray(single[size > 0])


def polygonized(plane: Plane, shape: tuple[int, int], folder: Path, name: str) -> Geometries:
    """Return the 4-connected areas of a plane that are 1, as polygons in pixels (x: columns, y: rows)."""
    stage = polygons.Stage(plane, None, CellGrid(*shape, DEFAULT_CELL), str(folder), name)
    traced = polygons.polygonize(stage, SerialExecutor())
    found = [
        to_shapely(part.coords, part.rings, part.shells)[part.value == 1]
        for part in polygons.all_polygons(stage, traced)
        if len(part)
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=object)


def skeletonized(plane: Plane, ground: Ground, folder: Path, name: str) -> Geometries:
    """Return the centre lines of the areas of a plane that are 1, in map coordinates, as `geounet run` makes them.

    Gaps are bridged over what is known to be none of it: 0, and not 255.
    """
    stage = skeleton.Stage(plane, None, CellGrid(ground.rows, ground.cols, DEFAULT_CELL), str(folder), name)
    made = roads(stage, SerialExecutor(), ground, Roads())
    return np.asarray(shapely.from_wkb(made.edges.column("geom").to_numpy(zero_copy_only=False)), dtype=object)


class Coverage:
    """Which share of each polygon lies where something is known, counted in pixels window by window.

    Each polygon counts on its own, whatever else lies there and in which order.

    Parameters
    ----------
    shapes
        Polygons in pixels.
    """

    def __init__(self, shapes: Geometries) -> None:
        self._shapes = shapes
        self._tree = shapely.STRtree(shapes)
        self._sheets = _sheets(shapes, self._tree)
        self._all, self._known = np.zeros(len(shapes), dtype=np.int64), np.zeros(len(shapes), dtype=np.int64)

    def add(self, rect: Rect, known: Bools) -> None:
        """Count the pixels of a window; `known` is `(rows, cols)`."""
        near = np.sort(self._tree.query(shapely.box(rect.x0, rect.y0, rect.x1, rect.y1)))
        sheets = self._sheets[near]
        for sheet in np.unique(sheets):
            self._burn(near[sheets == sheet], rect, known)
        # One too small to hold the centre of a pixel counts with the pixel it lies in.
        for k in near[shapely.area(self._shapes[near]) < 2.0].tolist():
            if not self._all[k]:
                point = shapely.point_on_surface(self._shapes[k])
                y, x = int(point.y) - rect.y0, int(point.x) - rect.x0
                if 0 <= y < rect.rows and 0 <= x < rect.cols:
                    self._all[k], self._known[k] = 1, int(known[y, x])

    def _burn(self, places: I64, rect: Rect, known: Bools) -> None:
        """Count the pixels of polygons that do not overlap, in the part of a window that they lie in."""
        shapes = self._shapes[places]
        x0, y0, x1, y1 = shapely.total_bounds(shapes)
        part = rect.intersection(Rect(math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1)))
        if part.empty:
            return
        numbered = zip(shapes, range(1, len(places) + 1), strict=True)
        burnt = rasterize(numbered, out_shape=part.shape, transform=Affine.translation(part.x0, part.y0), dtype="int32")
        self._all[places] += np.bincount(burnt.ravel(), minlength=len(places) + 1)[1:]
        self._known[places] += np.bincount(burnt[known[part.slices_in(rect)]], minlength=len(places) + 1)[1:]

    def counts(self) -> Bools:
        """Return which polygons lie by at least half where something is known.

        Their pixels outside of all windows count as unknown, to the area of the polygon.
        """
        whole = np.maximum(self._all, shapely.area(self._shapes) * 0.95)
        return np.asarray((self._known > 0) & (2 * self._known >= whole))


def _sheets(shapes: Geometries, tree: shapely.STRtree) -> I64:
    """Return a sheet for each polygon, as few as a pass through them needs for those of one not to meet, `(n,)`."""
    found = np.zeros(len(shapes), dtype=np.int64)
    for low in range(0, len(shapes), _POLYGONS):
        later, earlier = tree.query(shapes[low : low + _POLYGONS], predicate="intersects")
        later += low
        before = earlier < later
        later, earlier = later[before], earlier[before]
        order = np.argsort(later, kind="stable")
        ones, starts = np.unique(later[order], return_index=True)
        for one, others in zip(ones.tolist(), np.split(earlier[order], starts[1:]), strict=False):
            used = set(found[others].tolist())
            found[one] = next(sheet for sheet in range(len(used) + 1) if sheet not in used)
    return found


class Clipped:
    """The parts of lines that lie where something is known, put together window by window.

    Parameters
    ----------
    lines
        LineStrings in pixels.
    """

    def __init__(self, lines: Geometries) -> None:
        self._lines = lines
        self._tree = shapely.STRtree(lines)
        self._found: list[Geometries] = []

    def add(self, rect: Rect, known: Bools) -> None:
        """Take the parts in a window; `known` is `(rows, cols)`."""
        box = shapely.box(rect.x0, rect.y0, rect.x1, rect.y1)
        near = self._lines[np.sort(self._tree.query(box, predicate="intersects"))]
        if not len(near) or not known.any():
            return
        area: Any = box
        if not known.all():
            pieces = outlines(known.astype(np.uint8), mask=known, transform=Affine.translation(rect.x0, rect.y0))
            area = shapely.union_all([shapely.geometry.shape(piece) for piece, _ in pieces])
        shapely.prepare(area)
        inside = shapely.contains_properly(area, near)
        cut = shapely.intersection(near[~inside], area)
        self._found.append(np.concatenate([near[inside], parts(cut, LINES)]))

    def lines(self) -> Geometries:
        """Return the parts; they share their ends at the edges of windows."""
        return np.concatenate(self._found) if self._found else np.empty(0, dtype=object)


class Trimmed:
    """The parts of polygons that lie within a scene, where something was predicted.

    Only what crosses an edge is cut, at the edge of all its gaps at once, so that windows leave no trace.

    Parameters
    ----------
    shapes
        Polygons in pixels.
    zone
        What counts of the scene, in pixels; none: everything.
    least
        Area of the smallest part, in pixels; of each polygon the largest part is one whatever its size.
    """

    def __init__(self, shapes: Geometries, zone: Any, least: float) -> None:
        self._shapes, self._zone, self._least = shapes, zone, least
        self._tree = shapely.STRtree(shapes)
        self._gaps: dict[int, list[Any]] = {}

    def add(self, rect: Rect, predicted: Bools) -> None:
        """Note where nothing was predicted in a window; `predicted` is `(rows, cols)`."""
        if predicted.all() or not len(self._tree.query(shapely.box(rect.x0, rect.y0, rect.x1, rect.y1))):
            return
        where = Affine.translation(rect.x0, rect.y0)
        found = outlines((~predicted).astype(np.uint8), mask=~predicted, transform=where)
        gaps = np.array([shapely.geometry.shape(gap) for gap, _ in found], dtype=object)
        one, other = self._tree.query(gaps, predicate="intersects")
        meet = shapely.area(shapely.intersection(gaps[one], _areas(self._shapes[other]))) > 0
        for gap, place in zip(gaps[one[meet]], other[meet].tolist(), strict=True):
            x0, y0, x1, y1 = shapely.bounds(self._shapes[place])
            around = shapely.box(x0 - 1, y0 - 1, x1 + 1, y1 + 1)
            self._gaps.setdefault(place, []).append(shapely.intersection(gap, around))

    def polygons(self) -> tuple[Geometries, I64, Bools]:
        """Return the parts, which polygon each is of, and whether it is the polygon as it was."""
        shapes = self._shapes.copy()
        whole = np.ones(len(shapes), dtype=np.bool_)
        if self._zone is not None:
            shapely.prepare(self._zone)
            whole = shapely.covers(self._zone, shapes)
            shapes[~whole] = shapely.intersection(_areas(shapes[~whole]), self._zone)
        holed = np.array(sorted(self._gaps), dtype=np.int64)
        gaps = [shapely.union_all(_areas(np.array(self._gaps[place], dtype=object))) for place in holed.tolist()]
        shapes[holed] = shapely.difference(_areas(shapes[holed]), np.array(gaps, dtype=object))
        whole[holed] = False
        # Where edges of windows met those of gaps there are vertices on straight lines; a normal ring begins at none,
        # but parts are sorted by all of them.
        simple = shapely.simplify(shapely.normalize(_areas(shapes[~whole])), 0)
        shapes[~whole] = shapely.normalize(simple)
        single, place = shapely.get_parts(shapes, return_index=True)
        size = np.where(shapely.get_type_id(single) == AREAS[0], shapely.area(single), 0.0)
        largest = np.zeros(len(shapes))
        np.maximum.at(largest, place, size)
        kept = (size > 0) & ((size >= self._least) | (size == largest[place]))
        return np.asarray(single[kept]), place[kept], whole[place[kept]]


def _areas(shapes: Geometries) -> Geometries:
    """Return the areas alone of geometries, valid: what is moved to another CRS may meet itself."""
    broken = ~(shapely.is_valid(shapes) & np.isin(shapely.get_type_id(shapes), AREAS))
    if broken.any():
        shapes = shapes.copy()
        for place in np.flatnonzero(broken).tolist():
            shapes[place] = shapely.multipolygons(parts(shapes[place : place + 1], AREAS))
    return shapes


def within(shapes: Geometries, area: Any) -> Bools:
    """Return which polygons lie by at least half in an area."""
    shapely.prepare(area)
    found = shapely.contains(area, shapes)
    rest = np.flatnonzero(~found & shapely.intersects(area, shapes))
    found[rest] = 2 * shapely.area(shapely.intersection(shapes[rest], area)) >= shapely.area(shapes[rest])
    return np.asarray(found)
