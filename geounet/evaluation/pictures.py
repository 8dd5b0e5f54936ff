"""Windows as pictures: the image, the labels, the prediction, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from geounet.config.card import ClassInfo
from geounet.errors import GeounetError
from geounet.evaluation.compare import WindowScore, mask_reader
from geounet.evaluation.truth import Truth
from geounet.raster.scene import describe
from geounet.report.picture import hatch, paint_input, read_input, stretch
from geounet.types import NODATA, Rect

if TYPE_CHECKING:
    from geounet.evaluation.measure import Case, Evaluation

U8 = npt.NDArray[np.uint8]

PANEL = 384
"""Longest side of a panel, px."""

GAP = 6
_WRONG = np.array([214, 40, 40], dtype=np.uint8)
_PAPER = (255, 255, 255)
_LEAST_KNOWN = 0.25


def chosen(windows: Sequence[WindowScore], count: int, *, worst: bool) -> list[WindowScore]:
    """Return the windows with the largest, or smallest, share of wrong pixels; ties in the order of the scenes.

    Windows of which a quarter or less is known are left out, unless there are no others.
    """
    largest = max((w.known for w in windows), default=0)
    enough = [w for w in windows if w.known > _LEAST_KNOWN * largest]
    order = sorted(enough, key=lambda w: (-w.wrong if worst else w.wrong, w.scene, w.rect))
    return order[:count]


def painted(codes: U8, infos: Sequence[ClassInfo]) -> U8:
    """Return classes `(rows, cols)` in their colours, `(rows, cols, 3)`; what is unknown is hatched."""
    table = np.full((256, 3), 255, dtype=np.uint8)
    for info in infos:
        table[info.code] = info.rgb
    found = table[codes]
    hatch(found, codes == NODATA)
    return found


def difference(truth: U8, found: U8, infos: Sequence[ClassInfo]) -> U8:
    """Return the labels' classes in pale colours, and red where the prediction differs, `(rows, cols, 3)`."""
    unknown = (truth == NODATA) | (found == NODATA)
    pale = 255 - (255 - painted(truth, infos).astype(np.int16)) // 4
    shown = pale.astype(np.uint8)
    shown[(truth != found) & ~unknown] = _WRONG
    hatch(shown, unknown)
    return shown


def window_picture(evaluation: Evaluation, window: WindowScore) -> Image.Image:
    """Return the panels of a window side by side: image (where there is one), labels, prediction, differences."""
    case = evaluation.cases[window.scene]
    rect = window.rect
    truth = Truth(evaluation.labelled, case.frame, case.file)
    try:
        with mask_reader(case.prediction.mask, case.classes) as mask:
            assert mask is not None
            folded = truth.folded
            mine, theirs = folded.table[truth.read(rect)], folded.table[mask.read(rect)]
    finally:
        truth.close()
    if case.area is not None:
        mine = np.where(case.area.read(rect), mine, np.uint8(NODATA))
    infos = folded.classes.infos
    panels = [painted(mine, infos), painted(theirs, infos), difference(mine, theirs, infos)]
    scale = PANEL / max(rect.shape)
    size = max(1, round(rect.cols * scale)), max(1, round(rect.rows * scale))
    pictures = [Image.fromarray(p).resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)
                for p in panels]  # fmt: skip
    photo = _photo(case, rect)
    if photo is not None:
        pictures.insert(0, Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))
    width = len(pictures) * size[0] + (len(pictures) - 1) * GAP
    whole = Image.new("RGB", (width, size[1]), _PAPER)
    for k, picture in enumerate(pictures):
        whole.paste(picture, (k * (size[0] + GAP), 0))
    return whole


def _photo(case: Case, rect: Rect) -> U8 | None:
    """Return the image of a rectangle `(rows, cols, 3)`; none where there is none, or it is gone."""
    prediction = case.prediction
    if prediction.scene is None or prediction.info is None:
        return None
    if not all(Path(file).is_file() for file in prediction.info.files):
        return None
    if prediction.info.shape != (case.grid.rows, case.grid.cols):
        return None
    try:
        # A run may have segmented a window of the file only.
        whole = describe(prediction.scene).shape == prediction.info.shape
        scene = prediction.scene if whole else replace(prediction.scene, bbox=case.grid.bounds)
        picture = read_input(scene, prediction.info, rect, rect.shape)
    except GeounetError:
        return None
    shown = paint_input(picture, stretch(picture, prediction.info.dtype))
    hatch(shown, ~picture.valid)
    return shown
