"""Bridges among themselves: where two cross there is a junction, and dead ends before a bridge are led to it.

A tree over a crossing hides the junction with the roads that lead there. Bridges are found one by one, from dead ends
to what the mask shows: of four roads they join two and two, of three only two. So what bridges cross is looked at when
all are known, and once more what dead ends that were left over point at. All of that is few, and decided by the driver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import shapely

from geounet.types import Executor
from geounet.vector import parts
from geounet.vector.attributes import F64
from geounet.vector.bridge import FAR, RAYS, SIDE, SQUARE, Search, cost_of, gaps, supported, view_of
from geounet.vector.detour import DETOUR, Ways, ends_of
from geounet.vector.network import Graph
from geounet.vector.trace import I64, Bools

SNAP = 1.5
"""What crosses nearer to the end of a bridge, or to another crossing, than so many pixels crosses there."""

PARALLEL = 1e-6
"""Bridges whose directions differ by a smaller sine do not cross."""

RAY = ("tip", "onto", "x", "y", "turn")
"""A bridge from a dead end to which other one, where it ends, and the angle between it and the dead end's direction."""


@dataclass(frozen=True)
class Spans:
    """Straight bridges, in pixels of equal size: from `(x0, y0)` to `(x1, y1)`."""

    x0: F64
    y0: F64
    x1: F64
    y1: F64

    def __len__(self) -> int:
        return len(self.x0)

    @property
    def length(self) -> F64:
        """How long they are."""
        return np.asarray(np.hypot(self.x1 - self.x0, self.y1 - self.y0), dtype=np.float64)

    @property
    def lines(self) -> shapely.STRtree:
        """Return them as lines that are found by place."""
        coords = np.column_stack([self.x0, self.y0, self.x1, self.y1]).reshape(-1, 2, 2)
        return shapely.STRtree(np.asarray(shapely.linestrings(coords), dtype=object))


def spans_of(found: parts.Arrays, tips: parts.Arrays, scale: tuple[float, float], cols: int) -> Spans:
    """Return where bridges run: columns `bridge.FOUND` and, for those that end on others, `onto`, `x` and `y`."""
    tip, other = found["tip"], found["other"]
    row, col = np.divmod(found["pixel"], cols)
    x, y = np.where(other < 0, (col + 0.5) * scale[0], 0.0), np.where(other < 0, (row + 0.5) * scale[1], 0.0)
    facing, onto = other >= 0, found["onto"] >= 0
    x[facing], y[facing] = tips["x"][other[facing]], tips["y"][other[facing]]
    x[onto], y[onto] = found["x"][onto], found["y"][onto]
    return Spans(tips["x"][tip], tips["y"][tip], x, y)


@dataclass(frozen=True)
class Crosses:
    """Pairs of bridges `one < two` that cross, in order: how far along each, as a part of it, and where."""

    one: I64
    two: I64
    share: F64
    other: F64
    x: F64
    y: F64


def crosses(spans: Spans) -> Crosses:
    """Return which bridges cross or touch."""
    tree = spans.lines
    one, two = tree.query(tree.geometries, predicate="intersects").astype(np.int64)
    kept = one < two
    one, two = one[kept], two[kept]
    order = np.lexsort((two, one))
    one, two = one[order], two[order]
    share, other, there = _met(spans, one, two)
    one, two, share, other = one[there], two[there], share[there], other[there]
    x = spans.x0[one] + share * (spans.x1 - spans.x0)[one]
    y = spans.y0[one] + share * (spans.y1 - spans.y0)[one]
    return Crosses(one, two, share, other, x, y)


def _met(spans: Spans, one: I64, two: I64) -> tuple[F64, F64, Bools]:
    """Return where pairs of bridges meet, as parts of both, and whether they do and are not parallel."""
    ax, ay = (spans.x1 - spans.x0)[one], (spans.y1 - spans.y0)[one]
    bx, by = (spans.x1 - spans.x0)[two], (spans.y1 - spans.y0)[two]
    across = ax * by - ay * bx
    skew = np.abs(across) > PARALLEL * np.hypot(ax, ay) * np.hypot(bx, by)
    wx, wy = spans.x0[two] - spans.x0[one], spans.y0[two] - spans.y0[one]
    share, other = np.zeros(len(one)), np.zeros(len(one))
    np.divide(wx * by - wy * bx, across, out=share, where=skew)
    np.divide(wx * ay - wy * ax, across, out=other, where=skew)
    # Rounded, a touch may be beyond an end.
    there = skew & (np.abs(share - 0.5) <= 0.5 + 1e-9) & (np.abs(other - 0.5) <= 0.5 + 1e-9)
    return np.clip(share, 0, 1), np.clip(other, 0, 1), there


def led(
    search: Search, tips: parts.Arrays, found: parts.Arrays, graph: Graph, ways: Ways, executor: Executor
) -> parts.Arrays:
    """Return the bridges and, after them, those from dead ends without one to a bridge that they point at.

    Parameters
    ----------
    search
        Where to look.
    tips
        Columns `bridge.TIP` of all dead ends.
    found
        Columns `bridge.FOUND` and `radius` of the bridges.
    graph, ways
        The network without bridges, and the ways over it with bridges.
    executor
        Runs the squares.

    Returns
    -------
    dict
        The columns of `found`, and `onto`, `x`, `y`: on which bridge one ends (-1: on none), and where.
    """
    count = len(found["tip"])
    found = found | {"onto": np.full(count, -1), "x": np.zeros(count), "y": np.zeros(count)}
    if not count:
        return found
    stage, cols = search.stage, search.stage.grid.cols
    spans = spans_of(found, tips, search.metric.scale, cols)
    places = _places(spans, found, tips, graph, search)
    gone = _needless(spans, places, ways, len(graph.pixel))
    if gone:
        kept = np.array([k for k in range(count) if k not in gone], dtype=np.int64)
        places = [places[k] for k in kept.tolist()]
        found = {name: column[kept] for name, column in found.items()}
        spans = spans_of(found, tips, search.metric.scale, cols)
    rays = _rays(search, tips, found, spans)
    if not len(rays["tip"]):
        return found
    parts.save(stage.part("rays", 0), rays | {name: tips[name][rays["tip"]] for name in ("edge", "reach", "pixel")}
               | {"x0": tips["x"][rays["tip"]], "y0": tips["y"][rays["tip"]]})  # fmt: skip
    row, col = np.divmod(tips["pixel"][rays["tip"]], stage.grid.cols)
    squares = np.unique((row // SQUARE) * search.squares[1] + col // SQUARE)
    tasks = [(search, int(k)) for k in squares]
    for _ in executor.map(weigh, tasks, f"{stage.name}: gaps before bridges"):
        pass
    loaded = [parts.load(stage.part("onto", int(k))) for k in squares]
    table = {name: np.concatenate([a[name] for a in loaded]) for name in loaded[0]}
    kept = _without_detour(table, spans, places, tips, ways, gone)
    if not len(kept):
        return found
    table = {name: column[kept] for name, column in table.items()}
    none = np.full(len(kept), -1)
    more = dict.fromkeys(("other", "path", "index", "pixel", "squared", "edge"), none)
    more |= {name: table[name] for name in ("tip", "total", "counted", "cost", "onto", "x", "y")}
    more["radius"] = tips["radius"][table["tip"]]
    return {name: np.concatenate([found[name], more[name]]) for name in found}


def _rays(search: Search, tips: parts.Arrays, found: parts.Arrays, spans: Spans) -> parts.Arrays:
    """Return where rays from dead ends without a bridge meet one first; columns `RAY`."""
    longest = search.rules.limit(search.stage.probability is not None)
    loose = np.ones(len(tips["pixel"]), dtype=np.bool_)
    loose[found["tip"]] = loose[found["other"][found["other"] >= 0]] = False
    tip = np.flatnonzero(loose & (np.hypot(tips["dx"], tips["dy"]) > 0.5))
    reach = longest + np.minimum(tips["reach"], FAR)[tip] + 2
    points = np.asarray(shapely.points(tips["x"][tip], tips["y"][tip]), dtype=object)
    which, onto = spans.lines.query(points, predicate="dwithin", distance=reach).astype(np.int64)
    angle = np.linspace(-search.rules.angle, search.rules.angle, RAYS)
    # Each dead end, in each direction, with each bridge around it.
    turn = np.tile(angle, len(which))
    which, onto = np.repeat(which, RAYS), np.repeat(onto, RAYS)
    at = tip[which]
    cos, sin = np.cos(turn), np.sin(turn)
    dx, dy = cos * tips["dx"][at] - sin * tips["dy"][at], sin * tips["dx"][at] + cos * tips["dy"][at]
    x, y = tips["x"][at], tips["y"][at]
    far = Spans(x, y, x + reach[which] * dx, y + reach[which] * dy)
    both = Spans(*(np.concatenate([getattr(far, n), getattr(spans, n)]) for n in ("x0", "y0", "x1", "y1")))
    share, _, there = _met(both, np.arange(len(at)), len(at) + onto)
    order = np.lexsort((onto, share, turn, at))
    order = order[there[order]]
    # Of the bridges in one direction the first.
    first = (np.diff(at[order], prepend=-1) != 0) | (np.diff(turn[order], prepend=np.inf) != 0)
    order = order[first]
    x, y = (x + share * reach[which] * dx)[order], (y + share * reach[which] * dy)[order]
    return {"tip": at[order], "onto": onto[order], "x": x, "y": y, "turn": turn[order]}


def weigh(task: tuple[Search, int]) -> int:
    """Write the best bridge to another one for each dead end in a square; returns how many there are."""
    search, square = task
    stage, rules = search.stage, search.rules
    path = stage.part("onto", square)
    if not path.exists():
        rect, window = search.square(square)
        limit = rules.limit(stage.probability is not None)
        view = view_of(search, window)
        rays = parts.load(stage.part("rays", 0))
        y, x = np.divmod(rays["pixel"], stage.grid.cols)
        mine = np.flatnonzero((y >= rect.y0) & (y < rect.y1) & (x >= rect.x0) & (x < rect.x1))
        rays = {name: column[mine] for name, column in rays.items()}
        clear, none = np.minimum(rays["reach"], FAR) + 2, np.full(len(mine), SNAP)
        below = gaps(view, rays["x0"], rays["y0"], rays["x"], rays["y"], clear, none)
        fits = supported(below, limit, rules, view.stored is None)
        fits &= (below.crosses < 0) | (below.crosses == rays["edge"])
        cost = SIDE * cost_of(below, 2 * rays["turn"] ** 2, rules)
        kept = np.flatnonzero(fits)
        kept = kept[np.lexsort((rays["turn"][kept], cost[kept], rays["tip"][kept]))]
        kept = kept[np.diff(rays["tip"][kept], prepend=-1) != 0]
        columns = rays | {"total": below.total, "counted": below.counted, "cost": cost}
        parts.save(path, {name: columns[name][kept] for name in ("tip", "onto", "x", "y", "total", "counted", "cost")})
    return len(parts.load(path, ["tip"])["tip"])


Places = list[dict[int, float]]
"""Nodes on each bridge, or to which it leads, with how far along the bridge they are, or beyond its end."""


def _places(spans: Spans, found: parts.Arrays, tips: parts.Arrays, graph: Graph, search: Search) -> Places:
    places: Places = []
    for k, length in enumerate(spans.length.tolist()):
        ends = ends_of(found, k, tips, graph, search.metric, search.stage.grid.cols)[1]
        places.append({node: length + further for node, further in ends.items()})
        places[k][int(tips["node"][found["tip"][k]])] = 0.0
    return places


def _needless(spans: Spans, places: Places, ways: Ways, nodes: int) -> set[int]:
    """Return which bridges go where others cross, and add to the ways, and to the places, where they do.

    From one of four roads at a hidden crossing a bridge may lead to the one beside it. It was built before those that
    cross, and is a short cut of a few metres now.
    """
    met = crosses(spans)
    length = spans.length
    through = np.zeros(len(spans), dtype=np.bool_)
    ends = [dict(place) for place in places]
    for number in range(len(met.one)):
        pair = (int(met.one[number]), int(met.two[number]))
        if set(ends[pair[0]]) & set(ends[pair[1]]):
            continue  # they lead to one place anyway
        through[list(pair)] = True
        for k, share in zip(pair, (met.share[number], met.other[number]), strict=True):
            way = float(share * length[k])
            for end, far in places[k].items():
                ways.add(nodes + number, end, abs(far - way), k)
            places[k][nodes + number] = way
    crossed = {node for k in np.flatnonzero(through).tolist() for node in ends[k]}
    gone: set[int] = set()
    for k in reversed(np.flatnonzero(~through).tolist()):
        # From its dead end to the nearest node, as the end of a road to whose side it leads.
        start, near = sorted(ends[k], key=lambda node: (ends[k][node], node))[:2]
        if {start, near} <= crossed:
            to = {node: far - float(length[k]) for node, far in ends[k].items() if node != start}
            limit = DETOUR * float(length[k])
            gone.add(k)
            if not ways.shortest(start, to, limit, gone) < limit:
                gone.remove(k)
    return gone


def _without_detour(
    table: parts.Arrays, spans: Spans, places: Places, tips: parts.Arrays, ways: Ways, gone: set[int]
) -> I64:
    """Return which bridges to others are built, the best first: where no short way leads there already."""
    kept = []
    for k in np.lexsort((table["tip"], table["cost"])).tolist():
        tip, onto = int(table["tip"][k]), int(table["onto"][k])
        x, y = float(table["x"][k]), float(table["y"][k])
        span = float(np.hypot(x - tips["x"][tip], y - tips["y"][tip]))
        way = float(np.hypot(x - spans.x0[onto], y - spans.y0[onto]))
        ends = {node: abs(far - way) for node, far in places[onto].items()}
        start = int(tips["node"][tip])
        if ways.shortest(start, ends, DETOUR * span, gone) < DETOUR * span:
            continue
        for node, further in ends.items():
            ways.add(start, node, span + further, -1)
        kept.append(k)
    return np.array(kept, dtype=np.int64)


@dataclass(frozen=True)
class Woven:
    """Bridges cut where others cross or end.

    `x`, `y`, `radius` are those of the new nodes, which are numbered after those there are; piece `k` of bridge
    `bridge[k]` leads from node `start[k]` to `end[k]`.
    """

    x: F64
    y: F64
    radius: F64
    start: I64
    end: I64
    bridge: I64


def woven(spans: Spans, start: I64, end: I64, onto: I64, radius: F64, nodes: int) -> Woven:
    """Cut bridges where others cross or end.

    Parameters
    ----------
    spans
        The bridges.
    start, end
        Their nodes; those that end on others have no end yet.
    onto
        On which other one each ends, -1: on none.
    radius
        Half-widths of their roads.
    nodes
        Number of nodes there are.
    """
    end = end.copy()
    length = spans.length
    x, y, wide = list[float](), list[float](), list[float]()
    side = max(SNAP, float(radius.max(initial=0.0)))
    made: dict[tuple[int, int], list[int]] = {}  # by squares as wide as two of them may be apart and still be one
    stops: dict[int, list[tuple[float, int]]] = {}
    for one, two, share, other, px, py in _events(spans, onto):
        ends = {k: (int(start[k]), -1 if onto[k] >= 0 else int(end[k])) for k in (one, two)}
        last = onto[two] == one  # the second ends here
        if not last and set(ends[one]) & set(ends[two]) - {-1}:
            continue  # they meet at a node already
        # At the end of one of them, or where others cross, if that is near; else at a node of its own.
        near = [(way, node) for k, part in ((one, share), (two, other)) if not (last and k == two)
                for way, node in zip((part * length[k], (1 - part) * length[k]), ends[k], strict=True)
                if node >= 0 and way <= SNAP]  # fmt: skip
        if near:
            node = min(near)[1]
        else:
            row, col = int(py // side), int(px // side)
            around = [k for i in (-1, 0, 1) for j in (-1, 0, 1) for k in made.get((row + i, col + j), ())]
            least = max(SNAP, float(min(radius[one], radius[two])))
            apart = min(((math.hypot(x[k] - px, y[k] - py), k) for k in around), default=(math.inf, -1))
            node = nodes + (apart[1] if apart[0] <= least else len(x))
            if node == nodes + len(x):
                made.setdefault((row, col), []).append(len(x))
                x.append(px)
                y.append(py)
                wide.append(0.0)
            wide[node - nodes] = max(wide[node - nodes], float(radius[one]), float(radius[two]))
        if node not in ends[one]:
            stops.setdefault(one, []).append((share, node))
        if last:
            end[two] = node
        elif node not in ends[two]:
            stops.setdefault(two, []).append((other, node))
    pieces: dict[tuple[int, int], tuple[int, int, int]] = {}
    for k in range(len(spans)):
        passed = [int(start[k]), *(node for _, node in sorted(stops.get(k, []))), int(end[k])]
        for before, after in pairwise(passed):
            if before != after:
                # Between two crossings one piece is enough; whole bridges are as they are.
                key = (min(before, after), max(before, after)) if k in stops else (-1, k)
                pieces.setdefault(key, (before, after, k))
    columns = np.array(list(pieces.values()), dtype=np.int64).reshape(-1, 3).T
    return Woven(np.array(x), np.array(y), np.array(wide), *columns)


def _events(spans: Spans, onto: I64) -> list[tuple[int, int, float, float, float, float]]:
    """Return which two bridges meet, how far along each, and where: those that cross, then those that end on others."""
    met = crosses(spans)
    plain = np.flatnonzero((onto[met.one] != met.two) & (onto[met.two] != met.one))
    two = np.flatnonzero(onto >= 0)
    one, x, y = onto[two], spans.x1[two], spans.y1[two]
    share = np.clip(np.hypot(x - spans.x0[one], y - spans.y0[one]) / spans.length[one], 0, 1)
    columns = (
        (met.one, one),
        (met.two, two),
        (met.share, share),
        (met.other, np.ones(len(two))),
        (met.x, x),
        (met.y, y),
    )
    return list(zip(*(np.concatenate([a[plain], b]).tolist() for a, b in columns), strict=True))
