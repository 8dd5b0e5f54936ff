"""Outlines of the components in one cell, as rings where they close and as chains where they leave the cell.

A unit edge runs along one side of a pixel with the pixel on its right hand: top side east, right side south, bottom
side west, left side north. At its end the two pixels ahead decide how the outline goes on: left if the one ahead on
the left is of the same component, else straight on if the one ahead on the right is, else right. Going left where two
pixels of one component meet only at a corner makes every ring simple: for 4-connected components the rings are those
of a valid polygon, which has one of clockwise sense (y down), its shell; all others are holes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from geounet.types import NODATA, Rect
from geounet.vector.source import U8

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

STEP = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)], dtype=np.int64)
"""`(dy, dx)` of the headings east, south, west, north."""

START = np.array([(0, 0), (0, 1), (1, 1), (1, 0)], dtype=np.int64)
"""`(dy, dx)` from a pixel's first corner to where the edge on its top, right, bottom, left side starts."""


@dataclass(frozen=True)
class Pieces:
    """Runs of vertices along outlines; a closed piece is a whole ring, its first vertex not repeated.

    `coords` `(vertices, 2)` int32 are `x, y` of pixel corners in the raster; piece `i` has those from `offsets[i]` to
    `offsets[i + 1]`. `key` is `4 * pixel + side` of a unit edge, pixels counted row by row in the raster. The piece
    starts with edge `start`; its outline goes on with `end`, or with `same` if the component of `other` (a label of
    this cell), or of the raster's pixel `other_pixel`, is its own. Unused entries are -1.
    """

    coords: I32
    junction: Bools
    offsets: I64
    label: I32
    closed: Bools
    start: I64
    end: I64
    same: I64
    other: I32
    other_pixel: I64


def chain_order(following: I64, rank: I64, group: I64) -> tuple[I64, I64, Bools]:
    """Order the nodes of paths and cycles.

    Parameters
    ----------
    following
        Index of the node after each node, -1 at the end of a path. No node follows two.
    rank
        A cycle starts with its node of least rank; distinct within a cycle.
    group
        Paths and cycles are ordered by `(group, rank)` of their first node.

    Returns
    -------
    order
        Nodes, path after path.
    offsets
        Where in `order` each path starts, and the end.
    closed
        Whether each is a cycle.
    """
    count = len(following)
    if count == 0:
        return np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.bool_)
    linked = np.flatnonzero(following >= 0)
    before = np.full(count, -1, dtype=np.int64)
    before[following[linked]] = linked
    graph = csr_array((np.ones(len(linked), np.int8), (linked, following[linked])), shape=(count, count))
    parts, part = connected_components(graph, directed=False)
    first = np.full(parts, -1, dtype=np.int64)
    last = np.full(parts, -1, dtype=np.int64)
    heads = np.flatnonzero(before < 0)
    first[part[heads]] = heads
    tails = np.flatnonzero(following < 0)
    last[part[tails]] = tails
    closed = first < 0
    least = np.full(parts, np.iinfo(np.int64).max)
    np.minimum.at(least, part, rank)
    of_cycle = np.flatnonzero(closed[part] & (rank == least[part]))
    first[part[of_cycle]] = of_cycle
    last[part[of_cycle]] = before[of_cycle]
    sequence = np.lexsort((rank[first], group[first]))
    # One long path: the end of each part leads to the start of the next, so that one search visits all in order.
    successor = following.copy()
    successor[last[sequence[:-1]]] = first[sequence[1:]]
    successor[last[sequence[-1]]] = -1
    pointers = np.concatenate([[0], np.cumsum(successor >= 0)]).astype(np.int32)
    path = csr_array((np.ones(count - 1), successor[successor >= 0].astype(np.int32), pointers), shape=(count, count))
    order = breadth_first_order(path, int(first[sequence[0]]), directed=True, return_predecessors=False)
    sizes = np.bincount(part, minlength=parts)[sequence]
    return order.astype(np.int64), np.concatenate([[0], np.cumsum(sizes)]), closed[sequence]


def corners(halo: U8) -> Bools:
    """Return which vertices `(rows - 1, cols - 1)` between the pixels of `halo` are on a border and not straight."""
    top, bottom = halo[:-1, :-1] != halo[:-1, 1:], halo[1:, :-1] != halo[1:, 1:]
    left, right = halo[:-1, :-1] != halo[1:, :-1], halo[:-1, 1:] != halo[1:, 1:]
    bent: Bools = (top != bottom) | (left != right) | (top & left)
    return bent


def _runs(halo: U8, side: int, junctions: bool) -> tuple[I64, I64, I64, I64]:
    """Return pixels `(y0, x0, y1, x1)` where straight runs of edges on one side of pixels start and end."""
    rows, cols = halo.shape[0] - 2, halo.shape[1] - 2

    def view(dy: int, dx: int) -> U8:
        return halo[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + cols]

    (ay, ax), (ly, lx) = STEP[side], STEP[side - 1]
    own, outer, ahead, left = view(0, 0), view(ly, lx), view(ay, ax), view(ay + ly, ax + lx)
    edge = (own != outer) & (own != NODATA)
    # Where a third border meets, the run ends too if the vertex is wanted.
    on = edge & (own == ahead) & ((outer == left) if junctions else (own != left))
    came = np.zeros_like(on)
    if side == 0:
        on[:, -1] = False
        came[:, 1:] = on[:, :-1]
    elif side == 1:
        on[-1] = False
        came[1:] = on[:-1]
    elif side == 2:
        on[:, 0] = False
        came[:, :-1] = on[:, 1:]
    else:
        on[0] = False
        came[:-1] = on[1:]
    starts, ends = edge & ~came, edge & ~on
    if side % 2 == 0:
        y0, x0 = np.divmod(np.flatnonzero(starts), cols)
        y1, x1 = np.divmod(np.flatnonzero(ends), cols)
    else:  # column by column, so that starts and ends of runs stand in one order
        x0, y0 = np.divmod(np.flatnonzero(starts.T), rows)
        x1, y1 = np.divmod(np.flatnonzero(ends.T), rows)
    return y0, x0, y1, x1


def trace(halo: U8, labels: I32, touches: Bools, rect: Rect, raster_cols: int, *, junctions: bool) -> Pieces:
    """Trace all outlines of a cell.

    Parameters
    ----------
    halo
        Values `(rows + 2, cols + 2)`: the cell and one pixel around it; 255 is left out.
    labels
        4-connected components of equal value in the cell `(rows, cols)`, from 1; 0 where the value is 255.
    touches
        For each label (and for 0) whether it has a pixel on the cell's edge, hence may go on in other cells.
    rect
        The cell's place in the raster.
    raster_cols
        Width of the raster.
    junctions
        Keep the vertices on straight outlines where three or four borders meet.
    """
    rows, cols = rect.shape
    runs = [_runs(halo, side, junctions) for side in range(4)]
    sizes = np.array([len(r[0]) for r in runs])
    begin = np.concatenate([[0], np.cumsum(sizes)])
    y0, x0, y1, x1 = (np.concatenate([r[i] for r in runs]) for i in range(4))
    side = np.repeat(np.arange(4), sizes)
    # Keys of starts within each side ascend: row by row on horizontal sides, column by column on vertical ones.
    sorted_starts = [
        (y0[begin[s] : begin[s + 1]] * cols + x0[begin[s] : begin[s + 1]])
        if s % 2 == 0
        else (x0[begin[s] : begin[s + 1]] * rows + y0[begin[s] : begin[s + 1]])
        for s in range(4)
    ]

    ahead_y, ahead_x = y1 + STEP[side, 0], x1 + STEP[side, 1]
    left_y, left_x = ahead_y + STEP[side - 1, 0], ahead_x + STEP[side - 1, 1]
    own = halo[y1 + 1, x1 + 1]
    is_ahead = halo[ahead_y + 1, ahead_x + 1] == own
    is_left = halo[left_y + 1, left_x + 1] == own
    label = labels[y0, x0]

    corner = is_left & ~is_ahead  # pixels of one value that meet only at this corner, as far as can be seen here
    left_inside = (left_y >= 0) & (left_y < rows) & (left_x >= 0) & (left_x < cols)
    other = np.full(len(side), -1, dtype=np.int32)
    seen = corner & left_inside
    other[seen] = labels[left_y[seen], left_x[seen]]
    one = seen & (other == label)
    open_inside = seen & ~one & touches[label] & touches[np.maximum(other, 0)]
    open_outside = corner & ~left_inside
    turn_left = (is_left & is_ahead) | one
    straight = is_ahead & ~is_left
    next_side = np.where(turn_left, side - 1, np.where(straight, side, side + 1)) % 4
    next_y = np.where(turn_left, left_y, np.where(straight, ahead_y, y1))
    next_x = np.where(turn_left, left_x, np.where(straight, ahead_x, x1))

    inside = (next_y >= 0) & (next_y < rows) & (next_x >= 0) & (next_x < cols)
    inside &= ~open_inside & ~open_outside
    following = np.full(len(side), -1, dtype=np.int64)
    for s in range(4):
        at = np.flatnonzero(inside & (next_side == s))
        key = next_y[at] * cols + next_x[at] if s % 2 == 0 else next_x[at] * rows + next_y[at]
        following[at] = begin[s] + np.searchsorted(sorted_starts[s], key)

    vertex_y, vertex_x = y0 + START[side, 0], x0 + START[side, 1]
    rank = (vertex_y + rect.y0) * (raster_cols + 1) + vertex_x + rect.x0
    order, offsets, closed = chain_order(following, rank, label.astype(np.int64))

    a, b = halo[vertex_y, vertex_x], halo[vertex_y, vertex_x + 1]
    c, d = halo[vertex_y + 1, vertex_x], halo[vertex_y + 1, vertex_x + 1]
    meeting = (a != b).astype(np.int8) + (c != d) + (a != c) + (b != d)

    def key_of(s: I64, y: I64, x: I64) -> I64:
        found: I64 = ((y + rect.y0) * raster_cols + x + rect.x0) * 4 + s
        return found

    head, tail = order[offsets[:-1]], order[offsets[1:] - 1]
    end = key_of(next_side, next_y, next_x)[tail]
    undecided = open_inside[tail] | open_outside[tail]
    same = np.where(undecided, key_of((side - 1) % 4, left_y, left_x)[tail], -1)
    start = key_of(side, y0, x0)[head]
    coords = np.column_stack([vertex_x[order] + rect.x0, vertex_y[order] + rect.y0]).astype(np.int32)
    return Pieces(
        coords=coords,
        junction=(meeting >= 3)[order],
        offsets=offsets,
        label=label[head],
        closed=closed,
        start=start,
        end=np.where(closed, start, end),
        same=same,
        other=np.where(open_inside[tail], other[tail], -1).astype(np.int32),
        other_pixel=np.where(open_outside[tail], (left_y + rect.y0)[tail] * raster_cols + (left_x + rect.x0)[tail], -1),
    )
