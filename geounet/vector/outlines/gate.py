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


def passes(raw: Geometries, outline: Geometries, reach: float) -> Bools:
    """Return which outlines are valid polygons, overlap the raw ones by `MIN_IOU`, and are near them.

    Parameters
    ----------
    raw, outline
        `(n,)` polygons, pair by pair; outlines may be missing, empty or invalid.
    reach
        Largest Hausdorff distance between both boundaries.
    """
    good = ~shapely.is_missing(outline) & shapely.is_valid(outline) & ~shapely.is_empty(outline)
    good &= shapely.get_type_id(outline) == shapely.GeometryType.POLYGON
    at = np.flatnonzero(good)
    sizes = shapely.area(raw[at]), shapely.area(outline[at])
    common = shapely.area(shapely.intersection(raw[at], outline[at]))
    near = common >= MIN_IOU * (sizes[0] + sizes[1] - common)
    near[near] &= (
        shapely.hausdorff_distance(shapely.boundary(raw[at[near]]), shapely.boundary(outline[at[near]])) <= reach
    )
    good[at] = near
    found: Bools = good
    return found


def simplified(raw: Geometries, tolerance: float) -> tuple[Geometries, Bools]:
    """Simplify outlines one by one (Douglas-Peucker without change of topology).

    Returns
    -------
    outlines
        Simplified where that passes the gate, with a reach of twice the tolerance; else raw.
    simplified
        Which of them are.
    """
    if tolerance <= 0 or len(raw) == 0:
        return raw, np.zeros(len(raw), dtype=np.bool_)
    simple = shapely.orient_polygons(shapely.simplify(raw, tolerance, preserve_topology=True), exterior_cw=False)
    good = passes(raw, simple, 2 * tolerance)
    return np.where(good, simple, raw), good
