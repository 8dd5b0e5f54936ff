"""A face of the road lattice while it is being filled, and what many uses have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely

from geounet.testing.houses import House
from geounet.testing.layout import PITCH, STEPS, Climate, Colour, Points, Road, river_gap
from geounet.testing.noise import curve
from geounet.testing.shapes import Drawing, Stuff, along, mix, stations, trees


@dataclass(frozen=True)
class Crop:
    """A parcel with rows."""

    polygon: Points
    angle: float
    period: float
    strength: float


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
    parts: list[House] = field(default_factory=list)
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
        """Add a street of this face, unless it would follow a river: bridges are short."""
        tone = self.rng.uniform(-0.5, 0.5)
        station, _ = stations(line)
        wet = (river_gap(self.seed, line) < 3.0).astype(float)
        if float(np.sum((wet[1:] + wet[:-1]) / 2 * np.diff(station))) < 45.0:
            self.roads.append(Road(line, width, kind, tone))

    def plant(
        self, points: Points, low: float, high: float, *, bush: bool = False, colour: Colour | None = None
    ) -> None:
        """Plant trees with radii between `low` and `high` metres where there is neither road, house nor river."""
        if not len(points):
            return
        radius = self.rng.uniform(low, high, len(points))
        free = river_gap(self.seed, points) > 1.0
        if self.blocked:
            taken = shapely.union_all(self.blocked)
            shapely.prepare(taken)
            free &= shapely.distance(taken, np.asarray(shapely.points(points))) > radius * 0.75
        points, radius = points[free], radius[free]
        height = radius * (0.9 if bush else 2.0) * self.rng.uniform(0.8, 1.25, len(points))
        base = colour or mix(self.sky.leaf, self.sky.grass, float(self.rng.uniform(0, 0.35)))
        order = np.argsort(self.rng.random(len(points)))
        trees(
            self.draw, points[order], radius[order], height[order], base, self.sky, self.rng,
            stuff=Stuff.hedge if bush else Stuff.canopy,
        )  # fmt: skip


def lawn(p: Plot) -> Colour:
    """Return a colour of grass, between fresh and dry."""
    return mix(p.sky.grass, p.sky.dry, float(p.rng.beta(1.6, 2.4)))


def clump(p: Plot, centre: Points, radius: float) -> None:
    """Plant trees and bushes about a point."""
    n = int(radius**2 * 0.06) + 2
    p.plant(centre + p.rng.normal(0, radius * 0.45, (n, 2)), 1.4, 4.2)


def hedge(p: Plot, line: Points, gaps: float) -> None:
    """Plant a row of bushes and some trees along a line."""
    station, tangents = stations(line)
    n = max(2, int(station[-1] / 1.7))
    places = np.linspace(0.5, station[-1] - 0.5, n)
    holes = curve(p.seed, 40, places + p.rng.uniform(0, 1e5), 22.0) < np.quantile([-0.6, 0.6], gaps)
    points = np.array([along(line, d, station, tangents)[0] for d in places[~holes]]).reshape(-1, 2)
    points = points + p.rng.normal(0, 0.3, points.shape)
    p.plant(points, 1.0, 1.9, bush=True)
    p.plant(points[p.rng.random(len(points)) < 0.06], 2.5, 4.5)


def block_roads(p: Plot) -> None:
    """Keep trees and houses off the roads of this face."""
    p.blocked.extend(shapely.LineString(r.line).buffer(r.width / 2 + 0.6, quad_segs=4) for r in p.roads)
