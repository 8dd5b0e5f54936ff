"""Which pixels of which scene train, validate and test: whole scenes, or blocks of them. Never single windows.

Held-out blocks stay unseen: windows that train keep away from them, and where one must reach over (a small scene), the
pixels there are invalid and unlabelled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase

import numpy as np
import shapely
from numpy.typing import NDArray

from geounet.config.data import Split
from geounet.errors import JobError, LabelError
from geounet.labels.frames import Frame
from geounet.types import Rect


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
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    table: NDArray[np.uint8]
    margin: int = 0

    def only(self, rect: Rect) -> Side | None:
        """Return the side of all pixels of a rectangle (also beyond the scene); None if they are of several."""
        whole = Rect(0, 0, int(self.rows[-1]), int(self.cols[-1]))
        near = Rect(rect.y0 - self.margin, rect.x0 - self.margin, rect.y1 + self.margin, rect.x1 + self.margin)
        near = near.intersection(whole)
        if near.empty:
            return Side.train
        if self.table.size == 1:
            return Side(int(self.table[0, 0]))
        y0, x0, y1, x1 = self._spans(np.array([near]))[:, 0].tolist()
        found = np.unique(self.table[y0:y1, x0:x1])
        return Side(int(found[0])) if len(found) == 1 else None

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
        near = np.clip(rects + np.array([-m, -m, m, m]), 0, np.array([down, across, down, across]))
        y0, x0, y1, x1 = self._spans(near)
        result = np.full(len(rects), -1, dtype=np.int64)
        for side in Side:
            sums = np.zeros((self.table.shape[0] + 1, self.table.shape[1] + 1), dtype=np.int64)
            sums[1:, 1:] = (self.table == side).cumsum(axis=0).cumsum(axis=1)
            here = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
            result[here == (y1 - y0) * (x1 - x0)] = side
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
        return out

    def _held(self, rect: Rect) -> Iterator[Rect]:
        """Yield the held-out blocks that a rectangle meets."""
        whole = Rect(0, 0, int(self.rows[-1]), int(self.cols[-1]))
        y0, x0, y1, x1 = self._spans(np.array([rect.intersection(whole)]))[:, 0].tolist()
        for i, j in np.argwhere(self.table[y0:y1, x0:x1] != Side.train).tolist():
            (top, bottom), (left, right) = self.rows[y0 + i : y0 + i + 2], self.cols[x0 + j : x0 + j + 2]
            yield Rect(int(top), int(left), int(bottom), int(right))


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
    LabelError
        If scenes of different sides show the same ground, or no scene is left to train on.
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
        result.append(Sides(rows, cols, table, spec.margin if cut else 0))
    if by_block:
        _deal(spec, scenes, [k for k in range(len(scenes)) if k not in whole], result, labelled)
    _check_ground(scenes, result)
    return result


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
          labelled: Sequence[NDArray[np.int64]]) -> None:  # fmt: skip
    """Deal blocks out to the sides in an order that depends on the seed and the scenes' names alone."""
    blocks = []
    for k in cut:
        for i, j in np.argwhere(sides[k].meeting(labelled[k])).tolist():
            text = f"{spec.seed}:{scenes[k].name}:{sides[k].rows[i]}:{sides[k].cols[j]}"
            blocks.append((hashlib.sha256(text.encode()).digest(), k, (i, j)))
    blocks.sort()
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
        sides[k].table[place] = side
    if spec.folds is not None:
        for n, (_, k, place) in enumerate(blocks[len(takers) :]):
            if n % spec.folds == spec.fold:
                sides[k].table[place] = Side.validation


def _check_ground(scenes: Sequence[Candidate], sides: Sequence[Sides]) -> None:
    """Refuse splits that show the same ground on two sides."""
    if all(len(np.unique(s.table)) == 1 and s.table[0, 0] == Side.train for s in sides):
        return
    placed = [k for k, scene in enumerate(scenes) if scene.frame.crs is not None]
    outlines = [scenes[k].frame.outline() for k in placed]
    kept = [(k, o) for k, o in zip(placed, outlines, strict=True) if o is not None]
    if len(kept) < 2:
        return
    shapes = np.asarray([o for _, o in kept])
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    for a, b in zip(one.tolist(), other.tolist(), strict=True):
        first, second = sides[kept[a][0]], sides[kept[b][0]]
        if a >= b or (len(both := np.unique(np.r_[first.table.ravel(), second.table.ravel()])) == 1):
            continue
        # a strip of a few pixels along a side, as neighbouring sheets may share
        strips = []
        for k in (a, b):
            rows_cols = scenes[kept[k][0]].frame.shape
            strips.append(4 * shapes[k].area / np.prod(rows_cols) * max(rows_cols))
        if shapely.intersection(shapes[a], shapes[b]).area > min(strips):
            names = " and ".join(Side(int(v)).name for v in both)
            raise LabelError(
                f"{scenes[kept[a][0]].name} and {scenes[kept[b][0]].name} show the same ground, but are split into "
                f"{names}: what is learnt from one would be measured on the other; put both on one side"
            )
