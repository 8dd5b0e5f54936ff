"""Vectors for cells of any side and any number of workers: whether geometries and attributes are equal to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import buildings, landcover, roads
from benchmarks.harness import Row, note, report
from benchmarks.material import fresh, shared
from benchmarks.vectors import vectorized

CELLS = (256, 1000, 4096)
"""Sides of cells, px, beside the whole raster."""
SIDE = 2048
"""Of the generated masks, px."""
LAYERS = {"buildings": ("buildings",), "roads": ("road_edges", "road_nodes"), "landcover": ("landcover",)}
COG_CMAP = {"landcover": ("--min-area-m2", landcover.UNIT_M2), "buildings": ("--class", 7), "roads": ("--class", 9)}
"""Of a land cover map of Pennsylvania: what is drawn of it; 7 are structures, 9 roads."""

Case = tuple[str, Path, str, Sequence[object]]


def same(raster: Path, folder: Path, kind: str, options: Sequence[object], cells: Sequence[int] = CELLS) -> list[Row]:
    """Return whether the layers of a class raster are the same for all cells, and two workers, as rows."""
    import pyogrio
    import rasterio

    with rasterio.open(raster) as dataset:
        whole = -(-max(dataset.shape) // 512) * 512
    rows: list[Row] = []
    first: list[Any] = []
    out = folder / "layers.gpkg"
    for cell, workers in ((whole, 1), *((c, 1) for c in cells if c < whole), (cells[0], 2)):
        note(f"{raster.stem}, {kind}, cell {cell}, {workers} workers")
        said, cost = vectorized(raster, out, kind, workers, *options, "--cell", cell)
        tables = [pyogrio.read_arrow(out, layer=name)[1] for name in LAYERS[kind]]
        first = first or tables
        rows.append(
            {
                "mask": raster.stem,
                "px": f"{dataset.width} × {dataset.height}",
                "layer": " and ".join(LAYERS[kind]),
                "cell px": "whole" if cell == whole else cell,
                "workers": workers,
                "features": sum(said["layers"][name] for name in LAYERS[kind]),
                "equal": all(a.equals(b) for a, b in zip(first, tables, strict=True)),
                "cpu s": cost["cpu s"],
            }
        )
    return rows


def cases(work: Path, folder: Path, side: int, data: Path | None) -> list[Case]:
    """Return masks, and what is drawn of them: generated ones, and real ones where they are."""
    houses = buildings.masked(buildings.towns(side)[0], "medium", 0, folder / "town.tif")
    streets = roads.generated(folder, side)[0].mask
    contact = ("--class", 1, "--contact", 2)
    found: list[Case] = [
        ("generated", houses, "buildings", contact),
        ("generated", streets, "roads", ("--class", 1)),
        ("generated", landcover.generated(work, side), "landcover", ("--min-area-m2", landcover.UNIT_M2)),
    ]
    if data is None:
        return found
    footprints = buildings.banepa(data / "banepa_oam/banepa_osm_buildings.geojson")
    banepa = buildings.masked(footprints, "medium", 0, folder / "banepa.tif")
    found += [("Banepa", banepa, "buildings", contact), ("Banepa", banepa, "landcover", ())]
    lines = roads.massachusetts(data, folder)[0].mask
    found += [("Massachusetts", lines, "roads", ("--class", 1)), ("Massachusetts", lines, "landcover", ())]
    map_ = data / "geotiff_zoo/rio-tiler/cog_cmap.tif"
    return found + [("Pennsylvania", map_, kind, options) for kind, options in COG_CMAP.items()]


def run(work: Path, out: Path | None, *, size: int | None = None) -> dict[str, Any]:
    """Measure and report.

    Parameters
    ----------
    work, out
        Folder for what is made; JSON file or None.
    size
        Side of the generated masks, px; no real ones then.
    """
    folder = fresh(work / "cells")
    folder.mkdir(parents=True)
    rows: list[Row] = []
    for name, raster, kind, options in cases(work, folder, size or SIDE, shared() if size is None else None):
        rows += [{"of": name, **row} for row in same(raster, folder, kind, options)]
    fresh(folder)
    equal = all(row["equal"] for row in rows)
    return report("cells", {"The same for all cells and workers": rows}, out, settings={"all equal": equal})
