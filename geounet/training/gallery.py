"""Sample predictions as a picture: image, label and prediction of some windows side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from geounet.atomic import atomic
from geounet.evaluation.confusion import Confusion
from geounet.report.picture import InputPicture, enlarged, hatch, paint_input, shown_bands, stretch
from geounet.types import NODATA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geounet.config.card import Card

_SIDE = 288  # px of a panel
_GAP, _TOP, _BOTTOM = 8, 44, 40
_TEXT = 9


class Shown(NamedTuple):
    """One window and what the network made of it."""

    image: NDArray[np.float32]
    """Normalised, `(bands, rows, cols)`."""
    label: NDArray[np.uint8]
    """Class codes, 255 where nothing is known, `(rows, cols)`."""
    found: NDArray[np.uint8]
    """Class codes, `(rows, cols)`."""


def draw_gallery(windows: Sequence[Shown], card: Card, dest: Path, title: str = "") -> None:
    """Draw windows, a row each, two side by side where there are more than three.

    Parameters
    ----------
    windows
        At least one.
    card
        Whose classes name and colour, and whose normalisation is undone for the picture.
    dest
        A PNG, replaced atomically.
    title
        Above it all.
    """
    across = 2 if len(windows) > 3 else 1
    down = -(-len(windows) // across)
    width = across * 3 * (_SIDE + _GAP) + (across - 1) * 3 * _GAP + _GAP
    height = _TOP + down * (_SIDE + _GAP + 14) + _BOTTOM
    with mpl.rc_context(dict(mpl.rcParamsDefault)):
        figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
        figure.text(_GAP / width, 1 - 16 / height, title, fontsize=11, va="center", color="#222222")
        for k, shown in enumerate(windows):
            row, side = divmod(k, across)
            for part, (name, pixels) in enumerate(_panels(shown, card)):
                left = _GAP + side * (3 * (_SIDE + _GAP) + 3 * _GAP) + part * (_SIDE + _GAP)
                top = _TOP + row * (_SIDE + _GAP + 14)
                axes = figure.add_axes(
                    (left / width, 1 - (top + _SIDE) / height, _SIDE / width, _SIDE / height), xticks=[], yticks=[]
                )
                axes.imshow(enlarged(pixels, (_SIDE, _SIDE)) if len(pixels) < _SIDE else pixels)
                axes.set_title(name, fontsize=_TEXT, pad=3, color="#444444")
                for spine in axes.spines.values():
                    spine.set_color("#bbbbbb")
        handles = [Patch(facecolor=c.colour, edgecolor="#888888", label=c.name) for c in card.mask_classes()]
        handles.append(Patch(facecolor="#f0f2f5", edgecolor="#888888", hatch="////", label="not labelled"))
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(_GAP / width, 2 / height), ncols=min(len(handles), 9),
            frameon=False, fontsize=_TEXT, borderaxespad=0.2, handlelength=1.2,
        )  # fmt: skip
        with atomic(dest) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 3})


def _panels(shown: Shown, card: Card) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return titles and pictures `(rows, cols, 3)` of one window."""
    bands = shown_bands(card.input.bands)
    scales = [card.input.value_scaling[b] for b in bands]
    planes = np.stack([shown.image[b] * s.stddev + s.mean for b, s in zip(bands, scales, strict=True)])
    picture = InputPicture(planes.astype(np.float64), np.ones(planes.shape[1:], bool), tuple(card.input.bands))
    # A window of one surface keeps its looks: bytes are shown as they are, as a viewer does.
    limits = None if card.input.data_type == "uint8" else stretch(picture, card.input.data_type)
    classes = card.mask_classes()
    size = max(c.code for c in classes) + 1
    table = np.full((256, 3), 128, dtype=np.uint8)
    for info in classes:
        table[info.code] = info.rgb
    label = table[shown.label]
    hatch(label, shown.label == NODATA)
    counts = Confusion.empty([str(k) for k in range(size)])
    counts.add(shown.label, shown.found)
    score = f"accuracy {counts.accuracy:.2f}" if counts.total else "no labels"
    return [("image", paint_input(picture, limits)), ("label", label), (f"prediction, {score}", table[shown.found])]
