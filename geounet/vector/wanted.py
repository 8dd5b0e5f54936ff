"""Which class of a raster, and which of its bands, is meant by a name, by a number or by a kind of layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geounet.config.card import ClassInfo, Kind, kind_of
from geounet.errors import JobError

if TYPE_CHECKING:
    from geounet.vector.ingest import Ingested

SHOWN = 20
"""Bands and classes that a message names at most."""


def number_of(word: str) -> int | None:
    """Return the whole number that a word is, if it is one."""
    return int(word) if re.fullmatch(r"\s*-?[0-9]+\s*", word) else None


def title_of(description: str | None) -> str:
    """Return what the description of a band names: `house` of `house` and of `p(house)`."""
    text = (description or "").strip()
    found = re.fullmatch(r"p\((.+)\)", text)
    return found.group(1).strip() if found else text


def matching(names: Sequence[str], word: str) -> list[int]:
    """Return the places of the names that a word means: of those alike, else alike but for capitals, else of its kind.

    Several of a kind are several answers: which of them is meant is not known.
    """
    word = word.strip()
    same = [i for i, name in enumerate(names) if name == word]
    same = same or [i for i, name in enumerate(names) if name.casefold() == word.casefold()]
    kind = kind_of(word)
    return same or [i for i, name in enumerate(names) if kind != Kind.other and kind_of(name) == kind]


def find_class(taken: Ingested, wanted: str, option: str = "--class") -> ClassInfo:
    """Return the class of a name, or of a value of the raster; `option` is what messages call the wish.

    Raises
    ------
    JobError
        If there is none, or several.
    """
    classes, value = taken.classes, number_of(wanted)
    found = [c for c in classes if c.name == wanted] or [c for c in classes if taken.values[c.code] == value]
    found = found or [classes[i] for i in matching([c.name for c in classes], wanted)]
    if len(found) == 1:
        return found[0]
    what = "several classes may be meant" if found else "no such class"
    raise JobError(f"{option} {wanted}: {what}; the raster has {listed(taken)}")


def listed(taken: Ingested) -> str:
    """Return the classes of a raster in words: their values and names."""
    texts = []
    for info in taken.classes[:SHOWN]:
        value = str(taken.values[info.code])
        texts.append(value if info.name == value else f"{value} {info.name}")
    return ", ".join([*texts, *(["…"] if len(taken.classes) > SHOWN else [])]) or "none"


def class_for(taken: Ingested, kind: Kind) -> ClassInfo:
    """Return the class of a kind; of a raster without names the only class that is not background, which 0 is.

    A class without pixels is one, too: what is named is known, and its layer is empty.

    Raises
    ------
    JobError
        If that is not clear.
    """
    # Of several the first that there are pixels of.
    ordered = sorted(taken.classes, key=lambda c: c.code in taken.absent)
    for info in ordered:
        if info.kind == kind:
            return info
    if not taken.named:
        others = [c for c in ordered if taken.values[c.code] != 0 and c.kind != Kind.background]
        there = [c for c in others if c.code not in taken.absent] or others[:1]
        if len(there) == 1:
            return there[0]
    raise JobError(f"--class is needed: none of the classes is named {kind.value}; the raster has {listed(taken)}")


def class_band(path: Path, dataset: Any, wanted: str | None, kind: Kind, values: Mapping[int, Sequence[str]]) -> int:
    """Return the band of a class raster that is meant: the only one, or the one that is called like the class.

    Parameters
    ----------
    path, dataset
        The raster.
    wanted
        The class; none: one of the kind.
    kind
        What the layer is made of; other: of all classes.
    values
        Names of the classes in each band.

    Raises
    ------
    JobError
        If that is not clear.
    """
    bands = meaningful(dataset)
    if len(bands) == 1:
        return bands[0]
    word = wanted or (None if kind == Kind.other else kind.value)
    if word is None:
        raise JobError(f"{path}: which band holds the classes is not clear; {_choice(dataset, bands)}")
    found = matching([title_of(dataset.descriptions[band - 1]) for band in bands], word)
    # Not called so, but with a class of that name in it, as where another band holds something else.
    found = found or [i for i, band in enumerate(bands) if matching(values.get(band, ()), word)]
    return _only(path, dataset, bands, found, wanted, kind)


def probability_band(
    path: Path, dataset: Any, wanted: str | None, kind: Kind, codes: Mapping[int, str]
) -> tuple[int, str | None]:
    """Return the band of a probability raster that is meant, and what it calls its class; see `class_band`.

    A single band is meant unless it says that it is that of another class. `codes` are the names of class codes, as far
    as the raster tells them.

    Raises
    ------
    JobError
        If that is not clear.
    """
    bands = meaningful(dataset)
    texts = [(dataset.descriptions[band - 1] or "").strip() for band in bands]
    titles = [title_of(text) for text in texts]
    word = wanted or (None if kind == Kind.other else kind.value)
    if word is None:
        if len(bands) == 1:
            return bands[0], None
        raise JobError(f"{path}: which band is meant is not clear; {_choice(dataset, bands)}")
    found = matching(titles, title_of(word))
    code = number_of(word)
    if not found and code is not None and code in codes:
        found = matching(titles, codes[code])
    if len(bands) == 1 and not found and titles == texts and kind_of(texts[0]) == Kind.other:
        return bands[0], None
    band = _only(path, dataset, bands, found, wanted, kind)
    return band, titles[bands.index(band)]


def meaningful(dataset: Any) -> list[int]:
    """Return the bands of a raster that hold something: not those of opacity."""
    shown = [band for band, colour in enumerate(dataset.colorinterp, 1) if colour.name != "alpha"]
    return shown or list(range(1, dataset.count + 1))


def _only(path: Path, dataset: Any, bands: Sequence[int], found: Sequence[int], wanted: str | None, kind: Kind) -> int:
    if len(found) == 1:
        return bands[found[0]]
    wish = f"--class {wanted}" if wanted else f"a class of kind {kind.value}"
    what = "several bands may be meant" if found else "no band is described so"
    raise JobError(f"{path}: {wish}: {what}; {_choice(dataset, bands)}")


def _choice(dataset: Any, bands: Sequence[int]) -> str:
    texts = [f"{band} {(dataset.descriptions[band - 1] or '').strip()}".strip() for band in bands[:SHOWN]]
    said = ", ".join([*texts, *(["…"] if len(bands) > SHOWN else [])])
    named = any(dataset.descriptions[band - 1] for band in bands)
    how = "name one with --class, or give its number with --band" if named else "give the number of one with --band"
    return f"it has the band{'s' if len(bands) > 1 else ''} {said}; {how}"
