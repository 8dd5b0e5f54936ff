"""The tile grid of a scene: a pure function of its size, the tile and the overlap.

Tiles start at multiples of the stride from the scene's first pixel. The last tile of a row or column may reach past the
scene; it is never shifted back, since that would break the partition of unity of the blend weights (`weights`) and move
its origin off the network's stride. Pixels past the scene are reflected ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geounet.types import Rect


def count_tiles(size: int, tile: int, overlap: int) -> int:
    """Return how many tiles cover `size` px.

    The last of several tiles always holds more than `overlap` pixels of the scene.
    """
    if size <= tile:
        return 1
    return -(-(size - overlap) // (tile - overlap))


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a grid of `rows` × `cols` px.

    Raises
    ------
    ValueError
        If a size is not positive, or the overlap is negative or over half a tile.
    """

    rows: int
    cols: int
    tile: int
    overlap: int

    def __post_init__(self) -> None:
        if min(self.rows, self.cols, self.tile) < 1:
            raise ValueError(f"sizes must be positive, found {self.rows} × {self.cols} px, tile {self.tile} px")
        if not 0 <= self.overlap <= self.tile // 2:
            raise ValueError(f"overlap must be 0 to half a tile ({self.tile // 2} px), found {self.overlap} px")

    @property
    def stride(self) -> int:
        """Distance between neighbouring tiles, px."""
        return self.tile - self.overlap

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tiles `(down, across)`."""
        return count_tiles(self.rows, self.tile, self.overlap), count_tiles(self.cols, self.tile, self.overlap)

    @property
    def count(self) -> int:
        """Number of tiles."""
        down, across = self.shape
        return down * across

    def tile_rect(self, row: int, col: int) -> Rect:
        """Return the pixels of a tile; it may reach past the scene at the bottom and right."""
        y, x = row * self.stride, col * self.stride
        return Rect(y, x, y + self.tile, x + self.tile)


def reflected(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the source index of each position `start <= i < stop` on an axis of `size` px, reflected past its ends.

    The edge pixel is not repeated (`numpy.pad` mode `reflect`); an axis of one pixel repeats it.

    Returns
    -------
    Indexes in `0 .. size - 1`, shape `(stop - start,)`.
    """
    if size == 1:
        return np.zeros(stop - start, dtype=np.intp)
    period = 2 * (size - 1)
    index = np.abs(np.arange(start, stop, dtype=np.intp)) % period
    return np.where(index < size, index, period - index)
