"""Which pixels of which scene train, validate and test: whole scenes, or blocks of them. Never single windows.

Held-out blocks stay unseen: windows that train keep away from them, and where one must reach over (a small scene), the
pixels there are invalid and unlabelled. That holds on the ground: what one scene holds out trains in no other.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geounet.config.data import Split
from geounet.errors import JobError
from geounet.labels.frames import Frame
from geounet.training.ground import leaders, meeting, seen
from geounet.types import Rect

logger = logging.getLogger(__name__)

_TOLD = 0.1
"""Share of a scene that is said to be lost to others."""


class Side(IntEnum):
    """What pixels are for."""

    train = 0
    validation = 1
    test = 2


@dataclass(frozen=True)
class Candidate:
    """A scene that is to be split.

    Attributes
    ----------
    name : str
        Its path as patterns see it, relative to the job's root, with slashes.
    data : str
        Name of its data section.
    frame : Frame
    """

    name: str
    data: str
    frame: Frame


@dataclass(frozen=True)
class Sides:
    """The side of each pixel of a scene: blocks of about equal size.

    Attributes
    ----------
    rows, cols : int array
        First row (column) of each block, and the end of the last one.
    table : uint8 array (blocks down, blocks across)
        `Side` of each block.
    margin : int
        Pixels around held-out blocks that do not train.
    others : int array (n, 5)
        `y0, x0, y1, x1` of ground that other scenes hold out, and for which side: what trains leaves it out, and what
        validates leaves out that of the test.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    table: NDArray[np.uint8]
    margin: int = 0
    others: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 5), dtype=np.int64))

    def only(self, rect: Rect) -> Side | None:
        """Return the side of all pixels of a rectangle (also beyond the scene); None if they are of several."""
        whole = Rect(0, 0, int(self.rows[-1]), int(self.cols[-1]))
        around = Rect(rect.y0 - self.margin, rect.x0 - self.margin, rect.y1 + self.margin, rect.x1 + self.margin)
        near = around.intersection(whole)
        if near.empty:
            return Side.train
        y0, x0, y1, x1 = self._spans(np.array([near]))[:, 0].tolist()
        found = np.unique(self.table[y0:y1, x0:x1])
        if len(found) > 1 or (self._reaching(around)[:, 4] > found[0]).any():
            return None
        return Side(int(found[0]))

    def _reaching(self, rect: Rect) -> NDArray[np.int64]:
        """Return those of `others` that reach into a rectangle."""
        y0, x0, y1, x1, _ = self.others.T
        reaching: NDArray[np.int64] = self.others[(y0 < rect.y1) & (y1 > rect.y0) & (x0 < rect.x1) & (x1 > rect.x0)]
        return reaching

    def _spans(self, rects: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the blocks that rectangles within the scene meet, int64 `(4, n)`: first and last + 1 of both axes."""
        y0, x0, y1, x1 = rects.T
        return np.stack(
            (
                np.searchsorted(self.rows, y0, side="right") - 1,
                np.searchsorted(self.cols, x0, side="right") - 1,
                np.searchsorted(self.rows, y1, side="left"),
                np.searchsorted(self.cols, x1, side="left"),
            )
        )

    def meeting(self, rects: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which blocks any of the rectangles `(n, 4)` within the scene meets, bool `(blocks down, across)`."""
        y0, x0, y1, x1 = self._spans(rects)
        found = np.zeros((self.table.shape[0] + 1, self.table.shape[1] + 1), dtype=np.int64)
        for y, x, step in ((y0, x0, 1), (y1, x0, -1), (y0, x1, -1), (y1, x1, 1)):
            np.add.at(found, (y, x), step)
        met: NDArray[np.bool_] = found.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
        return met

    def sole(self, rects: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what `only` does for rectangles within the scene, int64 `(n, 4)`; -1 for None."""
        m, (down, across) = self.margin, (self.rows[-1], self.cols[-1])
        around = rects + np.array([-m, -m, m, m])
        near = np.clip(around, 0, np.array([down, across, down, across]))
        y0, x0, y1, x1 = self._spans(near)
        result = np.full(len(rects), -1, dtype=np.int64)
        for side in Side:
            sums = np.zeros((self.table.shape[0] + 1, self.table.shape[1] + 1), dtype=np.int64)
            sums[1:, 1:] = (self.table == side).cumsum(axis=0).cumsum(axis=1)
            here = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
            result[here == (y1 - y0) * (x1 - x0)] = side
        if len(self.others) and len(near):
            # a little smaller, so that neighbours do not meet
            ground: Any = shapely.box(*(self.others[:, [1, 0, 3, 2]] + [0.25, 0.25, -0.25, -0.25]).T)
            cells: Any = shapely.box(*around[:, [1, 0, 3, 2]].T)
            k, other = shapely.STRtree(ground).query(cells)
            result[k[result[k] < self.others[other, 4]]] = -1
        return result

    def mask(self, rect: Rect, side: Side) -> NDArray[np.bool_]:
        """Return which pixels of a rectangle within the scene are of a side, bool `(rows, cols)`.

        Pixels that train also keep the margin from all held-out blocks.
        """
        rows = np.searchsorted(self.rows, np.arange(rect.y0, rect.y1), side="right") - 1
        cols = np.searchsorted(self.cols, np.arange(rect.x0, rect.x1), side="right") - 1
        out: NDArray[np.bool_] = (self.table == side)[np.ix_(rows, cols)]
        if side == Side.train and self.margin:
            m = self.margin
            near = Rect(max(0, rect.y0 - m), max(0, rect.x0 - m), rect.y1 + m, rect.x1 + m)
            for block in self._held(near):
                part = Rect(block.y0 - m, block.x0 - m, block.y1 + m, block.x1 + m).intersection(rect)
                if not part.empty:
                    out[part.slices_in(rect)] = False
        m = self.margin if side == Side.train else 0
        for y0, x0, y1, x1, held in self._reaching(Rect(rect.y0 - m, rect.x0 - m, rect.y1 + m, rect.x1 + m)).tolist():
            if held > side:
                out[Rect(y0 - m, x0 - m, y1 + m, x1 + m).intersection(rect).slices_in(rect)] = False
        return out

    def block(self, row: int, col: int) -> Rect:
        """Return the pixels of a block."""
        return Rect(*(int(v) for v in (self.rows[row], self.cols[col], self.rows[row + 1], self.cols[col + 1])))

    def _held(self, rect: Rect) -> Iterator[Rect]:
        """Yield the held-out blocks that a rectangle meets."""
        whole = Rect(0, 0, int(self.rows[-1]), int(self.cols[-1]))
        y0, x0, y1, x1 = self._spans(np.array([rect.intersection(whole)]))[:, 0].tolist()
        for i, j in np.argwhere(self.table[y0:y1, x0:x1] != Side.train).tolist():
            yield self.block(y0 + i, x0 + j)


def split(spec: Split, scenes: Sequence[Candidate], labelled: Sequence[NDArray[np.int64]]) -> list[Sides]:
    """Return the sides of every scene.

    Parameters
    ----------
    spec
        The section `split`.
    scenes
        The scenes.
    labelled
        Rectangles of each scene that hold labels, `(n, 4)`: `y0, x0, y1, x1`; blocks without any are not dealt out.

    Raises
    ------
    JobError
        If a pattern fits no scene, or there are too few blocks for the shares or folds.
    """
    whole: dict[int, Side] = {}
    for key, asked, side in (("test", spec.test, Side.test), ("validation", spec.validation, Side.validation)):
        if isinstance(asked, list):
            for pattern in asked:
                fitting = [k for k, scene in enumerate(scenes) if _fits(pattern, scene)]
                if not fitting:
                    some = ", ".join(s.name for s in scenes[:3])
                    raise JobError(f"split.{key}: {pattern} fits no scene; they are {some}{', …' * (len(scenes) > 3)}")
                for k in fitting:
                    if whole.get(k, side) != side:
                        raise JobError(f"split: {scenes[k].name} is for validation and for test; it can be one")
                    whole[k] = side
    if len(whole) == len(scenes):
        raise JobError("split: validation and test take all scenes, none is left to train on")
    by_block = spec.folds is not None or isinstance(spec.validation, float) or isinstance(spec.test, float)
    result = []
    for k, scene in enumerate(scenes):
        cut = by_block and k not in whole
        rows, cols = (_edges(size, spec.block if cut else size) for size in scene.frame.shape)
        table = np.full((len(rows) - 1, len(cols) - 1), whole.get(k, Side.train), dtype=np.uint8)
        result.append(Sides(rows, cols, table, 0 if k in whole else spec.margin))
    pairs = meeting([scene.frame for scene in scenes], spec.margin) if by_block or whole else []
    if by_block:
        shared = {k for pair in pairs for k in pair}
        _deal(spec, scenes, [k for k in range(len(scenes)) if k not in whole], result, labelled, shared)
    return _apart(scenes, result, pairs)


def _fits(pattern: str, scene: Candidate) -> bool:
    return (
        fnmatchcase(scene.name, pattern)
        or fnmatchcase(scene.name, f"*/{pattern}")
        or fnmatchcase(scene.name.rsplit(".", 1)[0], pattern)
        or scene.data == pattern
    )


def _edges(size: int, block: int) -> NDArray[np.int64]:
    count = max(1, round(size / block))
    return np.array([round(i * size / count) for i in range(count + 1)], dtype=np.int64)


def _deal(spec: Split, scenes: Sequence[Candidate], cut: list[int], sides: list[Sides],
          labelled: Sequence[NDArray[np.int64]], shared: Collection[int]) -> None:  # fmt: skip
    """Deal blocks out to the sides in an order that depends on the seed and the scenes' names alone.

    Those of one ground (in the scenes `shared`) go to one side.
    """
    blocks = []
    for k in cut:
        for i, j in np.argwhere(sides[k].meeting(labelled[k])).tolist():
            text = f"{spec.seed}:{scenes[k].name}:{sides[k].rows[i]}:{sides[k].cols[j]}"
            blocks.append((hashlib.sha256(text.encode()).digest(), k, (i, j)))
    blocks.sort()
    followers: dict[tuple[int, tuple[int, int]], list[tuple[int, tuple[int, int]]]] = {}
    several = [(k, place) for _, k, place in blocks if k in shared]
    led = leaders([(scenes[k].frame, sides[k].block(*place)) for k, place in several])
    for (k, place), leader in zip(several, led, strict=True):
        followers.setdefault(several[leader], []).append((k, place))
    following = {one for first, those in followers.items() for one in those if one != first}
    blocks = [block for block in blocks if block[1:] not in following]

    def give(k: int, place: tuple[int, int], side: Side) -> None:
        for number, at in followers.get((k, place), [(k, place)]):
            sides[number].table[at] = side

    takers: list[Side] = []
    for share, side in ((spec.test, Side.test), (spec.validation, Side.validation)):
        if isinstance(share, float):
            takers += [side] * max(1, round(share * len(blocks)))
    least = len(takers) + (spec.folds or 1)
    if len(blocks) < least:
        raise JobError(
            f"split: {len(blocks)} labelled block(s) of about {spec.block} px are too few, expected at least {least}; "
            "make split.block smaller"
        )
    for (_, k, place), side in zip(blocks, takers, strict=False):
        give(k, place, side)
    if spec.folds is not None:
        for n, (_, k, place) in enumerate(blocks[len(takers) :]):
            if n % spec.folds == spec.fold:
                give(k, place, Side.validation)


def _apart(scenes: Sequence[Candidate], sides: list[Sides], pairs: Sequence[tuple[int, int]]) -> list[Sides]:
    """Return the sides with the ground that other scenes hold out: it trains, or validates, nowhere else."""
    found: list[list[list[int]]] = [[] for _ in scenes]
    for pair in pairs:
        for ours, theirs in (pair, pair[::-1]):
            lowest = sides[ours].table.min()
            held = np.argwhere(sides[theirs].table > lowest).tolist()
            blocks = [sides[theirs].block(i, j) for i, j in held]
            places = seen(blocks, scenes[theirs].frame, scenes[ours].frame, sides[ours].margin)
            for (i, j), covering in zip(held, places, strict=True):
                found[ours] += [[*rect, int(sides[theirs].table[i, j])] for rect in covering]
    result = []
    for scene, own, rects in zip(scenes, sides, found, strict=True):
        result.append(replace(own, others=np.array(rects, dtype=np.int64)) if rects else own)
        lost = _lost(result[-1], own) if rects else 0.0
        if lost >= _TOLD:
            logger.warning(
                "%s: %.0f %% of it shows ground that other scenes hold out, and is left out; to keep it, put scenes of "
                "one ground on one side (split), or hold out a share of blocks, which are dealt out by ground",
                scene.name,
                100 * lost,
            )
    return result


def _lost(now: Sides, before: Sides) -> float:
    """Return the share of a scene's pixels that is of no side any more, from every sixteenth row and column."""
    rows, cols = (int(edges[-1]) for edges in (now.rows, now.cols))
    count = lost = 0
    for y in range(0, rows, 16):
        rect = Rect(y, 0, y + 1, cols)
        for side in (Side.train, Side.validation):
            own = before.mask(rect, side)[0, ::16]
            count += len(own) if side == Side.train else 0
            lost += int((own & ~now.mask(rect, side)[0, ::16]).sum())
    return lost / max(count, 1)
