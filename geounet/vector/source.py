"""Reading class values and probabilities in windows that may reach over the raster's edge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from geounet.errors import VectorError
from geounet.raster.env import GDAL_ERRORS, gdal_env, one_line, open_quietly
from geounet.types import NODATA, Rect
from geounet.vector.cells import CellGrid

U8 = npt.NDArray[np.uint8]


class Plane(Protocol):
    """Class values in windows; 255 is what never becomes a feature."""

    def read(self, rect: Rect) -> U8:
        """Return values `(rows, cols)` of `rect`, 255 outside of the raster."""
        ...


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open a raster, turning what GDAL says into one line for the user.

    Raises
    ------
    VectorError
        If it cannot be opened or read.
    """
    try:
        with rasterio.Env(**gdal_env()), open_quietly(Path(path)) as dataset:
            yield dataset
    except GDAL_ERRORS as error:
        raise VectorError(
            f"{path}: cannot be read as a raster ({one_line(error)}); give a file that GDAL reads"
        ) from error


def read_window(dataset: Any, band: int, rect: Rect, fill: int) -> U8:
    """Return one band's values in `rect`, with `fill` outside of the raster."""
    inside = rect.intersection(Rect(0, 0, dataset.height, dataset.width))
    if inside == rect:
        return np.asarray(dataset.read(band, window=Window(rect.x0, rect.y0, rect.cols, rect.rows)), dtype=np.uint8)
    values = np.full(rect.shape, fill, dtype=np.uint8)
    if not inside.empty:
        values[inside.slices_in(rect)] = dataset.read(
            band, window=Window(inside.x0, inside.y0, inside.cols, inside.rows)
        )
    return values


@dataclass(frozen=True)
class RasterPlane:
    """One band of a raster through a table of 256 entries: what a stored value counts as."""

    path: str
    band: int
    table: bytes

    def read(self, rect: Rect) -> U8:
        """Return values `(rows, cols)` of `rect`, 255 outside of the raster."""
        with opened(self.path) as dataset:
            values = read_window(dataset, self.band, rect, NODATA)
        found: U8 = np.frombuffer(self.table, dtype=np.uint8)[values]
        return found


@dataclass(frozen=True)
class Filled:
    """A plane in which all of the raster is known: what has no data is 0."""

    plane: Plane
    rows: int
    cols: int

    def read(self, rect: Rect) -> U8:
        """Return values `(rows, cols)` of `rect`, 255 outside of the raster."""
        values = self.plane.read(rect)
        inside = rect.intersection(Rect(0, 0, self.rows, self.cols))
        if not inside.empty:
            part = values[inside.slices_in(rect)]
            part[part == NODATA] = 0
        return values


@dataclass(frozen=True)
class CellPlane:
    """Values that an earlier stage wrote cell by cell as `<prefix>-<index>.npy`."""

    folder: str
    prefix: str
    grid: CellGrid

    def path(self, index: int) -> Path:
        """Return the file of a cell."""
        return Path(self.folder) / f"{self.prefix}-{index}.npy"

    def read(self, rect: Rect) -> U8:
        """Return values `(rows, cols)` of `rect`, 255 outside of the raster."""
        values = np.full(rect.shape, NODATA, dtype=np.uint8)
        inside = rect.intersection(Rect(0, 0, self.grid.rows, self.grid.cols))
        if inside.empty:
            return values
        side, across = self.grid.cell, self.grid.shape[1]
        for row in range(inside.y0 // side, (inside.y1 - 1) // side + 1):
            for col in range(inside.x0 // side, (inside.x1 - 1) // side + 1):
                index = row * across + col
                common = inside.intersection(self.grid.rect(index))
                part = np.load(self.path(index), mmap_mode="r")
                values[common.slices_in(rect)] = part[common.slices_in(self.grid.rect(index))]
        return values


@dataclass(frozen=True)
class ProbabilityPlane:
    """Stored probability of each pixel's own class."""

    path: str
    bands: tuple[tuple[int, int], ...]
    """`(value, 1-based band)` pairs."""

    def read(self, rect: Rect, values: U8) -> U8:
        """Return the probability `0..254` of the class in `values` `(rows, cols)`; 255 where there is none."""
        found = np.full(rect.shape, NODATA, dtype=np.uint8)
        present = np.bincount(values.ravel(), minlength=256)
        with opened(self.path) as dataset:
            for value, band in self.bands:
                if present[value]:
                    np.copyto(found, read_window(dataset, band, rect, NODATA), where=values == value)
        return found


def table(mapping: dict[int, int]) -> bytes:
    """Return a table of 256 entries that maps as told and everything else to 255."""
    entries = np.full(256, NODATA, dtype=np.uint8)
    for stored, value in mapping.items():
        entries[stored] = value
    return entries.tobytes()
