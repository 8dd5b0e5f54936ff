"""Lines and points of the finished network: from pixels to features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely

from geounet.config.job import Roads
from geounet.types import NODATA, Executor
from geounet.vector import edges, junctions, parts, smooth
from geounet.vector.attributes import F64, Ground
from geounet.vector.confidence import mean
from geounet.vector.features import nullable
from geounet.vector.network import Graph, Paths
from geounet.vector.prune import Metric
from geounet.vector.schema import ROAD_EDGES, ROAD_NODES
from geounet.vector.skeleton import Lines, Stage
from geounet.vector.trace import I64, Bools

NARROWER = 0.5
"""A road is narrower than twice the distance to the nearest pixel outside by about so many pixels."""

JUNCTION, DEAD, GAP, LOOP, EXIT = range(5)
"""What the end of a line is at: a junction, nothing, a bridge, the line itself, the raster's edge."""

SEEN = ("cut", "x", "y", "dx", "dy", "reach", "disc")
"""What is known of the end of a line; see `edges.Ends`. `disc` is that around its first pixel: x, y, radius."""

FILE = pa.schema([pa.field("id", pa.int64()), *ROAD_EDGES.arrow])


def drawn(
    stage: Stage,
    executor: Executor,
    ground: Ground,
    metric: Metric,
    section: Roads,
    paths: Paths,
    graph: Graph,
    found: parts.Arrays | None,
) -> tuple[tuple[Path, ...], pa.Table]:
    """Make the features of both layers.

    Parameters
    ----------
    stage, executor, ground, metric, section
        As in `roads`.
    paths, graph
        The finished network.
    found
        Bridges in it, see `bridge.FOUND`.

    Returns
    -------
    files, nodes
        Files of the edges' features, and the nodes' features.
    """
    kind = _kinds(graph, paths.exits)
    lines = np.flatnonzero(graph.bridge < 0)
    part = graph.chosen(lines)
    kind, node = kind[lines], np.column_stack([part.start, part.end])
    columns: parts.Arrays = {"id": lines, "kind": kind, "node": node, "several": _several(graph)[lines]}
    plans = edges.write_plans(stage, "edge", paths, part.chains, part.size, columns)
    for _ in executor.map(look_at_ends, [(stage, metric, k) for k in range(plans)], f"{stage.name}: ends"):
        pass
    x, y = _places(stage, graph, metric, kind, node, plans)
    tasks = []
    for k in range(plans):
        mine = parts.load(stage.part("edge", k), ["node"])["node"]
        parts.save(stage.part("places", k), {"x": x[mine], "y": y[mine]})
        tasks.append((stage, ground, metric, section, k))
    for _ in executor.map(draw, tasks, f"{stage.name}: lines"):
        pass
    files = [_file(stage, k) for k in range(plans + 1)]
    parts.save_tables(files[-1], [_bridges(graph, ground, metric, found, x, y)])
    return tuple(files), _nodes(graph, ground, metric, x, y)


def _file(stage: Stage, index: int) -> Path:
    return stage.part("features", index).with_suffix(".arrow")


def _kinds(graph: Graph, exits: I64) -> I64:
    """Return what the ends of edges are at, `(edges, 2)`."""
    degree = graph.degree
    bridged = np.zeros(len(degree), dtype=np.bool_)
    bridged[graph.start[graph.bridge >= 0]] = bridged[graph.end[graph.bridge >= 0]] = True
    kind = np.full(len(degree), JUNCTION)
    kind[degree == 1] = DEAD
    kind[(degree == 1) & np.isin(graph.pixel, exits)] = EXIT
    kind[(degree == 2) & bridged] = GAP
    kind[graph.start[graph.start == graph.end]] = LOOP
    kind[degree > 2] = JUNCTION
    return np.column_stack([kind[graph.start], kind[graph.end]])


def _several(graph: Graph) -> Bools:
    """Return which edges need a course of their own: those beside others between the same nodes, and loops."""
    low, high = np.minimum(graph.start, graph.end), np.maximum(graph.start, graph.end)
    _, inverse, count = np.unique(low * (len(graph.pixel) + 1) + high, return_inverse=True, return_counts=True)
    several: Bools = (count[inverse] > 1) | (low == high)
    return several


def look_at_ends(task: tuple[Stage, Metric, int]) -> int:
    """Write the pixels of a plan's edges, and what is seen at their ends; returns the bytes."""
    stage, metric, index = task
    path = stage.part("ends", index)
    if not path.exists():
        plan = parts.load(stage.part("edge", index))
        lines = edges.assembled(stage, plan)
        parts.save(stage.part("pixels", index), lines.arrays())
        run = edges.course(lines, stage.grid.cols, metric)
        arrays: parts.Arrays = {}
        whole = (stage.grid.cols * metric.scale[0], stage.grid.rows * metric.scale[1])
        free, leaves = np.isin(plan["kind"], (DEAD, GAP)), plan["kind"] == EXIT
        # What is cut off at both ends must leave something; loops, and edges beside others, keep a course of their own.
        steps = np.diff(lines.offsets) - 1
        short = (free | leaves).all(axis=1) | plan["several"]
        for k, last in enumerate((False, True)):
            most = np.where(short, steps // 3, np.where((free | leaves)[:, k], 2 * steps // 3, steps))
            ends = edges.ends_of(run, last=last, free=free[:, k], leaves=leaves[:, k], whole=whole, most=most)
            at = lines.offsets[1:] - 1 if last else lines.offsets[:-1]
            disc = np.column_stack([run.x[at], run.y[at], run.radius[at]])
            arrays |= {f"{name}{k}": disc if name == "disc" else getattr(ends, name) for name in SEEN}
        parts.save(path, arrays)
    return path.stat().st_size


def _places(stage: Stage, graph: Graph, metric: Metric, kind: I64, node: I64, plans: int) -> tuple[F64, F64]:
    """Return where nodes are, in pixels of equal size: junctions where roads cross, dead ends where the road ends."""
    sx, sy = metric.scale
    x, y = graph.x * sx, graph.y * sy
    if not plans:
        return x, y
    loaded = [parts.load(stage.part("ends", k)) for k in range(plans)]
    seen = {name: np.concatenate([a[f"{name}{k}"] for k in (0, 1) for a in loaded]) for name in SEEN}
    kind, node = kind.T.ravel(), node.T.ravel()
    # A line that ends within its disc tells no direction.
    at = np.flatnonzero((kind == JUNCTION) & (np.hypot(seen["dx"], seen["dy"]) > 0.5))
    arms = junctions.Arms(node[at], *(seen[name][at] for name in ("x", "y", "dx", "dy", "disc")))
    x, y = junctions.crossings(len(x), x, y, arms)
    at = np.flatnonzero((kind == DEAD) | (kind == GAP))
    reach = np.where(kind[at] == DEAD, seen["reach"][at], 0)
    x[node[at]] = np.clip(seen["x"][at] + reach * seen["dx"][at], 0, stage.grid.cols * sx)
    y[node[at]] = np.clip(seen["y"][at] + reach * seen["dy"][at], 0, stage.grid.rows * sy)
    # From the middle of its last pixel a line goes on to the raster's edge.
    for place, half, size in ((x, sx / 2, stage.grid.cols * sx), (y, sy / 2, stage.grid.rows * sy)):
        at = node[kind == EXIT]
        place[at] = np.where(place[at] <= half, 0, np.where(place[at] >= size - half, size, place[at]))
    return x, y


def draw(task: tuple[Stage, Ground, Metric, Roads, int]) -> int:
    """Write the features of a plan's edges; returns the bytes."""
    stage, ground, metric, section, index = task
    path = _file(stage, index)
    if not path.exists():
        plan = parts.load(stage.part("edge", index))
        lines = Lines(**parts.load(stage.part("pixels", index)))
        cuts = parts.load(stage.part("ends", index), ["cut0", "cut1"])
        run = edges.course(lines, stage.grid.cols, metric)
        kept, offsets = _kept(lines.offsets, plan, cuts["cut0"], cuts["cut1"])
        coords, bounds = _lines(run, kept, offsets, parts.load(stage.part("places", index)), plan, section)
        known = lines.stored != NODATA
        columns = {
            "id": plan["id"],
            "node": plan["node"],
            "width": _widths(run, kept, offsets) * metric.pixel,
            "total": np.add.reduceat(np.where(known, lines.stored, 0).astype(np.int64), lines.offsets[:-1]),
            "counted": np.add.reduceat(known.astype(np.int64), lines.offsets[:-1]),
        }
        parts.save_tables(path, [_table(ground, coords / np.array(metric.scale), bounds, columns, bridged=False)])
    return path.stat().st_size


def _kept(offsets: I64, plan: parts.Arrays, cut0: I64, cut1: I64) -> tuple[I64, I64]:
    """Return the vertices of lines that lie outside of junctions and hooks, and where each line's start."""
    size = np.diff(offsets)
    loop = plan["kind"] == LOOP
    first = np.where(loop[:, 0], 1, cut0)
    last = size - np.where(loop[:, 1], 1, cut1)
    count = np.maximum(last - first, 0)
    bounds = np.concatenate([[0], np.cumsum(count)])
    return np.arange(bounds[-1]) - np.repeat(bounds[:-1] - offsets[:-1] - first, count), bounds


def _lines(
    run: edges.Course, kept: I64, offsets: I64, places: parts.Arrays, plan: parts.Arrays, section: Roads
) -> tuple[F64, I64]:
    """Return smooth lines between the places of nodes, in pixels of equal size, and where each starts."""
    bounds = np.concatenate([[0], np.cumsum(np.diff(offsets) + 2)])
    inner = np.ones(bounds[-1], dtype=np.bool_)
    inner[bounds[:-1]] = inner[bounds[1:] - 1] = False
    coords, radius = np.empty((bounds[-1], 2)), np.empty(bounds[-1])
    coords[inner] = np.column_stack([run.x[kept], run.y[kept]])
    radius[inner] = run.radius[kept]
    for k, (at, end) in enumerate(((bounds[:-1], run.offsets[:-1]), (bounds[1:] - 1, run.offsets[1:] - 1))):
        coords[at] = np.column_stack([places["x"][:, k], places["y"][:, k]])
        radius[at] = run.radius[end]
    usual = edges.medians(run.radius, run.offsets)
    coords, radius, bounds = smooth.resampled(coords, radius, bounds)
    if section.smooth_widths > 0:
        room = np.maximum(smooth.ROOM * (radius - 0.5), 0)
        coords = smooth.smoothed(coords, bounds, 2 * section.smooth_widths * usual, room)
    room = np.maximum((1 - smooth.ROOM) * radius, 0.25)
    loops = plan["node"][:, 0] == plan["node"][:, 1]
    return smooth.simplified(coords, bounds, np.full(len(loops), section.tolerance_px), room, loops)


def _widths(run: edges.Course, kept: I64, offsets: I64) -> F64:
    """Return the usual width of each line outside of junctions, in pixels."""
    counts = np.zeros(len(run.x), dtype=np.bool_)
    counts[kept] = True
    # A line all of which lies in junctions has no other width.
    empty = np.diff(offsets) == 0
    counts |= empty[run.line]
    index = np.flatnonzero(counts)
    bounds = np.concatenate([[0], np.cumsum(np.bincount(run.line[index], minlength=len(offsets) - 1))])
    return np.maximum(2 * edges.medians(run.radius[index], bounds) - NARROWER, 0)


def _table(ground: Ground, coords: F64, offsets: I64, columns: parts.Arrays, *, bridged: bool) -> pa.Table:
    """Return features of lines in pixel coordinates; `width` in metres at the raster's centre."""
    count = len(columns["id"])
    mapped = shapely.from_ragged_array(shapely.GeometryType.LINESTRING, ground.to_map(coords), (offsets,))
    if ground.known:
        lengths = ground.lengths(coords, offsets)
        middle = coords[(offsets[:-1] + offsets[1:]) // 2]
        here = np.sqrt(ground.pixel_areas(middle[:, 0], middle[:, 1]))
        widths = columns["width"] / ground.gsd * here
    else:
        lengths = widths = np.full(count, np.nan)
    return pa.table(
        [
            pa.array(columns["id"], pa.int64()),
            pa.array(shapely.to_wkb(mapped), pa.binary()),
            pa.array(columns["node"][:, 0] + 1, pa.int64()),
            pa.array(columns["node"][:, 1] + 1, pa.int64()),
            nullable(lengths, pa.float64()),
            nullable(widths, pa.float32()),
            nullable(mean(columns["total"], columns["counted"]), pa.float32()),
            pa.array(np.full(count, bridged)),
        ],
        schema=FILE,
    )


def _bridges(graph: Graph, ground: Ground, metric: Metric, found: parts.Arrays | None, x: F64, y: F64) -> pa.Table:
    """Return the features of bridges: straight, as wide as the dead end that they start from."""
    edge = np.flatnonzero(graph.bridge >= 0)
    if found is None or not len(edge):
        return FILE.empty_table()
    node = np.column_stack([graph.start[edge], graph.end[edge]])
    bridge = graph.bridge[edge]
    coords = np.column_stack([x[node.ravel()], y[node.ravel()]]) / np.array(metric.scale)
    columns = {
        "id": edge,
        "node": node,
        "width": np.maximum(2 * found["radius"][bridge] - NARROWER, 0) * metric.pixel,
        "total": found["total"][bridge],
        "counted": found["counted"][bridge],
    }
    return _table(ground, coords, np.arange(0, 2 * len(edge) + 1, 2), columns, bridged=True)


def _nodes(graph: Graph, ground: Ground, metric: Metric, x: F64, y: F64) -> pa.Table:
    count = len(graph.pixel)
    if count == 0:
        return ROAD_NODES.arrow.empty_table()
    points = shapely.points(ground.to_map(np.column_stack([x, y]) / np.array(metric.scale)))
    return pa.table(
        [
            pa.array(shapely.to_wkb(points), pa.binary()),
            pa.array(np.arange(1, count + 1), pa.int64()),
            pa.array(graph.degree, pa.int32()),
        ],
        schema=ROAD_NODES.arrow,
    )
