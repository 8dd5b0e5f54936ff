"""Fill that nobody has declared: collars of one value that a model takes for imagery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geounet.raster.validity import LOSSY_TOLERANCE

if TYPE_CHECKING:
    from geounet.report.picture import InputPicture

_LEAST = 0.01
"""Smaller shares of a scene are not worth a word."""
_LOWEST = (-9999.0, -32768.0)
"""What fill is called where values may be negative."""
_ROUNDING = 0.5
"""The average of whole numbers is stored as one."""


def undeclared_fill(picture: InputPicture, dtype: str) -> tuple[int, float] | None:
    """Look for fill in the picture of a whole scene: ground along its edges that is one value in all bands.

    Values are those that fill has: 0, the largest of an unsigned type, and -9999 and -32768. What is surrounded by
    imagery is a dark roof or a bright cloud, and no fill.

    Parameters
    ----------
    picture
        The input, averaged to the size of a picture; its `valid` is what is declared.
    dtype
        How the scene is stored.

    Returns
    -------
    tuple or None
        `(value, share)`: the value, and which part of the scene it covers, 0.01 to 1; None where there is no such fill.
    """
    kind = np.dtype(dtype)
    values = [0.0, *((float(np.iinfo(kind).max),) if kind.kind == "u" else _LOWEST)]
    within = LOSSY_TOLERANCE if picture.lossy else _ROUNDING if kind.kind in "iu" else 0.0
    found = [(int(value), _along_edges(picture, value, within)) for value in values]
    value, share = max(found, key=lambda one: one[1])
    return (value, share) if share >= _LEAST else None


def _along_edges(picture: InputPicture, value: float, within: float) -> float:
    """Return the share of the picture that has a value and hangs together with its edges."""
    there = picture.valid & (np.abs(picture.planes - value) <= within).all(axis=0)
    if there.mean() < _LEAST:
        return 0.0
    from scipy import ndimage  # seldom needed

    parts, _ = ndimage.label(there)
    rims = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return float(np.isin(parts, np.unique(rims[rims > 0])).mean())
