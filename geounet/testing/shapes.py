"""Polygons to paint: collected by layer, with the geometry of houses, trees, lines and cars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from geounet.testing.layout import Climate, Colour, Points


class Stuff(IntEnum):
    """What a pixel shows; decides its texture and its label."""

    grass = 0
    soil = 1
    crop = 2
    paved = 3
    gravel = 4
    bank = 5
    vehicle = 6  # on land
    asphalt = 7
    dirt = 8
    traffic = 9  # vehicle on a road
    paint = 10
    tiles = 11
    flat = 12
    metal = 13
    canopy = 14
    hedge = 15
    water = 16
    pool = 17


LAYERS = ("ground", "water", "verge", "tracks", "streets", "mains", "marks", "shadow", "roofs", "crowns")
"""In the order they are painted; `shadow` darkens what lies below it."""


@dataclass(frozen=True)
class Layer:
    """Polygons that are painted one after the other."""

    coords: NDArray[np.float32]
    """(vertices, 2) metres, x and y, relative to the owner's origin."""
    starts: NDArray[np.int64]
    """(polygons + 1,)"""
    fills: NDArray[np.uint8]
    """(polygons, 4): red, green, blue and `Stuff`."""
    boxes: NDArray[np.float32]
    """(polygons, 4): x0, y0, x1, y1."""


class Drawing:
    """Collects polygons by layer."""

    def __init__(self, origin: Points) -> None:
        self.origin = origin
        self._coords: dict[str, list[Points]] = {name: [] for name in LAYERS}
        self._sizes: dict[str, list[int]] = {name: [] for name in LAYERS}
        self._fills: dict[str, list[tuple[float, ...]]] = {name: [] for name in LAYERS}

    def add(self, layer: str, polygon: Points, colour: Sequence[float], stuff: Stuff) -> None:
        """Add one polygon (n, 2) in metres."""
        self._coords[layer].append(polygon)
        self._sizes[layer].append(len(polygon))
        self._fills[layer].append((*colour, int(stuff)))

    def add_many(self, layer: str, polygons: Points, colours: Points, stuff: Stuff) -> None:
        """Add polygons (k, n, 2) with colours (k, 3)."""
        k, n = polygons.shape[:2]
        self._coords[layer].append(polygons.reshape(-1, 2))
        self._sizes[layer].extend([n] * k)
        self._fills[layer].extend([(*map(float, c), int(stuff)) for c in colours])

    def layer(self, name: str) -> Layer:
        """Return what was collected for a layer."""
        sizes = np.asarray(self._sizes[name], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        if not len(sizes):
            return Layer(np.zeros((0, 2), np.float32), starts, np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.float32))
        coords = (np.concatenate(self._coords[name]) - self.origin).astype(np.float32)
        low = np.minimum.reduceat(coords, starts[:-1])
        high = np.maximum.reduceat(coords, starts[:-1])
        fills = np.clip(np.rint(np.asarray(self._fills[name])), 0, 255).astype(np.uint8)
        return Layer(coords, starts, fills, np.hstack([low, high]))


def shade(colour: Sequence[float], factor: float) -> Colour:
    """Return a colour made lighter or darker."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def mix(a: Sequence[float], b: Sequence[float], t: float) -> Colour:
    """Return the colour between `a` (t = 0) and `b` (t = 1)."""
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def normals(line: Points) -> Points:
    """Return unit normals (n, 2) at the vertices of a line, to the right of its direction (y down)."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1])[:, None], 1e-9)
    return np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)


def band(line: Points, width: float | Points) -> Points:
    """Return the outline of a line of that width (metres); for smooth lines."""
    half = np.broadcast_to(np.asarray(width, dtype=np.float64) / 2, len(line))[:, None]
    n = normals(line)
    return np.concatenate([line + n * half, (line - n * half)[::-1]])


def disc(centre: Points, radius: float, corners: int = 16) -> Points:
    """Return a regular polygon."""
    a = np.arange(corners) * (2 * math.pi / corners)
    return centre + radius * np.stack([np.cos(a), np.sin(a)], axis=1)


def box(centre: Points, angle: float, width: float, depth: float) -> Points:
    """Return the corners (4, 2) of a rectangle whose `width` runs along `angle`."""
    c, s = math.cos(angle), math.sin(angle)
    along, across = np.array([c, s]) * (width / 2), np.array([-s, c]) * (depth / 2)
    return np.stack(
        [centre - along - across, centre + along - across, centre + along + across, centre - along + across]
    )


def stations(line: Points) -> tuple[Points, Points]:
    """Return the distance along a line at its vertices and the unit tangents of its segments."""
    step = np.diff(line, axis=0)
    length = np.hypot(step[:, 0], step[:, 1])
    return np.concatenate([[0], np.cumsum(length)]), step / np.maximum(length, 1e-9)[:, None]


def along(line: Points, at: float, station: Points, tangents: Points) -> tuple[Points, Points]:
    """Return the point at a distance along a line and the unit tangent there."""
    k = int(np.clip(np.searchsorted(station, at, side="right") - 1, 0, len(tangents) - 1))
    return line[k] + tangents[k] * (at - station[k]), tangents[k]


def sweep(polygon: Points, offset: Points) -> Points:
    """Return the hull of a convex polygon and its copy moved by `offset`: the shadow of a prism."""
    both = np.concatenate([polygon, polygon + offset])
    order = np.lexsort((both[:, 1], both[:, 0]))
    points = both[order]

    def chain(items: Iterable[Points]) -> list[Points]:
        out: list[Points] = []
        for p in items:
            while len(out) > 1:
                a, b = out[-2], out[-1]
                if (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) > 0:
                    break
                out.pop()
            out.append(p)
        return out[:-1]

    return np.array(chain(points) + chain(points[::-1]))


@dataclass(frozen=True)
class Part:
    """A quadrilateral piece of a building with one roof; the ridge runs along side 0-1."""

    quad: Points
    height: float
    roof: str  # gable, hip, flat
    colour: Colour
    stuff: Stuff


def roof(drawing: Drawing, part: Part, sky: Climate, rng: np.random.Generator) -> None:
    """Paint the shadow and the roof of a building part."""
    q = part.quad
    sun = np.asarray(sky.sun)
    drawing.add("shadow", sweep(q, -sun * sky.shadow * part.height), (0, 0, 0), Stuff.grass)
    colour = shade(part.colour, rng.uniform(0.93, 1.07))
    if part.roof == "flat":
        drawing.add("roofs", q, shade(colour, rng.uniform(1.05, 1.18)), part.stuff)
        inner = q.mean(axis=0) + (q - q.mean(axis=0)) * (1 - 1.0 / max(3.0, math.sqrt(_area(q))))
        drawing.add("roofs", inner, shade(colour, 0.86), part.stuff)
        drawing.add("roofs", inner - sun * 0.4, colour, part.stuff)
        return
    a, b = (q[3] + q[0]) / 2, (q[1] + q[2]) / 2
    span, width = b - a, float(np.hypot(*(q[3] - q[0])))
    length = float(np.hypot(*span))
    inset = min(0.45, 0.5 * width / max(length, 1e-6)) if part.roof == "hip" else 0.0
    r0, r1 = a + span * inset, b - span * inset
    side = (q[0] - q[3]) / max(width, 1e-6)
    end = span / max(length, 1e-6)
    steep = 0.21 if part.stuff is Stuff.tiles else 0.12
    lit0, lit1 = 1 + steep * float(side @ sun), 1 - steep * float(side @ sun)
    drawing.add("roofs", np.stack([q[0], q[1], r1, r0]), shade(colour, lit0), part.stuff)
    drawing.add("roofs", np.stack([r0, r1, q[2], q[3]]), shade(colour, lit1), part.stuff)
    if inset:
        drawing.add("roofs", np.stack([q[0], r0, q[3]]), shade(colour, 1 - steep * float(end @ sun)), part.stuff)
        drawing.add("roofs", np.stack([q[1], q[2], r1]), shade(colour, 1 + steep * float(end @ sun)), part.stuff)
    if length > 3:
        drawing.add("roofs", band(np.stack([r0, r1]), 0.35), shade(colour, 1.12), part.stuff)


def _area(polygon: Points) -> float:
    x, y = polygon[:, 0], polygon[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def trees(
    drawing: Drawing,
    at: Points,
    radius: Points,
    height: Points,
    colour: Colour,
    sky: Climate,
    rng: np.random.Generator,
    *,
    stuff: Stuff = Stuff.canopy,
) -> None:
    """Paint crowns at points (n, 2) with radii and heights (n,) in metres: outline, lit side, tufts, shadow."""
    n = len(at)
    if not n:
        return
    sun = np.asarray(sky.sun)
    tone = np.asarray(colour) * rng.uniform(0.78, 1.2, (n, 1)) + rng.normal(0, 1, (n, 1)) * (7, 3, 2)
    corners = 11
    a = np.arange(corners) * (2 * math.pi / corners)
    circle = np.stack([np.cos(a), np.sin(a)], axis=1)

    def blobs(centre: Points, r: Points, rough: float) -> Points:
        wobble = rng.uniform(1 - rough, 1 + rough, (len(centre), corners, 1))
        out: Points = centre[:, None, :] + circle[None] * (r[:, None, None] * wobble)
        return out

    base = blobs(at, radius, 0.2)
    lit = blobs(at + sun * (0.2 * radius[:, None]), radius * 0.74, 0.22)
    tufts = []
    for _ in range(3):
        turn = rng.uniform(0, 2 * math.pi, n)
        off = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (radius * rng.uniform(0.1, 0.5, n))[:, None]
        tufts.append(blobs(at + off + sun * (0.26 * radius[:, None]), radius * rng.uniform(0.2, 0.36, n), 0.25))
    # crown by crown, so that neighbours overlap as wholes
    polygons = np.stack([base, lit, *tufts], axis=1).reshape(-1, corners, 2)
    light = np.stack([np.full(n, 0.6), np.full(n, 0.9), *(rng.uniform(0.98, 1.28, n) for _ in tufts)], axis=1)
    colours = (tone[:, None, :] * light[:, :, None]).reshape(-1, 3)
    drawing.add_many("crowns", polygons, colours, stuff)
    reach = -sun * sky.shadow
    cast = at[:, None, :] + circle[None] * (radius[:, None, None] * rng.uniform(0.75, 1.05, (n, corners, 1)))
    cast = np.concatenate([cast + reach * (height[:, None, None] * f) for f in (0.35, 0.8)], axis=0)
    drawing.add_many("shadow", cast, np.zeros((len(cast), 3)), Stuff.grass)


_BODIES: tuple[Colour, ...] = (
    (214, 214, 212), (60, 62, 66), (186, 188, 190), (38, 40, 46), (176, 54, 46), (58, 82, 122), (190, 184, 168),
)  # fmt: skip


def car(drawing: Drawing, at: Points, angle: float, sky: Climate, rng: np.random.Generator, stuff: Stuff) -> None:
    """Paint a car (or now and then a van or lorry) along `angle`."""
    long, wide, tall = 4.3, 1.85, 1.5
    kind = rng.random()
    if kind > 0.9:
        long, wide, tall = (6.2, 2.1, 2.4) if kind < 0.97 else (11.0, 2.5, 3.6)
    colour = _BODIES[int(rng.integers(len(_BODIES)))]
    body = box(at, angle, long, wide)
    drawing.add("shadow", sweep(body, -np.asarray(sky.sun) * sky.shadow * tall * 0.8), (0, 0, 0), Stuff.grass)
    drawing.add("marks", body, colour, stuff)
    ahead = np.array([math.cos(angle), math.sin(angle)])
    if kind <= 0.9:
        drawing.add("marks", box(at + ahead * 0.75, angle, 0.7, wide * 0.86), shade(colour, 0.58), stuff)
        drawing.add("marks", box(at - ahead * 1.5, angle, 0.5, wide * 0.8), shade(colour, 0.68), stuff)
    else:
        drawing.add("marks", box(at - ahead * 0.6, angle, long * 0.7, wide * 0.9), shade(colour, 1.08), stuff)
