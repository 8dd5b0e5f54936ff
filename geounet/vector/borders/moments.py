"""Straight lines of least squares through the pixel steps of borders, from running sums of whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geounet.vector.borders.arcs import Arcs
from geounet.vector.trace import I64

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lines:
    """Lines through stretches of borders.

    `x, y` is a point of the line, in pixels from the vertex where its stretch starts. `xx, xy, yy` is the quadratic
    form of the distance to the line: `xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy` is its square at `dx, dy` from
    that point. `steps` is the number of unit steps of the stretch, `error` the sum of squared distances of their
    middles.
    """

    x: F64
    y: F64
    xx: F64
    xy: F64
    yy: F64
    steps: F64
    error: F64


class Moments:
    """Sums over the middles of unit steps of borders, up to each vertex."""

    def __init__(self, arcs: Arcs) -> None:
        after = arcs.following()
        # Doubled coordinates, so that middles are whole numbers; from the border's first vertex on, so that sums are
        # small and do not depend on where in the raster, or beside which other borders, it lies.
        begin = np.repeat(arcs.offsets[:-1], np.diff(arcs.offsets))
        self._x, self._y = 2 * (arcs.x - arcs.x[begin]), 2 * (arcs.y - arcs.y[begin])
        x0, y0, x1, y1 = self._x, self._y, self._x[after], self._y[after]
        steps = (np.abs(x1 - x0) + np.abs(y1 - y0)) // 2

        def squares(p: I64, q: I64) -> I64:
            """Sum of squares of the odd numbers between even ones; of the one number as often, if they are equal."""
            low, high = np.minimum(p, q) // 2, np.maximum(p, q) // 2
            return np.where(p == q, steps * p * p, (high * (4 * high * high - 1) - low * (4 * low * low - 1)) // 3)

        sx, sy = steps * (x0 + x1) // 2, steps * (y0 + y1) // 2
        # One of both coordinates is constant on an edge of the mask.
        columns = (steps, sx, sy, squares(x0, x1), np.where(y0 == y1, sx * y0, sy * x0), squares(y0, y1))
        self._sums = [np.concatenate([[0], np.cumsum(column)]) for column in columns]
        arc = arcs.owner
        self._around = [(s[arcs.offsets[1:]] - s[arcs.offsets[:-1]])[arc] for s in self._sums]

    def lines(self, start: I64, stop: I64) -> Lines:
        """Return the lines through the steps from vertices `start` to `stop`, in closed borders also past their end."""
        wraps = stop <= start
        n, sx, sy, sxx, sxy, syy = (
            s[stop] - s[start] + np.where(wraps, around[start], 0)
            for s, around in zip(self._sums, self._around, strict=True)
        )
        ox, oy = self._x[start], self._y[start]
        mxx, myy = sxx - 2 * ox * sx + n * ox * ox, syy - 2 * oy * sy + n * oy * oy
        mxy = sxy - ox * sy - oy * sx + n * ox * oy
        count = np.maximum(n, 1).astype(np.float64)
        x, y = (sx - n * ox) / count, (sy - n * oy) / count
        xx, xy, yy = (mxx / count - x * x) / 4, (mxy / count - x * y) / 4, (myy / count - y * y) / 4
        half = (xx - yy) / 2
        root = np.sqrt(half * half + xy * xy)
        error = np.maximum((xx + yy) / 2 - root, 0) * count
        # Steps that have no direction of their own: that from the first to the last vertex.
        ex, ey = (self._x[stop] - ox).astype(np.float64), (self._y[stop] - oy).astype(np.float64)
        none = root < 1e-9
        half = np.where(none, (ex * ex - ey * ey) / 2, half)
        xy = np.where(none, ex * ey, xy)
        root = np.where(none, np.maximum((ex * ex + ey * ey) / 2, 1e-9), root)
        return Lines(x / 2, y / 2, (1 - half / root) / 2, -xy / root / 2, (1 + half / root) / 2, count, error)
