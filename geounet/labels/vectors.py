"""Vector labels: polygons burnt, lines and points with a width on the ground, contacts between buildings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from geounet.config.card import Kind, kind_of
from geounet.config.data import Contact, Labels, Not
from geounet.errors import LabelError
from geounet.labels.frames import Frame, crs_name, mover, on_earth
from geounet.labels.values import IGNORED, value_of
from geounet.raster.vectors import UnreadableError, made_valid, read_layer
from geounet.types import Rect

UNKNOWN = -1
"""What a layer says of pixels that it does not know."""

_SIBLINGS = (".dbf", ".shx", ".prj", ".cpg")
"""Endings of the other files of a shapefile."""

_PIECES = 64
_POINT, _LINE, _AREA = {0, 4}, {1, 2, 5}, {3, 6}

_MOST = 0.5
"""Share of a building in another above which it is the same one, or part of it."""


@dataclass(frozen=True)
class Features:
    """The features of a vector layer, in its own CRS.

    Attributes
    ----------
    file : str
    shapes : array of shapely geometry (n,)
    values : int16 array (n,)
        Label of each.
    widths : float array (n,)
        Metres, of lines and points; NaN for areas.
    crs : str or None
    """

    file: str
    shapes: Any
    values: NDArray[np.int16]
    widths: NDArray[np.float64]
    crs: str | None

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax in their CRS."""
        x0, y0, x1, y1 = (float(v) for v in shapely.total_bounds(self.shapes))
        # a lone point or straight line still covers ground
        return x0, y0, np.nextafter(x1, np.inf), np.nextafter(y1, np.inf)


def _state(file: str) -> tuple[tuple[int, int], ...]:
    """Return modification times in nanoseconds and sizes in bytes of a vector file and what belongs to it.

    Raises
    ------
    LabelError
        If there is no such file.
    """
    path = Path(file)
    if not path.is_file():
        raise LabelError(f"{file}: no such file")
    siblings = [path.with_suffix(ending) for ending in _SIBLINGS] if path.suffix.lower() == ".shp" else []
    stats = [path.stat() for path in (path, *siblings) if path.is_file()]
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)


@lru_cache(maxsize=4)  # whole layers: as many as take turns when scene after scene asks for its labels
def _table(
    file: str, layer: str | None, columns: tuple[str, ...], state: tuple[tuple[int, int], ...]
) -> tuple[Any, dict[str, Any], str | None]:
    """Return geometries, columns and CRS of a vector layer; `state` tells a file that was written anew."""
    try:
        found = read_layer(file, layer, columns)
    except UnreadableError as error:
        raise LabelError(f"{file}: {error}") from None
    return found.shapes, found.columns, on_earth(found.crs)


def _text(value: Any) -> str:
    """Return an attribute's value as a job file writes it: 4.0 is 4, missing is nothing."""
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).lower() if isinstance(value, (bool, np.bool_)) else str(value)


def read_features(file: str, spec: Labels, codes: Mapping[str, int]) -> Features:
    """Read the features of a layer of labels; those that burn over others come last.

    Areas are valid polygons: broken ones are mended, and what is left without an area is left out.

    Raises
    ------
    LabelError
        If the file cannot be read, is empty, has attribute values that the job does not list, or lines without a
        width or with one that is no number.
    """
    width_column = spec.width_m if isinstance(spec.width_m, str) else None
    columns = tuple(dict.fromkeys(c for c in (spec.column, width_column) if c is not None))
    shapes, fields, crs = _table(file, spec.layer, columns, _state(file))
    if spec.colours is not None:
        raise LabelError(f"{file}: `colours` are for rasters; a vector file takes `class`, or `column` and `values`")
    if spec.class_ is None and spec.column is None:
        raise LabelError(f"{file}: nothing tells the features' class; give `class`, or `column` and `values`")
    if len(shapes) == 0:
        raise LabelError(f"{file}: holds no features; labels must hold at least one")
    values = _values(file, spec, codes, fields, len(shapes))
    kept = np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)) & (values != UNKNOWN))
    if (shapely.get_type_id(shapes[kept]) == shapely.GeometryType.GEOMETRYCOLLECTION).any():
        raise LabelError(f"{file}: holds geometry collections; expected polygons, lines or points")
    shapes = _mended(shapes[kept])
    solid = ~shapely.is_empty(shapes)
    kept, shapes = kept[solid], shapes[solid]
    if not len(kept):
        raise LabelError(f"{file}: holds no feature with a geometry and a class; labels must hold at least one")
    values, widths = values[kept], np.full(len(kept), np.nan)
    kinds = shapely.get_type_id(shapes)
    areas = np.isin(kinds, list(_AREA))
    if width_column is not None:
        widths[~areas] = _widths(file, width_column, fields[width_column][kept[~areas]])
    elif spec.width_m is not None:
        widths[~areas] = spec.width_m
    bare = ~areas & ~(widths > 0)
    if bare.any():
        what = "points" if np.isin(kinds[bare], list(_POINT)).all() else "lines"
        raise LabelError(f"{file}: {int(bare.sum())} {what} have no width; give `width_m`, in metres on the ground")
    order = _order(spec, codes, values)
    return Features(file, shapes[order], values[order], widths[order], crs)


def _mended(shapes: Any) -> Any:
    """Return shapes with valid polygons, empty where no area is left: a spike is a line once it is made valid."""
    broken = np.isin(shapely.get_type_id(shapes), list(_AREA)) & ~shapely.is_valid(shapes)
    shapes = shapes.copy()
    for place in np.flatnonzero(broken):
        # a collection may hold multi-polygons
        single = shapely.get_parts(shapely.get_parts(made_valid(shapes[place])))
        single = single[shapely.area(single) > 0]
        shapes[place] = single[0] if len(single) == 1 else shapely.multipolygons(single)
    return shapes


def _widths(file: str, column: str, found: NDArray[Any]) -> NDArray[np.float64]:
    """Return widths in metres; text may be a number, with or without `m`, as OpenStreetMap has it."""
    if found.dtype.kind in "iuf":
        return found.astype(np.float64)
    texts = [_text(value).strip() for value in found]
    numbers = [re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*m?", text) for text in texts]
    wrong = sorted({text for text, number in zip(texts, numbers, strict=True) if text and number is None})
    if wrong:
        raise LabelError(
            f"{file}: {column} holds {_shown(wrong)}, expected widths in metres, as in 6.5 or '6.5 m'; correct them, "
            "or give `width_m` as a number"
        )
    return np.array([np.nan if number is None else float(number[1]) for number in numbers], dtype=np.float64)


def _shown(texts: list[str]) -> str:
    """Return values as a message shows them."""
    return ", ".join(repr(t) if t else "none" for t in texts[:8]) + (", …" if len(texts) > 8 else "")


def _values(
    file: str, spec: Labels, codes: Mapping[str, int], fields: Mapping[str, Any], count: int
) -> NDArray[np.int16]:
    if spec.column is None:
        assert spec.class_ is not None
        return np.full(count, value_of(spec.class_, codes), dtype=np.int16)
    table = {text: value_of(meaning, codes) for text, meaning in (spec.values or {}).items()}
    texts = [_text(v) for v in fields[spec.column]]
    unknown = sorted({t for t in texts if t not in table})
    if texts and len(unknown) == len(set(texts)) and spec.others != "refuse":
        raise LabelError(f"{file}: {spec.column} has none of the values that the job lists; it has {_shown(unknown)}")
    other = UNKNOWN
    if spec.others == "refuse":
        if unknown:
            raise LabelError(
                f"{file}: {spec.column} has values that the job does not list: {_shown(unknown)}; add them to "
                "`values`, or say what `others` are: skip, ignored or a class"
            )
    elif spec.others != "skip":
        other = value_of(spec.others, codes)
    assert count == len(texts)
    return np.array([table.get(t, other) for t in texts], dtype=np.int16)


def _order(spec: Labels, codes: Mapping[str, int], values: NDArray[np.int16]) -> NDArray[np.intp]:
    """Return the order of burning: what `values` lists first comes last and stays on top."""
    ranks: dict[int, int] = {}
    for rank, meaning in enumerate((spec.values or {}).values()):
        ranks.setdefault(value_of(meaning, codes), rank)
    keys = np.array([ranks.get(int(v), len(ranks)) for v in values])
    return np.argsort(-keys, kind="stable")


class VectorLayer:
    """A vector layer on the grid of a scene.

    Parameters
    ----------
    features
        From `read_features`.
    spec
        The layer's section of the job.
    codes
        Class codes by name.
    frame
        The scene's grid.

    Raises
    ------
    LabelError
        If metres are asked for and the scene's ground sample distance is unknown, or coordinates cannot be transformed.
    """

    def __init__(self, features: Features, spec: Labels, codes: Mapping[str, int], frame: Frame) -> None:
        shapes, values = _placed(features, spec, frame)
        # what lies beyond the scene has borders and contacts in it
        extra: list[Any] = []
        if spec.border_m > 0 and len(shapes):
            extra.append((_about(shapely.boundary(shapes), spec.border_m, _metres(features.file, frame)), IGNORED))
        if spec.contact is not None and len(shapes):
            groups = _groups(spec, spec.contact, codes, values)
            between = _contacts(features.file, shapes[groups >= 0], groups[groups >= 0], spec.contact, frame)
            extra.append((between, value_of(spec.contact.class_, codes)))
        for more, value in extra:
            shapes = np.concatenate([shapes, more])
            values = np.concatenate([values, np.full(len(more), value, dtype=np.int16)])
        inside = shapely.intersects(shapes, _box(frame))
        self._shapes, self._values = shapes[inside], values[inside]
        self._tree = shapely.STRtree(self._shapes)

    @property
    def empty(self) -> bool:
        """Whether no feature meets the scene."""
        return len(self._shapes) == 0

    def meets(self, rect: Rect) -> bool:
        """Return whether a feature's envelope meets a rectangle."""
        return len(self._tree.query(shapely.box(rect.x0, rect.y0, rect.x1, rect.y1))) > 0

    def read(self, rect: Rect) -> NDArray[np.int16]:
        """Return the labels of a rectangle, int16 `(rows, cols)`; `UNKNOWN` where no feature lies."""
        out = np.full(rect.shape, UNKNOWN, dtype=np.int16)
        # the order of the query is the tree's, the order of burning the features'
        found = np.sort(self._tree.query(shapely.box(rect.x0, rect.y0, rect.x1, rect.y1)))
        if len(found):
            pairs = zip(self._shapes[found], self._values[found].tolist(), strict=True)
            rasterize(pairs, out=out, transform=Affine.translation(rect.x0, rect.y0))
        return out


def meets(features: Features, spec: Labels, frame: Frame) -> bool:
    """Return whether a feature meets the scene; lines and points with their width.

    Raises
    ------
    LabelError
        As `VectorLayer` does.
    """
    shapes, _ = _placed(features, spec, frame)
    return bool(shapely.intersects(shapes, _box(frame)).any())


def reach(features: Features, frame: Frame) -> tuple[float, float, float, float] | None:
    """Return the box in the features' CRS in which the widest of them could label a pixel; None: no transformation."""
    return _around(frame, features.crs, _wide(features), 0.0)


def _box(frame: Frame) -> Any:
    return shapely.box(0, 0, frame.shape[1], frame.shape[0])


def _placed(features: Features, spec: Labels, frame: Frame) -> tuple[Any, NDArray[np.int16]]:
    """Return the features about the scene as areas in its pixels, and their labels."""
    shapes, values, widths = _near(features, spec, frame)
    shapes = _pixels(features, shapes, frame)
    return _widened(features.file, shapes, widths, frame), values


def _wide(features: Features) -> float:
    """Return half of the greatest width, metres."""
    widths = features.widths[~np.isnan(features.widths)]
    return float(widths.max()) / 2 if len(widths) else 0.0


def _around(frame: Frame, crs: str | None, metres: float, px: float) -> tuple[float, float, float, float] | None:
    """Return the box of the scene and what lies so many metres on the ground and pixels about it, in a CRS."""
    box = frame.bounds(crs)
    # where metres are unknown and asked for, `_metres` says so
    across, down = frame.metres() or (np.inf, np.inf)
    x, y = math.ceil(metres / across + px), math.ceil(metres / down + px)
    if box is None or x == y == 0:
        return box
    rows, cols = frame.shape
    wider = frame.part(Rect(-y, -x, rows + y, cols + x)).bounds(crs)
    if wider is None:  # it reaches beyond where the CRS is defined
        return box
    return min(box[0], wider[0]), min(box[1], wider[1]), max(box[2], wider[2]), max(box[3], wider[3])


def _near(features: Features, spec: Labels, frame: Frame) -> tuple[Any, NDArray[np.int16], NDArray[np.float64]]:
    """Return the features about the scene: a cheap choice before coordinates are transformed."""
    if frame.crs is None and features.crs is not None:
        raise LabelError(
            f"{features.file}: has a CRS ({crs_name(features.crs)}), the scene {frame.name} has none; georeference the "
            "scene, or give labels as a raster of its size"
        )
    contact = spec.contact or Contact(distance_m=0.0)
    metres = _wide(features) + max(spec.border_m, contact.distance_m or 0.0)
    box = _around(frame, features.crs, metres, contact.distance_px or 0.0)
    if box is None:
        return features.shapes[:0], features.values[:0], features.widths[:0]
    more = 0.05 * max(box[2] - box[0], box[3] - box[1])  # curved edges
    found = np.sort(
        shapely.STRtree(features.shapes).query(shapely.box(box[0] - more, box[1] - more, box[2] + more, box[3] + more))
    )
    return features.shapes[found], features.values[found], features.widths[found]


def _pixels(features: Features, shapes: Any, frame: Frame) -> Any:
    move = mover(features.crs, frame.crs)
    if len(shapes) == 0:
        return shapes
    if move is not None:
        box = frame.bounds(features.crs)
        assert box is not None
        shapes = shapely.segmentize(shapes, max(box[2] - box[0], box[3] - box[1]) / _PIECES)

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        if move is not None:
            points = np.column_stack(move.transform(points[:, 0], points[:, 1]))
        return frame.to_pixels(points)

    moved = shapely.transform(shapes, place)
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise LabelError(f"{features.file}: reaches beyond where the CRS of the scene {frame.name} is defined")
    return moved


def _metres(file: str, frame: Frame) -> tuple[float, float]:
    metres = frame.metres()
    if metres is None:
        raise LabelError(
            f"{file}: metres are asked for, but the scene {frame.name} does not tell its ground sample distance; "
            "give `gsd` beside `scenes`"
        )
    return metres


def _about(shapes: Any, metres: float, size: tuple[float, float]) -> Any:
    """Return shapes in pixels, widened by metres on the ground."""
    scale = np.array(size)
    wide = shapely.buffer(shapely.transform(shapes, lambda p: p * scale), metres)
    return shapely.transform(wide, lambda p: p / scale)


def _widened(file: str, shapes: Any, widths: NDArray[np.float64], frame: Frame) -> Any:
    thin = ~np.isnan(widths)
    if not thin.any():
        return shapes
    scale = np.array(_metres(file, frame))
    wide = shapely.buffer(shapely.transform(shapes[thin], lambda p: p * scale), widths[thin] / 2)
    shapes = shapes.copy()
    shapes[thin] = shapely.transform(wide, lambda p: p / scale)
    return shapes


def _groups(spec: Labels, contact: Contact, codes: Mapping[str, int], values: NDArray[np.int16]) -> NDArray[np.intp]:
    """Return for each feature which others it is kept apart from: those of its number; -1: none.

    Buildings are kept apart: the class that the contact bars, if the layer has it, else the classes whose names say
    that they are buildings. Where no name does, names do not tell, and those that may be are kept from their like.
    """
    named = [spec.class_, spec.others, *(spec.values or {}).values()]
    own = {name: codes[name] for name in named if isinstance(name, str) and name in codes}
    barred = contact.class_.not_ if isinstance(contact.class_, Not) else None
    chosen = [barred] if barred in own else [name for name in own if kind_of(name) == Kind.building]
    if chosen:
        return np.where(np.isin(values, [own[name] for name in chosen if name is not None]), 0, -1)
    unsaid = [code for name, code in own.items() if kind_of(name) == Kind.other]
    return np.where(np.isin(values, unsaid), values, -1).astype(np.intp)


def _contacts(file: str, shapes: Any, groups: NDArray[np.intp], spec: Contact, frame: Frame) -> Any:
    """Return where two buildings are both within the distance, about the outline of the one that lies on top.

    That is the ground that keeps them apart; where they overlap, a band along that outline does.
    """

    def about(these: Any) -> Any:
        if spec.distance_m is not None:
            return _about(these, spec.distance_m, _metres(file, frame))
        return shapely.buffer(these, spec.distance_px or 0.0)

    wide = about(shapes)
    below, top = shapely.STRtree(wide).query(wide, predicate="intersects")
    pairs = (below < top) & (groups[below] == groups[top])
    below, top = below[pairs], top[pairs]
    apart = ~_same(shapes, below, top)
    below, top = below[apart], top[apart]
    own, place = np.unique(top, return_inverse=True)
    both = shapely.intersection(wide[below], about(shapely.boundary(shapes[own]))[place])
    return both[shapely.area(both) > 0]


def _same(shapes: Any, one: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which pairs are one building: mapped twice, one part of the other, or both parts of a third."""
    shapes = _mended(shapes)  # in pixels one may meet itself
    common = shapely.area(shapely.intersection(shapes[one], shapes[other]))
    size = shapely.area(shapes)
    homes: dict[int, set[int]] = {}
    for part, whole in ((one, other), (other, one)):
        within = common > _MOST * size[part]
        for k, home in zip(part[within].tolist(), whole[within].tolist(), strict=True):
            homes.setdefault(k, {k}).add(home)
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    return np.array([not homes.get(a, {a}).isdisjoint(homes.get(b, {b})) for a, b in pairs], dtype=np.bool_)
