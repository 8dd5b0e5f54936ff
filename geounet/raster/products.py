"""Scenes that come as products of several files: STAC items, and folders of Sentinel-2 in the SAFE format."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from geounet.config.keys import is_remote
from geounet.errors import JobError, SceneError

SAFE = ".safe"
"""Ending of a product's folder, in lower case."""

_ITEM_ENDINGS = frozenset({".json", ".geojson"})
_RASTER_TYPES = ("image/tiff", "image/vnd.stac.geotiff", "image/jp2", "image/png", "image/jpeg", "application/x-hdf")
_RASTER_ENDINGS = frozenset({".tif", ".tiff", ".jp2", ".j2k", ".png", ".jpg", ".jpeg", ".vrt", ".img"})
_ASIDE = frozenset(
    {"thumbnail", "overview", "metadata", "mask", "cloud", "cloud-shadow", "snow-ice", "land-water", "water-mask",
     "saturation", "date", "graphic"}
)  # fmt: skip
"""Roles of assets that are no imagery, and keys that say the same where there are no roles."""


@dataclass(frozen=True)
class ProductBand:
    """What a product says of a band.

    Attributes
    ----------
    name : str
        Its own name, such as `B04`.
    common : str
        What bands of its wavelengths are called, such as `red`; empty if that is not said.
    data_type : str or None
        As STAC calls it, such as `uint16`.
    nodata : float or None
        Stored value of no data.
    said : bool
        Whether the product says which band it is; otherwise the name is made up.
    """

    name: str
    common: str = ""
    data_type: str | None = None
    nodata: float | None = None
    said: bool = True


@dataclass(frozen=True)
class Asset:
    """A raster of a product: its key, where it lies (a path or a URL), and its bands in order."""

    key: str
    place: str
    bands: tuple[ProductBand, ...]

    @property
    def here(self) -> bool:
        """Whether it is a file that is there."""
        return not is_remote(self.place) and os.path.isfile(self.place)  # noqa: PTH113 - False where one may not look

    def names(self, band: int) -> set[str]:
        """Return what a band (from 0) answers to, in lower case."""
        about = self.bands[band]
        found = {about.name, about.common, f"{self.key}:{about.name}"}
        if len(self.bands) == 1:
            found.add(self.key)
        return {name.lower() for name in found if name}


@dataclass(frozen=True)
class Product:
    """A product: the file or folder that describes it, and its imagery."""

    path: Path
    assets: tuple[Asset, ...]


def product_name(path: Path, *, named: bool = True) -> str | None:
    """Return the name of the product that a path is; None if it is none.

    Parameters
    ----------
    path
        A file or a folder.
    named
        Whether it is named outright; a search passes over what only lists items.

    Raises
    ------
    JobError
        If it is named, and lists items.
    """
    if path.suffix.lower() == SAFE and os.path.isdir(path):  # noqa: PTH112 - False where one may not look
        return path.stem
    if path.suffix.lower() not in _ITEM_ENDINGS:
        return None
    data = _json(path)
    if data is None:
        return None
    if data.get("type") == "Feature" and "stac_version" in data:
        name = _NO_NAME.sub("_", str(data.get("id", ""))).strip(". ").encode(errors="ignore")[:_LONGEST]
        return name.decode(errors="ignore") or path.stem
    kind = data.get("type")
    if named and (kind == "FeatureCollection" or (kind in ("Catalog", "Collection") and "stac_version" in data)):
        raise JobError(f"{path}: a {kind}, no single STAC item; name its items, a file each, for example '*/*.json'")
    return None


_NO_NAME = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_LONGEST = 150
"""Bytes of a name: with what is added to it, file systems take 255, some fewer."""


def is_document(path: Path) -> bool:
    """Whether a file is JSON by its ending; those that are no items hold no scene."""
    return path.suffix.lower() in _ITEM_ENDINGS


def _json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):  # told by who opens it as a raster
        return None
    return data if isinstance(data, dict) else None


def read_product(path: Path) -> Product:
    """Read what a product holds.

    Raises
    ------
    SceneError
        If that cannot be read, or is no imagery.
    """
    return _safe(path) if path.suffix.lower() == SAFE else _item(path)


def local_files(path: Path) -> list[Path]:
    """Return the files of a product's imagery, there or not; none where it cannot be read."""
    try:
        return [Path(asset.place) for asset in read_product(path).assets if not is_remote(asset.place)]
    except SceneError:
        return []


def acquired(path: Path) -> dict[str, Any]:
    """Return when and by what the imagery of a product was taken, as properties of a STAC item; what it says of it."""
    if path.suffix.lower() == SAFE:
        match = _SENSED.search(path.stem) or _SENSING.search(path.stem)
        return {} if match is None else {"datetime": "{}-{}-{}T{}:{}:{}Z".format(*match.groups())}
    properties = (_json(path) or {}).get("properties")
    return {key: properties[key] for key in _ACQUIRED if key in properties} if isinstance(properties, dict) else {}


_ACQUIRED = ("datetime", "start_datetime", "end_datetime", "platform", "instruments", "constellation", "mission")
_SENSED = re.compile(r"_V(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?:_|$)")  # names before December 2016
_SENSING = re.compile(r"_(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?:_|$)")


# STAC ----------------------------------------------------------------------------------------------------------------


def _item(path: Path) -> Product:
    import pystac

    data = _json(path)
    if data is None:
        raise SceneError(f"{path}: cannot be read as JSON; expected a STAC item")
    try:
        item = pystac.Item.from_dict(data, migrate=True)
        rasters = [(key, asset) for key, asset in item.assets.items() if _is_raster(asset)]
        imagery = [(key, asset) for key, asset in rasters if not _aside(key, asset)] or rasters
        assets = tuple(Asset(key, _place(path, asset), tuple(_bands(key, asset))) for key, asset in imagery)
    except Exception as error:  # of its migrations from older versions any
        raise SceneError(f"{path}: not a valid STAC item: {type(error).__name__}: {error}") from None
    if not assets:
        raise SceneError(f"{path}: none of its assets is a raster (by media type or ending)")
    return Product(path, assets)


def _is_raster(asset: Any) -> bool:
    typed = str(asset.media_type or "").lower().startswith(_RASTER_TYPES)
    return typed or PurePosixPath(urlsplit(asset.href).path).suffix.lower() in _RASTER_ENDINGS


def _aside(key: str, asset: Any) -> bool:
    roles = {str(role).lower() for role in asset.roles or ()}
    return bool(roles & _ASIDE) and "data" not in roles if roles else key.lower() in _ASIDE


def _place(item: Path, asset: Any) -> str:
    """Return where an asset lies: a URL only where no file of its name lies beside the item."""
    href = str(asset.href)
    if href.startswith("file://"):
        return url2pathname(urlsplit(href).path)
    if is_remote(href):
        beside = item.absolute().parent / unquote(PurePosixPath(urlsplit(href).path).name)
        return str(beside) if os.path.isfile(beside) else href  # noqa: PTH113 - False where one may not look
    # References are quoted as URLs are; many items hold plain paths all the same.
    plain, quoted = (os.path.normpath(item.absolute().parent / text) for text in (href, unquote(href)))
    return plain if os.path.exists(plain) else quoted  # noqa: PTH110 - as above


def _bands(key: str, asset: Any) -> Iterator[ProductBand]:
    """Yield the bands of an asset, of STAC 1.1 or of the extensions before it; without any it counts as one band."""
    own: Mapping[str, Any] = asset.extra_fields
    described: Sequence[Mapping[str, Any]] = own.get("bands") or own.get("eo:bands") or own.get("raster:bands") or [{}]
    stored: Sequence[Mapping[str, Any]] = own.get("raster:bands") or ()
    for number, band in enumerate(described):
        about = {**own, **(stored[number] if number < len(stored) else {}), **band}
        plain = key if len(described) == 1 else f"{key}_{number + 1}"
        yield ProductBand(
            str(band.get("name") or plain),
            str(about.get("eo:common_name") or about.get("common_name") or ""),
            about.get("data_type"),
            _number(about.get("nodata")),
            said=bool(band.get("name") or about.get("eo:common_name") or about.get("common_name")),
        )


def _number(value: Any) -> float | None:
    """Return a value of no data, which JSON spells `"nan"` where it is none."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


# Sentinel-2 ----------------------------------------------------------------------------------------------------------

_SENTINEL2 = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge071", "B06": "rededge075",
    "B07": "rededge078", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B10": "cirrus", "B11": "swir16",
    "B12": "swir22",
}  # fmt: skip
"""Bands and their common names, those of the EO extension of STAC."""

_BAND_FILE = re.compile(r"_(B\d\d|B8A|TCI)(?:_(\d\d)m)?\.jp2$", re.IGNORECASE)


def _safe(path: Path) -> Product:
    """Return a folder's bands, each at its finest resolution, and its picture in natural colours."""
    granules = sorted(folder for folder in path.glob("GRANULE/*") if os.path.isdir(folder))  # noqa: PTH112 - as above
    if len(granules) > 1:
        raise SceneError(f"{path}: holds {len(granules)} granules, expected one; name their files, a scene each")
    finest: dict[str, tuple[int, Path]] = {}
    for file in sorted(granules[0].rglob("*.jp2")) if granules else ():
        match = _BAND_FILE.search(file.name)
        if match is None or "IMG_DATA" not in file.parts:
            continue
        key, size = match[1].upper(), int(match[2] or 0)
        if key not in finest or size < finest[key][0]:
            finest[key] = size, file
    if not finest:
        raise SceneError(f"{path}: no bands of Sentinel-2 (GRANULE/*/IMG_DATA/**/*_B02*.jp2 and others)")
    assets = tuple(Asset(key, str(file), _sentinel2(key)) for key, (_, file) in sorted(finest.items()))
    return Product(path, assets)


def _sentinel2(key: str) -> tuple[ProductBand, ...]:
    # No data is 0 in all of them, which their files do not declare.
    if key == "TCI":
        return tuple(ProductBand(colour, colour, "uint8", 0.0) for colour in ("red", "green", "blue"))
    return (ProductBand(key, _SENTINEL2.get(key, ""), "uint16", 0.0),)
