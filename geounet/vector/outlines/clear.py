"""No two outlines overlap: what is drawn straight may reach over a neighbour, and then one of them is trimmed.

Of two outlines that overlap the later one is cut along the earlier one. Where too little of it would be left, the one
that reaches farther into the other's raw shape steps down: from its outline to a simplified one, then to the raw one.
Raw outlines never overlap, so this ends. What a building becomes depends on those alone that overlap one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geounet.vector.outlines.gate import MIN_IOU, Geometries
from geounet.vector.trace import I64

LEAST = 1e-6
"""Area of an overlap that is more than rounding, px²."""

LEVELS = 3
"""Outlines that a building has: the best, a simplified one, the raw one."""


def near(boxes: npt.NDArray[np.float64]) -> tuple[I64, I64]:
    """Return pairs of boxes `(n, 4)` that touch, the lower index first, in order."""
    shapes = shapely.box(*boxes.T)
    a, b = shapely.STRtree(shapes).query(shapes)
    a, b = a[a < b].astype(np.int64), b[a < b].astype(np.int64)
    order = np.lexsort((b, a))
    return a[order], b[order]


def overlap(a: Geometries, b: Geometries) -> npt.NDArray[np.float64]:
    """Return the area that outlines have in common, pair by pair."""
    area = np.zeros(len(a))
    at = np.flatnonzero(shapely.intersects(a, b))
    area[at] = shapely.area(shapely.intersection(a[at], b[at]))
    return area


def boxes(*levels: Geometries) -> npt.NDArray[np.float64]:
    """Return the boxes `(n, 4)` around all outlines of each building."""
    bounds = np.stack([shapely.bounds(shapes) for shapes in levels])
    found: npt.NDArray[np.float64] = np.concatenate(
        [bounds[:, :, :2].min(axis=0), bounds[:, :, 2:].max(axis=0)], axis=1
    )
    return found


@dataclass(frozen=True)
class Settled:
    """Outlines of buildings that do not overlap; `level` is which one of a building's it is, `cut` whether trimmed."""

    outline: Geometries
    level: npt.NDArray[np.int8]
    cut: npt.NDArray[np.bool_]


def settled(levels: Sequence[Geometries], others: Geometries) -> Settled:
    """Choose and trim outlines so that none overlaps another.

    Parameters
    ----------
    levels
        `(3, n)` outlines of buildings, from the best to the raw one; buildings in the order of their ids.
    others
        Outlines that stay as they are, and that overlap none of the best ones.
    """
    count = len(levels[0])
    level = np.zeros(count, dtype=np.int8)
    tree = shapely.STRtree(others)
    raw = levels[-1]
    start = 0
    outline: list[Any] = [None] * count
    cut = np.zeros(count, dtype=np.bool_)
    while start < count:
        # From the first building whose level changed, everything is done again.
        shapes = [levels[level[k]][k] for k in range(count)]
        among = shapely.STRtree(np.array(shapes, dtype=object))
        for k in range(start, count):
            found, rivals = _trimmed(k, shapes, outline, among, tree, others, int(level[k]))
            cut[k] = found is not shapes[k]
            if not cut[k] or _fits(found, raw[k]):
                outline[k] = found
                continue
            lower = _to_blame(k, rivals, shapes, raw, level)
            if lower is None:
                # Raw among raw ones: only what stays as it is can be in the way, and it takes little.
                outline[k] = found if found is not None else shapes[k]
                continue
            level[lower] += 1
            start = min(k, lower)
            break
        else:
            start = count
    return Settled(np.array(outline, dtype=object), level, cut)


def _trimmed(
    k: int, shapes: list[Any], outline: list[Any], among: Any, tree: Any, others: Geometries, level: int
) -> tuple[Any, list[int]]:
    """Return the outline of a building without what earlier ones cover (None if nothing is left), and the earlier."""
    shape = shapes[k]
    rivals = [int(e) for e in np.sort(among.query(shape, predicate="intersects")) if e < k]
    blocks = [outline[e] for e in rivals]
    if level > 0:
        blocks += others[np.sort(tree.query(shape, predicate="intersects"))].tolist()
    if not blocks:
        return shape, []
    common = shapely.area(shapely.intersection(shape, np.array(blocks, dtype=object)))
    blocks = [b for b, area in zip(blocks, common, strict=True) if area > LEAST]
    if not blocks:
        return shape, []
    left = shapely.get_parts(shapely.difference(shape, shapely.union_all(blocks)))
    left = left[shapely.get_type_id(left) == shapely.GeometryType.POLYGON]
    rivals = [e for e, area in zip(rivals, common, strict=False) if area > LEAST]
    if len(left) == 0:
        return None, rivals
    largest = left[int(np.argmax(shapely.area(left)))]
    return without_spikes(shapely.orient_polygons(largest, exterior_cw=False)), rivals


def without_spikes(polygon: Any) -> Any:
    """Return a polygon without corners where its outline turns back; None if nothing is left."""
    rings = []
    for ring in (polygon.exterior, *polygon.interiors):
        points = shapely.get_coordinates(ring)[:-1]
        while len(points) >= 3:
            ahead, behind = np.roll(points, -1, axis=0) - points, np.roll(points, 1, axis=0) - points
            long = np.hypot(*ahead.T) * np.hypot(*behind.T)
            sharp = (ahead * behind).sum(axis=1) > SPIKE * long
            sharp |= (np.abs(ahead) < SHORT).all(axis=1)
            if not sharp.any():
                break
            points = np.delete(points, int(np.argmax(sharp)), axis=0)
        if len(points) >= 3:
            rings.append(points)
        elif ring is polygon.exterior:
            return None
    return shapely.Polygon(rings[0], rings[1:])


SPIKE = np.cos(np.radians(2))
"""Cosine of the angle at a spike's corner."""

SHORT = 2.0**-10
"""Corners of trimmed outlines so near each other are one, px."""


def _fits(outline: Any, raw: Any) -> bool:
    if outline is None or not shapely.is_valid(outline) or shapely.minimum_clearance(outline) < SHORT / 8:
        return False
    common = shapely.area(shapely.intersection(outline, raw))
    return bool(common >= MIN_IOU * (outline.area + raw.area - common))


def _to_blame(k: int, rivals: list[int], shapes: list[Any], raw: Geometries, level: npt.NDArray[np.int8]) -> int | None:
    """Return which building is to step down: of the two that are most in each other's way the one farther over."""
    over = [float(shapely.area(shapely.intersection(shapes[e], raw[k]))) for e in rivals]
    for at in np.argsort(-np.array(over), kind="stable").tolist():
        e = rivals[at]
        mine = float(shapely.area(shapely.intersection(shapes[k], raw[e])))
        first, second = (e, k) if over[at] > mine else (k, e)
        for one in (first, second):
            if level[one] < LEVELS - 1:
                return one
    return k if level[k] < LEVELS - 1 else None
