"""Outlines cut into borders: each border once, in one direction, whichever of its two sides it was found on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geounet.vector.borders.corners import FINE, ragged
from geounet.vector.trace import I32, I64, Bools


@dataclass(frozen=True)
class Arcs:
    """Borders in pixels: `x, y` of those from `offsets[i]` to `offsets[i + 1]` make border `i`.

    An open border begins and ends with the fixed vertices it runs between, which may be one and the same place. A
    closed one does not repeat its first vertex.
    """

    x: I64
    y: I64
    offsets: I64
    closed: Bools

    @property
    def owner(self) -> I64:
        """The border of each vertex."""
        return np.repeat(np.arange(len(self.closed)), np.diff(self.offsets))

    def following(self) -> I64:
        """Index of the vertex after each; at the end of an open border, itself."""
        after = np.arange(1, len(self.x) + 1)
        last = self.offsets[1:] - 1
        after[last] = np.where(self.closed, self.offsets[:-1], last)
        return after


@dataclass(frozen=True)
class Paths:
    """Runs of vertices along outlines, whole rings or parts of them, on the way from the mask to finished borders.

    `coords` are in `FINE` parts of a pixel. `fixed` tells the vertices where borders end; `raw` those whose border,
    from this vertex on, is still as in the mask. A closed path is a whole ring, its first vertex not repeated.
    """

    coords: I32
    fixed: Bools
    raw: Bools
    offsets: I64
    closed: Bools


@dataclass(frozen=True)
class Uses:
    """Where borders occur in paths, in order: border `arc`, in `reverse` or not, from vertex `start` of `path` on.

    `steps` is the number of its edges; `base` and `size` are the path's first vertex and their number.
    """

    path: I64
    start: I64
    steps: I64
    base: I64
    size: I64
    arc: I64
    reverse: Bools

    def vertices(self, which: I64, count: I64) -> tuple[I64, I64]:
        """Return `(entry of which, vertex)` of the first `count` vertices of uses, backwards if they are reversed."""
        owner, step = ragged(np.zeros_like(count), count)
        at = which[owner]
        step = np.where(self.reverse[at], self.steps[at] - step, step)
        base = self.base[at]
        return owner, base + (self.start[at] - base + step) % self.size[at]


def split(paths: Paths) -> tuple[Arcs, Uses]:
    """Return the raw borders that are whole in `paths`, and where they occur."""
    sizes = np.diff(paths.offsets)
    path_of = np.repeat(np.arange(len(sizes)), sizes)
    ends = np.flatnonzero(paths.fixed)
    of = path_of[ends]
    count = np.bincount(of, minlength=len(sizes))
    first = np.cumsum(count) - count
    again = np.arange(1, len(ends) + 1)
    last = np.zeros(len(ends), dtype=np.bool_)
    last[(first + count - 1)[count > 0]] = True
    again[last] = first[of[last]]
    kept = paths.raw[ends] & (~last | paths.closed[of])
    start, stop, of = ends[kept], ends[again[kept]], of[kept]
    steps = (stop - start - 1) % sizes[of] + 1

    loops = np.flatnonzero((count == 0) & paths.closed & (sizes > 0))
    loops = loops[paths.raw[paths.offsets[loops]]]
    start = np.concatenate([start, _first_in_raster_order(paths, loops)])
    path = np.concatenate([of, loops])
    steps = np.concatenate([steps, sizes[loops]])
    closed = np.zeros(len(path), dtype=np.bool_)
    closed[len(of) :] = True
    order = np.argsort(path, kind="stable")
    path, start, steps, closed = path[order], start[order], steps[order], closed[order]
    base, size = paths.offsets[path], sizes[path]

    x, y = (paths.coords[:, i].astype(np.int64) // FINE for i in (0, 1))
    after_start = base + (start - base + 1) % size
    end = base + (start - base + steps) % size
    before_end = base + (start - base + steps - 1) % size
    forward = _name(x, y, start, after_start)
    backward = _name(x, y, end, before_end)
    _, once, arc = np.unique(np.minimum(forward, backward), return_index=True, return_inverse=True)
    uses = Uses(path, start, steps, base, size, arc.ravel(), backward < forward)
    # A closed border stops one vertex short of where it started.
    owner, vertex = uses.vertices(once, steps[once] + ~closed[once])
    offsets = np.searchsorted(owner, np.arange(len(once) + 1))
    return Arcs(x[vertex], y[vertex], offsets, closed[once]), uses


def _first_in_raster_order(paths: Paths, which: I64) -> I64:
    """Return the first vertex in raster order of each of some closed paths."""
    owner, vertex = ragged(paths.offsets[which], paths.offsets[which + 1])
    x, y = paths.coords[vertex, 0], paths.coords[vertex, 1]
    order = np.lexsort((x, y, owner))
    return vertex[order][np.searchsorted(owner, np.arange(len(which)))]


def _name(x: I64, y: I64, vertex: I64, towards: I64) -> I64:
    """Return a number for leaving a vertex in a direction; two borders never leave one vertex in one direction."""
    dx, dy = x[towards] - x[vertex], y[towards] - y[vertex]
    heading = np.where(dy == 0, np.where(dx > 0, 0, 1), np.where(dy > 0, 2, 3))
    return (y[vertex] << 33 | x[vertex] << 2) | heading


def replace(paths: Paths, uses: Uses, coords: I32, offsets: I64) -> Paths:
    """Return paths with their raw borders replaced by finished ones.

    Parameters
    ----------
    paths
        What was split.
    uses
        Where borders occur in it.
    coords, offsets
        Finished borders, in `FINE` parts of a pixel; open ones with both ends.
    """
    closed = (uses.steps == uses.size) & ~paths.fixed[uses.start]
    # Paths are made of finished borders, each without its last vertex, and of what lies between them, as it was.
    taken = np.zeros(len(paths.coords), dtype=np.bool_)
    owner, step = ragged(np.zeros_like(uses.steps), uses.steps)
    taken[uses.base[owner] + (uses.start[owner] - uses.base[owner] + step) % uses.size[owner]] = True
    rest = np.flatnonzero(~taken)
    length = np.diff(offsets)[uses.arc] - ~closed
    owner, step = ragged(np.zeros_like(length), length)
    begin, end = offsets[uses.arc[owner]], offsets[uses.arc[owner] + 1]
    # Backwards: an open border from its last vertex on; a closed one from its first, then from its last on.
    back = np.where(closed[owner], begin + (end - begin - step) % (end - begin), end - 1 - step)
    source = np.where(uses.reverse[owner], back, begin + step)
    path_of = np.repeat(np.arange(len(paths.closed)), np.diff(paths.offsets))
    path = np.concatenate([path_of[rest], uses.path[owner]])
    # In order of where each vertex, or the border it is of, started; paths lie one after the other.
    order = np.argsort(np.concatenate([rest, uses.start[owner]]), kind="stable")
    fixed = np.concatenate([paths.fixed[rest], (step == 0) & ~closed[owner]])[order]
    raw = np.concatenate([paths.raw[rest], np.zeros(len(owner), np.bool_)])[order]
    made = np.concatenate([paths.coords[rest], coords[source]])[order]
    return Paths(made, fixed, raw, np.searchsorted(path[order], np.arange(len(paths.closed) + 1)), paths.closed)


def as_paths(coords: I32, fixed: Bools, offsets: I64, closed: Bools) -> Paths:
    """Return raw paths of vertices in pixels."""
    return Paths(coords * np.int32(FINE), fixed, np.ones(len(coords), np.bool_), offsets, closed)


def on_frame(coords: npt.NDArray[np.int32], rows: int, cols: int) -> Bools:
    """Whether vertices in pixels lie on the edge of the raster."""
    x, y = coords[:, 0], coords[:, 1]
    found: Bools = (x == 0) | (x == cols) | (y == 0) | (y == rows)
    return found
