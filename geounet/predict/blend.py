"""Adding weighted tiles into a band of sums as wide as the block and one tile high.

Tile rows come in order; when one is done its uppermost `stride` rows get no further contribution from this block and
leave the band. Memory depends on the width of the block, not on its height or on the scene.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geounet.grid.blocks import Block
from geounet.grid.weights import axis_weights


class Band:
    """Sums of one tile row of a block, int32 `(channels, tile, columns)`."""

    def __init__(self, block: Block, channels: int) -> None:
        grid = block.grid
        self.block, self.grid = block, grid
        across = block.last[1] - block.first[1]
        width = (across - 1) * grid.stride + grid.tile
        self.sums: NDArray[np.int32] = np.zeros((channels, grid.tile, width), dtype=np.int32)
        self._scratch = np.empty((channels, grid.tile, grid.tile), dtype=np.int32)
        self._weights: dict[tuple[bool, bool, bool, bool], NDArray[np.int32]] = {}

    def _weight(self, row: int, col: int) -> NDArray[np.int32]:
        down, across = self.grid.shape
        key = row > 0, row < down - 1, col > 0, col < across - 1
        if key not in self._weights:
            tile, overlap = self.grid.tile, self.grid.overlap
            self._weights[key] = np.outer(
                axis_weights(tile, overlap, row, down), axis_weights(tile, overlap, col, across)
            )
        return self._weights[key]

    def add(self, row: int, col: int, quantised: NDArray[np.int16]) -> None:
        """Add a tile of quantised probabilities, `(channels, tile, tile)` in 0..`STEPS`."""
        x = (col - self.block.first[1]) * self.grid.stride
        np.multiply(quantised, self._weight(row, col), out=self._scratch, dtype=np.int32)
        view = self.sums[:, :, x : x + self.grid.tile]
        np.add(view, self._scratch, out=view)

    def advance(self) -> None:
        """Drop the finished `stride` rows and make room for the next tile row."""
        stride, tile = self.grid.stride, self.grid.tile
        if self.grid.overlap:
            self.sums[:, : self.grid.overlap] = self.sums[:, stride:tile].copy()
        self.sums[:, self.grid.overlap :] = 0
