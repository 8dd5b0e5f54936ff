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

    Floating point values that differ by rounding of a decimal notation (4 units in the last place) are equal, as
    in GDAL. NaN equals NaN.
    """
    if plane.dtype.kind != "f":
        return cast("NDArray[np.bool_]", plane == plane.dtype.type(nodata))
    if math.isnan(nodata):
        return cast("NDArray[np.bool_]", np.isnan(plane))
    with np.errstate(over="ignore"):
        value = plane.dtype.type(nodata)
    if not np.isfinite(value) or value == 0:
        return cast("NDArray[np.bool_]", plane == value)
    near = 4 * np.abs(np.spacing(value))
    with np.errstate(over="ignore", invalid="ignore"):
        return cast("NDArray[np.bool_]", np.abs(plane - value) <= near)


def everywhere(planes: Sequence[Any], values: Sequence[float]) -> NDArray[np.bool_]:
    """Return where every plane holds its value, bool `(rows, cols)`."""
    found = equals(planes[0], values[0])
    for plane, value in zip(planes[1:], values[1:], strict=True):
        if not found.any():
            break
        found = found & equals(plane, value)
    return found


def finite(plane: Any) -> NDArray[np.bool_] | None:
    """Return where a band of floats is finite as float32, bool `(rows, cols)`, or None where that is everywhere."""
    with np.errstate(over="ignore", invalid="ignore"):
        # A sum is finite if all terms are, and costs no temporary array; an overflow only costs the exact look.
        if plane.dtype.itemsize <= 4 and np.isfinite(plane.sum(dtype=np.float64)):
            return None
        good: NDArray[np.bool_] = np.isfinite(plane.astype(np.float32, copy=False))
    return None if good.all() else good
