"""The plan of a generated world: climate, road lattice, rivers and the faces between roads.

Everything is in metres, x to the right and y downwards, and depends only on the seed and a place. Roads run on a
jittered, rotated lattice whose edges are smooth curves; the quadrilateral between four nodes is a face with one use
(dwellings, blocks, works, fields, woods, …). Neighbouring faces compute the same edges from the same hashes, so
nothing has to be passed between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from geounet.testing.noise import curve, number, stream, uniform

Points = NDArray[np.float64]
Colour = tuple[float, float, float]

PITCH = 220.0
"""Spacing of the road lattice, metres."""

STEPS = 24
"""Segments of a lattice edge, and cells of a face's grid on each side."""

RIVER_PITCH = 4
"""A river runs between every fourth pair of lattice columns."""

_JITTER = 0.15


@dataclass(frozen=True)
class Climate:
    """What all places of one world share: sun, season and building customs."""

    turn: float
    sun: tuple[float, float]
    shadow: float
    soil: Colour
    grass: Colour
    dry: Colour
    leaf: Colour
    water: Colour
    asphalt: Colour
    dirt: Colour
    roofs: tuple[Colour, ...]
    roof_weights: tuple[float, ...]
    haze: float
    vivid: float
    gain: float
    blur: float
    noise: float


_SOILS: tuple[Colour, ...] = ((150, 124, 96), (164, 140, 112), (138, 108, 84), (158, 128, 92), (170, 152, 128))
_GRASSES: tuple[Colour, ...] = ((92, 112, 62), (104, 118, 70), (84, 106, 60), (112, 120, 76))
_LEAVES: tuple[Colour, ...] = ((70, 92, 48), (62, 86, 50), (80, 98, 52), (74, 90, 56))
_WATERS: tuple[Colour, ...] = ((48, 66, 66), (58, 76, 66), (40, 58, 66), (70, 76, 68))
_ROOFS: tuple[Colour, ...] = (
    (168, 98, 72),  # clay tile
    (150, 84, 66),  # old clay tile
    (182, 122, 88),  # pale tile
    (122, 96, 80),  # brown concrete
    (150, 126, 100),  # tan, near bare soil
    (96, 94, 94),  # slate
    (124, 122, 120),  # bitumen, near asphalt
    (168, 166, 160),  # gravel
    (206, 204, 198),  # white membrane
    (104, 118, 92),  # moss, near grass
    (92, 118, 146),  # blue sheet
)


@lru_cache(maxsize=16)
def climate(seed: int) -> Climate:
    """Return the climate of the world with that seed."""
    rng = stream(seed, 1)

    def near(colours: tuple[Colour, ...], spread: float) -> Colour:
        base = np.asarray(colours[int(rng.integers(len(colours)))]) + rng.normal(0, spread, 3)
        return float(base[0]), float(base[1]), float(base[2])

    azimuth = rng.uniform(math.radians(115), math.radians(245))
    elevation = rng.uniform(math.radians(36), math.radians(56))
    weights = rng.dirichlet(np.asarray([4, 3, 2.5, 3, 2, 3, 3, 2, 1.2, 0.8, 0.6]))
    soil = near(_SOILS, 6)
    tone = rng.uniform(96, 138)
    return Climate(
        turn=float(rng.uniform(-0.6, 0.6)),
        # towards the sun in image axes (y down), azimuth clockwise from north
        sun=(math.sin(azimuth), -math.cos(azimuth)),
        shadow=1 / math.tan(elevation),
        soil=soil,
        grass=near(_GRASSES, 6),
        dry=(soil[0] * 0.55 + 74, soil[1] * 0.55 + 70, soil[2] * 0.5 + 46),
        leaf=near(_LEAVES, 5),
        water=near(_WATERS, 5),
        asphalt=(tone, tone * 0.995, tone * 0.985),
        dirt=(soil[0] * 1.13, soil[1] * 1.13, soil[2] * 1.13),
        roofs=_ROOFS,
        roof_weights=tuple(float(w) for w in weights),
        haze=float(rng.uniform(4, 16)),
        vivid=float(rng.uniform(0.74, 0.9)),
        gain=float(rng.uniform(0.94, 1.1)),
        blur=float(rng.uniform(0.55, 0.8)),
        noise=float(rng.uniform(1.6, 3.2)),
    )


@dataclass(frozen=True)
class Road:
    """A piece of road between two lattice nodes or inside a face."""

    line: Points
    width: float
    kind: str  # main, street, lane, dirt
    tone: float


def rotated(points: Points, angle: float) -> Points:
    """Return points (n, 2) turned by `angle` radians about the origin."""
    c, s = math.cos(angle), math.sin(angle)
    out: Points = points @ np.array([[c, s], [-s, c]])
    return out


def _node(seed: int, i: int, j: int) -> Points:
    u = i + (number(seed, 2, i, j) - 0.5) * 2 * _JITTER
    v = j + (number(seed, 3, i, j) - 0.5) * 2 * _JITTER
    return np.array([u, v]) * PITCH


def _bearing(seed: int, i: int, j: int, southwards: bool) -> Points:
    a = (number(seed, 4 + southwards, i, j) - 0.5) * 0.9
    return np.array([-math.sin(a), math.cos(a)] if southwards else [math.cos(a), math.sin(a)]) * PITCH


@lru_cache(maxsize=1024)
def edge(seed: int, i: int, j: int, southwards: bool) -> Points:
    """Return the curve (STEPS + 1, 2) from node (i, j) to its eastern or southern neighbour."""
    di, dj = (0, 1) if southwards else (1, 0)
    p, q = _node(seed, i, j), _node(seed, i + di, j + dj)
    a, b = _bearing(seed, i, j, southwards), _bearing(seed, i + di, j + dj, southwards)
    t = np.linspace(0, 1, STEPS + 1)[:, None]
    line = (2 * t**3 - 3 * t**2 + 1) * p + (t**3 - 2 * t**2 + t) * a + (-2 * t**3 + 3 * t**2) * q + (t**3 - t**2) * b
    return rotated(line, climate(seed).turn)


def town(seed: int, i: int, j: int) -> float:
    """Return how built-up a face is, about 0 (open country) to 1 (town centre)."""
    a = curve(seed, 7, np.array([i + 0.37 * j]), 2.3)[0] + curve(seed, 8, np.array([j - 0.29 * i]), 2.1)[0]
    return float(0.50 + 0.55 * a + (number(seed, 9, i, j) - 0.5) * 0.5)


def arterial(seed: int, index: int, southwards: bool) -> bool:
    """Return whether a lattice row or column is a main road all along."""
    phase = int(number(seed, 10 + southwards) * 3)
    return (index + phase) % 3 == 0


def edge_road(seed: int, i: int, j: int, southwards: bool) -> Road | None:
    """Return the road on a lattice edge, if there is one."""
    line = edge(seed, i, j, southwards)
    chance = number(seed, 12 + southwards, i, j)
    if arterial(seed, i if southwards else j, southwards):
        row = i if southwards else j
        tone = number(seed, 14 + southwards, row)
        return Road(line, 8.5 + 3.5 * number(seed, 16 + southwards, row), "main", tone - 0.5)
    beside = (i - 1, j) if southwards else (i, j - 1)
    urban = max(town(seed, i, j), town(seed, *beside))
    tone = number(seed, 18 + southwards, i, j) - 0.5
    if urban > 0.45:
        return Road(line, 6.0 + 1.5 * number(seed, 20, i, j), "street", tone)
    if chance < 0.42:
        return Road(line, 4.4 + 1.2 * number(seed, 21, i, j), "lane", tone)
    if chance < 0.78:
        return Road(line, 3.2 + 0.8 * number(seed, 22, i, j), "dirt", tone)
    return None


def river_line(seed: int, k: int, v: Points) -> tuple[Points, Points]:
    """Return centre (lattice u, metres) and half width (metres) of river `k` at lattice positions v (metres)."""
    base = (k * RIVER_PITCH + int(number(seed, 30) * RIVER_PITCH) + 0.5) * PITCH
    centre = base + 42 * curve(seed, 31 + 10 * k, v, 330.0) + 14 * curve(seed, 32 + 10 * k, v, 90.0)
    half = 8.0 + 6 * number(seed, 33, k) + 4.0 * curve(seed, 34 + 10 * k, v, 140.0)
    return centre, np.maximum(half, 4.0)


def rivers(seed: int, u0: float, u1: float) -> range:
    """Return the rivers that come near a range of lattice columns (metres)."""
    offset = (int(number(seed, 30) * RIVER_PITCH) + 0.5) * PITCH
    reach = 120.0
    first = math.ceil((u0 - reach - offset) / (PITCH * RIVER_PITCH))
    last = math.floor((u1 + reach - offset) / (PITCH * RIVER_PITCH))
    return range(first, last + 1)


def river_gap(seed: int, points: Points) -> Points:
    """Return the distance in metres (along lattice rows) from points (n, 2) to the nearest river's bank.

    Infinite where no river is within about 80 m, negative on the river.
    """
    uv = rotated(np.asarray(points, dtype=np.float64), -climate(seed).turn)
    near = np.full(len(uv), np.inf)
    if not len(uv):
        return near
    for k in rivers(seed, float(uv[:, 0].min()), float(uv[:, 0].max())):
        centre, half = river_line(seed, k, uv[:, 1])
        near = np.minimum(near, np.abs(uv[:, 0] - centre) - half)
    return near


@lru_cache(maxsize=256)
def face_grid(seed: int, i: int, j: int) -> Points:
    """Return the grid (STEPS + 1, STEPS + 1, 2) of a face, rows southwards: a Coons patch of its four edges.

    Coons 1967, Surfaces for computer-aided design of space forms.
    """
    north, south = edge(seed, i, j, False), edge(seed, i, j + 1, False)
    west, east = edge(seed, i, j, True), edge(seed, i + 1, j, True)
    s = np.linspace(0, 1, STEPS + 1)[None, :, None]
    t = np.linspace(0, 1, STEPS + 1)[:, None, None]
    ruled = (1 - t) * north[None] + t * south[None] + (1 - s) * west[:, None] + s * east[:, None]
    corners = (1 - s) * (1 - t) * north[0] + s * (1 - t) * north[-1] + (1 - s) * t * south[0] + s * t * south[-1]
    grid: Points = ruled - corners
    # exactly the shared curves on the border: neighbours meet without slivers, streets end on roads
    grid[0], grid[-1], grid[:, 0], grid[:, -1] = north, south, west, east
    return grid


_USES: tuple[tuple[float, tuple[str, ...], tuple[float, ...]], ...] = (
    (0.66, ("blocks", "rows", "works", "park", "dwellings"), (0.38, 0.24, 0.12, 0.10, 0.16)),
    (0.36, ("dwellings", "rows", "works", "park", "waste", "blocks"), (0.52, 0.16, 0.11, 0.09, 0.06, 0.06)),
    (-9.0, ("fields", "woods", "orchard", "meadow", "dwellings", "farm"), (0.40, 0.17, 0.08, 0.11, 0.06, 0.18)),
)


def use(seed: int, i: int, j: int) -> str:
    """Return what a face is used for."""
    density = town(seed, i, j)
    pick = float(uniform(seed, 23, i, j)[0])
    for least, names, shares in _USES:
        if density > least:
            for name, bound in zip(names, np.cumsum(shares), strict=True):
                if pick < bound:
                    return name
            return names[0]
    raise AssertionError("the last row of the table takes every density")


def faces_near(seed: int, y0: float, x0: float, y1: float, x1: float) -> list[tuple[int, int]]:
    """Return the faces that may show in a rectangle (metres), in a fixed order."""
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    uv = rotated(corners, -climate(seed).turn) / PITCH
    i0, j0 = np.floor(uv.min(axis=0) - 0.4).astype(int)
    i1, j1 = np.floor(uv.max(axis=0) + 0.4).astype(int)
    return [(i, j) for j in range(j0, j1 + 1) for i in range(i0, i1 + 1)]
