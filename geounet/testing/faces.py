"""Finished faces: what stands between four nodes of the road lattice, with the roads on two of its edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import shapely

from geounet.testing import houses, nature, towns
from geounet.testing.layout import Climate, Points, Road, climate, edge_road, face_grid, town, use
from geounet.testing.noise import stream
from geounet.testing.plot import Crop, Plot
from geounet.testing.shapes import LAYERS, Drawing, Layer, Stuff, along, band, car, mix, normals, shade, stations


@dataclass(frozen=True)
class Face:
    """A finished face; coordinates of layers are relative to `origin`, all others are metres of the world."""

    origin: Points
    layers: dict[str, Layer]
    crops: tuple[Crop, ...]
    buildings: tuple[shapely.Polygon, ...]
    roads: tuple[Road, ...]


_FILL: dict[str, Callable[[Plot], None]] = {
    "blocks": towns.blocks,
    "rows": towns.rows,
    "dwellings": towns.dwellings,
    "works": towns.works,
    "farm": towns.farm,
    "park": nature.park,
    "waste": nature.waste,
    "fields": nature.fields,
    "woods": nature.woods,
    "orchard": nature.orchard,
    "meadow": nature.meadow,
}


def _pave(draw: Drawing, road: Road, sky: Climate, urban: bool, rng: np.random.Generator) -> None:
    """Paint a road: verge or pavement, surface, tracks and markings."""
    if road.kind == "dirt":
        colour = shade(sky.dirt, 1 + 0.16 * road.tone)
        draw.add("tracks", band(road.line, road.width), colour, Stuff.dirt)
        draw.add("tracks", band(road.line, road.width * 0.3), mix(colour, sky.grass, 0.3), Stuff.dirt)
        return
    base = shade(sky.asphalt, 1 + 0.3 * road.tone)
    if urban and road.kind != "lane":
        draw.add("verge", band(road.line, road.width + 3.4), shade(sky.asphalt, 1.25), Stuff.paved)
    else:
        draw.add("verge", band(road.line, road.width + 1.8), mix(sky.dry, sky.soil, 0.4), Stuff.grass)
    tier = "mains" if road.kind == "main" else "streets"
    draw.add(tier, band(road.line, road.width), base, Stuff.asphalt)
    n = normals(road.line)
    if road.kind == "main":
        for offset in (0.24, -0.24):
            draw.add(
                tier, band(road.line + n * road.width * offset, road.width * 0.22), shade(base, 0.94), Stuff.asphalt
            )
        for side in (0.47, -0.47):
            draw.add("marks", band(road.line + n * road.width * side, 0.18), shade(base, 1.35), Stuff.paint)
        station, tangents = stations(road.line)
        for d in np.arange(4.0, station[-1] - 4, 9.0):
            at, tangent = along(road.line, float(d), station, tangents)
            draw.add("marks", band(np.stack([at, at + tangent * 3.5]), 0.22), (222, 222, 216), Stuff.paint)
    elif rng.random() < 0.5:
        draw.add(tier, band(road.line, road.width * 0.5), shade(base, 1.05), Stuff.asphalt)


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
    if name != "woods":
        nature.riverside(plot)
    urban = plot.built_up > 0.4
    own = [r for r in (around[0], around[2]) if r]
    for road in sorted([*plot.roads, *own], key=lambda r: r.kind != "lane"):
        _pave(plot.draw, road, sky, urban or name in ("blocks", "rows", "works"), rng)
    for road in own:
        _drive(plot.draw, road, sky, 1.0 if road.kind == "main" else 0.3, rng)
        if road.kind in ("main", "lane") and rng.random() < 0.5:
            towns.street_trees(plot, road.line, road.width + 2)
    for item in plot.parts:
        houses.paint(plot.draw, item, sky, rng)
    return Face(
        origin,
        {layer: plot.draw.layer(layer) for layer in LAYERS},
        tuple(plot.crops),
        tuple(h.footprint for h in plot.parts),
        (*plot.roads, *own),
    )
