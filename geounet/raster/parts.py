"""Parts: the pixels that one task hands over through a file, and the mosaic that makes one raster of them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from rasterio.io import MemoryFile

from geounet.atomic import atomic
from geounet.errors import PartError
from geounet.raster.env import GDAL_ERRORS, gdal_env, one_line, open_quietly
from geounet.types import Rect

Array = np.ndarray[Any, np.dtype[Any]]

VRT_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}
"""numpy's names of data types, and GDAL's."""

_CHECKSUM = "crc32"
_DAMAGE: tuple[type[Exception], ...] = (*GDAL_ERRORS, UnicodeDecodeError, ValueError)
"""Damaged headers make rasterio fail in many ways."""
_RECT = "rect"


@cache
def _compression() -> dict[str, Any]:
    """Return the fastest lossless codec that this GDAL writes."""
    north_up = rasterio.Affine(2, 0, 0, 0, -2, 0)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=1, height=1, count=1, dtype="uint8", compress="ZSTD", transform=north_up
        ) as probe:
            found = probe.compression
        if found is not None and found.name == "zstd":
            return {"compress": "ZSTD", "zstd_level": 1}
    return {"compress": "DEFLATE", "zlevel": 1}


def _block(size: int) -> int:
    # TIFF tiles are multiples of 16; narrow strips need no wide ones.
    return min(512, -(-size // 16) * 16)


def write_part(path: Path, array: Array, rect: Rect, nodata: int, tags: Mapping[str, str]) -> int:
    """Write the pixels of one rectangle as a small GeoTIFF that appears when complete.

    Parameters
    ----------
    path : Path
        Final name; its folder is made where it is missing.
    array : array (bands, rows, cols)
        uint8 or uint16 (any type in `VRT_TYPES`).
    rect : Rect
        Where the pixels lie in the raster they are part of.
    nodata : int
        Value of pixels without data.
    tags : mapping
        What the reader will expect, for example the run's fingerprint.

    Returns
    -------
    int
        Bytes on disk.

    Raises
    ------
    ValueError
        If shapes or types do not agree.
    OSError
        If it cannot be written.
    """
    if array.ndim != 3 or array.shape[1:] != rect.shape or rect.empty:
        raise ValueError(f"array of shape {array.shape} for {rect}; expected (bands, {rect.rows}, {rect.cols})")
    if array.dtype.name not in VRT_TYPES:
        raise ValueError(f"parts of type {array.dtype} are not supported")
    array = np.ascontiguousarray(array)
    own = {_CHECKSUM: f"{zlib.crc32(array.data):08x}", _RECT: ",".join(map(str, rect))}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.Env(**gdal_env()), atomic(path) as temporary:
        try:
            with open_quietly(
                temporary,
                "w",
                driver="GTiff",
                width=rect.cols,
                height=rect.rows,
                count=array.shape[0],
                dtype=array.dtype.name,
                nodata=nodata,
                tiled=True,
                blockxsize=_block(rect.cols),
                blockysize=_block(rect.rows),
                interleave="band",
                bigtiff="IF_SAFER",
                **_compression(),
            ) as part:
                part.update_tags(**{**tags, **own})
                part.write(array)
        except GDAL_ERRORS as error:
            raise OSError(f"{path}: cannot be written: {one_line(error)}") from error
        return temporary.stat().st_size


def read_part(path: Path, expect_tags: Mapping[str, str]) -> Array:
    """Read what `write_part` wrote, all of it, and check that it is that.

    Parameters
    ----------
    path : Path
        A part.
    expect_tags : mapping
        Tags that it must carry with these values; it may carry more.

    Returns
    -------
    array (bands, rows, cols)

    Raises
    ------
    PartError
        If it is missing, truncated, changed, or of another run.
    """
    if not path.is_file():
        raise PartError(f"{path}: part is missing")
    try:
        with rasterio.Env(**gdal_env()), open_quietly(path, driver="GTiff") as part:
            tags = part.tags()
            array: Array = part.read()
    except _DAMAGE as error:
        raise PartError(f"{path}: part is damaged: {one_line(error)}") from None
    for key, value in expect_tags.items():
        if tags.get(key) != value:
            raise PartError(f"{path}: part of another run: {key} is {tags.get(key)!r}, expected {value!r}")
    if tags.get(_CHECKSUM) != f"{zlib.crc32(np.ascontiguousarray(array).data):08x}":
        raise PartError(f"{path}: part is damaged: its checksum does not match its pixels")
    return array


def geotransform_xml(transform: Sequence[float] | None) -> str:
    """Return the `<GeoTransform>` element of a VRT, empty for none or the identity.

    Parameters
    ----------
    transform : sequence of float, optional
        At least the first six of rasterio's `a, b, c, d, e, f`.
    """
    if transform is None:
        return ""
    a, b, c, d, e, f = (float(v) for v in tuple(transform)[:6])
    if (a, b, c, d, e, f) == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0):
        return ""
    return f"  <GeoTransform>{c!r}, {a!r}, {b!r}, {f!r}, {d!r}, {e!r}</GeoTransform>\n"


def srs_xml(crs_wkt: str | None) -> str:
    """Return the `<SRS>` element of a VRT: coordinates are x, y whatever the axis order of the CRS."""
    return f"  <SRS>{escape(crs_wkt)}</SRS>\n" if crs_wkt else ""


def write_mosaic(
    path: Path,
    shape: tuple[int, int],
    count: int,
    dtype: str,
    nodata: int,
    pieces: Iterable[tuple[Rect, Path]],
    crs_wkt: str | None = None,
    transform: Sequence[float] | None = None,
) -> None:
    """Write a VRT that makes one raster of parts; nodata where there is none.

    Parameters
    ----------
    path : Path
        Final name; paths of parts are stored relative to its folder.
    shape : tuple of int
        `(rows, cols)` of the whole.
    count : int
        Bands of each part.
    dtype : str
        numpy's name of the type.
    nodata : int
        Value where there is no part.
    pieces : iterable of (Rect, Path)
        Where each part lies, and its file. Parts do not overlap.
    crs_wkt, transform : optional
        Georeference of the whole; see `SceneInfo`.

    Raises
    ------
    ValueError
        If a piece does not lie within the raster, or the type is unknown.
    """
    kind = VRT_TYPES.get(dtype)
    if kind is None:
        raise ValueError(f"mosaics of type {dtype} are not supported")
    whole = Rect(0, 0, *shape)
    placed: list[tuple[str, Rect]] = []
    for rect, part in pieces:
        if rect.empty or rect.intersection(whole) != rect:
            raise ValueError(f"{part}: {rect} does not lie within {whole}")
        placed.append((escape(Path(os.path.relpath(part, path.parent)).as_posix()), rect))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        out.write(f'<VRTDataset rasterXSize="{shape[1]}" rasterYSize="{shape[0]}">\n')
        out.write(srs_xml(crs_wkt) + geotransform_xml(transform))
        for band in range(1, count + 1):
            out.write(f'  <VRTRasterBand dataType="{kind}" band="{band}">\n')
            out.write(f"    <NoDataValue>{nodata}</NoDataValue>\n")
            for name, rect in placed:
                # With the properties of the part at hand GDAL opens it only when its pixels are needed.
                out.write(
                    f'    <SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
                    f"<SourceBand>{band}</SourceBand>"
                    f'<SourceProperties RasterXSize="{rect.cols}" RasterYSize="{rect.rows}" DataType="{kind}" '
                    f'BlockXSize="{_block(rect.cols)}" BlockYSize="{_block(rect.rows)}"/>'
                    f'<SrcRect xOff="0" yOff="0" xSize="{rect.cols}" ySize="{rect.rows}"/>'
                    f'<DstRect xOff="{rect.x0}" yOff="{rect.y0}" xSize="{rect.cols}" ySize="{rect.rows}"/>'
                    "</SimpleSource>\n"
                )
            out.write("  </VRTRasterBand>\n")
        out.write("</VRTDataset>\n")
