"""Cutting a window out of a scene at any scale and angle, in one resampling; labels take the nearest pixel.

Shrinking goes through halved copies of the scene (a mipmap: Williams 1983, https://doi.org/10.1145/964965.801126), so
that nothing aliases; what is left, a factor of 0.7 to 1.4, is bilinear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geounet.labels.values import IGNORED
from geounet.training.sources import Source
from geounet.training.splits import Side, Sides
from geounet.types import Rect

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """How a window lies on a scene.

    Attributes
    ----------
    size : int
        Side of the window, px.
    scale : float
        Enlargement: pixels of the window per pixel of the model's ground sample distance.
    angle : float
        Rotation, radians.
    symmetry : int
        0 to 7: quarter turns, and from 4 on flipped as well.
    bend : float32 array (2, lattice, lattice), optional
        Displacements (down, across) at the points of a lattice, px of the window.
    spacing : float
        Distance of the lattice's points, px of the window.
    """

    size: int
    scale: float = 1.0
    angle: float = 0.0
    symmetry: int = 0
    bend: Floats | None = field(default=None, compare=False)
    spacing: float = 0.0

    def reach(self, zoom: tuple[float, float]) -> tuple[float, float]:
        """Return half of the extent on the scene, down and across, px of the scene."""
        half = self.size / 2 * (abs(math.cos(self.angle)) + abs(math.sin(self.angle)))
        if self.bend is not None:
            half += float(np.abs(self.bend).max())
        return half * zoom[0] / self.scale, half * zoom[1] / self.scale


@dataclass(frozen=True)
class Cut:
    """A window: values float32 `(bands, size, size)` in units of the file, validity and labels `(size, size)`."""

    values: Floats
    valid: NDArray[np.bool_]
    labels: NDArray[np.uint8]


def lattice_points(size: int, spacing: float) -> int:
    """Return how many lattice points a side of the elastic displacement has."""
    return math.ceil((size - 1) / spacing) + 4


@lru_cache(maxsize=16)
def _splines(size: int, spacing: float) -> Floats:
    """Return the cubic B-spline weights (size, lattice), scaled to keep the standard deviation of the lattice."""
    at = np.arange(size) / spacing
    base = np.floor(at).astype(int)
    f = at - base
    weights = np.zeros((size, lattice_points(size, spacing)))
    for k, w in enumerate(((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3)):
        weights[np.arange(size), base + k] = w / 6
    return (weights / math.sqrt((weights**2).sum(axis=1).mean())).astype(np.float32)


def turned(array: Any, symmetry: int) -> Any:
    """Return an array's last two axes under one of the eight symmetries of the square; a view."""
    array = np.rot90(array, symmetry % 4, axes=(-2, -1))
    return array[..., ::-1] if symmetry >= 4 else array


def cut(source: Source, sides: Sides, side: Side, centre: tuple[float, float], shape: Shape) -> Cut:
    """Cut a window out of a scene.

    Parameters
    ----------
    source
        The scene.
    sides, side
        Pixels of other sides are unlabelled; where the side is `train` they are invalid too.
    centre
        Row and column of the window's centre, px of the scene; (0, 0) is the corner of the first pixel.
    shape
        How the window lies.
    """
    down, across = source.zoom[0] / shape.scale, source.zoom[1] / shape.scale
    if shape.angle == 0 and shape.bend is None and down == 1 and across == 1:
        found = _straight(source, sides, side, centre, shape.size)
    else:
        found = _bent(source, sides, side, centre, shape, (down, across))
    if shape.symmetry == 0:
        return found
    return Cut(*(turned(a, shape.symmetry) for a in (found.values, found.valid, found.labels)))


def _straight(source: Source, sides: Sides, side: Side, centre: tuple[float, float], size: int) -> Cut:
    y, x = math.floor(centre[0] - size / 2 + 0.5), math.floor(centre[1] - size / 2 + 0.5)
    rect = Rect(y, x, y + size, x + size)
    values, valid = source.read(rect, 0)
    labels = source.labels(rect)
    valid = np.ones(rect.shape, dtype=bool) if valid is None else valid
    allowed = _allowed(source, sides, side, rect)
    if allowed is not None:
        labels = np.where(allowed, labels, np.uint8(IGNORED))
        valid = valid & allowed if side == Side.train else valid
    return Cut(values.astype(np.float32), valid, labels)


def _bent(source: Source, sides: Sides, side: Side, centre: tuple[float, float], shape: Shape,
          step: tuple[float, float]) -> Cut:  # fmt: skip
    y, x, origin = _places(centre, shape, step)
    # labels: nearest pixel of the scene itself
    rows, cols = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    low, high = (int(rows.min()), int(cols.min())), (int(rows.max()) + 1, int(cols.max()) + 1)
    rect = Rect(low[0] + origin[0], low[1] + origin[1], high[0] + origin[0], high[1] + origin[1])
    level = max(0, round(math.log2(max(1e-9, math.sqrt(step[0] * step[1])))))
    part = 2**level
    at = _level_rect(rect, level)
    own = Rect(at.y0 * part, at.x0 * part, at.y1 * part, at.x1 * part)
    allowed = _allowed(source, sides, side, own)
    labels = source.labels(rect)
    if allowed is not None:
        labels = np.where(allowed[rect.slices_in(own)], labels, np.uint8(IGNORED))
    flat = (rows - low[0]) * rect.cols + (cols - low[1])
    picked = np.ascontiguousarray(labels).ravel()[flat]
    # values: bilinear between pixels of the level
    values, known = source.read(at, level)
    if allowed is not None and side == Side.train:
        only: Any = allowed.reshape(at.rows, part, at.cols, part).all(axis=(1, 3))
        known = only if known is None else known & only
    offset_y, offset_x = origin[0] - at.y0 * part, origin[1] - at.x0 * part
    # of (rows, cols), -1 and 1 are the outer edges of the first and last pixel
    grid = np.empty((1, shape.size, shape.size, 2), dtype=np.float32)
    np.multiply(x + np.float32(offset_x), np.float32(2 / (part * at.cols)), out=grid[0, :, :, 0])
    np.multiply(y + np.float32(offset_y), np.float32(2 / (part * at.rows)), out=grid[0, :, :, 1])
    grid -= 1
    sampled, share = _sampled(values, known, grid)
    return Cut(sampled, np.ones(picked.shape, dtype=bool) if share is None else share, picked)


def _places(
    centre: tuple[float, float], shape: Shape, step: tuple[float, float]
) -> tuple[Floats, Floats, tuple[int, int]]:
    """Return rows and columns on the scene of the window's pixels (size, size), less an origin of whole pixels."""
    # near the origin float32 has many digits left, wherever in a scene the window lies
    origin = math.floor(centre[0]), math.floor(centre[1])
    u = np.arange(shape.size, dtype=np.float32) - np.float32((shape.size - 1) / 2)
    cos, sin = math.cos(shape.angle), math.sin(shape.angle)
    down: Any = u[:, None]
    across: Any = u[None, :]
    if shape.bend is not None:
        spline = _splines(shape.size, shape.spacing)
        down, across = down + spline @ shape.bend[0] @ spline.T, across + spline @ shape.bend[1] @ spline.T
    y = np.float32(step[0] * cos) * down + np.float32(step[0] * sin) * across
    x = np.float32(step[1] * cos) * across - np.float32(step[1] * sin) * down
    y += np.float32(centre[0] - origin[0])
    x += np.float32(centre[1] - origin[1])
    return y, x, origin


def _level_rect(rect: Rect, level: int) -> Rect:
    """Return the pixels of a level that bilinear interpolation within `rect` needs."""
    part = 2**level
    return Rect(rect.y0 // part - 1, rect.x0 // part - 1, -(-rect.y1 // part) + 1, -(-rect.x1 // part) + 1)


def _allowed(source: Source, sides: Sides, side: Side, rect: Rect) -> NDArray[np.bool_] | None:
    """Return which pixels of a rectangle are of the side, also beyond the scene; None: all."""
    if sides.only(rect) == side:
        return None
    out = np.zeros(rect.shape, dtype=bool)
    inside = rect.intersection(Rect(0, 0, *source.shape))
    if not inside.empty:
        out[inside.slices_in(rect)] = sides.mask(inside, side)
    return out


def _sampled(values: Any, known: Any, grid: Floats) -> tuple[Floats, NDArray[np.bool_] | None]:
    """Return bilinear values `(bands, size, size)`, and validity where any pixel is invalid."""
    import torch
    from torch.nn import functional

    planes = values.astype(np.float32, copy=not values.flags.c_contiguous)
    known = None if known is None or known.all() else known
    if known is not None:
        planes = np.concatenate([planes * known, known[None].astype(np.float32)])
    with torch.inference_mode():
        # one picture is one thread's work: others prepare other windows, and the network computes
        found: Any = functional.grid_sample(
            torch.from_numpy(np.ascontiguousarray(planes))[None], torch.from_numpy(grid), mode="bilinear",
            padding_mode="border", align_corners=False,
        )[0].numpy()  # fmt: skip
    if known is None:
        return found, None
    share = found[-1]
    valid: NDArray[np.bool_] = share > 0.5
    found = found[:-1] / np.where(valid, share, np.float32(1))
    return found, valid
