"""Road masks and their networks, for the tests of roads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from scipy import ndimage

from geounet.config.job import Roads
from geounet.types import NODATA
from geounet.vector import parts
from geounet.vector.attributes import Ground
from geounet.vector.build import SerialExecutor
from geounet.vector.cells import CellGrid
from geounet.vector.roads import RoadLayers, roads
from geounet.vector.skeleton import Stage, thin_cell
from tests.support.vectors import ArrayPlane, ArrayProbability

WHOLE = 100_000
UTM = "EPSG:32633"

NOTHING: dict[str, Any] = {
    **dict.fromkeys(("min_area_m2", "min_hole_m2", "min_length_m", "bridge_m", "bridge_blind_m"), 0),
    **dict.fromkeys(("spur_widths", "junction_widths", "smooth_widths", "tolerance_px"), 0),
}
"""Parameters that leave the thinning as it is."""


def stage(mask: Any, cell: int, folder: Path, stored: Any = None) -> Stage:
    """Ask for a mask of 0 and 1 (255: no data), or of booleans."""
    folder.mkdir(parents=True, exist_ok=True)
    probability: Any = None if stored is None else ArrayProbability(stored)
    values = np.asarray(mask, dtype=np.uint8)
    return Stage(
        ArrayPlane(values), probability, CellGrid(values.shape[0], values.shape[1], cell), str(folder), "roads"
    )


def made(mask: Any, cell: int, folder: Path, *, usual: bool = False, stored: Any = None, **how: Any) -> RoadLayers:
    """Roads of a mask with pixels of one metre: with usual parameters, or without any; `how` are further ones."""
    ground = Ground(UTM, (1.0, 0.0, 500000.0, 0.0, -1.0, 5000000.0), *np.shape(mask))
    section = Roads(**(how if usual else NOTHING | how))
    return roads(stage(mask, cell, folder, stored), SerialExecutor(), ground, section)


def lines_of(asked: Stage) -> list[tuple[Any, Any]]:
    """Pixels and squared distances of the paths of all cells."""
    found = []
    for index in range(asked.grid.count):
        assert thin_cell((asked, index))["exact"] == 1
        arrays = parts.load(asked.path(index))
        inner = arrays["offsets"][1:-1]
        found += list(zip(np.split(arrays["pixel"], inner), np.split(arrays["squared"], inner), strict=True))
    return [item for item in found if len(item[0])]


def check_consistent(found: RoadLayers) -> None:
    """Assert that every end is a node, degrees match, ids count from 1, lines have a length."""
    edges, nodes = found.edges.to_pydict(), found.nodes.to_pydict()
    at = dict(zip(nodes["node"], shapely.from_wkb(nodes["geom"]), strict=True))
    ends: list[int] = []
    for line, start, end, length in zip(
        shapely.from_wkb(edges["geom"]), edges["from_node"], edges["to_node"], edges["length_m"], strict=True
    ):
        assert line.is_valid
        assert line.length > 0
        assert line.length == pytest.approx(length, rel=2e-3)
        assert shapely.Point(line.coords[0]) == at[start]
        assert shapely.Point(line.coords[-1]) == at[end]
        if start == end:
            assert len(line.coords) >= 4
        ends += [start, end]
    assert nodes["node"] == list(range(1, len(nodes["node"]) + 1))
    assert [ends.count(n) for n in nodes["node"]] == nodes["degree"]


def streets(size: int, seed: int) -> Any:
    """Roads of several widths that cross, curve and leave; gaps, crumbs, a wide square, pixels without data."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size]
    mask = np.zeros((size, size), dtype=bool)
    for _ in range(9):
        angle, offset, half = rng.uniform(0, np.pi), rng.uniform(-size / 2, size / 2), rng.uniform(0.6, 9)
        bend = rng.uniform(0, 12) * np.sin((x + y) / rng.uniform(15, 60))
        mask |= np.abs((x - size / 2) * np.sin(angle) - (y - size / 2) * np.cos(angle) - offset + bend) < half
    for _ in range(size // 10):
        cy, cx = rng.integers(0, size, 2)
        mask[np.hypot(y - cy, x - cx) < rng.uniform(1, 7)] = False
    mask[size // 3 : size // 3 + 50, size // 2 : size // 2 + 60] = True
    mask &= rng.random(mask.shape) > 0.002
    mask |= rng.random(mask.shape) > 0.9995
    values = mask.astype(np.uint8)
    values[ndimage.gaussian_filter(rng.random(mask.shape), 8) > 0.525] = NODATA
    return values
