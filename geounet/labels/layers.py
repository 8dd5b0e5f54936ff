"""Layers of labels in order of priority, and which files belong to which scene."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import geometry_mask

from geounet.config.data import Complete, Data, Labels
from geounet.errors import JobError, LabelError
from geounet.labels.frames import Frame, crs_name, mover, overlap
from geounet.labels.rasters import RasterFile, RasterLayer, describe_raster
from geounet.labels.values import IGNORED, value_of
from geounet.labels.vectors import UNKNOWN, Features, VectorLayer, reach, read_features
from geounet.raster.vectors import ENDINGS
from geounet.types import Rect


class Layer(Protocol):
    """What knows the labels of some pixels of a scene."""

    def read(self, rect: Rect) -> NDArray[np.int16]:
        """Return labels, int16 `(rows, cols)`, `UNKNOWN` elsewhere."""

    def meets(self, rect: Rect) -> bool:
        """Return whether labels may lie in a rectangle."""


@dataclass(frozen=True)
class Files:
    """The files of one layer of a data section: what each covers."""

    spec: Labels
    vectors: tuple[Features, ...]
    placed: tuple[RasterFile, ...]
    """Rasters that lie somewhere on Earth."""
    paired: dict[str, RasterFile]
    """Other rasters, by the file of their scene."""


def expand(patterns: Sequence[str], root: Path, key: str) -> list[Path]:
    """Return the files of paths and patterns below `root`, sorted within each pattern, each once.

    Raises
    ------
    JobError
        If a path does not exist, or a pattern matches nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        anchored = path if path.is_absolute() else root / path
        if anchored.is_file():
            matches = [anchored]
        elif glob.has_magic(pattern):
            base = "" if path.is_absolute() else glob.escape(str(root)) + "/"
            texts = glob.glob(f"{base}{path}", recursive=True)
            matches = sorted(p for p in map(Path, texts) if p.is_file() and p.suffix.lower() not in (".xml", ".ovr"))
            if not matches:
                raise JobError(f"{key}: {pattern}: matches no file below {root}")
        elif anchored.is_dir():
            raise JobError(f"{key}: {anchored}: is a folder; give a pattern such as {pattern.rstrip('/')}/*.tif")
        else:
            raise JobError(f"{key}: {anchored}: no such file")
        found.update(dict.fromkeys(matches))
    return list(found)


def files_of(data: Data, codes: Mapping[str, int], scenes: Sequence[Frame], files: Sequence[Path], root: Path,
             key: str, *, each: bool = True) -> list[Files]:  # fmt: skip
    """Return the files of all layers of a data section, each checked to belong to a scene.

    Parameters
    ----------
    data
        The section.
    codes
        Class codes by name.
    scenes, files
        Frames of its scenes, and the file of each.
    root
        Folder that paths start from.
    key
        What messages call the section: `data[0]`.
    each
        Whether each scene must have labels.

    Raises
    ------
    JobError
        If a path matches nothing.
    LabelError
        If a file cannot be read, holds no feature, lies nowhere on a scene, or has no scene of its name.
    """
    result = []
    for number, spec in enumerate(data.labels or ()):
        here = f"{key}.labels[{number}].files"
        vectors, placed, loose = [], [], []
        for path in expand(spec.files, root, here):
            if path.suffix.lower() in ENDINGS:
                features = read_features(str(path), spec, codes)
                _check_meets(features, scenes)
                vectors.append(features)
                continue
            if spec.contact is not None or spec.border_m > 0 or spec.width_m is not None:
                raise LabelError(f"{path}: contact, border_m and width_m are for vector files")
            raster = describe_raster(str(path))
            if raster.bounds is None or not any(frame.georeferenced for frame in scenes):
                loose.append(raster)
            else:
                _check_meets(raster, scenes)
                placed.append(raster)
        result.append(Files(spec, tuple(vectors), tuple(placed), _paired(loose, files, here)))
    if data.complete is not None and data.complete.area != "scene":
        _check_area(data.complete, scenes, root)
    for frame, file in zip(scenes, files, strict=True):
        if each and data.complete is None and not any(_covers(entry, frame, str(file)) for entry in result):
            raise LabelError(f"{file}: none of the label files of {key} covers this scene; leave it out or label it")
    return result


def _covers(files: Files, frame: Frame, scene: str) -> bool:
    if scene in files.paired:
        return True
    covering: list[Features | RasterFile] = [*files.vectors, *files.placed]
    return any(_overlap(labels, frame) for labels in covering)


def _overlap(labels: Features | RasterFile, frame: Frame) -> bool:
    """Whether a scene lies where a file has labels, those of vectors with their widths."""
    there = reach(labels, frame) if isinstance(labels, Features) else frame.bounds(labels.crs)
    return overlap(there, labels.bounds)


def _check_meets(labels: Features | RasterFile, scenes: Sequence[Frame]) -> None:
    """Refuse labels that lie on none of the scenes."""
    file, crs, bounds = labels.file, labels.crs, labels.bounds
    if any((frame.crs is None and crs is not None) or _overlap(labels, frame) for frame in scenes):
        return  # a scene without a CRS is refused with its own message
    assert bounds is not None
    frame = scenes[0]
    own, there = ", ".join(f"{v:.6g}" for v in bounds), frame.bounds(crs)
    seen = "beyond it" if there is None else f"at {', '.join(f'{v:.6g}' for v in there)}"
    more = f" (as do the {len(scenes) - 1} others)" if len(scenes) > 1 else ""
    raise LabelError(
        f"{file}: does not overlap its scenes: it lies at {own} ({crs_name(crs)}), {frame.name} lies {seen}{more}; is "
        "its CRS right?"
    )


def _paired(rasters: Iterable[RasterFile], scenes: Sequence[Path], key: str) -> dict[str, RasterFile]:
    """Return the label raster of each scene, by file name: equal ones, or the scene's with something after it."""
    rasters = list(rasters)
    if not rasters:
        return {}
    by_stem: dict[str, list[Path]] = {}
    for scene in scenes:
        by_stem.setdefault(scene.stem, []).append(scene)
    named: dict[str, list[RasterFile]] = {}
    for raster in rasters:
        stem = Path(raster.file).stem
        fitting = [s for s in by_stem if stem == s or re.match(re.escape(s) + r"[^0-9A-Za-z]", stem)]
        if not fitting:
            raise LabelError(
                f"{raster.file}: no scene of this name; without georeference, labels belong to the scene of the same "
                f"file name ({key})"
            )
        named.setdefault(max(fitting, key=len), []).append(raster)
    pairs: dict[str, RasterFile] = {}
    for stem, found in named.items():
        same = by_stem[stem]
        if len(same) != len(found):
            raise LabelError(f"{key}: {len(found)} labels for {len(same)} scenes are named {stem}; each needs its own")
        for scene, place in zip(same, _by_folder(same, [Path(r.file) for r in found]), strict=True):
            pairs[str(scene)] = found[place]
    return pairs


def _by_folder(scenes: Sequence[Path], labels: Sequence[Path]) -> list[int]:
    """Return for each scene the place of its label among as many of one name, which lie in different folders.

    A scene's label is that whose folder starts like its own for longest, `a/images` and `a/masks`; where this does not
    give each its own, that whose folder ends like it for longest, `images/a` and `masks/a`; else the order of folders
    and names decides.
    """
    for step in (1, -1):
        mine, theirs = ([path.parent.parts[::step] for path in paths] for paths in (scenes, labels))
        places = [place for place in _nearest(mine, theirs) if place is not None]
        if len(set(places)) == len(scenes):
            return places
    # Folder by folder: as texts, a-b/x comes before a/x, but a before a-b.
    first, second = (sorted(range(len(p)), key=lambda k: (p[k].parent.parts, p[k].name)) for p in (scenes, labels))
    partner = dict(zip(first, second, strict=True))
    return [partner[k] for k in range(len(scenes))]


def _nearest(folders: Iterable[tuple[str, ...]], others: Iterable[tuple[str, ...]]) -> list[int | None]:
    """Return for each folder, given as parts, which of the others starts like it for longest; none if several do."""
    starting: dict[tuple[str, ...], int | None] = {}
    for place, parts in enumerate(others):
        for n in range(len(parts) + 1):
            starting[parts[:n]] = None if parts[:n] in starting else place
    return [next(starting[parts[:n]] for n in range(len(parts), -1, -1) if parts[:n] in starting) for parts in folders]


class Stack:
    """The labels of a scene: its layers, and what the rest is where everything is labelled. For one thread at a time.

    Parameters
    ----------
    files
        From `files_of`.
    complete
        The section that says where everything is labelled.
    codes
        Class codes by name.
    frame
        The scene's grid.
    scene
        The scene's file.
    root
        Folder that paths start from.

    Raises
    ------
    LabelError
        As the layers do.
    """

    def __init__(self, files: Sequence[Files], complete: Complete | None, codes: Mapping[str, int], frame: Frame,
                 scene: str, root: Path) -> None:  # fmt: skip
        self._layers: list[Layer] = []
        for entry in files:
            if scene in entry.paired:
                self._layers.append(RasterLayer(entry.paired[scene].file, entry.spec, codes, frame))
            for raster in entry.placed:
                if overlap(frame.bounds(raster.crs), raster.bounds):
                    self._layers.append(RasterLayer(raster.file, entry.spec, codes, frame))
            for features in entry.vectors:
                layer = VectorLayer(features, entry.spec, codes, frame)
                if not layer.empty:
                    self._layers.append(layer)
        self._rest = None if complete is None else value_of(complete.rest, codes)
        self._area: Any = None
        if complete is not None and complete.area != "scene":
            self._area = complete_area(complete, frame, root)

    def close(self) -> None:
        """Close the files."""
        for layer in self._layers:
            if isinstance(layer, RasterLayer):
                layer.close()

    def meets(self, rect: Rect) -> bool:
        """Return whether labels may lie in a rectangle of the scene, without reading any."""
        if self._rest is not None and (self._area is None or len(_meeting(self._area, rect))):
            return True
        return any(layer.meets(rect) for layer in self._layers)

    def read(self, rect: Rect) -> NDArray[np.uint8]:
        """Return the labels of a rectangle of the scene, uint8 `(rows, cols)`: see `geounet.labels.values`.

        Raises
        ------
        LabelError
            If a raster holds values that the job does not list, or is damaged.
        """
        out = np.full(rect.shape, UNKNOWN, dtype=np.int16)
        for layer in self._layers:
            open_ = out == UNKNOWN
            if not open_.any():
                break
            np.copyto(out, layer.read(rect), where=open_)
        if self._rest is not None:
            rest = out == UNKNOWN
            if self._area is not None:
                rest &= _inside(self._area, rect)
            out[rest] = self._rest
        out[out == UNKNOWN] = IGNORED
        return out.astype(np.uint8)


def complete_area(complete: Complete, frame: Frame, root: Path) -> Any:
    """Return the area where everything is labelled as polygons in the scene's pixels, shapely array (n,).

    Raises
    ------
    JobError
        If its file does not exist.
    LabelError
        If it cannot be read, or holds no polygons.
    """
    if isinstance(complete.area, list):
        x0, y0, x1, y1 = complete.area
        box: Any = shapely.box(x0, y0, x1, y1)
        polygons, crs = np.asarray([box]), complete.crs or frame.crs
        file = "complete.area"
    else:
        (path,) = expand([complete.area], root, "complete.area")
        spec = Labels(files=[str(path)], class_="area")
        features = read_features(str(path), spec, {"area": 0})
        polygons, crs, file = features.shapes, features.crs, str(path)
        if not np.isin(shapely.get_type_id(polygons), (3, 6)).all():
            raise LabelError(f"{file}: the area that is completely labelled must be polygons")
    if crs is not None and frame.crs is None:
        raise LabelError(f"{file}: the completely labelled area has a CRS, the scene {frame.name} has none")
    move = mover(crs, frame.crs)
    if move is not None:
        polygons = _near(polygons, frame.bounds(crs))
        if len(polygons):
            x0, y0, x1, y1 = shapely.total_bounds(polygons)
            polygons = shapely.segmentize(polygons, max(x1 - x0, y1 - y0) / 64)
        polygons = shapely.transform(polygons, lambda p: np.column_stack(move.transform(p[:, 0], p[:, 1])))
    if not np.isfinite(shapely.get_coordinates(polygons)).all():
        raise LabelError(
            f"{file}: the completely labelled area reaches beyond where the CRS of {frame.name} is defined"
        )
    return shapely.transform(polygons, frame.to_pixels)


def _near(polygons: Any, bounds: tuple[float, float, float, float] | None) -> Any:
    """Return the parts of polygons around a scene: what is far away may have no place in its CRS."""
    if bounds is None:
        return polygons
    x0, y0, x1, y1 = bounds
    beyond = max(x1 - x0, y1 - y0) / 8
    polygons = shapely.intersection(polygons, shapely.box(x0 - beyond, y0 - beyond, x1 + beyond, y1 + beyond))
    return polygons[shapely.area(polygons) > 0]


def _check_area(complete: Complete, scenes: Sequence[Frame], root: Path) -> None:
    """Refuse an area that is on none of the scenes."""
    for frame in scenes:
        if len(_meeting(complete_area(complete, frame, root), Rect(0, 0, *frame.shape))):
            return
    where, crs = (complete.area, None) if isinstance(complete.area, str) else ("the rectangle", complete.crs)
    there = scenes[0].bounds(crs)
    seen = "" if there is None else f": {scenes[0].name} lies at {', '.join(f'{v:.6g}' for v in there)}"
    raise LabelError(
        f"complete.area: {where} overlaps none of the scenes{seen}"
        f"{f' ({crs_name(crs)})' if crs is not None else ''}; is its CRS right?"
    )


def _meeting(polygons: Any, rect: Rect) -> Any:
    return polygons[shapely.intersects(polygons, shapely.box(rect.x0, rect.y0, rect.x1, rect.y1))]


def _inside(polygons: Any, rect: Rect) -> NDArray[np.bool_]:
    near = _meeting(polygons, rect)
    if len(near) == 0:
        return np.zeros(rect.shape, dtype=bool)
    inside: NDArray[np.bool_] = geometry_mask(near, rect.shape, Affine.translation(rect.x0, rect.y0), invert=True)
    return inside
