"""Lines that do not show the pixels they come from, and do not leave the road they are on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely

from geounet.vector.attributes import F64
from geounet.vector.trace import I64

ROOM = 0.6
"""Vertices move by at most this part of their distance to the road's edge, less half a pixel."""

LEAST = 0.7
"""Smaller widths of the filter, in pixels, change nothing."""


def resampled(coords: F64, radius: F64, offsets: I64) -> tuple[F64, F64, I64]:
    """Return lines with vertices about one apart, evenly along each line.

    Parameters
    ----------
    coords
        `(vertices, 2)`.
    radius
        A value at each vertex, interpolated with it.
    offsets
        Where in `coords` each line starts, and the end. Every line has two vertices or more and a length.
    """
    step = np.hypot(*np.diff(coords, axis=0).T)
    step[offsets[1:-1] - 1] = 0
    at = np.concatenate([[0], np.cumsum(step)])
    length = at[offsets[1:] - 1] - at[offsets[:-1]]
    pieces = np.maximum(2, np.rint(length)).astype(np.int64)
    bounds = np.concatenate([[0], np.cumsum(pieces + 1)])
    line = np.repeat(np.arange(len(pieces)), pieces + 1)
    share = (np.arange(bounds[-1]) - bounds[line]) / pieces[line]
    where = at[offsets[line]] + share * length[line]
    low = np.clip(np.searchsorted(at, where, side="right") - 1, offsets[line], offsets[line + 1] - 2)
    part = np.divide(where - at[low], step[low], out=np.zeros(len(where)), where=step[low] > 0)
    part = np.clip(part, 0, 1)
    found = coords[low] + part[:, None] * (coords[low + 1] - coords[low])
    values = radius[low] + part * (radius[low + 1] - radius[low])
    # Ends are ends, to the last digit.
    found[bounds[:-1]], found[bounds[1:] - 1] = coords[offsets[:-1]], coords[offsets[1:] - 1]
    return found, values, bounds


def kernel(sigma: float) -> F64:
    """Return the weights of a filter that keeps lines and arcs: a Gaussian, and what it takes away given back.

    "Twicing" (Tukey 1977, Exploratory data analysis, p. 526): the filter is `2 G - G * G`.
    """
    half = int(np.ceil(3 * sigma))
    gauss = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    gauss /= gauss.sum()
    twice = -np.convolve(gauss, gauss)
    twice[half : 3 * half + 1] += 2 * gauss
    return np.asarray(twice / twice.sum())


def smoothed(coords: F64, offsets: I64, sigma: F64, room: F64) -> F64:
    """Return lines smoothed along their course, ends fixed.

    Parameters
    ----------
    coords
        `(vertices, 2)`, about one apart.
    offsets
        Where each line starts, and the end.
    sigma
        Width of each line's filter in vertices; taken down to half octaves, and to a twelfth of the line.
    room
        How far each vertex may move.
    """
    size = np.diff(offsets) - 1
    octave = np.floor(2 * np.log2(np.maximum(np.minimum(sigma, size / 12), 1e-9)))
    moved = coords.copy()
    for level in np.unique(octave[octave >= 2 * np.log2(LEAST)]).tolist():
        weights = kernel(2 ** (level / 2))
        half = len(weights) // 2
        chosen = np.flatnonzero(octave == level)
        first, last = offsets[chosen], offsets[chosen + 1] - 1
        # Each line goes on beyond its ends as it was, turned about the end: ends stay where they are.
        width = last - first + 1 + 2 * half
        bounds = np.concatenate([[0], np.cumsum(width)])
        run = np.repeat(np.arange(len(chosen)), width)
        at = np.arange(bounds[-1]) - bounds[run] - half + first[run]
        below, above = at < first[run], at > last[run]
        inner = np.where(below, 2 * first[run] - at, np.where(above, 2 * last[run] - at, at))
        inner = np.clip(inner, first[run], last[run])
        values = coords[inner]
        values[below] = 2 * coords[first[run[below]]] - values[below]
        values[above] = 2 * coords[last[run[above]]] - values[above]
        count = len(values) - 2 * half
        total = np.zeros((count, 2))
        for k, weight in enumerate(weights.tolist()):
            total += weight * values[k : k + count]
        # The filter's middle stands `half` further; windows that reach over lines are not used.
        own = np.flatnonzero(~below & ~above)
        moved[at[own]] = total[own - half]
    moved[offsets[:-1]], moved[offsets[1:] - 1] = coords[offsets[:-1]], coords[offsets[1:] - 1]
    way = np.hypot(*(moved - coords).T)
    share = np.minimum(1.0, np.divide(room, way, out=np.ones(len(way)), where=way > 0))
    return coords + share[:, None] * (moved - coords)


def simplified(coords: F64, offsets: I64, tolerance: F64, room: F64, loops: npt.NDArray[np.bool_]) -> tuple[F64, I64]:
    """Return lines with fewer vertices (Douglas & Peucker 1973).

    Parameters
    ----------
    coords, offsets
        The lines.
    tolerance
        Largest deviation of each line; halved until no vertex is further from its line than its room.
    room
        Of each vertex.
    loops
        Which lines are closed: they keep four vertices at least.
    """
    lines = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, coords, (offsets,))
    found = np.array(lines, dtype=object)
    todo, left = np.flatnonzero(tolerance > 0), np.array(tolerance, dtype=np.float64)
    points: npt.NDArray[np.object_] = np.asarray(shapely.points(coords), dtype=object)
    line = np.repeat(np.arange(len(lines)), np.diff(offsets))
    for _ in range(6):
        if not len(todo):
            break
        simple = shapely.simplify(lines[todo], left[todo], preserve_topology=False)
        place = np.full(len(lines), -1)
        place[todo] = np.arange(len(todo))
        mine = np.flatnonzero(place[line] >= 0)
        away = shapely.distance(points[mine], simple[place[line[mine]]])
        bad = np.zeros(len(todo), dtype=np.bool_)
        bad[place[line[mine[away > room[mine] + 1e-9]]]] = True
        bad |= loops[todo] & (shapely.get_num_coordinates(simple) < 4)
        found[todo[~bad]] = simple[~bad]
        todo = todo[bad]
        left[todo] /= 2
    _, vertices, (starts,) = shapely.to_ragged_array(found)
    return vertices, np.asarray(starts, dtype=np.int64)
