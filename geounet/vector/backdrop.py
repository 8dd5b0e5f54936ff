"""Rasters below the vectors in a QGIS project: the scene in natural colours, the mask in its classes, probabilities."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree as ET

import numpy as np
from rasterio.windows import Window

from geounet.config.card import ClassInfo, Kind
from geounet.errors import VectorError
from geounet.vector.source import opened
from geounet.vector.symbols import element

SIDE = 128
SAMPLES = 6
"""Values are looked at in `SAMPLES` by `SAMPLES` windows of `SIDE` pixels: scenes may have no overviews."""

MOST = 30
"""Rasters that a project shows at most."""

LOW, HIGH = 2, 98
"""Percentiles that are drawn black and white."""

NAMES = (("red", "r"), ("green", "g"), ("blue", "b"))
"""What bands of natural colours are called, in lower case."""


@dataclass(frozen=True)
class Backdrop:
    """A raster of a project.

    Attributes
    ----------
    path
        Where it will lie when the project is opened.
    title
        Name of its layer.
    kind
        `scene`, `mask` (class codes) or `probability` (one band, 0 to 1).
    bands
        1-based: red, green, blue of a scene, or the only one.
    entries
        `(value, colour, name)` of the classes of a mask, or of the only one of a probability.
    limits
        Values drawn black and white, of each band of a scene; empty: as they are stored. Of a probability: 0 and 1.
    crs
        WKT; none: that of the layers.
    alpha
        Band of opacity; none: -1.
    shown
        Whether it is seen at first.
    """

    path: str
    title: str
    kind: Literal["scene", "mask", "probability"]
    bands: tuple[int, ...] = (1,)
    entries: tuple[tuple[int, str, str], ...] = ()
    limits: tuple[tuple[float, float], ...] = ()
    crs: str | None = None
    alpha: int = -1
    shown: bool = False

    def source(self, home: Path) -> str | None:
        """Return its path relative to the project's folder; none where it has none (another drive)."""
        if "://" in self.path or self.path.startswith("/vsi"):
            return self.path
        try:
            relative = Path(os.path.relpath(Path(self.path).resolve(), home.resolve())).as_posix()
        except ValueError:
            return None
        return relative if relative.startswith("../") else f"./{relative}"


def scene(path: str, title: str, names: Sequence[str] = ()) -> Backdrop:
    """Return a scene as a backdrop: its natural colours where they are known, stretched where they are not 8 bits.

    A file that cannot be read is drawn as QGIS would draw it.

    Parameters
    ----------
    path
        The raster.
    title
        Name of its layer.
    names
        Names of its bands, where the file has none.
    """
    plain = Backdrop(path, title, "scene", shown=True)
    try:
        with opened(path) as dataset:
            kinds = [interpretation.name for interpretation in dataset.colorinterp]
            alpha = kinds.index("alpha") + 1 if "alpha" in kinds else -1
            bands = _natural(dataset, kinds, [name.lower() for name in names])
            crs = dataset.crs.to_wkt() if dataset.crs else None
            return replace(plain, bands=bands, alpha=alpha, limits=_limits(dataset, bands), crs=crs)
    except VectorError:
        return plain


def masks(path: str, classes: Sequence[ClassInfo], *, multilabel: bool = False) -> list[Backdrop]:
    """Return a class raster as a backdrop, or a backdrop for each band of a multi-label one."""
    if not multilabel:
        return [Backdrop(path, "Mask", "mask", entries=tuple((c.code, c.colour, c.name) for c in classes))]
    return [
        Backdrop(path, f"Mask: {c.name}", "mask", (band,), ((1, c.colour, c.name),))
        for band, c in enumerate(classes, 1)
    ]


def probabilities(path: str, classes: Sequence[tuple[ClassInfo, int]]) -> list[Backdrop]:
    """Return a backdrop for each class and band of a probability raster; background is left out."""
    return [
        Backdrop(path, f"Probability: {info.name}", "probability", (band,), ((1, info.colour, info.name),))
        for info, band in classes
        if info.kind != Kind.background
    ]


def probability(path: str, title: str, band: int, info: ClassInfo, *, within: bool) -> Backdrop:
    """Return one band of scores as a backdrop that is seen at first; `within`: they are between 0 and 1."""
    plain = Backdrop(path, title, "probability", (band,), ((1, info.colour, info.name),), shown=True)
    with opened(path) as dataset:
        crs = dataset.crs.to_wkt() if dataset.crs else None
        return replace(plain, crs=crs, limits=() if within else _limits(dataset, (band,), always=True))


def _natural(dataset: Any, kinds: list[str], names: list[str]) -> tuple[int, ...]:
    texts = [(text or "").strip().lower() for text in dataset.descriptions]
    for known in (kinds, texts, names if len(names) == dataset.count else []):
        found = [next((i for i, text in enumerate(known, 1) if text in called), 0) for called in NAMES]
        if all(found):
            return tuple(found)
    coloured = [i for i, kind in enumerate(kinds, 1) if kind != "alpha"]
    return tuple(coloured[:3]) if len(coloured) >= 3 else (1,)


def _limits(dataset: Any, bands: Sequence[int], *, always: bool = False) -> tuple[tuple[float, float], ...]:
    if not always and all(dataset.dtypes[band - 1] == "uint8" for band in bands):
        return ()
    limits = []
    for band in bands:
        if np.dtype(dataset.dtypes[band - 1]).kind == "c":
            return ()
        found = []
        for row in np.linspace(0, max(0, dataset.height - SIDE), SAMPLES).astype(int):
            for col in np.linspace(0, max(0, dataset.width - SIDE), SAMPLES).astype(int):
                window = Window(int(col), int(row), min(SIDE, dataset.width), min(SIDE, dataset.height))
                values = dataset.read(band, window=window, masked=True).compressed()
                found.append(values[np.isfinite(values)])
        values = np.concatenate(found)
        if len(values) == 0:
            return ()
        low, high = (float(v) for v in np.percentile(values, (LOW, HIGH)))
        limits.append((low, high if high > low else low + 1))
    return tuple(limits)


def pipe(backdrop: Backdrop) -> ET.Element:
    """Return how a raster is drawn, as QGIS's `<pipe>`."""
    tail = [
        element("brightnesscontrast", brightness="0", contrast="0", gamma="1"),
        element("huesaturation", saturation="0", grayscaleMode="0", colorizeOn="0"),
        element("rasterresampler", maxOversampling="2"),
    ]
    return element("pipe", [_DRAWN[backdrop.kind](backdrop), *tail])


def _renderer(kind: str, parts: Sequence[ET.Element], **attributes: str) -> ET.Element:
    return element(
        "rasterrenderer", [element("rasterTransparency"), *parts], type=kind, opacity="1", nodataColor="", **attributes
    )


def _stretch(tag: str, limits: Sequence[tuple[float, float]], index: int) -> ET.Element:
    if not limits:
        return element(tag, [element("algorithm", text="NoEnhancement")])
    low, high = limits[index]
    parts = {"minValue": f"{low:g}", "maxValue": f"{high:g}", "algorithm": "StretchToMinimumMaximum"}
    return element(tag, [element(name, text=text) for name, text in parts.items()])


def _scene(backdrop: Backdrop) -> ET.Element:
    if len(backdrop.bands) < 3:
        return _renderer(
            "singlebandgray", [_stretch("contrastEnhancement", backdrop.limits, 0)],
            grayBand=str(backdrop.bands[0]), gradient="BlackToWhite", alphaBand=str(backdrop.alpha),
        )  # fmt: skip
    colours = ("red", "green", "blue")
    return _renderer(
        "multibandcolor",
        [_stretch(f"{name}ContrastEnhancement", backdrop.limits, i) for i, name in enumerate(colours)],
        alphaBand=str(backdrop.alpha),
        **{f"{name}Band": str(band) for name, band in zip(colours, backdrop.bands, strict=True)},
    )


def _mask(backdrop: Backdrop) -> ET.Element:
    entries = [
        element("paletteEntry", value=str(value), color=colour.lower(), alpha="255", label=name)
        for value, colour, name in backdrop.entries
    ]
    return _renderer("paletted", [element("colorPalette", entries)], band=str(backdrop.bands[0]), alphaBand="-1")


def _probability(backdrop: Backdrop) -> ET.Element:
    ((_, colour, _),) = backdrop.entries
    ((low, high),) = backdrop.limits or ((0.0, 1.0),)
    items = []
    for share, alpha in ((0, 0), (0.25, 40), (0.5, 110), (0.75, 190), (1, 255)):
        value = f"{low + share * (high - low):g}"
        items.append(element("item", value=value, color=colour.lower(), alpha=str(alpha), label=value))
    ends = {"minimumValue": f"{low:g}", "maximumValue": f"{high:g}"}
    ramp = element("colorrampshader", items, colorRampType="INTERPOLATED", classificationMode="1", clip="0", **ends)
    return _renderer(
        "singlebandpseudocolor", [element("rastershader", [ramp])], band=str(backdrop.bands[0]), alphaBand="-1",
        classificationMin=ends["minimumValue"], classificationMax=ends["maximumValue"],
    )  # fmt: skip


_DRAWN = {"scene": _scene, "mask": _mask, "probability": _probability}
