"""Blocks: rectangles of tiles, the unit of work of the cluster, and the pixels that they share with their neighbours.

Every tile belongs to one block, so none is inferred twice. A block's tiles spill over its right and lower side by
`overlap` px only, and each pixel is *owned* by the one block in whose stride it lies::

            j0·S      +O                j1·S   +O
      i0·S  ┌──────────────────────────┬──────┐
            │ top (others add here)    │      │
        +O  ├──────┬───────────────────┤      │
            │ left │ core: finished    │right │  spills: un-normalised sums
            │      │ by this block     │spill │  for the neighbours
      i1·S  ├──────┴───────────────────┼──────┤
            │ bottom spill             │corner│
        +O  └──────────────────────────┴──────┘

Sealing a block adds the spills of its upper, left and upper left neighbours to its own top and left strips. Nothing
cascades: a spill depends on its own block only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from geounet.grid.tiles import TileGrid
from geounet.types import Rect


class BlockId(NamedTuple):
    """Position of a block in the block grid."""

    row: int
    col: int

    def __str__(self) -> str:
        return f"r{self.row:04d}c{self.col:04d}"


@dataclass(frozen=True)
class Block:
    """One block of a grid: which tiles it infers and which pixels follow."""

    grid: TileGrid
    id: BlockId
    first: tuple[int, int]
    """First tile `(row, col)`."""
    last: tuple[int, int]
    """Tile after the last `(row, col)`."""

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return (self.last[0] - self.first[0]) * (self.last[1] - self.first[1])

    def _axis(self, axis: int) -> tuple[int, int, int, int]:
        """Return `(start, after the shared strip, owned end, covered end)` along an axis, px."""
        grid, size = self.grid, (self.grid.rows, self.grid.cols)[axis]
        start = self.first[axis] * grid.stride
        inner = start + (grid.overlap if self.first[axis] > 0 else 0)
        if self.last[axis] == grid.shape[axis]:
            return start, inner, size, size
        end = self.last[axis] * grid.stride
        return start, inner, end, end + grid.overlap

    @property
    def owned(self) -> Rect:
        """Pixels that this block seals; the owned rectangles of all blocks partition the scene."""
        (y0, _, y1, _), (x0, _, x1, _) = self._axis(0), self._axis(1)
        return Rect(y0, x0, y1, x1)

    @property
    def covered(self) -> Rect:
        """Pixels that this block's tiles contribute to, within the scene."""
        (y0, _, _, y1), (x0, _, _, x1) = self._axis(0), self._axis(1)
        return Rect(y0, x0, y1, x1)

    @property
    def core(self) -> Rect:
        """Owned pixels that no other block contributes to; may be empty where the overlap is half a tile."""
        (_, y0, y1, _), (_, x0, x1, _) = self._axis(0), self._axis(1)
        return Rect(y0, x0, y1, x1)

    @property
    def strips(self) -> dict[str, Rect]:
        """Owned pixels that wait for neighbours: `top` over the owned width, `left` below it. Without empty ones."""
        owned, core = self.owned, self.core
        strips = {
            "top": Rect(owned.y0, owned.x0, core.y0, owned.x1),
            "left": Rect(core.y0, owned.x0, owned.y1, core.x0),
        }
        return {name: rect for name, rect in strips.items() if not rect.empty}

    @property
    def spills(self) -> dict[str, Rect]:
        """Pixels of other blocks that this one contributes to: `right`, `bottom`, `corner`. Without empty ones."""
        owned, covered = self.owned, self.covered
        spills = {
            "right": Rect(owned.y0, owned.x1, owned.y1, covered.x1),
            "bottom": Rect(owned.y1, owned.x0, covered.y1, owned.x1),
            "corner": Rect(owned.y1, owned.x1, covered.y1, covered.x1),
        }
        return {name: rect for name, rect in spills.items() if not rect.empty}

    @property
    def givers(self) -> dict[str, BlockId]:
        """The neighbours whose spills this block's strips need: spill name to block."""
        row, col = self.id
        givers = {}
        if col > 0:
            givers["right"] = BlockId(row, col - 1)
        if row > 0:
            givers["bottom"] = BlockId(row - 1, col)
        if row > 0 and col > 0:
            givers["corner"] = BlockId(row - 1, col - 1)
        return givers if self.grid.overlap else {}


@dataclass(frozen=True)
class BlockGrid:
    """All blocks of a tile grid; `side` tiles a side, fewer at the bottom and right."""

    grid: TileGrid
    side: int

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"a block has at least one tile a side, found {self.side}")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of blocks `(down, across)`."""
        down, across = self.grid.shape
        return -(-down // self.side), -(-across // self.side)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return self.shape[0] * self.shape[1]

    def block(self, block_id: BlockId) -> Block:
        """Return one block."""
        down, across = self.grid.shape
        first = block_id.row * self.side, block_id.col * self.side
        last = min(first[0] + self.side, down), min(first[1] + self.side, across)
        return Block(self.grid, block_id, first, last)

    def __iter__(self) -> Iterator[Block]:
        """Yield all blocks, row by row."""
        down, across = self.shape
        for row in range(down):
            for col in range(across):
                yield self.block(BlockId(row, col))
