"""Scenes: imagery to segment, from one file or from bands in several files, with one validity per pixel."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import rasterio
from affine import Affine

from geounet.errors import SceneError
from geounet.raster import validity
from geounet.raster.bands import choose
from geounet.raster.env import CACHE_MB, GDAL_ERRORS, gdal_env
from geounet.raster.georef import apply, crop, ground_pixel
from geounet.raster.layer import Layer, Pixels, check_extent, declares, layer_of, onto
from geounet.raster.resample import source_rect
from geounet.raster.source import block_bytes, content_files, open_source
from geounet.types import Rect

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geounet.raster.aoi import Area

logger = logging.getLogger(__name__)

RULES = "2"
"""Version of how pixels and validity are read; part of the fingerprint, so that results of other rules do not mix."""

_BLOCK_ROWS, _BLOCK_COLS = 512, 8192
_MOST_CACHE_MB = 512
_HEADER = 65536
_SEQUENTIAL = frozenset({"PNG", "JPEG", "GIF", "WEBP"})
_SEQUENTIAL_PIXELS = 10**8


@dataclass(frozen=True)
class SceneSpec:
    """What to open.

    Attributes
    ----------
    name : str
        Name of the scene.
    files : tuple of str
        Local raster files; several hold the bands of one scene.
    bands : tuple of int or str, optional
        1-based numbers over all files' bands in order, or names. None: all but alpha.
    nodata : tuple of float, optional
        Stored value(s) of fill that the file does not declare: one for all bands, or one a chosen band.
    aoi : str, optional
        Vector file: only pixels whose centre lies in its polygons are valid.
    bbox : tuple of float, optional
        xmin, ymin, xmax, ymax in the scene's CRS: only this window is the scene.
    labels : tuple of tuple of str
        Names of each file's bands, or all but alpha, that go before those that the file has; empty: the files' own.
    product : str, optional
        The STAC item or folder that the files belong to.
    fault : str, optional
        Why it cannot be opened, where that is known before.
    """

    name: str
    files: tuple[str, ...]
    bands: tuple[int | str, ...] | None = None
    nodata: tuple[float, ...] | None = None
    aoi: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    labels: tuple[tuple[str, ...], ...] = ()
    product: str | None = None
    fault: str | None = None


@dataclass(frozen=True)
class SceneInfo:
    """What a scene is; grid and size are those after cropping to `bbox`.

    Attributes
    ----------
    name, files
        As in the `SceneSpec`.
    driver : str
        GDAL's name of the (first file's) format.
    width, height : int
        Size of the grid, pixels.
    band_names : tuple of str
        Chosen bands in order.
    dtype : str
        Common stored type of the chosen bands.
    crs_wkt : str or None
        CRS as WKT; None without a geotransform, where it would place pixels nowhere.
    transform : tuple of float
        `a, b, c, d, e, f`: `x = a * col + b * row + c`, `y = d * col + e * row + f`; the identity without georeference.
    georeferenced : bool
        Whether the file has a geotransform.
    gsd : float or None
        Ground sample distance at the centre, metres; None where it cannot be known.
    validity : tuple of str
        Sources of validity that apply: `mask`, `alpha`, `nodata`, `nan`, `fill`, `aoi`.
    fingerprint : str
        SHA-256 that changes when the content of the files, the chosen bands, fill, area or window change.
    block_shape : tuple of int
        `(rows, cols)` of the file's strips or tiles.
    decoded_bytes : int
        Bytes of one decoded strip or tile.
    warnings : tuple of str
        What a user should know.
    scaled : bool
        Whether values are other than those stored: a band has a scale or an offset.
    colours : tuple of str
        Colour interpretation of the chosen bands, as rasterio calls it; empty in records of older versions.
    aspect : float
        Width of a pixel over its height on the ground at the centre; 1 where it cannot be known.
    labels, product
        As in the `SceneSpec`.
    """

    name: str
    files: tuple[str, ...]
    driver: str
    width: int
    height: int
    band_names: tuple[str, ...]
    dtype: str
    crs_wkt: str | None
    transform: tuple[float, float, float, float, float, float]
    georeferenced: bool
    gsd: float | None
    validity: tuple[str, ...]
    fingerprint: str
    block_shape: tuple[int, int]
    decoded_bytes: int
    warnings: tuple[str, ...]
    scaled: bool = False
    colours: tuple[str, ...] = ()
    aspect: float = 1.0
    labels: tuple[tuple[str, ...], ...] = ()
    product: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, cols)`."""
        return self.height, self.width

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return what `to_dict` (also after JSON) described."""
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**values)


class Scene:
    """An open scene. One thread at a time uses it.

    Use `open_scene`; as a context manager it closes its files.
    """

    def __init__(self, spec: SceneSpec) -> None:
        self.spec = spec
        self._stack = ExitStack()
        try:
            # rasterio warns of an overflow where a nodata value is beyond the range of its band.
            with rasterio.Env(**gdal_env()), np.errstate(over="ignore"):
                self._open()
        except UnicodeDecodeError as error:
            self.close()
            raise SceneError(f"{', '.join(spec.files)}: text in its header is not UTF-8: {error}") from None
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        spec = self.spec
        if spec.fault is not None:
            raise SceneError(spec.fault)
        if not spec.files:
            raise SceneError(f"{spec.name}: no files")
        rasters = [self._stack.enter_context(open_source(file)) for file in spec.files]
        self._bands = choose(spec.name, rasters, spec.bands, spec.labels)
        used = sorted({band.file for band in self._bands})
        for band in self._bands:
            if band.dtype.startswith("complex"):
                raise SceneError(f"{rasters[band.file].name}: complex values")
        self._layers = [
            layer_of(rasters[i], tuple((p, b) for p, b in enumerate(self._bands) if b.file == i)) for i in used
        ]
        base = min(self._layers, key=lambda s: abs(s.raster.transform.determinant))
        for layer in self._layers:
            check_extent(spec.name, base.raster, layer.raster)
        self._base = base.raster
        self._shape = base.shape
        self._crs_wkt = _wkt(self._base)
        whole = Rect(0, 0, *self._shape)
        self._window = (
            whole if spec.bbox is None else crop(self._base.transform, whole.cols, whole.rows, spec.bbox, spec.name)
        )
        self._fill = self._fill_values()
        self._area: Area | None = None
        if spec.aoi is not None:
            from geounet.raster.aoi import Area

            self._area = Area(spec.aoi, self._crs_wkt, self._base.transform, self._shape, spec.files[0])
        self._validity = self._list_validity()
        self._cache_mb = _cache_mb(self._layers)

    def _fill_values(self) -> tuple[float, ...] | None:
        fill = self.spec.nodata
        if fill is None:
            return None
        if len(fill) == 1:
            return tuple(fill) * len(self._bands)
        if len(fill) != len(self._bands):
            raise SceneError(f"{self.spec.name}: {len(fill)} nodata values for {len(self._bands)} bands")
        return tuple(fill)

    def _list_validity(self) -> tuple[str, ...]:
        found = []
        if any(s.mask for s in self._layers):
            found.append("mask")
        if any(s.alpha is not None for s in self._layers):
            found.append("alpha")
        if any(declares(b) for b in self._bands):
            found.append("nodata")
        if any(np.dtype(b.dtype).kind == "f" for b in self._bands):
            found.append("nan")
        if self._fill is not None:
            found.append("fill")
        if self._area is not None:
            found.append("aoi")
        return tuple(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    @cached_property
    def info(self) -> SceneInfo:
        """What the scene is."""
        whole = self._base.transform
        x, y = apply(whole, self._window.x0, self._window.y0)
        transform = Affine(whole.a, whole.b, x, whole.d, whole.e, y)
        referenced = not self._base.transform.is_identity
        if not referenced:
            transform = Affine.identity()
        kinds = [np.dtype(b.dtype) for b in self._bands]
        crs_wkt = self._crs_wkt if referenced else None
        gsd, aspect = ground_pixel(crs_wkt, transform, self._window.cols, self._window.rows)
        return SceneInfo(
            name=self.spec.name,
            files=self.spec.files,
            driver=self._base.driver,
            width=self._window.cols,
            height=self._window.rows,
            band_names=tuple(b.name for b in self._bands),
            dtype=np.result_type(*kinds).name,
            crs_wkt=crs_wkt,
            transform=tuple(transform)[:6],
            georeferenced=referenced,
            gsd=gsd,
            aspect=aspect,
            validity=self._validity,
            fingerprint=self._fingerprint(),
            block_shape=tuple(self._base.block_shapes[0]),
            decoded_bytes=max(block_bytes(s.raster) for s in self._layers),
            warnings=tuple(self._warnings(referenced)),
            scaled=any(b.scale != 1 or b.offset != 0 for b in self._bands),
            colours=tuple(colour for _, colour in sorted(p for layer in self._layers for p in layer.colours())),
            labels=self.spec.labels,
            product=self.spec.product,
        )

    def _warnings(self, referenced: bool) -> list[str]:
        found = []
        if not referenced:
            found.append("no georeference: results are in pixels")
        elif self._crs_wkt is None:
            found.append("no CRS: lengths and areas on the ground are unknown")
        for layer in self._layers:
            raster = layer.raster
            if layer.shape != self._shape:
                found.append(f"{Path(raster.name).name}: resampled from {layer.shape[1]} × {layer.shape[0]} px")
            if raster.count == 1 and raster.colorinterp[0].name == "palette":
                colours = layer.bands[0][1].colour is not None
                found.append(
                    f"{Path(raster.name).name}: has a colour table: "
                    + ("read as its colours" if colours else "stored indexes are read; ask for red, green, blue")
                )
            if raster.driver in _SEQUENTIAL and raster.width * raster.height > _SEQUENTIAL_PIXELS:
                found.append(f"{Path(raster.name).name}: {raster.driver} is decoded from its start for every block; "
                             "gdal_translate -of COG makes it fast")  # fmt: skip
            elif self._measures(layer):
                upto = f"up to {layer.transparent}" if layer.transparent else "0"
                found.append(
                    f"{Path(raster.name).name}: band {layer.alpha} is tagged as alpha, but looks like imagery: "
                    f"where it is {upto}, pixels are nodata; if it is none, say so: "
                    f"gdal_edit.py -colorinterp_{layer.alpha} undefined"
                )
            for _, band in layer.bands:
                if band.nodata is not None and not validity.occurs(band.nodata, band.dtype):
                    found.append(f"{band.name}: its nodata value {band.nodata:g} cannot occur in {band.dtype}")
        if self._area is not None and not self._area.named_crs:
            found.append(f"{self.spec.aoi}: has no CRS, taken to be in the scene's")
        return found

    def _measures(self, layer: Layer) -> bool:
        try:
            with rasterio.Env(**gdal_env(self._cache_mb)):
                return layer.alpha_measures()
        except SceneError:  # told by who reads the pixels
            return False

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        spec = self.spec
        about: list[Any] = [RULES, list(spec.bands or ()), list(spec.nodata or ()), list(self._window)]
        for layer in self._layers:
            raster = layer.raster
            about.append([list(b.__dict__.values()) for _, b in layer.bands])
            about.append([raster.driver, *layer.shape, list(layer.mask), layer.alpha, *raster.transform[:6]])
            for path in content_files(raster):
                try:
                    stat = path.stat()
                    about.append([path.name, stat.st_size, stat.st_mtime_ns])
                    with path.open("rb") as file:
                        digest.update(file.read(_HEADER))
                        file.seek(max(0, stat.st_size - _HEADER))
                        digest.update(file.read(_HEADER))
                except OSError as error:
                    raise SceneError(f"{path}: cannot be read: {error.strerror or error}") from None
        about += [self._crs_wkt, self._area.fingerprint if self._area is not None else None]
        digest.update(json.dumps(about).encode())
        return digest.hexdigest()

    def read(self, rect: Rect) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a rectangle of the scene.

        Parameters
        ----------
        rect : Rect
            Pixels of the scene's grid; not empty, within it.

        Returns
        -------
        values : float32 array (bands, rows, cols)
            In the units of the file (scale and offset applied); 0 where invalid.
        valid : bool array (rows, cols)

        Raises
        ------
        SceneError
            If the file is damaged there.
        ValueError
            If `rect` does not lie within the scene.
        """
        values = np.empty((len(self._bands), *rect.shape), dtype=np.float32)
        valid = self._read(rect, values)
        if not valid.all():
            np.copyto(values, 0, where=~valid)
        return values, valid

    def read_validity(self, rect: Rect) -> NDArray[np.bool_]:
        """Read which pixels of a rectangle are valid, bool `(rows, cols)`; parameters and errors as in `read`."""
        return self._read(rect, None)

    def _read(self, rect: Rect, values: NDArray[np.float32] | None) -> NDArray[np.bool_]:
        whole = Rect(0, 0, self._window.rows, self._window.cols)
        if rect.empty or rect.intersection(whole) != rect:
            raise ValueError(f"{rect} does not lie within {whole}")
        rect = rect.shifted(self._window.y0, self._window.x0)
        valid = np.ones(rect.shape, dtype=bool)
        if self._area is not None:
            valid &= self._area.read(rect)
        blanks: list[NDArray[np.bool_]] = []
        fills: list[NDArray[np.bool_]] = []
        with rasterio.Env(**gdal_env(self._cache_mb)):
            for layer in self._layers:
                own = rect if layer.shape == self._shape else source_rect(rect, self._shape, layer.shape)
                pixels = layer.read(own, self._fill, wanted=values is not None)
                if layer.shape != self._shape:
                    pixels = onto(pixels, own, layer.shape, rect, self._shape)
                if pixels.good is not None:
                    valid &= pixels.good
                if pixels.blank is not None:
                    blanks.append(pixels.blank)
                if pixels.filled is not None:
                    fills.append(pixels.filled)
                if values is not None:
                    self._store(pixels, values)
        for planes in (blanks, fills):
            if planes:
                valid &= ~np.logical_and.reduce(planes)
        return valid

    def _store(self, pixels: Pixels, values: NDArray[np.float32]) -> None:
        for position, plane in pixels.raw.items():
            band = self._bands[position]
            with np.errstate(over="ignore", invalid="ignore"):
                if band.scale == 1 and band.offset == 0:
                    values[position] = plane
                else:
                    values[position] = plane * np.float64(band.scale) + band.offset


def _cache_mb(layers: Sequence[Layer]) -> int:
    """Return the cache that holds the files' tiles under a row of a block of work, so that none is decoded twice."""
    need = 0
    for layer in layers:
        rows, cols = layer.raster.block_shapes[0]
        across = -(-min(layer.shape[1], _BLOCK_COLS) // cols) + 1
        need += 2 * across * max(1, min(_BLOCK_ROWS // rows, layer.shape[0] // rows)) * block_bytes(layer.raster)
    return min(max(CACHE_MB, need // 2**20), _MOST_CACHE_MB)


def _wkt(raster: Any) -> str | None:
    if not raster.crs:
        return None
    try:
        # The older WKT 1 cannot say every CRS, and old files hold some that WKT 2 cannot.
        return str(raster.crs.to_wkt(version="WKT2_2019"))
    except GDAL_ERRORS:
        return str(raster.crs.wkt)


def open_scene(spec: SceneSpec) -> Scene:
    """Open a scene.

    Raises
    ------
    SceneError
        If a file cannot be read or its result could not be trusted.
    """
    return Scene(spec)


def describe(spec: SceneSpec) -> SceneInfo:
    """Return what a scene is, after all checks that need no pixels.

    Raises
    ------
    SceneError
        As `open_scene`.
    """
    with open_scene(spec) as scene:
        return scene.info
