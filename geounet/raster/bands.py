"""Choosing the bands of a scene: by number over all its files, or by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rasterio.shutil
from rasterio.enums import MaskFlags
from rasterio.io import MemoryFile

from geounet.errors import SceneError

_COLOURS = ("red", "green", "blue")
_NO_NAMES = frozenset({"undefined", "gray", "grey", "palette", "alpha"})
_EXACT = 2**53
"""Integers below it have no rounding in float64."""


@dataclass(frozen=True)
class Band:
    """A chosen band.

    Attributes
    ----------
    file : int
        Number of its file in the scene, from 0.
    index : int
        Its number in the file, from 1.
    name : str
        Its description, colour, or `band<number over all files>`.
    dtype : str
        Data type in the file.
    nodata : float or None
        Declared nodata value; an integer where a float would round it.
    scale, offset : float
        `value = stored * scale + offset`.
    colour : int or None
        Component of the file's colour table that is read instead of the stored index: 0 red, 1 green, 2 blue.
    """

    file: int
    index: int
    name: str
    dtype: str
    nodata: float | None
    scale: float
    offset: float
    colour: int | None = None


def all_bands(rasters: Sequence[Any], labels: Sequence[Sequence[str]] = ()) -> list[tuple[Band, frozenset[str], bool]]:
    """Return every band of the files in order, with the names it answers to (lower case) and whether it is alpha.

    Parameters
    ----------
    rasters : sequence of rasterio.DatasetReader
        Files in order.
    labels : sequence of sequence of str, optional
        Names of each file's bands that go before those that the file has; perhaps of all but alpha.

    Raises
    ------
    SceneError
        If a file has not as many bands as it has labels.
    """
    found: list[tuple[Band, frozenset[str], bool]] = []
    for number, raster in enumerate(rasters):
        given = iter(_labels(raster, labels[number]) if labels else ())
        every = bool(labels) and len(labels[number]) == raster.count
        # rasterio asks GDAL about every band at each of these attributes.
        about = zip(
            raster.descriptions, raster.colorinterp, raster.nodatavals, raster.dtypes, raster.scales, raster.offsets,
            strict=True,
        )  # fmt: skip
        for index, (text, interpretation, nodata, dtype, scale, offset) in enumerate(about, start=1):
            colour = str(interpretation.name)
            description = (next(given, "") if every or colour != "alpha" else "") or (text or "").strip()
            if description:
                name = description
            elif colour not in _NO_NAMES:
                name = colour
            elif len(rasters) > 1 and raster.count == 1:
                name = Path(raster.name).stem
            else:
                name = f"band{len(found) + 1}"
            names = {name.lower(), f"band{len(found) + 1}"}
            if colour not in ("undefined", "palette"):
                names.add(colour.lower())
            band = Band(
                file=number,
                index=index,
                name=name,
                dtype=dtype,
                nodata=_nodata(raster, index, dtype, nodata),
                scale=float(scale),
                offset=float(offset),
            )
            found.append((band, frozenset(names), colour == "alpha"))
    return found


def _nodata(raster: Any, index: int, dtype: str, told: float | None) -> float | None:
    """Return the nodata value that a band declares; rasterio has floats only, and none where that is out of range."""
    if dtype in ("int64", "uint64") and (told is None or abs(told) >= _EXACT):
        if MaskFlags.nodata not in raster.mask_flag_enums[index - 1]:
            return None
        with MemoryFile(ext=".vrt") as memory:  # in which GDAL writes it out, whatever the file's format
            rasterio.shutil.copy(raster, memory.name, driver="VRT")
            band = memory.read().decode(errors="replace").split("<VRTRasterBand ")[index]
        found = re.search(r"<NoDataValue>(-?\d+)</NoDataValue>", band)
        if found is not None:
            return int(found[1])
    return None if told is None else float(told)


def _labels(raster: Any, labels: Sequence[str]) -> Sequence[str]:
    """Check that a file has a band a label, alpha counted or not."""
    count = sum(colour.name != "alpha" for colour in raster.colorinterp)
    if labels and len(labels) not in (count, raster.count):
        raise SceneError(
            f"{raster.name}: has {count} band{'s' if count != 1 else ''}, but what it belongs to says {len(labels)} "
            f"({', '.join(labels)})"
        )
    return labels


def _palette_bands(rasters: Sequence[Any], wanted: Sequence[int | str]) -> list[Band] | None:
    """Return the colours of a colour table as bands, where a lone paletted band is asked for red, green, blue."""
    if len(rasters) != 1 or rasters[0].count != 1 or rasters[0].colorinterp[0].name != "palette":
        return None
    names = [str(name).lower() for name in wanted]
    if not all(name in _COLOURS for name in names):
        return None
    band = all_bands(rasters)[0][0]
    return [
        Band(0, 1, name, "uint8", band.nodata, scale=1.0, offset=0.0, colour=_COLOURS.index(name)) for name in names
    ]


def choose(
    scene: str, rasters: Sequence[Any], wanted: Sequence[int | str] | None, labels: Sequence[Sequence[str]] = ()
) -> list[Band]:
    """Return the chosen bands in the order asked for.

    Parameters
    ----------
    scene : str
        Name of the scene, for messages.
    rasters : sequence of rasterio.DatasetReader
        Its files in order.
    wanted : sequence of int or str, optional
        1-based numbers over all files' bands in order, or names (descriptions or colours, upper and lower case are
        the same). None: all but alpha.
    labels : sequence of sequence of str, optional
        As in `all_bands`.

    Raises
    ------
    SceneError
        If a band does not exist, a name fits several, or labels do not fit a file.
    """
    known = all_bands(rasters, labels)
    if wanted is None:
        chosen = [band for band, _, alpha in known if not alpha]
        if not chosen:
            raise SceneError(f"{scene}: holds only an alpha band, no imagery")
        return chosen
    if not wanted:
        raise SceneError(f"{scene}: no bands are chosen")
    colours = _palette_bands(rasters, wanted)
    if colours is not None:
        return colours
    chosen = []
    listing = ", ".join(f"{i} {band.name}" for i, (band, _, _) in enumerate(known[:30], start=1))
    listing += ", …" if len(known) > 30 else ""
    for item in wanted:
        if isinstance(item, int):
            if not 1 <= item <= len(known):
                raise SceneError(f"{scene}: band {item} does not exist; its bands are {listing}")
            chosen.append(known[item - 1][0])
            continue
        # The name itself goes before colours: a description may say more than the file's colour interpretation.
        matches = [band for band, _, _ in known if band.name.lower() == item.lower()]
        matches = matches or [band for band, names, _ in known if item.lower() in names]
        if not matches:
            raise SceneError(f"{scene}: no band is named {item!r}; its bands are {listing}")
        if len(matches) > 1:
            raise SceneError(f"{scene}: {len(matches)} bands are named {item!r}: choose by number; they are {listing}")
        chosen.append(matches[0])
    return chosen
