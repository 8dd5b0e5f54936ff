"""What grows: fields, woods, orchards, meadows, parks, waste land, ponds and river banks."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import shapely

from geounet.testing.layout import PITCH, STEPS, Colour, river_gap
from geounet.testing.noise import curve
from geounet.testing.plot import Crop, Plot, block_roads, clump, hedge, lawn
from geounet.testing.shapes import Stuff, band, disc, mix, shade


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
    return shade(mix(p.sky.leaf, p.sky.grass, p.rng.uniform(0, 0.7)), p.rng.uniform(0.95, 1.15)), p.rng.uniform(
        0.03, 0.08
    )


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
    cuts = [0.0, *sorted(p.rng.choice(np.arange(5, STEPS - 4), int(p.rng.integers(1, 4)), replace=False)), float(STEPS)]
    for a, b in pairwise(cuts):
        cross = [0.0, float(STEPS)]
        if p.rng.random() < 0.6:
            cross.insert(1, float(p.rng.integers(7, STEPS - 6)))
        for c, d in pairwise(cross):
            _parcel(p, *((a, c, b, d) if upright else (c, a, d, b)))
    for cut in cuts[1:-1]:
        t = np.linspace(0, STEPS, STEPS + 1)
        line = p.at(cut, t) if upright else p.at(t, cut)
        r = p.rng.random()
        if r < 0.3:
            p.street(line, p.rng.uniform(2.8, 3.6), "dirt")
        elif r < 0.75:
            hedge(p, line, gaps=0.25)
        else:
            p.ground(band(line, p.rng.uniform(1.5, 4)), lawn(p), Stuff.grass)
    if p.rng.random() < 0.45:
        p.plant(p.scatter(50.0), 2.4, 5.0)
    if p.rng.random() < 0.4:
        clump(p, p.at(*p.rng.uniform(3, STEPS - 3, 2)), p.rng.uniform(9, 20))


def woods(p: Plot) -> None:
    """Fill with trees, with a ragged edge and perhaps a clearing."""
    p.ground(p.patch(0, 0, STEPS, STEPS), mix(p.sky.grass, p.sky.leaf, float(p.rng.uniform(0, 0.8))), Stuff.grass)
    points = p.scatter(float(p.rng.uniform(5.0, 6.4)))
    where = curve(p.seed, 41, points[:, 0] * 0.8 + points[:, 1] * 0.6, 60.0)
    where += curve(p.seed, 42, points[:, 1] * 0.8 - points[:, 0] * 0.6, 55.0)
    if p.rng.random() < 0.4:
        t = np.linspace(0, STEPS, STEPS + 1)
        p.street(p.at(float(p.rng.integers(8, 17)), t), 3.2, "dirt")
    block_roads(p)
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
    cut = p.rng.uniform(6, 18)
    for t0, t1 in ((0.0, cut), (cut, float(STEPS))):
        outline = p.patch(0, t0, STEPS, t1)
        p.ground(outline, lawn(p), Stuff.grass)
        if p.rng.random() < 0.5:  # mown in swaths
            p.crops.append(Crop(outline, p.rng.uniform(0, 3.2), p.rng.uniform(5, 9), p.rng.uniform(0.03, 0.07)))
    for _ in range(int(p.rng.integers(3, 8))):
        clump(p, p.at(*p.rng.uniform(2, STEPS - 2, 2)), p.rng.uniform(6, 24))
    if p.rng.random() < 0.7:
        _pond(p)


def _pond(p: Plot) -> None:
    r = p.rng.uniform(12, 36)
    places = p.at(*p.rng.uniform(8, STEPS - 8, (2, 6)))
    places = places[river_gap(p.seed, places) > 1.4 * r + 8]
    if not len(places):
        return
    centre, a = places[0], np.linspace(0, 2 * math.pi, 40, endpoint=False)
    wave = np.zeros_like(a)
    for k in (1, 2, 3, 5):
        wave += p.rng.uniform(0, 0.2 / k) * np.sin(k * a + p.rng.uniform(0, 6.3))
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
    if p.rng.random() < 0.75:
        _pond(p)
    if p.rng.random() < 0.4:
        s0, t0 = p.rng.uniform(3, 12, 2)
        p.ground(p.patch(s0, t0, s0 + 6, t0 + 9.5), shade(p.sky.grass, 1.18), Stuff.grass)
        p.ground(p.patch(s0 + 2.6, t0, s0 + 3.4, t0 + 0.8), shade(p.sky.dry, 1.1), Stuff.soil)
        p.blocked.append(shapely.Polygon(p.patch(s0, t0, s0 + 6, t0 + 9.5)).buffer(0))
    block_roads(p)
    for _ in range(int(p.rng.integers(5, 10))):
        clump(p, p.at(*p.rng.uniform(2, STEPS - 2, 2)), p.rng.uniform(8, 22))
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
    block_roads(p)
    p.plant(p.scatter(20.0)[::2], 0.8, 2.0, bush=True)


def riverside(p: Plot) -> None:
    """Plant trees and bushes along the banks of a river that crosses the face."""
    points = p.scatter(4.2)
    gap = river_gap(p.seed, points)
    near = (gap > 1.5) & (gap < 11)
    if not near.any():
        return
    points, gap = points[near], gap[near]
    dense = curve(p.seed, 43, points[:, 0] * 0.6 + points[:, 1], 70.0) * 7 + 2
    points = points[gap < dense + p.rng.uniform(-2, 2, len(points))]
    p.plant(points[::3], 1.0, 2.0, bush=True)
    p.plant(np.delete(points, np.s_[::3], axis=0), 1.6, 4.0)
