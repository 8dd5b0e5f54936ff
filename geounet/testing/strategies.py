"""Hypothesis strategies for masks and rectangles: the shapes that break vectorising, tiling and stitching.

Needs hypothesis, which is no dependency of geounet: import this module in tests only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from geounet.types import NODATA, Rect

Mask = NDArray[np.uint8]


def checkerboard(rows: int, cols: int, cell: int = 1) -> Mask:
    """Return squares of 0 and 1, `cell` pixels wide: as many polygons that touch at corners as there can be."""
    y, x = np.ogrid[:rows, :cols]
    return np.asarray((y // cell + x // cell) % 2, dtype=np.uint8)


def rings(rows: int, cols: int, y: int, x: int, width: int = 1) -> Mask:
    """Return square rings of 0 and 1 around pixel (y, x): polygons within holes of polygons."""
    yy, xx = np.ogrid[:rows, :cols]
    return np.asarray(np.maximum(np.abs(yy - y), np.abs(xx - x)) // width % 2, dtype=np.uint8)


def spiral(rows: int, cols: int) -> Mask:
    """Return one connected path of 1, one pixel wide, that winds to the middle: a polygon in every row and column."""
    out = np.zeros((rows, cols), dtype=np.uint8)
    y, x, dy, dx = 0, 0, 0, 1
    out[0, 0] = 1
    turned = 0

    def open_ahead(y: int, x: int, dy: int, dx: int) -> bool:
        a, b = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
        if not (0 <= a[0] < rows and 0 <= a[1] < cols) or out[a]:
            return False
        return not (0 <= b[0] < rows and 0 <= b[1] < cols and out[b])

    while turned < 2:
        if open_ahead(y, x, dy, dx):
            y, x, turned = y + dy, x + dx, 0
            out[y, x] = 1
        else:
            dy, dx, turned = dx, -dy, turned + 1
    return out


def rectangles(rows: int, cols: int, codes: Sequence[int], seed: int, count: int = 12) -> Mask:
    """Return rectangles of the codes painted over one another."""
    rng = np.random.default_rng(seed)
    out = np.full((rows, cols), codes[0], dtype=np.uint8)
    for _ in range(count):
        y, x = rng.integers(rows), rng.integers(cols)
        out[y : y + 1 + rng.integers(rows), x : x + 1 + rng.integers(cols)] = rng.choice(codes)
    return out


def noise(rows: int, cols: int, codes: Sequence[int], seed: int, cell: int = 1) -> Mask:
    """Return squares of random codes, `cell` pixels wide."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice(np.asarray(codes, dtype=np.uint8), (-(-rows // cell), -(-cols // cell)))
    return np.kron(coarse, np.ones((cell, cell), dtype=np.uint8))[:rows, :cols]


@st.composite
def masks(
    draw: st.DrawFn,
    *,
    max_rows: int = 40,
    max_cols: int = 40,
    codes: Sequence[int] = (0, 1, 2),
    nodata: bool = True,
) -> Mask:
    """Draw masks (rows, cols) uint8 of the codes, some with nodata (255); they shrink to small and plain ones."""
    rows, cols = draw(st.integers(1, max_rows)), draw(st.integers(1, max_cols))
    seed = draw(st.integers(0, 2**16))
    kind = draw(st.sampled_from(("plain", "rectangles", "noise", "checkerboard", "rings", "spiral")))
    if kind == "plain":
        out = np.full((rows, cols), draw(st.sampled_from(list(codes))), dtype=np.uint8)
    elif kind == "rectangles":
        out = rectangles(rows, cols, codes, seed)
    elif kind == "noise":
        out = noise(rows, cols, codes, seed, draw(st.integers(1, 5)))
    else:
        if kind == "checkerboard":
            two = checkerboard(rows, cols, draw(st.integers(1, 4)))
        elif kind == "rings":
            y, x = draw(st.integers(0, rows - 1)), draw(st.integers(0, cols - 1))
            two = rings(rows, cols, y, x, draw(st.integers(1, 3)))
        else:
            two = spiral(rows, cols)
        out = np.asarray((codes[0], codes[-1]), dtype=np.uint8)[two]
    if nodata and draw(st.booleans()):
        out = np.where(noise(rows, cols, (0, 0, 0, 1), seed + 1, draw(st.integers(1, 6))) == 1, np.uint8(NODATA), out)
    return out


@st.composite
def rects(draw: st.DrawFn, rows: int, cols: int) -> Rect:
    """Draw rectangles of at least one pixel within (rows, cols)."""
    y0, x0 = draw(st.integers(0, rows - 1)), draw(st.integers(0, cols - 1))
    return Rect(y0, x0, draw(st.integers(y0 + 1, rows)), draw(st.integers(x0 + 1, cols)))
