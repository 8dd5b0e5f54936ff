"""What is built: detached and terraced houses, farms, works, closed blocks, street trees and parked cars."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import shapely

from geounet.testing import houses
from geounet.testing.layout import STEPS, Points, river_gap
from geounet.testing.nature import fields
from geounet.testing.plot import Crop, Plot, block_roads, clump, lawn
from geounet.testing.shapes import Stuff, along, box, car, mix, shade, stations


def _lots(p: Plot, lines: list[tuple[Points, float]], style: houses.Style) -> None:
    """Place houses of a style along lines (with road widths), then gardens and trees around them."""
    inner = shapely.Polygon(np.concatenate([p.grid[0], p.grid[1:, -1], p.grid[-1, -2::-1], p.grid[-2:0:-1, 0]])).buffer(
        -5.0
    )
    block_roads(p)
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


def _streets(p: Plot, columns: list[int], rows: list[int], width: float) -> list[tuple[Points, float]]:
    lines = [(p.grid[:, k].copy(), width) for k in columns] + [(p.grid[k].copy(), width) for k in rows]
    before = len(p.roads)
    for line, _ in lines:
        p.street(line, width)
    return [(road.line, road.width) for road in p.roads[before:]]


def _frame(p: Plot) -> list[tuple[Points, float]]:
    """Return the four sides of the face as lines to build along, with the width of a road there."""
    return [(line.copy(), 8.0) for line in (p.grid[0], p.grid[-1], p.grid[:, 0], p.grid[:, -1])]


def dwellings(p: Plot) -> None:
    """Fill with detached houses along two or three streets."""
    p.ground(p.patch(0, 0, STEPS, STEPS), lawn(p), Stuff.grass)
    if p.rng.random() < 0.5:
        p.grid = p.grid.transpose(1, 0, 2)
    columns = [8, 16] if p.rng.random() < 0.6 else [6, 12, 18]
    rows = [int(p.rng.choice([11, 12, 13]))] if p.rng.random() < 0.4 else []
    lines = _streets(p, columns, rows, float(p.rng.uniform(4.6, 6.2)))
    _lots(p, lines + _frame(p), houses.DETACHED)


def rows(p: Plot) -> None:
    """Fill with terraced houses along streets."""
    p.ground(p.patch(0, 0, STEPS, STEPS), lawn(p), Stuff.grass)
    if p.rng.random() < 0.5:
        p.grid = p.grid.transpose(1, 0, 2)
    lines = _streets(p, [6, 12, 18] if p.rng.random() < 0.6 else [8, 16], [], float(p.rng.uniform(5.0, 6.5)))
    _lots(p, lines + _frame(p), houses.TERRACED)


def farm(p: Plot) -> None:
    """Fill with fields and a farmstead beside a road, with a dirt yard."""
    fields(p)
    width = 5.5
    corner = int(p.rng.integers(0, 2)) * 13 + 1
    p.ground(p.patch(corner, 0, corner + 9, 9), lawn(p), Stuff.grass)
    p.ground(p.patch(corner + 1, 1.2, corner + 7, 6.5), shade(p.sky.dirt, p.rng.uniform(0.9, 1.05)), Stuff.soil)
    yard = p.patch(corner, 0, corner + 9, 9)
    p.crops.append(Crop(yard, 0.0, 1.0, 0.0))
    t = np.linspace(0, 8, 12)
    line = p.at(np.full(12, corner + 4.0), t)
    p.street(line, 3.6, "dirt")
    _lots(p, [(line, width)], houses.FARM)
    clump(p, p.at(corner + 8.0, 4.0), 10.0)


def works(p: Plot) -> None:
    """Fill with halls, paved yards and car parks."""
    p.ground(p.patch(0, 0, STEPS, STEPS), mix(p.sky.grass, p.sky.dry, 0.6), Stuff.grass)
    for s0, t0, s1, t1 in (
        (1.1, 1.1, 11.1, 11.1),
        (12.9, 1.1, 22.9, 11.1),
        (1.1, 12.9, 11.1, 22.9),
        (12.9, 12.9, 22.9, 22.9),
    ):
        tone = shade(p.sky.asphalt, p.rng.uniform(0.92, 1.3)) if p.rng.random() < 0.7 else shade(p.sky.dirt, 0.95)
        p.ground(p.patch(s0, t0, s1, t1), tone, Stuff.paved)
    lines = _streets(p, [12], [12], float(p.rng.uniform(6.5, 8)))
    _lots(p, lines + _frame(p), houses.HALLS)
    taken = shapely.union_all(p.blocked)
    shapely.prepare(taken)
    for _ in range(14):
        _car_park(p, taken)
    p.plant(p.scatter(42.0), 1.8, 3.6)


def _car_park(p: Plot, taken: shapely.Geometry) -> None:
    """Put rows of parked cars, or of stored goods, on a yard."""
    s, t = p.rng.uniform(1.5, STEPS - 3, 2)
    a, b = p.at(s, t), p.at(s + 1, t)
    angle = math.atan2(b[1] - a[1], b[0] - a[0])
    ahead, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    goods, cols, lanes = p.rng.random() < 0.3, int(p.rng.integers(6, 16)), int(p.rng.integers(1, 4))
    col, lane = (k.ravel() for k in np.meshgrid(np.arange(cols), np.arange(lanes)))
    at = a + ahead * (2.7 * col)[:, None] + across * (5.2 * lane + 6.0 * (lane // 2))[:, None]
    free = ~shapely.dwithin(taken, shapely.points(at), 3.6) & (river_gap(p.seed, at) > 4)
    inside = shapely.contains_xy(shapely.Polygon(p.patch(0.8, 0.8, STEPS - 1, STEPS - 1)), at)
    for place in at[free & inside]:
        if goods:
            if p.rng.random() < 0.7:
                colour = shade(p.sky.roofs[int(p.rng.integers(len(p.sky.roofs)))], 0.9)
                p.draw.add("marks", box(place, angle, 2.3, p.rng.uniform(2, 5)), colour, Stuff.vehicle)
            continue
        for side in (-1.35, 1.35):
            p.draw.add("verge", box(place + ahead * side, angle, 0.15, 4.8), (214, 214, 208), Stuff.paved)
        if p.rng.random() < 0.6:
            car(p.draw, place, angle + math.pi / 2, p.sky, p.rng, Stuff.vehicle)


def blocks(p: Plot) -> None:
    """Fill with closed blocks around courtyards."""
    p.ground(p.patch(0, 0, STEPS, STEPS), shade(p.sky.asphalt, p.rng.uniform(0.95, 1.2)), Stuff.paved)
    columns, cross = [8, 16], ([8, 16] if p.rng.random() < 0.6 else [12])
    _streets(p, columns, cross, float(p.rng.uniform(6.0, 8.0)))
    block_roads(p)
    marks_s, marks_t = [0, *columns, STEPS], [0, *cross, STEPS]
    for s0, s1 in pairwise(marks_s):
        for t0, t1 in pairwise(marks_t):
            corners = p.at(np.array([s0, s1, s1, s0]), np.array([t0, t0, t1, t1]))
            ring = houses.court(corners, p.sky, p.rng) if river_gap(p.seed, corners).min() > 14 else None
            if ring is None or p.rng.random() < 0.06:
                p.ground(p.patch(s0 + 0.9, t0 + 0.9, s1 - 0.9, t1 - 0.9), lawn(p), Stuff.grass)
                if (river_gap(p.seed, corners) > 20).all():
                    clump(p, corners.mean(axis=0), 14.0)
                continue
            court, built = ring
            p.ground(
                court, lawn(p) if p.rng.random() < 0.6 else shade(p.sky.dirt, p.rng.uniform(0.8, 1.1)), Stuff.grass
            )
            streets = shapely.union_all(p.blocked)
            built = [h for h in built if not h.footprint.intersects(streets) and _dry(p, h)]
            p.parts += built
            p.blocked += [h.footprint for h in built]
            centre = court.mean(axis=0)
            clump(p, centre, float(p.rng.uniform(6, 14)))
    for road in list(p.roads):
        _parked(p, road.line, road.width, houses.TERRACED)
        street_trees(p, road.line, road.width)


def _dry(p: Plot, house: houses.House) -> bool:
    return bool(river_gap(p.seed, shapely.get_coordinates(house.footprint)).min() > 8.0)


def street_trees(p: Plot, line: Points, width: float) -> None:
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
