"""Gaps in roads: where a dead end goes on behind a tree, a shadow or a car.

From each dead end two kinds of bridges are looked for: to another dead end, if both point at each other, and straight
on to the side of a road. A bridge is built if the gap is short and, where there are probabilities, the mean of those in
the gap says that there may be a road; it never leads over pixels without data, nor to where the network leads by a
short way already. Each dead end is used once, the best bridges first; what bridges have to do with each other comes
after that, in `crossing`. Everything about a bridge depends on the raster alone: squares of a fixed size are looked at,
whatever the cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from geounet.types import NODATA, PROBABILITY_STEPS, Executor, Rect
from geounet.vector import parts
from geounet.vector.attributes import F64
from geounet.vector.clean import cells_of
from geounet.vector.detour import Ways, chosen
from geounet.vector.network import Graph, Paths
from geounet.vector.prune import Metric
from geounet.vector.skeleton import Stage, grown
from geounet.vector.trace import I64, Bools

SQUARE = 1024
"""Side of the squares that are looked at, in pixels."""

FAR = 64
"""Widest half-width of the road that a bridge leads to, in pixels."""

RAYS = 5
"""Directions in which the side of a road is looked for."""

BESIDE = 0.5
"""Two dead ends whose lines miss each other by less than this part of their widths point at each other."""

SIDE = 1.5
"""A bridge to the side of a road counts as so many times longer than one to a dead end."""

AT_ONCE = 2_000_000
"""Samples of rays or bridges in memory."""


@dataclass(frozen=True)
class Rules:
    """When a gap is bridged; lengths in pixels of equal size.

    Attributes
    ----------
    longest
        Longest gap where there are probabilities.
    probability
        Least mean probability in the gap.
    blind
        Longest gap where there are none.
    angle
        Largest angle between a dead end's direction and the bridge, radians.
    """

    longest: float
    probability: float
    blind: float
    angle: float

    def limit(self, probability: bool) -> float:
        """Return the longest gap."""
        return self.longest if probability else self.blind


TIP = ("pixel", "node", "edge", "x", "y", "dx", "dy", "radius", "reach")
"""What is known of a dead end."""

FOUND = ("tip", "other", "path", "index", "pixel", "squared", "edge", "total", "counted", "cost")
"""A bridge: from which dead end to which other one (-1: none), or to which pixel of which path; the sum and number of
the stored probabilities below, and how dear it is."""


@dataclass(frozen=True)
class Search:
    """What to look for, where."""

    stage: Stage
    metric: Metric
    rules: Rules

    @property
    def squares(self) -> tuple[int, int]:
        """Number of squares down and across."""
        return -(-self.stage.grid.rows // SQUARE), -(-self.stage.grid.cols // SQUARE)

    @property
    def around(self) -> int:
        """How far bridges from dead ends in a square lead out of it at most, in pixels."""
        limit = self.rules.limit(self.stage.probability is not None)
        return int(np.ceil((limit + 2 * FAR) / min(self.metric.scale))) + 2

    def square(self, number: int) -> tuple[Rect, Rect]:
        """Return the pixels of a square, and those that bridges from its dead ends may lead over."""
        row, col = divmod(number, self.squares[1])
        whole = Rect(0, 0, self.stage.grid.rows, self.stage.grid.cols)
        rect = Rect(row * SQUARE, col * SQUARE, (row + 1) * SQUARE, (col + 1) * SQUARE).intersection(whole)
        return rect, grown(rect, self.around).intersection(whole)


def bridges(
    search: Search, tips: parts.Arrays, graph: Graph, paths: Paths, executor: Executor
) -> tuple[parts.Arrays, Ways]:
    """Return the bridges to build, in order, as columns `FOUND` and `radius`, and the ways that there are with them.

    Parameters
    ----------
    search
        Where to look.
    tips
        Columns `TIP` of the dead ends, ascending by pixel.
    graph, paths
        The network.
    executor
        Runs the squares.
    """
    stage = search.stage
    across = search.squares[1]
    y, x = np.divmod(tips["pixel"], stage.grid.cols)
    squares = np.unique((y // SQUARE) * across + x // SQUARE)
    ways = Ways(graph, graph.lengths(search.metric.step) / search.metric.pixel)
    if not len(squares):
        return _empty() | {"radius": np.empty(0)}, ways
    _place(stage, graph, paths)
    parts.save(stage.part("tips", 0), tips)
    tasks = [(search, int(k)) for k in squares]
    for _ in executor.map(look, tasks, f"{stage.name}: gaps"):
        pass
    loaded = [parts.load(stage.part("gaps", int(k))) for k in squares]
    table = {name: np.concatenate([a[name] for a in loaded]) for name in FOUND}
    found = chosen(table, tips, graph, ways, search.metric, stage.grid.cols)
    return found | {"radius": tips["radius"][found["tip"]]}, ways


def _empty() -> parts.Arrays:
    return {name: np.empty(0, np.float64 if name == "cost" else np.int64) for name in FOUND}


def _place(stage: Stage, graph: Graph, paths: Paths) -> None:
    """Write for each cell which of its paths' pieces are in the network, and in which edge."""
    chains = graph.chains
    edge = np.repeat(np.arange(len(graph)), np.diff(chains.offsets))
    order = np.argsort(chains.path, kind="stable")
    bounds = np.searchsorted(chains.path[order], paths.cells)
    for index in range(stage.grid.count):
        mine = order[bounds[index] : bounds[index + 1]]
        low, high = np.minimum(chains.first, chains.last)[mine], np.maximum(chains.first, chains.last)[mine]
        path = chains.path[mine] - paths.cells[index]
        base = np.full(len(mine), paths.cells[index])
        parts.save(
            stage.part("placed", index), {"path": path, "base": base, "low": low, "high": high, "edge": edge[mine]}
        )


def _points(stage: Stage, window: Rect) -> dict[str, I64]:
    """Return the network's pixels in a window: `pixel`, `squared`, `path`, `index` in it, `edge`."""
    names = ("pixel", "squared", "path", "index", "edge")
    found: dict[str, list[I64]] = {name: [np.empty(0, np.int64)] for name in names}
    for cell in cells_of(stage.grid, window):
        placed = parts.load(stage.part("placed", cell))
        if not len(placed["path"]):
            continue
        lines = parts.load(stage.path(cell), ["pixel", "squared", "offsets"])
        size = placed["high"] - placed["low"] + 1
        run = np.repeat(np.arange(len(size)), size)
        index = np.arange(len(run)) - (np.cumsum(size) - size)[run] + placed["low"][run]
        source = lines["offsets"][placed["path"][run]] + index
        y, x = np.divmod(lines["pixel"][source], stage.grid.cols)
        kept = (y >= window.y0) & (y < window.y1) & (x >= window.x0) & (x < window.x1)
        columns = (
            lines["pixel"][source],
            lines["squared"][source],
            (placed["path"] + placed["base"])[run],
            index,
            placed["edge"][run],
        )
        for name, column in zip(names, columns, strict=True):
            found[name].append(column[kept])
    # In raster order, whatever the cells; of pixels at which pieces meet, one stays.
    table = {name: np.concatenate(column) for name, column in found.items()}
    order = np.lexsort((table["edge"], table["pixel"]))
    table = {name: column[order] for name, column in table.items()}
    first = np.diff(table["pixel"], prepend=-1) != 0
    return {name: column[first] for name, column in table.items()}


@dataclass(frozen=True)
class View:
    """A window of the raster with what is needed to judge bridges."""

    window: Rect
    cols: int
    """Width of the raster."""
    scale: tuple[float, float]
    values: npt.NDArray[np.uint8]
    stored: npt.NDArray[np.uint8] | None
    points: dict[str, I64]
    near: npt.NDArray[np.int32]
    """For each pixel one of the points on it or beside it, -1: none."""

    def at(self, x: F64, y: F64) -> tuple[I64, I64]:
        """Return rows and columns in the window; the nearest ones for places outside."""
        row = np.floor(y / self.scale[1]).astype(np.int64) - self.window.y0
        col = np.floor(x / self.scale[0]).astype(np.int64) - self.window.x0
        return np.clip(row, 0, self.window.rows - 1), np.clip(col, 0, self.window.cols - 1)

    def inside(self, x: F64, y: F64) -> Bools:
        """Return which places are in the window."""
        row, col = y / self.scale[1], x / self.scale[0]
        return (row >= self.window.y0) & (row < self.window.y1) & (col >= self.window.x0) & (col < self.window.x1)


def view_of(search: Search, window: Rect) -> View:
    """Read a window."""
    stage = search.stage
    points = _points(stage, window)
    near = np.full((window.rows + 2, window.cols + 2), -1, dtype=np.int32)
    y, x = np.divmod(points["pixel"], stage.grid.cols)
    y, x = y - window.y0 + 1, x - window.x0 + 1
    number = np.arange(len(y), dtype=np.int32)
    # What lies nearer is written later.
    for dy, dx in ((-1, -1), (-1, 1), (1, -1), (1, 1), (-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)):
        near[y + dy, x + dx] = number
    stored = None
    if stage.probability is not None:
        stored = stage.probability.read(window, np.ones(window.shape, dtype=np.uint8))
    return View(
        window, stage.grid.cols, search.metric.scale, stage.plane.read(window), stored, points, near[1:-1, 1:-1]
    )


@dataclass(frozen=True)
class Gaps:
    """What lies below straight bridges.

    `length` is that of what is not road, `known` whether all of it has data, `mean` its mean probability (NaN: none),
    `total` and `counted` the sum and number of stored probabilities of all pixels below; `crosses` the edge of a line
    of the network in between, -1: none.
    """

    length: F64
    known: Bools
    mean: F64
    total: I64
    counted: I64
    crosses: I64


def gaps(view: View, x0: F64, y0: F64, x1: F64, y1: F64, clear: F64, last: F64 | None = None) -> Gaps:
    """Look at what lies below bridges, every half pixel.

    Lines nearer to a bridge's ends than `clear` do not count; where `last` is given, it is that for the second end.
    """
    last = clear if last is None else last
    span = np.hypot(x1 - x0, y1 - y0)
    size = np.ceil(2 * span).astype(np.int64) + 1
    bounds = np.concatenate([[0], np.cumsum(size)])
    run = np.repeat(np.arange(len(size)), size)
    share = (np.arange(bounds[-1]) - bounds[run]) / np.maximum(size - 1, 1)[run]
    row, col = view.at((x0[run] + share * (x1 - x0)[run]), (y0[run] + share * (y1 - y0)[run]))
    values = view.values[row, col]
    open_ = values != 1
    head = bounds[:-1]

    def count(which: Bools) -> I64:
        return np.add.reduceat(which.astype(np.int64), head)

    stored = np.full(len(row), NODATA, np.uint8) if view.stored is None else view.stored[row, col]
    known = stored != NODATA
    in_gap = np.add.reduceat(np.where(open_ & known, stored, 0).astype(np.int64), head)
    of_gap = count(open_ & known)
    mean = np.full(len(size), np.nan)
    np.divide(in_gap, PROBABILITY_STEPS * of_gap.astype(np.float64), out=mean, where=of_gap > 0)
    # Each pixel below counts once for the confidence.
    pixel = row * view.window.cols + col
    fresh = np.concatenate([[True], (pixel[1:] != pixel[:-1]) | (run[1:] != run[:-1])])
    met = view.near[row, col]
    middle = (share * span[run] > clear[run]) & ((1 - share) * span[run] > last[run]) & (met >= 0)
    crossed = np.where(middle, view.points["edge"][met] if len(view.points["edge"]) else -1, -1)
    return Gaps(
        length=count(open_) * span / np.maximum(size, 1),
        known=count(open_ & (values == NODATA)) == 0,
        mean=mean,
        total=np.add.reduceat(np.where(known & fresh, stored, 0).astype(np.int64), head),
        counted=count(known & fresh),
        crosses=np.maximum.reduceat(crossed, head),
    )


def look(task: tuple[Search, int]) -> int:
    """Look for bridges from the dead ends in a square; returns how many were found."""
    search, square = task
    stage, rules = search.stage, search.rules
    path = stage.part("gaps", square)
    if not path.exists():
        rect, window = search.square(square)
        limit = rules.limit(stage.probability is not None)
        tips = parts.load(stage.part("tips", 0))
        low, high = np.searchsorted(tips["pixel"], [window.y0 * stage.grid.cols, window.y1 * stage.grid.cols])
        tips = {name: column[low:high] for name, column in tips.items()}
        y, x = np.divmod(tips["pixel"], stage.grid.cols)
        near = np.flatnonzero((x >= window.x0) & (x < window.x1))
        tips = {name: column[near] for name, column in tips.items()}
        y, x = y[near], x[near]
        mine = (y >= rect.y0) & (y < rect.y1) & (x >= rect.x0) & (x < rect.x1)
        view = view_of(search, window)
        found = [_opposite(view, tips, mine, limit, rules), _ahead(view, tips, np.flatnonzero(mine), limit, rules)]
        table = {name: np.concatenate([f[name] for f in found]) for name in FOUND}
        for name in ("tip", "other"):
            table[name] = np.where(table[name] >= 0, (near + low)[table[name]] if len(near) else -1, -1)
        parts.save(path, table)
    return len(parts.load(path, ["tip"])["tip"])


def supported(below: Gaps, limit: float, rules: Rules, blind: bool) -> Bools:
    """Return which gaps are short and known enough, and may be road where there are probabilities."""
    fits: Bools = (below.length > 0) & (below.length <= limit) & below.known
    return fits if blind else fits & (np.nan_to_num(below.mean, nan=-1.0) >= rules.probability)


def cost_of(below: Gaps, turns: F64, rules: Rules) -> F64:
    """Return the length of the gap, longer for bridges that turn (sum of squared angles) and for unlikely roads."""
    likely = np.where(np.isnan(below.mean), 0.5, below.mean)
    found: F64 = below.length * (1 + turns / rules.angle**2) / (0.25 + likely)
    return found


def _opposite(view: View, tips: parts.Arrays, mine: Bools, limit: float, rules: Rules) -> parts.Arrays:
    """Return bridges between dead ends that point at each other, the first of which is in the square."""
    if len(mine) < 2:
        return _empty()
    reach = np.minimum(tips["reach"], FAR)
    places = np.column_stack([tips["x"], tips["y"]])
    pairs = cKDTree(places).query_pairs(limit + 2 * float(reach.max()) + 2, output_type="ndarray")
    a, b = np.sort(pairs.astype(np.int64).reshape(-1, 2), axis=1).T
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    ux, uy = tips["x"][b] - tips["x"][a], tips["y"][b] - tips["y"][a]
    span = np.hypot(ux, uy)
    kept = mine[a] & (span > 0) & (span <= limit + reach[a] + reach[b] + 2)
    a, b, ux, uy, span = a[kept], b[kept], ux[kept] / span[kept], uy[kept] / span[kept], span[kept]
    turns = np.zeros(len(a))
    fits = np.ones(len(a), dtype=np.bool_)
    wide = BESIDE * (tips["radius"][a] + tips["radius"][b])
    for tip, sign in ((a, 1.0), (b, -1.0)):
        ahead = sign * (tips["dx"][tip] * ux + tips["dy"][tip] * uy)
        beside = np.abs(tips["dx"][tip] * uy - tips["dy"][tip] * ux)
        angle = np.arctan2(beside, ahead)
        fits &= (angle <= rules.angle) | ((beside * span <= wide) & (angle <= np.pi / 3))
        turns += angle**2
    a, b, turns = a[fits], b[fits], turns[fits]
    if not len(a):
        return _empty()
    below = gaps(view, tips["x"][a], tips["y"][a], tips["x"][b], tips["y"][b], np.maximum(reach[a], reach[b]) + 2)
    kept = supported(below, limit, rules, view.stored is None)
    kept &= (below.crosses < 0) | (below.crosses == tips["edge"][a]) | (below.crosses == tips["edge"][b])
    cost = cost_of(below, turns, rules)
    none = np.full(len(a), -1)
    columns = (a, b, none, none, tips["pixel"][b], none, none, below.total, below.counted, cost)
    return {name: column[kept] for name, column in zip(FOUND, columns, strict=True)}


def _ahead(view: View, tips: parts.Arrays, mine: I64, limit: float, rules: Rules) -> parts.Arrays:
    """Return for each dead end the best bridge to the side of a road."""
    angles = np.linspace(-rules.angle, rules.angle, RAYS)
    longest = limit + FAR
    reach = np.minimum(tips["reach"], FAR)
    count = int(np.ceil((longest + float(reach[mine].max(initial=0))) / 0.7))
    chunk = max(1, AT_ONCE // (RAYS * count))
    found = [_empty()]
    for at in range(0, len(mine), chunk):
        tip = np.repeat(mine[at : at + chunk], RAYS)
        angle = np.tile(angles, len(tip) // RAYS)
        cos, sin = np.cos(angle), np.sin(angle)
        dx = cos * tips["dx"][tip] - sin * tips["dy"][tip]
        dy = sin * tips["dx"][tip] + cos * tips["dy"][tip]
        way = 0.7 * np.arange(1, count + 1)
        px, py = tips["x"][tip][:, None] + dx[:, None] * way, tips["y"][tip][:, None] + dy[:, None] * way
        met = view.near[view.at(px, py)]
        hits = (met >= 0) & view.inside(px, py) & (way <= longest + reach[tip][:, None])
        if len(view.points["edge"]):
            hits &= view.points["edge"][met] != tips["edge"][tip][:, None]
        ray = np.flatnonzero(hits.any(axis=1) & (np.hypot(dx, dy) > 0.5))
        if not len(ray):
            continue
        point = met[ray, hits[ray].argmax(axis=1)].astype(np.int64)
        tip, angle = tip[ray], angle[ray]
        row, col = np.divmod(view.points["pixel"][point], view.cols)
        x, y = (col + 0.5) * view.scale[0], (row + 0.5) * view.scale[1]
        below = gaps(view, tips["x"][tip], tips["y"][tip], x, y, np.full(len(tip), np.inf))
        kept = np.flatnonzero(supported(below, limit, rules, view.stored is None))
        cost = SIDE * cost_of(below, 2 * angle**2, rules)
        # Of a dead end's rays the best one.
        kept = kept[np.lexsort((point[kept], cost[kept], tip[kept]))]
        kept = kept[np.diff(tip[kept], prepend=-1) != 0]
        columns = {
            "tip": tip,
            "other": np.full(len(tip), -1),
            **{name: view.points[name][point] for name in ("path", "index", "pixel", "squared", "edge")},
            "total": below.total,
            "counted": below.counted,
            "cost": cost,
        }
        found.append({name: columns[name][kept] for name in FOUND})
    return {name: np.concatenate([f[name] for f in found]) for name in FOUND}
