"""From rasters to a GeoPackage: which layers are made of what, in which order."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from geounet.config.card import ClassInfo, Kind
from geounet.config.job import Buildings, Landcover, Roads
from geounet.config.layers import WITHOUT_METRES, metres_asked
from geounet.errors import JobError, VectorError
from geounet.types import NODATA, Executor, Progress
from geounet.vector import parts, polygons, skeleton, writer
from geounet.vector.attributes import Ground
from geounet.vector.buildings import Drawing, buildings
from geounet.vector.cells import CellGrid
from geounet.vector.content import Contents, LayerContent
from geounet.vector.instances import LARGEST, Divider, Either
from geounet.vector.landcover import landcover
from geounet.vector.project import Project
from geounet.vector.request import VectorRequest
from geounet.vector.roads import roads
from geounet.vector.schema import BUILDINGS, LANDCOVER, ROAD_EDGES, ROAD_NODES
from geounet.vector.source import Filled, Plane, ProbabilityPlane, RasterPlane, opened, table

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class SerialExecutor:
    """Does one piece of work after the other in this process."""

    def map(self, function: Callable[[T], R], items: Sequence[T], label: str) -> Iterator[R]:
        """Yield `function(item)` for every item, in order."""
        logger.debug("%s: %d", label, len(items))
        for item in items:
            yield function(item)


class ProcessExecutor:
    """Does the work in processes of this machine. A context manager: the processes end with it."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        # Not forked: GDAL and thread pools of this process would not survive that.
        self._pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> ProcessExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[T], R], items: Sequence[T], label: str) -> Iterator[R]:
        """Yield `function(item)` for every item as they are done, a few ahead in the queue."""
        logger.debug("%s: %d in %d processes", label, len(items), self.workers)
        waiting: set[Future[R]] = set()
        for item in items:
            waiting.add(self._pool.submit(function, item))
            if len(waiting) >= 4 * self.workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


class Told:
    """Has another do the work, and tells how far it is."""

    def __init__(self, executor: Executor, progress: Progress) -> None:
        self._executor, self._progress = executor, progress

    def map(self, function: Callable[[T], R], items: Sequence[T], label: str) -> Iterator[R]:
        """Yield `function(item)` for every item."""
        self._progress.update(label, 0, len(items))
        for done, result in enumerate(self._executor.map(function, items, label), start=1):
            self._progress.update(label, done, len(items))
            yield result


def geopackage(request: VectorRequest, executor: Executor, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Make the GeoPackage of a request.

    Parts of cells go to `request.work / <fingerprint>`; those that are there already are used. The caller removes them.
    `notes` come before those that are found here.

    Returns
    -------
    dict
        `layers`: features of each layer; `files`: names of the files by key; `seconds` of each stage; `components` and
        `driver_bytes_per_component` of each stage that has them; `part_bytes`; `peak_bytes` of this process; `notes`:
        sentences for the user.

    Raises
    ------
    JobError
        If options in metres were set for a raster without a CRS, or a class does not exist.
    VectorError
        If a raster cannot be read or the GeoPackage cannot be written.
    """
    began = time.monotonic()
    ground = _ground(request)
    said = [*notes, *check_metres(request, ground)]
    grid = CellGrid(ground.rows, ground.cols, request.cell)
    folder = Path(request.work) / request.fingerprint()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"seconds": {}, "components": {}, "driver_bytes_per_component": {}, "notes": said}
    contents: list[LayerContent] = []
    size = 0

    for made in (_buildings, _roads, _landcover):
        at = time.monotonic()
        found, facts = made(request, executor, ground, grid, str(folder))
        contents += found
        if found:
            result["seconds"][found[0].layer.name] = round(time.monotonic() - at, 3)
            size += facts.pop("part_bytes", 0)
            said += facts.pop("notes", [])
            for name, value in facts.items():
                result.setdefault(name, {})[found[0].layer.name] = value
    at = time.monotonic()
    result["layers"], files = writer.write(request.out, request.formats, _contents(request, contents, ground))
    result["files"] = {key: path.name for key, path in files.items()}
    result["seconds"]["write"] = round(time.monotonic() - at, 3)
    result["seconds"]["total"] = round(time.monotonic() - began, 3)
    result["part_bytes"] = size
    result["file_bytes"] = sum(path.stat().st_size for path in files.values())
    result["peak_bytes"] = _peak()
    return result


def tell(request: VectorRequest, result: Mapping[str, Any]) -> None:
    """Log the notes of a result, in the process that a user listens to."""
    for note in result["notes"]:
        logger.warning("%s: %s", request.shown, note)


def cells(request: VectorRequest) -> int:
    """Return how many cells the raster of a request has.

    Raises
    ------
    VectorError
        If it cannot be read.
    """
    ground = _ground(request)
    return CellGrid(ground.rows, ground.cols, request.cell).count


def _contents(request: VectorRequest, layers: Sequence[LayerContent], ground: Ground) -> Contents:
    corners = ground.to_map(np.array([(x, y) for x in (0, ground.cols) for y in (0, ground.rows)]))
    (xmin, ymin), (xmax, ymax) = (tuple(corners.min(axis=0)), tuple(corners.max(axis=0)))
    # QGIS draws a raster without a geotransform above the x axis, upwards; features are in its rows, downwards.
    placed = ground.transform != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    backdrops = request.backdrops if placed else ()
    project = Project(request.out.stem, (xmin, ymin, xmax, ymax), backdrops, request.home or request.out.parent)
    return Contents(layers, ground.crs, request.metadata, ground.gsd if ground.known else None, project)


def _peak() -> int:
    """Return the largest resident size of this process so far, in bytes; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _ground(request: VectorRequest) -> Ground:
    with opened(request.mask) as dataset:
        for band, kind in enumerate(dataset.dtypes, 1):
            if kind != "uint8":
                raise VectorError(f"{request.mask}: band {band} is {kind}; a class raster is uint8 with nodata 255")
        # A CRS alone places nothing: pixels are not its units.
        crs = dataset.crs.to_wkt() if dataset.crs and not dataset.transform.is_identity else None
        ground = Ground(crs, tuple(dataset.transform)[:6], dataset.height, dataset.width)
    if request.probability is not None:
        with opened(request.probability) as dataset:
            if dataset.shape != (ground.rows, ground.cols):
                raise VectorError(
                    f"{request.probability}: {dataset.height} x {dataset.width} pixels, but the mask has"
                    f" {ground.rows} x {ground.cols}; give the probabilities of this mask"
                )
            if any(kind != "uint8" for kind in dataset.dtypes):
                raise VectorError(f"{request.probability}: is {dataset.dtypes[0]}; probabilities are uint8, 254 for 1")
    return ground


def check_metres(request: VectorRequest, ground: Ground) -> list[str]:
    """Refuse options in metres that the user set for a raster without a CRS; returns notes on defaults left out.

    Raises
    ------
    JobError
        If there is one.
    """
    if ground.known:
        return []
    for given in metres_asked(request.layers):
        raster = request.source or request.mask
        raise JobError(f"{given}: {raster} has no coordinate system, so metres are unknown; {WITHOUT_METRES}")
    return ["no coordinate system: areas, lengths and widths are NULL, nothing is left out by its size"]


def _class(request: VectorRequest, layer: str, wanted: str, kind: Kind) -> ClassInfo:
    for info in request.classes:
        if (info.kind == kind) if wanted == "auto" else (info.name == wanted):
            return info
    names = ", ".join(c.name for c in request.classes)
    what = f"no class of kind {kind.value}" if wanted == "auto" else f"no class named {wanted!r}"
    raise JobError(f"vector.{layer}.class: {what}; classes are {names}")


def _one_class(request: VectorRequest, info: ClassInfo, others: int = NODATA) -> tuple[Plane, ProbabilityPlane | None]:
    """Return the plane where one class is 1 and the others are `others`, and its probability."""
    if request.multilabel:
        plane = RasterPlane(request.mask, request.classes.index(info) + 1, table({0: others, 1: 1}))
    else:
        codes = {c.code: others for c in request.classes}
        plane = RasterPlane(request.mask, 1, table(codes | {info.code: 1}))
    band = request.channels.get(info.code)
    if request.probability is None or band is None:
        return plane, None
    return plane, ProbabilityPlane(request.probability, ((1, band),))


Made = tuple[list[LayerContent], dict[str, Any]]


def _buildings(request: VectorRequest, executor: Executor, ground: Ground, grid: CellGrid, folder: str) -> Made:
    section = Buildings() if request.layers.buildings is True else request.layers.buildings
    if not isinstance(section, Buildings):
        return [], {}
    info = _class(request, "buildings", section.class_, Kind.building)
    plane, probability = _one_class(request, info)
    touching = _contact(request, section, info)
    contact = None if touching is None else _one_class(request, touching)[0]
    if contact is not None:
        plane = Either((plane, contact))
    hills = section.instances == "probability"
    if hills and probability is None:
        raise JobError("vector.buildings.instances: probability is not stored; expected components or contact")
    divider = Divider(plane, None if hills or section.instances == "components" else contact, probability, hills)
    stage = polygons.Stage(plane, probability, grid, folder, "buildings")
    made = buildings(stage, Drawing.of(section, ground, info.name, divider), executor)
    facts: dict[str, Any] = {
        "components": made.components,
        "driver_bytes_per_component": round(made.driver_bytes / max(1, made.components), 1),
        "part_bytes": made.part_bytes,
        "outlines": made.status,
    }
    if made.whole:
        facts["notes"] = [f"{made.whole} components of buildings are over {LARGEST} px large and were not divided"]
    return [
        LayerContent(BUILDINGS, partial(parts.merged, made.paths, BUILDINGS.arrow), [info], probability is not None)
    ], facts


def _contact(request: VectorRequest, section: Buildings, building: ClassInfo) -> ClassInfo | None:
    """Return the class where buildings touch, if there is one."""
    if section.contact != "auto":
        return _class(request, "buildings", section.contact, Kind.contact)
    for info in request.classes:
        if info.kind == Kind.contact and building.kind == Kind.building:
            return info
    if section.instances == "contact":
        names = ", ".join(c.name for c in request.classes)
        raise JobError(f"vector.buildings.contact: no class of kind contact; classes are {names}")
    return None


def _roads(request: VectorRequest, executor: Executor, ground: Ground, grid: CellGrid, folder: str) -> Made:
    section = Roads() if request.layers.roads is True else request.layers.roads
    if not isinstance(section, Roads):
        return [], {}
    info = _class(request, "roads", section.class_, Kind.road)
    plane, probability = _one_class(request, info, others=0)
    if request.blank:
        plane = Filled(plane, ground.rows, ground.cols)
    stage = skeleton.Stage(plane, probability, grid, folder, "roads")
    made = roads(stage, executor, ground, section)
    facts: dict[str, Any] = {
        "components": made.counts["edges"],
        "driver_bytes_per_component": round(made.driver_bytes / max(1, made.counts["edges"]), 1),
        "part_bytes": made.part_bytes,
    }
    notes = []
    blind = section.bridge_blind_m if ground.known else 0.0
    if request.blank and (blind if section.bridge_blind_px is None else section.bridge_blind_px) > 0:
        notes.append(
            f"{info.name} is the only class, so that what is nodata counts as no road and gaps in it are bridged "
            "(--bridge-blind-m 0: none)"
        )
    if made.inexact_cells:
        where = f"road areas over {skeleton.WIDEST} px wide in {made.inexact_cells} cells"
        notes.append(f"{where}: centre lines there depend on the size of the cells")
    facts["notes"] = notes
    contents = [
        LayerContent(ROAD_EDGES, made.edge_batches, [info], probability is not None),
        LayerContent(ROAD_NODES, made.node_batches, [info]),
    ]
    return contents, facts


def _landcover(request: VectorRequest, executor: Executor, ground: Ground, grid: CellGrid, folder: str) -> Made:
    section = Landcover() if request.layers.landcover is True else request.layers.landcover
    if not isinstance(section, Landcover):
        return [], {}
    if request.multilabel:
        raise JobError("vector.landcover: classes of a multi-label mask overlap and are no land cover; leave it out")
    values = _landcover_values(request.classes)
    shown = [c for c in request.classes if values[c.code] == c.code]
    if section.classes is not None:
        unknown = sorted(set(section.classes) - {c.name for c in shown})
        if unknown:
            names = ", ".join(c.name for c in shown)
            raise JobError(f"vector.landcover.classes: no class named {unknown[0]!r}; classes are {names}")
        shown = [c for c in shown if c.name in section.classes]
    plane: Plane = RasterPlane(request.mask, 1, table(values))
    bands = tuple((c.code, request.channels[c.code]) for c in request.classes if c.code in request.channels)
    probability = ProbabilityPlane(request.probability, bands) if request.probability is not None and bands else None
    named = {c.code: c.name for c in shown}
    made = landcover(section, plane, probability, grid, folder, ground, named, request.values, executor)
    batches = partial(parts.merged, made.paths, LANDCOVER.arrow)
    return [LayerContent(LANDCOVER, batches, shown, probability is not None, request.values)], made.facts


def _landcover_values(classes: Sequence[ClassInfo]) -> dict[int, int]:
    """Return what each code counts as: contact pixels are building."""
    building = next((c.code for c in classes if c.kind == Kind.building), None)
    return {c.code: building if c.kind == Kind.contact and building is not None else c.code for c in classes}
