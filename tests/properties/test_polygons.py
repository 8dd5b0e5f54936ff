"""Polygons of cells are those of the whole raster, whatever the cells; none is invalid."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geounet.raster.env import open_quietly
from geounet.types import NODATA
from tests.support import vectors

WHOLE = 10_000


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small parts: that they survive a power cut is not tested here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def noise(size: int, classes: int, seed: int, nodata: float = 0.0) -> Any:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, classes, (size, size)).astype(np.uint8)
    values[rng.random((size, size)) < nodata] = NODATA
    return values


def spiral(size: int) -> Any:
    """A corridor that winds to the middle, two pixels from turn to turn; one component, as is what is between."""
    values = np.zeros((size, size), dtype=np.uint8)
    y, x, dy, dx = 0, -1, 0, 1
    length, turns = size, 0
    while length > 0:
        for _ in range(length):
            y, x = y + dy, x + dx
            values[y, x] = 1
        dy, dx = dx, -dy
        turns += 1
        if turns >= 3 and turns % 2 == 1:
            length -= 2
        elif turns == 1:
            length -= 1
            continue
        if turns == 2:
            continue
    return values


def checkerboard(size: int) -> Any:
    y, x = np.mgrid[0:size, 0:size]
    return ((y + x) % 2).astype(np.uint8)


def rings(size: int) -> Any:
    """Rings around the corners of cells of 64 and 100 px, one inside of the other."""
    values = np.zeros((size, size), dtype=np.uint8)
    for cell in (64, 100):
        for cy in range(cell, size, cell):
            for cx in range(cell, size, cell):
                for k, half in enumerate((17, 12, 7, 2)):
                    values[max(0, cy - half) : cy + half, max(0, cx - half) : cx + half] = 1 + k % 2
    return values


def corridors(size: int) -> Any:
    """One pixel wide along both sides of the edges of cells, with gaps."""
    values = np.zeros((size, size), dtype=np.uint8)
    for cell in (7, 64, 100):
        for at in range(cell, size, cell):
            values[at - 1 if at % 2 else at, :] = 1
            values[:, at if at % 3 else at - 1] = 1
    values[:, ::13] = 0
    return values


def nodata_on_edges(size: int) -> Any:
    values = noise(size, 2, 5)
    for cell in (7, 64, 100):
        values[cell::cell] = np.where(np.arange(size) % 5 < 3, NODATA, values[cell::cell])
        values[:, cell - 1 :: cell][::3] = NODATA
    return values


ARRAYS: dict[str, Callable[[int], Any]] = {
    "noise of 2": lambda n: noise(n, 2, 1),
    "noise of 5": lambda n: noise(n, 5, 2),
    "sparse": lambda n: noise(n, 2, 3, nodata=0.6),
    "spiral": spiral,
    "checkerboard": checkerboard,
    "rings": rings,
    "corridors": corridors,
    "nodata on edges": nodata_on_edges,
    "one value": lambda n: np.ones((n, n), np.uint8),
    "nothing": lambda n: np.full((n, n), NODATA, np.uint8),
}


def same_for_cells(values: Any, cells: tuple[int, ...], folder: Path, stored: Any = None) -> None:
    """Assert that polygons are GDAL's, valid, exact in area, and alike in all for each cell."""
    expected = vectors.polygonized_whole(values)
    first: dict[str, list[Any]] | None = None
    for cell in cells:
        found = vectors.polygons(values, cell, folder / str(cell), stored=stored)
        geometry = np.array(found["geometry"], dtype=object)
        assert vectors.normalised(found) == expected
        assert shapely.is_valid(geometry).all()
        assert shapely.area(geometry).tolist() == found["count"]
        for value in np.unique(values[values != NODATA]):
            mine = np.array(found["value"]) == value
            assert shapely.area(geometry[mine]).sum() == (values == value).sum()
        found["geometry"] = [g.wkb for g in geometry]  # not normalised: also rings, starts and senses are alike
        first = first or found
        assert found == first
    assert first is not None
    assert first["first"] == sorted(set(first["first"]))


@pytest.mark.parametrize("name", ARRAYS)
def test_cells_make_the_polygons_of_the_whole(name: str, tmp_path: Path) -> None:
    same_for_cells(ARRAYS[name](200), (64, 100, WHOLE), tmp_path)


@pytest.mark.parametrize("name", ARRAYS)
def test_tiny_cells_make_the_polygons_of_the_whole(name: str, tmp_path: Path) -> None:
    same_for_cells(ARRAYS[name](73), (7, WHOLE), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise of 2", "spiral", "rings", "corridors", "nodata on edges"])
def test_large_arrays(name: str, tmp_path: Path) -> None:
    same_for_cells(ARRAYS[name](512), (64, 100, WHOLE), tmp_path)


def test_first_pixel_is_the_first_in_raster_order(tmp_path: Path) -> None:
    # A shape whose leftmost pixels come late, over several cells.
    values = np.zeros((20, 20), dtype=np.uint8)
    values[3, 9:19] = 1
    values[3:15, 9] = 1
    values[14, 1:10] = 1
    found = vectors.polygons(values, 6, tmp_path)
    assert found["first"] == [0, 3 * 20 + 9]


def test_sums_of_probabilities_do_not_depend_on_cells(tmp_path: Path) -> None:
    values = noise(90, 2, 9, nodata=0.1)
    stored = np.random.default_rng(3).integers(0, 256, values.shape)
    same_for_cells(values, (7, 32, WHOLE), tmp_path, stored)
    found = vectors.polygons(values, 32, tmp_path / "again", stored=stored)
    known = (values != NODATA) & (stored != NODATA)
    assert sum(found["total"]) == stored[known].sum()
    assert sum(found["counted"]) == known.sum()


masks = arrays(
    np.uint8,
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    elements=st.sampled_from([0, 0, 0, 1, 1, 2, NODATA]),
)


@given(masks, st.integers(2, 25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mask_any_cell(values: Any, cell: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        same_for_cells(values, (cell, WHOLE), Path(folder))


@pytest.fixture(scope="module")
def map_of_pennsylvania(shared_data: Path) -> Any:
    with open_quietly(shared_data / "geotiff_zoo/rio-tiler/cog_cmap.tif") as raster:
        values = raster.read(1)
    values[values == 0] = NODATA
    return values


@pytest.mark.slow
@pytest.mark.parametrize("cell", [256, 1000, WHOLE])
def test_a_real_map(map_of_pennsylvania: Any, cell: int, tmp_path: Path) -> None:
    values = map_of_pennsylvania
    found = vectors.polygons(values, cell, tmp_path)
    assert vectors.normalised(found) == vectors.polygonized_whole(values)
    assert sum(found["count"]) == int((values != NODATA).sum())
