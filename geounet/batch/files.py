"""The files that a scene is read from: those that are named, and what says how they are to be read."""

from __future__ import annotations

import os
from pathlib import Path

from geounet.raster.scene import SceneSpec
from geounet.raster.source import virtual_sources

_BESIDE = (".aux", ".aux.xml", ".cpg", ".dbf", ".hdr", ".msk", ".ovr", ".prj", ".shx", ".tab", ".wld")
"""Ends of such files; a file's name, or that without its ending, is before them."""


class Files:
    """Which files belong to scenes. Each folder is listed once: what comes later is not found."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, str]] = {}

    def of(self, spec: SceneSpec) -> list[str]:
        """Return a scene's files, there or not, with what is there of others.

        These are the sources of virtual rasters, the area of interest, the STAC item, and what GDAL looks for beside
        each of them: georeference, mask, overviews, metadata.
        """
        named = [*spec.files, *(source for file in spec.files for source in virtual_sources(file))]
        named += [one for one in (spec.aoi, spec.product) if one is not None]
        return list(dict.fromkeys(name for file in named for name in (file, *self._beside(Path(file)))))

    def _beside(self, path: Path) -> list[str]:
        names = self._names(path.parent)
        kind = path.suffix[1:].lower()
        # World files: of a.tif a.tfw or a.tifw.
        ends = [*_BESIDE, f".{kind[:1]}{kind[-1:]}w", f".{kind}w"]
        wanted = dict.fromkeys(f"{base}{end}".lower() for base in (path.name, path.stem) for end in ends)
        return [str(path.with_name(names[name])) for name in wanted if name in names]

    def _names(self, folder: Path) -> dict[str, str]:
        """Return the names in a folder by what they are in lower case, as which GDAL compares them."""
        if folder not in self._listed:
            try:
                self._listed[folder] = {name.lower(): name for name in sorted(os.listdir(folder))}  # noqa: PTH208
            except OSError:
                self._listed[folder] = {}
        return self._listed[folder]


def stat_of(file: str) -> tuple[int, int, int, int, int] | None:
    """Return size, date (ns), and who may do what (mode, owner, group) of a file; None where that cannot be asked."""
    try:
        found = os.stat(file)  # noqa: PTH116 - of each file of thousands of scenes
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_mode, found.st_uid, found.st_gid
