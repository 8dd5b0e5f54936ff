"""Parts: how the pixels that tasks hand over through files are stored, and the mosaic that makes one raster of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import rasterio
from rasterio.io import MemoryFile

from geounet.atomic import atomic
from geounet.types import Rect

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


@cache
def compression() -> dict[str, Any]:
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


def block_side(size: int) -> int:
    """Return the side of a part's internal tiles along an axis of `size` px."""
    # TIFF tiles are multiples of 16; narrow strips need no wide ones.
    return min(512, -(-size // 16) * 16)


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
                    f'BlockXSize="{block_side(rect.cols)}" BlockYSize="{block_side(rect.rows)}"/>'
                    f'<SrcRect xOff="0" yOff="0" xSize="{rect.cols}" ySize="{rect.rows}"/>'
                    f'<DstRect xOff="{rect.x0}" yOff="{rect.y0}" xSize="{rect.cols}" ySize="{rect.rows}"/>'
                    "</SimpleSource>\n"
                )
            out.write("  </VRTRasterBand>\n")
        out.write("</VRTDataset>\n")
