"""What the labels say of a scene: a class for each pixel, polygons of buildings, lines of roads.

Labels are described as for training (`geounet.config.data`): class rasters, colour-coded pictures and vectors, in
layers, and what the rest is where everything has been labelled. Their classes are those of the prediction. Labels that
know only one class, footprints of buildings for example, are compared as that class against `other`, which all other
classes of the prediction are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from rasterio.features import geometry_mask

from geounet.config.card import ClassInfo, Kind
from geounet.config.data import Complete, Data, Labels, Not
from geounet.errors import JobError, LabelError
from geounet.evaluation.boundary import U8
from geounet.evaluation.matching import Geometries
from geounet.evaluation.shapes import AREAS, LINES, parts
from geounet.labels.frames import Frame, crs_name, mover, overlap
from geounet.labels.layers import Files, Stack, complete_area, expand, files_of
from geounet.labels.values import is_partial, partial
from geounet.labels.vectors import Features, meets
from geounet.raster.vectors import ENDINGS
from geounet.types import NODATA, Rect

OTHER = "other"
"""Class of all that is none of the classes the labels know."""

IGNORED = "ignored"
"""Word for pixels of which nothing is known."""


@dataclass(frozen=True)
class Spec:
    """How labels are to be read; `root` is where relative paths in them start."""

    layers: tuple[Labels, ...]
    complete: Complete | None
    root: Path

    def names(self) -> tuple[set[str], set[str]]:
        """Return the classes that labels name, and those that they only rule out (`{not: class}`).

        Those of contacts are apart (`contacts`): no contact is labelled as such, it follows from the polygons.
        """
        said: list[Not | str | None] = [] if self.complete is None else [self.complete.rest]
        for layer in self.layers:
            said += [*(layer.values or {}).values(), *(layer.colours or {}).values(), layer.class_]
            said += [] if layer.others in ("refuse", "skip") else [layer.others]
        named = {s for s in said if isinstance(s, str)} - {IGNORED}
        return named, {s.not_ for s in said if isinstance(s, Not)}

    def contacts(self) -> set[str]:
        """Return the classes that the ground between features that nearly touch is."""
        said = [layer.contact.class_ for layer in self.layers if layer.contact is not None]
        return {s for s in said if isinstance(s, str)} - {IGNORED}

    def among(self, classes: Collection[str]) -> Spec:
        """Return the spec without contacts of classes that are not among these.

        Their pixels are what the polygons say: building, and between them the rest.
        """

        def known(layer: Labels) -> bool:
            meaning = None if layer.contact is None else layer.contact.class_
            return meaning in (None, IGNORED) or (meaning.not_ if isinstance(meaning, Not) else meaning) in classes

        kept = [layer if known(layer) else layer.model_copy(update={"contact": None}) for layer in self.layers]
        return replace(self, layers=tuple(kept))


@dataclass(frozen=True)
class Classes:
    """The classes that are compared.

    Attributes
    ----------
    infos
        In order; `code` is the place in it.
    of_mask
        For each value of the mask the class it counts as.
    """

    infos: tuple[ClassInfo, ...]
    of_mask: Mapping[int, int]

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(info.name for info in self.infos)

    @property
    def codes(self) -> dict[str, int]:
        """Codes by name."""
        return {info.name: info.code for info in self.infos}

    def of_kind(self, kind: Kind) -> int | None:
        """Return the code of the first class of a kind."""
        return next((info.code for info in self.infos if info.kind == kind), None)


def classes_of(predicted: Sequence[ClassInfo], spec: Spec) -> Classes:
    """Return the classes that labels and prediction have in common.

    Contacts between buildings count as building, where labels do not know them. Contacts of labels that the prediction
    does not know are none (`Spec.among`).

    Raises
    ------
    JobError
        If labels name a class that the prediction does not have.
    """
    named, ruled_out = spec.names()
    known = {info.name: info for info in predicted}
    unknown = sorted((named | ruled_out) - set(known) - {OTHER})
    if unknown:
        raise JobError(
            f"labels: no class {unknown[0]!r} in the prediction, which has {', '.join(known)}; "
            f"say which of them it is (--values, --colours, --class), or {OTHER!r} or {IGNORED!r}"
        )
    one_class = len(named) == 1 and ruled_out == named
    folded = {}
    wanted = named | (spec.contacts() & {info.name for info in predicted if info.kind == Kind.contact})
    if (OTHER in named and OTHER not in known) or one_class:
        chosen = [info for info in predicted if info.name in wanted]
        rest = ClassInfo(name=OTHER, code=0, colour="#dcd8d0", kind=Kind.background)
        infos = [rest, *(info.model_copy(update={"code": i}) for i, info in enumerate(chosen, 1))]
        folded = {info.code: 0 for info in predicted if info.name not in wanted}
    else:
        building = next((info for info in predicted if info.kind == Kind.building), None)
        kept = [i for i in predicted if building is None or i.kind != Kind.contact or i.name in wanted]
        infos = [info.model_copy(update={"code": i}) for i, info in enumerate(kept)]
    codes = {info.name: info.code for info in infos}
    contact = next((i.code for i in infos if i.kind == Kind.building), 0)
    table = {
        info.code: codes.get(info.name, folded.get(info.code, contact))
        if info.kind != Kind.contact or info.name in codes
        else contact
        for info in predicted
    }
    return Classes(tuple(infos), table)


@dataclass(frozen=True)
class Folded:
    """The classes of pixels: without those that labels know only from lines without a width, which cover no pixel.

    Attributes
    ----------
    classes
        Those left. Of the others the mask's values count as the rest; without a rest nothing is known there (255).
    table
        For each class of labels and prediction its code here; 255 stays 255.
    without
        Names of those that are left out.
    """

    classes: Classes
    table: U8
    without: tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """The label files of all scenes, read once."""

    spec: Spec
    classes: Classes
    files: tuple[Files, ...]
    """Lines without a width of their own are one metre wide in it."""

    @cached_property
    def folded(self) -> Folded:
        """The classes of pixels."""
        rest = None if self.spec.complete is None else self.spec.complete.rest
        burnt, bare = set(), set()
        for entry, own in zip(self.files, self.spec.layers, strict=True):
            if not _vectors(own, self.spec.root):
                said = [*(own.values or {}).values(), *(own.colours or {}).values(), own.class_, own.others]
                burnt |= {self.classes.codes.get(name) for name in said if isinstance(name, str)}
            for features in entry.vectors:
                areas = np.isin(shapely.get_type_id(features.shapes), AREAS) | (own.width_m is not None)
                burnt |= {int(v) for v in np.unique(features.values[areas])}
                bare |= {int(v) for v in np.unique(features.values[~areas])}
        known = {*burnt, self.classes.codes.get(rest) if isinstance(rest, str) else None}
        # Where no label has an area no pixels are compared at all.
        without = [info for info in self.classes.infos if burnt and info.code in bare - known]
        kept = [info for info in self.classes.infos if info not in without]
        infos = tuple(info.model_copy(update={"code": place}) for place, info in enumerate(kept))
        codes = {info.name: info.code for info in infos}
        other = codes.get(rest if isinstance(rest, str) else OTHER, NODATA)
        table = np.full(256, NODATA, dtype=np.uint8)
        for info in self.classes.infos:
            table[info.code] = codes.get(info.name, other)
        of_mask = {value: int(table[code]) for value, code in self.classes.of_mask.items()}
        return Folded(Classes(infos, of_mask), table, tuple(info.name for info in without))

    @property
    def features(self) -> list[Features]:
        """Vector labels."""
        return [features for entry in self.files for features in entry.vectors]

    def on(self, frame: Frame, scene: Path) -> bool:
        """Return whether any labels lie on a scene; of a vector file, any of its features."""
        for entry, own in zip(self.files, self.spec.layers, strict=True):
            if str(scene) in entry.paired or any(overlap(frame.bounds(r.crs), r.bounds) for r in entry.placed):
                return True
            for features in entry.vectors:
                bounds = frame.bounds(features.crs)
                # Without a CRS or a transformation it is not known; what is wrong is told where they are compared.
                if bounds is None or (frame.crs is None and features.crs is not None):
                    return True
                if shapely.intersects(features.shapes, shapely.box(*bounds)).any():
                    return True
                if own.width_m is not None and meets(features, own, frame):
                    return True
        return False


def label_files(spec: Spec, classes: Classes, frames: Sequence[Frame], scenes: Sequence[Path]) -> Labelled:
    """Find and check the label files of scenes.

    Parameters
    ----------
    spec
        How labels are to be read.
    classes
        The classes that are compared.
    frames
        The scenes' grids.
    scenes
        The scenes' files: labels without georeference belong to the scene of their name. One need not have labels.

    Raises
    ------
    JobError
        If a path matches nothing.
    LabelError
        If labels cannot be read, or lie on none of the scenes.
    """
    spec = spec.among(classes.names)
    widened = [
        layer.model_copy(update={"width_m": 1.0}) if layer.width_m is None and _vectors(layer, spec.root) else layer
        for layer in spec.layers
    ]
    data = Data.model_construct(labels=widened, complete=spec.complete)
    files = files_of(data, classes.codes, frames, scenes, spec.root, "labels", each=False)
    return Labelled(spec, classes, tuple(files))


class Truth:
    """The labels of one scene. One thread at a time uses it.

    Parameters
    ----------
    labelled
        The label files of all scenes.
    frame
        The scene's grid.
    scene
        Its file, as given to `label_files`.
    pixels
        Whether the grid is one of pixels; else only polygons and lines are of use.

    Raises
    ------
    LabelError
        As the layers do.
    """

    def __init__(self, labelled: Labelled, frame: Frame, scene: Path, *, pixels: bool = True) -> None:
        self.classes, self.folded, self.frame = labelled.classes, labelled.folded, frame
        self._contacts = labelled.spec.contacts()
        self._features = labelled.features
        for features in self._features:
            if frame.crs is None and features.crs is not None:
                raise LabelError(
                    f"{features.file}: has a CRS ({crs_name(features.crs)}), {frame.name} has none; georeference it "
                    "first (gdal_edit.py -a_srs), or give labels as a raster of its size"
                )
        burnt = [_burnt(entry, own) for entry, own in zip(labelled.files, labelled.spec.layers, strict=True)]
        self._stack: Stack | None = None
        if pixels and any(entry.vectors or entry.placed or str(scene) in entry.paired for entry in burnt):
            spec = labelled.spec
            self._stack = Stack(burnt, spec.complete, self.classes.codes, frame, str(scene), spec.root)

    @property
    def has_pixels(self) -> bool:
        """Whether labels say anything of pixels; lines without a width do not."""
        return self._stack is not None

    def close(self) -> None:
        """Close the files."""
        if self._stack is not None:
            self._stack.close()

    def read(self, rect: Rect) -> U8:
        """Return the class of each pixel of a rectangle, 255 where labels say nothing and beyond the grid."""
        found = np.full(rect.shape, NODATA, dtype=np.uint8)
        inside = rect.intersection(Rect(0, 0, *self.frame.shape))
        if self._stack is None or inside.empty:
            return found
        values = self._stack.read(inside)
        if is_partial(values).any():
            # What rules out the only class there is, is other; contacts follow from that class.
            first, *rest = self.classes.infos
            only = [info.code for info in rest if len(rest) == 1 or info.name not in self._contacts]
            if len(only) == 1 and first.name == OTHER:
                values = np.where(values == partial(only[0]), np.uint8(0), values)
            values = np.where(is_partial(values), np.uint8(NODATA), values)
        found[inside.slices_in(rect)] = values
        return found

    def areas(self, code: int) -> Geometries | None:
        """Return the polygons of a class in the grid's coordinates; none where labels have no polygons at all."""
        return self._shapes(code, AREAS)

    def lines(self, code: int) -> Geometries | None:
        """Return the lines of a class in the grid's coordinates; none where labels have no lines at all."""
        return self._shapes(code, LINES)

    def _shapes(self, code: int, kinds: tuple[int, ...]) -> Geometries | None:
        found, any_there = [], False
        for features in self._features:
            own = np.isin(shapely.get_type_id(features.shapes), kinds)
            any_there |= bool(own.any())
            shapes = features.shapes[own & (features.values == code)]
            if len(shapes):
                found.append(moved(parts(shapes, kinds), features.crs, self.frame.crs))
        if not any_there:
            return None
        return np.concatenate(found) if found else np.empty(0, dtype=object)


def moved(shapes: Geometries, source: str | None, target: str | None) -> Geometries:
    """Return geometries in another CRS; a CRS that is not known is taken to be the other one."""
    move = mover(source, target)
    if move is None or not len(shapes):
        return shapes
    found = shapely.transform(shapes, lambda p: np.column_stack(move.transform(p[:, 0], p[:, 1])))
    return np.asarray(found[np.isfinite(shapely.area(found)) & np.isfinite(shapely.length(found))])


def _vectors(layer: Labels, root: Path) -> bool:
    return all(path.suffix.lower() in ENDINGS for path in expand(layer.files, root, "labels"))


def _burnt(entry: Files, spec: Labels) -> Files:
    """Return files whose lines and points have a width of their own; others are no areas."""
    if spec.width_m is not None:
        return entry
    kept = [_only_areas(features) for features in entry.vectors]
    return replace(entry, spec=spec, vectors=tuple(features for features in kept if len(features.shapes)))


def _only_areas(features: Features) -> Features:
    areas = np.isin(shapely.get_type_id(features.shapes), AREAS)
    return replace(
        features, shapes=features.shapes[areas], values=features.values[areas], widths=features.widths[areas]
    )


class Area:
    """The part of a scene that counts.

    Parameters
    ----------
    where
        Vector file with polygons, or xmin, ymin, xmax, ymax; none: all that was predicted.
    crs
        CRS of the four numbers; none: the scene's.
    frame
        The scene's grid.
    predicted
        Polygons in its pixels where there is a prediction; none: everywhere.

    Raises
    ------
    JobError
        If the file does not exist.
    LabelError
        If it cannot be read, holds no polygons or does not meet the scene.
    """

    def __init__(
        self, where: str | Sequence[float] | None, crs: str | None, frame: Frame, predicted: Geometries | None = None
    ) -> None:
        if where is None:
            self.polygons: Any = np.empty(0, dtype=object) if predicted is None else predicted
            return
        area = where if isinstance(where, str) else list(where)
        self.polygons = complete_area(Complete(area=area, crs=crs, rest=OTHER), frame, Path.cwd())
        if predicted is not None:
            self.polygons = parts(shapely.intersection(self.polygons, shapely.union_all(predicted)), AREAS)
        if not shapely.intersects(shapely.box(0, 0, frame.shape[1], frame.shape[0]), self.polygons).any():
            raise LabelError(f"the area of interest ({where}) does not meet {frame.name}")

    def read(self, rect: Rect) -> npt.NDArray[np.bool_]:
        """Return which pixels of a rectangle count, bool `(rows, cols)`."""
        near = self.polygons[shapely.intersects(self.polygons, shapely.box(rect.x0, rect.y0, rect.x1, rect.y1))]
        if not len(near):
            return np.zeros(rect.shape, dtype=np.bool_)
        inside: Any = geometry_mask(near, rect.shape, Affine.translation(rect.x0, rect.y0), invert=True)
        return np.asarray(inside)
