"""The pixels of edges: put together from the cells' paths, some edges to a task; and what is read off them.

Lengths here are in pixels of equal size along both axes: `x` and `y` times `Metric.scale`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geounet.vector import parts
from geounet.vector.attributes import F64
from geounet.vector.network import Chains, Graph, Paths
from geounet.vector.polygons import gather
from geounet.vector.prune import Metric
from geounet.vector.skeleton import Lines, Stage
from geounet.vector.trace import I64, Bools

PLAN_PIXELS = 100_000
"""Pixels of edges in one task, about."""

HOOK = 0.6
"""A line's end that sticks out of a disc before it by less than this part of its radius is cut off at the disc."""

SLIVER = 0.6
"""A line's end that is narrower than this part of the line is cut off, if it is not longer than two widths."""

SHORT, LONG = 8.0, 40.0
"""Shortest and longest piece of line that tells a direction, in pixels; between them, two widths of the road."""


def write_plans(stage: Stage, what: str, paths: Paths, chains: Chains, size: I64, columns: parts.Arrays) -> int:
    """Write of which pieces of paths edges consist, some edges to a file, with further columns; returns how many."""
    groups = np.cumsum(size) // PLAN_PIXELS
    bounds = np.flatnonzero(np.diff(groups, prepend=-1, append=np.iinfo(np.int64).max))
    cell = np.searchsorted(paths.cells, chains.path, side="right") - 1
    index = chains.path - paths.cells[cell]
    for k in range(len(bounds) - 1):
        low, high = bounds[k], bounds[k + 1]
        run = slice(chains.offsets[low], chains.offsets[high])
        parts.save(
            stage.part(what, k),
            {
                "cell": cell[run],
                "path": index[run],
                "from": chains.first[run],
                "to": chains.last[run],
                "pieces": chains.offsets[low : high + 1] - chains.offsets[low],
                **{name: column[low:high] for name, column in columns.items()},
            },
        )
    return len(bounds) - 1


def assembled(stage: Stage, plan: parts.Arrays) -> Lines:
    """Return the pixels of a plan's edges; a pixel at which two pieces meet comes once."""
    first, last = plan["from"], plan["to"]
    size = np.abs(last - first) + 1
    where = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    total = int(where[-1])
    pixel, squared = np.empty(total, np.int64), np.empty(total, np.int64)
    stored = np.empty(total, np.uint8)
    for cell in np.unique(plan["cell"]).tolist():
        part = parts.load(stage.path(cell), ["pixel", "squared", "stored", "offsets"])
        mine = np.flatnonzero(plan["cell"] == cell)
        target, _ = gather(where, mine)
        step = np.repeat(np.where(last[mine] >= first[mine], 1, -1), size[mine])
        begin = np.repeat(part["offsets"][plan["path"][mine]] + first[mine], size[mine])
        source = begin + step * (target - np.repeat(where[mine], size[mine]))
        for out, name in ((pixel, "pixel"), (squared, "squared"), (stored, "stored")):
            out[target] = part[name][source]
    heads = where[:-1]
    again = np.zeros(total, dtype=np.bool_)
    inside = np.ones(len(heads), dtype=np.bool_)
    inside[plan["pieces"][:-1][np.diff(plan["pieces"]) > 0]] = False
    inner = np.flatnonzero(inside)
    again[heads[inner]] = pixel[heads[inner]] == pixel[heads[inner] - 1]
    kept = np.concatenate([[0], np.cumsum(~again)])
    return Lines(pixel[~again], squared[~again], stored[~again], kept[where[plan["pieces"]]])


@dataclass(frozen=True)
class Course:
    """Edges as vertices: middles of pixels and distances to the road's edge, in pixels of equal size; length so far."""

    x: F64
    y: F64
    radius: F64
    way: F64
    offsets: I64

    @property
    def line(self) -> I64:
        """The line that each vertex is of."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def course(lines: Lines, cols: int, metric: Metric) -> Course:
    """Return where lines run."""
    sx, sy = metric.scale
    row, col = np.divmod(lines.pixel, cols)
    x, y = (col + 0.5) * sx, (row + 0.5) * sy
    step = np.hypot(np.diff(x, prepend=x[:1]), np.diff(y, prepend=y[:1]))
    return Course(x, y, metric.radius(lines.squared) / metric.pixel, along(step, lines.offsets), lines.offsets)


def along(step: F64, offsets: I64) -> F64:
    """Return how far each vertex is from its line's first one, given the lengths of the steps that lead to them."""
    step = step.copy()
    step[offsets[:-1][offsets[:-1] < len(step)]] = 0
    total = np.cumsum(step)
    return total - np.repeat(total[offsets[:-1]], np.diff(offsets)) if len(step) else total


@dataclass(frozen=True)
class Ends:
    """One end of each line.

    Attributes
    ----------
    cut
        Number of vertices at the end that do not tell where the road runs: within a junction's disc, or in a hook.
    x, y, dx, dy
        The first vertex that does, and the direction towards the end there; of length 1, or 0 if there is none.
    radius
        The road's half-width there.
    reach
        How far the road goes on in this direction: to where it leaves the discs around what was cut.
    """

    cut: I64
    x: F64
    y: F64
    dx: F64
    dy: F64
    radius: F64
    reach: F64


def ends_of(
    lines: Course,
    *,
    last: bool,
    free: Bools,
    leaves: Bools | None = None,
    whole: tuple[float, float] = (0, 0),
    most: I64 | None = None,
) -> Ends:
    """Return what is seen at one end of each line.

    Parameters
    ----------
    lines
        The lines.
    last
        Whether their last ends are looked at, rather than the first ones.
    free, leaves
        Which are dead ends, and which lead to the raster's edge, rather than to a junction.
    whole
        Size of the raster, x and y.
    most
        So many vertices may be cut off; left out: two thirds of a line, but all of it at junctions.
    """
    offsets = lines.offsets
    size = np.diff(offsets)
    index = np.arange(len(lines.x))
    line = lines.line
    # Vertices counted from the end that is looked at.
    if last:
        index = offsets[line] + offsets[line + 1] - 1 - index
    x, y, radius = lines.x[index], lines.y[index], lines.radius[index]
    way = lines.way[index] if not last else lines.way[np.repeat(offsets[1:] - 1, size)] - lines.way[index]
    head = offsets[:-1]
    number = np.arange(len(x)) - head[line]
    tip = radius[head][line]
    # Junction: the first vertex outside of the disc. Dead end: the last whose disc all but holds what comes after.
    apart = np.hypot(x - x[head][line], y - y[head][line])
    outside = np.minimum.reduceat(np.where(apart >= tip, number, len(x)), head)
    hook = np.maximum.reduceat(np.where(apart + tip <= (1 + HOOK) * radius, number, 0), head)
    usual = medians(lines.radius, offsets)[line]
    sound = np.minimum.reduceat(np.where((radius >= SLIVER * usual) & (way <= 4 * usual), number, len(x)), head)
    hook = np.maximum(hook, np.where(sound < len(x), sound, 0))
    cut = np.where(free, hook, np.minimum(outside, size - 1))
    if leaves is not None and leaves.any():
        # At the raster's edge: the first vertex whose disc is within the raster.
        room = np.minimum(np.minimum(x, whole[0] - x), np.minimum(y, whole[1] - y))
        within = np.minimum.reduceat(np.where(room >= radius, number, len(x)), head)
        cut = np.where(leaves, np.minimum(within, size - 1), cut)
    cut = np.minimum(cut, most if most is not None else np.where(free, 2 * (size - 1) // 3, size - 1))
    at = head + cut
    span = np.clip(4 * radius[at], SHORT, LONG)
    later = (number >= cut[line]) & (way <= (way[at] + span)[line])
    # The direction leads from the mean of the farther half of that piece to that of the nearer one.
    near = later & (way <= (way[at] + span / 2)[line])
    far = later & ~near

    def mean(values: F64, which: Bools) -> F64:
        count = np.add.reduceat(which.astype(np.int64), head)
        return np.add.reduceat(np.where(which, values, 0.0), head) / np.maximum(count, 1)

    dx, dy = mean(x, near) - mean(x, far), mean(y, near) - mean(y, far)
    none = ~np.logical_or.reduceat(far, head)
    end = head + size - 1
    dx, dy = np.where(none, x[at] - x[end], dx), np.where(none, y[at] - y[end], dy)
    norm = np.hypot(dx, dy)
    dx, dy = (np.divide(d, norm, out=np.zeros(len(d)), where=norm > 0) for d in (dx, dy))
    # How far a ray from the vertex stays within the discs around what is cut.
    ahead = (x - x[at][line]) * dx[line] + (y - y[at][line]) * dy[line]
    beside = (x - x[at][line]) * dy[line] - (y - y[at][line]) * dx[line]
    inside = (number <= cut[line]) & (np.abs(beside) < radius)
    leave = np.where(inside, ahead + np.sqrt(np.maximum(radius**2 - beside**2, 0)), 0)
    reach = np.maximum(np.maximum.reduceat(leave, head) - 0.5, 0)
    return Ends(cut, x[at], y[at], dx, dy, radius[at], reach)


def tips_of(graph: Graph) -> tuple[I64, Bools]:
    """Return the edges with dead ends and at which ends `(edges, 2)`."""
    degree = graph.degree
    free = np.column_stack([degree[graph.start] == 1, degree[graph.end] == 1]) & (graph.bridge < 0)[:, None]
    edges = np.flatnonzero(free.any(axis=1))
    return edges, free[edges]


def medians(values: F64, offsets: I64) -> F64:
    """Return the median of each run of values."""
    run = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ordered = values[np.lexsort((values, run))]
    size = np.diff(offsets)
    found: F64 = (ordered[offsets[:-1] + (size - 1) // 2] + ordered[offsets[:-1] + size // 2]) / 2
    return found
