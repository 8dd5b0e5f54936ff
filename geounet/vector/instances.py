"""One polygon a building: components of the mask, divided where a contact class or the probability says so.

A component is divided by a watershed from markers (Beucher & Meyer 1993) in its own bounding box, after it was put
together over cells: what becomes of it does not depend on cells, and each instance is made once. Without a contact
class, and if the probability is not asked, a component is a building, and houses that touch are one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.features import rasterize
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage import measure
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from geounet.types import NODATA, Rect
from geounet.vector.features import to_shapely
from geounet.vector.polygons import Polygons, gather, signed_areas
from geounet.vector.source import U8, Plane, ProbabilityPlane
from geounet.vector.trace import I32, I64, Bools, trace

GAP = 2.5
"""Half the width of gaps in a line of contact through which two buildings do not become one, px."""

DEPTH = 25
"""How much lower the probability is between two buildings than within the lesser one, in stored steps of 1/254."""

LARGEST = 1 << 23
"""Pixels of a bounding box above which a component stays whole: a watershed takes about 60 bytes for each."""


@dataclass(frozen=True)
class Either:
    """1 where one of some planes is 1, 255 elsewhere."""

    planes: tuple[Plane, ...]

    def read(self, rect: Rect) -> U8:
        """Return values `(rows, cols)` of `rect`."""
        found = np.full(rect.shape, NODATA, dtype=np.uint8)
        for plane in self.planes:
            found[plane.read(rect) == 1] = 1
        return found


@dataclass(frozen=True)
class Divider:
    """Where instances come from; with neither contact nor hills components stay whole.

    Attributes
    ----------
    mask
        1 on all pixels of buildings.
    contact
        1 where buildings touch.
    probability
        Stored probability of the building class.
    hills
        Instances are the hills of the probability.
    """

    mask: Plane
    contact: Plane | None = None
    probability: ProbabilityPlane | None = None
    hills: bool = False

    @property
    def divides(self) -> bool:
        """Whether components are divided at all."""
        return self.contact is not None or (self.hills and self.probability is not None)


@dataclass(frozen=True)
class Instances:
    """Buildings: `polygons`, ordered by the component they are of, which `group` `(n,)` numbers from 0.

    `whole` is the number of components that were too large to be divided.
    """

    polygons: Polygons
    group: I64
    whole: int


def by_contact(mask: Bools, contact: Bools, least: float) -> I32:
    """Divide a component along contact pixels.

    Parameters
    ----------
    mask
        `(rows, cols)` pixels of the component, contact included.
    contact
        Where buildings touch.
    least
        Instances of fewer pixels join a neighbour.

    Returns
    -------
    labels
        `(rows, cols)` int32: instances from 1, each 4-connected; 0 outside.
    """
    core = mask & ~contact
    label: Any = measure.label
    parts = label(core, connectivity=1)
    # A gap in the line of contact joins two buildings; what is near contact belongs to no marker, and is shared out.
    seeds = label(core & (distance_transform_edt(~(contact & mask)) > GAP), connectivity=1)
    reached = np.zeros(int(parts.max()) + 1, dtype=np.bool_)
    reached[parts[seeds > 0]] = True
    # A narrow house has no marker left, and is one itself; a speck is not.
    lost = core & ~(reached | (np.bincount(parts.ravel()) < least / 2))[parts]
    seeds = np.where(lost, parts + seeds.max(), seeds).astype(np.int32)
    return _flooded(mask, seeds, None, least)


def by_probability(mask: Bools, stored: npt.NDArray[np.uint8], least: float) -> I32:
    """Divide a component at valleys of the probability; see `by_contact`. `stored` is 255 where there is none."""
    hills = np.where(mask & (stored != NODATA), stored, 0).astype(np.float32)
    hills = np.round(gaussian_filter(hills, 1.0)).astype(np.int16)
    label: Any = measure.label
    tops: Any = h_maxima
    seeds = label((tops(hills, DEPTH) > 0) & mask, connectivity=1).astype(np.int32)
    return _flooded(mask, seeds, int(hills.max()) - hills.astype(np.int32), least)


def _flooded(mask: Bools, seeds: I32, height: I32 | None, least: float) -> I32:
    """Flood a mask from seeds, by height or (none) by distance; seeds of too little are taken away until none is."""
    while True:
        if seeds.max() <= 1:
            return mask.astype(np.int32)
        if height is None:
            levels = np.round(distance_transform_edt(seeds == 0) * 16).astype(np.int32)
        else:
            levels = height
        flood: Any = watershed
        labels: I32 = flood(levels, seeds, connectivity=1, mask=mask).astype(np.int32)
        size = np.bincount(labels.ravel(), minlength=int(seeds.max()) + 1)
        small = (size < least) & (np.arange(len(size)) > 0)
        present = size > 0
        if not (small & present).any():
            numbers = np.zeros(len(size), dtype=np.int32)
            numbers[1:][present[1:]] = np.arange(1, int(present[1:].sum()) + 1)
            return np.asarray(numbers[labels], dtype=np.int32)
        if not (present & ~small)[1:].any():
            return mask.astype(np.int32)
        seeds = np.where(small[seeds], 0, seeds).astype(np.int32)


def divided(
    divider: Divider,
    polygons: Polygons,
    least: npt.NDArray[np.float64],
    hole: npt.NDArray[np.float64],
    lasting: Bools,
    cols: int,
) -> Instances:
    """Divide components into buildings.

    Parameters
    ----------
    divider
        How.
    polygons
        Components with all their holes, in the order of their first pixels.
    least
        `(n,)` pixels that an instance has at least.
    hole
        `(n,)` pixels below which a hole in an instance is filled. What is open between instances stays so; and so do
        holes of components that are not divided.
    lasting
        `(rings,)` whether a ring of the components is a hole that is not filled, however small; or a shell.
    cols
        Width of the raster.
    """
    group = np.arange(len(polygons))
    if not divider.divides or len(polygons) == 0:
        return Instances(polygons, group, 0)
    # A shell's vertices reach as far as the polygon.
    rects = [_box(polygons, shell) for shell in polygons.shells[:-1].tolist()]
    look = _Look(divider, rects)
    pieces: dict[int, Polygons] = {}
    whole = 0
    for k in np.flatnonzero(polygons.count >= 2 * least).tolist():
        if rects[k].rows * rects[k].cols > LARGEST:
            whole += 1
            continue
        contact = look.contact(rects[k])
        if contact is not None and not contact.any():
            continue
        one = polygons.part(k, k + 1)
        mask = _burnt(to_shapely(one.coords, one.rings, one.shells), rects[k])
        stored = look.stored(rects[k], mask)
        if contact is not None:
            labels = by_contact(mask, contact & mask, float(least[k]))
        elif stored is not None:
            labels = by_probability(mask, stored, float(least[k]))
        if labels.max() > 1:
            rings = np.arange(polygons.shells[k] + 1, polygons.shells[k + 1])
            open_ = _burnt(_alone(polygons, rings[lasting[rings]]), rects[k])
            pieces[k] = traced(_filled(labels, open_, float(hole[k])), stored, rects[k], cols)
    if not pieces:
        return Instances(polygons, group, whole)
    return Instances(*_replaced(polygons, pieces), whole)


class _Look:
    """What is known around components; read at once where they lie close together."""

    def __init__(self, divider: Divider, rects: list[Rect]) -> None:
        self._all = _around(rects)
        self._divider = divider
        self._held = self._all.rows * self._all.cols <= LARGEST
        self._contact: U8 | None = None
        self._stored: U8 | None = None
        if self._held and divider.contact is not None:
            self._contact = divider.contact.read(self._all)
        if self._held and divider.probability is not None:
            self._stored = divider.probability.read(self._all, np.ones(self._all.shape, dtype=np.uint8))

    def contact(self, rect: Rect) -> Bools | None:
        """Return where buildings touch; none without such a class."""
        if self._divider.contact is None:
            return None
        found = (
            self._contact[rect.slices_in(self._all)] if self._contact is not None else self._divider.contact.read(rect)
        )
        touching: Bools = found == 1
        return touching

    def stored(self, rect: Rect, mask: Bools) -> U8 | None:
        """Return the probability where the mask is true, 255 elsewhere; none if it is not stored."""
        if self._divider.probability is None:
            return None
        values = np.where(mask, np.uint8(1), np.uint8(NODATA))
        if self._stored is None:
            return self._divider.probability.read(rect, values)
        return np.where(mask, self._stored[rect.slices_in(self._all)], np.uint8(NODATA))


def holes(plane: Plane, polygons: Polygons, chosen: I64) -> Iterator[tuple[Bools, Rect]]:
    """Yield for some rings, which are holes, where the plane is 1 in them, `(rows, cols)`, and their boxes."""
    if len(chosen) == 0:
        return
    rects = [_box(polygons, ring) for ring in chosen.tolist()]
    around = _around(rects)
    # Read at once where they lie close together.
    held = plane.read(around) if around.rows * around.cols <= LARGEST else None
    for ring, rect in zip(chosen, rects, strict=True):
        found = plane.read(rect) if held is None else held[rect.slices_in(around)]
        yield (found == 1) & _burnt(_alone(polygons, np.array([ring])), rect), rect


def _around(rects: list[Rect]) -> Rect:
    """Return the least rectangle around others."""
    return Rect(*(min(r[k] for r in rects) for k in (0, 1)), *(max(r[k] for r in rects) for k in (2, 3)))


def _box(polygons: Polygons, ring: int) -> Rect:
    """Return as far as the vertices of a ring reach."""
    vertices = polygons.coords[polygons.rings[ring] : polygons.rings[ring + 1]]
    (x0, y0), (x1, y1) = vertices.min(axis=0).tolist(), vertices.max(axis=0).tolist()
    return Rect(y0, x0, y1, x1)


def _alone(polygons: Polygons, rings: I64) -> Any:
    """Return rings as polygons of their own, filled."""
    vertex, offsets = gather(polygons.rings, rings)
    return to_shapely(polygons.coords[vertex], offsets, np.arange(len(offsets)))


def _burnt(shapes: Any, rect: Rect) -> Bools:
    """Return the pixels of polygons in a box: exact, as their vertices are integers."""
    if len(shapes) == 0:
        return np.zeros(rect.shape, dtype=np.bool_)
    transform = Affine.translation(rect.x0, rect.y0)
    found: Bools = rasterize(shapes, out_shape=rect.shape, transform=transform, dtype="uint8") > 0
    return found


def _filled(labels: I32, lasting: Bools, hole: float) -> I32:
    """Fill holes of fewer pixels that lie within one instance, but those where `lasting` is true."""
    label: Any = measure.label
    # A frame around joins all that is open to the outside.
    open_ = label(np.pad(labels == 0, 1, constant_values=True), connectivity=2)
    size = np.bincount(open_.ravel())
    small = size < hole
    small[0] = small[open_[0, 0]] = False
    small[open_[1:-1, 1:-1][lasting]] = False
    if not small.any():
        return labels
    around = np.pad(labels, 1)
    low = np.full(len(size), np.iinfo(np.int32).max)
    high = np.zeros(len(size), dtype=np.int64)
    for axis in (0, 1):
        for step in (-1, 1):
            beside = np.roll(around, step, axis=axis)
            at = (open_ > 0) & (beside > 0)
            np.minimum.at(low, open_[at], beside[at])
            np.maximum.at(high, open_[at], beside[at])
    fill = np.where(small & (low == high), high, 0)
    filled: I32 = np.where(labels == 0, fill[open_[1:-1, 1:-1]], labels).astype(np.int32)
    return filled


def _replaced(polygons: Polygons, pieces: dict[int, Polygons]) -> tuple[Polygons, I64]:
    """Return polygons with some replaced by their pieces, and which one each is of."""
    parts: list[Polygons] = []
    group: list[I64] = []
    done = 0
    for k in [*pieces, len(polygons)]:
        parts.append(polygons.part(done, k))
        group.append(np.arange(done, k))
        if k < len(polygons):
            parts.append(pieces[k])
            group.append(np.full(len(pieces[k]), k))
        done = k + 1
    columns = {name: np.concatenate([getattr(p, name) for p in parts]) for name in Polygons.__dataclass_fields__}
    for name in ("rings", "shells"):
        runs = [np.diff(getattr(p, name)) for p in parts]
        columns[name] = np.concatenate([[0], np.cumsum(np.concatenate(runs))]).astype(np.int64)
    return Polygons(**columns), np.concatenate(group)


def traced(labels: I32, stored: U8 | None, rect: Rect, cols: int) -> Polygons:
    """Return the polygons of labels.

    Parameters
    ----------
    labels
        `(rows, cols)` int32 from 1, each 4-connected; 0 is left out.
    stored
        `(rows, cols)` probabilities, 255 where there is none.
    rect
        Their place in the raster.
    cols
        Width of the raster.
    """
    count = int(labels.max())
    codes = np.where(labels == 0, NODATA, np.where(labels >= NODATA, labels + 1, labels))
    halo = np.pad(codes, 1, constant_values=NODATA)
    pieces = trace(halo, labels, np.zeros(count + 1, dtype=np.bool_), rect, cols, junctions=False)
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    at = order[np.searchsorted(flat[order], np.arange(1, count + 1))]
    first = (at // rect.cols + rect.y0) * cols + at % rect.cols + rect.x0
    shells = np.searchsorted(pieces.label, np.arange(1, count + 2)).astype(np.int64)
    size = np.bincount(flat, minlength=count + 1)[1:]
    if not np.array_equal(np.add.reduceat(signed_areas(pieces.coords, pieces.offsets), shells[:-1]), size):
        raise AssertionError("areas of instances are not their pixel counts")
    total = counted = np.zeros(count, np.int64)
    if stored is not None:
        known = stored != NODATA
        # Below 2**53, hence exact.
        total = np.bincount(labels[known], stored[known], count + 1)[1:].astype(np.int64)
        counted = np.bincount(labels[known], minlength=count + 1)[1:]
    return Polygons(
        first=first,
        value=np.ones(count, dtype=np.uint8),
        count=size,
        total=total,
        counted=counted,
        coords=pieces.coords,
        junction=pieces.junction,
        rings=pieces.offsets,
        shells=shells,
    )
