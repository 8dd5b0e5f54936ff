"""Plots of an evaluation: reliability, and buildings by threshold."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from geounet.evaluation.calibration import Calibration

_INK, _SOFT, _GRID = "#333333", "#8a94a3", "#dddddd"
_BAR, _LINE = "#9dbbdc", "#2563a8"


def reliability(calibration: Calibration, colours: Sequence[str]) -> bytes:
    """Return a PNG: how often what was said with a probability came true, for the chosen class and for each class.

    Parameters
    ----------
    calibration
        The counts.
    colours
        `#rrggbb` of each class.
    """
    with mpl.rc_context(dict(mpl.rcParamsDefault)):  # the user's matplotlibrc must not change the picture
        figure = Figure(figsize=(9.6, 4.2), dpi=110, layout="constrained", facecolor="white")
        chosen, classes = figure.subplots(1, 2)
        count, said, true = calibration.curve()
        bins = len(count)
        middle = (np.arange(bins) + 0.5) / bins
        some = count > 0
        chosen.bar(middle[some], true[some], 0.9 / bins, color=_BAR, label="came true")
        chosen.plot(said[some], true[some], "o-", color=_LINE, markersize=4, linewidth=1.2)
        shares = count / max(1, count.sum())
        for x, y, share in zip(middle[some], true[some], shares[some], strict=True):
            text = f"{100 * share:.0f} %" if share >= 0.005 else "<1 %"
            chosen.annotate(text, (x, y), (0, 4), textcoords="offset points", ha="center", fontsize=6.5, color=_SOFT)
        chosen.set_title(
            f"Chosen class (ECE {100 * calibration.error():.1f} %); figures: share of pixels", fontsize=9.5
        )
        for row, (name, colour) in enumerate(zip(calibration.names, colours, strict=True)):
            count, said, true = calibration.curve(row)
            some = count > 0
            if some.any():
                label = f"{name} ({100 * calibration.error(row):.1f} %)"
                classes.plot(said[some], true[some], "o-", color=colour, markersize=3, linewidth=1.2, label=label)
        classes.set_title("Each class, with its calibration error", fontsize=9.5)
        classes.legend(fontsize=8, frameon=False, loc="upper left")
        for axes in (chosen, classes):
            axes.plot([0, 1], [0, 1], "--", color=_SOFT, linewidth=1)
            axes.set(xlim=(0, 1), ylim=(0, 1.06), xlabel="said: probability", ylabel="came true: share of pixels")
            _plain(axes)
        return _png(figure)


def thresholds(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a PNG: precision, recall and F1 of buildings by the IoU from which one counts as found."""
    with mpl.rc_context(dict(mpl.rcParamsDefault)):
        figure = Figure(figsize=(5.2, 3.4), dpi=110, layout="constrained", facecolor="white")
        axes = figure.subplots()
        x = [row["iou"] for row in rows]
        for key, colour, style in (("precision", "#1b7f4b", "--"), ("recall", "#b3261e", ":"), ("f1", _LINE, "-")):
            y = [np.nan if row[key] is None else row[key] for row in rows]
            axes.plot(x, y, style, color=colour, marker="o", markersize=3.5, label=key.replace("f1", "F1"))
        axes.set(ylim=(0, 1.02), xlabel="IoU from which a building is found", ylabel="share")
        axes.legend(fontsize=8, frameon=False)
        _plain(axes)
        return _png(figure)


def _plain(axes: Any) -> None:
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
