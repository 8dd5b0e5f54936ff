"""One scene: its prediction against its labels, window by window."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.windows import Window

from geounet.config.card import Kind
from geounet.errors import VectorError
from geounet.evaluation import relaxed
from geounet.evaluation.apls import apls
from geounet.evaluation.boundary import U8
from geounet.evaluation.graph import graph
from geounet.evaluation.hausdorff import outlines
from geounet.evaluation.matching import Bools, Geometries, counts, matched, polis
from geounet.evaluation.metric import Metric
from geounet.evaluation.prediction import Grid, Mask, Prediction
from geounet.evaluation.shapes import (
    AREAS,
    LINES,
    Clipped,
    Coverage,
    Trimmed,
    layers_of,
    parts,
    polygonized,
    read_shapes,
    skeletonized,
    within,
)
from geounet.evaluation.tally import Buildings, Pixels, Roads, Tally
from geounet.evaluation.topo import topo
from geounet.evaluation.truth import Area, Classes, Truth, moved
from geounet.types import NODATA, Rect
from geounet.vector.attributes import Ground
from geounet.vector.beside import as_ours, steps_of
from geounet.vector.source import Plane, opened

logger = logging.getLogger(__name__)

OUTSIDE = 0.1
"""Share of labels outside the extent of predicted vectors from which on it is told."""

RING_STEP = 0.5
"""Distance of the points that Hausdorff distances of outlines are taken at, in the unit of lengths."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How things are compared.

    Attributes
    ----------
    window
        Side of a window, px.
    boundary_px
        Distance from a border within which boundary IoU counts.
    tolerance
        Of relaxed measures.
    metres
        Whether `tolerance` is in metres, else in pixels.
    what
        Any of `pixels`, `buildings`, `roads`.
    min_area_m2
        Smaller buildings, of labels and prediction alike, are left out.
    layer
        Layer of a predicted vector file that holds buildings or roads; none: `buildings`, `road_edges`.
    """

    window: int = 512
    boundary_px: int = 3
    tolerance: float = 3.0
    metres: bool = False
    what: frozenset[str] = frozenset({"pixels", "buildings", "roads"})
    min_area_m2: float = 0.0
    layer: str | None = None


@dataclass(frozen=True)
class WindowScore:
    """How much of a window is wrong, of the pixels that both sides know."""

    scene: int
    rect: Rect
    wrong: float
    known: int


@dataclass
class Seen:
    """What was found out about one scene."""

    tally: Tally
    labelled: bool = True
    """Whether labels know anything here."""
    windows: list[WindowScore] = field(default_factory=list)


class MaskReader:
    """Classes of a mask that is open."""

    def __init__(self, mask: Mask, dataset: Any, classes: Classes) -> None:
        self._mask, self._dataset = mask, dataset
        flags = [flag.name for flag in dataset.mask_flag_enums[mask.band - 1]]
        self._plain = flags == ["all_valid"] or (flags == ["nodata"] and (mask.blank or dataset.nodata == NODATA))
        self._values = np.array(sorted(classes.of_mask), dtype=np.int64)
        self._codes = np.array([classes.of_mask[int(v)] for v in self._values], dtype=np.uint8)

    def read(self, rect: Rect) -> U8:
        """Return classes `(rows, cols)` of a rectangle, 255 where there is no prediction and beyond the mask.

        Raises
        ------
        VectorError
            If it holds values that are none of its classes.
        """
        found = np.full(rect.shape, NODATA, dtype=np.uint8)
        inside = rect.intersection(Rect(0, 0, self._mask.grid.rows, self._mask.grid.cols))
        if inside.empty:
            return found
        where = Window(inside.x0, inside.y0, inside.cols, inside.rows)
        stored = self._dataset.read(self._mask.band, window=where)
        valid = stored != NODATA
        if not self._plain:
            valid &= self._dataset.read_masks(self._mask.band, window=where) > 0
        values = stored[valid].astype(np.int64)
        place = np.minimum(np.searchsorted(self._values, values), len(self._values) - 1)
        if len(values) and (not len(self._values) or (self._values[place] != values).any()):
            wrong = int(values[self._values[place] != values][0]) if len(self._values) else int(values[0])
            known = ", ".join(f"{info.code} {info.name}" for info in self._mask.classes)
            raise VectorError(f"{self._mask.path}: holds the value {wrong}, which is none of its classes ({known})")
        part = np.full(inside.shape, NODATA, dtype=np.uint8)
        part[valid] = self._codes[place]
        found[inside.slices_in(rect)] = part
        return found


@contextmanager
def mask_reader(mask: Mask | None, classes: Classes) -> Iterator[MaskReader | None]:
    """Open a mask, if there is one."""
    if mask is None:
        yield None
        return
    with opened(str(mask.path)) as dataset:
        yield MaskReader(mask, dataset, classes)


@dataclass(frozen=True)
class OneClass:
    """Where a reader has a class: 1, where it has another one: `others`, elsewhere 255."""

    reader: Any
    code: int
    others: int = NODATA

    def read(self, rect: Rect) -> U8:
        """Return values `(rows, cols)`."""
        found = self.reader.read(rect)
        rest = np.where(found == NODATA, np.uint8(NODATA), np.uint8(self.others))
        return np.where(found == self.code, np.uint8(1), rest)


class Comparison:
    """One scene that is compared.

    Parameters
    ----------
    number
        Which scene.
    prediction, truth
        Both sides.
    classes
        What is compared.
    grid
        The pixels; a stand-in of one pixel where neither side has a raster.
    metric
        The plane that lengths are measured in.
    area
        Part of the scene that counts; none: all of it.
    settings
        How.
    work
        Folder for intermediate files of this scene.
    """

    def __init__(self, number: int, prediction: Prediction, truth: Truth, classes: Classes, grid: Grid,
                 metric: Metric, area: Area | None, settings: EvaluationSettings, work: Path) -> None:  # fmt: skip
        self.number, self.prediction, self.truth, self.classes = number, prediction, truth, classes
        self.grid, self.metric, self.area, self.settings, self.work = grid, metric, area, settings, work
        self.affine = Affine(*grid.transform)
        self.ground = Ground(grid.crs, grid.transform, grid.rows, grid.cols)
        self.folded = truth.folded
        self.tally = Tally(self.folded.classes.infos, metric.unit)
        self.seen = Seen(self.tally)

    @property
    def step(self) -> tuple[float, float]:
        """Length of a pixel along a row and along a column, in the metric's unit."""
        return self.ground.step if self.metric.unit == "m" and self.ground.known else (1.0, 1.0)

    def run(self) -> Seen:
        """Compare, and return what was found out."""
        building = self.classes.of_kind(Kind.building) if "buildings" in self.settings.what else None
        road = self.classes.of_kind(Kind.road) if "roads" in self.settings.what else None
        with mask_reader(self.prediction.mask, self.classes) as mask:
            truth = self.truth if self.truth.has_pixels else None
            houses = self._both(self._buildings, mask, truth, building)
            streets = self._both(self._roads, mask, truth, road)
            in_pixels = [self._to_pixels(s) for s in (*(houses or ()), *(streets or ()))]
            covers = [Coverage(s) for s in in_pixels[:2]] if houses else []
            trims = [self._trimmed(s) for s in in_pixels[:2]] if houses else []
            cuts = [Clipped(s) for s in (in_pixels[2:] if houses else in_pixels)] if streets else []
            if mask is not None or truth is not None:
                self._windows(mask, truth, road, covers, trims, cuts)
                inside = [cover.counts() for cover in covers]
                lines = [cut.lines() for cut in cuts]
            else:
                if self.area is None:
                    self._tell_outside([*in_pixels[:1], *in_pixels[2:3]])
                inside = [self._in_area(s) for s in in_pixels[: 2 if houses else 0]]
                lines = [self._clipped(s) for s in (in_pixels[2:] if houses else in_pixels)] if streets else []
        if houses:
            within_scene = [self._within(*side) for side in zip(houses, trims, inside, strict=True)]
            self.tally.buildings = self._matched(within_scene)
        if streets:
            self.tally.roads = self._networks(lines)
        return self.seen

    # What is compared ----------------------------------------------------------------------------------------------

    @staticmethod
    def _both(find: Any, mask: Any, truth: Any, code: int | None) -> tuple[Geometries, Geometries] | None:
        """Return shapes of labels and prediction in coordinates; none where a side has no such thing."""
        if code is None:
            return None
        mine = find("truth", truth, code)
        theirs = find("found", mask, code) if mine is not None else None
        return None if mine is None or theirs is None else (mine, theirs)

    def _buildings(self, side: str, reader: Any, code: int) -> Geometries | None:
        shapes = self.truth.areas(code) if side == "truth" else self._layer(("buildings",), AREAS)
        if shapes is None and reader is not None:
            size = (self.grid.rows, self.grid.cols)
            plane: Plane = OneClass(reader, code)
            shapes = self._to_map(polygonized(plane, size, self.work, f"{side}-buildings"))
        return None if shapes is None else shapes[self._large(shapes)]

    def _large(self, shapes: Geometries) -> Bools:
        """Return which buildings are not too small to be compared."""
        least = self.settings.min_area_m2
        if not least or self.metric.unit != "m":
            return np.ones(len(shapes), dtype=np.bool_)
        return np.asarray(shapely.area(self.metric.place(shapes)) >= least)

    def _roads(self, side: str, reader: Any, code: int) -> Geometries | None:
        shapes = self.truth.lines(code) if side == "truth" else self._layer(("road_edges", "roads"), LINES)
        if shapes is None and reader is not None:
            shapes = skeletonized(OneClass(reader, code, others=0), self.ground, self.work, f"{side}-roads")
        return shapes

    def _layer(self, names: tuple[str, ...], kinds: tuple[int, ...]) -> Geometries | None:
        """Return a layer of the predicted vectors in the grid's coordinates; none where there is no such layer."""
        path = self.prediction.vectors
        if path is None:
            return None
        layers = layers_of(path)
        if self.settings.layer is not None and self.settings.layer not in layers:
            raise VectorError(f"{path}: has no layer {self.settings.layer!r}; it has {', '.join(layers) or 'none'}")
        word = "Polygon" if kinds == AREAS else "LineString"
        fitting = [name for name, kind in layers.items() if word in kind or kind == "Unknown"]
        wanted = [self.settings.layer] if self.settings.layer else [*names]
        chosen = next((name for name in wanted if name in fitting), None)
        if chosen is None and self.settings.layer is None and len(layers) == 1 and fitting:
            chosen = fitting[0]
        if chosen is None:
            return None
        shapes, crs = read_shapes(path, chosen)
        if (crs is None) != (self.grid.crs is None):
            bare, other = (path, self.truth.frame.name) if crs is None else (self.truth.frame.name, path)
            raise VectorError(f"{bare}: has no CRS, {other} has one; give both their CRS")
        return moved(parts(shapes, kinds), crs, self.grid.crs)

    # Windows -------------------------------------------------------------------------------------------------------

    def _windows(self, mask: MaskReader | None, truth: Truth | None, road: int | None, covers: list[Coverage],
                 trims: list[Trimmed], cuts: list[Clipped]) -> None:  # fmt: skip
        """Go through the scene once."""
        settings = self.settings
        pixels = None
        with self._probability(mask) as probability:
            if mask is not None and truth is not None and "pixels" in settings.what:
                names = self.folded.classes.names
                pixels = Pixels.empty(names, settings.boundary_px, calibrated=probability is not None)
                self.tally.pixels = pixels
            step = self.ground.step if settings.metres and self.ground.known else (1.0, 1.0)
            halo = max(1, settings.boundary_px, relaxed.halo(settings.tolerance, step)) if pixels is not None else 0
            side = settings.window
            self.seen.labelled = truth is None
            for y in range(0, self.grid.rows, side):
                for x in range(0, self.grid.cols, side):
                    rect = Rect(y, x, min(y + side, self.grid.rows), min(x + side, self.grid.cols))
                    outer = Rect(rect.y0 - halo, rect.x0 - halo, rect.y1 + halo, rect.x1 + halo)
                    mine = truth.read(outer) if truth is not None else None
                    theirs = mask.read(outer) if mask is not None else None
                    known, seen = self._known(mine, theirs, outer)
                    inner = rect.slices_in(outer)
                    self.seen.labelled |= bool(seen[inner].any())
                    for cover in covers:
                        cover.add(rect, known[inner])
                    if theirs is not None:
                        for trim in trims:
                            trim.add(rect, theirs[inner] != NODATA)
                    for cut in cuts:
                        cut.add(rect, known[inner])
                    if pixels is None or mine is None or theirs is None:
                        continue
                    pixels.unpredicted += int((seen & ~known)[inner].sum())
                    if not known[inner].any():
                        continue
                    mine[~known] = theirs[~known] = NODATA
                    if self.folded.without:
                        mine, theirs = self.folded.table[mine], self.folded.table[theirs]
                        mine[theirs == NODATA] = NODATA
                        if (mine[inner] == NODATA).all():
                            continue
                    self._count(pixels, mine, theirs, rect, inner, road, step)
                    if probability is not None and pixels.calibration is not None:
                        pixels.calibration.add(mine[inner], theirs[inner], probability(rect))

    def _known(self, mine: U8 | None, theirs: U8 | None, outer: Rect) -> tuple[Bools, Bools]:
        """Return where both sides know something, and where labels do; both within the area of interest."""
        seen = np.ones(outer.shape, dtype=np.bool_) if mine is None else mine != NODATA
        if mine is None:
            inside = outer.intersection(Rect(0, 0, self.grid.rows, self.grid.cols))
            seen[:] = False
            seen[inside.slices_in(outer)] = True
        if self.area is not None:
            seen &= self.area.read(outer)
        return (seen if theirs is None else seen & (theirs != NODATA)), seen

    def _count(self, pixels: Pixels, mine: U8, theirs: U8, rect: Rect, inner: tuple[slice, slice], road: int | None,
               step: tuple[float, float]) -> None:  # fmt: skip
        pixels.confusion.add(mine[inner], theirs[inner])
        pixels.boundary.add(mine, theirs, inner)
        around = tuple(slice(s.start - 1, s.stop + 1) for s in inner)
        pixels.distances.add(mine[around], theirs[around], self.step)
        road = None if road is None else self.folded.classes.codes.get(self.classes.names[road])
        if road is not None:
            pair = (mine == road, theirs == road)
            pixels.relaxed = pixels.relaxed + relaxed.pixels(*pair, inner, self.settings.tolerance, step)
        size = len(self.folded.classes.infos)
        middle = (np.array([(rect.x0 + rect.x1 - 1) / 2]), np.array([(rect.y0 + rect.y1 - 1) / 2]))
        area = float(self.ground.pixel_areas(*middle)[0]) if self.ground.known else np.nan
        pixels.truth_m2 += area * np.bincount(mine[inner].ravel(), minlength=256)[:size]
        pixels.found_m2 += area * np.bincount(theirs[inner].ravel(), minlength=256)[:size]
        both = mine[inner] != NODATA
        wrong = (mine[inner] != theirs[inner])[both].mean()
        self.seen.windows.append(WindowScore(self.number, rect, float(wrong), int(both.sum())))

    @contextmanager
    def _probability(self, mask: MaskReader | None) -> Iterator[Any]:
        """Yield a function that reads stored probabilities of the classes, `(classes, rows, cols)` uint8."""
        path = self.prediction.probability
        if path is None or mask is None or self.prediction.mask is None:
            yield None
            return
        with opened(str(path)) as dataset:
            yield stored_probabilities(path, dataset, self.prediction.mask, self.folded.classes)

    # Shapes --------------------------------------------------------------------------------------------------------

    def _to_pixels(self, shapes: Geometries) -> Geometries:
        return _moved_by(shapes, ~self.affine)

    def _to_map(self, shapes: Geometries) -> Geometries:
        return _moved_by(shapes, self.affine)

    def _tell_outside(self, labels: list[Geometries]) -> None:
        """Warn of labels outside the extent of the prediction, which count as missed."""
        shapes = np.concatenate([np.empty(0, dtype=object), *labels])
        beyond = int((~shapely.intersects(shapes, shapely.box(0, 0, self.grid.cols, self.grid.rows))).sum())
        if beyond > OUTSIDE * len(shapes):
            logger.warning("%s: %d of %d labels lie outside the predicted extent; give --aoi",
                           self.prediction.name, beyond, len(shapes))  # fmt: skip

    def _in_area(self, shapes: Geometries) -> Bools:
        if self.area is None:
            return np.ones(len(shapes), dtype=np.bool_)
        return within(shapes, shapely.union_all(self.area.polygons))

    def _clipped(self, lines: Geometries) -> Geometries:
        if self.area is None:
            return lines
        return parts(np.asarray(shapely.intersection(lines, shapely.union_all(self.area.polygons))), LINES)

    def _trimmed(self, shapes: Geometries) -> Trimmed:
        zone: Any = shapely.box(0, 0, self.grid.cols, self.grid.rows) if self.grid.real else None
        if self.area is not None:
            area = shapely.union_all(self.area.polygons)
            zone = area if zone is None else shapely.intersection(zone, area)
        return Trimmed(shapes, zone, 1.0 if self.grid.real else 0.0)

    def _within(self, shapes: Geometries, trim: Trimmed, inside: Bools) -> tuple[Geometries, Bools]:
        """Return buildings as far as they lie within the scene, and which of them count: those that did uncut."""
        single, place, whole = trim.polygons()
        found = shapes[place]
        found[~whole] = self._to_map(single[~whole])
        kept = whole.copy()
        kept[~whole] = self._large(found[~whole])
        return found[kept], inside[place[kept]]

    def _matched(self, both: list[tuple[Geometries, Bools]]) -> Buildings:
        truth, found = (self.metric.place(shapes) for shapes, _ in both)
        inside = [counting for _, counting in both]
        pairs = matched(truth, found)
        counted = inside[0][pairs.truth] | inside[1][pairs.found]
        mine, theirs = truth[pairs.truth[counted]], found[pairs.found[counted]]
        return Buildings(
            counts(pairs, *inside),
            [pairs.iou[counted]],
            [polis(mine, theirs)],
            [outlines(mine, theirs, RING_STEP)],
            int(inside[0].sum()),
            int(inside[1].sum()),
        )

    def _networks(self, lines: list[Geometries]) -> Roads:
        truth, found = (graph(self.metric.place(self._to_map(s))) for s in lines)
        tolerance = self.settings.tolerance
        if not self.settings.metres and self.metric.unit == "m" and self.grid.real and self.ground.known:
            tolerance *= self.ground.gsd
        return Roads(apls(truth, found), topo(truth, found), relaxed.lines(truth, found, tolerance), tolerance)


def _moved_by(shapes: Geometries, affine: Affine) -> Geometries:
    matrix, offset = np.array([[affine.a, affine.d], [affine.b, affine.e]]), np.array([affine.c, affine.f])
    return np.asarray(shapely.transform(shapes, lambda p: p @ matrix + offset))


def stored_probabilities(path: Path, dataset: Any, mask: Mask, classes: Classes) -> Any:
    """Return a function that reads the probabilities of the compared classes in a rectangle.

    Probabilities of classes that count as one are added; a single band is that of the second of two classes.

    Raises
    ------
    VectorError
        If the raster is not on the mask's grid or its bands are not those of the classes.
    """
    if (dataset.height, dataset.width) != (mask.grid.rows, mask.grid.cols):
        raise VectorError(
            f"{path}: {dataset.height} x {dataset.width} pixels, but the mask has {mask.grid.rows} x "
            f"{mask.grid.cols}; give the probabilities of this mask"
        )
    texts = [(text or "").removeprefix("p(").removesuffix(")") for text in dataset.descriptions]
    by_name = {info.name: info for info in mask.classes}
    order = [by_name[t] for t in texts] if all(t in by_name for t in texts) else list(mask.classes)
    single = dataset.count == 1 and len(mask.classes) == 2
    if single:
        order = [by_name.get(texts[0], mask.classes[1])]
    if len(order) != dataset.count:
        raise VectorError(f"{path}: has {dataset.count} bands, expected one for each of {', '.join(by_name)}")
    codes = [classes.of_mask[info.code] for info in order]
    # Steps also where nothing tells how large they are.
    plain = set(dataset.dtypes) == {"uint8"} and set(dataset.scales) == {1.0} and not any(dataset.offsets)
    ours = plain or as_ours(dataset)

    def read(rect: Rect) -> U8:
        where = Window(rect.x0, rect.y0, rect.cols, rect.rows)
        if ours:
            stored = dataset.read(window=where)
        else:
            stored = np.stack([steps_of(path, dataset, band, where) for band in dataset.indexes])
        missing = (stored == NODATA).any(axis=0)
        steps = stored.astype(np.int64)
        found = np.zeros((len(classes.infos), *rect.shape), dtype=np.int64)
        for code, plane in zip(codes, steps, strict=True):
            if code != NODATA:
                found[code] += plane
        if single:
            found[1 - codes[0]] = 254 - found[codes[0]]
        result = np.minimum(found, 254).astype(np.uint8)
        result[:, missing] = NODATA
        return result

    return read
