"""Random changes of windows: how they lie on the scene, and their colours, for any number of bands.

All that moves pixels (scale, rotation, elastic displacement, symmetry) is drawn here and done by `warp` in one
resampling. Colours change in units of a band's usual range, 0 to 1: first what is linear in the bands (mixing,
saturation, contrast, brightness) as one matrix, then gamma, blur and noise, as light, optics and sensor follow on each
other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geounet.config.data import Augment, Chance
from geounet.training.warp import Shape, lattice_points
from geounet.types import Rect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geounet.config.card import Scaling

Floats = NDArray[np.float32]

_DARK = np.float32(1e-6)
"""What counts as 0 to a logarithm."""


@dataclass(frozen=True)
class Ranges:
    """Values of the bands, in units of the file.

    Attributes
    ----------
    mean, stddev : tuple of float
        What normalises a band.
    low, high : tuple of float
        The usual range, which counts as 0 to 1.
    clipped : bool
        Whether values beyond the range cannot occur, as in 8 bits.
    """

    mean: tuple[float, ...]
    stddev: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    clipped: bool

    def scaling(self) -> list[Scaling]:
        """Return the normalisation as a card has it."""
        from geounet.config.card import Scaling

        return [Scaling(mean=m, stddev=s) for m, s in zip(self.mean, self.stddev, strict=True)]


def draw_shape(rng: np.random.Generator, spec: Augment, size: int) -> Shape:
    """Draw how a window of `size` px lies on its scene."""
    symmetry = {"none": 0, "flips": (0, 2, 4, 6)[rng.integers(4)], "d4": int(rng.integers(8))}[spec.symmetries]
    scale = _draw(rng, spec.scale, neutral=1.0, log=True)
    angle = math.radians(_draw(rng, spec.rotation_deg, neutral=0.0))
    bend, spacing = None, 0.0
    if spec.elastic is not None and rng.random() < spec.elastic.chance:
        spacing = float(spec.elastic.spacing_px)
        points = lattice_points(size, spacing)
        low, high = spec.elastic.amplitude_px
        amplitude = rng.uniform(low, high)
        bend = rng.standard_normal((2, points, points), dtype=np.float32) * np.float32(amplitude)
    return Shape(size, scale, angle, symmetry, bend, spacing)


def draw_patch(rng: np.random.Generator, spec: Augment, size: int) -> Rect | None:
    """Draw the rectangle of a window of `size` px that another window covers, or none.

    Its area is drawn, its sides are between half and twice as long as each other. Method: CutMix (Yun et al. 2019),
    for segmentation after French et al. 2020.
    """
    share = _draw(rng, spec.paste, neutral=0.0)
    ratio = math.exp(rng.uniform(-0.5, 0.5) * math.log(2))
    rows = min(round(size * math.sqrt(share) * ratio), size)
    cols = min(round(size * math.sqrt(share) / ratio), size)
    if not rows or not cols:
        return None
    row, col = int(rng.integers(size - rows + 1)), int(rng.integers(size - cols + 1))
    return Rect(row, col, row + rows, col + cols)


def recoloured(values: Floats, valid: NDArray[np.bool_], rng: np.random.Generator, spec: Augment, ranges: Ranges,
               fill: float) -> Floats:  # fmt: skip
    """Return a window with its colours changed at random, and normalised.

    Parameters
    ----------
    values
        `(bands, rows, cols)` in units of the file.
    valid
        `(rows, cols)`.
    rng
        What draws.
    spec
        The section `augment`.
    ranges
        Values of the bands.
    fill
        Normalised value of invalid pixels and missing bands.
    """
    low, high = _column(ranges.low), _column(ranges.high)
    x = (values - low) / (high - low)
    x = _linear(x, valid, rng, spec)
    exponents = _draw(rng, spec.gamma, neutral=1.0, log=True) * _each(rng, spec.band_gamma, len(x), 1.0, log=True)
    for band, exponent in enumerate(exponents):
        if exponent != 1:
            # a quarter of the time of numpy's power of float32
            np.log(np.maximum(x[band], _DARK, out=x[band]), out=x[band])
            np.exp(np.multiply(x[band], np.float32(exponent), out=x[band]), out=x[band])
    sigma = _draw(rng, spec.blur_px, neutral=0.0)
    if sigma > 0:
        _blur(x, valid, sigma)
    strength = _draw(rng, spec.noise, neutral=0.0)
    if strength > 0:
        x += rng.standard_normal(x.shape, dtype=np.float32) * np.float32(strength)
    if ranges.clipped:
        np.clip(x, 0, 1, out=x)
    mean, stddev = _column(ranges.mean), _column(ranges.stddev)
    x *= (high - low) / stddev
    x += (low - mean) / stddev
    if spec.dropout > 0:
        missing = rng.random(len(x)) < spec.dropout
        if missing.all():
            missing[rng.integers(len(x))] = False
        x[missing] = np.float32(fill)
    return filled(x, valid, fill)


def normalised(values: Floats, valid: NDArray[np.bool_], ranges: Ranges, fill: float) -> Floats:
    """Return a window as the network takes it; invalid pixels take the fill value."""
    x: Floats = (values - _column(ranges.mean)) / _column(ranges.stddev)
    return filled(x, valid, fill)


def filled(x: Floats, valid: NDArray[np.bool_], fill: float) -> Floats:
    """Return normalised values with invalid pixels filled, in place."""
    if not valid.all():
        x[:, ~valid] = np.float32(fill)
    return x


def _blur(x: Floats, valid: NDArray[np.bool_], sigma: float) -> None:
    """Blur in place; what is invalid (no data, or held out) does not run into what is valid."""
    share = None
    if not valid.all():
        x *= valid
        share = ndimage.gaussian_filter(valid.astype(np.float32), sigma, mode="nearest", truncate=3.0)
        np.maximum(share, _DARK, out=share)
    for band in range(len(x)):
        ndimage.gaussian_filter(x[band], sigma, output=x[band], mode="nearest", truncate=3.0)
        if share is not None:
            x[band] /= share


def _linear(x: Floats, valid: NDArray[np.bool_], rng: np.random.Generator, spec: Augment) -> Floats:
    """Mix, saturate, stretch and shift the bands: one matrix and one offset a band."""
    bands = len(x)
    matrix = np.eye(bands)
    share = _draw(rng, spec.mixing, neutral=0.0)
    if share > 0:
        parts = rng.standard_exponential((bands, bands))
        matrix = (1 - share) * matrix + share * parts / parts.sum(axis=1, keepdims=True)
    saturation = _draw(rng, spec.saturation, neutral=1.0)
    if saturation != 1:
        matrix = (saturation * np.eye(bands) + (1 - saturation) / bands) @ matrix
    contrast = _draw(rng, spec.contrast, neutral=1.0, log=True)
    contrasts = contrast * _each(rng, spec.band_contrast, bands, 1.0, log=True)
    offset = _draw(rng, spec.brightness, neutral=0.0) + _each(rng, spec.band_brightness, bands, 0.0)
    if (matrix == np.eye(bands)).all() and (contrasts == 1).all() and (offset == 0).all():
        return x
    # contrast is about the mean of the valid pixels, which stays where it is; every 16th pixel tells it
    sparse = valid[::4, ::4]
    count = max(int(sparse.sum()), 1)
    means = matrix @ (x[:, ::4, ::4] * sparse).sum(axis=(1, 2), dtype=np.float64) / count
    matrix, offset = contrasts[:, None] * matrix, offset + means * (1 - contrasts)
    out = np.empty_like(x)
    for band in range(bands):
        np.multiply(x[0], np.float32(matrix[band, 0]), out=out[band])
        out[band] += np.float32(offset[band])
        for other in range(1, bands):
            if matrix[band, other] != 0:
                out[band] += x[other] * np.float32(matrix[band, other])
    return out


def _draw(rng: np.random.Generator, spec: Chance | None, neutral: float, *, log: bool = False) -> float:
    """Draw a number from a range, evenly (in its logarithm, for factors); the neutral one where it does not apply."""
    if spec is None or (spec.chance < 1 and rng.random() >= spec.chance):
        return neutral
    return float(_within(rng, spec, None, log))


def _each(rng: np.random.Generator, spec: Chance | None, bands: int, neutral: float, *, log: bool = False) -> Any:
    """Draw a number for each band."""
    if spec is None or (spec.chance < 1 and rng.random() >= spec.chance):
        return np.full(bands, neutral)
    return _within(rng, spec, bands, log)


def _within(rng: np.random.Generator, spec: Chance, count: int | None, log: bool) -> Any:
    low, high = spec.range
    if log and low > 0:
        return np.exp(rng.uniform(math.log(low), math.log(high), count))
    return rng.uniform(low, high, count)


def _column(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float32)[:, None, None]
