"""No two outlines overlap: what is drawn straight may reach over a neighbour, and then one of them is trimmed.

Of two outlines that overlap the later one is cut along the earlier one. Where too little of it would be left, the one
that reaches farther into the other's raw shape steps down: from its outline to a simplified one, then to the raw one.
Raw outlines never overlap, so this ends. What a building becomes depends on those alone that overlap one another.
"""

from __future__ import annotations

import heapq
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
    shapes: Geometries = np.asarray(shapely.box(*boxes.T))
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
    a, b = near(boxes(*levels))
    level = _stepped(levels, a, b)
    raw = levels[-1]
    tree = shapely.STRtree(others)
    beside: list[list[int]] = [[] for _ in range(count)]
    for one, other in zip(a.tolist(), b.tolist(), strict=True):
        beside[one].append(other)
        beside[other].append(one)
    outline: list[Any] = [None] * count
    cut = np.zeros(count, dtype=np.bool_)
    # What is trimmed depends on the earlier ones; where one of these changes it is done again.
    todo = list(range(count))
    waiting = set(todo)

    def again(k: int) -> None:
        if k not in waiting:
            waiting.add(k)
            heapq.heappush(todo, k)

    while todo:
        k = heapq.heappop(todo)
        waiting.discard(k)
        shape = levels[level[k]][k]
        rivals = [e for e in beside[k] if e < k]
        blocks = [outline[e] for e in rivals]
        if level[k] > 0:
            blocks += others[np.sort(tree.query(shape, predicate="intersects"))].tolist()
        found = _trimmed(shape, blocks)
        if not _same(found, outline[k]):
            for e in beside[k]:
                if e > k:
                    again(e)
        outline[k], cut[k] = found, found is not shape
        if cut[k] and not _fits(found, raw[k]):
            lower = _to_blame(k, rivals, levels, level)
            if lower is not None:
                level[lower] += 1
                again(lower)
                again(k)
            elif found is None:
                # Raw among raw ones: only what stays as it is can be in the way, and it takes little.
                outline[k] = shape
    return Settled(np.array(outline, dtype=object), level, cut)


def _stepped(levels: Sequence[Geometries], a: I64, b: I64) -> npt.NDArray[np.int8]:
    """Return the level of each building at which pairs `a, b` overlap so little that trimming can do.

    All pairs are looked at together: the order does not matter.
    """
    level = np.zeros(len(levels[0]), dtype=np.int8)
    stack = np.stack([np.asarray(shapes, dtype=object) for shapes in levels])
    raw, row = stack[-1], np.arange(len(level))
    size = shapely.area(raw)
    check = np.arange(len(a))
    while len(check):
        shapes = stack[level, row]
        one, other = a[check], b[check]
        common = overlap(shapes[one], shapes[other])
        much = common > SERIOUS * np.minimum(size[one], size[other])
        one, other = one[much], other[much]
        if len(one) == 0:
            break
        over, back = overlap(shapes[one], raw[other]), overlap(shapes[other], raw[one])
        # The one that reaches farther into the other; ties: the later one.
        blamed = np.where(over > back, one, other)
        blamed = np.where(level[blamed] < LEVELS - 1, blamed, np.where(blamed == one, other, one))
        down = np.unique(blamed[level[blamed] < LEVELS - 1])
        if len(down) == 0:
            break
        level[down] += 1
        moved = np.zeros(len(level), dtype=np.bool_)
        moved[down] = True
        check = np.flatnonzero(moved[a] | moved[b])
    return level


def _same(one: Any, other: Any) -> bool:
    return one is other or (one is not None and other is not None and bool(shapely.equals_identical(one, other)))


SERIOUS = 0.1
"""Part of the smaller of two buildings that an overlap may be to be trimmed."""


def _trimmed(shape: Any, blocks: list[Any]) -> Any:
    """Return an outline without what others cover, itself if they cover nothing, None if nothing is left."""
    if not blocks:
        return shape
    against = np.array([block for block in blocks if block is not None], dtype=object)
    common = overlap(np.full(len(against), shape), against)
    if not (common > LEAST).any():
        return shape
    left = shapely.get_parts(shapely.difference(shape, shapely.union_all(against[common > LEAST])))
    left = left[shapely.area(left) > LEAST]
    if len(left) == 0:
        return None
    found = shapely.orient_polygons(left[int(np.argmax(shapely.area(left)))], exterior_cw=False)
    smooth = without_spikes(found)
    # A notch that is closed may be where another building's corner is.
    if smooth is not None and (overlap(np.full(len(against), smooth), against) > LEAST).any():
        return found
    return smooth


def without_spikes(polygon: Any) -> Any:
    """Return a polygon without corners where its outline turns back; None if nothing is left."""
    rings = []
    for number, ring in enumerate((polygon.exterior, *polygon.interiors)):
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
        elif number == 0:
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


def _to_blame(k: int, rivals: list[int], levels: Sequence[Geometries], level: npt.NDArray[np.int8]) -> int | None:
    """Return which building is to step down: of the two that are most in each other's way the one farther over."""
    raw = levels[-1]
    shapes = [levels[level[e]][e] for e in rivals]
    over = [float(shapely.area(shapely.intersection(shape, raw[k]))) for shape in shapes]
    for at in np.argsort(-np.array(over), kind="stable").tolist():
        e = rivals[at]
        mine = float(shapely.area(shapely.intersection(levels[level[k]][k], raw[e])))
        for one in (e, k) if over[at] > mine else (k, e):
            if over[at] + mine > LEAST and level[one] < LEVELS - 1:
                return one
    return k if level[k] < LEVELS - 1 else None
