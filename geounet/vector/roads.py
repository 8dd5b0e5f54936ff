"""The layers `road_edges` and `road_nodes`: centre lines as a network that can be routed on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geounet.config.job import Roads
from geounet.types import Executor
from geounet.vector import edges, junctions, parts
from geounet.vector.attributes import Ground
from geounet.vector.bridge import TIP, Rules, Search, bridges
from geounet.vector.clean import Clean, Kind, Least, clean
from geounet.vector.crossing import led
from geounet.vector.draw import drawn
from geounet.vector.mend import mended
from geounet.vector.network import Graph, Paths, contract, thinned
from geounet.vector.prune import Metric, lasting
from geounet.vector.schema import ROAD_EDGES
from geounet.vector.skeleton import Stage, weights_of


@dataclass(frozen=True)
class RoadLayers:
    """Features of both layers in order, and what is to be said about them.

    `paths` are files of the edges' features; `counts` what was found and done; `driver_bytes` is what the driver held.
    """

    paths: tuple[Path, ...]
    nodes: pa.Table
    counts: dict[str, int]
    inexact_cells: int
    driver_bytes: int
    part_bytes: int

    def edge_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the features of `road_edges`."""
        yield from parts.merged(self.paths, ROAD_EDGES.arrow)

    def node_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the features of `road_nodes`."""
        yield from self.nodes.to_batches(max_chunksize=parts.BATCH)

    @property
    def edges(self) -> pa.Table:
        """All features of `road_edges`, in memory."""
        return pa.Table.from_batches(list(self.edge_batches()), schema=ROAD_EDGES.arrow)


def roads(stage: Stage, executor: Executor, ground: Ground, section: Roads) -> RoadLayers:
    """Make the road network of a raster.

    What is known of the paths of centre lines without their pixels, and the graph, are in the driver's memory.

    Parameters
    ----------
    stage
        The class's pixels: 1, other pixels 0, no data 255.
    executor
        Runs the cells.
    ground
        Where pixels lie. Without a CRS nothing in metres is done.
    section
        The parameters.
    """
    Path(stage.folder).mkdir(parents=True, exist_ok=True)
    metric, stage = _measures(stage, ground)
    size = 0
    specks = _least(section.min_area_m2, section.min_area_px, ground)
    holes = _least(section.min_hole_m2, section.min_hole_px, ground)
    passes: tuple[tuple[Kind, Least], ...] = (("speck", specks), ("hole", holes))
    for kind, least in passes:
        if least.area > 0:
            cleaned = Clean(stage.plane, stage.grid, stage.folder, stage.name, ground, kind, least)
            size += clean(cleaned, executor)
            stage = replace(stage, plane=cleaned)
    paths, inexact, bytes_ = thinned(stage, executor)
    raw = contract(paths, stage.grid.cols)
    graph, found = network(stage, executor, metric, section, paths, raw, metres=ground.known)
    files, nodes = drawn(stage, executor, ground, metric, section, paths, graph, found)
    counts = {"paths": len(paths.table["low"]), "raw_edges": len(raw), "edges": len(graph)}
    counts["bridges"] = len(np.unique(graph.bridge[graph.bridge >= 0]))
    return RoadLayers(files, nodes, counts, inexact, paths.nbytes + 2 * raw.nbytes, size + bytes_)


def _least(metres: float, pixels: float | None, ground: Ground) -> Least:
    if pixels is not None:
        return Least(pixels, True)
    return Least(metres if ground.known else 0.0, False)


def _length(metres: float, pixels: float | None, metric: Metric, known: bool) -> float:
    """Return a length in pixels; 0 if it is given in metres and those are not known."""
    if pixels is not None:
        return pixels
    return metres / metric.pixel if known else 0.0


def _measures(stage: Stage, ground: Ground) -> tuple[Metric, Stage]:
    step = ground.step if ground.known else (1.0, 1.0)
    stage = replace(stage, weights=weights_of(step))
    return Metric(step, stage.unit), stage


def network(
    stage: Stage, executor: Executor, metric: Metric, section: Roads, paths: Paths, raw: Graph, *, metres: bool
) -> tuple[Graph, parts.Arrays | None]:
    """Return the network that centre lines mean, and the bridges in it."""
    widths, edge = section.spur_widths, (paths.exits, (stage.grid.rows, stage.grid.cols))
    graph = raw.chosen(lasting(raw, metric, 0.0, widths, *edge, loose=False)).smoothed() if widths > 0 else raw
    found = None
    rules = Rules(
        _length(section.bridge_m, section.bridge_px, metric, metres),
        section.bridge_probability,
        _length(section.bridge_blind_m, section.bridge_blind_px, metric, metres),
        float(np.radians(section.bridge_angle_deg)),
    )
    if rules.limit(stage.probability is not None) > 0:
        tips = _tips(stage, executor, metric, paths, graph)
        search = Search(stage, metric, rules)
        found, ways = bridges(search, tips, graph, paths, executor)
        found = led(search, tips, found, graph, ways, executor)
        graph = mended(stage, metric, paths, graph, tips, found, executor)
    shortest = _length(section.min_length_m, section.min_length_px, metric, metres) * metric.pixel
    if shortest > 0 or widths > 0:
        graph = graph.chosen(lasting(graph, metric, shortest, widths, *edge, loose=True)).smoothed()
    if section.junction_widths > 0:
        graph = junctions.clustered(graph, metric, section.junction_widths)
    return graph, found


def look_at_tips(task: tuple[Stage, Metric, int]) -> int:
    """Write what is seen at the dead ends of a plan's edges; returns how many there are."""
    stage, metric, index = task
    path = stage.part("seen", index)
    if not path.exists():
        plan = parts.load(stage.part("tip", index))
        lines = edges.assembled(stage, plan)
        run = edges.course(lines, stage.grid.cols, metric)
        columns: dict[str, list[npt.NDArray[np.generic]]] = {name: [] for name in TIP}
        for k, last in enumerate((False, True)):
            free = plan["free"][:, k]
            ends = edges.ends_of(run, last=last, free=free)
            at = lines.offsets[1:] - 1 if last else lines.offsets[:-1]
            known = {"pixel": lines.pixel[at], "node": plan["node"][:, k], "edge": plan["edge"]}
            for name in TIP:
                columns[name].append((known[name] if name in known else getattr(ends, name))[free])
        parts.save(path, {name: np.concatenate(column) for name, column in columns.items()})
    return len(parts.load(path, ["pixel"])["pixel"])


def _tips(stage: Stage, executor: Executor, metric: Metric, paths: Paths, graph: Graph) -> parts.Arrays:
    """Return what is seen at all dead ends, ascending by pixel."""
    chosen, free = edges.tips_of(graph)
    part = graph.chosen(chosen)
    columns = {"edge": chosen, "free": free, "node": np.column_stack([part.start, part.end])}
    plans = edges.write_plans(stage, "tip", paths, part.chains, part.size, columns)
    for _ in executor.map(look_at_tips, [(stage, metric, k) for k in range(plans)], f"{stage.name}: dead ends"):
        pass
    loaded = [parts.load(stage.part("seen", k)) for k in range(plans)]
    if not loaded:
        return {name: np.empty(0, np.int64) for name in TIP}
    table = {name: np.concatenate([a[name] for a in loaded]) for name in TIP}
    # Where the road goes on outside of the raster there is no gap.
    width, height = stage.grid.cols * metric.scale[0], stage.grid.rows * metric.scale[1]
    x, y = table["x"], table["y"]
    inside = np.minimum(np.minimum(x, width - x), np.minimum(y, height - y)) > table["radius"] + 2
    order = np.argsort(table["pixel"], kind="stable")
    order = order[inside[order]]
    return {name: column[order] for name, column in table.items()}
