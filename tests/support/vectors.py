"""Class rasters and their vectors, for the tests of `geounet.vector`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from rasterio import Affine
from rasterio.features import shapes

from geounet.cli.main import main
from geounet.config.card import ClassInfo, Kind
from geounet.config.job import Vector
from geounet.types import NODATA, Rect
from geounet.vector.build import SerialExecutor, geopackage, tell
from geounet.vector.cells import CellGrid
from geounet.vector.features import to_shapely
from geounet.vector.polygons import Stage, all_polygons, polygonize
from geounet.vector.request import VectorRequest
from tests.support.rasters import write

GRID = Affine(0.3, 0, 500000, 0, -0.3, 5000000)
CLASSES = (
    ClassInfo(name="background", code=0, colour="#d0d0d0", kind=Kind.background),
    ClassInfo(name="building", code=1, colour="#e6194b", kind=Kind.building),
    ClassInfo(name="road", code=2, colour="#f5b800", kind=Kind.road),
    ClassInfo(name="green", code=3, colour="#3cb44b", kind=Kind.other),
)
LAYERS = ("buildings", "road_edges", "road_nodes", "landcover")


class ArrayPlane:
    """A plane in memory."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, dtype=np.uint8)

    def read(self, rect: Rect) -> Any:
        """Return values, 255 outside."""
        found = np.full(rect.shape, NODATA, dtype=np.uint8)
        inside = rect.intersection(Rect(0, 0, *self.values.shape))
        if not inside.empty:
            found[inside.slices_in(rect)] = self.values[inside.y0 : inside.y1, inside.x0 : inside.x1]
        return found


class ArrayProbability:
    """Probabilities in memory, the same for all classes."""

    def __init__(self, stored: Any) -> None:
        self.stored = ArrayPlane(stored)

    def read(self, rect: Rect, values: Any) -> Any:
        """Return stored probabilities, 255 outside and where there is no value."""
        return np.where(values == NODATA, NODATA, self.stored.read(rect))


def polygons(
    values: Any, cell: int, folder: Path, *, junctions: bool = False, stored: Any = None
) -> dict[str, list[Any]]:
    """Polygonize an array; all polygons by their first pixel: geometries in pixels, value, count, sums."""
    values = np.asarray(values, dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    probability: Any = None if stored is None else ArrayProbability(stored)
    stage = Stage(ArrayPlane(values), probability, CellGrid(*values.shape, cell), str(folder), "test", junctions)
    traced = polygonize(stage, SerialExecutor())
    rows: list[tuple[Any, ...]] = []
    for part in all_polygons(stage, traced):
        geometries = to_shapely(part.coords, part.rings, part.shells)
        assert len(geometries) == len(part)
        columns = (part.first, part.value, part.count, part.total, part.counted)
        rows += zip(*(c.tolist() for c in columns), geometries, strict=True)
    rows.sort(key=lambda row: row[0])
    names = ("first", "value", "count", "total", "counted", "geometry")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def polygonized_whole(values: Any) -> list[tuple[int, bytes]]:
    """What GDAL makes of the raster in one piece, normalised and sorted."""
    values = np.asarray(values, dtype=np.uint8)
    found = shapes(values, mask=values != NODATA, connectivity=4)
    return sorted((int(v), shapely.normalize(shapely.geometry.shape(g)).wkb) for g, v in found)


def normalised(found: dict[str, list[Any]]) -> list[tuple[int, bytes]]:
    """Our polygons, normalised and sorted."""
    return sorted((v, shapely.normalize(g).wkb) for v, g in zip(found["value"], found["geometry"], strict=True))


def request(folder: Path, mask: Any, *, cell: int = 64, probability: Any = None, **how: Any) -> VectorRequest:
    """Write rasters into `folder` and ask for their vectors; `how` goes to the raster or to the request."""
    folder.mkdir(parents=True, exist_ok=True)
    raster = {key: how.pop(key) for key in ("crs", "transform") if key in how}
    mask = np.atleast_3d(np.asarray(mask, dtype=np.uint8).T).T
    bands = 0
    if not (folder / "mask.tif").exists():
        write(folder / "mask.tif", mask, nodata=NODATA, **({"transform": GRID} | raster))
    if probability is not None:
        probability = np.asarray(probability, dtype=np.uint8)
        bands = probability.shape[0]
        if not (folder / "prob.tif").exists():
            write(folder / "prob.tif", probability, nodata=NODATA, **({"transform": GRID} | raster))
    options: dict[str, Any] = {
        "mask": str(folder / "mask.tif"),
        "probability": str(folder / "prob.tif") if bands else None,
        "classes": CLASSES,
        "channels": {c.code: i for i, c in enumerate(CLASSES, 1)} if bands else {},
        "layers": Vector.model_validate({"buildings": {}, "roads": {}, "landcover": {}}),
        "cell": cell,
        "out": folder / f"cell{cell}.gpkg",
        "work": folder / "work",
        "metadata": {"model": "test", "date": "2024-05-06T07:08:09Z"},
    }
    return VectorRequest(**(options | how))


def build(asked: VectorRequest) -> dict[str, Any]:
    """Make the GeoPackage in this process, and tell its notes."""
    result = geopackage(asked, SerialExecutor())
    tell(asked, result)
    return result


def read(path: Path, layer: str) -> dict[str, list[Any]]:
    """All columns of a layer with `fid` and `geom` (WKB)."""
    info, table = pyogrio.read_arrow(path, layer=layer, return_fids=True)
    assert info["geometry_name"] == "geom"
    found: dict[str, list[Any]] = table.to_pydict()
    return found


def vectorize(*arguments: object) -> int:
    """Run `geounet vectorize` in this process; returns the exit code. Logging is left as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        return int(main(["vectorize", *map(str, arguments)]) or 0)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def town(size: int = 256, seed: int = 0) -> Any:
    """A mask with all classes: houses, some with a court, roads that cross, woods, and a corner of nodata."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size]
    mask = np.zeros((size, size), dtype=np.uint8)
    for _ in range(8):
        cy, cx, radius = rng.integers(0, size), rng.integers(0, size), rng.integers(6, max(9, size // 8))
        mask[np.hypot(y - cy, (x - cx) * rng.uniform(0.6, 1.5)) < radius + 3 * np.sin(x / 3)] = 3
    for _ in range(size // 8):
        cy, cx = rng.integers(0, size - 24, 2)
        height, width = rng.integers(4, 24, 2)
        mask[cy : cy + height, cx : cx + width] = 1
        if height > 14 and width > 14:
            mask[cy + 5 : cy + height - 5, cx + 5 : cx + width - 5] = 0
    for _ in range(5):
        angle, offset, half = rng.uniform(0, np.pi), rng.uniform(-size / 3, size / 3), rng.uniform(1.5, 5)
        mask[np.abs((x - size / 2) * np.sin(angle) - (y - size / 2) * np.cos(angle) - offset) < half] = 2
    ring = np.hypot(y - size * 0.7, x - size * 0.3)
    mask[(ring > size / 12) & (ring < size / 12 + 5)] = 2
    mask[y + x < size // 5] = NODATA
    return mask
