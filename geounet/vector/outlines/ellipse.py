"""Round buildings: the ellipse with the area and the second moments of an outline."""

from __future__ import annotations

import numpy as np

from geounet.vector.attributes import F64
from geounet.vector.outlines.rings import Rings
from geounet.vector.polygons import gather
from geounet.vector.trace import I64

EDGES = 6.0
"""An ellipse costs as much as so many edges of a polygon."""

CIRCLE = 1.12
"""Axes that differ by a smaller factor are those of a circle."""

LONGEST = 2.5
"""Ratio of the axes above which nothing is taken for an ellipse."""

SAGITTA = 0.25
"""Distance of the drawn edges from the ellipse, px."""

SMALLEST = 3.0
"""Least radius, px."""


def ellipses(rings: Rings, which: I64) -> tuple[F64, F64, F64, F64]:
    """Fit ellipses to outlines.

    Parameters
    ----------
    rings
        Points of the outlines.
    which
        Rings to fit.

    Returns
    -------
    centre
        `(n, 2)` relative to the origin of each ring.
    axes
        `(n, 2)` half of each axis, the longer one first.
    angle
        `(n,)` of the longer axis, radians.
    residual
        `(n,)` sum of squared distances of the points, as the divisions of `divide` have it; infinite for what is too
        long or too small.
    """
    points, offsets = gather(rings.offsets, which)
    row = np.repeat(np.arange(len(which)), np.diff(offsets))
    p = rings.places[points] / 2.0 * rings.scale[which][row]
    after = np.arange(1, len(p) + 1)
    after[offsets[1:] - 1] = offsets[:-1]
    q = p[after]
    cross = p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]
    count = len(which)

    def total(values: F64) -> F64:
        return np.asarray(np.bincount(row, values, count), dtype=np.float64)

    area = total(cross) / 2
    safe = np.where(np.abs(area) > 1e-9, area, 1.0)
    mean = np.column_stack([total((p[:, k] + q[:, k]) * cross) / (6 * safe) for k in (0, 1)])
    xx, yy = (
        total((p[:, k] ** 2 + p[:, k] * q[:, k] + q[:, k] ** 2) * cross) / (12 * safe) - mean[:, k] ** 2 for k in (0, 1)
    )
    mixed = p[:, 0] * q[:, 1] + 2 * p[:, 0] * p[:, 1] + 2 * q[:, 0] * q[:, 1] + q[:, 0] * p[:, 1]
    xy = total(mixed * cross) / (24 * safe) - mean[:, 0] * mean[:, 1]
    half, centre = np.hypot((xx - yy) / 2, xy), (xx + yy) / 2
    axes = 2 * np.sqrt(np.maximum(np.column_stack([centre + half, centre - half]), 1e-12))
    # The points lie inside of the outline's corners, so the moments are a little small: the area counts.
    axes *= np.sqrt(np.abs(area) / (np.pi * axes[:, 0] * axes[:, 1]))[:, None]
    ratio = axes[:, 0] / axes[:, 1]
    same = ratio < CIRCLE
    axes[same] = np.sqrt(axes[same, 0] * axes[same, 1])[:, None]
    angle = np.arctan2(2 * xy, xx - yy) / 2
    d = p - mean[row]
    cos, sin = np.cos(angle)[row], np.sin(angle)[row]
    u, v = (cos * d[:, 0] + sin * d[:, 1]) / axes[row, 0], (cos * d[:, 1] - sin * d[:, 0]) / axes[row, 1]
    level = np.hypot(u, v)
    # First-order distance to the ellipse (Taubin 1991).
    slope = np.hypot(u / axes[row, 0], v / axes[row, 1]) / np.maximum(level, 1e-9)
    residual = total(((level - 1) / np.maximum(slope, 1e-9)) ** 2)
    bad = (ratio > LONGEST) | (axes[:, 1] < SMALLEST) | (area <= 0)
    return mean, axes, angle, np.where(bad, np.inf, residual)


def drawn(centre: F64, axes: F64, angle: float) -> F64:
    """Return the corners `(n, 2)` of a polygon with the area of an ellipse, in the order of shells (x to y)."""
    radius = float(axes.max())
    least = np.pi / np.arccos(max(0.0, 1 - SAGITTA / radius))
    count = 4 * int(np.clip(np.ceil(least / 4), 2, 16))
    t = 2 * np.pi * (np.arange(count) + 0.5) / count
    grow = np.sqrt(2 * np.pi / (count * np.sin(2 * np.pi / count)))
    u, v = axes[0] * grow * np.cos(t), axes[1] * grow * np.sin(t)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.column_stack([centre[0] + cos * u - sin * v, centre[1] + sin * u + cos * v])
