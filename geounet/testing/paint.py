"""Pictures of the world: aligned blocks of 512 × 512 pixels, each a function of seed, place and pixel size only."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from geounet.testing.faces import face
from geounet.testing.layout import Climate, Points, climate, faces_near, river_line, rivers, rotated
from geounet.testing.noise import Floats, curve, field, stream
from geounet.testing.plot import Crop
from geounet.testing.shapes import LAYERS, Layer, Stuff, mix

BLOCK = 512
"""Pixels per side of a painted block."""

_MARGIN = 8  # pixels painted around a block, for the blur
_FINE = 2  # painted pixels per pixel: edges are averaged

LAND, BUILDING, ROAD, VEGETATION, WATER = range(5)

_LABEL = np.zeros(256, dtype=np.uint8)
for _stuff, _label in (
    (Stuff.asphalt, ROAD), (Stuff.dirt, ROAD), (Stuff.traffic, ROAD), (Stuff.paint, ROAD),
    (Stuff.tiles, BUILDING), (Stuff.flat, BUILDING), (Stuff.metal, BUILDING),
    (Stuff.canopy, VEGETATION), (Stuff.hedge, VEGETATION), (Stuff.water, WATER), (Stuff.pool, WATER),
):  # fmt: skip
    _LABEL[_stuff] = _label

_WAVES = (110.0, 21.0, 5.5, 1.7, 0.75)
"""Wavelengths of the brightness textures, metres."""

# per stuff: strength of the brightness textures, of pixel grain, of the drift from green to bare; share of shadow
# taken; near infrared as factor and offset of brightness
_TEXTURE = {
    Stuff.grass: ((0.06, 0.08, 0.05, 0.06, 0.07), 0.025, 16.0, 1.0, 0.9, 70),
    Stuff.soil: ((0.07, 0.08, 0.06, 0.05, 0.05), 0.025, 7.0, 1.0, 1.15, 10),
    Stuff.crop: ((0.06, 0.07, 0.03, 0.04, 0.06), 0.025, 7.0, 1.0, 0.9, 60),
    Stuff.paved: ((0.04, 0.07, 0.06, 0.04, 0.04), 0.02, 2.0, 1.0, 1.0, 0),
    Stuff.gravel: ((0.05, 0.07, 0.08, 0.08, 0.06), 0.03, 5.0, 1.0, 1.1, 8),
    Stuff.bank: ((0.05, 0.08, 0.09, 0.06, 0.05), 0.02, 9.0, 1.0, 0.9, 40),
    Stuff.vehicle: ((0.0, 0.0, 0.0, 0.0, 0.02), 0.01, 0.0, 0.45, 1.0, 0),
    Stuff.asphalt: ((0.04, 0.07, 0.04, 0.03, 0.04), 0.02, 1.5, 1.0, 0.95, 0),
    Stuff.dirt: ((0.05, 0.08, 0.06, 0.06, 0.05), 0.025, 6.0, 1.0, 1.1, 8),
    Stuff.traffic: ((0.0, 0.0, 0.0, 0.0, 0.02), 0.01, 0.0, 0.45, 1.0, 0),
    Stuff.paint: ((0.0, 0.1, 0.15, 0.12, 0.05), 0.02, 1.0, 1.0, 1.0, 0),
    Stuff.tiles: ((0.02, 0.04, 0.05, 0.05, 0.06), 0.02, 2.0, 0.0, 1.05, 0),
    Stuff.flat: ((0.02, 0.05, 0.07, 0.03, 0.03), 0.015, 2.0, 0.0, 1.0, 0),
    Stuff.metal: ((0.02, 0.05, 0.06, 0.03, 0.02), 0.015, 3.0, 0.0, 1.0, 0),
    Stuff.canopy: ((0.08, 0.1, 0.07, 0.13, 0.16), 0.04, 6.0, 0.35, 0.8, 95),
    Stuff.hedge: ((0.06, 0.08, 0.07, 0.12, 0.14), 0.04, 6.0, 0.5, 0.8, 85),
    Stuff.water: ((0.1, 0.07, 0.03, 0.02, 0.03), 0.012, 4.0, 0.55, 0.2, 5),
    Stuff.pool: ((0.02, 0.02, 0.04, 0.06, 0.04), 0.01, 1.0, 0.8, 0.2, 5),
}


# per band: how much brighter bare ground is than green, what shadows keep (skylight is blue), haze
_OPTICS = ((1.0, 0.40, 0.9), (0.55, 0.44, 1.0), (0.35, 0.52, 1.15), (0.2, 0.34, 0.6))
_GREY = (0.63, 0.45, 1.02)


def _table(column: int, part: int | None = None) -> Floats:
    out = np.zeros(256, dtype=np.float32)
    for stuff, row in _TEXTURE.items():
        value = row[column]
        out[stuff] = value[part] if isinstance(value, tuple) and part is not None else value
    return out


_STRENGTH = [_table(0, k) for k in range(len(_WAVES))]
_GRAIN, _DRIFT, _SHADED, _NIR_GAIN, _NIR_BASE = (_table(k) for k in range(1, 6))


class _Canvas:
    """Draws polygons of the world on the fine grid of a block; the fourth channel holds the stuff."""

    def __init__(self, y: float, x: float, gsd: float, size: int, ground: tuple[float, ...]) -> None:
        self.corner = np.array([x, y])
        self.scale = _FINE / gsd
        self.reach = size * gsd
        self.picture = Image.new("RGBX", (size * _FINE, size * _FINE), _ink((*ground, Stuff.grass)))
        self.shadow = Image.new("L", self.picture.size, 0)
        self._draw = ImageDraw.Draw(self.picture)
        self._dark = ImageDraw.Draw(self.shadow)

    def points(self, coords: Points) -> Points:
        """Return world coordinates as coordinates of the fine grid."""
        # PIL counts from pixel centres
        out: Points = (coords - self.corner) * self.scale - 0.5
        return out

    def polygon(self, coords: Points, colour: Iterable[float]) -> None:
        self._draw.polygon(self.points(coords).ravel().tolist(), fill=_ink(colour))

    def layer(self, layer: Layer, origin: Points, *, dark: bool = False) -> None:
        """Draw the polygons of a layer that touch the block."""
        x, y = origin - self.corner
        b = layer.boxes
        seen = np.flatnonzero(
            (b[:, 2] + x > 0) & (b[:, 0] + x < self.reach) & (b[:, 3] + y > 0) & (b[:, 1] + y < self.reach)
        )
        shift = np.array([x, y])
        for k in seen.tolist():
            xy = ((layer.coords[layer.starts[k] : layer.starts[k + 1]] + shift) * self.scale - 0.5).ravel().tolist()
            if dark:
                self._dark.polygon(xy, fill=255)
            else:
                self._draw.polygon(xy, fill=tuple(layer.fills[k].tolist()))


def _ink(colour: Iterable[float]) -> tuple[int, ...]:
    return tuple(min(255, max(0, round(c))) for c in colour)


def _rivers(canvas: _Canvas, seed: int, sky: Climate) -> None:
    corners = canvas.corner + canvas.reach * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    uv = rotated(corners, -sky.turn)
    (u0, v0), (u1, v1) = uv.min(axis=0), uv.max(axis=0)
    step = 4.0
    v = np.arange(math.floor(v0 / step) - 4, math.ceil(v1 / step) + 5) * step
    for k in rivers(seed, float(u0), float(u1)):
        centre, half = river_line(seed, k, v)
        bars = 2.2 * np.maximum(curve(seed, 36, v, 40.0), -0.4)
        for grow, colour, stuff in (
            (3.6 + bars, mix(sky.soil, sky.grass, 0.45), Stuff.bank),
            (1.0 + 0.4 * bars, mix(sky.soil, sky.water, 0.45), Stuff.bank),
            (np.zeros_like(v), mix(sky.water, sky.soil, 0.12), Stuff.water),
            (-0.3 * half, sky.water, Stuff.water),
        ):
            left, right = centre - half - grow, centre + half + grow
            line = np.concatenate([np.stack([left, v], axis=1), np.stack([right, v], axis=1)[::-1]])
            canvas.polygon(rotated(line, sky.turn), (*colour, stuff))


def _rows(light: Floats, crops: list[Crop], canvas: _Canvas, gsd: float, kind: NDArray[np.uint8], seed: int) -> None:
    """Darken and lighten the rows and wheel tracks of parcels, in place."""
    size = light.shape[0]
    if not crops:
        return
    owner = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(owner)
    for k, crop in enumerate(crops):
        draw.polygon((canvas.points(crop.polygon) / _FINE).ravel().tolist(), fill=k + 1)
    owners = np.asarray(owner)
    for k, crop in enumerate(crops):
        if crop.strength == 0:
            continue
        mask = (owners == k + 1) & ((kind == Stuff.crop) | (kind == Stuff.grass))
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        cut = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        y = (canvas.corner[1] + (np.arange(rows[0], rows[-1] + 1) + 0.5) * gsd)[:, None]
        x = (canvas.corner[0] + (np.arange(cols[0], cols[-1] + 1) + 0.5) * gsd)[None, :]
        across = (y * math.cos(crop.angle) - x * math.sin(crop.angle)).astype(np.float32)
        # rows closer than two pixels cannot be seen
        factor = 1 + np.float32(crop.strength) * np.sin(across * np.float32(2 * math.pi / max(crop.period, 2.2 * gsd)))
        wheel = np.abs((across % np.float32(18.0)) - 9.0)
        factor -= np.float32(0.12) * (np.abs(wheel - 0.9) < 0.28).astype(np.float32)
        light[cut] *= np.where(mask[cut], factor, np.float32(1))


@lru_cache(maxsize=24)
def block(seed: int, row: int, col: int, gsd: float, bands: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return picture (bands, BLOCK, BLOCK) uint8 in 1..254 and labels (BLOCK, BLOCK) uint8 of an aligned block.

    Pixel (0, 0) of block (row, col) is pixel (row * BLOCK, col * BLOCK) of the world. Bands: red, green, blue, near
    infrared. The arrays are shared: do not change them.
    """
    sky = climate(seed)
    size = BLOCK + 2 * _MARGIN
    y, x = (row * BLOCK - _MARGIN) * gsd, (col * BLOCK - _MARGIN) * gsd
    canvas = _Canvas(y, x, gsd, size, mix(sky.grass, sky.dry, 0.4))
    faces = [face(seed, i, j) for i, j in faces_near(seed, y, x, y + size * gsd, x + size * gsd)]
    crops: list[Crop] = []
    for name in LAYERS:
        for each in faces:
            canvas.layer(each.layers[name], each.origin, dark=name == "shadow")
        if name == "ground":
            _rivers(canvas, seed, sky)
            box = (x - 5, y - 5, x + size * gsd + 5, y + size * gsd + 5)
            crops = [c for each in faces for c in each.crops if _touches(c.polygon, box)]
    kind = np.asarray(canvas.picture)[::_FINE, ::_FINE, 3]
    fine = np.asarray(canvas.picture.reduce(_FINE))
    dark = np.asarray(canvas.shadow.reduce(_FINE)).astype(np.float32) * (_SHADED[kind] / 255)

    shape, centre = (size, size), 0.5 * gsd

    def smooth(salt: int, wavelength: float) -> Floats:
        return field(seed, salt, y + centre, x + centre, gsd, shape, wavelength)

    light = np.ones(shape, dtype=np.float32)
    for k, wave in enumerate(_WAVES):
        if wave > 1.2 * gsd:
            light += _STRENGTH[k][kind] * smooth(60 + k, wave)
    _rows(light, crops, canvas, gsd, kind, seed)
    # clouds and flight strips change the light over hundreds of metres
    light *= (1 + 0.05 * smooth(80, 700.0)) * np.float32(sky.gain * (1 - sky.haze / 255))
    drift = _DRIFT[kind] * (smooth(70, 34.0) + 0.7 * smooth(71, 7.0)) * np.float32(sky.gain)
    planes: list[Floats] = [fine[..., k].astype(np.float32) for k in range(3)]
    grey = (planes[0] + planes[1] + planes[2]) / 3
    for plane in planes:
        plane *= np.float32(sky.vivid)
        plane += grey * np.float32(1 - sky.vivid)
    if bands == 1:
        planes = [np.mean(planes, axis=0, dtype=np.float32)]
    elif bands == 4:
        planes.append(grey * _NIR_GAIN[kind] + _NIR_BASE[kind])
    rng = stream(seed, 90, row, col, round(gsd * 1e6))
    core = np.s_[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    common = rng.standard_normal((BLOCK, BLOCK), dtype=np.float32)
    common *= _GRAIN[kind][core] * 60 + np.float32(0.6 * sky.noise)
    picture = np.empty((len(planes), BLOCK, BLOCK), dtype=np.uint8)
    for k, plane in enumerate(planes):
        plane *= light
        bare, skylight, haze = _OPTICS[k] if bands > 1 else _GREY
        plane += drift * np.float32(bare)
        plane *= 1 - dark * np.float32(1 - skylight)
        plane += np.float32(sky.haze * haze)
        soft = ndimage.gaussian_filter(plane, sky.blur, truncate=3.0, mode="nearest")[core]
        soft += common
        soft += rng.standard_normal((BLOCK, BLOCK), dtype=np.float32) * np.float32(0.6 * sky.noise)
        picture[k] = np.clip(np.rint(soft), 1, 254)
    labels = _LABEL[kind[core]]
    picture.setflags(write=False)
    labels.setflags(write=False)
    return picture, labels


def _touches(polygon: Points, box: tuple[float, float, float, float]) -> bool:
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    return bool(low[0] < box[2] and high[0] > box[0] and low[1] < box[3] and high[1] > box[1])


__all__ = ["BLOCK", "BUILDING", "LAND", "ROAD", "VEGETATION", "WATER", "block"]
