"""One file of a scene: what it says of a rectangle, and how files of several resolutions meet on one grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from geounet.errors import SceneError
from geounet.raster import validity
from geounet.raster.bands import Band
from geounet.raster.georef import apply
from geounet.raster.resample import coverage, interpolate
from geounet.raster.source import lossy, read_window, varies
from geounet.raster.windows import Windows
from geounet.types import Rect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_PATCH = 64
_MOST_LEVELS = 16
"""Values between transparent and opaque that soft edges have, in a few places; imagery has more."""


@dataclass(frozen=True)
class Pixels:
    """What one file says of a rectangle of its own grid."""

    raw: dict[int, Any]
    """Stored values by position among the chosen bands."""
    good: NDArray[np.bool_] | None
    """Where mask, alpha, NaN and impossible values let a pixel be valid; None: everywhere."""
    blank: NDArray[np.bool_] | None
    """Where all bands that declare a possible nodata value hold it; None: no band declares one."""
    filled: NDArray[np.bool_] | None
    """Where all bands hold the job's fill; None: not asked."""


@dataclass(frozen=True)
class Layer:
    """One file of a scene, and which of the chosen bands it holds."""

    raster: Any
    bands: tuple[tuple[int, Band], ...]
    """Position among the chosen bands, and the band."""
    shape: tuple[int, int]
    mask: tuple[int, ...]
    """Bands whose GDAL mask counts: the first for a mask of the whole file, all where bands have their own."""
    alpha: int | None
    lossy: bool

    @cached_property
    def palette(self) -> NDArray[np.uint8]:
        """The file's colour table, uint8 `(stored value, red green blue)`; black where it has no entry."""
        colours = np.zeros((np.iinfo(self.raster.dtypes[0]).max + 1, 3), dtype=np.uint8)
        for index, entry in self.raster.colormap(1).items():
            colours[index] = entry[:3]
        return colours

    def colours(self) -> list[tuple[int, str]]:
        """Return the position among the chosen bands and the colour interpretation of each band."""
        every = [str(colour.name) for colour in self.raster.colorinterp]
        return [(p, every[b.index - 1] if b.colour is None else b.name.lower()) for p, b in self.bands]

    @property
    def transparent(self) -> int:
        """The largest value of alpha that makes a pixel invalid."""
        eight = self.alpha is not None and self.raster.dtypes[self.alpha - 1] == "uint8"
        return validity.LOSSY_OPAQUE if self.lossy and eight else 0

    def alpha_measures(self) -> bool:
        """Whether the alpha band looks like a measurement: in five places, as many values as imagery has."""
        if self.alpha is None:
            return False
        found = []
        for down, across in ((1, 1), (1, 3), (2, 2), (3, 1), (3, 3)):
            y, x = (
                max(0, side * part // 4 - _PATCH // 2) for side, part in zip(self.shape, (down, across), strict=True)
            )
            patch = Rect(y, x, y + _PATCH, x + _PATCH).intersection(Rect(0, 0, *self.shape))
            found.append(self._window(patch, [self.alpha])[0].ravel())
        values = np.concatenate(found)
        values = values[values != 0]
        between = values[values != values.max(initial=0)]
        return len(np.unique(between)) > _MOST_LEVELS and 2 * len(between) > len(values)

    @cached_property
    def _fixed(self) -> Windows | None:
        return Windows(self.raster) if varies(self.raster) else None

    def _window(self, rect: Rect, indexes: list[int], *, masks: bool = False) -> Any:
        if self._fixed is not None:
            return self._fixed.read(rect, indexes, masks=masks)
        return read_window(self.raster, rect, indexes, masks=masks)

    def read(self, rect: Rect, fill: tuple[float, ...] | None, *, wanted: bool) -> Pixels:
        """Read a rectangle of the file's own grid.

        Parameters
        ----------
        rect : Rect
            Pixels of the file, within it.
        fill : tuple of float, optional
            The job's fill, by position among the chosen bands.
        wanted : bool
            Read all bands; otherwise only those that validity needs.

        Raises
        ------
        SceneError
            If the file is damaged there.
        """
        needed = [
            (position, band)
            for position, band in self.bands
            if wanted or fill is not None or declares(band) or np.dtype(band.dtype).kind == "f"
        ]
        missing = {band.index: band.nodata for _, band in needed if band.nodata is not None and declares(band)}
        possible = {index: nodata for index, nodata in missing.items() if not validity.impossible(nodata)}
        # Compression leaves no value as it is; in 8 bits it is known by how much, and how large fill is at least.
        around = bool(fill is not None or possible) and self.lossy and all(b.dtype == "uint8" for _, b in self.bands)
        halo = validity.LOSSY_HALO if around else 0
        wide = Rect(rect.y0 - halo, rect.x0 - halo, rect.y1 + halo, rect.x1 + halo)
        outer = wide.intersection(Rect(0, 0, *self.shape))
        cut = rect.slices_in(outer)

        def all_hold(planes: Sequence[Any], values: Sequence[float]) -> NDArray[np.bool_]:
            if not around:
                return validity.everywhere(planes, values)
            beyond = ((outer.y0 - wide.y0, wide.y1 - outer.y1), (outer.x0 - wide.x0, wide.x1 - outer.x1))
            return validity.filled_lossy(planes, values, beyond)

        indexes = sorted({band.index for _, band in needed})
        if self.alpha is not None:
            indexes.append(self.alpha)
        stored: dict[int, Any] = {}
        if indexes:
            stored = dict(zip(indexes, self._window(outer, indexes), strict=True))
        colours = {
            p: stored[b.index] if b.colour is None else self.palette[stored[b.index], b.colour] for p, b in needed
        }
        filled: NDArray[np.bool_] | None = None
        if fill is not None:
            filled = all_hold(list(colours.values()), [fill[p] for p in colours])
        good: NDArray[np.bool_] | None = None
        for index in self.mask:
            good = both(good, self._window(rect, [index], masks=True) != 0)
        if self.alpha is not None:
            good = both(good, stored[self.alpha][cut] > self.transparent)
        for _, band in needed:
            plane = stored[band.index][cut]
            if plane.dtype.kind == "f":
                good = both(good, validity.finite(plane))
            if band.index in missing and band.index not in possible:
                good = both(good, ~validity.equals(plane, missing[band.index]))
        return Pixels(
            raw={position: plane[cut] for position, plane in colours.items()},
            good=good,
            blank=all_hold([stored[index] for index in possible], list(possible.values())) if possible else None,
            filled=filled,
        )


def both(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Return where both are true; None stands for everywhere."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def declares(band: Band) -> bool:
    """Whether a band declares a nodata value that its type can hold; NaN is never valid and needs no declaration."""
    return band.nodata is not None and not np.isnan(band.nodata) and validity.occurs(band.nodata, band.dtype)


def layer_of(raster: Any, bands: tuple[tuple[int, Band], ...]) -> Layer:
    """Return what is read of a file for the chosen bands, with the validity that applies to them."""
    chosen = {band.index for _, band in bands}
    # An alpha band that is asked for as imagery (some near infrared bands are tagged so) is no validity.
    alpha = [i for i, colour in enumerate(raster.colorinterp, start=1) if colour.name == "alpha" and i not in chosen]
    every = raster.mask_flag_enums
    flags = {i: {flag.name for flag in every[i - 1]} for i in sorted(chosen)}
    first = next(iter(flags))
    mask: tuple[int, ...] = ()
    if "per_dataset" in flags[first] and "alpha" not in flags[first]:
        mask = (first,)
    elif not any(flags.values()):
        mask = tuple(flags)
    return Layer(raster, bands, raster.shape, mask, alpha[0] if alpha else None, lossy(raster))


def check_extent(scene: str, base: Any, other: Any) -> None:
    """Refuse a file that does not lie on the same ground as the finest one."""
    if other is base:
        return
    if other.crs != base.crs:
        raise SceneError(f"{other.name}: another CRS than {base.name}; the files of scene {scene} must have one CRS")
    if base.transform.is_identity and other.shape != base.shape:
        raise SceneError(
            f"{other.name}: {other.width} × {other.height} px, {base.name} has {base.width} × {base.height}; "
            "without georeference the files of a scene must have one size"
        )
    inverse = ~base.transform
    for col, row in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = apply(inverse, *apply(other.transform, col * other.width, row * other.height))
        miss = max(abs(x - col * base.width), abs(y - row * base.height))
        # Grids of one sensor in several resolutions may start at the centre of a pixel instead of its corner.
        if miss > 0.5 + 1e-6:
            raise SceneError(
                f"{other.name}: covers another extent than {base.name} (a corner is {miss:.1f} px away); "
                f"the files of scene {scene} must cover the same ground"
            )


def onto(pixels: Pixels, own: Rect, own_shape: tuple[int, int], rect: Rect, shape: tuple[int, int]) -> Pixels:
    """Bring the pixels of a coarser file onto the scene's grid."""
    missing = [plane for plane in (pixels.blank, pixels.filled) if plane is not None]
    weight = pixels.good
    for plane in missing:
        weight = both(weight, ~plane)

    def moved(plane: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        return None if plane is None else coverage(plane, own, own_shape, rect, shape)

    def kept(plane: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        return None if plane is None else ~coverage(~plane, own, own_shape, rect, shape)

    raw = {p: interpolate(a[None], own, own_shape, rect, shape, weight)[0] for p, a in pixels.raw.items()}
    return Pixels(raw, moved(pixels.good), kept(pixels.blank), kept(pixels.filled))
