"""What `auto` means for tile, overlap and block: the fewest inferred pixels for the scene at hand."""

from __future__ import annotations

import math

from geounet.grid.blocks import BlockGrid
from geounet.grid.tiles import TileGrid, count_tiles

OVERLAP_SHARE = 0.25
"""Default overlap relative to a tile of the size the network was trained with (measured: docs/benchmarks.md)."""

LARGE_OVERLAP_SHARE = 0.3125
"""The same for larger tiles, relative to the size the network was trained with: they leave less to differ, so that what
a quarter leaves at the seams stands out."""

LARGEST = 2.25
"""The largest tile tried, relative to the size the network was trained with: bounds the memory of a forward pass."""


def round_up(value: float, multiple: int) -> int:
    """Return the smallest multiple that is at least `value`, and at least one multiple."""
    return max(1, -(-int(value) // multiple)) * multiple


def choose_overlap(size: int, multiple: int, share: float = OVERLAP_SHARE) -> int:
    """Return the default overlap for a network trained with `size` px: a multiple of its stride, below half a tile."""
    overlap = round_up(size * share, multiple)
    return overlap if overlap <= size // 2 else (size // 2) // multiple * multiple


def choose_tile(rows: int, cols: int, size: int, overlap: int, multiple: int) -> int:
    """Return the tile, a multiple of `multiple` from `size` to `LARGEST * size`, that infers the fewest pixels.

    Padding past the scene's edges can cost more than the overlap, so no one size suits all scenes. A scene smaller than
    `size` gets the smallest tile that holds it: reflected pixels tell nothing. Ties go to the smaller tile.
    """
    longest = max(rows, cols)
    if longest <= size:
        return max(round_up(longest, multiple), round_up(2 * overlap, multiple))
    first = round_up(size, multiple)
    candidates = range(first, max(first, int(size * LARGEST)) + 1, multiple)

    def inferred(tile: int) -> int:
        return count_tiles(rows, tile, overlap) * count_tiles(cols, tile, overlap) * tile * tile

    return min(candidates, key=lambda tile: (inferred(tile), tile))


def choose_block(grid: TileGrid, workers: int, threads: int = 1, target_px: int = 2048, per_worker: int = 4) -> int:
    """Return the tiles per side of a block.

    About `target_px` a side, so that a lost block costs little and borders stay few; smaller where that gives each
    worker fewer than `per_worker` blocks, since the slowest worker ends the run, but never with fewer tiles than twice
    the `threads` of a worker, which infer side by side. A single worker gains nothing from small blocks and loses the
    borders, so it has no such need.
    """
    longest = max(grid.shape)
    least = min(longest, math.ceil(math.sqrt(2 * threads)))
    side = max(least, min(longest, target_px // grid.stride))
    if workers > 1:
        while side > least and BlockGrid(grid, side).count < workers * per_worker:
            side -= 1
    return side
