"""Any class or probability raster as the input of this package: one uint8 band of codes, 255 where there is nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from geounet.atomic import atomic
from geounet.config.card import PALETTE, ClassInfo, Kind, kind_of
from geounet.errors import JobError, VectorError
from geounet.raster.cog import keeps_crs
from geounet.raster.env import open_quietly
from geounet.raster.sidecar import write_aux
from geounet.types import MAX_CLASSES, NODATA, PROBABILITY_STEPS, Progress, Silent
from geounet.vector.source import U8, opened
from geounet.vector.wanted import SHOWN, class_band, meaningful, probability_band, title_of

SLAB = 512
"""Rows that are read at once."""

_SLAB_COLS = 4096

_CODES = "as class rasters do: leave --threshold out, and choose with --class"


@dataclass(frozen=True)
class Ingested:
    """A raster as this package takes it.

    Attributes
    ----------
    mask, probability, classes, channels
        As in a `VectorRequest`.
    values
        The raster's own values by class code. A value that can be a code is its own.
    band
        The raster's band that was taken.
    absent
        Codes of classes that no valid pixel is of: those that are only named, and those that were asked for.
    named
        Whether the raster names its classes.
    sure
        Whether its values can only be probabilities: none is beyond 0 and 1, some lie between.
    """

    mask: str
    probability: str | None
    classes: tuple[ClassInfo, ...]
    channels: dict[int, int]
    values: dict[int, int]
    band: int = 1
    absent: frozenset[int] = frozenset()
    named: bool = False
    sure: bool = False


def slabs(dataset: Any, progress: Progress | None = None) -> Iterator[Window]:
    """Yield the windows in which a raster is read, which bound memory; tell how many rows are done."""
    progress = progress or Silent()
    for top in range(0, dataset.height, SLAB):
        progress.update("rows", top, dataset.height, pixels=top * dataset.width)
        for left in range(0, dataset.width, _SLAB_COLS):
            yield Window(left, top, min(_SLAB_COLS, dataset.width - left), min(SLAB, dataset.height - top))
    progress.update("rows", dataset.height, dataset.height, pixels=dataset.height * dataset.width)


def valid_in(dataset: Any, band: int, window: Window, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return where values that were read of a band are valid."""
    valid: npt.NDArray[np.bool_] = dataset.read_masks(band, window=window) > 0
    if values.dtype.kind == "f":
        valid &= np.isfinite(values)
    return valid


def ingest(path: Path, folder: Path, *, band: int = 1) -> Ingested:
    """Take a class raster: whole numbers of any type, at most 255 of them.

    Names and colours come from the colour table, the category names and the attribute table beside the raster
    (`.aux.xml`). The raster is used as it is where it can be, else copied into `folder`.

    Raises
    ------
    JobError
        If the band does not exist.
    VectorError
        If it cannot be read, or is no class raster.
    """
    return ingest_several([path], folder, bands=[band])[0]


def bands_of(paths: Sequence[Path], wanted: str | None, kind: Kind) -> list[int]:
    """Return the band of each class raster that is meant by the name of a class, or by a kind; see `class_band`.

    Raises
    ------
    JobError
        If that is not clear.
    VectorError
        If one cannot be read.
    """
    found = []
    for path in paths:
        with opened(str(path)) as dataset:
            _refuse_probabilities(path, dataset, meaningful(dataset))
            names = {band: list(described(path, dataset, band)[0].values()) for band in dataset.indexes}
            found.append(class_band(path, dataset, wanted, kind, names))
    return found


def ingest_several(
    paths: Sequence[Path],
    folder: Path,
    *,
    bands: Sequence[int] = (),
    wanted: Iterable[int] = (),
    progress: Progress | None = None,
) -> list[Ingested]:
    """Take class rasters that go together: the same value is the same class in all of them. See `ingest`.

    Classes are the values that occur, those that are named, and those of `wanted`. `bands` has one for each raster;
    left out: the first.

    Raises
    ------
    JobError
        If the band does not exist.
    VectorError
        If one cannot be read or is no class raster, or a value has different names.
    """
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    values: set[int] = set()
    texts: list[str] = []
    bands = bands or [1] * len(paths)
    for path, band in zip(paths, bands, strict=True):
        with opened(str(path)) as dataset:
            _check_band(path, dataset, band)
            _refuse_probabilities(path, dataset, [band])
            dtype = np.dtype(dataset.dtypes[band - 1])
            if dtype.kind not in "iu":
                raise VectorError(
                    f"{path}: band {band} is {dtype}, not a class raster; for a probability raster give --threshold"
                )
            values.update(distinct(path, dataset, band, progress))
            its_names, its_colours = described(path, dataset, band)
            # What is nodata may have a name, but is no class.
            its_names = {v: n for v, n in its_names.items() if n.strip() and v != dataset.nodatavals[band - 1]}
            texts.append((dataset.descriptions[band - 1] or "").strip() if len(meaningful(dataset)) > 1 else "")
        for value, name in its_names.items():
            if names.setdefault(value, name) != name:
                raise VectorError(f"{path}: calls the value {value} {name!r}, a raster before it {names[value]!r}")
        colours = its_colours | colours
    if len(values) > MAX_CLASSES:
        raise VectorError(f"{paths[0]}: all rasters together have more than {MAX_CLASSES} different values")
    named = bool(names)
    if not named and all(texts) and len(values - {0}) <= 1:
        # A band of its own, as in multi-label masks.
        names = {max(values - {0}, default=1): texts[0]} | ({0: "background"} if 0 in values else {})
    found = sorted(values)
    asked = dict.fromkeys([*sorted(wanted), *sorted(names)])
    if not names and values <= {0}:
        asked[1] = None  # of 0 and 1, as where a tile holds nothing
    codes, absent = _codes_for(found, [value for value in asked if value not in values])
    by_code = {code: value for value, code in [*codes.items(), *absent.items()]}
    classes = _classes(by_code, names, colours, frozenset(absent.values()))
    taken = []
    for index, (path, band) in enumerate(zip(paths, bands, strict=True)):
        with opened(str(path)) as dataset:
            # Such a raster's values are their own codes, whatever other values the rasters beside it hold.
            plain = dataset.dtypes[band - 1] == "uint8" and band == 1 and dataset.nodata == NODATA
            plain = plain and [f.name for f in dataset.mask_flag_enums[0]] == ["nodata"]
            plain = plain and dataset.count == 1
            mask = path if plain else _copied(dataset, band, codes, folder / _name("mask", index), progress)
        taken.append(Ingested(str(mask), None, classes, {}, by_code, band, frozenset(absent.values()), named))
    return taken


def _codes_for(found: Sequence[int], absent: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Return codes for values: the values themselves where they fit, spare ones for the others.

    Parameters
    ----------
    found
        Values with pixels, `MAX_CLASSES` at most; all of them get a code.
    absent
        Values without pixels, in the order in which they get a code, if any are left.
    """
    codes = {value: value for value in found if 0 <= value < MAX_CLASSES}
    without = {value: value for value in absent if 0 <= value < MAX_CLASSES}
    without = dict(list(without.items())[: MAX_CLASSES - len(found)])
    spare = iter([code for code in range(MAX_CLASSES) if code not in codes and code not in without])
    codes |= dict(zip([value for value in found if value not in codes], spare, strict=False))
    return codes, without | dict(zip([value for value in absent if not 0 <= value < MAX_CLASSES], spare, strict=False))


def _name(what: str, index: int) -> str:
    return f"{what}.tif" if index == 0 else f"{what}_{index}.tif"


def _check_band(path: Path, dataset: Any, band: int) -> None:
    if not 1 <= band <= dataset.count:
        raise JobError(f"{path}: has {dataset.count} bands, so there is no band {band}")
    if np.dtype(dataset.dtypes[band - 1]).kind == "c":
        raise VectorError(f"{path}: band {band} is complex; give a class raster or a probability raster")


def _says_probability(dataset: Any, band: int) -> bool:
    """Whether a band says that it holds probabilities: by the name or the scale of those that `run` writes."""
    text = (dataset.descriptions[band - 1] or "").strip()
    return title_of(text) != text or bool(np.isclose(dataset.scales[band - 1], 1 / PROBABILITY_STEPS, rtol=1e-6))


def _refuse_probabilities(path: Path, dataset: Any, bands: Sequence[int]) -> None:
    """Refuse a raster for classes whose bands all hold probabilities: each step of them would be a class."""
    if all(_says_probability(dataset, band) for band in bands):
        names = [text for band in bands[:SHOWN] if (text := (dataset.descriptions[band - 1] or "").strip())]
        said = f" ({', '.join(names)})" if names else ""
        raise VectorError(f"{path}: holds probabilities{said}, no classes; add --threshold 0.5 --class NAME")


def _check_threshold(path: Path, dataset: Any, band: int, threshold: float) -> None:
    """Refuse a threshold that all values reach, or none can."""
    dtype, least, most = np.dtype(dataset.dtypes[band - 1]), 0.0, 1.0
    what = "holds probabilities"
    if not _says_probability(dataset, band):
        if dtype.kind not in "iu":
            return
        ends = [float(v) for v in (np.iinfo(dtype).min, np.iinfo(dtype).max)]
        least, most = sorted(v * dataset.scales[band - 1] + dataset.offsets[band - 1] for v in ends)
        what = f"is {dtype}, with its scale {least:g} to {most:g}"
    if not least < threshold <= most:
        raise JobError(f"--threshold {threshold:g}: {path}: band {band} {what}; "
                       f"expected a number above {least:g}, at most {most:g}")  # fmt: skip


def distinct(path: Path, dataset: Any, band: int, progress: Progress | None = None) -> list[int]:
    """Return the values of a band, ascending, read in slabs; 255 at most, what is nodata left out.

    Raises
    ------
    VectorError
        If there are more.
    """
    found: set[int] = set()
    for window in slabs(dataset, progress):
        values = dataset.read(band, window=window)
        values = values[valid_in(dataset, band, window, values)]
        if values.dtype == np.uint8:
            found.update(np.flatnonzero(np.bincount(values, minlength=256)).tolist())
        else:
            found.update(np.unique(values).tolist())
        if len(found) > MAX_CLASSES:
            raise VectorError(
                f"{path}: band {band} has more than {MAX_CLASSES} different values, so it is no class raster;"
                " for a probability raster give --threshold"
            )
    return sorted(found)


def _classes(
    values: dict[int, int], names: dict[int, str], colours: dict[int, tuple[int, int, int]], absent: frozenset[int]
) -> tuple[ClassInfo, ...]:
    classes, taken = [], set()
    # Of values with one name it belongs to the first that occurs.
    for code, value in sorted(values.items(), key=lambda item: (item[0] in absent, item[0])):
        name = names.get(value, "").strip() or str(value)
        if name in taken:
            name = f"{name} ({value})"
        taken.add(name)
        rgb = colours.get(value)
        colour = "#{:02x}{:02x}{:02x}".format(*rgb) if rgb is not None else PALETTE[code % len(PALETTE)]
        classes.append(ClassInfo(name=name, code=code, colour=colour, kind=kind_of(name)))
    return tuple(sorted(classes, key=lambda c: values[c.code]))


def described(path: Path, dataset: Any, band: int) -> tuple[dict[int, str], dict[int, tuple[int, int, int]]]:
    """Return names and colours by value: from the colour table, then what the sidecar says."""
    names: dict[int, str] = {}
    colours: dict[int, tuple[int, int, int]] = {}
    if dataset.colorinterp[band - 1].name == "palette":
        table = dataset.colormap(band)
        # GDAL fills tables up to 256 entries with black.
        colours = {value: entry[:3] for value, entry in table.items() if any(entry[:3])}
    for element in _sidecar(path):
        if element.get("band") == str(band):
            _read_band(element, names, colours)
    return names, colours


def _sidecar(path: Path) -> list[ET.Element]:
    """Return what the sidecar of a raster says of its bands."""
    sidecar = path.with_name(path.name + ".aux.xml")
    if not sidecar.is_file():
        return []
    try:
        root = ET.fromstring(sidecar.read_bytes())  # noqa: S314 expat refuses entities that grow (2.4.1)
    except ET.ParseError:
        return []  # GDAL ignores a damaged sidecar, too
    return root.findall("PAMRasterBand")


def _read_band(element: ET.Element, names: dict[int, str], colours: dict[int, tuple[int, int, int]]) -> None:
    """Add what the element of a band says: its categories, then its attribute table."""
    for value, category in enumerate(element.iterfind("CategoryNames/Category")):
        if category.text:
            names[value] = category.text
    for table in element.iterfind("GDALRasterAttributeTable"):
        _read_table(table, names, colours)


def _read_table(table: ET.Element, names: dict[int, str], colours: dict[int, tuple[int, int, int]]) -> None:
    """Add what an attribute table says. GDAL's usages: 2 name, 5 value, 3 least value, 6 to 8 red, green, blue."""
    usage = {int(f.findtext("Usage", "0")): i for i, f in enumerate(table.iterfind("FieldDefn"))}
    column = usage.get(5, usage.get(3))
    for row in table.iterfind("Row"):
        cells = [cell.text or "" for cell in row.iterfind("F")]
        try:
            value = int(row.get("index", "0")) if column is None else int(float(cells[column]))
            if 2 in usage and cells[usage[2]]:
                names[value] = cells[usage[2]]
            if {6, 7, 8} <= set(usage):
                red, green, blue = (min(255, max(0, int(float(cells[usage[k]])))) for k in (6, 7, 8))
                colours[value] = (red, green, blue)
        except (ValueError, IndexError):
            continue  # a row that says nothing usable


def _copied(dataset: Any, band: int, codes: dict[int, int], dest: Path, progress: Progress | None) -> Path:
    known = np.array(sorted(codes), dtype=np.int64)
    code = np.array([codes[int(v)] for v in known], dtype=np.uint8)

    def convert(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> U8:
        converted = np.full(values.shape, NODATA, dtype=np.uint8)
        converted[valid] = code[np.searchsorted(known, values[valid].astype(np.int64))]
        return converted

    with written(dataset, dest) as writer:
        for window in slabs(dataset, progress):
            values = dataset.read(band, window=window)
            writer.write(convert(values, valid_in(dataset, band, window, values)), 1, window=window)
    return dest


@contextmanager
def written(like: Any, dest: Path, count: int = 1) -> Iterator[Any]:
    """Open a uint8 raster of some bands on the grid of another for writing; it appears when complete."""
    side = {"tiled": True, "blockxsize": 512, "blockysize": 512} if min(like.shape) >= 512 else {}
    with (
        atomic(dest) as temporary,
        open_quietly(
            temporary, "w", driver="GTiff", width=like.width, height=like.height, count=count, dtype="uint8",
            nodata=NODATA, crs=like.crs, transform=like.transform, compress="deflate", bigtiff="if_safer",
            interleave="band", **side,
        ) as raster,
    ):  # fmt: skip
        yield raster
    crs = like.crs.to_wkt() if like.crs else None
    if not keeps_crs(dest, crs):
        write_aux(dest.with_name(f"{dest.name}.aux.xml"), (), crs_wkt=crs)


def _in_type(threshold: float, dtype: np.dtype[Any]) -> Any:
    """Return a threshold as the nearest number of a raster's type, which stands for it there: 0.7 is none of float32.

    As it is where that type has no number like it, or where numbers of it are whole.
    """
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            near = dtype.type(threshold)
        if np.isfinite(near) and (near == 0) == (threshold == 0):
            return near
    return np.float64(threshold)


def codes_of(path: Path) -> dict[int, str]:
    """Return names by class code for a probability raster of ours: those that the mask beside it has.

    A multi-label mask has a band for each class, and no codes.
    """
    stem = path.name.removesuffix("_prob.tif")
    bands = _sidecar(path.with_name(f"{stem}_mask.tif")) if stem != path.name else []
    names: dict[int, str] = {}
    if len(bands) == 1:
        _read_band(bands[0], names, {})
    return names


def in_steps(values: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_]) -> U8:
    """Return probabilities as this package stores them: uint8 in steps of 1/254, what is beyond 0 and 1 cut off."""
    clipped = np.clip(np.nan_to_num(values), 0, 1)
    return np.where(valid, np.floor(clipped * PROBABILITY_STEPS + 0.5), NODATA).astype(np.uint8)


def ingest_probability(
    path: Path,
    folder: Path,
    name: str | None,
    kind: Kind,
    threshold: float,
    *,
    band: int | None = None,
    progress: Progress | None = None,
) -> Ingested:
    """Take a probability raster: the class is where the probability is at least `threshold`.

    Values are taken with the scale and offset of their band. Where they are between 0 and 1 they are also the
    confidence. Without `band` it is the one described as `name` or `p(name)`, or as a class of that kind; see
    `probability_band`. The class is called as its band is, else `name`, else as its kind.

    Raises
    ------
    JobError
        If the band does not exist, or which one is meant is not clear.
    VectorError
        If it cannot be read, or is a class raster.
    """
    with opened(str(path)) as dataset:
        title = None
        if band is None:
            band, title = probability_band(path, dataset, name, kind, codes_of(path))
        _check_band(path, dataset, band)
        _check_threshold(path, dataset, band, threshold)
        text = (dataset.descriptions[band - 1] or "").strip()
        if title_of(text) != text and name in (None, kind.value):
            title = title_of(text)
        name = title or name or ("class" if kind == Kind.other else kind.value)
        scale, offset = dataset.scales[band - 1], dataset.offsets[band - 1]
        whole = np.dtype(dataset.dtypes[band - 1]).kind in "iu"
        names, _ = described(path, dataset, band) if whole else ({}, {})
        if names or dataset.colorinterp[band - 1].name == "palette":
            what = f"names for its values ({', '.join(list(names.values())[:5])})" if names else "a colour table"
            raise VectorError(f"{path}: band {band} has {what}, {_CODES}")
        least = _in_type(threshold, np.dtype(dataset.dtypes[band - 1]))
        plain = whole and (scale, offset) == (1, 0) and threshold <= 1
        within, between = True, False
        with written(dataset, folder / "mask.tif") as mask, written(dataset, folder / "prob.tif") as probability:
            for window in slabs(dataset, progress):
                stored = dataset.read(band, window=window)
                valid = valid_in(dataset, band, window, stored)
                if plain and (most := int(stored.max(initial=0, where=valid))) > 1:
                    raise VectorError(
                        f"{path}: band {band} holds whole numbers up to {most} without a scale, no probabilities, "
                        f"{_CODES}; for scores give --threshold in the raster's own values, not {threshold:g}"
                    )
                values = stored.astype(np.float64) * scale + offset
                reached = stored >= least if (scale, offset) == (1, 0) else values >= threshold
                code = np.where(valid, reached, NODATA).astype(np.uint8)
                mask.write(code, 1, window=window)
                within = within and bool(((values[valid] >= 0) & (values[valid] <= 1)).all())
                between = between or bool(((values[valid] > 0) & (values[valid] < 1)).any())
                probability.write(in_steps(values, valid), 1, window=window)
    classes = (
        ClassInfo(
            name="background" if name != "background" else "none", code=0, colour=PALETTE[0], kind=Kind.background
        ),
        ClassInfo(name=name, code=1, colour=PALETTE[1], kind=kind),
    )
    stored_at = str(folder / "prob.tif") if within else None
    channels = {1: 1} if within else {}
    return Ingested(str(folder / "mask.tif"), stored_at, classes, channels, {0: 0, 1: 1}, band, sure=within and between)
