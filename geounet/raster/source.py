"""One raster file: opened, checked, refused with a reason."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import unescape

from rasterio.windows import Window

from geounet.errors import SceneError
from geounet.raster.env import GDAL_ERRORS, one_line, open_quietly
from geounet.raster.georef import warp_command
from geounet.types import Rect

MAX_BLOCK_BYTES = 2**30
"""Largest strip or tile that is decoded at once."""

_REMOTE = re.compile(r"^\s*(/vsi(?!mem)|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
_SOURCE = re.compile(r"<Source(?:Filename|Dataset)\b([^>]*)>([^<]*)<", re.IGNORECASE)
_SUBDATASET = re.compile(r"^[A-Za-z0-9_]{2,}:")
_MAX_NESTING = 8

_SERVICES = (b"<GDAL_WM", b"<WCS_GDAL", b"<WMT_MS_", b"<WMS_", b"<Capabilities", b'"stac_version"')
"""Small files that make GDAL fetch pixels from a server."""
_NETWORK_DRIVERS = frozenset(
    {"WMS", "WCS", "WMTS", "HTTP", "PLMOSAIC", "EEDA", "EEDAI", "DAAS", "NGW", "OGCAPI", "STACTA", "STACIT"}
)


def _check_path(file: str) -> Path:
    if _REMOTE.match(file) or file.startswith("/vsi"):
        raise SceneError(f"{file}: not a local file; copy it to this machine first")
    path = Path(file)
    try:
        if not path.exists():
            raise SceneError(f"{file}: no such file")
        if path.is_dir():
            raise SceneError(f"{file}: a folder, expected a raster file")
        if path.stat().st_size == 0:
            raise SceneError(f"{file}: empty file (0 bytes)")
        with path.open("rb") as raw:
            head = raw.read(4096)
    except OSError as error:
        raise SceneError(f"{file}: cannot be read: {error.strerror or error}") from None
    if b"<VRTDataset" in head:
        _check_vrt(path, 0)
    elif any(mark in head for mark in _SERVICES) and head.lstrip()[:1] in (b"<", b"{"):
        raise SceneError(f"{file}: describes a server, not local pixels; download the image first")
    return path


def _check_vrt(path: Path, depth: int) -> None:
    """Refuse a virtual raster that reads anything but local files."""
    if depth > _MAX_NESTING:
        raise SceneError(f"{path}: virtual rasters nested more than {_MAX_NESTING} deep")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SceneError(f"{path}: cannot be read: {error.strerror or error}") from None
    for name, source in _sources(path, text):
        if _REMOTE.match(name):
            raise SceneError(f"{path}: reads {name}, which is not a local file; copy its sources to this machine first")
        if _SUBDATASET.match(name):
            continue
        try:
            if not source.is_file():
                raise SceneError(f"{path}: its source {name} does not exist")
            nested = _is_vrt(source)
        except OSError as error:
            raise SceneError(f"{path}: its source {name} cannot be read: {error.strerror or error}") from None
        if nested:
            _check_vrt(source, depth + 1)


def _is_vrt(path: Path) -> bool:
    with path.open("rb") as raw:
        return b"<VRTDataset" in raw.read(4096)


def _vrt_text(path: Path) -> str:
    """Return the text of a virtual raster; nothing for other files, and for those that cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if _is_vrt(path) else ""
    except OSError:
        return ""


def _sources(path: Path, text: str) -> list[tuple[str, Path]]:
    """Return the names in a virtual raster of what it reads, and where these lie if they are files."""
    found = []
    for attributes, name in _SOURCE.findall(text):
        name = unescape(name.strip())
        # Relative to the file itself, not to a link to it.
        relative = re.search(r"relativeToVRT\s*=\s*[\"']1", attributes)
        found.append((name, path.resolve().parent / name if relative else Path(name)))
    return found


def virtual_sources(file: str) -> list[str]:
    """Return the files that a virtual raster (`.vrt`) reads, and those that its sources read; what is there of them.

    None of another file: its head is not looked at.
    """
    return [str(path) for path in list(_tree(Path(file)))[1:]] if file.lower().endswith(".vrt") else []


def _tree(path: Path) -> dict[Path, str]:
    """Return what a virtual raster reads, and what that reads, there or not, from itself on; each with `_vrt_text`."""
    tree: dict[Path, str] = {}
    todo = [path]
    while todo:
        path = todo.pop(0)
        if path not in tree:
            tree[path] = _vrt_text(path)
            todo += [source for _, source in _sources(path, tree[path])]
    return tree


def open_source(file: str) -> Any:
    """Open a local raster file whose pixels can be used.

    Parameters
    ----------
    file : str
        Path of a file; URLs and GDAL's virtual file systems are refused.

    Returns
    -------
    rasterio.DatasetReader

    Raises
    ------
    SceneError
        If it is no readable raster, has complex values, is georeferenced by control points or RPCs only, or has
        strips or tiles too large to decode.
    """
    path = _check_path(file)
    try:
        raster = open_quietly(path)
    except GDAL_ERRORS as error:
        raise SceneError(f"{file}: not a raster that can be read: {one_line(error)}") from None
    try:
        _check(raster, path)
    except BaseException:
        raster.close()
        raise
    return raster


def _check(raster: Any, path: Path) -> None:
    if raster.driver in _NETWORK_DRIVERS:
        raise SceneError(f"{path}: read through {raster.driver}, not a local file; download the image first")
    if raster.count == 0:
        inside = [name.rsplit(":", 1)[-1] for name in raster.subdatasets]
        hint = f"; it holds {', '.join(inside[:4])}: extract one with gdal_translate -sds" if inside else ""
        raise SceneError(f"{path}: has no bands{hint}")
    if any(name.startswith("complex") for name in raster.dtypes):
        raise SceneError(
            f"{path}: complex values ({raster.dtypes[0]}); expected real ones, for example their amplitude"
        )
    if raster.transform.is_identity:
        if raster.gcps[0]:
            raise SceneError(
                f"{path}: has ground control points but no geotransform; warp it first: {warp_command(path, gcps=True)}"
            )
        if raster.rpcs is not None:
            raise SceneError(
                f"{path}: has an RPC model but no geotransform; warp it first: "
                f"{warp_command(path, gcps=False, rpcs=raster.rpcs)}"
            )
    elif raster.transform.is_degenerate:
        raise SceneError(f"{path}: its geotransform {tuple(raster.transform)[:6]} has no area")
    if block_bytes(raster) > MAX_BLOCK_BYTES:
        rows, cols = raster.block_shapes[0]
        raise SceneError(
            f"{path}: stored in blocks of {cols} × {rows} px ({block_bytes(raster) / 2**30:.1f} GiB decoded, at most "
            f"{MAX_BLOCK_BYTES / 2**30:.0f}); retile it first: gdal_translate -of COG"
        )


def block_bytes(raster: Any) -> int:
    """Return the bytes of one decoded strip or tile, of all bands where they are interleaved."""
    largest = 0
    together = raster.count if getattr(raster.interleaving, "name", None) == "pixel" else 1
    for (rows, cols), name in zip(raster.block_shapes, raster.dtypes, strict=True):
        largest = max(largest, rows * cols * item_bytes(name) * together)
    return largest


def item_bytes(dtype: str) -> int:
    """Return the bytes of one value of a rasterio data type."""
    return int(re.sub(r"\D", "", dtype) or 8) // 8


def read_window(raster: Any, rect: Rect, indexes: list[int], *, masks: bool = False) -> Any:
    """Read bands of a window, or GDAL's mask of the first of them.

    Parameters
    ----------
    raster : rasterio.DatasetReader
    rect : Rect
        Pixels to read, within the raster.
    indexes : list of int
        1-based bands.
    masks : bool
        Read the mask (rows, cols) instead of values (bands, rows, cols).

    Raises
    ------
    SceneError
        If the file is damaged there.
    """
    window = Window(rect.x0, rect.y0, rect.cols, rect.rows)
    try:
        return raster.read_masks(indexes[0], window=window) if masks else raster.read(indexes, window=window)
    except GDAL_ERRORS as error:
        raise SceneError(
            f"{raster.name}: cannot be read in rows {rect.y0} to {rect.y1}, columns {rect.x0} to {rect.x1}; "
            f"is the file complete? {one_line(error)}"
        ) from None


def content_files(raster: Any) -> list[Path]:
    """Return the files whose bytes are this raster's pixels: all sources below a VRT and masks; no overviews."""
    own = Path(raster.name)
    files = {own, *_sources_below(raster)}
    for name in raster.files:
        path = Path(name)
        if path.suffix.lower() not in _NOT_PIXELS and path.is_file():
            files.add(path)
    return sorted(files, key=os.fspath)


def _sources_below(raster: Any) -> set[Path]:
    """Return the files below a VRT, with the masks beside them."""
    if raster.driver != "VRT":
        return set()
    below = [path for path in list(_tree(Path(raster.name)))[1:] if path.is_file()]  # and no subdataset
    masks = (path.with_name(f"{path.name}.msk") for path in below)
    return {*below, *(path for path in masks if path.is_file())}


def varies(raster: Any) -> bool:
    """Whether pixels may depend on the window that is read: a VRT that warps, sharpens or resamples, or reads one."""
    return raster.driver == "VRT" and any(map(_VARYING.search, _tree(Path(raster.name)).values()))


_VARYING = re.compile(r"<VRTDataset[^>]*\ssubClass\s*=|\sresampling\s*=\s*[\"'](?!near)", re.IGNORECASE)
"""A dataset that computes its pixels, or a source with a filter; nearest neighbours are the same in any window."""

_NOT_PIXELS = frozenset(
    {".ovr", ".xml", ".prj", ".tfw", ".wld", ".jgw", ".pgw", ".j2w", ".jpgw", ".pngw", ".tifw", ".aux"}
)


def lossy(raster: Any) -> bool:
    """Whether the pixels went through a codec that changes them; of a VRT: those of the first file that it reads."""
    if raster.driver == "VRT":
        path = Path(raster.name)
        while below := [source for _, source in _sources(path, _vrt_text(path)) if source.is_file()]:
            path = below[0]
        if path == Path(raster.name):
            return False
        try:
            with open_quietly(path) as first:
                return first.driver != "VRT" and lossy(first)
        except GDAL_ERRORS:
            return False
    about = raster.tags(ns="IMAGE_STRUCTURE")
    codec = about.get("COMPRESSION", "").upper()
    reversible = about.get("COMPRESSION_REVERSIBILITY", "").upper()
    if reversible:
        return "LOSSY" in reversible
    return raster.driver == "JPEG" or ("JPEG" in codec and "JPEG-LS" not in codec) or codec in _LOSSY_CODECS


_LOSSY_CODECS = frozenset({"WEBP", "JXL"})
