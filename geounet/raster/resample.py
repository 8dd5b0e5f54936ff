"""Resampling between a scene's own grid and the grid of the model's ground sample distance.

Both grids cover the same ground, so the two axes are independent and each output pixel is a weighted sum of a run of
input pixels along rows, then along columns. Weights are integers, taps are added one by one in a fixed order and
nothing depends on where a window starts: a window has the same bits as the crop of the whole.

Shrinking averages over the area of the output pixel; enlarging interpolates bilinearly between pixel centres.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from geounet.types import Rect

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geounet.raster.scene import Scene, SceneInfo

Array = np.ndarray[Any, np.dtype[Any]]

_STRIP_BYTES = 64 * 2**20
_CHUNK = 16


SQUARE = 0.05
"""Relative difference of a pixel's width and height up to which it counts as square: projections stretch a little."""


def model_grid(info: SceneInfo, gsd: float) -> tuple[int, int]:
    """Return `(rows, cols)` of the scene at a ground sample distance, at least one pixel each.

    Pixels that are not square on the ground become square.

    Parameters
    ----------
    info : SceneInfo
        The scene; its `gsd` must be known, and `aspect` is used.
    gsd : float
        Wanted ground sample distance, metres.

    Raises
    ------
    ValueError
        If the scene's ground sample distance is unknown, or `gsd` is not positive.
    """
    if info.gsd is None:
        raise ValueError(f"{info.name}: the ground sample distance is unknown")
    if not gsd > 0:
        raise ValueError(f"the ground sample distance must be positive, found {gsd}")
    factor = info.gsd / gsd
    stretch = math.sqrt(info.aspect) if max(info.aspect, 1 / info.aspect) > 1 + SQUARE else 1.0
    return max(1, round(info.height * factor / stretch)), max(1, round(info.width * factor * stretch))


def _taps(start: int, stop: int, target: int, source: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first source index `(n,)` and integer weights `(taps, n)` of target pixels `start` to `stop`.

    The weights of a pixel sum to `source` (shrinking) or `2 * target` (enlarging). Indices may leave the source at
    its ends only when enlarging; the caller clamps them, which repeats the edge pixel.
    """
    j = np.arange(start, stop, dtype=np.int64)
    if source >= target:
        # In units of 1/target source pixels: output pixel j covers [j * source, (j + 1) * source).
        first = j * source // target
        count = -(-source // target) + 1
        k = np.arange(count, dtype=np.int64)[:, None]
        left = np.maximum((first + k) * target, j * source)
        right = np.minimum((first + k + 1) * target, (j + 1) * source)
        return first, np.maximum(right - left, 0)
    # In units of 1/(2 * target) source pixels, from the centre of source pixel 0.
    position = (2 * j + 1) * source - target
    first = position // (2 * target)
    far = position - first * 2 * target
    return first, np.stack([2 * target - far, far])


def _total(target: int, source: int) -> int:
    return source if source >= target else 2 * target


def _span(start: int, stop: int, target: int, source: int) -> tuple[int, int]:
    """Return the source pixels `[lo, hi)` with weight for target pixels `start` to `stop`."""
    first, weights = _taps(start, start + 1, target, source)
    lo = int(first[0])
    first, weights = _taps(stop - 1, stop, target, source)
    last = int(np.flatnonzero(weights[:, 0]).max())
    return max(0, lo), min(source, int(first[0]) + last + 1)


def source_rect(target: Rect, target_shape: tuple[int, int], source_shape: tuple[int, int]) -> Rect:
    """Return what must be known of the source grid to compute `target`.

    Parameters
    ----------
    target : Rect
        Pixels wanted, on a grid of `target_shape` `(rows, cols)`; not empty.
    target_shape, source_shape : tuple of int
        `(rows, cols)` of the two grids over the same ground.
    """
    y0, y1 = _span(target.y0, target.y1, target_shape[0], source_shape[0])
    x0, x1 = _span(target.x0, target.x1, target_shape[1], source_shape[1])
    return Rect(y0, x0, y1, x1)


def _sums(
    plane: Array, source: Rect, source_shape: tuple[int, int], target: Rect, target_shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the weighted sums of `plane` on `source`, not yet divided by the sum of weights."""
    first_row, row_weights = _taps(target.y0, target.y1, target_shape[0], source_shape[0])
    first_col, col_weights = _taps(target.x0, target.x1, target_shape[1], source_shape[1])
    # Taps beyond the source repeat its edge pixel (enlarging), or have no weight (shrinking).
    taps = np.arange(len(row_weights))[:, None]
    rows = np.clip(first_row + taps, source.y0, source.y1 - 1) - source.y0
    taps = np.arange(len(col_weights))[:, None]
    cols = np.clip(first_col + taps, source.x0, source.x1 - 1) - source.x0
    down, across = row_weights.astype(np.float64)[:, :, None], col_weights.astype(np.float64)
    out = np.zeros(target.shape)
    # A few rows at a time, so that what is added up stays in the processor's cache.
    for y in range(0, target.rows, _CHUNK):
        part = slice(y, y + _CHUNK)
        here = rows[:, part]
        lo = int(here.min())
        pixels = plane[lo : int(here.max()) + 1].astype(np.float64)
        tall = np.zeros((here.shape[1], source.cols))
        for k in range(len(rows)):
            tap = pixels.take(here[k] - lo, axis=0, mode="clip")
            tap *= down[k, part]
            tall += tap
        wide = out[part]
        for k in range(len(cols)):
            tap = tall.take(cols[k], axis=1, mode="clip")
            tap *= across[k]
            wide += tap
    return out


def interpolate(
    planes: Array,
    source: Rect,
    source_shape: tuple[int, int],
    target: Rect,
    target_shape: tuple[int, int],
    weight: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Resample planes from one grid to another over the same ground.

    Parameters
    ----------
    planes : array (planes, rows, cols)
        Integers or floats on `source`, which holds at least `source_rect(target, …)`.
    source, target : Rect
        What `planes` covers, and what is wanted; not empty.
    source_shape, target_shape : tuple of int
        `(rows, cols)` of the two grids.
    weight : bool array (rows, cols), optional
        The source pixels that count. The others (which may hold NaN) do not contribute, and the rest is renormalised.

    Returns
    -------
    float64 array (planes, rows, cols)
        0 where no pixel that counts contributes.

    Raises
    ------
    ValueError
        If `source` lacks pixels that `target` needs, or shapes do not agree.
    """
    needed = source_rect(target, target_shape, source_shape)
    if needed.intersection(source) != needed:
        raise ValueError(f"{target} needs the source pixels {needed}, given are {source}")
    if planes.shape[1:] != source.shape:
        raise ValueError(f"planes are {planes.shape[1:]}, the source rectangle is {source.shape}")
    cut = needed.slices_in(source)
    planes = planes[:, cut[0], cut[1]]
    if weight is not None:
        weight = weight[cut]
        if weight.all():
            weight = None
    total = float(_total(target_shape[0], source_shape[0]) * _total(target_shape[1], source_shape[1]))
    known = None if weight is None else _sums(weight, needed, source_shape, target, target_shape)
    out = np.empty((planes.shape[0], *target.shape))
    for band, plane in enumerate(planes):
        if weight is None or known is None:
            out[band] = _sums(plane, needed, source_shape, target, target_shape) / total
        else:
            sums = _sums(np.where(weight, plane, 0), needed, source_shape, target, target_shape)
            out[band] = np.divide(sums, known, out=np.zeros_like(sums), where=known > 0)
    return out


def coverage(
    valid: NDArray[np.bool_],
    source: Rect,
    source_shape: tuple[int, int],
    target: Rect,
    target_shape: tuple[int, int],
) -> NDArray[np.bool_]:
    """Return where at least half of a target pixel's weight lies on valid source pixels.

    Parameters are those of `interpolate`; `valid` is `(rows, cols)` on `source`.
    """
    needed = source_rect(target, target_shape, source_shape)
    valid = valid[needed.slices_in(source)]
    if valid.all():
        return np.ones(target.shape, dtype=bool)
    total = _total(target_shape[0], source_shape[0]) * _total(target_shape[1], source_shape[1])
    # Sums of integers below 2**53: exact, so the comparison is too.
    half: NDArray[np.bool_] = _sums(valid, needed, source_shape, target, target_shape) * 2 >= total
    return half


class ResampledScene:
    """A scene seen on another grid over the same ground; reads like a `Scene`.

    Parameters
    ----------
    scene : Scene
        An open scene.
    shape : tuple of int
        `(rows, cols)` of the wanted grid, for example from `model_grid`.
    """

    def __init__(self, scene: Scene, shape: tuple[int, int]) -> None:
        self.scene = scene
        self.shape = shape
        self._own = (scene.info.height, scene.info.width)

    @property
    def info(self) -> SceneInfo:
        """Description of the scene on its own grid."""
        return self.scene.info

    def _strips(self, rect: Rect, planes: int) -> list[Rect]:
        """Cut `rect` into runs of rows whose source fits in memory; reading is the same for any cut."""
        source = source_rect(rect, self.shape, self._own)
        row_bytes = max(1, source.rows * source.cols * 4 * planes // rect.rows)
        step = max(1, _STRIP_BYTES // row_bytes)
        return [rect._replace(y0=y, y1=min(y + step, rect.y1)) for y in range(rect.y0, rect.y1, step)]

    def read(self, rect: Rect) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle of the resampled grid.

        Returns
        -------
        values : float32 array (bands, rows, cols)
            Mean over valid pixels by area, or bilinear; 0 where invalid.
        valid : bool array (rows, cols)
            Where at least half of the weight is valid.

        Raises
        ------
        SceneError
            If the file cannot be read there.
        """
        if self.shape == self._own:
            return self.scene.read(rect)
        bands = len(self.scene.info.band_names)
        values = np.zeros((bands, *rect.shape), dtype=np.float32)
        valid = np.empty(rect.shape, dtype=bool)
        for part in self._strips(rect, bands):
            source = source_rect(part, self.shape, self._own)
            pixels, known = self.scene.read(source)
            rows, cols = part.slices_in(rect)
            valid[rows, cols] = coverage(known, source, self._own, part, self.shape)
            if valid[rows, cols].any():
                values[:, rows, cols] = interpolate(pixels, source, self._own, part, self.shape, known)
        np.copyto(values, 0, where=~valid)
        return values, valid

    def read_validity(self, rect: Rect) -> NDArray[np.bool_]:
        """Read the validity of a rectangle of the resampled grid, bool `(rows, cols)`."""
        if self.shape == self._own:
            return self.scene.read_validity(rect)
        valid = np.empty(rect.shape, dtype=bool)
        for part in self._strips(rect, len(self.scene.info.band_names)):
            source = source_rect(part, self.shape, self._own)
            known = self.scene.read_validity(source)
            valid[part.slices_in(rect)] = coverage(known, source, self._own, part, self.shape)
        return valid
