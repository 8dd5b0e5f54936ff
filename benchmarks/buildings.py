"""Outlines of buildings against others' on masks with flaws, of which the true outlines are known; speed and memory.

All methods get the same raw polygons: those of `geounet vectorize --outline raw`, buildings that touch told apart along
a class of contact pixels. So the tables compare outlines, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Row, launch, note, python, report
from benchmarks.material import SEED, fresh, shared
from benchmarks.vectors import add_growth, vectorized, write_classes

PIXEL_M = 0.3
TOLERANCES_PX = (1.5, 2.0)
"""Tolerances of ours: the default, and a larger one."""
BAND_PX = 3
"""Depth of the band along the border that the boundary IoU compares."""
NOISE = ("light", "medium", "heavy")
TOWNS = ((11, 0, 0),)
"""World, and row and column in it, of each scene whose houses are the generator's truth."""
SIZES = (8192, 16384)
"""Sides of the masks whose memory is compared, px: the second has four times the pixels of the first."""
STATUSES = ("simplified", "raw")

Shapes = NDArray[Any]


@dataclass(frozen=True)
class Drawn:
    """Outlines of one method: one for each raw polygon.

    `missing` are raw polygons it returned nothing for (the raw one stands in), `fallback` those it gave up on.
    """

    shapes: Shapes
    seconds: float
    missing: int = 0
    fallback: int = 0
    trimmed: int = 0


def towns(side: int) -> list[Shapes]:
    """Return the houses of generated scenes, in pixels: those that no border cuts."""
    import shapely

    from geounet.testing.scenes import truth_vectors
    from geounet.types import Rect

    found = []
    for seed, y, x in TOWNS:
        houses: Shapes = np.array(truth_vectors(seed, Rect(y, x, y + side, x + side), PIXEL_M).buildings, dtype=object)
        inside = shapely.contains_properly(shapely.box(0, 0, side, side), houses)
        found.append(houses[inside])
    return found


def banepa(path: Path) -> Shapes:
    """Return the footprints of Banepa in pixels of a grid of `PIXEL_M` in UTM."""
    import pyogrio
    import shapely
    from pyproj import Transformer

    *_, wkb, _ = pyogrio.raw.read(path, columns=[])
    project = Transformer.from_crs("EPSG:4326", "EPSG:32645", always_xy=True).transform
    shapes: Shapes = shapely.transform(
        shapely.from_wkb(wkb), lambda p: np.column_stack(project(p[:, 0], p[:, 1])), include_z=False
    )
    west, _, _, north = shapely.total_bounds(shapes)
    return np.asarray(shapely.transform(shapes, lambda p: (p - (west, north)) * (1, -1) / PIXEL_M + 16))


def masked(shapes: Shapes, level: str, seed: int, path: Path) -> Path:
    """Write the mask of buildings with flaws: 1 building, 2 where buildings touch."""
    import shapely

    from geounet.testing.flaws import LEVELS, contacts, flawed

    _, _, east, south = shapely.total_bounds(shapes)
    labels = flawed(shapes.tolist(), (int(south) + 16, int(east) + 16), LEVELS[level], seed)
    mask = (labels > 0).astype(np.uint8)
    mask[contacts(labels)] = 2
    return write_classes(path, mask, PIXEL_M)


def ours(mask: Path, folder: Path, outline: str, tolerance: float = TOLERANCES_PX[0]) -> tuple[Shapes, dict[str, Any]]:
    """Return the buildings of a mask in pixels, in order, and what `geounet vectorize` reported."""
    import pyogrio
    import rasterio
    import shapely

    out = folder / "buildings.gpkg"
    said, _ = vectorized(
        mask, out, "buildings", 1, "--class", 1, "--contact", 2, "--outline", outline, "--tolerance-px", tolerance
    )
    *_, wkb, _ = pyogrio.raw.read(out, layer="buildings", columns=[])
    with rasterio.open(mask) as dataset:
        a, _, c, _, e, f = tuple(dataset.transform)[:6]
    return np.asarray(shapely.transform(shapely.from_wkb(wkb), lambda p: (p - (c, f)) / (a, e))), said


def timed(function: Callable[[Shapes], Shapes], raw: Shapes) -> Drawn:
    """Return what a function makes of raw polygons."""
    began = time.perf_counter()
    made = function(raw)
    return Drawn(made, time.perf_counter() - began)


def regulariser(raw: Shapes, folder: Path, work: Path, tolerance: float) -> Drawn:
    """Return what `buildingregulariser` makes, in a process of its own; rows are matched by a column."""
    import pyogrio
    import shapely

    given, made = folder / "given.gpkg", folder / "made.gpkg"
    for path in (given, made):
        path.unlink(missing_ok=True)
    metres = shapely.transform(raw, lambda p: p * (PIXEL_M, -PIXEL_M))
    pyogrio.raw.write(
        given,
        shapely.to_wkb(metres),
        [np.arange(len(raw))],
        fields=["number"],
        geometry_type="Polygon",
        crs="EPSG:32633",
    )
    command = python("-m", "benchmarks.buildings", given, made, str(tolerance * PIXEL_M))
    ended = launch(command, path=[work / "peers"])
    *_, wkb, (number,) = pyogrio.raw.read(made, columns=["number"])
    parts, row = shapely.get_parts(shapely.from_wkb(wkb), return_index=True)
    parts = shapely.transform(parts, lambda p: p / (PIXEL_M, -PIXEL_M))
    number = number[row].astype(np.int64)
    shapes = raw.copy()
    order = np.argsort(shapely.area(parts), kind="stable")
    shapes[number[order]] = parts[order]
    absent = len(raw) - len(np.unique(number))
    return Drawn(shapes, float(ended.said["seconds"]), missing=absent)


def contenders(mask: Path, folder: Path, work: Path, others: bool) -> tuple[Shapes, dict[str, Drawn]]:
    """Return the raw polygons of a mask, and what each method makes of them."""
    import shapely

    raw, before = ours(mask, folder, "raw")
    drawn = {
        "raw polygons": Drawn(raw, 0.0),
        "Douglas-Peucker, 1 px": timed(lambda g: np.asarray(shapely.simplify(g, 1.0)), raw),
        "Douglas-Peucker, 1.5 px": timed(lambda g: np.asarray(shapely.simplify(g, 1.5)), raw),
        "Douglas-Peucker, 2 px": timed(lambda g: np.asarray(shapely.simplify(g, 2.0)), raw),
        "minimum rotated rectangle": timed(lambda g: np.asarray(shapely.minimum_rotated_rectangle(g)), raw),
    }
    if others:
        for tolerance in (2.0, 3.0):
            try:
                drawn[f"buildingregulariser, {tolerance:g} px"] = regulariser(raw, folder, work, tolerance)
            except RuntimeError as error:
                note(f"buildingregulariser: {str(error).strip().splitlines()[-1]}")
    for tolerance in TOLERANCES_PX:
        shapes, said = ours(mask, folder, "regular", tolerance)
        status = said["outlines"]["buildings"]
        drawn[f"geounet, {tolerance:g} px"] = Drawn(
            shapes,
            max(0.0, said["seconds"]["buildings"] - before["seconds"]["buildings"]),
            fallback=sum(status[word] for word in STATUSES),
            trimmed=status["trimmed"],
        )
    return raw, drawn


def corners(shapes: Shapes) -> NDArray[np.int64]:
    """Return how many vertices polygons have."""
    import shapely

    count: NDArray[np.int64] = shapely.get_num_coordinates(shapes) - 1 - shapely.get_num_interior_rings(shapes)
    return count


def iou(one: Shapes, other: Shapes) -> NDArray[np.float64]:
    """Return the intersection over union of polygons, pair by pair; what is invalid counts as it is made valid."""
    import shapely

    one, other = (np.where(shapely.is_valid(g), g, shapely.make_valid(g)) for g in (one, other))
    common = shapely.area(shapely.intersection(one, other))
    whole = shapely.area(one) + shapely.area(other) - common
    return np.asarray(np.divide(common, whole, out=np.zeros_like(common), where=whole > 0))


def band(shapes: Shapes) -> Shapes:
    """Return the parts of polygons within `BAND_PX` of their borders (Cheng et al. 2021, as areas)."""
    import shapely

    return np.asarray(shapely.difference(shapes, shapely.buffer(shapes, -BAND_PX)))


def heading(shapes: Shapes) -> NDArray[np.float64]:
    """Return the direction of polygons modulo 90 degrees, in degrees: their edges vote by length, as unit vectors."""
    import shapely

    points, index = shapely.get_coordinates(shapely.get_exterior_ring(shapes), return_index=True)
    edge = np.diff(points, axis=0)[index[1:] == index[:-1]]
    owner = index[1:][index[1:] == index[:-1]]
    length, angle = np.hypot(*edge.T), 4 * np.arctan2(edge[:, 1], edge[:, 0])
    sine, cosine = (np.bincount(owner, length * f(angle), len(shapes)) for f in (np.sin, np.cos))
    return np.degrees(np.arctan2(sine, cosine)) / 4


def common(shapes: Shapes) -> tuple[int, float]:
    """Return how many pairs of polygons overlap, and the area that they share."""
    import shapely

    shapes = np.where(shapely.is_valid(shapes), shapes, shapely.make_valid(shapes))
    a, b = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    a, b = a[a < b], b[a < b]
    area = shapely.area(shapely.intersection(shapes[a], shapes[b]))
    return int((area > 1e-3).sum()), float(area.sum())


def compared(name: str, sets: Sequence[tuple[Shapes, Shapes, Drawn]]) -> Row:
    """Return how near one method's outlines are to the true ones, over several masks, as a row.

    Parameters
    ----------
    name
        Of the method.
    sets
        For each mask the true outlines, the raw ones, and the method's. Those are compared whose raw polygon overlaps a
        true one by half, so that all methods have the same pairs.
    """
    import shapely

    from geounet.evaluation.matching import matched, polis

    pairs = [(matched(truth, raw), truth, drawn) for truth, raw, drawn in sets]
    true = np.concatenate([truth[p.truth] for p, truth, _ in pairs])
    made = np.concatenate([drawn.shapes[p.found] for p, _, drawn in pairs])
    n, m = corners(true), corners(made)
    overlap = iou(true, made)
    turn = heading(true) - heading(made)
    off = np.abs((turn + 45) % 90 - 45)
    count = sum(len(drawn.shapes) for *_, drawn in pairs)
    over = [common(drawn.shapes) for *_, drawn in pairs]
    valid = sum(int(shapely.is_valid(drawn.shapes).sum()) for *_, drawn in pairs)
    edge = iou(band(true), band(np.where(shapely.is_valid(made), made, shapely.make_valid(made))))
    return {
        "outlines": name,
        "IoU": round(float(overlap.mean()), 4),
        "boundary IoU": round(float(edge.mean()), 4),
        "C-IoU": round(float((overlap * (1 - np.abs(n - m) / (n + m))).mean()), 4),
        "vertex ratio": round(float(m.sum() / n.sum()), 3),
        "PoLiS m": round(float(polis(true, made).mean()) * PIXEL_M, 3),
        "angle error °": round(float(off.mean()), 2),
        "overlapping pairs": sum(pair for pair, _ in over),
        "overlap m²": round(sum(area for _, area in over) * PIXEL_M**2, 1),
        "invalid": count - valid,
        "fallback %": round(100 * sum(d.fallback + d.missing for *_, d in pairs) / count, 1),
        "trimmed %": round(100 * sum(d.trimmed for *_, d in pairs) / count, 1),
        "ms a building": round(1000 * sum(d.seconds for *_, d in pairs) / count, 2),
    }


def outlines(name: str, truths: Sequence[Shapes], level: str, folder: Path, work: Path, others: bool) -> list[Row]:
    """Return all methods on masks of some towns, as rows."""
    import shapely

    sets: dict[str, list[tuple[Shapes, Shapes, Drawn]]] = {}
    pairs = 0
    for k, truth in enumerate(truths):
        note(f"{name} {k}, {level} flaws, {len(truth)} buildings")
        mask = masked(truth, level, SEED + k, folder / "mask.tif")
        raw, drawn = contenders(mask, folder, work, others)
        # Of the true outlines only real corners count.
        clean = np.asarray(shapely.simplify(truth, 0.1))
        for method, found in drawn.items():
            sets.setdefault(method, []).append((clean, raw, found))
        pairs += len(raw)
    return [{"flaws": level, **compared(method, found)} for method, found in sets.items() if len(found) == len(truths)]


def town(work: Path, side: int) -> Path:
    """Return a mask of buildings of `side` × `side` px, made on the first call: one town again and again."""
    path = work / f"town_{side}.tif"
    if path.exists():
        return path
    from geounet.testing.flaws import LEVELS, contacts, flawed

    note(f"making {path.name}")
    once = min(side, 4096)
    labels = flawed(towns(once)[0].tolist(), (once, once), LEVELS["medium"], SEED)
    mask = (labels > 0).astype(np.uint8)
    mask[contacts(labels)] = 2
    return write_classes(path, np.tile(mask, (side // once, side // once)), PIXEL_M)


def run_of(mask: Path, folder: Path, workers: int, outline: str = "regular") -> Row:
    """Return one run as a row."""
    import rasterio

    with rasterio.open(mask) as dataset:
        megapixels = dataset.width * dataset.height / 1e6
    note(f"{mask.name}, {workers} workers, {outline}")
    said, cost = vectorized(
        mask, folder / "buildings.gpkg", "buildings", workers,
        "--class", 1, "--contact", 2, "--outline", outline,
    )  # fmt: skip
    count = said["layers"]["buildings"]
    return {
        "Mpx": round(megapixels),
        "outline": outline,
        "workers": workers,
        "buildings": count,
        **cost,
        "Mpx/s": round(megapixels / cost["wall s"], 1),
        "buildings/s": round(count / cost["wall s"]),
    }


def run(work: Path, out: Path | None, *, sizes: Sequence[int] = SIZES, size: int | None = None) -> dict[str, Any]:
    """Measure and report.

    Parameters
    ----------
    work, out
        Folder for what is made; JSON file or None.
    sizes
        Sides of the masks of which memory is compared, px.
    size
        Only this size; also the side of the scenes of the generator's truth, and no real footprints.
    """
    from benchmarks.peers import install

    folder = fresh(work / "buildings")
    folder.mkdir(parents=True)
    data = shared() if size is None else None
    others = size is None
    if others and (reason := install(work / "peers")) is not None:
        note(f"peers are absent: {reason}")
        others = False
    tables: dict[str, list[Row]] = {}
    sets = {"generated": towns(size or 4096)}
    footprints = data / "banepa_oam/banepa_osm_buildings.geojson" if data is not None else None
    if footprints is not None and footprints.exists():
        sets["Banepa"] = [banepa(footprints)]
    for name, truths in sets.items():
        title = f"Outlines, {name}, {sum(map(len, truths))} buildings, pixels of {PIXEL_M} m"
        tables[title] = [
            row for level in NOISE for row in outlines(name, truths, level, folder, work, others)
        ]  # fmt: skip
    rows: list[Row] = []
    for side in (size,) if size is not None else sizes:
        mask = town(work, side)
        rows += [run_of(mask, folder, workers) for workers in (1, 2)] + [run_of(mask, folder, 2, "raw")]
    add_growth(rows, ("workers", "outline"))
    tables["Speed and memory, medium flaws"] = rows
    fresh(folder)
    return report("buildings", tables, out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Regularise a layer with buildingregulariser, on one core; prints the seconds of that alone as JSON.

    Its README advises a tolerance of two to three pixels.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.buildings")
    parser.add_argument("given", type=Path)
    parser.add_argument("made", type=Path)
    parser.add_argument("tolerance", type=float, help="metres")
    asked = parser.parse_args(arguments)
    import geopandas
    from buildingregulariser import regularize_geodataframe  # type: ignore[import-not-found, unused-ignore]

    layer = geopandas.read_file(asked.given)
    began = time.perf_counter()
    made = regularize_geodataframe(layer, simplify_tolerance=asked.tolerance, num_cores=1)
    seconds = time.perf_counter() - began
    made.to_file(asked.made)
    print(json.dumps({"seconds": seconds}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
