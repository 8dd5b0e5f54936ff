"""Houses, terraces, halls and courtyard blocks: their plans, roofs and gardens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely

from geounet.testing.layout import Climate, Colour, Points
from geounet.testing.shapes import Drawing, Part, Stuff, along, band, box, disc, mix, roof, shade, sweep


@dataclass(frozen=True)
class Style:
    """How houses stand along a street; lengths in metres as (low, high)."""

    front: tuple[float, float]
    depth: tuple[float, float]
    setback: tuple[float, float]
    gap: tuple[float, float]
    height: tuple[float, float]
    plan: str  # villa, terrace, hall, barn
    clear: float  # distance kept from roads
    apart: float  # distance kept from other houses
    cars: float  # share of kerb places with a parked car
    vacant: float  # share of empty lots


DETACHED = Style((9, 15), (8, 11), (4, 8), (4, 8), (4, 7.5), "villa", 1.0, 1.5, 0.14, 0.1)
TERRACED = Style((24, 60), (8.5, 11), (3, 5), (5, 12), (6, 9), "terrace", 1.0, 2.0, 0.4, 0.05)
FARM = Style((12, 30), (9, 15), (3, 7), (5, 12), (5, 8), "barn", 0.8, 2.0, 0.05, 0.1)
HALLS = Style((20, 48), (18, 36), (6, 14), (6, 16), (6, 12), "hall", 2.0, 6.0, 0.1, 0.12)


@dataclass(frozen=True)
class House:
    """A building: roof parts, the union of their outlines, and where its street and garden are."""

    parts: tuple[Part, ...]
    footprint: shapely.Polygon
    at: Points
    angle: float
    back: Points  # unit vector away from the street
    front: float
    group: int


def _roof_colour(sky: Climate, rng: np.random.Generator) -> tuple[Colour, Stuff]:
    k = int(rng.choice(len(sky.roofs), p=np.asarray(sky.roof_weights)))
    base = np.asarray(sky.roofs[k]) * rng.uniform(0.84, 1.14) + rng.normal(0, 4, 3)
    return (float(base[0]), float(base[1]), float(base[2])), Stuff.tiles


def _flat_colour(sky: Climate, rng: np.random.Generator) -> tuple[Colour, Stuff]:
    pick = rng.random()
    if pick < 0.3:
        return shade(sky.asphalt, rng.uniform(0.85, 1.25)), Stuff.flat
    if pick < 0.55:
        return shade((186, 184, 178), rng.uniform(0.8, 1.2)), Stuff.flat
    if pick < 0.7:
        return shade(sky.soil, rng.uniform(0.9, 1.25)), Stuff.flat
    if pick < 0.78:
        return mix(sky.grass, sky.dry, rng.uniform(0, 1)), Stuff.flat  # planted
    return shade(sky.roofs[int(rng.choice(len(sky.roofs), p=np.asarray(sky.roof_weights)))], 1.05), Stuff.metal


def _union(parts: list[Part]) -> shapely.Polygon:
    merged = shapely.union_all([shapely.Polygon(p.quad).buffer(0) for p in parts])
    if merged.geom_type != "Polygon":
        merged = max(shapely.get_parts(merged), key=lambda g: g.area)
    if not isinstance(merged, shapely.Polygon):
        raise AssertionError(f"the parts of a house cover an area, found {merged.geom_type}")
    return merged


def row(
    line: Points,
    station: Points,
    tangents: Points,
    side: float,
    width: float,
    style: Style,
    sky: Climate,
    rng: np.random.Generator,
) -> list[House]:
    """Return houses along one side of a street that is `width` metres wide; they may still collide."""
    out: list[House] = []
    d = float(rng.uniform(6, 14))
    setback = rng.uniform(*style.setback)
    group = int(rng.integers(1 << 40))
    while d < station[-1] - 6:
        front, depth = rng.uniform(*style.front), rng.uniform(*style.depth)
        middle = d + front / 2
        d += front + rng.uniform(*style.gap)
        if middle > station[-1] - 6 or rng.random() < style.vacant:
            continue
        at, tangent = along(line, middle, station, tangents)
        angle = math.atan2(tangent[1], tangent[0])
        back = np.array([-tangent[1], tangent[0]]) * side
        near = width / 2 + setback + rng.uniform(-0.6, 0.6) * (style.plan != "terrace")
        centre = at + back * (near + depth / 2)
        turn = rng.normal(0, 0.03) if style.plan in ("villa", "barn") else 0.0
        build = {"villa": _villa, "terrace": _terrace, "hall": _hall, "barn": _barn}[style.plan]
        parts = build(centre, angle + turn, back, front, depth, rng.uniform(*style.height), sky, rng)
        out.append(House(tuple(parts), _union(parts), centre, angle, back, front, group + len(out)))
    return out


def _villa(
    c: Points, a: float, back: Points, w: float, d: float, h: float, sky: Climate, rng: np.random.Generator
) -> list[Part]:
    colour, stuff = _roof_colour(sky, rng)
    kind = str(rng.choice(["gable", "hip", "flat"], p=[0.5, 0.34, 0.16]))
    if kind == "flat":
        colour, stuff = _flat_colour(sky, rng)
    across = rng.random() < 0.25
    main = box(c, a + (math.pi / 2 if across else 0), d if across else w, w if across else d)
    parts = []
    ahead = np.array([math.cos(a), math.sin(a)])
    if rng.random() < 0.45:  # a wing makes an L or a T
        shift = ahead * (rng.choice([-1.0, 0.0, 1.0]) * w * 0.27) + back * (d * 0.55)
        parts.append(Part(box(c + shift, a + math.pi / 2, d * 0.9, w * 0.42), h * 0.9, kind, colour, stuff))
    parts.append(Part(main, h, kind, colour, stuff))
    if rng.random() < 0.35:  # garage or shed against the side
        small, stuff = _flat_colour(sky, rng)
        shift = ahead * (rng.choice([-1.0, 1.0]) * (w / 2 + 1.6)) + back * rng.uniform(-2, 2)
        parts.insert(0, Part(box(c + shift, a, 3.6, 6.0), 2.6, "flat", small, stuff))
    return parts


def _terrace(
    c: Points, a: float, back: Points, w: float, d: float, h: float, sky: Climate, rng: np.random.Generator
) -> list[Part]:
    colour, stuff = _roof_colour(sky, rng)
    flat = rng.random() < 0.18
    ahead = np.array([math.cos(a), math.sin(a)])
    count = max(3, round(w / rng.uniform(5.5, 7.5)))
    unit = w / count
    parts = []
    for k in range(count):
        at = c + ahead * ((k + 0.5) * unit - w / 2)
        tint = shade(colour, rng.uniform(0.93, 1.07))
        if rng.random() < 0.1:
            tint, _ = _roof_colour(sky, rng)
        step = back * (rng.uniform(-0.3, 0.3) if count < 6 else 0.0)
        parts.append(Part(box(at + step, a, unit + 0.05, d), h, "flat" if flat else "gable", tint, stuff))
        if rng.random() < 0.3:
            parts.append(Part(box(at + back * (d / 2 + 1.2), a, unit * 0.6, 2.6), 2.8, "flat", *_flat_colour(sky, rng)))
    return parts


def _hall(
    c: Points, a: float, back: Points, w: float, d: float, h: float, sky: Climate, rng: np.random.Generator
) -> list[Part]:
    colour, stuff = _flat_colour(sky, rng)
    parts = []
    if rng.random() < 0.35:  # sheds side by side
        ahead = np.array([math.cos(a), math.sin(a)])
        count = max(2, round(w / 14))
        for k in range(count):
            at = c + ahead * ((k + 0.5) * w / count - w / 2)
            parts.append(Part(box(at, a + math.pi / 2, d, w / count + 0.05), h, "gable", colour, Stuff.metal))
        return parts
    parts.append(Part(box(c, a, w, d), h, "flat", colour, stuff))
    if rng.random() < 0.4:
        ahead = np.array([math.cos(a), math.sin(a)])
        shift = ahead * (rng.choice([-1.0, 1.0]) * w * 0.3) - back * (d * 0.5)
        parts.append(Part(box(c + shift, a, w * 0.3, 11), h * 0.6, "flat", *_flat_colour(sky, rng)))
    return parts


def _barn(
    c: Points, a: float, back: Points, w: float, d: float, h: float, sky: Climate, rng: np.random.Generator
) -> list[Part]:
    colour, stuff = _roof_colour(sky, rng)
    if rng.random() < 0.4:
        colour, stuff = shade((128, 118, 108), rng.uniform(0.85, 1.25)), Stuff.metal
    return [Part(box(c, a, w, d), h, "gable", colour, stuff)]


def court(corners: Points, sky: Climate, rng: np.random.Generator) -> tuple[Points, list[House]] | None:
    """Return the courtyard's outline and the houses of a closed block, or None where there is no room.

    Parameters
    ----------
    corners
        (4, 2) corners of the land between the middles of the streets around.
    """
    whole = shapely.Polygon(corners)
    outer = _inset(whole, rng.uniform(9.0, 10.5))
    inner = _inset(whole, rng.uniform(20.5, 23.5))
    if outer is None or inner is None or shapely.Polygon(inner).area < 100:
        return None
    corners, yard = outer, inner
    yard = np.roll(yard, -int(np.argmin(np.hypot(*(yard - corners[0]).T))), axis=0)
    houses: list[House] = []
    height = rng.uniform(7, 12)
    flat = rng.random() < 0.25
    custom = _flat_colour(sky, rng) if flat else _roof_colour(sky, rng)
    group = int(rng.integers(1 << 40))
    for k in range(4):
        a, b, c, d = corners[k], corners[(k + 1) % 4], yard[(k + 1) % 4], yard[k]
        count = max(1, round(float(np.hypot(*(b - a))) / rng.uniform(16, 26)))
        if rng.random() < 0.1:
            continue  # the block is open on this side
        cuts = np.linspace(0, 1, count + 1)
        for m in range(count):
            f, g = cuts[m], cuts[m + 1]
            quad = np.stack([a + (b - a) * f, a + (b - a) * g, d + (c - d) * g, d + (c - d) * f])
            colour, stuff = custom
            if rng.random() < 0.35:
                colour, stuff = _flat_colour(sky, rng) if flat else _roof_colour(sky, rng)
            part = Part(quad, height * rng.uniform(0.85, 1.15), "flat" if flat else "gable", colour, stuff)
            parts = [part]
            if rng.random() < 0.25:  # a wing into the yard
                inwards = (quad[3] + quad[2] - quad[0] - quad[1]) / 2
                inwards /= max(float(np.hypot(*inwards)), 1e-6)
                middle = (quad[2] + quad[3]) / 2 + inwards * 3.0
                angle = math.atan2(inwards[1], inwards[0])
                parts.insert(0, Part(box(middle, angle, 9.0, 7.0), height * 0.7, "flat", *_flat_colour(sky, rng)))
            centre = quad.mean(axis=0)
            houses.append(House(tuple(parts), _union(parts), centre, 0.0, np.zeros(2), 0.0, group))
    return yard, houses


def _inset(polygon: shapely.Polygon, distance: float) -> Points | None:
    """Return the corners (4, 2) of a convex quadrilateral made smaller on all sides, None where little is left."""
    smaller = polygon.buffer(-distance, join_style="mitre", mitre_limit=20.0)
    if smaller.is_empty or smaller.geom_type != "Polygon":
        return None
    points = shapely.get_coordinates(smaller.exterior)[:-1]
    sides = np.hypot(*(np.roll(points, -1, axis=0) - points).T)
    return points if len(points) == 4 and sides.min() > 5 else None


def paint(draw: Drawing, house: House, sky: Climate, rng: np.random.Generator) -> None:
    """Paint a house and what stands on its roof."""
    for part in house.parts:
        roof(draw, part, sky, rng)
    for part in house.parts:
        _clutter(draw, part, sky, rng)


def _inside(quad: Points, s: float, t: float) -> Points:
    top = quad[0] + (quad[1] - quad[0]) * s
    bottom = quad[3] + (quad[2] - quad[3]) * s
    out: Points = top + (bottom - top) * t
    return out


def _clutter(draw: Drawing, part: Part, sky: Climate, rng: np.random.Generator) -> None:
    q = part.quad
    angle = math.atan2(q[1][1] - q[0][1], q[1][0] - q[0][0])
    length, width = float(np.hypot(*(q[1] - q[0]))), float(np.hypot(*(q[3] - q[0])))
    sun = np.asarray(sky.sun)
    if part.roof == "flat":
        if length * width < 60:
            return
        for _ in range(int(rng.poisson(min(12.0, length * width / 110)))):  # plant, hatches, ducts
            at = _inside(q, rng.uniform(0.12, 0.88), rng.uniform(0.15, 0.85))
            item = box(at, angle, rng.uniform(0.8, 3.2), rng.uniform(0.8, 2.2))
            draw.add(
                "roofs", sweep(item, -sun * sky.shadow * rng.uniform(0.6, 1.4)), shade(part.colour, 0.5), part.stuff
            )
            draw.add("roofs", item, shade((188, 188, 184), rng.uniform(0.7, 1.2)), part.stuff)
        if rng.random() < 0.25 and length > 18:  # roof lights in a row
            for s in np.arange(0.1, 0.92, 5.0 / length):
                draw.add("roofs", box(_inside(q, float(s), 0.5), angle, 1.4, width * 0.55), (206, 212, 214), part.stuff)
        return
    if part.stuff is Stuff.metal:
        for s in np.arange(0.0, 1.0, 1.1 / max(length, 1.2)):  # sheet joints
            a, b = _inside(q, float(s), 0.02), _inside(q, float(s), 0.98)
            draw.add(
                "roofs", box((a + b) / 2, angle + math.pi / 2, width * 0.96, 0.22), shade(part.colour, 0.9), part.stuff
            )
        return
    if rng.random() < 0.6:  # chimney
        at = _inside(q, rng.uniform(0.2, 0.8), rng.uniform(0.38, 0.62))
        item = box(at, angle, 0.9, 0.7)
        draw.add("roofs", sweep(item, -sun * sky.shadow * 1.5), shade(part.colour, 0.55), part.stuff)
        draw.add("roofs", item, (150, 130, 118), part.stuff)
    if rng.random() < 0.14 and length > 6:  # solar panels on one slope
        t = 0.27 if float((q[0] - q[3]) @ sun) > 0 else 0.73
        draw.add(
            "roofs",
            box(_inside(q, rng.uniform(0.4, 0.6), t), angle, length * 0.5, width * 0.28),
            (42, 50, 68),
            part.stuff,
        )
    for _ in range(int(rng.poisson(0.8))):  # roof windows
        at = _inside(q, rng.uniform(0.15, 0.85), float(rng.choice([0.25, 0.75])))
        draw.add("roofs", box(at, angle, 0.9, 1.2), (84, 92, 100), part.stuff)


def garden(draw: Drawing, house: House, style: Style, sky: Climate, rng: np.random.Generator) -> None:
    """Paint the lot: drive, terrace, beds, perhaps a pool."""
    ahead = np.array([math.cos(house.angle), math.sin(house.angle)])
    if style.plan == "hall":
        return
    tint = mix(sky.grass, sky.dry, float(rng.beta(1.3, 2.2)))
    lot = box(house.at + house.back * 7.0, house.angle, house.front + 6.0, 26.0)
    draw.add("ground", lot, tint, Stuff.grass)
    for a, b in ((0, 3), (1, 2), (2, 3)):  # fences
        if rng.random() < 0.6:
            draw.add("ground", band(np.stack([lot[a], lot[b]]), 0.4), shade(tint, rng.uniform(0.6, 1.25)), Stuff.grass)
    pave = shade(sky.asphalt, rng.uniform(0.95, 1.4)) if rng.random() < 0.6 else shade(sky.dirt, rng.uniform(0.85, 1.1))
    if rng.random() < 0.8:  # drive
        at = house.at - house.back * 8.0 + ahead * (rng.choice([-1.0, 1.0]) * house.front * 0.42)
        draw.add("ground", box(at, house.angle, 3.0, 11.0), pave, Stuff.paved)
    if rng.random() < 0.6:  # terrace behind the house
        draw.add("ground", box(house.at + house.back * 7.0, house.angle, house.front * 0.7, 5.0), pave, Stuff.paved)
    if style.plan == "villa" and rng.random() < 0.3:  # bed or bare patch
        at = house.at + house.back * rng.uniform(11, 16) + ahead * rng.uniform(-4, 4)
        draw.add("ground", disc(at, rng.uniform(1.5, 4.5), 9) + rng.normal(0, 0.4, (9, 2)), sky.soil, Stuff.soil)
    if style.plan == "villa" and rng.random() < 0.09:
        at = house.at + house.back * 12.5 + ahead * rng.uniform(-3, 3)
        draw.add("ground", box(at, house.angle, 10.5, 6.5), shade(pave, 1.1), Stuff.paved)
        draw.add("water", box(at, house.angle, 8.0, 4.0), (88, 158, 176), Stuff.pool)


def shrubs(house: House, style: Style, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return where trees and bushes of the garden may stand."""
    if style.plan == "hall":
        return []
    ahead = np.array([math.cos(house.angle), math.sin(house.angle)])
    out = []
    for _ in range(int(rng.poisson(4.0 if style.plan == "villa" else 3.0 + house.front / 14))):
        at = house.at + house.back * rng.uniform(4, 19) + ahead * rng.uniform(-0.6, 0.6) * (house.front + 6)
        out.append((float(at[0]), float(at[1])))
    if rng.random() < 0.3:  # a hedge on the boundary
        start = house.at + ahead * (house.front / 2 + 2.6)
        out += [tuple(map(float, start + house.back * k)) for k in np.arange(-2.0, 15.0, 1.6)]  # type: ignore[misc]
    return out
