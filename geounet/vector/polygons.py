"""Exact polygons of a raster larger than memory.

1. `trace_cell`, a task for each cell: components that do not touch the cell's edge are finished; of the others it
   hands over fragments and chains of vertices.
2. `plan`, in the driver: unites fragments by union-find, links chains to rings, and writes plans: which chains, in
   which order, make the components that cross cells. Geometry stays in the files.
3. `assemble`, a task for each plan: puts the chains together.

The polygons equal those of the whole raster in one piece, whatever the cell: integer pixel coordinates, 4-connected,
rings from their first vertex in raster order, components by their first pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geounet.types import Executor, Rect
from geounet.vector import parts
from geounet.vector.cells import CellGrid
from geounet.vector.components import EDGES, Fragments, Labels, edge_labels, label_cell, least_by, sum_by, unite
from geounet.vector.confidence import sums
from geounet.vector.source import U8, Plane, ProbabilityPlane
from geounet.vector.trace import I32, I64, Bools, Pieces, chain_order, corners, trace

PLAN_VERTICES = 50_000
"""Vertices of a plan of components that cross cells; a single component may have more."""

TABLE = ("first", "value", "count", "total", "counted")


@dataclass(frozen=True)
class Polygons:
    """Polygons in pixel coordinates, ordered by `first`.

    `first` is the raster index of the first pixel, `count` the number of pixels, `total` and `counted` the sum and
    number of stored probabilities. `coords` `(vertices, 2)` int32 are `x, y`; ring `i` has those from `rings[i]` to
    `rings[i + 1]`, not closed, clockwise (y down) for shells; polygon `j` has the rings from `shells[j]` to
    `shells[j + 1]`, its shell first. `junction` tells vertices where three or more borders meet.
    """

    first: I64
    value: U8
    count: I64
    total: I64
    counted: I64
    coords: I32
    junction: Bools
    rings: I64
    shells: I64

    def arrays(self, prefix: str = "") -> parts.Arrays:
        """Return the arrays by name."""
        return {prefix + name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: parts.Arrays, prefix: str = "") -> Polygons:
        """Return polygons from arrays by name."""
        return cls(**{name: arrays[prefix + name] for name in cls.__dataclass_fields__})

    def __len__(self) -> int:
        return len(self.first)

    def part(self, low: int, high: int) -> Polygons:
        """Return the polygons from `low` to `high`."""
        rings = slice(self.shells[low], self.shells[high] + 1)
        offsets = self.rings[rings]
        vertices = slice(offsets[0], offsets[-1])
        return Polygons(
            **{name: getattr(self, name)[low:high] for name in TABLE},
            coords=self.coords[vertices],
            junction=self.junction[vertices],
            rings=offsets - offsets[0],
            shells=self.shells[low : high + 1] - self.shells[low],
        )


@dataclass(frozen=True)
class Stage:
    """What to polygonize, where, and under which name its parts stand."""

    plane: Plane
    probability: ProbabilityPlane | None
    grid: CellGrid
    folder: str
    name: str
    junctions: bool = False

    def path(self, what: str, index: int) -> Path:
        """Return a part's file."""
        return Path(self.folder) / f"{self.name}-{what}-{index}.npz"


def gather(offsets: I64, chosen: I64) -> tuple[I64, I64]:
    """Return the indices of all elements of chosen runs, one after the other, and the offsets of the runs in them."""
    sizes = np.diff(offsets)[chosen]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return np.arange(starts[-1]) - np.repeat(starts[:-1] - offsets[chosen], sizes), starts


def trace_cell(task: tuple[Stage, int]) -> dict[str, int]:
    """Label and trace one cell; writes its part unless it is there. Returns a receipt."""
    stage, index = task
    path = stage.path("cell", index)
    if not path.exists():
        rect = stage.grid.rect(index)
        halo = stage.plane.read(Rect(rect.y0 - 1, rect.x0 - 1, rect.y1 + 1, rect.x1 + 1))
        values = np.ascontiguousarray(halo[1:-1, 1:-1])
        labels = label_cell(values, rect, stage.grid.cols)
        total, counted = sums(stage.probability, rect, values, labels)
        pieces = trace(halo, labels.image, labels.touches, rect, stage.grid.cols, junctions=stage.junctions)
        parts.save(path, _cell_arrays(stage, halo, labels, total, counted, pieces))
    sizes = parts.load(path, ["sizes"])["sizes"]
    return {"index": index, "components": int(sizes[0]), "fragments": int(sizes[1]), "bytes": path.stat().st_size}


def _cell_arrays(stage: Stage, halo: U8, labels: Labels, total: I64, counted: I64, pieces: Pieces) -> dict[str, Any]:
    table: parts.Arrays = {
        "first": labels.first, "value": labels.value, "count": labels.count, "total": total, "counted": counted
    }  # fmt: skip
    crossing = labels.touches[1:]
    inner = ~labels.touches[pieces.label]
    # Pieces come by label and then by first vertex, which for finished components puts the shell first.
    rings = np.flatnonzero(inner)
    elements, offsets = gather(pieces.offsets, rings)
    done = Polygons(
        **{name: column[~crossing] for name, column in table.items()},
        coords=pieces.coords[elements],
        junction=pieces.junction[elements],
        rings=offsets,
        shells=group_offsets(pieces.label[rings]),
    )
    check_areas(done)
    renumber = np.full(len(crossing) + 1, -1, dtype=np.int32)
    renumber[1:][crossing] = np.arange(int(crossing.sum()))
    handed = np.flatnonzero(~inner)
    elements, offsets = gather(pieces.offsets, handed)
    arrays = done.arrays()
    arrays |= {f"fragment_{name}": column[crossing] for name, column in table.items()}
    arrays |= edge_labels(labels.image, renumber)
    arrays |= {
        "piece_coords": pieces.coords[elements],
        "piece_junction": pieces.junction[elements],
        "piece_offsets": offsets,
        "piece_fragment": renumber[pieces.label[handed]],
        "piece_start": pieces.start[handed],
        "piece_end": pieces.end[handed],
        "piece_same": pieces.same[handed],
        "piece_other": renumber[np.maximum(pieces.other[handed], 0)],
        "piece_other_pixel": pieces.other_pixel[handed],
        "sizes": np.array([len(done), int(crossing.sum()), len(pieces.coords)]),
    }
    if stage.junctions:
        found = corners(halo)
        arrays |= {"corners": np.packbits(found), "corners_shape": np.array(found.shape)}
    return arrays


def group_offsets(group: npt.NDArray[Any]) -> I64:
    """Return where runs of equal entries start, and the end."""
    if len(group) == 0:
        return np.zeros(1, np.int64)
    return np.concatenate([[0], np.flatnonzero(np.diff(group)) + 1, [len(group)]]).astype(np.int64)


def signed_areas(coords: I32, rings: I64) -> I64:
    """Return the signed area of each ring in pixels, positive for shells. Exact."""
    if len(rings) < 2:
        return np.empty(0, np.int64)
    x, y = coords[:, 0].astype(np.int64), coords[:, 1].astype(np.int64)
    after = np.arange(1, len(coords) + 1)
    after[rings[1:] - 1] = rings[:-1]
    return np.add.reduceat(x * y[after] - x[after] * y, rings[:-1]) // 2


def check_areas(polygons: Polygons) -> None:
    """Assert that areas equal pixel counts: outlines that were linked wrongly cannot pass."""
    if len(polygons) == 0:
        return
    found = np.add.reduceat(signed_areas(polygons.coords, polygons.rings), polygons.shells[:-1])
    wrong = np.flatnonzero(found != polygons.count)
    if len(wrong):
        i = wrong[0]
        raise AssertionError(f"component {polygons.first[i]}: area {found[i]} px, {polygons.count[i]} pixels")


@dataclass(frozen=True)
class Traced:
    """What the driver knows after tracing: how many polygons are in which files."""

    cells: int
    plans: int
    components: int
    crossing: int
    driver_bytes: int
    part_bytes: int


def plan(stage: Stage, most: int = PLAN_VERTICES) -> tuple[int, int, int]:
    """Link what crosses cells; writes plans. Returns the numbers of plans and components, and the bytes held.

    Parameters
    ----------
    stage
        What was traced.
    most
        Vertices of a plan, unless a single component has more.
    """
    grid = stage.grid
    fragments = Fragments(grid)
    tables: dict[str, list[Any]] = {name: [] for name in TABLE}
    heads: dict[str, list[Any]] = {name: [] for name in ("start", "end", "same", "other_pixel")}
    of_fragment, of_other, cell_of, index_of, sizes = [], [], [], [], []
    base = 0
    for index in range(grid.count):
        names = [f"fragment_{n}" for n in TABLE] + list(EDGES) + [f"piece_{n}" for n in heads]
        arrays = parts.load(stage.path("cell", index), [*names, "piece_fragment", "piece_other", "piece_offsets"])
        fragments.add(index, arrays["fragment_value"], {name: arrays[name] for name in EDGES})
        for name, column in tables.items():
            column.append(arrays[f"fragment_{name}"])
        for name, column in heads.items():
            column.append(arrays[f"piece_{name}"])
        pieces = len(arrays["piece_start"])
        of_fragment.append(arrays["piece_fragment"].astype(np.int64) + base)
        of_other.append(np.where(arrays["piece_other"] >= 0, arrays["piece_other"].astype(np.int64) + base, -1))
        cell_of.append(np.full(pieces, index, dtype=np.int32))
        index_of.append(np.arange(pieces, dtype=np.int32))
        sizes.append(np.diff(arrays["piece_offsets"]).astype(np.int32))
        base += len(arrays["fragment_value"])
    if base == 0:
        return 0, 0, 0
    a, b = fragments.pairs()
    values = fragments.all_values()
    equal = values[a] == values[b]
    united = unite(base, a[equal], b[equal])
    table = {name: np.concatenate(column) for name, column in tables.items()}
    groups = int(united.max()) + 1
    first = least_by(united, groups, table["first"])
    by_first = np.argsort(first)
    number = np.empty(groups, dtype=np.int64)
    number[by_first] = np.arange(groups)
    component = number[united]
    summed = {name: sum_by(component, groups, table[name]) for name in ("count", "total", "counted")}
    value = np.empty(groups, dtype=np.uint8)
    value[component] = values

    start, end, same, other_pixel = (np.concatenate(heads[name]) for name in heads)
    owner = component[np.concatenate(of_fragment)]
    other = np.concatenate(of_other)
    asked = np.flatnonzero(other_pixel >= 0)
    other[asked] = fragments.at_pixel(other_pixel[asked])
    met = np.flatnonzero(other >= 0)
    met = met[component[other[met]] == owner[met]]
    end[met] = same[met]
    by_start = np.argsort(start)
    place = np.searchsorted(start[by_start], end)
    following = by_start[np.minimum(place, len(start) - 1)]
    if not np.array_equal(start[following], end):
        raise AssertionError("an outline that leaves a cell does not go on in the next one")
    order, offsets, closed = chain_order(following, start, owner)
    if not closed.all():
        raise AssertionError("an outline does not close")
    cells, index_in, size = (np.concatenate(c) for c in (cell_of, index_of, sizes))
    ring_owner = owner[order[offsets[:-1]]]
    vertices = np.zeros(groups, dtype=np.int64)
    np.add.at(vertices, owner, size)
    linking = (start, end, same, other_pixel, owner, other, by_start, following, order, cells, index_in, size)
    held = sum(int(c.nbytes) for c in linking)
    held += sum(c.nbytes for c in table.values()) + component.nbytes + a.nbytes + b.nbytes

    # Components in order of their first pixel, as many to a plan as fit.
    plan_of = np.cumsum(vertices) // most
    bounds = group_offsets(plan_of)
    for k in range(len(bounds) - 1):
        low, high = bounds[k], bounds[k + 1]
        path = stage.path("plan", k)
        r0, r1 = np.searchsorted(ring_owner, [low, high])
        chosen = order[offsets[r0] : offsets[r1]]
        parts.save(
            path,
            {
                "cell": cells[chosen],
                "piece": index_in[chosen],
                "size": size[chosen],
                "offsets": offsets[r0 : r1 + 1] - offsets[r0],
                "component": ring_owner[r0:r1] - low,
                "first": first[by_first][low:high],
                "value": value[low:high],
                **{name: column[low:high] for name, column in summed.items()},
            },
        )
    return len(bounds) - 1, groups, held


def assemble(stage: Stage, index: int) -> Polygons:
    """Put together the components of a plan."""
    arrays = parts.load(stage.path("plan", index))
    size = arrays["size"].astype(np.int64)
    where = np.concatenate([[0], np.cumsum(size)])
    coords = np.empty((where[-1], 2), dtype=np.int32)
    junction = np.empty(where[-1], dtype=np.bool_)
    for cell in np.unique(arrays["cell"]):
        part = parts.load(stage.path("cell", int(cell)), ["piece_coords", "piece_junction", "piece_offsets"])
        mine = np.flatnonzero(arrays["cell"] == cell)
        source, _ = gather(part["piece_offsets"], arrays["piece"][mine].astype(np.int64))
        target, _ = gather(where, mine)
        coords[target], junction[target] = part["piece_coords"][source], part["piece_junction"][source]
    rings = where[arrays["offsets"]]
    coords, junction, rings = _without_straight(coords, junction, rings, keep_junctions=stage.junctions)
    coords, junction, rings, owner = _canonical(coords, junction, rings, arrays["component"], stage.grid.cols)
    polygons = Polygons(
        **{name: arrays[name] for name in TABLE},
        coords=coords,
        junction=junction,
        rings=rings,
        shells=group_offsets(owner),
    )
    check_areas(polygons)
    return polygons


def _without_straight(coords: I32, junction: Bools, rings: I64, *, keep_junctions: bool) -> tuple[I32, Bools, I64]:
    """Drop the vertices where an outline goes straight on from one cell into the next."""
    after = np.arange(1, len(coords) + 1)
    after[rings[1:] - 1] = rings[:-1]
    before = np.arange(-1, len(coords) - 1)
    before[rings[:-1]] = rings[1:] - 1
    straight = (coords[before] == coords[after]).any(axis=1)
    if keep_junctions:
        straight &= ~junction
    kept = np.concatenate([[0], np.cumsum(~straight)])
    return coords[~straight], junction[~straight], kept[rings]


def _canonical(coords: I32, junction: Bools, rings: I64, owner: I64, raster_cols: int) -> tuple[I32, Bools, I64, I64]:
    """Start each ring at its first vertex in raster order, and order the rings of a component by it: shell first."""
    rank = coords[:, 1].astype(np.int64) * (raster_cols + 1) + coords[:, 0]
    least = np.minimum.reduceat(rank, rings[:-1])
    sizes = np.diff(rings)
    shift = np.flatnonzero(rank == np.repeat(least, sizes)) - rings[:-1]
    order = np.lexsort((least, owner))
    elements, offsets = gather(rings, order)
    begin = np.repeat(rings[order], sizes[order])
    elements = begin + (elements - begin + np.repeat(shift[order], sizes[order])) % np.repeat(
        sizes[order], sizes[order]
    )
    return coords[elements], junction[elements], offsets, owner[order]


def polygonize(stage: Stage, executor: Executor) -> Traced:
    """Trace all cells and link what crosses them; the polygons are then in the parts, see `polygons_of`."""
    Path(stage.folder).mkdir(parents=True, exist_ok=True)
    components = size = 0
    for receipt in executor.map(trace_cell, [(stage, i) for i in range(stage.grid.count)], f"{stage.name}: outlines"):
        components += receipt["components"]
        size += receipt["bytes"]
    plans, crossing, held = plan(stage)
    return Traced(stage.grid.count, plans, components + crossing, crossing, held, size)


def polygons_of(stage: Stage, what: str, index: int) -> Polygons:
    """Return the polygons of a part: `cell`, those inside of a cell; `plan`, those that cross cells."""
    if what == "plan":
        return assemble(stage, index)
    return Polygons.from_arrays(parts.load(stage.path("cell", index), list(Polygons.__dataclass_fields__)))


def all_polygons(stage: Stage, traced: Traced) -> Iterator[Polygons]:
    """Yield the polygons of all parts."""
    for index in range(traced.cells):
        yield polygons_of(stage, "cell", index)
    for index in range(traced.plans):
        yield polygons_of(stage, "plan", index)
