"""What was predicted of a scene: a mask, probabilities, vectors; from files, or from the folder of a run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.features import shapes as outlines

from geounet.config.card import PALETTE, ClassInfo, Kind, kind_of
from geounet.engine.manifest import read_manifest
from geounet.errors import JobError, SceneError, VectorError
from geounet.evaluation.matching import Geometries
from geounet.labels.frames import Frame
from geounet.raster.georef import ground_sample_distance
from geounet.raster.scene import SceneInfo, SceneSpec
from geounet.raster.vectors import ENDINGS
from geounet.types import NODATA
from geounet.vector.ingest import described, distinct
from geounet.vector.source import opened

logger = logging.getLogger(__name__)

_EXTENT_PX = 2048
"""Longer side that a mask is reduced to where only its extent is of interest."""


@dataclass(frozen=True)
class Grid:
    """The pixels that are compared.

    Attributes
    ----------
    rows, cols
        Size.
    transform
        `a, b, c, d, e, f` from pixels to coordinates; the identity: no georeference.
    crs
        WKT, or none.
    real
        Whether there are such pixels; else it is one that stands for the extent of vectors.
    """

    rows: int
    cols: int
    transform: tuple[float, float, float, float, float, float]
    crs: str | None
    real: bool = True

    @property
    def gsd(self) -> float | None:
        """Ground sample distance in metres; none where it is unknown."""
        if not self.real:
            return 1.0 if self.crs is not None else None
        return ground_sample_distance(self.crs, Affine(*self.transform), self.cols, self.rows)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """xmin, ymin, xmax, ymax in coordinates."""
        a, b, c, d, e, f = self.transform
        corners = [(a * x + b * y + c, d * x + e * y + f) for x in (0, self.cols) for y in (0, self.rows)]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True)
class Mask:
    """A class raster.

    Attributes
    ----------
    path
        The file.
    band
        Its band with the classes.
    grid
        Its pixels.
    classes
        In the order of the evaluation; their `code` is the value in the raster.
    named
        Whether names come from the file or a manifest, and are not just the values.
    blank
        Whether its 0, which it declares as nodata, is what its one class is not.
    """

    path: Path
    band: int
    grid: Grid
    classes: tuple[ClassInfo, ...]
    named: bool
    blank: bool = False


@dataclass(frozen=True)
class Extent:
    """Where something was predicted: on which grid, and polygons in its pixels."""

    grid: Grid
    polygons: Geometries


@dataclass(frozen=True)
class Prediction:
    """What was predicted of one scene; `scene` and `info` tell the picture that it was predicted from.

    `extent` is that of vectors without a mask, as far as the output they are part of tells it.
    """

    name: str
    mask: Mask | None = None
    vectors: Path | None = None
    probability: Path | None = None
    scene: SceneSpec | None = None
    info: SceneInfo | None = None
    extent: Extent | None = None


def grid_of(dataset: Any) -> Grid:
    """Return the grid of an open raster."""
    return Grid(dataset.height, dataset.width, tuple(dataset.transform)[:6],
                dataset.crs.to_wkt() if dataset.crs else None)  # fmt: skip


def read_mask(path: Path, band: int | None = None, classes: Sequence[ClassInfo] | None = None) -> Mask:
    """Return what a class raster is.

    Parameters
    ----------
    path
        A raster of whole numbers.
    band
        Its band, where it has several (multi-label: a band of 0 and 1 for each class).
    classes
        What its values mean; left out: as its names say (category names, attribute table), else a class for each value.

    Raises
    ------
    JobError
        If it has no such band.
    VectorError
        If it cannot be read, or holds no classes.
    """
    if not path.exists():
        raise VectorError(f"{path}: no such file")
    with opened(str(path)) as dataset:
        if band is not None and not 1 <= band <= dataset.count:
            raise JobError(f"{path}: has {dataset.count} bands, so there is no band {band}")
        kinds = {dataset.dtypes[(band or 1) - 1]}
        if kinds - {"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"}:
            raise VectorError(f"{path}: is {kinds.pop()}, expected a mask: whole numbers, a value a class")
        if dataset.count > 1 and band is None:
            colours = {c.name for c in dataset.colorinterp}
            what = "a picture" if {"red", "green", "blue"} <= colours else f"has {dataset.count} bands"
            raise VectorError(f"{path}: {what}, expected a mask of one band with a value a class; else give its band")
        band = band or 1
        grid = grid_of(dataset)
        if classes is not None:
            return Mask(path, band, grid, tuple(classes), True)
        names, colours_of = described(path, dataset, band)
        values = sorted((set(names) | set(distinct(path, dataset, band))) - {NODATA})
        blank = len(set(values) - {0}) == 1 and declares(dataset, band, 0)
        if blank:
            logger.warning("%s: holds one class, and declares 0 as nodata: what is 0 counts as none of it", path)
            values = sorted({0, *values})
        text = (dataset.descriptions[band - 1] or "").strip()
        if text and dataset.count > 1 and not names and set(values) <= {0, 1}:
            names, values = {0: "background", 1: text}, [0, 1]
    found: list[ClassInfo] = []
    for number, value in enumerate(values):
        name = names.get(value, "").strip() or str(value)
        if name in {c.name for c in found}:
            name = f"{name} ({value})"
        rgb = colours_of.get(value)
        colour = "#{:02x}{:02x}{:02x}".format(*rgb) if rgb else PALETTE[number % len(PALETTE)]
        if not 0 <= value <= 254:
            raise VectorError(f"{path}: holds the value {value}, expected class codes from 0 to 254 (255: nothing)")
        found.append(ClassInfo(name=name, code=value, colour=colour, kind=kind_of(name)))
    return Mask(path, band, grid, tuple(found), bool(names), blank)


def declares(dataset: Any, band: int, value: int) -> bool:
    """Return whether a value is what a band of an open raster declares as nodata."""
    flags = [flag.name for flag in dataset.mask_flag_enums[band - 1]]
    return flags == ["nodata"] and dataset.nodatavals[band - 1] == value


def predictions(path: Path, band: int | None = None) -> list[Prediction]:
    """Return what lies at a path: a mask, a vector file, the folder of a scene, or the output folder of a run.

    Raises
    ------
    JobError
        If a folder holds no finished output.
    VectorError
        If a file cannot be read, or is none of these.
    """
    if path.is_dir():
        return _of_folder(path)
    if path.suffix.lower() in ENDINGS:
        if not path.is_file():
            raise VectorError(f"{path}: no such file")
        return [Prediction(path.stem, vectors=path, extent=_extent(path))]
    return [Prediction(path.stem.removesuffix("_mask"), mask=read_mask(path, band))]


def _extent(vectors: Path) -> Extent | None:
    """Return the extent of vectors that `run` made: of the mask beside them, else of the scene; none of others."""
    manifest = read_manifest(vectors.parent) or {}
    files = manifest.get("files")
    if not isinstance(files, dict) or vectors.name not in files.values():
        return None
    mask = vectors.parent / str(files.get("mask"))
    if mask.is_file():
        with opened(str(mask)) as dataset:
            grid = grid_of(dataset)
            step = max(1.0, max(grid.rows, grid.cols) / _EXTENT_PX)
            shape = (max(1, round(grid.rows / step)), max(1, round(grid.cols / step)))
            valid = dataset.read(1, out_shape=shape) != NODATA
        scaled = Affine.scale(grid.cols / shape[1], grid.rows / shape[0])
        found = [shapely.geometry.shape(s) for s, _ in outlines(valid.astype(np.uint8), valid, transform=scaled)]
        return Extent(grid, np.array(found, dtype=object))
    if not isinstance(manifest.get("input"), dict):
        return None
    frame = Frame.of(vectors.stem, SceneInfo.from_dict(manifest["input"]), None)
    whole = np.array([shapely.box(0, 0, frame.shape[1], frame.shape[0])], dtype=object)
    return Extent(Grid(*frame.shape, frame.transform, frame.crs), whole)


def _of_folder(folder: Path) -> list[Prediction]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise JobError(f"{folder}: holds no manifest.json of a finished run; give a mask or a vector file") from None
    entries = manifest.get("scenes")
    if entries is None:
        return [of_manifest(manifest, folder, folder)]
    done = [e for e in entries if e.get("state") in ("done", "unchanged")]
    if not done:
        raise JobError(f"{folder}: none of its scenes is done")
    models = sorted({str(e.get("model", {}).get("name")) for e in done})
    if len(models) > 1:
        raise JobError(f"{folder}: holds results of several models ({', '.join(models)}); give the folders of one")
    return [of_manifest(entry, folder, folder / entry["folder"]) for entry in done]


def of_manifest(entry: Mapping[str, Any], base: Path, folder: Path) -> Prediction:
    """Return what a manifest says of a scene; its files are relative to `base`.

    Raises
    ------
    JobError
        If its classes overlap (multi-label).
    VectorError
        If its files are gone.
    """
    files = entry.get("files", {})
    if entry.get("model", {}).get("head") == "multilabel":
        raise JobError(
            f"{folder}: the classes of its model overlap (multi-label), so a pixel has no one class; "
            "give the mask file and --band N, one class at a time"
        )
    classes = [ClassInfo(name=c["name"], code=c["code"], colour=c["colour"], kind=_kind(c))
               for c in entry.get("classes", [])]  # fmt: skip
    info = scene = None
    if isinstance(entry.get("input"), dict):
        info = SceneInfo.from_dict(entry["input"])
        scene = SceneSpec(info.name, info.files, bands=info.band_names, labels=info.labels)
    vectors, probability = (base / files[key] if key in files else None for key in ("vectors", "probability"))
    if "mask" not in files:
        raise VectorError(f"{folder}: its manifest names no mask")
    mask = read_mask(base / files["mask"], classes=classes or None)
    return Prediction(str(entry.get("name", folder.name)), mask, vectors, probability, scene, info)


def _kind(entry: Mapping[str, Any]) -> Kind:
    """Return the kind of a manifest's class; those of older versions do not tell it, but for the name."""
    kind = entry.get("kind")
    return Kind(kind) if kind in list(Kind) else kind_of(entry["name"])


def with_picture(prediction: Prediction, image: Path | None) -> Prediction:
    """Return the prediction with the picture to show beside it.

    Raises
    ------
    SceneError
        If the picture cannot be read.
    """
    if image is None:
        return prediction
    from geounet.raster.scene import describe

    spec = SceneSpec(image.stem, (str(image),))
    info = describe(spec)
    if prediction.mask is not None and info.shape != (prediction.mask.grid.rows, prediction.mask.grid.cols):
        raise SceneError(
            f"{image}: {info.width} × {info.height} px, but the mask has {prediction.mask.grid.cols} × "
            f"{prediction.mask.grid.rows}; give the image that was segmented"
        )
    return replace(prediction, scene=spec, info=info)
