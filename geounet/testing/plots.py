"""What stands on a face of the road lattice: streets, houses, gardens, fields, woods, ponds and cars."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import shapely

from geounet.testing import houses
from geounet.testing.layout import (
    PITCH,
    STEPS,
    Climate,
    Colour,
    Points,
    Road,
    climate,
    edge_road,
    face_grid,
    faces_near,
    river_gap,
    town,
    use,
)
from geounet.testing.noise import curve, stream
from geounet.testing.shapes import LAYERS, Drawing, Layer, Stuff, along, band, car, disc, mix, shade, stations, trees


@dataclass(frozen=True)
class Crop:
    """A parcel with rows."""

    polygon: Points
    angle: float
    period: float
    strength: float


@dataclass(frozen=True)
class Face:
    """A finished face; coordinates of layers are relative to `origin`, all others are metres of the world."""

    origin: Points
    layers: dict[str, Layer]
    crops: tuple[Crop, ...]
    buildings: tuple[shapely.Polygon, ...]
    roads: tuple[Road, ...]


@dataclass
class Plot:
    """A face while it is being filled."""

    seed: int
    sky: Climate
    rng: np.random.Generator
    grid: Points
    draw: Drawing
    built_up: float
    roads: list[Road] = field(default_factory=list)
    crops: list[Crop] = field(default_factory=list)
    parts: list[houses.House] = field(default_factory=list)
    blocked: list[shapely.Geometry] = field(default_factory=list)

    def at(self, s: Points | float, t: Points | float) -> Points:
        """Return the points (…, 2) at positions in 0..STEPS, s eastwards and t southwards, on the face's grid."""
        s, t = np.broadcast_arrays(np.clip(s, 0, STEPS), np.clip(t, 0, STEPS))
        i, j = np.minimum(s.astype(int), STEPS - 1), np.minimum(t.astype(int), STEPS - 1)
        f, g = (s - i)[..., None], (t - j)[..., None]
        a = self.grid[j, i] * (1 - f) + self.grid[j, i + 1] * f
        b = self.grid[j + 1, i] * (1 - f) + self.grid[j + 1, i + 1] * f
        out: Points = a * (1 - g) + b * g
        return out

    def patch(self, s0: float, t0: float, s1: float, t1: float) -> Points:
        """Return the outline of a piece of the face between grid positions."""
        n = 2 + int(max(abs(s1 - s0), abs(t1 - t0)))
        up, one = np.linspace(0, 1, n), np.ones(n)
        s = np.concatenate([s0 + (s1 - s0) * up, s1 * one, s1 + (s0 - s1) * up, s0 * one])
        t = np.concatenate([t0 * one, t0 + (t1 - t0) * up, t1 * one, t1 + (t0 - t1) * up])
        return self.at(s, t)

    def scatter(self, spacing: float, s0: float = 0, t0: float = 0, s1: float = STEPS, t1: float = STEPS) -> Points:
        """Return jittered points (n, 2) about `spacing` metres apart in a piece of the face."""
        cols = max(1, round((s1 - s0) / STEPS * PITCH / spacing))
        rows = max(1, round((t1 - t0) / STEPS * PITCH / spacing))
        s, t = np.meshgrid(np.arange(cols) + 0.5, np.arange(rows) + 0.5)
        s, t = s + self.rng.uniform(-0.42, 0.42, s.shape), t + self.rng.uniform(-0.42, 0.42, t.shape)
        return self.at(s0 + s.ravel() * (s1 - s0) / cols, t0 + t.ravel() * (t1 - t0) / rows)

    def ground(self, polygon: Points, colour: Colour, stuff: Stuff) -> None:
        """Paint ground."""
        self.draw.add("ground", polygon, colour, stuff)

    def street(self, line: Points, width: float, kind: str = "street") -> None:
        """Add a street of this face."""
        self.roads.append(Road(line, width, kind, self.rng.uniform(-0.5, 0.5)))

    def plant(self, points: Points, low: float, high: float, *, bush: bool = False, colour: Colour | None = None) -> None:
        """Plant trees with radii between `low` and `high` metres where there is neither road, house nor river."""
        if not len(points):
            return
        radius = self.rng.uniform(low, high, len(points))
        free = river_gap(self.seed, points) > 1.0
        if self.blocked:
            taken = shapely.union_all(self.blocked)
            shapely.prepare(taken)
            free &= ~shapely.dwithin(taken, shapely.points(points), radius * 0.75)
        points, radius = points[free], radius[free]
        height = radius * (0.9 if bush else 2.0) * self.rng.uniform(0.8, 1.25, len(points))
        base = colour or mix(self.sky.leaf, self.sky.grass, float(self.rng.uniform(0, 0.35)))
        order = np.argsort(self.rng.random(len(points)))
        trees(
            self.draw, points[order], radius[order], height[order], base, self.sky, self.rng,
            stuff=Stuff.hedge if bush else Stuff.canopy,
        )  # fmt: skip


def _lawn(p: Plot) -> Colour:
    return mix(p.sky.grass, p.sky.dry, float(p.rng.beta(1.6, 2.4)))


def _crop(p: Plot) -> tuple[Colour, float]:
    """Return colour and row strength of a field."""
    r = p.rng.random()
    if r < 0.28:  # ploughed
        return shade(p.sky.soil, p.rng.uniform(0.78, 1.02)), p.rng.uniform(0.06, 0.12)
    if r < 0.5:  # ripe or stubble
        return mix((190, 172, 122), p.sky.soil, p.rng.uniform(0, 0.6)), p.rng.uniform(0.03, 0.07)
    if r < 0.8:  # young
        return mix(p.sky.grass, p.sky.soil, p.rng.uniform(0, 0.6)), p.rng.uniform(0.05, 0.12)
    # dense and dark like trees
    return shade(mix(p.sky.leaf, p.sky.grass, p.rng.uniform(0, 0.7)), p.rng.uniform(0.95, 1.15)), p.rng.uniform(0.03, 0.08)


def _parcel(p: Plot, s0: float, t0: float, s1: float, t1: float) -> None:
    outline = p.patch(s0, t0, s1, t1)
    colour, strength = _crop(p)
    p.ground(outline, colour, Stuff.crop)
    a, b = p.at(np.array([s0, s0]), np.array([t0, t1]))
    angle = math.atan2(b[1] - a[1], b[0] - a[0])
    if s1 - s0 > t1 - t0:
        c = p.at(s1, t0)
        angle = math.atan2(c[1] - a[1], c[0] - a[0])
    p.crops.append(Crop(outline, angle, float(p.rng.choice([0.75, 1.5, 2.4, 3.2])), strength))


def fields(p: Plot) -> None:
    """Fill with parcels in strips, divided by hedges, margins and tracks."""
    upright = p.rng.random() < 0.5
    cuts = [0.0, *sorted(p.rng.choice(np.arange(5, STEPS - 4), int(p.rng.integers(0, 3)), replace=False)), float(STEPS)]
    for a, b in zip(cuts[:-1], cuts[1:], strict=True):
        cross = [0.0, float(STEPS)]
        if p.rng.random() < 0.6:
            cross.insert(1, float(p.rng.integers(7, STEPS - 6)))
        for c, d in zip(cross[:-1], cross[1:], strict=True):
            _parcel(p, *((a, c, b, d) if upright else (c, a, d, b)))
    for cut in cuts[1:-1]:
        t = np.linspace(0, STEPS, STEPS + 1)
        line = p.at(cut, t) if upright else p.at(t, cut)
        r = p.rng.random()
        if r < 0.3:
            p.street(line, p.rng.uniform(2.8, 3.6), "dirt")
        elif r < 0.75:
            _hedge(p, line, gaps=0.25)
        else:
            p.ground(band(line, p.rng.uniform(1.5, 4)), _lawn(p), Stuff.grass)
    if p.rng.random() < 0.3:
        p.plant(p.scatter(60.0), 3.0, 5.0)


def _hedge(p: Plot, line: Points, gaps: float) -> None:
    """Plant a row of bushes and some trees along a line."""
    station, tangents = stations(line)
    n = max(2, int(station[-1] / 1.7))
    places = np.linspace(0.5, station[-1] - 0.5, n)
    holes = curve(p.seed, 40, places + p.rng.uniform(0, 1e5), 22.0) < np.quantile([-0.6, 0.6], gaps)
    points = np.array([along(line, d, station, tangents)[0] for d in places[~holes]]).reshape(-1, 2)
    points = points + p.rng.normal(0, 0.3, points.shape)
    p.plant(points, 1.0, 1.9, bush=True)
    p.plant(points[p.rng.random(len(points)) < 0.06], 2.5, 4.5)


def woods(p: Plot) -> None:
    """Fill with trees, with a ragged edge and perhaps a clearing."""
    p.ground(p.patch(0, 0, STEPS, STEPS), shade(mix(p.sky.leaf, p.sky.soil, 0.35), 0.8), Stuff.grass)
    points = p.scatter(float(p.rng.uniform(5.0, 6.4)))
    where = curve(p.seed, 41, points[:, 0] * 0.8 + points[:, 1] * 0.6, 60.0)
    where += curve(p.seed, 42, points[:, 1] * 0.8 - points[:, 0] * 0.6, 55.0)
    if p.rng.random() < 0.4:
        t = np.linspace(0, STEPS, STEPS + 1)
        p.street(p.at(float(p.rng.integers(8, 17)), t), 3.2, "dirt")
    _roads_block(p)
    p.plant(points[where > -0.55], 2.6, 4.6)


def orchard(p: Plot) -> None:
    """Fill with trees in rows."""
    p.ground(p.patch(0, 0, STEPS, STEPS), mix(p.sky.soil, p.sky.grass, float(p.rng.uniform(0.2, 0.9))), Stuff.soil)
    gap, row = p.rng.uniform(4.5, 6.5), p.rng.uniform(6.0, 9.0)
    s, t = np.meshgrid(np.arange(6, PITCH - 6, gap), np.arange(6, PITCH - 6, row))
    s, t = s.ravel() * STEPS / PITCH, t.ravel() * STEPS / PITCH
    keep = p.rng.random(len(s)) < 0.94
    size = p.rng.uniform(1.3, 2.4)
    points = p.at(s[keep], t[keep])
    p.plant(points + p.rng.normal(0, 0.2, points.shape), size * 0.8, size * 1.15)


def meadow(p: Plot) -> None:
    """Fill with grassland, scattered clumps and perhaps a pond."""
    p.ground(p.patch(0, 0, STEPS, STEPS), _lawn(p), Stuff.grass)
    for _ in range(int(p.rng.integers(2, 6))):
        _clump(p, p.at(*p.rng.uniform(3, STEPS - 3, 2)), p.rng.uniform(8, 25))
    if p.rng.random() < 0.55:
        _pond(p)


def _clump(p: Plot, centre: Points, radius: float) -> None:
    n = int(radius**2 * 0.06) + 2
    p.plant(centre + p.rng.normal(0, radius * 0.45, (n, 2)), 1.4, 4.2)


def _pond(p: Plot) -> None:
    centre = p.at(*p.rng.uniform(8, STEPS - 8, 2))
    a = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    r = p.rng.uniform(14, 38)
    wave = sum(p.rng.uniform(0, 0.2 / k) * np.sin(k * a + p.rng.uniform(0, 6.3)) for k in (1, 2, 3, 5))
    shape = centre + (r * (1 + wave))[:, None] * np.stack([np.cos(a), np.sin(a) * p.rng.uniform(0.5, 1)], axis=1)
    p.draw.add("water", centre + (shape - centre) * (1 + 2.2 / r), mix(p.sky.soil, p.sky.grass, 0.5), Stuff.bank)
    p.draw.add("water", shape, shade(p.sky.water, p.rng.uniform(0.9, 1.25)), Stuff.water)
    p.blocked.append(shapely.Polygon(shape).buffer(0))
    rim = shape[p.rng.random(len(shape)) < 0.45]
    p.plant(centre + (rim - centre) * (1 + 5 / r) + p.rng.normal(0, 1.5, rim.shape), 1.5, 3.6)


def park(p: Plot) -> None:
    """Fill with lawns, paths, trees and perhaps a pond or a pitch."""
    p.ground(p.patch(0, 0, STEPS, STEPS), mix(p.sky.grass, p.sky.leaf, 0.2), Stuff.grass)
    t = np.linspace(0, STEPS, STEPS + 1)
    p.street(p.at(t, 12 + 5 * np.sin(t * math.pi / STEPS * p.rng.integers(1, 4))), 2.8, "dirt")
    if p.rng.random() < 0.6:
        _pond(p)
    if p.rng.random() < 0.4:
        s0, t0 = p.rng.uniform(3, 12, 2)
        p.ground(p.patch(s0, t0, s0 + 6, t0 + 9.5), shade(p.sky.grass, 1.18), Stuff.grass)
        p.ground(p.patch(s0 + 2.6, t0, s0 + 3.4, t0 + 0.8), shade(p.sky.dry, 1.1), Stuff.soil)
        p.blocked.append(shapely.Polygon(p.patch(s0, t0, s0 + 6, t0 + 9.5)).buffer(0))
    _roads_block(p)
    for _ in range(int(p.rng.integers(5, 10))):
        _clump(p, p.at(*p.rng.uniform(2, STEPS - 2, 2)), p.rng.uniform(8, 22))
    p.plant(p.scatter(24.0), 2.4, 4.8)


def waste(p: Plot) -> None:
    """Fill with bare ground: a building site or a pit, with tracks, heaps and shrubs."""
    p.ground(p.patch(0, 0, STEPS, STEPS), mix(p.sky.soil, p.sky.dry, float(p.rng.uniform(0, 0.6))), Stuff.soil)
    for _ in range(int(p.rng.integers(6, 14))):
        centre, r = p.at(*p.rng.uniform(2, STEPS - 2, 2)), p.rng.uniform(5, 25)
        blob = disc(centre, r, 18) + p.rng.normal(0, r * 0.1, (18, 2))
        p.ground(blob, shade(p.sky.soil, p.rng.uniform(0.8, 1.25)), Stuff.gravel)
    t = np.linspace(0, STEPS, STEPS + 1)
    p.street(p.at(10 + 4 * np.sin(t * 0.4 + p.rng.uniform(0, 6)), t), 4.0, "dirt")
    _roads_block(p)
    p.plant(p.scatter(20.0)[::2], 0.8, 2.0, bush=True)


def _roads_block(p: Plot) -> None:
    p.blocked.extend(shapely.LineString(r.line).buffer(r.width / 2 + 0.6, quad_segs=4) for r in p.roads)


def _lots(p: Plot, lines: list[tuple[Points, float]], style: houses.Style) -> None:
    """Place houses of a style along lines (with road widths), then gardens and trees around them."""
    inner = shapely.Polygon(np.concatenate([p.grid[0], p.grid[1:, -1], p.grid[-1, -2::-1], p.grid[-2:0:-1, 0]])).buffer(-5.0)
    _roads_block(p)
    shapely.prepare(inner)
    taken = shapely.union_all(p.blocked) if p.blocked else shapely.Polygon()
    shapely.prepare(taken)
    candidates: list[houses.House] = []
    for line, width in lines:
        station, tangents = stations(line)
        for side in (1.0, -1.0):
            candidates += houses.row(line, station, tangents, side, width, style, p.sky, p.rng)
    shapes = np.array([h.footprint for h in candidates], dtype=object)
    if not len(shapes):
        return
    good = shapely.covered_by(shapes, inner) & ~shapely.dwithin(shapes, taken, style.clear)
    centres = shapely.get_coordinates(shapely.centroid(shapes))
    good &= river_gap(p.seed, centres) > 14.0
    kept: list[int] = []
    tree = shapely.STRtree(shapes)
    left, right = tree.query(shapes, predicate="dwithin", distance=style.apart)
    rivals: dict[int, list[int]] = {}
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        if b < a and candidates[a].group != candidates[b].group:
            rivals.setdefault(a, []).append(b)
    chosen = np.zeros(len(shapes), dtype=bool)
    for k in np.flatnonzero(good).tolist():
        if not any(chosen[r] for r in rivals.get(k, ())):
            chosen[k] = True
            kept.append(k)
    for k in kept:
        p.parts.append(candidates[k])
        p.blocked.append(candidates[k].footprint)
    for k in kept:
        houses.garden(p.draw, candidates[k], style, p.sky, p.rng)
    planted = [tree for k in kept for tree in houses.shrubs(candidates[k], style, p.rng)]
    if planted:
        p.plant(np.array([t[:2] for t in planted]), 1.0, 3.4)
    for line, width in lines:
        _parked(p, line, width, style)


def _parked(p: Plot, line: Points, width: float, style: houses.Style) -> None:
    station, tangents = stations(line)
    for side in (1.0, -1.0):
        d = p.rng.uniform(8, 20)
        while d < station[-1] - 10:
            if p.rng.random() < style.cars:
                at, tangent = along(line, d, station, tangents)
                normal = np.array([-tangent[1], tangent[0]])
                car(
                    p.draw, at + normal * (side * (width / 2 - 1.1)), math.atan2(tangent[1], tangent[0]), p.sky, p.rng,
                    Stuff.traffic,
                )  # fmt: skip
            d += p.rng.uniform(6.5, 13)


def _streets(p: Plot, columns: list[int], rows: list[int], width: float, kind: str = "street") -> list[tuple[Points, float]]:
    lines = [(p.grid[:, k].copy(), width) for k in columns] + [(p.grid[k].copy(), width) for k in rows]
    for line, _ in lines:
        p.street(line, width, kind)
    return lines


def _frame(p: Plot) -> list[tuple[Points, float]]:
    """Return the four sides of the face as lines to build along, with the width of a road there."""
    return [(line.copy(), 8.0) for line in (p.grid[0], p.grid[-1], p.grid[:, 0], p.grid[:, -1])]


def dwellings(p: Plot) -> None:
    """Fill with detached houses along two or three streets."""
    p.ground(p.patch(0, 0, STEPS, STEPS), _lawn(p), Stuff.grass)
    if p.rng.random() < 0.5:
        p.grid = p.grid.transpose(1, 0, 2)
    columns = [8, 16] if p.rng.random() < 0.6 else [6, 12, 18]
    rows = [int(p.rng.choice([11, 12, 13]))] if p.rng.random() < 0.4 else []
    lines = _streets(p, columns, rows, float(p.rng.uniform(4.6, 6.2)))
    _lots(p, lines + _frame(p), houses.DETACHED)


def rows(p: Plot) -> None:
    """Fill with terraced houses along streets."""
    p.ground(p.patch(0, 0, STEPS, STEPS), _lawn(p), Stuff.grass)
    if p.rng.random() < 0.5:
        p.grid = p.grid.transpose(1, 0, 2)
    lines = _streets(p, [6, 12, 18] if p.rng.random() < 0.6 else [8, 16], [], float(p.rng.uniform(5.0, 6.5)))
    _lots(p, lines + _frame(p), houses.TERRACED)


def farm(p: Plot) -> None:
    """Fill with fields and a farmstead beside a road, with a dirt yard."""
    fields(p)
    width = 5.5
    corner = int(p.rng.integers(0, 2)) * 13 + 1
    p.ground(p.patch(corner, 0, corner + 9, 9), _lawn(p), Stuff.grass)
    p.crops[:] = [c for c in p.crops]
    p.ground(p.patch(corner + 1, 1.2, corner + 7, 6.5), shade(p.sky.dirt, p.rng.uniform(0.9, 1.05)), Stuff.soil)
    yard = p.patch(corner, 0, corner + 9, 9)
    p.crops.append(Crop(yard, 0.0, 1.0, 0.0))
    t = np.linspace(0, 8, 12)
    line = p.at(np.full(12, corner + 4.0), t)
    p.street(line, 3.6, "dirt")
    _lots(p, [(line, width)], houses.FARM)
    _clump(p, p.at(corner + 8.0, 4.0), 10.0)


def works(p: Plot) -> None:
    """Fill with halls, paved yards and car parks."""
    p.ground(p.patch(0, 0, STEPS, STEPS), mix(p.sky.grass, p.sky.dry, 0.6), Stuff.grass)
    for s0, t0, s1, t1 in ((0.8, 0.8, 11.6, 11.4), (12.6, 0.8, 23, 11.4), (0.8, 12.6, 11.6, 23), (12.6, 12.6, 23, 23)):
        tone = shade(p.sky.asphalt, p.rng.uniform(0.92, 1.3)) if p.rng.random() < 0.7 else shade(p.sky.dirt, 0.95)
        p.ground(p.patch(s0, t0, s1, t1), tone, Stuff.paved)
    lines = _streets(p, [12], [12], float(p.rng.uniform(6.5, 8)))
    _lots(p, lines + _frame(p), houses.HALLS)
    taken = shapely.union_all(p.blocked)
    shapely.prepare(taken)
    for _ in range(10):  # car parks and stored goods
        s, t = p.rng.uniform(2, STEPS - 4, 2)
        a, b = p.at(s, t), p.at(s + 1, t)
        angle = math.atan2(b[1] - a[1], b[0] - a[0])
        goods = p.rng.random() < 0.35
        for col in range(int(p.rng.integers(6, 14))):
            for row in range(int(p.rng.integers(1, 3))):
                step = np.array([math.cos(angle), math.sin(angle)]) * (2.7 * col)
                at = a + step + np.array([-math.sin(angle), math.cos(angle)]) * (5.2 * row)
                if p.rng.random() < 0.35 or shapely.dwithin(taken, shapely.Point(at), 3.4) or river_gap(p.seed, at[None])[0] < 4:
                    continue
                if goods:
                    colour = shade(p.sky.roofs[int(p.rng.integers(len(p.sky.roofs)))], 0.9)
                    p.draw.add("marks", houses.box(at, angle, 2.3, p.rng.uniform(2, 5)), colour, Stuff.vehicle)
                else:
                    car(p.draw, at, angle + math.pi / 2, p.sky, p.rng, Stuff.vehicle)
    p.plant(p.scatter(42.0), 1.8, 3.6)


def blocks(p: Plot) -> None:
    """Fill with closed blocks around courtyards."""
    p.ground(p.patch(0, 0, STEPS, STEPS), shade(p.sky.asphalt, 1.2), Stuff.paved)
    columns, cross = ([12], [12]) if p.rng.random() < 0.6 else ([8, 16], [12])
    _streets(p, columns, cross, float(p.rng.uniform(6.0, 8.0)))
    _roads_block(p)
    marks_s, marks_t = [0, *columns, STEPS], [0, *cross, STEPS]
    for s0, s1 in zip(marks_s[:-1], marks_s[1:], strict=True):
        for t0, t1 in zip(marks_t[:-1], marks_t[1:], strict=True):
            outline = shapely.Polygon(p.patch(s0, t0, s1, t1)).buffer(0)
            ring = houses.court(outline, p.sky, p.rng)
            if ring is None or river_gap(p.seed, shapely.get_coordinates(outline)).min() < 12:
                p.ground(p.patch(s0 + 0.7, t0 + 0.7, s1 - 0.7, t1 - 0.7), _lawn(p), Stuff.grass)
                continue
            court, built = ring
            p.ground(court, _lawn(p) if p.rng.random() < 0.6 else shade(p.sky.asphalt, 1.15), Stuff.grass)
            p.parts += built
            p.blocked += [h.footprint for h in built]
            centre = court.mean(axis=0)
            _clump(p, centre, float(p.rng.uniform(6, 14)))
    for road in list(p.roads):
        _parked(p, road.line, road.width, houses.TERRACED)
        _hedge_row(p, road.line, road.width)


def _hedge_row(p: Plot, line: Points, width: float) -> None:
    """Plant street trees on one or both sides of a line."""
    if p.rng.random() < 0.35:
        return
    station, tangents = stations(line)
    sides = [1.0, -1.0] if p.rng.random() < 0.6 else [1.0]
    points = []
    for side in sides:
        for d in np.arange(p.rng.uniform(8, 14), station[-1] - 8, p.rng.uniform(9, 15)):
            if p.rng.random() < 0.8:
                at, tangent = along(line, d, station, tangents)
                points.append(at + np.array([-tangent[1], tangent[0]]) * (side * (width / 2 + 2.4)))
    blocked, p.blocked = p.blocked, [h.footprint for h in p.parts]
    p.plant(np.array(points).reshape(-1, 2), 1.6, 3.2)
    p.blocked = blocked


_FILL: dict[str, Callable[[Plot], None]] = {
    "blocks": blocks,
    "rows": rows,
    "dwellings": dwellings,
    "works": works,
    "park": park,
    "waste": waste,
    "fields": fields,
    "farm": farm,
    "woods": woods,
    "orchard": orchard,
    "meadow": meadow,
}


def _pave(draw: Drawing, road: Road, sky: Climate, urban: bool, rng: np.random.Generator) -> None:
    """Paint a road: verge or pavement, surface, tracks and markings."""
    if road.kind == "dirt":
        colour = shade(sky.dirt, 1 + 0.16 * road.tone)
        draw.add("surface", band(road.line, road.width), colour, Stuff.dirt)
        draw.add("surface", band(road.line, road.width * 0.3), mix(colour, sky.grass, 0.3), Stuff.dirt)
        return
    base = shade(sky.asphalt, 1 + 0.3 * road.tone)
    if urban and road.kind != "lane":
        draw.add("verge", band(road.line, road.width + 3.4), shade(sky.asphalt, 1.25), Stuff.paved)
    else:
        draw.add("verge", band(road.line, road.width + 1.8), mix(sky.dry, sky.soil, 0.4), Stuff.grass)
    draw.add("surface", band(road.line, road.width), base, Stuff.asphalt)
    n = normals_of(road.line)
    if road.kind == "main":
        for offset in (0.24, -0.24):
            draw.add("marks", band(road.line + n * road.width * offset, road.width * 0.22), shade(base, 0.94), Stuff.asphalt)
        for side in (0.47, -0.47):
            draw.add("marks", band(road.line + n * road.width * side, 0.18), shade(base, 1.35), Stuff.paint)
        station, tangents = stations(road.line)
        for d in np.arange(4.0, station[-1] - 4, 9.0):
            at, tangent = along(road.line, float(d), station, tangents)
            draw.add("marks", band(np.stack([at, at + tangent * 3.5]), 0.22), (222, 222, 216), Stuff.paint)
    elif rng.random() < 0.5:
        draw.add("marks", band(road.line, road.width * 0.5), shade(base, 1.05), Stuff.asphalt)


def normals_of(line: Points) -> Points:
    """Return unit normals at the vertices of a line."""
    from geounet.testing.shapes import normals

    return normals(line)


def _drive(draw: Drawing, road: Road, sky: Climate, density: float, rng: np.random.Generator) -> None:
    """Put moving cars on a road."""
    if road.kind == "dirt":
        return
    station, tangents = stations(road.line)
    for side in (0.25, -0.25):
        d = rng.exponential(30 / density)
        while d < station[-1] - 4:
            at, tangent = along(road.line, d, station, tangents)
            at = at + np.array([-tangent[1], tangent[0]]) * (side * road.width)
            car(draw, at, math.atan2(tangent[1], tangent[0]), sky, rng, Stuff.traffic)
            d += 9 + rng.exponential(60 / density)


@lru_cache(maxsize=96)
def face(seed: int, i: int, j: int) -> Face:
    """Return all that stands on face (i, j), with the roads on its northern and western edge."""
    sky, rng, grid = climate(seed), stream(seed, 50, i, j), face_grid(seed, i, j)
    origin = np.round(grid[0, 0])
    plot = Plot(seed, sky, rng, grid, Drawing(origin), town(seed, i, j))
    around = [edge_road(seed, *e) for e in ((i, j, False), (i, j + 1, False), (i, j, True), (i + 1, j, True))]
    plot.blocked = [shapely.LineString(r.line).buffer(r.width / 2 + 1.5, quad_segs=4) for r in around if r]
    name = use(seed, i, j)
    _FILL[name](plot)
    urban = plot.built_up > 0.4
    own = [r for r in (around[0], around[2]) if r]
    for road in sorted([*plot.roads, *own], key=lambda r: ("dirt", "lane", "street", "main").index(r.kind)):
        _pave(plot.draw, road, sky, urban or name in ("blocks", "rows", "works"), rng)
    for road, neighbour in zip(around, ("n", "", "w", ""), strict=True):
        if road and neighbour:
            _drive(plot.draw, road, sky, 1.6 if road.kind == "main" else 0.5, rng)
            if road.kind in ("main", "lane") and rng.random() < 0.5:
                _hedge_row(plot, road.line, road.width + 2)
    for item in plot.parts:
        houses.paint(plot.draw, item, sky, rng)
    for polygon in plot.crops:
        if len(polygon.polygon) < 3:
            raise AssertionError("a parcel has at least three corners")
    return Face(
        origin,
        {layer: plot.draw.layer(layer) for layer in LAYERS},
        tuple(plot.crops),
        tuple(h.footprint for h in plot.parts),
        tuple([*plot.roads, *own]),
    )


__all__ = ["Crop", "Face", "face", "faces_near"]
