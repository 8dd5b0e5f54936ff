"""Land cover: is it a coverage, what becomes of areas, how fast is it, and does memory grow with the raster.

Measured on a real map of 62 Mpx where it lies beside the checkout, and on generated maps, of which the true borders are
known between the pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Row, launch, note, python, report
from benchmarks.material import SEED, fresh, shared
from benchmarks.vectors import add_growth, vectorized

SIZES = (8192, 16384)
CLASSES = 6
PIXEL_M = 0.5
UNIT_M2 = 50.0
TOLERANCE_PX = 1.5
FINE = 8
"""Parts of a pixel in which true borders are drawn."""

_WAVES = ((250, 1.0), (60, 0.8), (16, 0.6), (5, 0.6))
"""Wavelengths in pixels and their weights: from fields and woods down to ragged borders and specks."""


def classes(y: float, x: float, step: float, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the classes of an endless map at points `(y + step * row, x + step * col)`; 255 where it has no data."""
    from geounet.testing.noise import field

    best = np.full(shape, -np.inf, dtype=np.float32)
    found = np.zeros(shape, dtype=np.uint8)
    for k in range(CLASSES):
        height = np.zeros(shape, dtype=np.float32)
        for j, (wave, weight) in enumerate(_WAVES):
            height += np.float32(weight) * field(SEED, 100 * k + j, y, x, step, shape, wave)
        better = height > best
        best[better] = height[better]
        found[better] = k
    found[field(SEED, 999, y, x, step, shape, 700) > 0.75] = 255
    return found


def generated(work: Path, size: int) -> Path:
    """Return a map of `size` × `size` px, made on the first call."""
    import rasterio
    from rasterio.windows import Window

    from geounet.atomic import atomic

    path = work / f"classes_{size}.tif"
    if path.exists():
        return path
    note(f"making {path.name}")
    transform = rasterio.Affine(PIXEL_M, 0, 500000, 0, -PIXEL_M, 5000000)
    with (
        atomic(path) as temporary,
        rasterio.open(
            temporary, "w", driver="GTiff", width=size, height=size, count=1, dtype="uint8", nodata=255,
            crs="EPSG:32633", transform=transform, tiled=True, blockxsize=512, blockysize=512, compress="deflate",
            zlevel=1,
        ) as raster,
    ):  # fmt: skip
        for y in range(0, size, 1024):
            for x in range(0, size, 1024):
                shape = (min(1024, size - y), min(1024, size - x))
                raster.write(classes(y + 0.5, x + 0.5, 1.0, shape), 1, window=Window(x, y, shape[1], shape[0]))
    return path


def features(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the geometries and the classes of a layer of land cover."""
    import pyogrio
    import shapely

    _, table = pyogrio.read_arrow(path, layer="landcover", columns=["class_id"])
    return shapely.from_wkb(np.asarray(table["geom"], dtype=object)), table["class_id"].to_numpy()


def run_of(name: str, raster: Path, folder: Path, workers: int, *options: object, check: bool = True) -> Row:
    """Return one run as a row."""
    import rasterio
    import shapely

    with rasterio.open(raster) as dataset:
        megapixels = dataset.width * dataset.height / 1e6
    note(f"{name}, {workers} workers {' '.join(map(str, options))}")
    out = folder / "landcover.gpkg"
    said, cost = vectorized(raster, out, "landcover", workers, *options)
    count, (before, after) = said["layers"]["landcover"], said["vertices"]["landcover"]
    areas = said["areas"]["landcover"].values()
    valid: object = None
    if check:
        geometry, _ = features(out)
        valid = bool(shapely.is_valid(geometry).all() and shapely.coverage_is_valid(geometry))
    return {
        "map": name,
        "Mpx": round(megapixels),
        "workers": workers,
        "least area m²": dict(zip(options[::2], options[1::2], strict=True)).get("--min-area-m2", UNIT_M2),
        "components": said["components"]["landcover"],
        "features": count,
        "valid coverage": valid,
        "vertices kept %": round(100 * after / before, 1),
        "class area change, largest %": round(max(100 * abs(a["drawn_px"] / a["joined_px"] - 1) for a in areas), 3),
        **cost,
        "Mpx/s": round(megapixels / cost["wall s"], 2),
        "features/s": round(count / cost["wall s"]),
    }


def gaps(geometry: NDArray[Any], whole: float) -> tuple[float, float]:
    """Return the area covered more than once and the area not covered, of polygons that should cover `whole`."""
    import shapely

    union = shapely.area(shapely.union_all(geometry))
    return float(shapely.area(geometry).sum() - union), float(whole - union)


def contenders(raster: Path, folder: Path) -> list[Row]:
    """Return methods of drawing the same polygons, as rows: ours, each polygon by itself, and GEOS's coverage."""
    import rasterio
    import shapely

    with rasterio.open(raster) as dataset:
        pixel = abs(dataset.transform.a)
    drawn: dict[str, tuple[Any, float]] = {}
    out = folder / "landcover.gpkg"
    unit = ("--min-area-m2", UNIT_M2)
    for name, options in (
        ("pixels' sides", ("--tolerance-px", 0)),
        (f"geounet, {TOLERANCE_PX} px", ("--tolerance-px", TOLERANCE_PX)),
        (f"geounet, {TOLERANCE_PX} px, rounded 2 px", ("--tolerance-px", TOLERANCE_PX, "--smooth-px", 2)),
    ):
        said, _ = vectorized(raster, out, "landcover", 1, *unit, *options)
        geometry, kind = features(out)
        drawn[name] = geometry, said["seconds"]["landcover"]
    raw, _ = drawn["pixels' sides"]
    ours, _ = drawn[f"geounet, {TOLERANCE_PX} px"]

    def timed(function: Any) -> tuple[Any, float]:
        began = time.perf_counter()
        return function(), time.perf_counter() - began

    note("Douglas-Peucker, polygon by polygon")
    drawn["Douglas-Peucker, each polygon"] = timed(lambda: shapely.simplify(raw, TOLERANCE_PX * pixel))
    note("coverage_simplify, to as many vertices")
    low, high = 0.25, 16.0
    wanted = shapely.get_num_coordinates(ours).sum()
    for _ in range(7):
        middle = (low * high) ** 0.5
        made = timed(lambda tolerance=middle: shapely.coverage_simplify(raw, tolerance * pixel))
        low, high = (middle, high) if shapely.get_num_coordinates(made[0]).sum() > wanted else (low, middle)
    drawn[f"GEOS coverage_simplify, {middle:.2f} px"] = made

    rows: list[Row] = []
    whole = float(shapely.area(raw).sum())
    before = {k: float(shapely.area(raw[kind == k]).sum()) for k in np.unique(kind)}
    for name, (geometry, seconds) in drawn.items():
        note(f"gaps and overlaps: {name}")
        twice, missing = gaps(geometry, whole)
        after = {k: float(shapely.area(geometry[kind == k]).sum()) for k in before}
        rows.append(
            {
                "borders": name,
                "vertices %": round(
                    100
                    * int(shapely.get_num_coordinates(geometry).sum())
                    / int(shapely.get_num_coordinates(raw).sum()),
                    1,
                ),
                "valid polygons": bool(shapely.is_valid(geometry).all()),
                "valid coverage": bool(shapely.coverage_is_valid(geometry)),
                "covered twice m²": round(twice),
                "not covered m²": round(missing),
                "class area change, largest %": round(max(abs(after[k] / before[k] - 1) * 100 for k in before), 3),
                "polygon area change, median %": round(
                    float(np.median(np.abs(shapely.area(geometry) / shapely.area(raw) - 1))) * 100, 3
                ),
                "s": round(seconds, 1),
            }
        )
    return rows


def truth(work: Path, folder: Path, size: int) -> list[Row]:
    """Return how much of a generated map has the wrong class between its pixels, by how borders are drawn."""
    import rasterio
    import shapely
    from rasterio.features import rasterize

    raster = generated(work, size)
    note("true borders")
    fine = classes(0.5 / FINE, 0.5 / FINE, 1 / FINE, (size * FINE, size * FINE))
    with rasterio.open(raster) as dataset:
        pixels, transform = dataset.read(1), dataset.transform
    known = np.repeat(np.repeat(pixels, FINE, 0), FINE, 1) < 255
    known &= fine < 255
    drawn: dict[str, Any] = {}
    out = folder / "landcover.gpkg"
    for name, options in (
        ("pixels' sides", ("--tolerance-px", 0)),
        ("geounet, 1 px", ("--tolerance-px", 1)),
        ("geounet, 1.5 px", ("--tolerance-px", 1.5)),
        ("geounet, 1 px, rounded 2 px", ("--tolerance-px", 1, "--smooth-px", 2)),
        ("geounet, 1.5 px, rounded 2 px", ("--tolerance-px", 1.5, "--smooth-px", 2)),
        ("geounet, 3 px", ("--tolerance-px", 3)),
    ):
        vectorized(raster, out, "landcover", 1, "--min-area-m2", 0, *options)
        drawn[name], kind = features(out)
    raw = drawn["pixels' sides"]
    for tolerance in (1.0, 1.5, 2.0):
        drawn[f"GEOS coverage_simplify, {tolerance} px"] = shapely.coverage_simplify(raw, tolerance * PIXEL_M)
    for tolerance in (1.0, 1.5):
        drawn[f"Douglas-Peucker, each polygon, {tolerance} px"] = shapely.simplify(raw, tolerance * PIXEL_M)
    rows: list[Row] = []
    total = int(shapely.get_num_coordinates(raw).sum())
    for name, geometry in drawn.items():
        note(name)
        image = rasterize(
            zip(geometry, kind.tolist(), strict=True), fine.shape, fill=254,
            transform=transform @ rasterio.Affine.scale(1 / FINE),
        )  # fmt: skip
        rows.append(
            {
                "borders": name,
                "vertices %": round(100 * int(shapely.get_num_coordinates(geometry).sum()) / total, 1),
                "wrong class %": round(100 * float((image != fine)[known].mean()), 3),
            }
        )
    return rows


def shapes(raster: Path) -> dict[str, Any]:
    """Make shapely polygons of a raster with `rasterio.features.shapes`."""
    import rasterio
    import rasterio.features
    import shapely.geometry

    with rasterio.open(raster) as dataset:
        values = dataset.read(1)
        found = [
            shapely.geometry.shape(geometry)
            for geometry, _ in rasterio.features.shapes(values, dataset.read_masks(1) > 0, transform=dataset.transform)
        ]
    return {"features": len(found)}


def polygonizers(raster: Path, work: Path, folder: Path, size: str) -> list[Row]:
    """Return others that make polygons of the same raster, as rows."""
    rows: list[Row] = []
    note(f"rasterio.features.shapes, {size}")
    ended = launch(python("-m", "benchmarks.landcover", "shapes", raster))
    rows.append({"program": "rasterio.features.shapes, in memory", "map": size, **ended.said, **_cost(ended)})
    from benchmarks.peers import install

    reason = install(work / "peers")
    if reason is None:
        try:
            note(f"FTW's polygonize, {size}")
            out = folder / "ftw.gpkg"
            out.unlink(missing_ok=True)
            ended = launch(python("-m", "benchmarks.landcover", "ftw", raster, out), path=[work / "peers"])
            rows.append({"program": "ftw-tools, class 1 only, simplified", "map": size, **ended.said, **_cost(ended)})
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
    if reason is not None:
        rows.append({"program": f"ftw-tools: absent ({reason})", "map": size})
    return rows


def _cost(ended: Any) -> Row:
    return {"wall s": round(ended.wall, 1), "cpu s": round(ended.cpu, 1), "peak MiB": round(ended.peak_mib)}


def ftw(raster: Path, out: Path) -> dict[str, Any]:
    """Run the polygonizer of Fields of The World; its package needs more than is installed, so only that is loaded."""
    import types
    from importlib import import_module

    import pyogrio

    # What it writes Parquet files with; a GeoPackage needs none of it.
    stub = types.ModuleType("fiboa_cli.parquet")
    stub.__dict__.update(create_parquet=None, features_to_dataframe=None)
    sys.modules.update({"fiboa_cli": types.ModuleType("fiboa_cli"), "fiboa_cli.parquet": stub})
    import rasterio

    with rasterio.open(raster) as dataset:
        pixel = abs(dataset.transform.a)
    polygonize: Any = import_module("ftw_cli.polygonize").polygonize
    polygonize(str(raster), str(out), TOLERANCE_PX * pixel, UNIT_M2, None, True, False)
    return {"features": int(pyogrio.read_info(out)["features"])}


def run(work: Path, out: Path | None, *, sizes: Sequence[int] = SIZES, size: int | None = None) -> dict[str, Any]:
    """Measure and report.

    Parameters
    ----------
    work, out
        Folder for what is made; JSON file or None.
    sizes
        Sides of the generated maps, px: the second has four times the pixels of the first.
    size
        Only this size, and no real map.
    """
    folder = fresh(work / "landcover")
    folder.mkdir(parents=True)
    data = shared()
    real = data / "geotiff_zoo/rio-tiler/cog_cmap.tif" if data is not None and size is None else None
    sizes = (size,) if size is not None else tuple(sizes)
    maps = {f"generated {s}²": generated(work, s) for s in sizes}
    rows: list[Row] = []
    options = ("--min-area-m2", UNIT_M2)
    if real is not None and real.exists():
        rows += [run_of("real", real, folder, workers, *options) for workers in (1, 2)]
    for name, raster in maps.items():
        rows += [run_of(name, raster, folder, workers, *options) for workers in (1, 2)]
    rows += [run_of(name, raster, folder, 2, "--min-area-m2", 0) for name, raster in maps.items()]
    add_growth([r for r in rows if r["map"] != "real"], ("workers", "least area m²"))
    compared = real if real is not None and real.exists() else next(iter(maps.values()))
    name = "real" if compared == real else next(iter(maps))
    tables = {
        f"Land cover, least area {UNIT_M2:g} m² and none, tolerance {TOLERANCE_PX} px": rows,
        f"Ways to draw the same polygons ({name})": contenders(compared, folder),
        "Wrong class between the pixels, generated map with known borders": truth(work, folder, min(512, *sizes)),
        "Others that polygonize": [
            row
            for title, raster in {name: compared, **dict(list(maps.items())[:1])}.items()
            for row in polygonizers(raster, work, folder, title)
        ],
    }
    fresh(folder)
    return report("landcover", tables, out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the others, in a process of its own; prints what it made as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.landcover")
    parser.add_argument("what", choices=["shapes", "ftw"])
    parser.add_argument("raster", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    given = parser.parse_args(arguments)
    said = shapes(given.raster) if given.what == "shapes" else ftw(given.raster, given.out)
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
