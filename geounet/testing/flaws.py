"""Masks as a network gives them: rounded corners, borders that waver, specks and holes; made from true polygons.

The share of each pixel that a polygon covers is blurred, a smooth random field is added, and what reaches one half
belongs to it: corners become round, straight walls waver and stay connected. Where two polygons claim a pixel the
larger share wins. Then small discs are set or cleared anywhere; some of them make bumps and dents. The same seed gives
the same mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

SUPER = 4
"""Coverage is counted on a grid so many times finer."""

Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Flaws:
    """How bad a mask is.

    Attributes
    ----------
    blur
        Standard deviation of the blur, px: what the corners lose.
    waver
        Standard deviation of the border's displacement, px.
    reach
        Over which distance the displacement keeps its sign, px: standard deviation of the field's smoothing.
    specks
        Discs for each 10 000 px, half of them set and half cleared, with radii from 0.7 px to `speck`.
    speck
        Largest radius, px.
    """

    blur: float
    waver: float
    reach: float
    specks: float
    speck: float


LEVELS = {
    "none": Flaws(0.0, 0.0, 1.0, 0.0, 1.0),
    "light": Flaws(0.8, 0.25, 2.0, 2.0, 1.5),
    "medium": Flaws(1.5, 0.5, 2.5, 4.0, 2.2),
    "heavy": Flaws(2.5, 0.9, 3.0, 6.0, 3.0),
}
"""Severity by name."""


def flawed(polygons: Sequence[shapely.Polygon], shape: tuple[int, int], flaws: Flaws, seed: int) -> Labels:
    """Return which pixel belongs to which polygon, with flaws.

    Parameters
    ----------
    polygons
        In pixels, x right, y down.
    shape
        Rows and columns.
    flaws
        How bad; `LEVELS` has some.
    seed
        Of all that is random.

    Returns
    -------
    labels
        `(rows, cols)` int32: 0 for none, `i + 1` for polygon `i`, higher numbers for specks that touch none.
    """
    rng = np.random.default_rng(seed)
    field = np.zeros(shape, dtype=np.float32)
    if flaws.waver > 0:
        field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), flaws.reach)
        # Across a blurred straight edge the share falls by 1 / (blur sqrt(2 pi)) a pixel.
        field *= flaws.waver / (max(flaws.blur, 0.4) * np.sqrt(2 * np.pi)) / field.std()
    labels = np.zeros(shape, dtype=np.int32)
    most = np.zeros(shape, dtype=np.float32)
    pad = int(np.ceil(3 * flaws.blur)) + 2
    for k, polygon in enumerate(polygons):
        west, north, east, south = polygon.bounds
        x0, y0 = max(0, int(west) - pad), max(0, int(north) - pad)
        x1, y1 = min(shape[1], int(east) + pad + 1), min(shape[0], int(south) + pad + 1)
        if x0 >= x1 or y0 >= y1:
            continue
        fine = rasterize(
            [polygon],
            out_shape=((y1 - y0) * SUPER, (x1 - x0) * SUPER),
            transform=Affine(1 / SUPER, 0, x0, 0, 1 / SUPER, y0),
            dtype="uint8",
        )
        share = fine.reshape(y1 - y0, SUPER, x1 - x0, SUPER).mean(axis=(1, 3), dtype=np.float32)
        if flaws.blur > 0:
            share = gaussian_filter(share, flaws.blur)
        place = slice(y0, y1), slice(x0, x1)
        wins = (share + field[place] > 0.5) & (share > most[place])
        labels[place][wins], most[place][wins] = k + 1, share[wins]
    return _specks(labels, flaws, rng, len(polygons))


def _specks(labels: Labels, flaws: Flaws, rng: np.random.Generator, count: int) -> Labels:
    rows, cols = labels.shape
    for k in range(int(rng.poisson(flaws.specks * labels.size / 10_000))):
        y, x, radius = rng.uniform(0, rows), rng.uniform(0, cols), rng.uniform(0.7, flaws.speck)
        y0, x0 = max(0, int(y - radius) - 1), max(0, int(x - radius) - 1)
        window = labels[y0 : int(y + radius) + 3, x0 : int(x + radius) + 3]
        yy, xx = np.ogrid[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]]
        disc = np.hypot(yy + 0.5 - y, xx + 0.5 - x) <= radius
        if k % 2:
            window[disc] = 0
            continue
        near = window[maximum_filter(disc, footprint=_CROSS) & (window > 0)]
        count += len(near) == 0
        window[disc & (window == 0)] = np.bincount(near).argmax() if len(near) else count
    return labels


_CROSS = np.array([(0, 1, 0), (1, 1, 1), (0, 1, 0)], dtype=bool)


def contacts(labels: Labels, width: int = 1) -> NDArray[np.bool_]:
    """Return the pixels of labels that have another label within `width` px of them: the class `contact`."""
    size = 2 * width + 1
    other = np.where(labels == 0, np.iinfo(np.int32).max, labels)
    found: NDArray[np.bool_] = (labels > 0) & (
        (maximum_filter(labels, size=size) != labels) | (minimum_filter(other, size=size) != labels)
    )
    return found
