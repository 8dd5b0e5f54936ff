"""The sides of pixels along raw outlines as points, their moments, and where corners may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geounet.vector.attributes import F64
from geounet.vector.polygons import gather
from geounet.vector.trace import I64

SMOOTHINGS = 3
"""Rounds of weights 1, 2, 1 that turn a staircase into a line, for finding corners only."""

NEAR = 0.4
"""Tolerance of the polygon whose vertices may become corners, px."""

ALL = 24
"""In rings of at most so many points each may be a corner."""

CORNERS = 120
"""Most candidates of a ring: finding corners takes time with their square."""


@dataclass(frozen=True)
class Rings:
    """Middles of the pixel sides along rings: the points that edges are fitted to, in the order of the outline.

    `places` `(points, 2)` int64 are twice the pixel coordinates, relative to `origins` `(rings, 2)` (pixels); ring `i`
    has those from `offsets[i]` to `offsets[i + 1]`. `scale` `(rings, 2)` is how long a pixel is along x and y.
    `moments` `(points + 1, 5)` int64 are running sums of x, y, xx, xy, yy of `places`: exact, so that what is taken
    from them does not depend on the rings before.
    """

    places: I64
    origins: I64
    offsets: I64
    scale: F64
    moments: I64

    @classmethod
    def along(cls, coords: npt.NDArray[Any], rings: I64, scale: F64) -> Rings:
        """Take the points of rings that run along pixel sides (not closed, integer vertices `(n, 2)`)."""
        coords = coords.astype(np.int64)
        sizes = np.diff(rings)
        origins = coords[rings[:-1]] if len(sizes) else np.empty((0, 2), np.int64)
        after = np.arange(1, len(coords) + 1)
        after[rings[1:] - 1] = rings[:-1]
        step = coords[after] - coords
        length = np.abs(step).sum(axis=1)
        starts = np.concatenate([[0], np.cumsum(length)])
        edge = np.repeat(np.arange(len(coords)), length)
        along = np.arange(starts[-1]) - starts[edge]
        relative = 2 * (coords - np.repeat(origins, sizes, axis=0))
        places = relative[edge] + (2 * along + 1)[:, None] * np.sign(step)[edge]
        x, y = places[:, 0], places[:, 1]
        moments = np.zeros((len(places) + 1, 5), dtype=np.int64)
        np.cumsum(np.column_stack([x, y, x * x, x * y, y * y]), axis=0, out=moments[1:])
        return cls(places, origins, starts[rings], scale, moments)

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def sizes(self) -> I64:
        """Number of points of each ring: its length along pixel sides."""
        return np.diff(self.offsets)

    def keys(self) -> I64:
        """Return a number for each point that only the same pixel side has, whoever's outline it is."""
        place = self.places + 2 * np.repeat(self.origins, self.sizes, axis=0)
        found: I64 = place[:, 0] * (1 << 32) + place[:, 1]
        return found

    def sums(self, ring: I64, start: I64, end: I64) -> F64:
        """Return count and sums of u, v, uu, uv, vv of the points `start <= i < end` of rings, `(n, 6)` float64.

        Points count from the ring's first and go on past its end: `end <= start + size`. u and v are relative to the
        ring's origin.
        """
        base, size = self.offsets[ring], self.sizes[ring]
        turn = start // size * size
        start, end = start - turn, end - turn
        first, whole = self.moments[base], self.moments[base + size]
        low = self.moments[base + start] - first
        past = end > size
        high = self.moments[base + np.where(past, end - size, end)] - first
        found = high - low + np.where(past[:, None], whole - first, 0)
        return scaled(np.column_stack([end - start, found]), self.scale[ring])

    def smoothed(self) -> F64:
        """Return the points with the staircase smoothed away, `(points, 2)`, relative to the rings' origins."""
        if len(self.places) == 0:
            return np.empty((0, 2))
        after = np.arange(1, len(self.places) + 1)
        after[self.offsets[1:] - 1] = self.offsets[:-1]
        before = np.arange(-1, len(self.places) - 1)
        before[self.offsets[:-1]] = self.offsets[1:] - 1
        places: npt.NDArray[Any] = self.places
        for _ in range(SMOOTHINGS):
            places = places[before] + 2 * places + places[after]
        found: F64 = places / (2.0 * 4**SMOOTHINGS) * np.repeat(self.scale, self.sizes, axis=0)
        return found


def scaled(sums: npt.NDArray[Any], scale: F64) -> F64:
    """Return sums `(n, 6)` of doubled pixels as those of even pixels."""
    a, b = scale[:, 0] / 2, scale[:, 1] / 2
    n, x, y, xx, xy, yy = (sums[:, k].astype(np.float64) for k in range(6))
    return np.column_stack([n, x * a, y * b, xx * a * a, xy * a * b, yy * b * b])


@dataclass(frozen=True)
class Candidates:
    """Where rings may have corners.

    `point` `(n,)` are points of the rings, rising; ring `i` has those from `offsets[i]` to `offsets[i + 1]`, none if it
    is too winding. `place` `(n, 2)` are their smoothed places.
    """

    point: I64
    place: F64
    offsets: I64

    @property
    def sizes(self) -> I64:
        """Number of each ring's candidates."""
        return np.diff(self.offsets)


def candidates(rings: Rings) -> Candidates:
    """Find where rings may have corners: the vertices of a close polygon (Douglas-Peucker on the smoothed outline)."""
    smooth = rings.smoothed()
    sizes = rings.sizes
    chosen = np.zeros(len(smooth), dtype=np.bool_)
    chosen[gather(rings.offsets, np.flatnonzero(sizes <= ALL))[0]] = True
    left = np.flatnonzero(sizes > ALL)
    near = NEAR
    for _ in range(6):
        if len(left) == 0:
            break
        points, offsets = gather(rings.offsets, left)
        at = np.column_stack([smooth[points], points])
        closed = np.insert(np.arange(len(points)), offsets[1:], offsets[:-1])
        index = np.repeat(np.arange(len(left)), np.diff(offsets) + 1)
        simple = shapely.simplify(shapely.linearrings(at[closed], indices=index), near, preserve_topology=False)
        found, ring = shapely.get_coordinates(simple, include_z=True, return_index=True)
        # The last of a ring is its first again.
        kept = np.append(ring[1:] == ring[:-1], False) if len(ring) else np.empty(0, dtype=np.bool_)
        counts = np.bincount(ring[kept], minlength=len(left))
        few = counts <= CORNERS
        chosen[found[kept & few[ring], 2].astype(np.int64)] = True
        left, near = left[~few], near * 1.6
    which = np.flatnonzero(chosen)
    offsets = np.searchsorted(which, rings.offsets).astype(np.int64)
    point = which - rings.offsets[:-1].repeat(np.diff(offsets))
    return Candidates(point, smooth[which], offsets)
