"""A class without specks and pinholes: components of the whole raster below an area change sides.

Specks are 8-connected components of the class, holes 4-connected components of what is between. Specks go first, and
holes are those of the raster without them: a speck in a hole is part of it, and one around a hole leaves none. A hole
that reaches the raster's edge stays: it is open. One without data is a hole like any other, since what the class
encloses on all sides hardly interrupts it. What changes is stored, not the raster: the pixels to turn over, by rows of
cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from skimage import measure

from geounet.types import Executor, Rect
from geounet.vector import parts
from geounet.vector.attributes import Ground
from geounet.vector.cells import CellGrid
from geounet.vector.components import EDGES, edge_labels, sum_by, unite
from geounet.vector.polygons import gather
from geounet.vector.source import U8, Plane
from geounet.vector.trace import I32, I64, Bools

SUMS = ("count", "sum_x", "sum_y", "open")

Kind = Literal["speck", "hole"]

STRIP = 128
"""Rows of a cell that are counted at a time."""


@dataclass(frozen=True)
class Least:
    """An area: what is smaller goes. In square metres, or in pixels; 0: nothing goes."""

    area: float
    pixels: bool

    def above(self, sums: dict[str, I64], ground: Ground) -> Bools:
        """Return which components are smaller; their pixels lie together, so that those in the middle stand for all."""
        count = np.maximum(sums["count"], 1)
        if self.pixels or self.area == 0:
            small: Bools = count < self.area
        else:
            small = count * ground.pixel_areas(sums["sum_x"] / count, sums["sum_y"] / count) < self.area
        return small


@dataclass(frozen=True)
class Clean:
    """A plane (1: the class, 0: not, 255: no data) and what is too small in it: specks, or holes.

    It is a plane itself, without them, once `clean` has been run.
    """

    plane: Plane
    grid: CellGrid
    folder: str
    name: str
    ground: Ground
    kind: Kind
    least: Least

    def path(self, what: str, index: int) -> Path:
        """Return a part's file."""
        return Path(self.folder) / f"{self.name}-{self.kind}-{what}-{index}.npz"

    def read(self, rect: Rect) -> U8:
        """Return values `(rows, cols)` of `rect`, 255 outside of the raster."""
        values = self.plane.read(rect)
        inside = rect.intersection(Rect(0, 0, self.grid.rows, self.grid.cols))
        if inside.empty:
            return values
        for row in range(inside.y0 // self.grid.cell, (inside.y1 - 1) // self.grid.cell + 1):
            turned = np.load(self.turned(row), mmap_mode="r")
            low, high = np.searchsorted(turned, [inside.y0 * self.grid.cols, inside.y1 * self.grid.cols])
            y, x = np.divmod(np.asarray(turned[low:high]), self.grid.cols)
            here = (x >= inside.x0) & (x < inside.x1)
            at = (y[here] - rect.y0, x[here] - rect.x0)
            values[at] = values[at] != 1
        return values

    def turned(self, row: int) -> Path:
        """Return the file with the pixels to turn over in a row of cells, ascending."""
        return self.path("turned", row).with_suffix(".npy")


def cells_of(grid: CellGrid, inside: Rect) -> list[int]:
    """Return the cells that a rectangle within the raster touches."""
    across = grid.shape[1]
    rows = range(inside.y0 // grid.cell, (inside.y1 - 1) // grid.cell + 1)
    return [r * across + c for r in rows for c in range(inside.x0 // grid.cell, (inside.x1 - 1) // grid.cell + 1)]


def _label(values: Bools, connectivity: int) -> I32:
    label: Any = measure.label
    image: I32 = label(values, connectivity=connectivity).astype(np.int32)
    return image


def measure_cell(task: tuple[Clean, int]) -> int:
    """Write what is small in a cell: what to turn over, and the pieces that may be part of something larger."""
    stage, index = task
    path = stage.path("pieces", index)
    if path.exists():
        return path.stat().st_size
    rect = stage.grid.rect(index)
    values = stage.plane.read(rect)
    hole = stage.kind == "hole"
    image = _label(values != 1, 1) if hole else _label(values == 1, 2)
    sums = _sums(image, rect)
    count = len(sums["count"])
    touches = np.zeros(count + 1, dtype=np.bool_)
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        touches[edge] = True
    sums["open"] = _at_edge(image, rect, stage.grid, count) if hole else np.zeros(count, np.int64)
    small = stage.least.above(sums, stage.ground) & (sums["open"] == 0)
    turned = _pixels(image, np.flatnonzero(small & ~touches[1:]) + 1, rect, stage.grid.cols)[0]
    # Pieces on the cell's edge are numbered anew; their pixels are kept where they may be turned.
    pieces = np.flatnonzero(touches[1:]) + 1
    renumber = np.full(count + 1, -1, dtype=np.int32)
    renumber[pieces] = np.arange(len(pieces), dtype=np.int32)
    pixels, offsets = _pixels(image, np.where(small[pieces - 1], pieces, -1), rect, stage.grid.cols)
    arrays = {name: column[pieces - 1] for name, column in sums.items()}
    arrays |= {"turned": turned, "pixel": pixels, "offsets": offsets}
    return parts.save(path, arrays | edge_labels(image, renumber))


def _sums(image: I32, rect: Rect) -> dict[str, I64]:
    """Return for each component its number of pixels, and the sums of their columns and rows."""
    count = int(image.max(initial=0)) + 1
    sums = {name: np.zeros(count, dtype=np.int64) for name in ("count", "sum_x", "sum_y")}
    for top in range(0, rect.rows, STRIP):
        label = image[top : top + STRIP]
        y, x = np.ogrid[top + rect.y0 : top + rect.y0 + len(label), rect.x0 : rect.x1]
        sums["count"] += np.bincount(label.ravel(), minlength=count)
        for name, place in (("sum_x", x), ("sum_y", y)):
            # Sums of whole numbers below 2**53 are exact in float64.
            weights = np.broadcast_to(place, label.shape).ravel()
            sums[name] += np.bincount(label.ravel(), weights=weights, minlength=count).astype(np.int64)
    return {name: column[1:] for name, column in sums.items()}


def _at_edge(image: I32, rect: Rect, grid: CellGrid, count: int) -> I64:
    """Return which components touch the raster's edge."""
    found = np.zeros(count + 1, dtype=np.int64)
    for edge, there in (
        (image[0], rect.y0 == 0),
        (image[-1], rect.y1 == grid.rows),
        (image[:, 0], rect.x0 == 0),
        (image[:, -1], rect.x1 == grid.cols),
    ):
        if there:
            found[edge] = 1
    return found[1:]


def _pixels(image: I32, chosen: npt.NDArray[Any], rect: Rect, raster_cols: int) -> tuple[I64, I64]:
    """Return the pixels of chosen components one after the other, and where each starts; of -1 there are none."""
    rank = np.full(int(image.max(initial=0)) + 2, -1, dtype=np.int64)  # the last one is for -1
    rank[chosen] = np.arange(len(chosen))
    rank[-1] = -1
    found, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for top in range(0, rect.rows, STRIP):
        place = rank[image[top : top + STRIP].ravel()]
        at = np.flatnonzero(place >= 0)
        found.append(at + top * rect.cols)
        places.append(place[at])
    at, place = np.concatenate(found), np.concatenate(places)
    order = np.argsort(place, kind="stable")
    y, x = np.divmod(at[order], rect.cols)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(chosen)))])
    return (y + rect.y0) * raster_cols + x + rect.x0, offsets.astype(np.int64)


def clean(stage: Clean, executor: Executor) -> int:
    """Find what is too small; the stage can then be read. Returns the bytes of its parts."""
    Path(stage.folder).mkdir(parents=True, exist_ok=True)
    tasks = [(stage, i) for i in range(stage.grid.count)]
    size = sum(executor.map(measure_cell, tasks, f"{stage.name}: {stage.kind}s"))
    small, offsets = _decide(stage)
    down, across = stage.grid.shape
    for row in range(down):
        turned = []
        for index in range(row * across, (row + 1) * across):
            arrays = parts.load(stage.path("pieces", index), ["turned", "pixel", "offsets"])
            turned.append(arrays["turned"])
            chosen = np.flatnonzero(small[offsets[index] : offsets[index + 1]])
            turned.append(arrays["pixel"][gather(arrays["offsets"], chosen)[0]])
        size += parts.save_array(stage.turned(row), np.sort(np.concatenate(turned)))
    return size


def _decide(stage: Clean) -> tuple[Bools, I64]:
    """Return which pieces of components over cells' edges are to be turned over, and where those of each cell start."""
    grid, speck = stage.grid, stage.kind == "speck"
    loaded = [parts.load(stage.path("pieces", i), [*SUMS, *EDGES]) for i in range(grid.count)]
    offsets = np.concatenate([[0], np.cumsum([len(a["count"]) for a in loaded])]).astype(np.int64)
    edges = [{side: np.where(a[side] >= 0, a[side] + offsets[i], -1) for side in EDGES} for i, a in enumerate(loaded)]
    one, two = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    shifts = (-1, 0, 1) if speck else (0,)
    down, across = grid.shape
    for index in range(grid.count):
        row, col = divmod(index, across)
        met = []
        if col + 1 < across:
            met += [_beside(edges[index]["right"], edges[index + 1]["left"], s) for s in shifts]
        if row + 1 < down:
            met += [_beside(edges[index]["bottom"], edges[index + across]["top"], s) for s in shifts]
        if speck and row + 1 < down:  # corner to corner
            if col + 1 < across:
                met.append((edges[index]["bottom"][-1:], edges[index + across + 1]["top"][:1]))
            if col > 0:
                met.append((edges[index]["bottom"][:1], edges[index + across - 1]["top"][-1:]))
        for a, b in met:
            both = (a >= 0) & (b >= 0)
            one.append(a[both])
            two.append(b[both])
    count = int(offsets[-1])
    component = unite(count, np.concatenate(one), np.concatenate(two)) if count else np.empty(0, np.int64)
    groups = int(component.max()) + 1 if count else 0
    sums = {name: sum_by(component, groups, np.concatenate([a[name] for a in loaded])) for name in SUMS}
    small = stage.least.above(sums, stage.ground) & (sums["open"] == 0)
    return small[component], offsets


def _beside(a: I64, b: I64, shift: int) -> tuple[I64, I64]:
    """Return the entries of two edges that face each other, the second moved by `shift`."""
    if shift == 0:
        return a, b
    return (a[:-1], b[1:]) if shift > 0 else (a[1:], b[:-1])
