"""Which scenes show the same ground, and where: sheets that overlap, photographs in a row, one place at several dates.

Georeferenced scenes are compared as outlines in longitude and latitude. Scenes without a CRS show ground of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from geounet.labels.frames import Frame, mover
from geounet.types import Rect

_STRIP = 4
"""Pixels that neighbouring sheets may share along a side."""

_SLACK = 0.05
"""Share of a pixel that coordinates may be off."""

_ROWS = 16
"""Rows of the rectangles that stand for slanting outlines."""


def meeting(frames: Sequence[Frame], margin: int = 0) -> list[tuple[int, int]]:
    """Return the pairs of scenes that share more ground than a strip of a few pixels; none where no pair does.

    With a `margin`, also those that are less than so many pixels of either one apart.
    """
    outlines = [(k, frame.outline()) for k, frame in enumerate(frames) if frame.crs is not None]
    kept = [(k, outline) for k, outline in outlines if outline is not None]
    if len(kept) < 2:
        return []
    numbers, shapes = [k for k, _ in kept], np.asarray([outline for _, outline in kept])
    near = []
    if margin:
        # Degrees of longitude are shorter; what is paired here is measured in pixels later.
        pixels = np.array([(shape.area / np.prod(frames[k].shape)) ** 0.5 for k, shape in kept])
        pixels /= np.maximum(np.cos(np.radians(np.abs(shapely.bounds(shapes)[:, [1, 3]]).max(axis=1))), 1e-3)
        one, other = shapely.STRtree(shapes).query(shapely.buffer(shapes, margin * pixels), "intersects")
        near = [(numbers[min(pair)], numbers[max(pair)]) for pair in zip(one.tolist(), other.tolist(), strict=True)]
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    wide, broad = [], []
    for a, b in sorted((a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True) if a < b):
        common = shapely.intersection(shapes[a], shapes[b])
        sizes = [shapes[k].area / np.prod(frames[numbers[k]].shape) for k in (a, b)]
        strips = [_STRIP * max(frames[numbers[k]].shape) * size for k, size in zip((a, b), sizes, strict=True)]
        if common.area > min(strips):
            wide.append((numbers[a], numbers[b]))
        elif 2 * common.area > _STRIP * max(sizes) ** 0.5 * common.length:
            broad.append((numbers[a], numbers[b]))
    # sheets that overlap also share their corners, which are small
    return sorted({*(wide + broad if wide else []), *((a, b) for a, b in near if a < b)})


def leaders(blocks: Sequence[tuple[Frame, Rect]]) -> list[int]:
    """Return for each block the first one that it shares most of its ground with; itself, where there is none.

    A block follows one leader, and leaders follow none: blocks that overlap in a row are not chained to a single one.
    """
    if not blocks:
        return []
    shapes = np.asarray([frame.part(rect).outline() for frame, rect in blocks])
    sizes = shapely.area(shapes)
    result = list(range(len(blocks)))
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    order = np.lexsort((other, one))
    for a, b in zip(one[order].tolist(), other[order].tolist(), strict=True):
        if b < a and result[a] == a and result[b] == b:
            common = shapely.intersection(shapes[a], shapes[b]).area
            if common > 0.5 * min(sizes[a], sizes[b]):
                result[a] = b
    return result


def seen(rects: Sequence[Rect], theirs: Frame, ours: Frame, margin: int) -> list[list[Rect]]:
    """Return where a scene shows rectangles of another one.

    Parameters
    ----------
    rects
        Pixels of the other scene.
    theirs, ours
        Both frames, with a CRS.
    margin
        How far beyond the scene they may lie, px of ours.

    Returns
    -------
    list of list of Rect
        For each: rectangles of our pixels that cover it, none where it lies elsewhere. Slanting outlines are covered
        by strips.
    """
    near = shapely.box(-margin, -margin, ours.shape[1] + margin, ours.shape[0] + margin)
    move = mover("OGC:CRS84", ours.crs)
    found = []
    for rect in rects:
        outline = theirs.part(rect).outline()
        points = np.full((1, 2), np.inf) if outline is None else shapely.get_coordinates(outline)
        if move is not None:
            points = np.column_stack(move.transform(points[:, 0], points[:, 1]))
        points = ours.to_pixels(points)
        finite = bool(np.isfinite(points).all())
        found.append(_covering(shapely.intersection(shapely.Polygon(points), near)) if finite else [])
    return found


def _covering(shape: Any) -> list[Rect]:
    """Return rectangles of whole pixels that cover a shape (x, y)."""
    if shape.area <= _SLACK:
        return []
    x0, y0, x1, y1 = shape.bounds
    if (x1 - x0) * (y1 - y0) - shape.area < _SLACK * shape.length:
        return [_pixels(x0, y0, x1, y1)]
    tops = np.arange(np.floor(y0), y1, _ROWS)
    strips: Any = shapely.bounds(shapely.intersection(shape, shapely.box(x0, tops, x1, tops + _ROWS)))
    found = [_pixels(*strip) for strip in strips[np.isfinite(strips).all(axis=1)].tolist()]
    return [rect for rect in found if not rect.empty]


def _pixels(x0: float, y0: float, x1: float, y1: float) -> Rect:
    low, high = np.floor(np.array([y0, x0]) + _SLACK), np.ceil(np.array([y1, x1]) - _SLACK)
    return Rect(*low.astype(int).tolist(), *high.astype(int).tolist())
