"""Vectors of real masks are the same for any cell and any number of workers, in every column."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from rasterio import Affine
from rasterio.windows import Window

from geounet.testing.flaws import LEVELS, contacts, flawed
from tests.support.rasters import open_quietly, write
from tests.support.vectors import GRID, read, vectorize

SIDE = 1100
CELLS = (256, 1000, 4096)
"""Of the last there is one."""


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small parts: that they survive a power cut is not tested here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def pennsylvania(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Land cover with structures, roads and the edge of the data."""
    with open_quietly(shared_data / "geotiff_zoo/rio-tiler/cog_cmap.tif") as raster:
        values = raster.read(window=Window(6050, 4950, SIDE, SIDE))
        place = raster.transform @ Affine.translation(6050, 4950)
        return write(
            tmp_path_factory.mktemp("real") / "map.tif", values, nodata=0, transform=place, crs=raster.crs.to_wkt()
        )


@pytest.fixture(scope="module")
def banepa(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Footprints of a town as a network would see them: 1 building, 2 where they touch."""
    *_, wkb, _ = pyogrio.raw.read(shared_data / "banepa_oam/banepa_osm_buildings.geojson", columns=[])
    degrees = shapely.from_wkb(wkb)
    west, _, _, north = shapely.total_bounds(degrees)
    # Pixels of about 0.3 m; north is up.
    shapes = shapely.transform(degrees, lambda p: (p - (west, north)) * (98_700 / 0.3, -110_800 / 0.3) - (100, 600))
    labels = flawed(shapes.tolist(), (SIDE, SIDE), LEVELS["medium"], 3)
    mask = (labels > 0).astype(np.uint8)
    mask[contacts(labels)] = 2
    return write(tmp_path_factory.mktemp("banepa") / "mask.tif", mask[None], nodata=255, transform=GRID)


def layers(raster: Path, folder: Path, cell: int, workers: int, *options: object) -> dict[str, Any]:
    out = folder / f"{cell}-{workers}.gpkg"
    assert vectorize(raster, "--out", out, "--cell", cell, "--workers", workers, *options) == 0
    return {str(name): read(out, str(name)) for name, _ in pyogrio.list_layers(out) if name != "layer_styles"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scene", "options", "workers", "least"),
    [
        ("pennsylvania", ("--kind", "landcover", "--smooth-px", 2), 2, 100),
        ("pennsylvania", ("--kind", "buildings", "--class", 5), 1, 40),
        ("banepa", ("--kind", "buildings", "--class", 1, "--contact", 2), 2, 400),
    ],
    ids=["land cover", "components", "along contacts"],
)
def test_the_same_for_all_cells_and_workers(
    scene: str, options: tuple[object, ...], workers: int, least: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    raster = request.getfixturevalue(scene)
    first, *others = (layers(raster, tmp_path, cell, workers if cell == CELLS[0] else 1, *options) for cell in CELLS)
    for found in others:
        assert found == first
    (layer,) = first.values()
    assert len(layer["fid"]) > least
    geometry = shapely.from_wkb(np.array(layer["geom"], dtype=object))
    assert shapely.is_valid(geometry).all()
    if "landcover" in options:
        assert shapely.coverage_is_valid(geometry)
