"""What an outline must be to stand for its raw shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geounet.vector.trace import Bools

MIN_IOU = 0.85
"""An outline overlaps the raw one at least so much (intersection over union)."""

Geometries = npt.NDArray[Any]


def passes(raw: Geometries, outline: Geometries, reach: float | None) -> Bools:
    """Return which outlines are valid polygons, overlap the raw ones by `MIN_IOU`, and are near them.

    Parameters
    ----------
    raw, outline
        `(n,)` polygons, pair by pair; outlines may be missing, empty or invalid.
    reach
        Largest distance of a vertex of either boundary from the other; None: they are known to be near.
    """
    good = ~shapely.is_missing(outline) & shapely.is_valid(outline) & ~shapely.is_empty(outline)
    good &= shapely.get_type_id(outline) == shapely.GeometryType.POLYGON
    if reach is not None:
        at = np.flatnonzero(good)
        good[at] = _within(raw[at], outline[at], reach) & _within(outline[at], raw[at], reach)
    at = np.flatnonzero(good)
    sizes = shapely.area(raw[at]), shapely.area(outline[at])
    common = shapely.area(shapely.intersection(raw[at], outline[at]))
    good[at] = common >= MIN_IOU * (sizes[0] + sizes[1] - common)
    found: Bools = good
    return found


def _within(ones: Geometries, others: Geometries, reach: float) -> Bools:
    """Return of which polygons all vertices are within `reach` of the other's boundary.

    In time n log n by an index of the boundary; GEOS' own Hausdorff distance looks at every edge for every vertex,
    which is most of the work for blocks of houses.
    """
    boundary = shapely.boundary(others)
    shapely.prepare(boundary)
    points, owner = shapely.get_coordinates(ones, return_index=True)
    near = shapely.dwithin(shapely.points(points), boundary[owner], reach)
    near_all: Bools = np.bincount(owner[~near], minlength=len(ones)) == 0
    return near_all


def simplified(raw: Geometries, tolerance: float) -> tuple[Geometries, Bools]:
    """Simplify outlines one by one (Douglas-Peucker without change of topology).

    Returns
    -------
    outlines
        Simplified where that passes the gate; else raw.
    simplified
        Which of them are.
    """
    if tolerance <= 0 or len(raw) == 0:
        return raw, np.zeros(len(raw), dtype=np.bool_)
    simple = shapely.orient_polygons(shapely.simplify(raw, tolerance, preserve_topology=True), exterior_cw=False)
    # Near they are: what Douglas-Peucker leaves out is within the tolerance of the edge that stands for it.
    good = passes(raw, simple, None)
    return np.where(good, simple, raw), good
