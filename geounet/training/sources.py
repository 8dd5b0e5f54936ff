"""Labelled scenes as training reads them: decoded once and kept where memory allows, at any scale."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from geounet.config.data import Complete, Generated
from geounet.grid.tiles import reflected
from geounet.labels.frames import Frame
from geounet.labels.layers import Files, Stack
from geounet.labels.values import IGNORED
from geounet.raster.scene import Scene, SceneSpec, open_scene
from geounet.testing.scenes import CLASSES, window
from geounet.types import Rect

Pixels = np.ndarray[Any, np.dtype[Any]]

_STRIP = 512
"""Rows that are read at once when a scene is decoded."""

_KEPT_TYPES = ("uint8", "uint16", "int16")

_MOST_OPEN = 32
"""Scenes that a thread holds open, each with its label files: systems allow a process about a thousand files."""

_OPEN = threading.local()


class Reader(Protocol):
    """Pixels and labels of a scene, for one thread."""

    def read(self, rect: Rect) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return values float32 `(bands, rows, cols)` and validity `(rows, cols)`."""

    def labels(self, rect: Rect) -> NDArray[np.uint8]:
        """Return labels, uint8 `(rows, cols)`."""

    def meets(self, rect: Rect) -> bool:
        """Return whether labels may lie there, without reading them."""

    def everything(self, rect: Rect) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint8]]:
        """Return values, validity and labels, with less work than one by one."""

    def close(self) -> None:
        """Close the files."""


class FileReader:
    """A scene and its labels in files."""

    def __init__(self, scene: Scene, stack: Stack) -> None:
        self._scene, self._stack = scene, stack

    def read(self, rect: Rect) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return values and validity."""
        return self._scene.read(rect)

    def labels(self, rect: Rect) -> NDArray[np.uint8]:
        """Return labels; ignored where the scene has no data."""
        labels = self._stack.read(rect)
        labels[~self._scene.read_validity(rect)] = IGNORED
        return labels

    def meets(self, rect: Rect) -> bool:
        """Return whether labels may lie there."""
        return self._stack.meets(rect)

    def everything(self, rect: Rect) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint8]]:
        """Return values, validity and labels."""
        values, valid = self._scene.read(rect)
        labels = self._stack.read(rect)
        labels[~valid] = IGNORED
        return values, valid, labels

    def close(self) -> None:
        """Close the files."""
        self._scene.close()
        self._stack.close()


@dataclass(frozen=True)
class FileOpener:
    """What opens a scene and its labels: once for every thread."""

    spec: SceneSpec
    name: str
    """What label files that are no georeferenced rasters call it."""
    files: tuple[Files, ...]
    complete: Complete | None
    codes: dict[str, int]
    frame: Frame
    root: Path

    def __call__(self) -> FileReader:
        """Open the files."""
        stack = Stack(self.files, self.complete, self.codes, self.frame, self.name, self.root)
        return FileReader(open_scene(self.spec), stack)


@dataclass(frozen=True)
class WorldReader:
    """A made-up scene; labels are those of `geounet.testing.scenes`, translated."""

    seed: int
    spec: Generated
    table: tuple[int, ...]
    """Label of each of `CLASSES`."""

    def __call__(self) -> WorldReader:
        """Return itself: there is nothing to open."""
        return self

    def read(self, rect: Rect) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return values and validity."""
        return self.everything(rect)[:2]

    def labels(self, rect: Rect) -> NDArray[np.uint8]:
        """Return labels."""
        return self.everything(rect)[2]

    def meets(self, rect: Rect) -> bool:
        """Return that labels lie there: they lie everywhere."""
        del rect
        return True

    def everything(self, rect: Rect) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint8]]:
        """Return values, validity and labels."""
        picture, codes = window(self.seed, rect, gsd=self.spec.gsd, bands=self.spec.bands)
        return picture.astype(np.float32), np.ones(rect.shape, dtype=bool), np.array(self.table, dtype=np.uint8)[codes]

    def close(self) -> None:
        """Do nothing: there are no files."""


WORLD_BANDS = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "nir")}
WORLD_CLASSES = CLASSES


@dataclass
class Source:
    """A labelled scene.

    Attributes
    ----------
    name : str
        Path relative to the job's root, or the name of a made-up scene.
    data : int
        Number of its data section.
    frame : Frame
    bands : tuple of str
    dtype : str
        Type of the stored values.
    scaled : bool
        Whether a scale or an offset makes other values of them.
    opener : callable
        Returns a `Reader` for the calling thread.
    zoom : tuple of float
        Pixels of the scene per pixel of the model, down and across: the job's ground sample distance over its own.
    """

    name: str
    data: int
    frame: Frame
    bands: tuple[str, ...]
    dtype: str
    opener: Callable[[], Reader]
    zoom: tuple[float, float] = (1.0, 1.0)
    scaled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _levels: list[tuple[Pixels, NDArray[np.bool_] | None]] = field(default_factory=list, repr=False)
    _labels: NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, cols)`."""
        return self.frame.shape

    @property
    def bytes(self) -> int:
        """Memory that the decoded scene takes, with its smaller copies, validity and labels."""
        item = np.dtype(self._kind).itemsize
        return int(self.shape[0] * self.shape[1] * (len(self.bands) * item * 4 / 3 + 2))

    @property
    def _kind(self) -> str:
        """Type of the values in memory. Means of whole numbers are rounded to them, in memory or not."""
        return self.dtype if self.dtype in _KEPT_TYPES and not self.scaled else "float32"

    @property
    def kept(self) -> bool:
        """Whether it is decoded in memory."""
        return self._labels is not None

    def _reader(self) -> Reader:
        """Return the calling thread's reader; only the last used scenes of a thread stay open."""
        if not hasattr(_OPEN, "readers"):
            _OPEN.readers = OrderedDict()
        readers: OrderedDict[int, tuple[Source, Reader]] = _OPEN.readers
        if id(self) not in readers:
            while len(readers) >= _MOST_OPEN:
                _, (_, oldest) = readers.popitem(last=False)
                oldest.close()
            readers[id(self)] = self, self.opener()  # the source is held, so that no other takes its number
        readers.move_to_end(id(self))
        return readers[id(self)][1]

    def keep(self) -> None:
        """Decode the scene and keep it in memory.

        Raises
        ------
        SceneError, LabelError
            If a file cannot be read.
        """
        rows, cols = self.shape
        values = np.empty((len(self.bands), rows, cols), dtype=self._kind)
        valid = np.empty((rows, cols), dtype=bool)
        labels = np.empty((rows, cols), dtype=np.uint8)
        reader = self.opener()
        for y in range(0, rows, _STRIP):
            rect = Rect(y, 0, min(y + _STRIP, rows), cols)
            part, known, found = reader.everything(rect)
            values[:, rect.y0 : rect.y1] = part
            valid[rect.y0 : rect.y1] = known
            labels[rect.y0 : rect.y1] = found
        reader.close()
        self._levels = [(values, None if valid.all() else valid)]
        self._labels = labels

    def meets(self, rect: Rect) -> bool:
        """Return whether labels may lie in a rectangle, without reading any."""
        return self._reader().meets(rect)

    def labels(self, rect: Rect) -> NDArray[np.uint8]:
        """Return labels of a rectangle, uint8 `(rows, cols)`; what lies beyond the scene is ignored."""
        inside = rect.intersection(Rect(0, 0, *self.shape))
        if inside == rect and self._labels is not None:
            return self._labels[rect.y0 : rect.y1, rect.x0 : rect.x1]
        out = np.full(rect.shape, IGNORED, dtype=np.uint8)
        if not inside.empty:
            part = self._labels[inside.y0 : inside.y1, inside.x0 : inside.x1] if self._labels is not None else None
            out[inside.slices_in(rect)] = self._reader().labels(inside) if part is None else part
        return out

    def read(self, rect: Rect, level: int) -> tuple[Pixels, NDArray[np.bool_] | None]:
        """Return pixels of a rectangle; beyond the scene they are reflected, as in prediction.

        Parameters
        ----------
        rect : Rect
            In pixels of the level.
        level : int
            0: the scene's own pixels; each further level averages two by two.

        Returns
        -------
        values : array (bands, rows, cols)
            In units of the file; whole numbers where the scene is kept as such.
        valid : bool array (rows, cols) or None
            None: all are.
        """
        shape = self._shape(level)
        whole = Rect(0, 0, *shape)
        if rect.intersection(whole) == rect:
            return self._inside(rect, level)
        rows, cols = reflected(rect.y0, rect.y1, shape[0]), reflected(rect.x0, rect.x1, shape[1])
        inner = Rect(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)
        values, valid = self._inside(inner, level)
        at = np.ix_(rows - inner.y0, cols - inner.x0)
        return values[:, at[0], at[1]], None if valid is None else valid[at]

    def _shape(self, level: int) -> tuple[int, int]:
        rows, cols = self.shape
        for _ in range(level):
            rows, cols = -(-rows // 2), -(-cols // 2)
        return rows, cols

    def _inside(self, rect: Rect, level: int) -> tuple[Pixels, NDArray[np.bool_] | None]:
        if self.kept:
            while len(self._levels) <= level:
                with self._lock:
                    if len(self._levels) <= level:
                        self._levels.append(halved(*self._levels[-1]))
            values, valid = self._levels[level]
            part = values[:, rect.y0 : rect.y1, rect.x0 : rect.x1]
            return part, None if valid is None else valid[rect.y0 : rect.y1, rect.x0 : rect.x1]
        scale = 2**level
        own = Rect(*(v * scale for v in rect)).intersection(Rect(0, 0, *self.shape))
        read, known = self._reader().read(own)
        found: tuple[Pixels, NDArray[np.bool_] | None] = (read, None if known.all() else known)
        for _ in range(level):
            found = halved(*found)
            if self._kind != "float32":
                np.rint(found[0], out=found[0])
        return found


def halved(values: Pixels, valid: NDArray[np.bool_] | None) -> tuple[Pixels, NDArray[np.bool_] | None]:
    """Return the means of two by two pixels; an odd last row or column is averaged with itself.

    Parameters
    ----------
    values : array (bands, rows, cols)
        Whole numbers are rounded.
    valid : bool array (rows, cols) or None
        Only valid pixels count; a mean is valid where at least two of its four pixels are.
    """
    bands, rows, cols = values.shape
    out = np.empty((bands, -(-rows // 2), -(-cols // 2)), dtype=values.dtype)
    known = None if valid is None else _fours(valid.astype(np.uint8))
    for y in range(0, rows, 2 * _STRIP):
        part = values[:, y : y + 2 * _STRIP].astype(np.float32)
        here = slice(y // 2, y // 2 + -(-part.shape[1] // 2))
        if valid is None or known is None:
            mean = np.stack([_fours(plane) for plane in part]) * np.float32(0.25)
        else:
            part *= valid[y : y + 2 * _STRIP]
            mean = np.stack([_fours(plane) for plane in part]) / np.maximum(known[here], 1).astype(np.float32)
        out[:, here] = np.rint(mean) if values.dtype.kind in "iu" else mean
    return out, None if known is None else known >= 2


def _fours(plane: Any) -> Any:
    """Return the sums of two by two pixels (rows, cols)."""
    if plane.shape[0] % 2:
        plane = np.concatenate([plane, plane[-1:]], axis=0)
    if plane.shape[1] % 2:
        plane = np.concatenate([plane, plane[:, -1:]], axis=1)
    return (plane[0::2, 0::2] + plane[1::2, 0::2]) + (plane[0::2, 1::2] + plane[1::2, 1::2])
