"""Land cover of arrays, for the tests of `geounet.vector`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter

from geounet.types import NODATA, Rect
from geounet.vector import parts, sieve
from geounet.vector.attributes import Ground
from geounet.vector.borders.reduce import Rule
from geounet.vector.cells import CellGrid
from geounet.vector.coverage import cover
from geounet.vector.landcover import FinishLandcover
from geounet.vector.polygons import Stage
from geounet.vector.schema import LANDCOVER


class Serial:
    """Does one piece of work after the other."""

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], label: str) -> Iterator[Any]:
        """Yield results in order."""
        assert label
        yield from map(function, items)


class Plain:
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


def ground(values: Any) -> Ground:
    """Pixels of one metre."""
    return Ground("EPSG:32633", (1.0, 0.0, 500000.0, 0.0, -1.0, 5000000.0), *values.shape)


def landcover(values: Any, cell: int, folder: Path, rule: Rule, unit: float = 0.0) -> dict[str, list[Any]]:
    """Land cover of an array with pixels of one metre: the layer's columns."""
    folder.mkdir(parents=True, exist_ok=True)
    plane: Any = Plain(values)
    grid = CellGrid(values.shape[0], values.shape[1], cell)
    if unit:
        sieved = sieve.Stage(plane, grid, str(folder), "sieve", sieve.Unit(unit, ground(values)))
        sieve.sieve(sieved, Serial())
        plane = sieved.result
    stage = Stage(plane, None, grid, str(folder), "landcover", junctions=True)
    finish = FinishLandcover(ground(values), tuple((i, str(i)) for i in range(255)), confidence=False)
    covered = cover(stage, rule, finish, Serial())
    rows: dict[str, list[Any]] = {name: [] for name in LANDCOVER.arrow.names}
    for batch in parts.merged(covered.paths, LANDCOVER.arrow):
        for name, column in batch.to_pydict().items():
            rows[name] += column
    return rows


def in_pixels(found: dict[str, list[Any]]) -> Any:
    """Geometries of land cover, in pixels."""

    def pixels(coords: Any) -> Any:
        return np.column_stack([coords[:, 0] - 500000, 5000000 - coords[:, 1]])

    return shapely.transform(shapely.from_wkb(np.array(found["geom"], dtype=object)), pixels)


def smooth(size: int, classes: int, seed: int, *, nodata: bool = True) -> Any:
    """Blobs: the class with the largest of several smooth fields, and some nodata."""
    rng = np.random.default_rng(seed)
    fields = []
    for k in range(classes + 1):
        field = gaussian_filter(rng.normal(size=(size, size)), 2 + k)
        fields.append(field / field.std())
    values = np.argmax(fields[:-1], axis=0).astype(np.uint8)
    if nodata:
        values[fields[-1] > 1.3] = NODATA
    return values
