"""Which vertices of borders stay: as few as are needed for straight lines to follow the mask's pixels.

Vertices go in rounds, from all places at once where taking one away costs less than taking away its neighbours. The
cost is by how much one straight line through the pixel steps on both sides of the vertex fits worse than two do: the
bottom-up way of piecewise linear regression (Keogh et al. 2001, An online algorithm for segmenting time series).
Straight lines in whatever direction come out straight: their steps are off by a variance of 1/12 px² at most, which is
allowed. (Visvalingam & Whyatt 1993 and Douglas & Peucker 1973 see no difference between the stairs of a straight line
and bends of a pixel, and what they keep runs along one side of the stairs.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from geounet.vector.borders.arcs import Arcs
from geounet.vector.borders.corners import FINE, Corners, free, ragged
from geounet.vector.borders.moments import Moments
from geounet.vector.trace import I64, Bools

REACH = 256
"""Longest edge in pixels, in either axis, that replaces others."""

FEWEST = 4
"""Vertices that stay of a border that closes."""

STEPS_AT_ONCE = 2_000_000
"""Vertices of the mask looked at in one go."""


@dataclass(frozen=True)
class Limits:
    """When a vertex may go; distances are those of the mask's corners, in pixels.

    `edge` is the largest distance from the edge past the vertex, `line` that from the line through the steps it
    replaces, `variance` the largest mean of their squared distances from that line, and `bias` the largest mean
    distance of the edge from what it replaces, both sides cancelling.
    """

    edge: float
    line: float
    variance: float
    bias: float


class _State:
    """The borders while vertices go."""

    def __init__(self, arcs: Arcs, limits: Limits, corners: Corners) -> None:
        self.x, self.y = arcs.x, arcs.y
        self.arc = arcs.owner
        self.limits, self.corners = limits, corners
        self.moments = Moments(arcs)
        self.after = arcs.following()
        self.before = np.arange(-1, len(self.x) - 1)
        first, last = arcs.offsets[:-1], arcs.offsets[1:] - 1
        self.before[first] = np.where(arcs.closed, last, first)
        self.pinned = np.zeros(len(self.x), dtype=np.bool_)
        self.pinned[first[~arcs.closed]] = True
        self.pinned[last[~arcs.closed]] = True
        self.start, self.size = first[self.arc], np.diff(arcs.offsets)[self.arc]
        self.ring = arcs.closed | ((self.x[first] == self.x[last]) & (self.y[first] == self.y[last]))
        """Borders that close, also those that begin and end in the same place."""
        self.spare = np.diff(arcs.offsets) - np.where(self.ring, FEWEST + ~arcs.closed, 3)
        """How many vertices of each border may still go; of one that does not close, one between its ends stays."""
        self.error = np.zeros(len(self.x))
        """How well the line through what it replaces fits, for the edge that starts at each vertex."""
        self.net = np.zeros(len(self.x), dtype=np.int64)
        """Twice the signed area between that edge and what it replaces."""
        self.cost = np.full(len(self.x), np.inf)
        self.ties = _scrambled(self.x, self.y)

    def merged(self, at: I64) -> I64:
        """Return twice the signed areas between the edges past vertices and what they replace."""
        x, y, a, c = self.x, self.y, self.before[at], self.after[at]
        cut = (x[at] - x[a]) * (y[c] - y[a]) - (y[at] - y[a]) * (x[c] - x[a])
        return np.asarray(self.net[a] + self.net[at] + cut)

    def weigh(self, at: I64) -> None:
        """Set the cost of vertices, infinite for those that must stay."""
        a, c = self.before[at], self.after[at]
        x, y = self.x, self.y
        self.cost[at] = np.inf
        lines = self.moments.lines(a, c)
        # Over the root of their number: short stretches grow before long ones do.
        worse = (lines.error - self.error[a] - self.error[at]) / np.sqrt(lines.steps)
        dx, dy = x[c] - x[a], y[c] - y[a]
        size = np.maximum(np.abs(dx), np.abs(dy))
        may = (size > 0) & (size <= REACH) & (lines.error <= self.limits.variance * lines.steps)
        may &= np.abs(self.merged(at)) <= 2 * self.limits.bias * np.sqrt(dx * dx + dy * dy)
        may = np.flatnonzero(may)
        # In order, so that at most so many vertices of the mask are looked at in one go.
        edges = np.cumsum(self._between(at[may]))
        for some in np.split(may, np.flatnonzero(np.diff(edges // STEPS_AT_ONCE)) + 1):
            some = some[self._near(at[some])]
            self.cost[at[some]] = worse[some]

    def _between(self, at: I64) -> I64:
        """Return how many edges of the mask the edges past vertices would replace."""
        return np.asarray((self.after[at] - self.before[at]) % self.size[at])

    def _near(self, at: I64) -> Bools:
        """Whether the edges past vertices keep near what they replace, and nothing is in the way."""
        if len(at) == 0:
            return np.zeros(0, dtype=np.bool_)
        x, y, a, c, start, size = self.x, self.y, self.before[at], self.after[at], self.start[at], self.size[at]
        edges = self._between(at)
        owner, step = ragged(np.zeros_like(edges), edges + 1)
        own = start[owner] + (a[owner] - start[owner] + step) % size[owner]
        px, py = x[own] - x[a][owner], y[own] - y[a][owner]
        near = off_edge(px, py, (x[c] - x[a])[owner], (y[c] - y[a])[owner]) <= self.limits.edge**2
        lines = self.moments.lines(a, c)
        dx, dy = px - lines.x[owner], py - lines.y[owner]
        off = lines.xx[owner] * dx * dx + 2 * lines.xy[owner] * dx * dy + lines.yy[owner] * dy * dy
        near &= off <= self.limits.line**2
        good: Bools = np.logical_and.reduceat(near, np.cumsum(edges + 1) - edges - 1)
        look = np.flatnonzero(good)
        number, mine = np.cumsum(good) - 1, good[owner]
        a, at, c = a[look], at[look], c[look]
        triangle = (FINE * x[a], FINE * y[a], FINE * x[at], FINE * y[at], FINE * x[c], FINE * y[c])
        good[look] = free(triangle, (number[owner[mine]], own[mine]), (x, y), self.corners)
        return good

    def least(self) -> I64:
        """Return the vertices that go next: those that cost less than their neighbours."""
        some = np.flatnonzero(self.cost < np.inf)
        some = some[self.spare[self.arc[some]] > 0]
        least = np.ones(len(some), dtype=np.bool_)
        for neighbour in (self.before[some], self.after[some]):
            mine, theirs = self.cost[some], self.cost[neighbour]
            least &= (mine < theirs) | ((mine == theirs) & (self.ties[some] < self.ties[neighbour]))
        going = some[least]
        # Every other vertex of a small ring would be too many at once: one at a time.
        small = self.ring[self.arc[going]] & (self.spare[self.arc[going]] <= FEWEST)
        few: I64 = going[small]
        few = few[np.lexsort((self.ties[few], self.cost[few], self.arc[few]))]
        few = few[np.diff(self.arc[few], prepend=-1) != 0]
        found: I64 = np.concatenate([going[~small], few])
        return found

    def take(self, going: I64) -> I64:
        """Take vertices away; returns those whose neighbours have changed."""
        a, c = self.before[going], self.after[going]
        self.error[a] = self.moments.lines(a, c).error
        self.net[a] = self.merged(going)
        np.subtract.at(self.spare, self.arc[going], 1)
        self.cost[going] = np.inf
        self.after[a], self.before[c] = c, a
        touched = np.zeros(len(self.x), dtype=np.bool_)
        touched[a] = True
        touched[c] = True
        found: I64 = np.flatnonzero(touched & ~self.pinned)
        return found


def off_edge(px: I64, py: I64, ex: I64, ey: I64) -> Any:
    """Return squared distances of points from edges that begin in the origin and end in `ex, ey`."""
    along, across, length = px * ex + py * ey, px * ey - py * ex, ex * ex + ey * ey
    beyond = np.where(along < 0, px * px + py * py, (px - ex) ** 2 + (py - ey) ** 2)
    return np.where((along >= 0) & (along <= length), across * across / np.maximum(length, 1), beyond)


def _scrambled(x: I64, y: I64) -> I64:
    """Return numbers by which ties between neighbours go: as good as random, so that few rounds are needed."""
    mixed = x.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ y.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    found: I64 = (mixed ^ (mixed >> np.uint64(32))).astype(np.int64)
    return found


def chosen(arcs: Arcs, limits: Limits, corners: Corners) -> Bools:
    """Return which vertices of borders stay.

    Parameters
    ----------
    arcs
        Borders of the mask.
    limits
        When a vertex may go.
    corners
        Where the mask's corners are.
    """
    keep = np.ones(len(arcs.x), dtype=np.bool_)
    if limits.edge <= 0 or len(keep) == 0:
        return keep
    state = _State(arcs, limits, corners)
    touched = np.flatnonzero(~state.pinned & (state.spare[state.arc] > 0))
    while True:
        state.weigh(touched)
        going = state.least()
        if len(going) == 0:
            return keep
        keep[going] = False
        touched = state.take(going)
