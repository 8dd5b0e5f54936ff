"""How labels are to be read: from a few options, from what the files themselves say, or from a label file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from pydantic import Field, ValidationError

from geounet.config.card import PALETTE, ClassInfo, Kind, kind_of
from geounet.config.data import Complete, Labels
from geounet.config.document import read
from geounet.config.job import Section
from geounet.config.problems import problems
from geounet.errors import JobError, LabelError, VectorError
from geounet.evaluation.prediction import Mask, declares, read_mask
from geounet.evaluation.shapes import layers_of
from geounet.evaluation.truth import IGNORED, OTHER, Spec
from geounet.raster.vectors import ENDINGS, NoColumnError, UnreadableError, read_layer
from geounet.types import MAX_CLASSES, NODATA
from geounet.vector.ingest import described, distinct
from geounet.vector.source import opened

OURS = ("buildings", "road_edges")
"""Layers of our own GeoPackages that are labels where nothing else is said."""


Coded = Literal["names", "values", "nothing"]


class LabelFile(Section):
    """A file that says how labels are to be read, with the keys that an entry of `data` has in a training job."""

    labels: list[Labels] = Field(min_length=1)
    complete: Complete | None = None


def load_spec(path: Path) -> Spec:
    """Read a label file.

    Raises
    ------
    JobError
        If it cannot be read or is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise JobError(f"{path}: cannot be read: {reason}") from None
    document = read(text, str(path), needs="`labels:`", numbers=True)
    try:
        found = LabelFile.model_validate(document.data)
    except ValidationError as error:
        key, sentence = problems(error, LabelFile, document.data)[0]
        line = next((document.lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in document.lines), 1)
        raise JobError(f"{path}:{line}: {sentence}") from None
    return Spec(tuple(found.labels), found.complete, path.absolute().parent)


def pairs(text: str, option: str) -> dict[str, str]:
    """Return `a=b,c=d` as a mapping.

    Raises
    ------
    JobError
        If a part has no `=`.
    """
    found = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        value, sign, name = (p.strip() for p in part.partition("="))
        if not sign or not value or not name:
            raise JobError(f"{option}: found {part!r}, expected VALUE=CLASS, as in 1=building,0=other")
        found[value] = name
    return found


class LabelKeys(TypedDict, total=False):
    """What label files mean, as keywords of `spec_of`."""

    class_: str | None
    values: Mapping[str, str] | None
    colours: Mapping[str, str] | None
    column: str | None
    layer: str | None
    width_m: float | None
    others: str
    rest: str | None


def spec_of(
    files: Sequence[Path],
    predicted: Sequence[ClassInfo],
    *,
    coded: Coded = "names",
    class_: str | None = None,
    values: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
    column: str | None = None,
    layer: str | None = None,
    width_m: float | None = None,
    others: str = "refuse",
    rest: str | None = None,
    band: int = 1,
) -> Spec:
    """Return how label files are to be read; what is not said follows from the files.

    Parameters
    ----------
    files
        Rasters or vector files, all of one kind.
    predicted
        Classes of the prediction; `code` is the value in its mask.
    coded
        What the prediction tells of its classes: `names`, and their values in the mask; `values` of a mask without
        names; `nothing`, as it is vectors.
    class_, values, colours, column, layer, width_m, others, band
        As in `geounet.config.data.Labels`.
    rest
        What pixels are that labels say nothing of: a class, `other` or `ignored`. Left out: `other` between footprints,
        that is, polygons and lines of one class, or of buildings and roads; else ignored.

    Raises
    ------
    JobError
        If options contradict each other, or the class of features is not clear.
    LabelError, VectorError
        If a file cannot be read.
    """
    given = {"class": class_, "values": values, "colours": colours, "column": column, "width_m": width_m}
    given = {key: value for key, value in given.items() if value is not None}
    if column is not None and values is None:
        given["values"] = {info.name: info.name for info in predicted}
    layers: list[Labels] = []
    for path in files:
        if path.suffix.lower() in ENDINGS:
            layers += _vector_layers(path, predicted, given, layer, others)
        else:
            layers.append(_raster_layer(path, predicted, given, others, band, coded))
    complete = _rest(layers, predicted) if rest is None else Complete(rest=rest)
    return Spec(tuple(layers), None if rest == IGNORED else complete, Path.cwd())


def _labels(path: Path, keys: Mapping[str, Any]) -> Labels:
    data = {"files": [str(path.absolute())], **keys}
    try:
        return Labels.model_validate(data)
    except ValidationError as error:
        raise JobError(f"labels: {problems(error, Labels, data)[0][1]}") from None


def _vector_layers(
    path: Path, predicted: Sequence[ClassInfo], given: Mapping[str, Any], layer: str | None, others: str
) -> list[Labels]:
    kinds = layers_of(path)
    if not kinds:
        raise LabelError(f"{path}: holds no layer with geometries")
    if layer is not None and layer not in kinds:
        raise LabelError(f"{path}: has no layer {layer!r}; it has {', '.join(kinds)}")
    chosen = [layer] if layer is not None else [name for name in OURS if name in kinds] or [next(iter(kinds))]
    found = []
    for name in chosen:
        keys = dict(given)
        if not keys.keys() & {"class", "values"}:
            keys |= _told(path, name, kinds[name], predicted)
        if "values" in keys:
            keys["others"] = others
        found.append(_labels(path, {"layer": name, **keys}))
    return found


def _attribute(path: Path, layer: str, column: str) -> Any:
    """Return the values of an attribute; none where the layer has no such attribute."""
    try:
        return read_layer(path, layer, (column,)).columns[column]
    except NoColumnError:
        return ()
    except UnreadableError as error:
        raise LabelError(f"{path}: {error}") from None


def _told(path: Path, layer: str, geometry: str, predicted: Sequence[ClassInfo]) -> dict[str, Any]:
    """Return what tells the class of features where nobody said it: an attribute `class`, else their geometry."""
    names = {info.name for info in predicted}
    values = _attribute(path, layer, "class")
    if len(values) and {str(v) for v in values} <= names:
        return {"column": "class", "values": {name: name for name in sorted({str(v) for v in values})}}
    kind = Kind.road if "Line" in geometry else Kind.building
    of_kind = [info.name for info in predicted if info.kind == kind]
    if len(of_kind) != 1:
        what = "lines" if kind == Kind.road else "polygons"
        raise JobError(
            f"{path}: which class its {what} are is not clear; say it with --class NAME, or with --column and --values "
            f"(classes of the prediction: {', '.join(info.name for info in predicted)})"
        )
    return {"class": of_kind[0]}


def _raster_layer(
    path: Path, predicted: Sequence[ClassInfo], given: Mapping[str, Any], others: str, band: int, coded: Coded
) -> Labels:
    keys = {**given, "band": band}
    if "class" in keys and not keys.keys() & {"values", "colours"}:
        keys["values"] = _binary(path, keys.pop("class"), predicted, band)
    if not keys.keys() & {"class", "values", "colours"}:
        keys["values"] = _values(path, predicted, band, coded)
    if keys.keys() & {"values", "colours"}:
        keys["others"] = others
    return _labels(path, keys)


def _binary(path: Path, name: str, predicted: Sequence[ClassInfo], band: int) -> dict[str, str]:
    """Return what the values of a raster of one class mean: 0 is none of it; 255 is, where it is the only other one."""
    with opened(str(path)) as dataset:
        if not 1 <= band <= dataset.count:
            raise JobError(f"{path}: has {dataset.count} bands, so there is no band {band}")
        values = {str(value) for value in distinct(path, dataset, band)} - {"0"}
    table = {"0": _background(predicted, {name})} | dict.fromkeys(sorted(values), name)
    return table | {"255": IGNORED} if values - {"255"} else table


def _values(path: Path, predicted: Sequence[ClassInfo], band: int, coded: Coded) -> dict[str, str]:
    """Return what the values of a class raster mean: as its names say, else they are those of the mask."""
    if not path.is_file():
        raise LabelError(f"{path}: no such file")
    with opened(str(path)) as dataset:
        if dataset.count >= 3 and band == 1:
            raise LabelError(
                f"{path}: has {dataset.count} bands; for a picture whose colours are classes say which: "
                "--colours '#3C1098=building,…'; else --label-band N"
            )
        names = {value: name.strip() for value, name in described(path, dataset, band)[0].items() if name.strip()}
        whole = np.dtype(dataset.dtypes[band - 1]).kind in "iu" if band <= dataset.count else False
        values = set(distinct(path, dataset, band)) if whole else set()
        # Beside several classes declared nodata is nothing; beside a single one it is what that is not.
        blank = band <= dataset.count and declares(dataset, band, 0)
        single = blank and len((values | names.keys()) - {0, NODATA}) == 1
        nothing = {"0"} if blank and not single else set()
    if coded != "values" and names:
        known = {info.name for info in predicted}
        foreign = sorted(set(names.values()) - known)
        if foreign:
            raise JobError(
                f"{path}: its class {foreign[0]!r} is none of the prediction ({', '.join(sorted(known))}); say what it "
                f"counts as with --values, as in --values '{next(v for v, n in names.items() if n == foreign[0])}="
                f"{OTHER}'"
            )
        rest = {"0": _background(predicted, set(names.values()))} if single and 0 not in names else {}
        return _without({"255": IGNORED} | rest | {str(value): name for value, name in names.items()}, nothing)
    if values == {0, NODATA}:
        raise JobError(
            f"{path}: holds 0 and 255 and no names: if 255 is a class, say which with --class NAME; if it is nothing, "
            "say --values '0=CLASS,255=ignored'"
        )
    if coded == "nothing":
        classes = sorted(values - {0, NODATA})
        if len(classes) > 1 or len(predicted) != 1:
            raise JobError(f"{path}: its values have no names; say which are which with --values 'VALUE=CLASS,…', or "
                           "with --class NAME")  # fmt: skip
        return {"0": OTHER, "255": IGNORED, str(classes[0] if classes else 1): predicted[0].name}
    return _without({"255": IGNORED} | {str(info.code): info.name for info in predicted}, nothing)


def _without(table: dict[str, str], keys: Collection[str]) -> dict[str, str]:
    return {key: name for key, name in table.items() if key not in keys}


def with_labels(files: Sequence[Path], mask: Mask, band: int) -> Mask:
    """Return a mask that has no names with the classes that only the labels hold.

    A class that was never predicted is in no mask without names, but in the labels all the same.
    """
    if mask.named:
        return mask
    classes = {info.code: info for info in mask.classes}
    for found in _masks(files, band):
        for info in found.classes:
            if found.named or info.code not in classes:
                classes[info.code] = info
    return replace(mask, classes=tuple(classes[code] for code in sorted(classes)))


def with_names(mask: Mask, names: Mapping[str, str]) -> Mask:
    """Return a mask whose values are named; those without a name keep their value for one.

    Raises
    ------
    JobError
        If a value is no class code.
    """
    table = {info.code: info for info in mask.classes}
    for text, name in names.items():
        if not text.isdecimal() or int(text) > MAX_CLASSES - 1:
            raise JobError(f"names: found {text!r}, expected a value of the mask from 0 to {MAX_CLASSES - 1}")
        code = int(text)
        colour = table[code].colour if code in table else PALETTE[code % len(PALETTE)]
        table[code] = ClassInfo(name=name, code=code, colour=colour, kind=kind_of(name))
    twice = sorted({i.name for i in table.values() if [o.name for o in table.values()].count(i.name) > 1})
    if twice:
        raise JobError(f"names: two values of the mask are {twice[0]!r}")
    return replace(mask, classes=tuple(table[code] for code in sorted(table)), named=True)


def of_one_class(mask: Mask, files: Sequence[Path], class_: str | None) -> Mask:
    """Return a mask without names that has one class beside 0 with a name for it: `class_`, or what vectors are.

    Others are returned as they are.
    """
    values = [info.code for info in mask.classes if info.code != 0]
    vectors = [path for path in files if path.suffix.lower() in ENDINGS]
    if mask.named or len(values) > 1 or (class_ is None and (not files or len(vectors) < len(files))):
        return mask
    name = class_
    if name is None:
        name = "road" if all("Line" in kind for kind in layers_of(vectors[0]).values()) else "building"
    return with_names(mask, {"0": "background", str(values[0] if values else 1): name})


def without_mask(files: Sequence[Path], band: int, words: Iterable[str], vectors: Path) -> list[ClassInfo]:
    """Return the classes of predicted vectors: buildings and roads, and what labels hold beside them.

    Parameters
    ----------
    files, band
        The labels.
    words
        Classes that options name.
    vectors
        The prediction: polygons are buildings, lines are roads.

    Raises
    ------
    JobError
        If it holds neither.
    """
    found = next((list(mask.classes) for mask in _masks(files, band) if mask.named), [])
    kinds = " ".join(layers_of(vectors).values())
    mixed = "Unknown" in kinds or "Collection" in kinds  # an empty or a colourful layer
    usual = [name for name, word in (("building", "Polygon"), ("road", "Line")) if word in kinds or mixed]
    if not usual:
        raise JobError(f"{vectors}: nothing to compare: holds neither polygons nor lines")
    for word in [*words, *([] if found else usual)]:
        taken = {info.kind for info in found} - {Kind.other}
        if word not in (IGNORED, OTHER, *(info.name for info in found)) and kind_of(word) not in taken:
            code = len(found)
            found.append(ClassInfo(name=word, code=code, colour=PALETTE[code % len(PALETTE)], kind=kind_of(word)))
    return found


def _masks(files: Sequence[Path], band: int) -> Iterator[Mask]:
    for path in files:
        if path.suffix.lower() not in ENDINGS:
            with suppress(VectorError):  # a picture, which has its own message
                yield read_mask(path, band)


def _rest(layers: Sequence[Labels], predicted: Sequence[ClassInfo]) -> Complete | None:
    """Return what the rest is, where labels are footprints."""
    if not any(Path(layer.files[0]).suffix.lower() in ENDINGS for layer in layers):
        return None
    named = {str(v) for layer in layers for v in (*(layer.values or {}).values(), layer.class_) if v is not None}
    known = {info.name: info.kind for info in predicted}
    kinds = {known.get(name) or kind_of(name) for name in named - {IGNORED}}
    if len(named - {IGNORED}) > 1 and not kinds <= {Kind.building, Kind.road}:
        return None  # a map rather than footprints: what it leaves blank is unknown
    return Complete(rest=_background(predicted, named))


def _background(predicted: Sequence[ClassInfo], named: Collection[str]) -> str:
    """Return what is none of the classes that labels name: the background of a prediction of two classes, or other."""
    background = [info.name for info in predicted if info.kind == Kind.background]
    return background[0] if len(predicted) == 2 and background and background[0] not in named else OTHER
