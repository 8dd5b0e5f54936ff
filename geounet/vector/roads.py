"""The layers `road_edges` and `road_nodes`: centre lines as a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely

from geounet.types import NODATA, Executor
from geounet.vector import parts
from geounet.vector.attributes import F64, Ground
from geounet.vector.confidence import mean
from geounet.vector.features import nullable
from geounet.vector.network import Network, build
from geounet.vector.schema import ROAD_EDGES, ROAD_NODES
from geounet.vector.skeleton import Lines, Stage, joined, thin_cell
from geounet.vector.trace import I64


@dataclass(frozen=True)
class Roads:
    """Features of both layers in order, and what is to be said about them."""

    edges: pa.Table
    nodes: pa.Table
    inexact_cells: int
    driver_bytes: int

    def edge_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the features of `road_edges`."""
        yield from self.edges.to_batches(max_chunksize=parts.BATCH)

    def node_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the features of `road_nodes`."""
        yield from self.nodes.to_batches(max_chunksize=parts.BATCH)


def roads(stage: Stage, executor: Executor, ground: Ground, min_length_m: float, tolerance_px: float) -> Roads:
    """Make the road network of a raster.

    Paths of centre lines (17 bytes a pixel) and the graph are in the driver's memory.

    Parameters
    ----------
    stage
        The class's pixels.
    executor
        Runs the cells.
    ground
        Where pixels lie.
    min_length_m
        Shorter dead ends and loose pieces are left out.
    tolerance_px
        Largest deviation of a simplified line.
    """
    Path(stage.folder).mkdir(parents=True, exist_ok=True)
    inexact = 0
    for receipt in executor.map(
        thin_cell, [(stage, i) for i in range(stage.grid.count)], f"{stage.name}: centre lines"
    ):
        inexact += 1 - receipt["exact"]
    names = ["pixel", "squared", "stored", "offsets"]
    lines = joined([Lines(**parts.load(stage.path(i), names)) for i in range(stage.grid.count)])
    shortest = min_length_m if ground.known else 0.0
    network = build(lines, stage.grid.cols, shortest, ground.step if ground.known else (1.0, 1.0))
    held = sum(a.nbytes for a in (lines.pixel, lines.squared, lines.stored, lines.offsets))
    edges = _edges(network, stage, ground, tolerance_px)
    return Roads(edges, _nodes(network, ground), inexact, held)


def centre_lines(network: Network, cols: int, tolerance: float) -> tuple[F64, I64]:
    """Return the simplified lines of edges in pixels (Douglas-Peucker), and where each starts; ends are at nodes."""
    lines = network.lines
    y, x = np.divmod(lines.pixel, cols)
    coords = np.column_stack([x, y]) + 0.5
    coords[lines.offsets[:-1]] = network.position[network.start]
    coords[lines.offsets[1:] - 1] = network.position[network.end]
    raw = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, coords, (lines.offsets,))
    simple = shapely.simplify(raw, tolerance, preserve_topology=False) if tolerance > 0 else raw
    # A loop needs three sides to be seen.
    loop = network.start == network.end
    flat = loop & (shapely.get_num_coordinates(simple) < 4)
    _, coords, (offsets,) = shapely.to_ragged_array(np.where(flat, raw, simple))
    return coords, np.asarray(offsets, dtype=np.int64)


def _edges(network: Network, stage: Stage, ground: Ground, tolerance: float) -> pa.Table:
    count = len(network.start)
    if count == 0:
        return ROAD_EDGES.arrow.empty_table()
    coords, offsets = centre_lines(network, stage.grid.cols, tolerance)
    mapped = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, ground.to_map(coords), (offsets,))
    lines = network.lines
    if ground.known:
        lengths = ground.lengths(coords, offsets)
        widths = 2 * _medians(np.sqrt(lines.squared.astype(np.float64)), lines.offsets) * ground.gsd
    else:
        lengths = widths = np.full(count, np.nan)
    known = lines.stored != NODATA
    total = np.add.reduceat(np.where(known, lines.stored, 0).astype(np.int64), lines.offsets[:-1])
    counted = np.add.reduceat(known.astype(np.int64), lines.offsets[:-1])
    return pa.table(
        [
            pa.array(shapely.to_wkb(mapped), pa.binary()),
            pa.array(network.start + 1, pa.int64()),
            pa.array(network.end + 1, pa.int64()),
            nullable(lengths, pa.float64()),
            nullable(widths, pa.float32()),
            nullable(mean(total, counted), pa.float32()),
            pa.array(np.zeros(count, np.bool_)),
        ],
        schema=ROAD_EDGES.arrow,
    )


def _nodes(network: Network, ground: Ground) -> pa.Table:
    if len(network.node) == 0:
        return ROAD_NODES.arrow.empty_table()
    points = shapely.points(ground.to_map(network.position))
    return pa.table(
        [
            pa.array(shapely.to_wkb(points), pa.binary()),
            pa.array(np.arange(1, len(network.node) + 1), pa.int64()),
            pa.array(network.degree, pa.int32()),
        ],
        schema=ROAD_NODES.arrow,
    )


def _medians(values: F64, offsets: I64) -> F64:
    """Return the median of each run of values."""
    run = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ordered = values[np.lexsort((values, run))]
    size = np.diff(offsets)
    found: F64 = (ordered[offsets[:-1] + (size - 1) // 2] + ordered[offsets[:-1] + size // 2]) / 2
    return found
