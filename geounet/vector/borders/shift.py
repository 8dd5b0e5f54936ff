"""Where the chosen vertices go: to where lines through the mask's pixel steps meet, within half a pixel.

Each edge stands for a run of the mask's unit steps. The straight line of least squares through the middles of the
steps runs neither on their inner nor on their outer side; a vertex moves to where the lines of its two edges meet
(Selinger 2003, Potrace, section 2.3), as a least-squares problem that stays put along lines that hardly meet.
"""

from __future__ import annotations

import numpy as np

from geounet.vector.borders.arcs import Arcs
from geounet.vector.borders.choose import off_edge
from geounet.vector.borders.corners import BOX, FINE, SHIFT, Corners, free, ragged
from geounet.vector.borders.moments import F64, Moments
from geounet.vector.trace import I64, Bools

HOLD = 0.02
"""Weight of where a vertex was against where the lines meet."""


class Chosen:
    """Borders after the choice: vertex `i` is `at[i]` of the mask's; `before` and `after` count in the chosen ones."""

    def __init__(self, arcs: Arcs, keep: Bools) -> None:
        self.at = np.flatnonzero(keep)
        number = np.cumsum(keep) - 1
        self.offsets = np.concatenate([[0], np.cumsum(keep)])[arcs.offsets]
        self.arc = arcs.owner[self.at]
        self.closed = arcs.closed
        self.fixed = np.zeros(len(self.at), dtype=np.bool_)
        open_ = ~arcs.closed
        self.fixed[self.offsets[:-1][open_]] = True
        self.fixed[self.offsets[1:][open_] - 1] = True
        here = np.arange(len(self.at))
        last, first = self.offsets[1:] - 1, self.offsets[:-1]
        self.after = np.minimum(here + 1, len(here) - 1)
        self.after[last] = np.where(arcs.closed, first, last)
        self.before = np.maximum(here - 1, 0)
        self.before[first] = np.where(arcs.closed, last, first)
        self.x, self.y = arcs.x[self.at], arcs.y[self.at]
        self._number = number
        self._start, self._size = arcs.offsets[:-1][self.arc], np.diff(arcs.offsets)[self.arc]

    def between(self, first: I64, last: I64) -> tuple[I64, I64]:
        """Return `(entry, vertex of the mask)` of all vertices from `first` to `last`, both included."""
        begin, start, size = self.at[first], self._start[first], self._size[first]
        edges = (self.at[last] - begin) % size
        owner, step = ragged(np.zeros_like(edges), edges + 1)
        return owner, start[owner] + (begin[owner] - start[owner] + step) % size[owner]


def shifts(arcs: Arcs, chosen: Chosen, limit: float) -> F64:
    """Return how far vertices move `(n, 2)`, in pixels, at most `limit` in either axis; ends of borders do not."""
    moved = np.zeros((len(chosen.at), 2))
    if len(moved) == 0:
        return moved
    line = Moments(arcs).lines(chosen.at, chosen.at[chosen.after])
    before = chosen.before
    # The line of the edge before, seen from its own start.
    bx, by = line.x[before] + chosen.x[before] - chosen.x, line.y[before] + chosen.y[before] - chosen.y
    xx, xy, yy = line.xx + line.xx[before] + HOLD, line.xy + line.xy[before], line.yy + line.yy[before] + HOLD
    px = line.xx * line.x + line.xy * line.y + line.xx[before] * bx + line.xy[before] * by
    py = line.xy * line.x + line.yy * line.y + line.xy[before] * bx + line.yy[before] * by
    determinant = xx * yy - xy * xy
    x, y = (yy * px - xy * py) / determinant, (xx * py - xy * px) / determinant
    outside = np.flatnonzero(np.maximum(np.abs(x), np.abs(y)) > limit)
    x[outside], y[outside] = _on_edge(xx[outside], xy[outside], yy[outside], px[outside], py[outside], limit)
    moved[:, 0], moved[:, 1] = x, y
    moved[chosen.fixed] = 0
    return moved


def levelled(arcs: Arcs, chosen: Chosen, moved: F64, limit: float) -> F64:
    """Return shifts that leave the areas on both sides of each border as in the mask, as far as `limit` allows.

    All vertices of a border move by the same distance, square to its course.
    """
    if len(moved) == 0:
        return moved
    count = len(arcs.closed)
    begin = np.repeat(arcs.offsets[:-1], np.diff(arcs.offsets))
    px, py, after = arcs.x - arcs.x[begin], arcs.y - arcs.y[begin], arcs.following()
    target = np.add.reduceat(px * py[after] - px[after] * py, arcs.offsets[:-1])
    px, py, after, before = px[chosen.at], py[chosen.at], chosen.after, chosen.before
    for _ in range(2):
        x, y = px + moved[:, 0], py + moved[:, 1]
        area = np.bincount(chosen.arc, x * y[after] - x[after] * y, minlength=count)
        along, down = x[after] - x[before], y[after] - y[before]
        length = np.where(chosen.fixed, 0, np.sqrt(along * along + down * down))
        total = np.bincount(chosen.arc, length, minlength=count)
        by = ((target - area) / np.maximum(total, 1))[chosen.arc] / np.maximum(length, 1e-9)
        step = np.column_stack([down * by, -along * by])
        step[length < 1e-9] = 0
        moved = np.clip(moved + step, -limit, limit)
    return moved


def _on_edge(xx: F64, xy: F64, yy: F64, px: F64, py: F64, limit: float) -> tuple[F64, F64]:
    """Return where on the edge of a square the quadratic functions are least."""
    best = np.full(len(xx), np.inf)
    x, y = np.zeros(len(xx)), np.zeros(len(xx))
    for side in (-limit, limit):
        for at_x, at_y in (
            (np.full(len(xx), side), np.clip((py - xy * side) / yy, -limit, limit)),
            (np.clip((px - xy * side) / xx, -limit, limit), np.full(len(xx), side)),
        ):
            value = xx * at_x * at_x + 2 * xy * at_x * at_y + yy * at_y * at_y - 2 * (px * at_x + py * at_y)
            better = value < best
            best = np.where(better, value, best)
            x, y = np.where(better, at_x, x), np.where(better, at_y, y)
    return x, y


def settled(arcs: Arcs, chosen: Chosen, moved: F64, tolerance: float, corners: Corners) -> I64:
    """Return vertices `(n, 2)` in `FINE` parts of a pixel: moved, or not where that would go too far.

    That is: near corners of other borders, or so that an edge would be more than `tolerance` pixels away from one of
    the mask's corners that it replaces.
    """
    step = np.rint(np.clip(moved * FINE, -SHIFT, SHIFT)).astype(np.int64)
    x, y = FINE * chosen.x, FINE * chosen.y
    edge = np.flatnonzero(chosen.after != np.arange(len(chosen.at)))
    goes = np.asarray(step.any(axis=1))
    edge = edge[goes[edge] | goes[chosen.after[edge]]]
    owner, vertex = chosen.between(edge, chosen.after[edge])
    a, c = edge, chosen.after[edge]
    # All that both ends can sweep lies within `SHIFT` of the edge.
    tight = ~free((x[a], y[a], x[c], y[c], x[c], y[c]), (owner, vertex), (arcs.x, arcs.y), corners, SHIFT)
    while True:
        step[a[tight]] = 0
        step[c[tight]] = 0
        at_x, at_y = x + step[:, 0], y + step[:, 1]
        px, py = FINE * arcs.x[vertex] - at_x[a][owner], FINE * arcs.y[vertex] - at_y[a][owner]
        off = off_edge(px, py, (at_x[c] - at_x[a])[owner], (at_y[c] - at_y[a])[owner])
        tight = np.zeros(len(edge), dtype=np.bool_)
        tight[owner[off > (FINE * tolerance) ** 2]] = True
        goes = np.asarray(step.any(axis=1))
        tight &= goes[a] | goes[c]
        if not tight.any():
            break
    found: I64 = np.column_stack([x, y]) + step
    return found


assert SHIFT < BOX < BOX + SHIFT < FINE
