"""Vectors of rasters that exist, from this program or another: what `geounet vectorize` does."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from geounet.atomic import make_folder
from geounet.config.card import ClassInfo, Kind
from geounet.config.job import Buildings, Landcover, Roads, Vector
from geounet.config.presets import with_preset
from geounet.config.problems import problems
from geounet.errors import JobError, OutputExistsError, VectorError
from geounet.types import Executor, Progress, Silent
from geounet.vector.backdrop import MOST, Backdrop, probability
from geounet.vector.beside import with_probability
from geounet.vector.build import ProcessExecutor, SerialExecutor, Told, cells, geopackage, tell
from geounet.vector.ingest import Ingested, bands_of, ingest_probability, ingest_several
from geounet.vector.mosaic import Piece, mosaic
from geounet.vector.request import DEFAULT_CELL, VectorRequest
from geounet.vector.schema import BUILDINGS, LANDCOVER, ROAD_EDGES, ROAD_NODES
from geounet.vector.source import opened
from geounet.vector.wanted import class_for, find_class, listed, number_of
from geounet.vector.writer import FORMATS, destinations

KINDS = {"buildings": Kind.building, "roads": Kind.road}
"""What layers of one class are made of."""

SECTIONS = {"buildings": Buildings, "roads": Roads, "landcover": Landcover}

LAYERS = {
    "buildings": (BUILDINGS.name,),
    "roads": (ROAD_EDGES.name, ROAD_NODES.name),
    "landcover": (LANDCOVER.name,),
}
"""Layers that each section leads to, in the order in which they are made."""


@dataclass(frozen=True)
class Order:
    """What is to be made of rasters.

    Attributes
    ----------
    rasters
        Several become one mosaic: an overlap belongs to the first that is valid there.
    out
        The GeoPackage, or the name that those of other formats follow from.
    sections
        Keys of the job file's sections by layer; those left out are of the preset.
    class_
        Name or code of the class of buildings or roads; none: by name, or the only class that is not background where
        the rasters name none.
    threshold
        The rasters hold probabilities, and the class is where they reach this.
    probabilities
        Of the classes of each raster, a band a class; empty: none.
    band
        1-based; none: the only one, or the one that is described as the class.
    workers
        Processes at most; there is one for two cells, since each takes a second or two to start.
    """

    rasters: Sequence[Path]
    out: Path
    sections: Mapping[str, Mapping[str, Any]]
    class_: str | None = None
    threshold: float | None = None
    probabilities: Sequence[Path] = ()
    band: int | None = None
    preset: str = "standard"
    formats: Sequence[str] = ("gpkg",)
    cell: int = DEFAULT_CELL
    workers: int = 1
    overwrite: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


def vectorize(order: Order, progress: Progress | None = None) -> dict[str, Any]:
    """Make the vectors; returns the report of `build.geopackage`.

    Parameters
    ----------
    order
        What is to be made.
    progress
        Told what happens; None is silent.

    Raises
    ------
    JobError
        If the order is wrong.
    VectorError
        If a raster cannot be read or a file not be written.
    GeounetError
        If the output folder cannot be made.
    """
    _check(order)
    make_folder(order.out.parent)
    # Beside the output, where there is room for it; parts are of no use afterwards.
    with tempfile.TemporaryDirectory(prefix=f".{order.out.stem}.", suffix=".tmp", dir=order.out.parent) as folder:
        work = Path(folder)
        taken, names = _taken(order, work, progress)
        first = taken[0]
        request = VectorRequest(
            mask=first.mask,
            probability=first.probability,
            classes=first.classes,
            channels=first.channels,
            layers=Vector.model_construct(**_sections(order, first, names)),
            cell=order.cell,
            out=order.out,
            work=work,
            metadata={"source": ", ".join(raster.name for raster in order.rasters), **order.metadata},
            formats=tuple(order.formats),
            backdrops=tuple(_backdrop(order, *both) for both in zip(order.rasters[:MOST], taken, strict=False)),
            source=str(order.rasters[0]),
            blank=_blank(order, taken, names),
            values={code: value for code, value in first.values.items() if code != value and _shown(value)},
        )
        notes = [*_unseen(order, first), *_renumbered(order, first)]
        if len(taken) > 1:
            pieces = [Piece(t.mask, t.probability, str(r)) for t, r in zip(taken, order.rasters, strict=True)]
            made = mosaic(pieces, work)
            request = request.of_mosaic(made)
            notes += made.notes
        with ExitStack() as stack:
            executor: Executor = SerialExecutor()
            workers = min(order.workers, cells(request) // 2)
            if workers > 1:
                executor = stack.enter_context(ProcessExecutor(workers))
            result = geopackage(request, Told(executor, progress or Silent()), notes)
        tell(request, result)
        return result


def _check(order: Order) -> None:
    layers = [layer for kind in order.sections for layer in LAYERS[kind]]
    endings = {kind.ending: name for name, kind in FORMATS.items()}
    known = endings.get(order.out.suffix.lower())
    if known is None:
        raise JobError(f"--out {order.out}: its ending says no format; give a name that ends in {', '.join(endings)}")
    for path in destinations(order.out, order.formats, layers).values():
        if path.exists() and not order.overwrite:
            raise OutputExistsError(f"{path}: exists; give another name, or --overwrite to replace it")
    for raster in (*order.rasters, *order.probabilities):
        if raster.is_dir():
            raise VectorError(f"{raster}: is a folder; give the rasters in it, as in {raster / '*_mask.tif'}")
        if not raster.is_file():
            raise VectorError(f"{raster}: no such file; give a raster that GDAL reads")


def _taken(order: Order, work: Path, progress: Progress | None) -> tuple[list[Ingested], dict[str, str]]:
    """Return the rasters as `build` takes them, and the class of each layer that has one."""
    if order.threshold is None:
        taken = ingest_several(order.rasters, work, bands=_bands(order), wanted=_numbers(order), progress=progress)
        if order.probabilities:
            taken = [
                with_probability(one, raster, path, work / f"probability_{index}.tif", progress)
                for index, (one, raster, path) in enumerate(zip(taken, order.rasters, order.probabilities, strict=True))
            ]
            if any(one.channels != taken[0].channels for one in taken):
                raise VectorError(f"{order.probabilities[0]}: its bands are of other classes than those of the others")
        first = taken[0]
        found = {
            layer: class_for(first, KINDS[layer]) if order.class_ is None else find_class(first, order.class_)
            for layer in order.sections
            if layer in KINDS
        }
        return taken, {layer: info.name for layer, info in found.items()}
    (layer,) = order.sections
    kind = KINDS.get(layer, Kind.other)
    taken = [
        ingest_probability(
            raster, work / str(index), order.class_, kind, order.threshold, band=order.band, progress=progress
        )
        for index, raster in enumerate(order.rasters)
    ]
    # Of several rasters one may have nothing but small scores.
    if not 0 < order.threshold <= 1 and all(one.sure for one in taken):
        raise JobError(
            f"--threshold {order.threshold:g}: the values of {order.rasters[0]} are 0 to 1; "
            "expected a number above 0, at most 1"
        )
    return taken, {layer: taken[0].classes[1].name} if layer in KINDS else {}


def _bands(order: Order) -> list[int]:
    """Return the band of each raster that holds the classes."""
    if order.band is not None:
        return [order.band] * len(order.rasters)
    found: dict[str, list[int]] = {}
    for layer in order.sections:
        kind = KINDS.get(layer, Kind.other)
        found[layer] = bands_of(order.rasters, None if kind == Kind.other else order.class_, kind)
    first, *others = found
    for layer in others:
        if found[layer] != found[first]:
            raise JobError(
                f"{order.rasters[0]}: {first} are in band {found[first][0]}, {layer} in band {found[layer][0]}; "
                "make one after the other"
            )
    return found[first]


def _wishes(order: Order) -> list[tuple[str, str]]:
    """Return the classes that the user names, each with the option that does."""
    landcover, buildings = (order.sections.get(layer, {}) for layer in ("landcover", "buildings"))
    found = [] if order.class_ is None else [("--class", order.class_)]
    found += [("--classes", wanted) for wanted in landcover.get("classes") or ()]
    contact = buildings.get("contact", "auto")
    return found if contact == "auto" else [*found, ("--contact", contact)]


def _numbers(order: Order) -> set[int]:
    return {number for _, wanted in _wishes(order) if (number := number_of(wanted)) is not None}


def _unseen(order: Order, first: Ingested) -> list[str]:
    """Say which classes were asked for by values that the raster neither holds nor names: they may be mistakes."""
    if order.threshold is not None:
        return []
    there = replace(first, classes=tuple(c for c in first.classes if not _only_asked(first, c)))
    return [
        f"{option} {wanted}: no valid pixel has this value, and no name stands for it; the raster has {listed(there)}"
        for option, wanted in _wishes(order)
        if _only_asked(first, find_class(first, wanted, option))
    ]


def _shown(value: int) -> bool:
    """Whether the column `class_id` can hold a value of a raster."""
    return -(2**31) <= value < 2**31


def _renumbered(order: Order, first: Ingested) -> list[str]:
    """Say which values of the raster `class_id` cannot hold, and what it says instead."""
    if "landcover" not in order.sections:
        return []
    there = [(code, value) for code, value in first.values.items() if code not in first.absent and not _shown(value)]
    return [f"class_id {code} stands for the value {value}, which 32 bits do not hold" for code, value in sorted(there)]


def _blank(order: Order, taken: Sequence[Ingested], names: Mapping[str, str]) -> bool:
    """Whether rasters hold and name nothing but roads and nodata, as where a GIS declared the value beside them so."""
    if order.threshold is not None or "roads" not in names:
        return False
    first = taken[0]
    classes = [c for c in first.classes if not _only_asked(first, c)]
    if [c.name for c in classes] != [names["roads"]] or classes[0].code in first.absent:
        return False
    for raster, one in zip(order.rasters, taken, strict=True):
        with opened(str(raster)) as dataset:
            if any(flag.name != "all_valid" for flag in dataset.mask_flag_enums[one.band - 1]):
                return True
    return False


def _only_asked(first: Ingested, info: ClassInfo) -> bool:
    return info.code in first.absent and info.name == str(first.values[info.code])


def _sections(order: Order, first: Ingested, names: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for layer, keys in order.sections.items():
        values = dict(keys)
        if layer in names:
            values["class"] = names[layer]
        if "classes" in values:
            wanted = values["classes"]
            values["classes"] = [find_class(first, part, "--classes").name for part in wanted]
        if values.get("contact", "auto") != "auto":
            values["contact"] = find_class(first, values["contact"], "--contact").name
        model: Any = SECTIONS[layer]
        try:
            section = model.model_validate(values)
        except ValidationError as error:
            raise JobError(f"--kind {layer}: {problems(error, model, values)[0][1]}") from None
        made[layer] = with_preset(order.preset, layer, model, section)
    return made


def _backdrop(order: Order, raster: Path, taken: Ingested) -> Backdrop:
    """Return the raster itself below the layers that were made of it."""
    if order.threshold is None:
        entries = tuple((taken.values[c.code], c.colour, c.name) for c in taken.classes)
        return Backdrop(str(raster), raster.stem, "mask", (taken.band,), entries, shown=True)
    _, info = taken.classes
    within = taken.probability is not None
    return probability(str(raster), raster.stem, taken.band, info, within=within)
