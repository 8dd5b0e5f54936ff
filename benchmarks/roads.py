"""Road networks from label masks against the true ones: routes, ends at seams of cells, widths; speed and memory.

Generated scenes have true centre lines and widths; labels show the road where neither crowns of trees nor cars hide it.
The label masks of Massachusetts are lines drawn 7 px wide: there the reference is a skeleton of the whole mask by
another algorithm (`skimage.morphology.skeletonize`), simplified, as lines from pixel to pixel are some 5 % too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Row, note, report
from benchmarks.material import fresh, shared
from benchmarks.vectors import add_growth, vectorized, write_classes

PIXEL_M = 0.3
WORLDS = ((11, 0, 0), (11, 0, 4096), (0, 0, 0), (3, 0, 0))
"""World, and row and column in it, of the generated scenes."""
SIDE = 2048
"""Their side, px."""
CELL = 256
"""Side of the cells whose seams are looked at, px."""
MARGIN_M = 20.0
"""So near to the border nothing counts: centre lines leave the scene there while half of their road stays."""
SIZES = (8192, 16384)
"""Sides of the masks whose memory is compared, px: the second has four times the pixels of the first."""
BINS = 4
TILES = 5
"""Tiles of Massachusetts that are measured."""
STEPS_PX = 1.5
"""Tolerance at which lines from pixel to pixel are simplified."""

Lines = NDArray[Any]


@dataclass(frozen=True)
class Scene:
    """A mask of roads (class 1) with pixels of `pixel` metres; its true lines in metres from its corner, y down."""

    mask: Path
    side: int
    pixel: float
    truth: Lines
    widths: NDArray[np.float64]


def generated(folder: Path, side: int) -> list[Scene]:
    """Return generated scenes with their true roads."""
    import shapely

    from geounet.testing.scenes import CLASSES, truth_vectors, window
    from geounet.types import Rect

    found = []
    for k, (seed, y, x) in enumerate(WORLDS):
        rect = Rect(y, x, y + side, x + side)
        mask = (window(seed, rect, gsd=PIXEL_M)[1] == CLASSES.index("road")).astype(np.uint8)
        vectors = truth_vectors(seed, rect, PIXEL_M)
        lines = np.asarray(shapely.transform(np.array(vectors.roads, dtype=object), lambda p: p * PIXEL_M))
        path = write_classes(folder / f"generated_{k}.tif", mask, PIXEL_M)
        found.append(Scene(path, side, PIXEL_M, lines, np.array(vectors.widths)))
    return found


def massachusetts(data: Path, folder: Path) -> list[Scene]:
    """Return label masks of real roads, with the skeleton of each as reference."""
    import rasterio
    import shapely

    from geounet.evaluation.graph import graph

    found = []
    for k, path in enumerate(sorted((data / "mass_roads/masks").glob("*.tif"))[:TILES]):
        with rasterio.open(path) as dataset:
            mask = (dataset.read(1) == 1).astype(np.uint8)
        lines = shapely.simplify(graph(skeleton_links(mask)).lines, STEPS_PX)
        mask_path = write_classes(folder / f"massachusetts_{k}.tif", mask, 1.0)
        found.append(Scene(mask_path, mask.shape[0], 1.0, lines, np.full(len(lines), 7.0)))
    return found


def skeleton_links(mask: NDArray[np.uint8]) -> Lines:
    """Return the links between neighbouring pixels of a mask's skeleton, as lines in pixels."""
    import shapely
    from skimage import morphology as untyped

    morphology: Any = untyped
    skeleton = morphology.skeletonize(mask > 0)
    pieces = []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        y, x = np.nonzero(skeleton[: len(skeleton) - dy, max(0, -dx) : skeleton.shape[1] - max(0, dx)])
        x = x + max(0, -dx)
        linked = skeleton[y + dy, x + dx]
        if dy and dx:  # not where two straight steps lead there
            linked &= ~(skeleton[y + dy, x] | skeleton[y, x + dx])
        y, x = y[linked], x[linked]
        pieces.append(np.stack([np.column_stack([x, y]), np.column_stack([x + dx, y + dy])], axis=1) + 0.5)
    return np.asarray(shapely.linestrings(np.concatenate(pieces)))


def drawn(path: Path, mask: Path, layer: str, columns: Sequence[str]) -> tuple[Lines, list[NDArray[Any]]]:
    """Return geometries of a layer in metres from the mask's corner, y down, and columns."""
    import pyogrio
    import rasterio
    import shapely

    _, _, wkb, values = pyogrio.raw.read(path, layer=layer, columns=list(columns))
    with rasterio.open(mask) as dataset:
        west, north = dataset.transform[2], dataset.transform[5]
    shapes = shapely.transform(shapely.from_wkb(wkb), lambda p: (p - (west, north)) * (1, -1))
    return np.asarray(shapes), list(values)


def seam_test(places: NDArray[np.float64], cell: float) -> float:
    """Return the p of a chi-square test of whether dead ends lie as far from seams of cells as anything does.

    Parameters
    ----------
    places
        `(ends, 2)`, in the unit of `cell`, from the corner of the raster.
    cell
        Side of a cell.
    """
    from scipy.stats import chisquare

    inside = places % cell
    distance = np.minimum(inside, cell - inside).min(axis=1)
    # What lies within `d` of a seam is 1 - (1 - 2 d / cell)² of a cell.
    share = 1 - (1 - 2 * distance / cell) ** 2
    counts = np.bincount(np.minimum((share * BINS).astype(np.int64), BINS - 1), minlength=BINS)
    return float(chisquare(counts).pvalue) if counts.sum() else float("nan")


def pieces_of(roads: Any) -> int:
    """Return how many components a graph has."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    count = len(roads.nodes)
    links = csr_array((np.ones(len(roads)), (roads.start, roads.end)), shape=(count, count))
    return int(connected_components(links, directed=False)[0]) if count else 0


def compared(name: str, scenes: Sequence[Scene], folder: Path, preset: str) -> Row:
    """Return how near the networks of some scenes are to the true ones, as a row."""
    import shapely

    from geounet.evaluation.apls import Apls, apls
    from geounet.evaluation.graph import graph
    from geounet.evaluation.topo import Topo, topo

    routes, walks = Apls(), Topo()
    pieces, true_pieces, off, ends = 0, 0, [], []
    edges = bridges = 0
    for scene in scenes:
        out = folder / "roads.gpkg"
        vectorized(scene.mask, out, "roads", 1, "--class", 1, "--cell", CELL, "--preset", preset)
        lines, (width, bridged) = drawn(out, scene.mask, "road_edges", ("width_m", "bridged"))
        nodes, (degree,) = drawn(out, scene.mask, "road_nodes", ("degree",))
        size = scene.side * scene.pixel
        frame = shapely.box(MARGIN_M, MARGIN_M, size - MARGIN_M, size - MARGIN_M)
        truth, found = (graph(shapely.intersection(g, frame)) for g in (scene.truth, lines))
        routes, walks = routes + apls(truth, found), walks + topo(truth, found)
        pieces, true_pieces = pieces + pieces_of(found), true_pieces + pieces_of(truth)
        free = shapely.get_coordinates(nodes[(degree == 1) & shapely.contains(frame, nodes)])
        ends.append(free / scene.pixel)
        middle = shapely.line_interpolate_point(lines[~bridged], 0.5, normalized=True)
        middle, width = middle[shapely.contains(frame, middle)], width[~bridged][shapely.contains(frame, middle)]
        index, road = shapely.STRtree(scene.truth).query_nearest(middle, max_distance=2.0, all_matches=False)
        off.append(width[index] - scene.widths[road])
        edges, bridges = edges + len(lines), bridges + int(bridged.sum())
    places, errors = np.concatenate(ends), np.concatenate(off)
    return {
        "roads": name,
        "preset": preset,
        "APLS": round(routes.score, 4),
        "TOPO F1": round(walks.f1, 4),
        "TOPO precision": round(walks.precision, 4),
        "TOPO recall": round(walks.recall, 4),
        "edges": edges,
        "bridges": bridges,
        "components": pieces,
        "of reference": true_pieces,
        "dead ends": len(places),
        "p of seams": round(seam_test(places, CELL), 3),
        "width error m": round(float(np.abs(errors).mean()), 2),
        "width bias m": round(float(errors.mean()), 2),
    }


def tiled(work: Path, scene: Scene, side: int) -> Path:
    """Return a mask of `side` × `side` px, made on the first call: one scene again and again."""
    import rasterio

    path = work / f"roads_{side}.tif"
    if not path.exists():
        note(f"making {path.name}")
        with rasterio.open(scene.mask) as dataset:
            mask = dataset.read(1)[:side, :side]
        write_classes(path, np.tile(mask, (side // len(mask), side // len(mask))), PIXEL_M)
    return path


def run_of(mask: Path, folder: Path, workers: int) -> Row:
    """Return one run as a row."""
    import rasterio

    with rasterio.open(mask) as dataset:
        megapixels = dataset.width * dataset.height / 1e6
    note(f"{mask.name}, {workers} workers")
    said, cost = vectorized(mask, folder / "roads.gpkg", "roads", workers, "--class", 1)
    count = said["layers"]["road_edges"]
    return {
        "Mpx": round(megapixels),
        "workers": workers,
        "edges": count,
        **cost,
        "Mpx/s": round(megapixels / cost["wall s"], 1),
        "edges/s": round(count / cost["wall s"]),
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
        Only this size; also the side of the generated scenes, and no real roads.
    """
    folder = fresh(work / "roads")
    folder.mkdir(parents=True)
    data = shared() if size is None else None
    sets = {"generated": generated(folder, size or SIDE)}
    if data is not None and (data / "mass_roads").exists():
        sets["Massachusetts"] = massachusetts(data, folder)
    networks: list[Row] = []
    for name, scenes in sets.items():
        note(f"{name}: {len(scenes)} masks")
        networks += [compared(name, scenes, folder, preset) for preset in ("raw", "standard")]
    rows: list[Row] = []
    for side in (size,) if size is not None else sizes:
        mask = tiled(work, sets["generated"][0], side)
        rows += [run_of(mask, folder, workers) for workers in (1, 2)]
    add_growth(rows, ("workers",))
    tables = {
        f"Networks from label masks, cells of {CELL} px": networks,
        "Speed and memory": rows,
    }
    fresh(folder)
    return report("roads", tables, out)
