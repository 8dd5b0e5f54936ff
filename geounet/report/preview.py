"""The preview of a scene: input, mask and vectors side by side, and a detail of them at full resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch, Polygon, Rectangle
from PIL import Image

from geounet.atomic import atomic
from geounet.report import picture
from geounet.report.ground import crs_of, ground
from geounet.types import Rect

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from geounet.config.card import ClassInfo
    from geounet.raster.scene import SceneInfo, SceneSpec
    from geounet.report.sketch import LayerInfo

_DPI = 100
_INK, _SOFT, _FRAME = "#1d2430", "#5d6878", "#c9ced6"
_DETAIL_FROM = 2.5
"""A detail is added where a picture pixel of the overview holds more scene pixels than this, per side."""
_MIN_ASPECT = 0.05
_RUNS = 3
"""zlib's strategy for images, Z_RLE."""
_ROOM = 120.0
"""Narrower pictures (of 700 px) have no room for a scale bar and an arrow."""
_LEGEND_CLASSES = 30
_NOUNS = {
    "buildings": "buildings",
    "road_edges": "road edges",
    "road_nodes": "road nodes",
    "landcover": "land-cover polygons",
}
"""What titles call the features of a layer, in their order."""
_ORDER = ("landcover", "road_edges", "buildings", "road_nodes")
"""Layers from the bottom to the top; unknown layers come first."""


class _View(NamedTuple):
    """A part of the scene and the size at which it is shown."""

    rect: Rect
    shape: tuple[int, int]
    """`(rows, cols)` of its picture, pixels of the preview."""

    @property
    def sampled(self) -> tuple[int, int]:
        """Size at which rasters are read: never more than there is."""
        return min(self.shape[0], self.rect.rows), min(self.shape[1], self.rect.cols)

    @property
    def read(self) -> tuple[Rect, tuple[int, int]]:
        """What is read for it: which part of the scene, and its size."""
        return self.rect, self.sampled


def read_overview(scene: SceneSpec, info: SceneInfo, size: int = 700) -> picture.InputPicture:
    """Read what `write_preview` shows of the whole input; the one thing that needs no mask.

    Raises
    ------
    SceneError
        If a file cannot be opened.
    """
    return picture.read_input(scene, info, *_whole(info, ground(info), size).read)


def write_preview(
    dest: Path,
    scene: SceneSpec,
    info: SceneInfo,
    mask: Path,
    classes: Sequence[ClassInfo],
    gpkg: Path | None,
    *,
    size: int = 700,
    overview: picture.InputPicture | None = None,
) -> picture.InputPicture:
    """Write a PNG with the input, the mask and the vectors of a scene side by side.

    Large scenes get a second row with a detail at full resolution, where the most happens in the mask. Without a
    GeoPackage the third picture shows the mask over the input. Hatched: no data. Memory is bounded by the size of the
    picture, not of the scene: of a layer with more than `sketch.LIMIT` features the largest are drawn, or where sizes
    are unknown one in so many, and the title says so. The same input gives the same bytes with the same library
    versions.

    Parameters
    ----------
    dest
        The PNG.
    scene, info
        The input and its grid.
    mask
        Finished mask on that grid: uint8, nodata 255.
    classes
        Classes of the mask, background included.
    gpkg
        Vector layers in the scene's CRS.
    size
        Longer side of each picture, pixels.
    overview
        What `read_overview` returns for it, if that was called before.

    Returns
    -------
    InputPicture
        The whole input as shown, valid where the mask has a class.

    Raises
    ------
    OSError
        If a file cannot be read or written.
    """
    lie = ground(info)
    whole = _whole(info, lie, size)
    views = [whole]
    with ThreadPoolExecutor(1, thread_name_prefix="geounet-preview") as reading:
        images = [reading.submit(lambda: overview or picture.read_input(scene, info, *whole.read))]
        shown = picture.read_mask(mask, classes, *whole.read)
        if min(info.height / whole.shape[0], info.width / whole.shape[1]) > _DETAIL_FROM:
            views.append(_View(_detail(shown, whole.rect, whole.shape), whole.shape))
            images.append(reading.submit(picture.read_input, scene, info, *views[1].read))
        vectors: list[LayerInfo] = []
        if gpkg is not None:
            # Not at the top: it loads the vector libraries, for nothing where there are no vectors.
            from geounet.report import sketch

            vectors = sketch.layers(gpkg, info)
        vectors.sort(key=lambda layer: _ORDER.index(layer.name) if layer.name in _ORDER else -1)
        limits: list[tuple[float, float]] | None = None
        rows = []
        hatched = False
        for view, read in zip(views, images, strict=True):
            codes = shown if view is whole else picture.read_mask(mask, classes, *view.read)
            image = read.result()
            if view is whole:
                segmented = image._replace(valid=image.valid & ~codes.nodata)
                limits = picture.stretch(segmented, info.dtype)
            rows.append((view, image, _paint(view, image, codes, limits, over=gpkg is None)))
            hatched |= bool(codes.nodata.any())
    # The user's matplotlibrc must not change the picture.
    with mpl.rc_context(dict(mpl.rcParamsDefault)):
        handles = _handles(shown, hatched=hatched)
        layout = _Layout(info, size, views, [str(h.get_label()) for h in handles])
        for row, (view, image, pictures) in enumerate(rows):
            titles = _titles(image, limits, vectors if gpkg is not None else None, detail=row > 0)
            axes = [layout.panel(row, col, *both) for col, both in enumerate(zip(pictures, titles, strict=True))]
            for layer in vectors if gpkg is not None else []:
                _draw(axes[2], layer, info, view, classes, layout)
            if row == 0 and len(views) > 1:
                for axis in axes:
                    _frame(axis, views[1].rect, view, layout)
            metres = lie[0] if lie else info.gsd
            if metres and view.shape[1] > _ROOM * layout.unit:
                _scale_bar(axes[0], metres * view.rect.cols / view.shape[1], view.shape, layout)
            if lie and row == 0 and view.shape[1] > _ROOM * layout.unit:
                _north(axes[0], lie[2], view.shape, layout)
        layout.legend(handles)
        canvas = FigureCanvasAgg(layout.figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        drawn = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    with atomic(dest) as temporary:
        # A third of the time of the default for a few bytes more.
        drawn.save(temporary, format="png", compress_type=_RUNS)
    return segmented


def _whole(info: SceneInfo, lie: tuple[float, float, float] | None, size: int) -> _View:
    """Return the view of the whole scene, whose pixels lie on the ground as `lie` says."""
    # Degrees and other oblong pixels are shown as they lie on the ground; differences of a projection are left alone.
    ratio = lie[1] / lie[0] if lie and abs(math.log(lie[1] / lie[0])) > 0.03 else 1.0
    return _View(Rect(0, 0, info.height, info.width), _fit(info.height * ratio, info.width, size))


def _paint(
    view: _View,
    image: picture.InputPicture,
    codes: picture.MaskPicture,
    limits: Sequence[tuple[float, float]] | None,
    *,
    over: bool,
) -> tuple[picture.Pixels, picture.Pixels, picture.Pixels]:
    """Return input, mask and the ground of the vectors (`over`: the mask over the input instead) at the view's size."""
    painted = picture.enlarged(picture.paint_input(image, limits), view.shape)
    colours = picture.enlarged(picture.paint_mask(codes), view.shape)
    nodata = picture.enlarged(codes.nodata, view.shape)
    # Valid pixels of a failed block, or outside the area of interest, are shown: the mask beside them tells.
    missing = picture.enlarged(codes.nodata & ~image.valid, view.shape)
    third = np.round(0.5 * painted + 0.5 * colours).astype(np.uint8) if over else _pale(painted)
    picture.hatch(painted, missing)
    picture.hatch(colours, nodata)
    picture.hatch(third, nodata)
    return painted, colours, third


def _fit(rows: float, cols: float, size: int) -> tuple[int, int]:
    """Return `(rows, cols)` of a picture whose longer side is `size`; very long scenes are widened to 1:20."""
    height, width = (max(1, round(size * max(side / max(rows, cols), _MIN_ASPECT))) for side in (rows, cols))
    return height, width


def _detail(shown: picture.MaskPicture, whole: Rect, shape: tuple[int, int]) -> Rect:
    """Return the part of the scene, at full resolution, where the classes of the mask are most mixed.

    Every position of the window over the overview is scored by its share of valid pixels times the entropy of its
    classes; of equals the one nearest to the centre, then the first.
    """
    rows, cols = shown.codes.shape[1:]
    side = min(shape[0], whole.rows), min(shape[1], whole.cols)
    window = max(1, round(side[0] * rows / whole.rows)), max(1, round(side[1] * cols / whole.cols))
    valid = _sums(~shown.nodata, window)
    entropy = np.zeros_like(valid)
    for _, where in shown.planes():
        share = np.clip(_sums(where, window) / np.maximum(valid, 1e-12), 1e-12, 1.0)
        entropy -= share * np.log(share)
    y, x = np.ogrid[: entropy.shape[0], : entropy.shape[1]]
    away = ((y + window[0] / 2) / rows - 0.5) ** 2 + ((x + window[1] / 2) / cols - 0.5) ** 2
    top, left = divmod(int(np.argmax(np.round(valid**2 * entropy - 0.05 * away, 9))), entropy.shape[1])
    y0 = min(top * whole.rows // rows, whole.rows - side[0])
    x0 = min(left * whole.cols // cols, whole.cols - side[1])
    return Rect(y0, x0, y0 + side[0], x0 + side[1])


def _sums(where: NDArray[np.bool_], window: tuple[int, int]) -> NDArray[np.float64]:
    """Return the share of set pixels in each position of a window."""
    total = np.pad(where.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    h, w = window
    counts = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    return np.asarray(counts / float(h * w))


def _pale(painted: picture.Pixels) -> picture.Pixels:
    """Return the input as a light grey ground for vectors."""
    grey = painted.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.repeat(np.round(150.0 + 0.38 * grey).clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def _titles(
    image: picture.InputPicture,
    limits: Sequence[tuple[float, float]] | None,
    vectors: Sequence[LayerInfo] | None,
    *,
    detail: bool,
) -> tuple[str, str, str]:
    """Return the titles of the three pictures."""
    if detail:
        return "detail at full resolution (frame above)", "mask", "mask over input" if vectors is None else "vectors"
    bands = ", ".join(image.names)
    if limits is not None:
        bands += f"; {picture.LOW_PERCENTILE:.0f}–{picture.HIGH_PERCENTILE:.0f} % stretch"
    if vectors is None:
        return f"input ({bands})", "mask", "mask over input"
    counts = []
    nouns = list(_NOUNS)
    for layer in sorted(vectors, key=lambda v: nouns.index(v.name) if v.name in nouns else len(nouns)):
        text = f"{layer.features:,} {_NOUNS.get(layer.name, layer.name)}"
        counts.append(f"{text} ({layer.note})" if layer.note else text)
    return f"input ({bands})", "mask", f"vectors: {', '.join(counts) or 'no layers'}"


class _Pixels(Artist):
    """A picture drawn as it is, at whole pixels of the figure; `imshow` would resample it to its own size.

    Parameters
    ----------
    pixels
        uint8 `(rows, cols, 3)`.
    left, bottom
        Where its lower left corner lies, pixels from that of the figure.
    """

    def __init__(self, pixels: picture.Pixels, left: int, bottom: int) -> None:
        super().__init__()
        self._rgba = np.full((*pixels.shape[:2], 4), 255, dtype=np.uint8)
        self._rgba[..., :3] = pixels[::-1]  # Agg counts rows from the bottom
        self._at = left, bottom
        self.set_zorder(0)

    def draw(self, renderer: Any) -> None:
        """Draw it on Agg's canvas."""
        gc = renderer.new_gc()
        renderer.draw_image(gc, *self._at, self._rgba)
        gc.restore()


class _Layout:
    """The figure: a head, rows of three equal pictures with titles, a legend. Positions are pixels from the top."""

    def __init__(self, info: SceneInfo, size: int, views: Sequence[_View], legend: Sequence[str]) -> None:
        self.unit = size / 700.0
        """Sizes of text and lines are given for pictures of 700 px."""
        px = self._px
        self._shape = views[0].shape
        self._left = px(24)
        self._pitch = max(self._shape[1], px(330)) + px(20)  # titles need room beside very high scenes
        self._width = 2 * self._left + 3 * self._pitch - px(20)
        entries = [60.0 + 10.0 * len(label) for label in legend]
        room = self._width / self.unit - 48.0
        self._columns = len(legend) if sum(entries) <= room else max(1, int(room / max(entries)))
        self._foot = self._top(len(views) - 1) + self._shape[0] + px(16)
        self._height = self._foot + px(14) + px(27) * math.ceil(len(legend) / max(1, self._columns))
        self.figure = Figure(figsize=(self._width / _DPI, self._height / _DPI), dpi=_DPI, facecolor="white")
        self._text(self._left, px(36), info.name, 25, color=_INK, weight="bold")
        self._text(self._left, px(66), _facts(info), 17, color=_SOFT)

    def _px(self, length: float) -> int:
        return round(length * self.unit)

    def _top(self, row: int) -> int:
        """Return where a row of pictures begins: the base of its titles is just above."""
        return self._px(112) + row * (self._shape[0] + self._px(50))

    def points(self, length: float) -> float:
        """Return a length in pixels of a 700 px picture as points of this one."""
        return length * self.unit * 72.0 / _DPI

    def _text(self, x: int, base: int, text: str, height: float, **style: Any) -> None:
        # A glyph is about 0.54 of its size wide; what is too long gets smaller rather than cut.
        room = (self._width if height > 16 else self._pitch + self._left - x % self._pitch) - self._px(30)
        height = min(height, max(7.0, height * room / max(1.0, len(text) * 0.54 * height * self.unit)))
        self.figure.text(
            x / self._width, 1.0 - base / self._height, text, size=self.points(height), va="baseline", parse_math=False,
            **style,
        )  # fmt: skip

    def panel(self, row: int, col: int, pixels: picture.Pixels, title: str) -> Axes:
        """Add a picture with its title; data coordinates are picture pixels."""
        rows, cols = pixels.shape[:2]
        left, top = self._left + col * self._pitch, self._top(row)
        self._text(left, top - self._px(10), title, 16, color=_INK)
        place = (left / self._width, 1.0 - (top + rows) / self._height, cols / self._width, rows / self._height)
        axes = self.figure.add_axes(place, xlim=(0, cols), ylim=(rows, 0), xticks=(), yticks=())
        axes.add_artist(_Pixels(pixels, left, self._height - top - rows))
        for spine in axes.spines.values():
            spine.set(edgecolor=_FRAME, linewidth=self.points(1.2))
        return axes

    def legend(self, handles: Sequence[Patch]) -> None:
        """Add the legend below the pictures."""
        self.figure.legend(
            handles=handles, loc="upper left", ncols=self._columns, frameon=False, fontsize=self.points(17),
            bbox_to_anchor=(self._left / self._width, 1.0 - self._foot / self._height),
            borderpad=0.0, borderaxespad=0.0, handlelength=1.5, handleheight=1.0, columnspacing=1.6, labelspacing=0.45,
        )  # fmt: skip


def _facts(info: SceneInfo) -> str:
    """Return the line below the name: size, ground sample distance, CRS."""
    facts = [f"{info.width:,} × {info.height:,} px"]
    if info.gsd:
        facts.append(f"{info.gsd:.3g} m per pixel" if info.gsd < 1000.0 else f"{info.gsd:,.0f} m per pixel")
    crs = crs_of(info)
    facts.append(crs.name if crs else "no coordinate reference system")
    return "  ·  ".join(facts)


def _handles(shown: picture.MaskPicture, *, hatched: bool) -> list[Patch]:
    """Return the legend: all classes, or of many those that occur; and what hatching means."""
    classes = list(shown.classes)
    if len(classes) > _LEGEND_CLASSES:
        classes = [c for c, where in shown.planes() if where.any()][:_LEGEND_CLASSES]
    handles = [Patch(facecolor=c.colour, edgecolor=_SOFT, linewidth=0.6, label=_literal(c.name)) for c in classes]
    if hatched:
        handles.append(Patch(facecolor="#f0f2f5", edgecolor="#b4bac3", hatch="////", linewidth=0.6, label="no data"))
    return handles


def _literal(text: str) -> str:
    # Legends read $…$ as mathematics and leave out labels that begin with an underscore.
    return text.replace("$", r"\$").removeprefix("_") or "_"


def _draw(
    axes: Axes,
    layer: LayerInfo,
    info: SceneInfo,
    view: _View,
    classes: Sequence[ClassInfo],
    layout: _Layout,
) -> None:
    """Draw a layer in the colours of its classes."""
    close = view.rect.cols < info.width or view.sampled == view.rect.shape
    if layer.geometry == "point" and not close:
        return  # at this scale dots would hide the lines
    named = {c.name: c.colour for c in classes}
    kinds = {"buildings": "building", "road_edges": "road"}
    own = next((c.colour for c in classes if c.kind == kinds.get(layer.name)), "#d6336c")
    thin = layout.points(1.4 if close else 0.7)
    from geounet.report import sketch

    for batch in sketch.batches(layer, info, view.rect, view.shape):
        colour = named.get(batch.label, own)
        if layer.geometry == "line":
            for width, ink in (
                ((5.0, "white"), (3.0, _darker(colour, 0.85))) if close else ((1.8, _darker(colour, 0.85)),)
            ):
                axes.add_artist(
                    PathPatch(
                        batch.outline, fill=False, edgecolor=ink, linewidth=layout.points(width), capstyle="round"
                    )
                )
        elif layer.geometry == "point":
            x, y = np.asarray(batch.outline.vertices).T
            style: dict[str, Any] = {
                "markerfacecolor": "white",
                "markeredgecolor": _INK,
                "markeredgewidth": layout.points(1.4),
            }
            axes.plot(x, y, "o", markersize=layout.points(6.0), **style)
        elif layer.name == "landcover":
            axes.add_artist(PathPatch(batch.outline, facecolor=colour, alpha=0.42, linewidth=0.0))
            if close:
                axes.add_artist(PathPatch(batch.outline, fill=False, edgecolor="white", linewidth=thin, alpha=0.8))
        else:
            axes.add_artist(PathPatch(batch.outline, facecolor=colour, alpha=0.35, linewidth=0.0))
            axes.add_artist(PathPatch(batch.outline, fill=False, edgecolor=_darker(colour, 0.55), linewidth=thin))


def _darker(colour: str, share: float) -> tuple[float, ...]:
    return tuple(share * v for v in mpl.colors.to_rgb(colour))


def _outlined(layout: _Layout, width: float = 3.0) -> list[patheffects.AbstractPathEffect]:
    """Return the effect that keeps white drawings readable on any ground."""
    return [patheffects.withStroke(linewidth=layout.points(width), foreground="#101418")]


def _frame(axes: Axes, rect: Rect, view: _View, layout: _Layout) -> None:
    """Mark where the detail lies."""
    sy, sx = view.shape[0] / view.rect.rows, view.shape[1] / view.rect.cols
    axes.add_artist(
        Rectangle(
            (rect.x0 * sx, rect.y0 * sy), rect.cols * sx, rect.rows * sy, fill=False, edgecolor="white",
            linewidth=layout.points(2.0), path_effects=_outlined(layout, 5.0),
        )
    )  # fmt: skip


def round_length(room: float) -> tuple[float, str]:
    """Return the longest of 1, 2, 5, 10, … metres (or centimetres) that fits into `room` metres, and its label."""
    power = 10.0 ** math.floor(math.log10(room))
    length = max(f * power for f in (1.0, 2.0, 5.0) if f * power <= room)
    unit, scale = ("km", 1000.0) if length >= 1000.0 else ("m", 1.0) if length >= 1.0 else ("cm", 0.01)
    return length, f"{length / scale:,.3g} {unit}" if length < 0.1 else f"{length / scale:,.0f} {unit}"


def _scale_bar(axes: Axes, metres_per_pixel: float, shape: tuple[int, int], layout: _Layout) -> None:
    """Draw a bar of a round length, at most 30 % of the picture wide, at the lower left."""
    length, label = round_length(0.3 * shape[1] * metres_per_pixel)
    x, y = 18 * layout.unit, shape[0] - 18 * layout.unit
    end = x + length / metres_per_pixel
    axes.plot([x, end], [y, y], color="white", linewidth=layout.points(4.0), solid_capstyle="butt",
              path_effects=_outlined(layout, 8.0))  # fmt: skip
    axes.text((x + end) / 2, y - 8 * layout.unit, label, color="white", ha="center", va="bottom",
              size=layout.points(16), weight="bold", path_effects=_outlined(layout))  # fmt: skip


def _north(axes: Axes, bearing: float, shape: tuple[int, int], layout: _Layout) -> None:
    """Draw an arrow to true north at the upper right; `bearing` in degrees, clockwise from the top of the picture."""
    centre = np.array([shape[1] - 34 * layout.unit, 46 * layout.unit])
    angle = math.radians(bearing)
    along, across = np.array([math.sin(angle), -math.cos(angle)]), np.array([math.cos(angle), math.sin(angle)])
    head = [22 * along, -12 * along + 11 * across, -6 * along, -12 * along - 11 * across]
    axes.add_artist(
        Polygon([centre + layout.unit * p for p in head], facecolor="white", edgecolor="#101418",
                linewidth=layout.points(1.6), joinstyle="round")
    )  # fmt: skip
    x, y = centre - 25 * layout.unit * along
    axes.text(x, y, "N", color="white", ha="center", va="center", size=layout.points(16), weight="bold",
              path_effects=_outlined(layout))  # fmt: skip
