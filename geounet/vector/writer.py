"""One way to write the layers, whatever the format: a table of formats, each fed with Arrow batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geounet.vector import flatgeobuf, geopackage, geoparquet
from geounet.vector.content import Contents


@dataclass(frozen=True)
class Format:
    """A format of vector files.

    Attributes
    ----------
    ending
        Of its files.
    container
        Whether one file holds all layers; else each layer has its own.
    write
        Writes the layers to a file that appears when complete; returns the number of features of each.
    """

    ending: str
    container: bool
    write: Callable[[Path, Contents], dict[str, int]]


FORMATS = {
    "gpkg": Format(".gpkg", True, geopackage.write),
    "fgb": Format(".fgb", False, flatgeobuf.write),
    "parquet": Format(".parquet", False, geoparquet.write),
}
"""Formats by the word that job files have for them."""


def destinations(out: Path, formats: Sequence[str], layers: Sequence[str]) -> dict[str, Path]:
    """Return the files of a result by key: `vectors` for the GeoPackage, else `<layer>_<format>`.

    Parameters
    ----------
    out
        Name of the result. `town.gpkg` leads to `town.gpkg`, `town_buildings.fgb`, …; a name that already has the
        ending of a format with a file a layer is taken as it is where there is only one layer.
    formats
        Of `FORMATS`.
    layers
        Names of the layers.
    """
    files: dict[str, Path] = {}
    for name in formats:
        kind = FORMATS[name]
        if kind.container:
            files["vectors"] = out.with_suffix(kind.ending)
        elif out.suffix.lower() == kind.ending and len(layers) == 1:
            files[f"{layers[0]}_{name}"] = out
        else:
            files.update({f"{layer}_{name}": out.with_name(f"{out.stem}_{layer}{kind.ending}") for layer in layers})
    return files


def write(out: Path, formats: Sequence[str], contents: Contents) -> tuple[dict[str, int], dict[str, Path]]:
    """Write layers in formats; returns the number of features of each layer, and the files as `destinations` has them.

    Each file appears when it is complete; what stood there is replaced.

    Raises
    ------
    VectorError
        If a file cannot be written.
    """
    counts: dict[str, int] = {}
    files = destinations(out, formats, [c.layer.name for c in contents.layers])
    for name in formats:
        kind = FORMATS[name]
        if kind.container:
            counts.update(kind.write(files["vectors"], contents))
            continue
        for content in contents.layers:
            counts.update(kind.write(files[f"{content.layer.name}_{name}"], replace(contents, layers=[content])))
    return counts, files
