"""Reading virtual rasters through windows that are always the same, so that no pixel depends on what is asked for."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from geounet.raster.source import read_window
from geounet.types import Rect

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 512
_BYTES_KEPT = 64 * 2**20


class Windows:
    """Reads a raster in squares of its own grid, and keeps the last ones.

    GDAL's warper places pixels to within an eighth of one, along lines as long as the request, and averages over whole
    pixels of the request's own scale: the same pixel comes out otherwise in another window.

    Parameters
    ----------
    raster : rasterio.DatasetReader
    """

    def __init__(self, raster: Any) -> None:
        self._raster = raster
        self._kept: OrderedDict[tuple[Any, ...], NDArray[Any]] = OrderedDict()
        self._bytes = 0

    def _square(self, row: int, col: int, indexes: list[int], masks: bool) -> tuple[Rect, NDArray[Any]]:
        key = (row, col, tuple(indexes), masks)
        whole = Rect(0, 0, self._raster.height, self._raster.width)
        y, x = row * _SIDE, col * _SIDE
        rect = Rect(y, x, y + _SIDE, x + _SIDE).intersection(whole)
        if key in self._kept:
            self._kept.move_to_end(key)
            return rect, self._kept[key]
        pixels: NDArray[Any] = read_window(self._raster, rect, indexes, masks=masks)
        self._kept[key] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > _BYTES_KEPT and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return rect, pixels

    def read(self, rect: Rect, indexes: list[int], *, masks: bool = False) -> NDArray[Any]:
        """Read as `read_window` does."""
        out: NDArray[Any] | None = None
        for row in range(rect.y0 // _SIDE, (rect.y1 - 1) // _SIDE + 1):
            for col in range(rect.x0 // _SIDE, (rect.x1 - 1) // _SIDE + 1):
                square, pixels = self._square(row, col, indexes, masks)
                if out is None:
                    out = np.empty((*pixels.shape[:-2], *rect.shape), dtype=pixels.dtype)
                part = square.intersection(rect)
                out[(..., *part.slices_in(rect))] = pixels[(..., *part.slices_in(square))]
        assert out is not None  # a rectangle has pixels
        return out
