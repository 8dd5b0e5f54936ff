"""Label rasters: class codes, colour tables, colour-coded pictures; on any grid and in any CRS."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from geounet.config.data import Labels
from geounet.errors import LabelError, SceneError
from geounet.labels.frames import Frame, crs_name, mover, overlap
from geounet.labels.values import IGNORED, value_of
from geounet.labels.vectors import UNKNOWN
from geounet.raster.env import GDAL_ERRORS, gdal_env, one_line
from geounet.raster.source import open_source, read_window
from geounet.raster.validity import occurs
from geounet.types import Rect

_REFUSED = -2
"""Mark of values that the job does not list."""

_SHOWN = 8

_EXACT = 1e-6
"""Pixels by which coordinates may be off: GDAL's default makes other pixels the nearest ones. rasterio fails at 0."""


@dataclass(frozen=True)
class RasterFile:
    """What a label raster is, without its pixels.

    Attributes
    ----------
    file : str
    shape : tuple of int
        `(rows, cols)`.
    bounds : tuple of float or None
        xmin, ymin, xmax, ymax in its CRS; None without georeference.
    crs : str or None
        WKT.
    """

    file: str
    shape: tuple[int, int]
    bounds: tuple[float, float, float, float] | None
    crs: str | None


def describe_raster(file: str) -> RasterFile:
    """Return what a label raster is.

    Raises
    ------
    LabelError
        If it cannot be read.
    """
    with _opened(file) as raster:
        placed = not raster.transform.is_identity
        frame = Frame(file, raster.shape, tuple(raster.transform)[:6], _wkt(raster), None)
        return RasterFile(file, raster.shape, frame.bounds(None) if placed else None, frame.crs if placed else None)


def _opened(file: str) -> Any:
    try:
        return open_source(file)
    except SceneError as error:
        raise LabelError(str(error)) from None


def _wkt(raster: Any) -> str | None:
    return str(raster.crs.to_wkt()) if raster.crs else None


class RasterLayer:
    """A label raster on the grid of a scene. One thread at a time uses it.

    Parameters
    ----------
    file
        The raster. Without georeference (or if the scene has none) it must have the scene's size; else it is brought
        onto the scene's grid, each pixel taking the nearest label.
    spec
        The layer's section of the job.
    codes
        Class codes by name.
    frame
        The scene's grid.

    Raises
    ------
    LabelError
        If it cannot be read, has another size, or is not what the section says (a colour table, colours, classes).
    """

    def __init__(self, file: str, spec: Labels, codes: Mapping[str, int], frame: Frame) -> None:
        self._file, self._spec = file, spec
        if spec.column is not None:
            raise LabelError(f"{file}: `column` is for vector files; for a raster, `values` are its pixel values")
        self._raster = _opened(file)
        self._source = self._raster
        self._alpha: int | None = None
        """Band of the warped raster that tells where it has pixels."""
        self._all_known = False
        """Whether what the file declares as nodata is listed: a class of its own."""
        self._frame = frame
        try:
            self._bands = self._choose_bands()
            self._rules = _rules(spec, codes)
            self._table = self._palette()
            self._all_known = self._lists_nodata()
            self._place(frame)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        if self._source is not self._raster:
            self._source.close()
        self._raster.close()

    def _choose_bands(self) -> list[int]:
        raster, spec = self._raster, self._spec
        if spec.colours is None or raster.colorinterp[0] == ColorInterp.palette:
            if spec.band > raster.count:
                raise LabelError(f"{self._file}: has {raster.count} bands, so there is no band {spec.band}")
            if spec.colours is None and spec.band == 1 and raster.count in (3, 4) and raster.dtypes[0] == "uint8":
                colours = {ColorInterp.red, ColorInterp.green, ColorInterp.blue}
                if colours <= set(raster.colorinterp):
                    raise LabelError(f"{self._file}: is a picture with red, green and blue; list its `colours`")
            return [spec.band]
        if raster.count < 3 or raster.dtypes[0] != "uint8":
            raise LabelError(
                f"{self._file}: has {raster.count} band(s) of {raster.dtypes[0]} and no colour table; `colours` need "
                "red, green and blue in uint8"
            )
        return [1, 2, 3]

    def _palette(self) -> NDArray[np.int32] | None:
        """Return the colour of each value as one number, where colours are looked up in a colour table."""
        if self._spec.colours is None or len(self._bands) == 3:
            return None
        table = np.full(np.iinfo(self._raster.dtypes[0]).max + 1, -1, dtype=np.int32)
        for index, (red, green, blue, *_) in self._raster.colormap(self._bands[0]).items():
            table[index] = red << 16 | green << 8 | blue
        return table

    def _lists_nodata(self) -> bool:
        """Return whether the job says what pixels are that hold the declared nodata value (0, often: no building)."""
        raster, spec = self._raster, self._spec
        if (spec.values is None and spec.colours is None) or ColorInterp.alpha in raster.colorinterp:
            return False
        if any(MaskFlags.nodata not in raster.mask_flag_enums[band - 1] for band in self._bands):
            return False
        kind, declared = raster.dtypes[0], [raster.nodatavals[band - 1] for band in self._bands]
        if not all(math.isfinite(value) and occurs(value, kind) for value in declared):
            return False
        planes = np.array(declared).astype(kind).reshape(-1, 1, 1)
        return int(self._keys(planes)[0, 0]) in self._rules.table

    def _place(self, frame: Frame) -> None:
        raster = self._raster
        placed = not raster.transform.is_identity and frame.georeferenced
        if not placed:
            if raster.shape != frame.shape:
                why = "neither has" if raster.transform.is_identity else "the scene has no"
                raise LabelError(
                    f"{self._file}: is {raster.width} × {raster.height} px, the scene {frame.name} is {frame.shape[1]} "
                    f"× {frame.shape[0]}; {why} georeference, so sizes must be equal"
                )
            return
        target = Affine(*frame.transform)
        same_crs = mover(_wkt(raster), frame.crs) is None
        if same_crs and raster.shape == frame.shape and raster.transform.almost_equals(target, precision=1e-9):
            return
        crs = rasterio.CRS.from_wkt(frame.crs) if frame.crs is not None else raster.crs
        alpha = any(i == ColorInterp.alpha for i in raster.colorinterp)
        try:
            self._source = WarpedVRT(
                raster,
                src_crs=raster.crs or crs,
                crs=crs,
                transform=target,
                width=frame.shape[1],
                height=frame.shape[0],
                resampling=Resampling.nearest,
                tolerance=_EXACT,
                add_alpha=not alpha,
                **({"src_nodata": None, "nodata": None} if self._all_known else {}),
            )
            self._alpha = 1 + [band == ColorInterp.alpha for band in self._source.colorinterp].index(True)
        except GDAL_ERRORS as error:
            raise LabelError(
                f"{self._file}: cannot be brought from {crs_name(_wkt(raster))} onto the grid of the scene "
                f"{frame.name}: {one_line(error)}"
            ) from None

    def meets(self, rect: Rect) -> bool:
        """Return whether the raster may reach a rectangle of the scene."""
        if self._source is self._raster:
            return True
        raster = self._raster
        own = Frame(self._file, raster.shape, tuple(raster.transform)[:6], None, None).bounds(None)
        there = self._frame.part(rect).bounds(_wkt(raster))
        return there is None or overlap(there, own)

    def read(self, rect: Rect) -> NDArray[np.int16]:
        """Return the labels of a rectangle, int16 `(rows, cols)`; `UNKNOWN` where the raster has none.

        Raises
        ------
        LabelError
            If it holds values that the job does not list, or is damaged.
        """
        try:
            with rasterio.Env(**gdal_env()):
                planes = read_window(self._source, rect, self._bands)
                # A colour is nodata where all of its bands are: pure green has no red either.
                if self._alpha is not None:  # GDAL makes a mask of it for unsigned types only
                    valid = read_window(self._source, rect, [self._alpha])[0] > 0
                elif self._all_known:
                    valid = np.ones(rect.shape, dtype=bool)
                else:
                    masks = [read_window(self._source, rect, [band], masks=True) for band in self._bands]
                    valid = np.any(masks, axis=0)
        except SceneError as error:
            raise LabelError(str(error)) from None
        if planes.dtype.kind == "f":
            valid &= np.isfinite(planes[0])
            whole = planes[0] == np.rint(planes[0])
            if not whole[valid].all():
                raise LabelError(f"{self._file}: holds fractions ({planes.dtype}); labels are whole numbers")
        keys = self._keys(planes)
        out = np.full(rect.shape, self._rules.other, dtype=np.int16)
        for key, value in self._rules.table.items():
            np.copyto(out, value, where=keys == key)
        if self._rules.other == _REFUSED and (refused := valid & (out == _REFUSED)).any():
            raise LabelError(self._complaint({int(key) for key in np.unique(keys[refused])}))
        out[~valid] = UNKNOWN
        return out

    def _keys(self, planes: Any) -> NDArray[Any]:
        """Return values, or colours as numbers, any integer type (rows, cols)."""
        if len(self._bands) == 3:
            red, green, blue = (plane.astype(np.int32) for plane in planes)
            keys: NDArray[np.int32] = red << 16 | green << 8 | blue
            return keys
        plane: NDArray[Any] = planes[0]
        if self._table is not None:
            colours: NDArray[np.int32] = self._table[plane]
            return colours
        return plane if plane.dtype.kind in "iu" else np.nan_to_num(plane, posinf=-1, neginf=-1).astype(np.int64)

    def _complaint(self, unknown: set[int]) -> str:
        if self._spec.colours is not None:
            names, what, key = [f"#{v:06X}" if v >= 0 else "no colour" for v in sorted(unknown)], "colours", "colours"
        else:
            names, what, key = [str(v) for v in sorted(unknown)], "values", "values"
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        lossy = Path(self._file).suffix.lower() in (".jpg", ".jpeg")
        hint = "JPEG changes colours: keep labels as PNG or TIFF" if lossy else (
            f"add them to `{key}`, or say what `others` are: skip, ignored or a class"
        )  # fmt: skip
        return f"{self._file}: has {what} that the job does not list: {shown}; {hint}"


@dataclass(frozen=True)
class _Rules:
    """From a raster's values (or colours as numbers) to labels; what is not in the table is `other`."""

    table: dict[int, int]
    other: int


def _rules(spec: Labels, codes: Mapping[str, int]) -> _Rules:
    other = _REFUSED
    if spec.others == "skip":
        other = UNKNOWN
    elif spec.others != "refuse":
        other = value_of(spec.others, codes)
    if spec.class_ is not None:
        return _Rules({0: UNKNOWN}, value_of(spec.class_, codes))
    if spec.colours is not None:
        return _Rules({int(t[1:], 16): value_of(m, codes) for t, m in spec.colours.items()}, other)
    if spec.values is not None:
        table: dict[int, int] = {}
        for text, meaning in spec.values.items():
            try:
                table[int(text)] = value_of(meaning, codes)
            except ValueError:
                raise LabelError(f"values: {text!r} is no whole number, as the values of a raster are") from None
        return _Rules(table, other)
    # without a table the raster holds our own codes, and 255 means what it means in masks
    return _Rules({**{code: code for code in codes.values()}, IGNORED: UNKNOWN}, other)
