"""Random numbers that depend only on a seed and a place: hashed lattices and smooth value noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def _scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable generators, OOPSLA 2014)."""
    # arrays of unsigned integers wrap silently
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, salt: int, *index: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """Return numbers in [0, 1) that depend only on seed, salt and the integer indices (broadcast together)."""
    key = np.asarray([(seed * 0x2545F491 + salt) & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    state = _scramble(key + _GOLDEN)
    for part in index:
        words = np.asarray(part, dtype=np.int64).astype(np.uint64)
        state = _scramble((state ^ words) * _MIX1 + _GOLDEN)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def number(seed: int, salt: int, *index: int) -> float:
    """Return one number in [0, 1) that depends only on seed, salt and indices."""
    return float(uniform(seed, salt, *index)[0])


def stream(seed: int, salt: int, *index: int) -> np.random.Generator:
    """Return a generator whose stream depends only on seed, salt and indices."""
    return np.random.default_rng([seed & 0xFFFFFFFFFFFFFFFF, salt, *(i + 2**31 for i in index)])


def _spline(start: float, step: float, count: int) -> tuple[int, Floats]:
    """Return the first lattice index and the (count, lattice) matrix of cubic B-spline weights."""
    at = start + step * np.arange(count)
    base = np.floor(at).astype(np.int64)
    f = at - base
    first, last = int(base[0]) - 1, int(base[-1]) + 2
    weights = np.zeros((count, last - first + 1), dtype=np.float32)
    rows = np.arange(count)
    for offset, weight in enumerate(
        (
            (1 - f) ** 3 / 6,
            (3 * f**3 - 6 * f**2 + 4) / 6,
            (-3 * f**3 + 3 * f**2 + 3 * f + 1) / 6,
            f**3 / 6,
        )
    ):
        weights[rows, base - 1 - first + offset] = weight
    return first, weights


def field(seed: int, salt: int, y: float, x: float, step: float, shape: tuple[int, int], wavelength: float) -> Floats:
    """Return smooth value noise with mean 0 and a standard deviation of about 0.5 on a grid of points.

    Points are `(y + step * row, x + step * col)` metres; the lattice of random values has the spacing `wavelength`
    metres and is interpolated with cubic B-splines, as two products with small matrices.
    """
    iy, rows = _spline(y / wavelength, step / wavelength, shape[0])
    ix, cols = _spline(x / wavelength, step / wavelength, shape[1])
    lattice = uniform(seed, salt, (iy + np.arange(rows.shape[1]))[:, None], (ix + np.arange(cols.shape[1]))[None, :])
    values = ((lattice - 0.5) * 3.6).astype(np.float32)
    return np.asarray(rows @ values @ cols.T, dtype=np.float32)


def curve(seed: int, salt: int, at: NDArray[np.float64], wavelength: float) -> NDArray[np.float64]:
    """Return smooth noise of one variable, standard deviation about 0.5, at positions `at` in metres."""
    scaled = np.asarray(at, dtype=np.float64) / wavelength
    base = np.floor(scaled).astype(np.int64)
    f = scaled - base
    if not base.size:
        return f
    first = int(base.min()) - 1
    lattice = (uniform(seed, salt, np.arange(first, int(base.max()) + 3)) - 0.5) * 2.6
    v = [lattice[base + k - first] for k in (-1, 0, 1, 2)]
    out: NDArray[np.float64] = (
        v[0] * (1 - f) ** 3 + v[1] * (3 * f**3 - 6 * f**2 + 4) + v[2] * (-3 * f**3 + 3 * f**2 + 3 * f + 1) + v[3] * f**3
    ) / 6
    return out
