"""The STAC item of a scene's results: what was made, from what, with which model, and how to check it.

STAC 1.1.0 with the extensions projection 2.0, classification 2.0, raster 2.0, file 2.1 and processing 1.2. The model is
described by fields of the MLM extension without declaring that extension: its schema is for items that *are* models and
carry the weights as an asset.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import pystac

from geounet.atomic import write_text
from geounet.config.card import Card, ClassInfo
from geounet.report.ground import code, crs_of, footprint
from geounet.types import NODATA, PROBABILITY_STEPS

if TYPE_CHECKING:
    from geounet.raster.scene import SceneInfo

_EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
)

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_TYPES = {
    ".tif": "image/tiff; application=geotiff",
    ".tiff": "image/tiff; application=geotiff",
    ".gpkg": "application/geopackage+sqlite3",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".jp2": "image/jp2",
    ".json": "application/json",
    ".qml": "application/xml",
    ".xml": "application/xml",
    ".html": "text/html",
}
"""Media types by ending; the rasters this program writes are COGs."""


class _Kind(NamedTuple):
    title: str
    roles: tuple[str, ...]
    media_type: str | None = None


_ASSETS = {
    "mask": _Kind("Class raster", ("data",), _COG),
    "probability": _Kind("Probability per class", ("data",), _COG),
    "vectors": _Kind("Vector layers", ("data",)),
    "preview": _Kind("Input, mask and vectors side by side", ("overview",)),
    "style": _Kind("Class names and colours for QGIS", ("metadata",)),
    "aux": _Kind("Class names for GDAL", ("metadata",)),
    "probability_aux": _Kind("CRS for GDAL", ("metadata",)),
    "manifest": _Kind("Manifest of the run", ("metadata",)),
} | {
    f"{layer}_{key}": _Kind(f"{title} ({name})", ("data",))
    for layer, title in (("buildings", "Buildings"), ("road_edges", "Roads"), ("road_nodes", "Road nodes"),
                         ("landcover", "Land cover"))
    for key, name in (("fgb", "FlatGeobuf"), ("parquet", "GeoParquet"))
}  # fmt: skip
"""Known asset keys. Others are allowed: they get the role `data` and the type of their ending."""

_SHA256_MULTIHASH = "1220"
"""Prefix of a multihash: function sha2-256 (0x12), length 32 bytes (0x20)."""


def write_item(
    dest: Path,
    *,
    info: SceneInfo,
    card: Card,
    assets: Mapping[str, Path],
    started: datetime,
    finished: datetime,
    software: Mapping[str, str],
    source_files: Sequence[str],
    extra: Mapping[str, Any],
    lying: Mapping[str, Path] | None = None,
) -> None:
    """Write the STAC 1.1.0 item that describes a scene's results.

    Parameters
    ----------
    dest
        The item, `<scene>.json`; links in it are relative to its folder.
    info
        The scene's grid.
    card
        The model's card.
    assets
        Finished files by key: `mask`, `probability`, `vectors`, `preview`, `style`, `aux`, `manifest`, or others.
        Each is read once for its checksum.
    started, finished
        When the scene was begun and done; with a time zone.
    software
        Names and versions.
    source_files
        The input: paths or URLs.
    extra
        Further properties. They come last, so that a caller who knows the input's `datetime` or `license` can say so;
        without a `datetime` the item carries the time of processing.
    lying
        Where assets lie that do not have their names yet, by key.

    Raises
    ------
    OSError
        If an asset cannot be read or the item not written.
    ValueError
        If a time has no time zone, or a value in `extra` is not finite JSON.
    """
    folder = dest.resolve().parent
    outline = footprint(info)
    item = pystac.Item(
        # Not the scene's name alone: the input may be a STAC item of that id, and several models may see one scene.
        id=f"{info.name}-{card.name}",
        geometry=outline[0] if outline else None,
        bbox=outline[1] if outline else None,
        datetime=_utc(finished),
        properties=_properties(info, card, started, finished, software),
        stac_extensions=list(_EXTENSIONS),
    )
    for key, path in assets.items():
        item.add_asset(key, _asset(key, path, folder, card, (lying or {}).get(key, path)))
    for source in source_files:
        item.add_link(
            pystac.Link("derived_from", _href(source, folder), media_type=_TYPES.get(Path(source).suffix.lower()))
        )
    data = item.to_dict(include_self_link=False, transform_hrefs=False)
    # pystac keeps a missing box as null; the item schema wants it absent where the geometry is null.
    if outline is None:
        data.pop("bbox", None)
    data["stac_version"] = "1.1.0"
    data["properties"].update(extra)
    text = json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False)
    write_text(dest, text + "\n")


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return moment.astimezone(UTC)


def _stamp(moment: datetime) -> str:
    return _utc(moment).isoformat(timespec="seconds").replace("+00:00", "Z")


def _properties(
    info: SceneInfo, card: Card, started: datetime, finished: datetime, software: Mapping[str, str]
) -> dict[str, Any]:
    crs = crs_of(info)
    proj_code = code(crs) if crs else None
    properties: dict[str, Any] = {
        "title": f"{info.name} segmented by {card.name}",
        "created": _stamp(finished),
        "processing:datetime": _stamp(finished),
        "processing:lineage": _lineage(info, card, started),
        "processing:software": dict(software),
        "proj:code": proj_code,
        "proj:shape": [info.height, info.width],
    }
    if info.georeferenced:
        properties["proj:transform"] = [float(v) for v in info.transform]
    if info.crs_wkt and proj_code is None:
        properties["proj:wkt2"] = crs.to_wkt("WKT2_2019") if crs else info.crs_wkt
    if info.gsd:
        properties["gsd"] = info.gsd
    return properties | _model(card)


def _lineage(info: SceneInfo, card: Card, started: datetime) -> str:
    classes = ", ".join(c.name for c in card.classes)
    return (
        f"Bands {', '.join(info.band_names)} segmented into the classes {classes} by the network {card.name} "
        f"({card.network}), in overlapping tiles whose overlaps were blended. "
        f"Begun {_stamp(started)}."
    )


def _model(card: Card) -> dict[str, Any]:
    """Return what the card says, in fields of the MLM extension where it has one."""
    tile = card.tile.size
    bands = list(card.input.bands)
    fields: dict[str, Any] = {
        "mlm:name": card.name,
        "mlm:architecture": card.architecture,
        "mlm:framework": "PyTorch",
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:input": [
            {
                "name": "image",
                "bands": bands,
                "input": {
                    "shape": [-1, len(bands), tile, tile],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": [s.model_dump() for s in card.input.value_scaling],
            }
        ],
        "mlm:output": [
            {
                "name": "segmentation",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, card.channels, tile, tile],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": [_class(c) for c in card.classes],
            }
        ],
    }
    if card.encoder:
        fields["geounet:model_encoder"] = card.encoder
    if card.members:
        fields["geounet:model_members"] = list(card.members)
    if card.total_parameters is not None:
        fields["mlm:total_parameters"] = card.total_parameters
    if card.gsd is not None:
        fields["geounet:model_gsd"] = card.gsd
    if card.gsd_range is not None:
        fields["geounet:model_gsd_range"] = list(card.gsd_range)
    if card.licence:
        # Of the model; the licence of the results also depends on the imagery, so `license` is left to the caller.
        fields["geounet:model_licence"] = card.licence
    return fields


def _asset(key: str, path: Path, folder: Path, card: Card, lying: Path) -> pystac.Asset:
    kind = _ASSETS.get(key, _Kind("", ("data",)))
    size, checksum = _fingerprint(lying)
    fields: dict[str, Any] = {"file:size": size, "file:checksum": checksum}
    if key == "mask":
        fields |= _mask_fields(card)
    elif key == "probability":
        fields |= _probability_fields(card)
    return pystac.Asset(
        href=_href(str(path), folder),
        title=kind.title or None,
        media_type=kind.media_type or _TYPES.get(path.suffix.lower()),
        roles=list(kind.roles),
        extra_fields=fields,
    )


def _mask_fields(card: Card) -> dict[str, Any]:
    fields: dict[str, Any] = {"data_type": "uint8", "nodata": NODATA}
    if card.head == "multilabel":
        fields["bands"] = [
            {
                "name": info.name,
                "classification:classes": [
                    {"value": 0, "name": "absent", "title": f"not {info.name}"},
                    _class(info) | {"value": 1},
                    _nodata_class(),
                ],
            }
            for info in card.classes
        ]
    else:
        fields["bands"] = [{"name": "class"}]
        fields["classification:classes"] = [*(_class(c) for c in card.mask_classes()), _nodata_class()]
    return fields


def _probability_fields(card: Card) -> dict[str, Any]:
    return {
        "data_type": "uint8",
        "nodata": NODATA,
        "unit": "1",
        "raster:scale": 1.0 / PROBABILITY_STEPS,
        "raster:offset": 0.0,
        "bands": [{"name": f"p({c.name})", "description": f"probability of {c.name}"} for c in card.classes],
    }


def _class(info: ClassInfo) -> dict[str, Any]:
    """Return a class object of the classification extension: `name` is machine readable, `title` is the card's."""
    # The extension allows letters, digits, - and _ in names.
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in info.name)
    found: dict[str, Any] = {"value": info.code, "name": name, "title": info.name}
    if info.description:
        found["description"] = info.description
    return found | {"color_hint": info.colour[1:].upper()}


def _nodata_class() -> dict[str, Any]:
    return {"value": NODATA, "name": "nodata", "title": "no valid input, or a block that failed", "nodata": True}


def _fingerprint(path: Path) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256 multihash of a file, read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), _SHA256_MULTIHASH + digest.hexdigest()


def _href(target: str, folder: Path) -> str:
    """Return `target` relative to `folder` as a URL reference; URLs and paths on another drive stay absolute."""
    if "://" in target:
        return target
    if target.startswith("/vsi"):  # a GDAL virtual path has no URL
        return quote(target)
    path = Path(target).resolve()
    try:
        relative = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # Windows: no relative path between drives
        return path.as_uri()
    return quote(relative if relative.startswith("../") else f"./{relative}")
