"""Part files written slab by slab from the top, so that a block is never in memory as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from geounet.atomic import remove_temporary, temporary_beside
from geounet.raster import parts
from geounet.raster.env import open_quietly
from geounet.raster.space import full_disk_told

SIDE = 512
"""Internal tile of a part, px. Slabs are buffered to multiples of it: rewriting a compressed tile wastes space."""


class SlabWriter:
    """Writes a GeoTIFF of `(bands, rows, cols)` from the top down; the file gets its name on a clean exit.

    Where the disk or the quota is full, an OSError with ENOSPC or EDQUOT says so, whatever GDAL says.

    Parameters
    ----------
    path
        Final name. Its folder is made.
    shape
        `(bands, rows, cols)` of the whole part.
    dtype
        `uint8` or `uint16`.
    nodata
        Declared nodata value.
    tags
        Dataset tags.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int, int], dtype: str, nodata: int, tags: Mapping[str, str]
    ) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self._profile = {
            "driver": "GTiff",
            "count": shape[0],
            "height": shape[1],
            "width": shape[2],
            "dtype": dtype,
            "nodata": nodata,
            "tiled": True,
            "blockxsize": parts.block_side(shape[2]),
            "blockysize": parts.block_side(shape[1]),
            "interleave": "band",
            "bigtiff": "IF_SAFER",
            **parts.compression(),
        }
        self._tags = dict(tags)
        self._temporary = temporary_beside(path)
        self._buffer = np.empty((shape[0], min(SIDE, shape[1]), shape[2]), dtype=dtype)
        self._filled = 0
        self._row = 0
        self._dataset: Any = None
        self.bytes = 0

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with full_disk_told(self.path.parent):
            self._dataset = open_quietly(self._temporary, "w", **self._profile)
            self._dataset.update_tags(**self._tags)
        return self

    def write(self, rows: NDArray[Any]) -> None:
        """Append `(bands, n, cols)` rows below those written so far."""
        at = 0
        while at < rows.shape[1]:
            n = min(self._buffer.shape[1] - self._filled, rows.shape[1] - at)
            self._buffer[:, self._filled : self._filled + n] = rows[:, at : at + n]
            self._filled += n
            at += n
            if self._filled == self._buffer.shape[1]:
                self._flush()

    def _flush(self) -> None:
        if self._filled:
            window = Window(0, self._row, self.shape[2], self._filled)
            with full_disk_told(self.path.parent):
                self._dataset.write(self._buffer[:, : self._filled], window=window)
            self._row += self._filled
            self._filled = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        complete = False
        try:
            try:
                if kind is None:
                    self._flush()
                    if self._row != self.shape[1]:
                        raise ValueError(f"{self.path}: {self._row} of {self.shape[1]} rows were written")
            finally:
                with full_disk_told(self.path.parent):
                    self._dataset.close()
            if kind is None:
                with self._temporary.open("r+b") as file:
                    os.fsync(file.fileno())
                self.bytes = self._temporary.stat().st_size
                self._temporary.replace(self.path)
                complete = True
        finally:
            if not complete:
                remove_temporary(self._temporary)
