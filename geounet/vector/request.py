"""What is asked of this package: the rasters, the layers and the places."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from geounet.config.card import ClassInfo
from geounet.config.job import Vector
from geounet.errors import VectorError
from geounet.vector.backdrop import Backdrop
from geounet.vector.mosaic import Mosaic

FORMAT = "geounet-vector/5"
"""Changes when the same request gives another result, so that parts of older versions are not reused."""

DEFAULT_CELL = 1024
"""Side of a vector cell in pixels where `auto` is asked: faster than larger ones, and about 1 GB even for noise."""


@dataclass(frozen=True)
class VectorRequest:
    """Rasters on disk and the layers to make of them.

    Attributes
    ----------
    mask
        Class raster that GDAL reads: one uint8 band of class codes with nodata 255, or (multi-label) a band of 0, 1,
        255 for each class, in the order of `classes`.
    probability
        Raster of the same grid with uint8 bands `round(254 * p)`, 255 nodata; none: no confidences.
    classes
        Classes of the mask in the order of their codes.
    channels
        1-based band of `probability` for a class code; codes without an entry have no confidence.
    layers
        Resolved sections: `Buildings`, `Roads`, `Landcover`, or none (also `False`) where the layer is left out.
    cell
        Side of a vector cell in pixels.
    out
        The GeoPackage; it and files of other formats beside it appear only when complete.
    work
        Folder for the parts of cells, on storage that all workers share.
    metadata
        Written into the metadata of file and layers: model, run id; `date` (ISO 8601) is the file's time stamp.
    multilabel
        Whether the mask has a band for each class.
    identity
        Names the content of the rasters for reuse of parts; empty: their paths, sizes and times of change.
    formats
        Formats of `geounet.vector.writer`.
    backdrops
        Rasters that the QGIS project in the GeoPackage shows below the layers, from the top to the bottom.
    home
        Folder in which the GeoPackage will lie at last; none: that of `out`.
    source
        What messages call the mask where it is a copy or a mosaic; empty: its path.
    blank
        Whether what has no data counts as no road: in a mask that holds nothing but roads it is all the others.
    values
        What `class_id` says of a class code: the value in the raster that the mask is a copy of. Codes without an entry
        stand for themselves.
    """

    mask: str
    probability: str | None
    classes: tuple[ClassInfo, ...]
    channels: dict[int, int]
    layers: Vector
    cell: int
    out: Path
    work: Path
    metadata: dict[str, str] = field(default_factory=dict)
    multilabel: bool = False
    identity: str = ""
    formats: tuple[str, ...] = ("gpkg",)
    backdrops: tuple[Backdrop, ...] = ()
    home: Path | None = None
    source: str = ""
    blank: bool = False
    values: dict[int, int] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What messages call it: the file, or a scene's name where the file is in a folder of ours until it is done."""
        return str(self.out) if self.home is None else self.out.stem

    def of_mosaic(self, made: Mosaic) -> VectorRequest:
        """Return the same request for the rasters of a mosaic."""
        return replace(self, mask=made.mask, probability=made.probability, identity=made.identity)

    def fingerprint(self) -> str:
        """Return a hash of all that the parts depend on.

        Raises
        ------
        VectorError
            If a raster does not exist.
        """
        content: list[object] = [FORMAT, self.cell, self.multilabel, self.blank, self.identity]
        content += [c.model_dump(mode="json") for c in self.classes]
        layers = self.layers.model_dump(mode="json", include={"buildings", "roads", "landcover"})
        content += [sorted(self.channels.items()), sorted(self.values.items()), layers]
        if not self.identity:
            for name in (self.mask, self.probability):
                if name is None:
                    continue
                try:
                    stat = Path(name).stat()
                except OSError as error:
                    raise VectorError(f"{name}: cannot be read ({error.strerror}); give an existing raster") from error
                content.append([str(Path(name).resolve()), stat.st_size, stat.st_mtime_ns])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
