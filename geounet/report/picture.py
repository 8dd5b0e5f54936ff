"""Pixels of a preview: parts of a scene and of its mask, read at the resolution of the picture.

GDAL takes them from overviews where there are some, and streams through the file where there are none; what is held is
the picture and GDAL's block cache, whatever the size of the scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

from geounet.raster.bands import Band, choose
from geounet.raster.env import GDAL_ERRORS, gdal_env, open_quietly
from geounet.raster.georef import crop
from geounet.raster.source import lossy, open_source
from geounet.types import NODATA, Rect

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geounet.config.card import ClassInfo
    from geounet.raster.scene import SceneInfo, SceneSpec

    Pixels = NDArray[np.uint8]
    Flags = NDArray[np.bool_]

Scalar = TypeVar("Scalar", bound=np.generic)

LOW_PERCENTILE, HIGH_PERCENTILE = 2.0, 98.0
_LOW_CONTRAST = 90.0
"""8-bit imagery whose middle 96 % span less than this is stretched as well."""

_PIECES = 16
"""Pieces per side in which a damaged file is read."""

_PAPER = np.array([240, 242, 245], dtype=np.uint8)
_HATCH = np.array([206, 211, 218], dtype=np.uint8)


class MaskPicture(NamedTuple):
    """A mask at the resolution of a picture."""

    codes: NDArray[np.uint8]
    """`(layers, rows, cols)`: one layer of class codes, or one 0/1/255 layer per class (multi-label)."""
    classes: tuple[ClassInfo, ...]
    """Classes in the order of the layers where there are several; else all classes."""

    @property
    def nodata(self) -> Flags:
        """Where no layer has a value, bool `(rows, cols)`."""
        return np.asarray((self.codes == NODATA).all(axis=0))

    def planes(self) -> list[tuple[ClassInfo, Flags]]:
        """Return each class with its pixels, bool `(rows, cols)`."""
        if self.codes.shape[0] > 1:
            return [(c, self.codes[i] == 1) for i, c in enumerate(self.classes)]
        return [(c, self.codes[0] == c.code) for c in self.classes]


def read_mask(mask: Path, classes: Sequence[ClassInfo], rect: Rect, shape: tuple[int, int]) -> MaskPicture:
    """Read `rect` of a mask as `shape` pixels: the most frequent class of each picture pixel.

    Parameters
    ----------
    mask
        uint8, nodata 255: one band of class codes, or one band per class named like it.
    classes
        The classes of the mask.
    rect
        In pixels of the mask.
    shape
        `(rows, cols)` of the picture, not larger than `rect`.

    Raises
    ------
    rasterio.errors.RasterioIOError
        If the mask cannot be read.
    """
    with rasterio.Env(**gdal_env()), open_quietly(mask) as dataset:
        codes = dataset.read(window=_window(rect), out_shape=(dataset.count, *shape), resampling=Resampling.mode)
        named = {c.name: c for c in classes}
        order = [named.get(d or "") for d in dataset.descriptions]
    if codes.shape[0] == 1:
        return MaskPicture(codes, tuple(classes))
    known = [c if c is not None else classes[i] for i, c in enumerate(order) if c is not None or i < len(classes)]
    return MaskPicture(codes[: len(known)], tuple(known))


def paint_mask(picture: MaskPicture) -> Pixels:
    """Return a mask in its classes' colours, `(rows, cols, 3)`; classes of a multi-label mask lie over one another."""
    if picture.codes.shape[0] == 1:
        colours = np.full((256, 3), 128, dtype=np.uint8)  # a code without a class
        for info in picture.classes:
            colours[info.code] = info.rgb
        return np.asarray(colours[picture.codes[0]])
    painted = np.full((*picture.codes.shape[1:], 3), 24.0, dtype=np.float32)  # no class at all
    for info, where in picture.planes():
        painted[where] = 0.3 * painted[where] + 0.7 * np.array(info.rgb, dtype=np.float32)
    return np.round(painted).astype(np.uint8)


class InputPicture(NamedTuple):
    """The input at the resolution of a picture."""

    planes: NDArray[np.float64]
    """`(bands, rows, cols)`, one (grey) or three (red, green, blue) bands as stored."""
    valid: Flags
    """Bool `(rows, cols)`: what the file declares valid and the job does not call fill."""
    names: tuple[str, ...]
    lossy: bool = False
    """Whether a codec has changed the values."""


def read_input(scene: SceneSpec, info: SceneInfo, rect: Rect, shape: tuple[int, int]) -> InputPicture:
    """Read `rect` of a scene as `shape` pixels: the average of what each picture pixel covers.

    Damaged parts of a file are invalid; they do not fail the picture.

    Parameters
    ----------
    scene, info
        What to open, and the grid that `rect` is in.
    rect
        In pixels of the scene.
    shape
        `(rows, cols)` of the picture, not larger than `rect`.

    Raises
    ------
    SceneError
        If a file cannot be opened.
    """
    shown = shown_bands(info.band_names)
    planes = []
    declared, fills, finite = [], [], np.ones(shape, dtype=bool)
    with rasterio.Env(**gdal_env()), ExitStack() as stack:
        rasters = [stack.enter_context(open_source(f)) for f in scene.files]
        bands = choose(scene.name, rasters, scene.bands, scene.labels)
        base = min((rasters[b.file] for b in bands), key=lambda r: abs(r.transform.determinant))
        if scene.bbox is not None:
            window = crop(base.transform, base.width, base.height, scene.bbox, scene.name)
            rect = rect.shifted(window.y0, window.x0)
        for position in shown:
            band = bands[position]
            raster = rasters[band.file]
            plane, valid = _read_plane(raster, band, _scaled(rect, base, raster), shape)
            declared.append(valid)
            finite &= np.isfinite(plane)
            planes.append(plane)
            if scene.nodata is not None:
                fills.append(plane == scene.nodata[position if len(scene.nodata) > 1 else 0])
        changed = any(map(lossy, rasters))
    # As for the mask: a value that also occurs in imagery means nodata only where all bands hold it.
    valid = finite & np.logical_or.reduce(declared)
    if fills:
        valid &= ~np.logical_and.reduce(fills)
    return InputPicture(np.stack(planes), valid, tuple(info.band_names[i] for i in shown), changed)


def _scaled(rect: Rect, base: Any, raster: Any) -> Window:
    """Return the window of a file, which may be coarser than the scene's grid."""
    across, down = raster.width / base.width, raster.height / base.height
    return Window(rect.x0 * across, rect.y0 * down, rect.cols * across, rect.rows * down)


def _read_plane(raster: Any, band: Band, window: Window, shape: tuple[int, int]) -> tuple[NDArray[np.float64], Flags]:
    """Return a band's stored values (colours of a colour table), NaN in damaged parts, and where GDAL's mask is set."""
    plane = np.full(shape, np.nan)
    valid = np.zeros(shape, dtype=bool)
    try:
        plane[:], valid[:] = _read_part(raster, band, window, shape)
    except GDAL_ERRORS:
        # A damaged tile fails the whole read: take what can be had in pieces.
        rows, cols = (np.linspace(0, n, min(n, _PIECES) + 1).astype(int) for n in shape)
        down, across = window.height / shape[0], window.width / shape[1]
        for (y0, y1), (x0, x1) in product(pairwise(rows.tolist()), pairwise(cols.tolist())):
            part = Window(
                window.col_off + x0 * across, window.row_off + y0 * down, (x1 - x0) * across, (y1 - y0) * down
            )
            with suppress(*GDAL_ERRORS):
                plane[y0:y1, x0:x1], valid[y0:y1, x0:x1] = _read_part(raster, band, part, (y1 - y0, x1 - x0))
    return plane, valid


def _read_part(raster: Any, band: Band, window: Window, shape: tuple[int, int]) -> tuple[NDArray[Any], Flags]:
    # Colour table indexes have no average.
    resampling = Resampling.average if band.colour is None else Resampling.nearest
    values = raster.read(band.index, window=window, out_shape=shape, resampling=resampling)
    valid = raster.read_masks(band.index, window=window, out_shape=shape, resampling=Resampling.nearest) > 0
    if band.colour is not None:
        table = np.zeros((256 if values.dtype == np.uint8 else 65536, 3))
        for index, entry in raster.colormap(band.index).items():
            table[index] = entry[:3]
        values = table[values, band.colour]
    return values, valid


def shown_bands(names: Sequence[str]) -> tuple[int, ...]:
    """Return the indexes of the bands to show: red, green, blue by name; else the first three; else the first."""
    lower = [n.strip().lower() for n in names]
    for wanted in (("red", "green", "blue"), ("r", "g", "b"), ("b04", "b03", "b02"), ("b4", "b3", "b2")):
        if all(w in lower for w in wanted):
            return tuple(lower.index(w) for w in wanted)
    return (0, 1, 2) if len(names) >= 3 else (0,)


def paint_input(picture: InputPicture, limits: Sequence[tuple[float, float]] | None) -> Pixels:
    """Return the input as `(rows, cols, 3)`: stretched between `limits` of each band, or 8-bit values as they are."""
    planes = picture.planes
    if limits is not None:
        low = np.array([a for a, _ in limits])[:, None, None]
        high = np.array([b for _, b in limits])[:, None, None]
        planes = (planes - low) * (255.0 / np.maximum(high - low, 1e-12))
    painted = np.clip(np.round(np.nan_to_num(planes)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(np.repeat(painted, 3, axis=0) if len(painted) == 1 else painted, 0, -1))


def stretch(picture: InputPicture, dtype: str) -> list[tuple[float, float]] | None:
    """Return the 2nd and 98th percentile of the valid pixels of each band; none where 8-bit values show well as is."""
    values = picture.planes[:, picture.valid]
    if values.shape[1] == 0:
        return None if dtype == "uint8" else [(0.0, 1.0)] * len(values)
    if dtype == "uint8":
        low, high = (float(v) for v in np.percentile(values, (LOW_PERCENTILE, HIGH_PERCENTILE)))
        if high - low >= _LOW_CONTRAST:
            return None
    limits = np.percentile(values, (LOW_PERCENTILE, HIGH_PERCENTILE), axis=1).T
    return [(float(a), float(b)) for a, b in limits]


def hatch(painted: Pixels, where: Flags) -> None:
    """Draw diagonal hatching over `painted[where]`, in place: pixels that hold no data."""
    rows, cols = np.ogrid[: where.shape[0], : where.shape[1]]
    lines = where & ((rows + cols) % 12 < 3)
    painted[where] = _PAPER
    painted[lines] = _HATCH


def enlarged(array: NDArray[Scalar], shape: tuple[int, int]) -> NDArray[Scalar]:
    """Repeat the pixels of `(rows, cols, ...)` to `shape`: each picture pixel takes the pixel below its centre."""
    rows = ((np.arange(shape[0]) + 0.5) * array.shape[0] / shape[0]).astype(int)
    cols = ((np.arange(shape[1]) + 0.5) * array.shape[1] / shape[1]).astype(int)
    grown: NDArray[Scalar] = array[rows[:, None], cols]
    return grown


def _window(rect: Rect) -> Window:
    return Window(rect.x0, rect.y0, rect.cols, rect.rows)
