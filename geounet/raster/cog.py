"""The rasters users keep: mask and probability as cloud optimized GeoTIFFs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

import rasterio
import rasterio.shutil

from geounet.atomic import atomic
from geounet.config.card import ClassInfo
from geounet.machine import cores
from geounet.raster.env import GDAL_ERRORS, gdal_env, one_line, open_quietly
from geounet.raster.parts import geotransform_xml, srs_xml
from geounet.types import NODATA, PROBABILITY_STEPS

if TYPE_CHECKING:
    from geounet.raster.scene import SceneInfo

_LEAST_CACHE_MB, _MOST_CACHE_MB = 32, 256


def _cache_mb(info: SceneInfo, bands: int) -> int:
    """Return the cache that holds two rows of 512-pixel tiles, so that no part is decoded twice."""
    return min(max(_LEAST_CACHE_MB, 2 * 512 * info.width * bands // 2**20), _MOST_CACHE_MB)


def _palette(classes: Sequence[ClassInfo]) -> str:
    """Return the colour table of a class raster; codes without a class are black, nodata is transparent."""
    colours = {c.code: (*c.rgb, 255) for c in classes}
    colours[NODATA] = (0, 0, 0, 0)
    entries = [colours.get(code, (0, 0, 0, 255)) for code in range(256)]
    lines = [f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{a}"/>' for r, g, b, a in entries]
    return "<ColorInterp>Palette</ColorInterp><ColorTable>" + "".join(lines) + "</ColorTable>"


def _wrap(source: Path, info: SceneInfo, tags: Mapping[str, str], bands: Sequence[str]) -> str:
    """Return a VRT that shows `source` with georeference, tags and what `bands` say of each band.

    A COG cannot be edited after it was written: all it carries must be there before.
    """
    rows, cols = info.height, info.width
    lines = [f'<VRTDataset rasterXSize="{cols}" rasterYSize="{rows}">\n']
    lines.append(srs_xml(info.crs_wkt) + geotransform_xml(info.transform))
    items = "".join(f"<MDI key={quoteattr(key)}>{escape(str(value))}</MDI>" for key, value in tags.items())
    lines.append(f"  <Metadata>{items}</Metadata>\n")
    extent = f'xOff="0" yOff="0" xSize="{cols}" ySize="{rows}"'
    name = escape(source.resolve().as_posix())
    for number, about in enumerate(bands, start=1):
        lines.append(
            f'  <VRTRasterBand dataType="Byte" band="{number}" blockXSize="512" blockYSize="512">'
            f"<NoDataValue>{NODATA}</NoDataValue>{about}"
            f'<SimpleSource><SourceFilename relativeToVRT="0">{name}</SourceFilename><SourceBand>{number}</SourceBand>'
            f"<SrcRect {extent}/><DstRect {extent}/></SimpleSource></VRTRasterBand>\n"
        )
    return "".join([*lines, "</VRTDataset>\n"])


def _check(source: Path, info: SceneInfo) -> int:
    with rasterio.Env(**gdal_env()), open_quietly(source) as raster:
        if (raster.height, raster.width) != (info.height, info.width) or set(raster.dtypes) != {"uint8"}:
            raise ValueError(
                f"{source}: {raster.width} × {raster.height} px of {raster.dtypes[0]}, "
                f"expected {info.width} × {info.height} px of uint8"
            )
        return int(raster.count)


def _write(
    source: Path, dest: Path, info: SceneInfo, tags: Mapping[str, str], bands: Sequence[str], **how: Any
) -> None:
    dest.parent.mkdir(parents=True, exist_ok=True)
    with atomic(dest) as temporary:
        vrt = temporary.with_name(f"{temporary.name}.vrt")
        vrt.write_text(_wrap(source, info, tags, bands), encoding="utf-8")  # goes with the temporary file
        try:
            rasterio.shutil.copy(
                vrt,
                temporary,
                driver="COG",
                BLOCKSIZE=512,
                COMPRESS="DEFLATE",
                LEVEL=6,
                BIGTIFF="IF_SAFER",
                NUM_THREADS=str(cores()),  # GDAL's ALL_CPUS knows no quota
                OVERVIEWS="IGNORE_EXISTING",
                **how,
            )
        except GDAL_ERRORS as error:
            raise OSError(f"{dest}: cannot be written from {source}: {one_line(error)}") from error
        except SystemError as error:
            # rasterio's answer where GDAL fails without a reason, as it does for a source that is gone.
            raise OSError(f"{dest}: cannot be written from {source}: is a part of it missing?") from error


def keeps_crs(path: Path, crs_wkt: str | None) -> bool:
    """Return whether a raster that was written here tells its CRS: GeoTIFF has no keys for some.

    What it does not tell belongs into its sidecar, see `write_aux`.
    """
    with rasterio.Env(**gdal_env()), open_quietly(path) as raster:
        return crs_wkt is None or bool(raster.crs == rasterio.CRS.from_wkt(crs_wkt))


def write_mask(
    source: Path, dest: Path, info: SceneInfo, classes: Sequence[ClassInfo], tags: Mapping[str, str]
) -> None:
    """Write the mask COG: uint8 class codes, nodata 255, colour table, overviews by mode.

    Memory hardly depends on the size of the scene: what is held is some rows of tiles and overviews.

    Parameters
    ----------
    source : Path
        VRT or GeoTIFF, uint8 on the scene's grid: one band of class codes, or one band of 0 and 1 per class.
    dest : Path
        Final name; appears when complete.
    info : SceneInfo
        Size, CRS and transform of the result.
    classes : sequence of ClassInfo
        What the codes mean; with several bands, the class of each band.
    tags : mapping
        Metadata: software, model, fingerprint, …

    Raises
    ------
    ValueError
        If `source` does not fit `info` or `classes`.
    OSError
        If it cannot be written.
    """
    count = _check(source, info)
    with rasterio.Env(**gdal_env(_cache_mb(info, count))):
        if count == 1:
            bands = [f"<Description>class</Description>{_palette(classes)}"]
        elif count == len(classes):
            bands = [f"<Description>{escape(c.name)}</Description>" for c in classes]
        else:
            raise ValueError(f"{source}: {count} bands for {len(classes)} classes")
        _write(source, dest, info, tags, bands, OVERVIEW_RESAMPLING="MODE", RESAMPLING="MODE")


def write_probability(
    source: Path, dest: Path, info: SceneInfo, classes: Sequence[ClassInfo], tags: Mapping[str, str]
) -> None:
    """Write the probability COG: one uint8 band a class, `p = value / 254`, nodata 255, overviews by average.

    Parameters, memory and errors are those of `write_mask`; `source` has one band a class, in their order.
    """
    count = _check(source, info)
    with rasterio.Env(**gdal_env(_cache_mb(info, count))):
        if count != len(classes):
            raise ValueError(f"{source}: {count} bands for {len(classes)} classes")
        scale = 1 / PROBABILITY_STEPS
        bands = [
            f"<Description>{escape(f'p({c.name})')}</Description><Offset>0</Offset><Scale>{scale!r}</Scale>"
            for c in classes
        ]
        _write(
            source, dest, info, tags, bands, PREDICTOR="STANDARD", OVERVIEW_RESAMPLING="AVERAGE", RESAMPLING="AVERAGE"
        )
