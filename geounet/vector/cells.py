"""The vector grid: square cells, aligned to the raster's first pixel."""

from __future__ import annotations

from dataclasses import dataclass

from geounet.types import Rect


@dataclass(frozen=True)
class CellGrid:
    """Cells of `cell` pixels a side over a raster of `rows` by `cols` pixels; the last ones are smaller."""

    rows: int
    cols: int
    cell: int

    def __post_init__(self) -> None:
        if min(self.rows, self.cols, self.cell) < 1:
            raise ValueError(f"rows, cols and cell are at least 1, found {self.rows}, {self.cols}, {self.cell}")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells down and across."""
        return -(-self.rows // self.cell), -(-self.cols // self.cell)

    @property
    def count(self) -> int:
        """Number of cells."""
        down, across = self.shape
        return down * across

    def rect(self, index: int) -> Rect:
        """Return the pixels of cell `index`, counted row by row."""
        row, col = divmod(index, self.shape[1])
        y0, x0 = row * self.cell, col * self.cell
        return Rect(y0, x0, min(y0 + self.cell, self.rows), min(x0 + self.cell, self.cols))
