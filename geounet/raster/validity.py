"""Which pixels hold measurements: the rules of `docs/decisions/0003-validity.md` as functions on arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LARGEST_READING = 65535
"""No 16-bit sensor counts further: a larger nodata value is no measurement."""

LOSSY_TOLERANCE = 4
"""By how much lossy compression changes the value of fill."""

LOSSY_SQUARE = 8
"""Fill in lossy files consists of squares of this size, px: the block of JPEG. Smaller bright spots are imagery."""

LOSSY_HALO = LOSSY_SQUARE - 1
"""Pixels around a window that `filled_lossy` needs."""

LOSSY_OPAQUE = 127
"""Alpha above it is opaque in lossy files, where that of transparent pixels is seldom 0."""

_EXACT = 2**24
"""Integers below it have no rounding in float32."""


def impossible(nodata: float) -> bool:
    """Whether a declared nodata value cannot be a measurement, so that one band that holds it is a missing band.

    Negative values, NaN, infinities and those above `LARGEST_READING` are; 0, 255 and the like also occur in imagery
    (a red roof has 0 in blue), and mean nodata only where all bands hold theirs.
    """
    return not math.isfinite(nodata) or nodata < 0 or nodata > LARGEST_READING


def occurs(nodata: float, dtype: str) -> bool:
    """Whether a value of this type can equal `nodata` at all: −9999 in uint8 cannot."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return True
    limits = np.iinfo(kind)
    return math.isfinite(nodata) and float(nodata).is_integer() and limits.min <= nodata <= limits.max


def equals(plane: Any, nodata: float) -> NDArray[np.bool_]:
    """Return where a band holds its nodata value, bool `(rows, cols)`.

    Floating point values that differ by the rounding of a decimal notation (4 units in the last place) are equal, as
    in GDAL. NaN equals NaN.
    """
    if not occurs(nodata, plane.dtype.name):
        return np.zeros(plane.shape, dtype=bool)
    if plane.dtype.kind != "f":
        return cast("NDArray[np.bool_]", plane == plane.dtype.type(nodata))
    if math.isnan(nodata):
        return cast("NDArray[np.bool_]", np.isnan(plane))
    with np.errstate(over="ignore", invalid="ignore"):
        value = plane.dtype.type(nodata)
        if not np.isfinite(value) or (float(value).is_integer() and abs(nodata) < _EXACT):
            return cast("NDArray[np.bool_]", plane == value)
        return cast("NDArray[np.bool_]", np.abs(plane - value) <= 4 * np.finfo(plane.dtype).eps * np.abs(value))


def everywhere(planes: Sequence[Any], values: Sequence[float]) -> NDArray[np.bool_]:
    """Return where every plane holds its value, bool `(rows, cols)`."""
    found = equals(planes[0], values[0])
    for plane, value in zip(planes[1:], values[1:], strict=True):
        if not found.any():
            break
        found = found & equals(plane, value)
    return found


def _shrunk(plane: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Return where a run of `LOSSY_SQUARE` pixels that starts here is all true; shorter by `LOSSY_HALO`."""
    plane = np.moveaxis(plane, axis, 0)
    step = 1
    while step < LOSSY_SQUARE:
        plane = plane[:-step] & plane[step:]
        step *= 2
    return np.moveaxis(plane, 0, axis)


def filled_lossy(
    planes: Sequence[Any], values: Sequence[float], beyond: tuple[tuple[int, int], tuple[int, int]]
) -> NDArray[np.bool_]:
    """Return where a window of a lossy file lies in fill, bool `(rows, cols)`.

    Compression moves the values of fill, and makes single pixels of imagery equal to it. Fill is therefore the union of
    all squares of `LOSSY_SQUARE` px in which every band is within `LOSSY_TOLERANCE` of its value (a morphological
    opening); squares may reach beyond the file's edge.

    Parameters
    ----------
    planes : sequence of array (rows + 2 * halo − beyond, cols + 2 * halo − beyond)
        The bands on the window and `LOSSY_HALO` pixels around it, as far as the file goes.
    values : sequence of float
        Value of the fill, by band.
    beyond : ((above, below), (left, right))
        Rows and columns of the halo that lie outside the file.
    """
    near: NDArray[np.bool_] | None = None
    for plane, value in zip(planes, values, strict=True):
        here = (plane >= value - LOSSY_TOLERANCE) & (plane <= value + LOSSY_TOLERANCE)
        near = here if near is None else near & here
        if not near.any():
            break
    if near is None or not near.any():
        rows, cols = planes[0].shape
        (above, below), (left, right) = beyond
        return np.zeros((rows + above + below - 2 * LOSSY_HALO, cols + left + right - 2 * LOSSY_HALO), dtype=bool)
    squares = _shrunk(_shrunk(np.pad(near, beyond, constant_values=True), 0), 1)
    return ~_shrunk(_shrunk(~squares, 0), 1)


def finite(plane: Any) -> NDArray[np.bool_] | None:
    """Return where a band of floats is finite as float32, bool `(rows, cols)`, or None where that is everywhere."""
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is finite if all terms are, and costs no temporary array; an overflow only costs the exact look.
        if plane.dtype.itemsize <= 4 and np.isfinite(plane.sum(dtype=np.float64)):
            return None
        good: NDArray[np.bool_] = np.isfinite(plane.astype(np.float32, copy=False))
    return None if good.all() else good
