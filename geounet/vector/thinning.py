"""Thinning to lines one pixel wide, at the cost of the pixels that change rather than of the whole array.

Guo & Hall 1989, "Parallel thinning with two-subiteration algorithms", Communications of the ACM 32, algorithm A1; the
result is that of `skimage.morphology.thin`. Connectivity of the class (8) and of what lies between (4) is kept, and
diagonal lines two pixels wide are not eaten up from their ends, as Zhang & Suen 1984 do.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from geounet.types import Rect
from geounet.vector.trace import I64, Bools

AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""Steps `(dy, dx)` to the 8 neighbours, clockwise from the one above; neighbour `i` is bit `7 - i` of a code."""


def around(cols: int) -> I64:
    """Return the distances of the 8 neighbours in an array of `cols` columns, flattened."""
    return np.array([dy * cols + dx for dy, dx in AROUND], dtype=np.int64)


def codes(flat: npt.NDArray[np.uint8], at: I64, steps: I64) -> npt.NDArray[np.uint8]:
    """Return which neighbours of pixels are set, as a byte each."""
    return np.packbits(flat[at[:, None] + steps], axis=1)[:, 0]


@lru_cache(maxsize=1)
def _deletable() -> tuple[Bools, Bools]:
    """Return for each code whether its pixel goes in the first and in the second subiteration."""
    code = np.arange(256)
    n, ne, e, se, s, sw, w, nw = ((code >> (7 - i)) & 1 > 0 for i in range(8))
    crossings = (~n & (ne | e)).astype(int) + (~e & (se | s)) + (~s & (sw | w)) + (~w & (nw | n))
    one = (nw | n).astype(int) + (ne | e) + (se | s) + (sw | w)
    two = (n | ne).astype(int) + (e | se) + (s | sw) + (w | nw)
    fewer = np.minimum(one, two)
    simple = (crossings == 1) & (fewer >= 2) & (fewer <= 3)
    return simple & ~((n | ne | ~se) & e), simple & ~((s | sw | ~nw) & w)


def thin(mask: Bools, watched: Rect | None = None, held: I64 | None = None) -> tuple[Bools, int]:
    """Return the centre lines of a mask; beyond its edge there is nothing.

    Parameters
    ----------
    mask
        `(rows, cols)`.
    watched
        A part of the mask; left out: all of it.
    held
        Pixels that stay, as indices into the flattened mask; lines lead to them.

    Returns
    -------
    lines
        `(rows, cols)`.
    steps
        Number of the last subiteration that changed a pixel in `watched`. What a pixel becomes up to subiteration `n`
        depends on pixels at most `n` away.
    """
    rows, cols = mask.shape[0] + 2, mask.shape[1] + 2
    padded = np.zeros((rows, cols), dtype=np.uint8)
    padded[1:-1, 1:-1] = mask
    flat = padded.ravel()
    inner = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    y, x = np.nonzero(mask & (inner == 0))
    dirty = [(y + 1) * cols + x + 1] * 2
    where = Rect(0, 0, *mask.shape) if watched is None else watched
    steps = around(cols)
    place = np.empty(flat.size, dtype=np.int32)
    deletable = _deletable()
    stays = np.zeros(flat.size, dtype=np.bool_)
    if held is not None:
        y, x = np.divmod(held, mask.shape[1])
        stays[(y + 1) * cols + x + 1] = True
    step = last = 0
    while len(dirty[0]) or len(dirty[1]):
        turn = step % 2
        step += 1
        # What has not changed around it since it was looked at in this kind of subiteration stays.
        looked = dirty[turn]
        looked = looked[(flat[looked] > 0) & ~stays[looked]]
        gone = looked[deletable[turn][codes(flat, looked, steps)]]
        dirty[turn] = np.empty(0, dtype=np.int64)
        if not len(gone):
            continue
        flat[gone] = 0
        y, x = np.divmod(gone, cols)
        if ((y > where.y0) & (y <= where.y1) & (x > where.x0) & (x <= where.x1)).any():
            last = step
        beside = (gone[:, None] + steps).ravel()
        beside = beside[flat[beside] > 0]
        dirty = [_distinct(np.concatenate([old, beside]), place) for old in dirty]
    return padded[1:-1, 1:-1] > 0, last


def _distinct(values: I64, place: npt.NDArray[np.int32]) -> I64:
    """Return distinct values in any order, the same every time; `place` is scratch memory."""
    index = np.arange(len(values), dtype=np.int32)
    place[values] = index
    kept: I64 = values[place[values] == index]
    return kept
