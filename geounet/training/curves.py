"""Learning curves as a picture: loss, IoU of each class, learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from geounet.atomic import atomic

_INK, _GRID = "#333333", "#dddddd"


def draw_curves(entries: Sequence[Mapping[str, Any]], colours: Mapping[str, str], dest: Path, title: str = "") -> None:
    """Draw the curves of a log.

    Parameters
    ----------
    entries
        Of the log, in order: `step`, `loss`, `rate`, `miou`, `accuracy` and `iou` by class; what is None is left out.
    colours
        `#rrggbb` of each class.
    dest
        A PNG, replaced atomically.
    title
        Above it all.
    """
    with mpl.rc_context(dict(mpl.rcParamsDefault)):  # the user's matplotlibrc must not change the picture
        figure = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
        if title:
            figure.suptitle(title, fontsize=12, color=_INK)
        losses, scores = figure.subplots(1, 2, width_ratios=(1, 1.35))
        _line(losses, entries, lambda e: e.get("loss"), color=_INK, label="training loss")
        losses.set_ylabel("loss")
        losses.set_ylim(bottom=0)
        rates = losses.twinx()
        _line(rates, entries, lambda e: e.get("rate"), color="#e08e3c", label="learning rate", linewidth=1)
        rates.set_ylim(bottom=0)
        rates.tick_params(labelsize=8, colors="#b06a20")
        rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        for name, colour in colours.items():
            _line(scores, entries, lambda e, n=name: (e.get("iou") or {}).get(n), color=_visible(colour), label=name)
        _line(scores, entries, lambda e: e.get("accuracy"), color="#999999", label="pixel accuracy", linestyle="--")
        _line(scores, entries, lambda e: e.get("miou"), color="black", label="mean IoU", linewidth=2.4)
        known = [e for e in entries if e.get("miou") is not None]
        if known:
            best = max(known, key=lambda e: float(e["miou"]))
            scores.plot([best["step"]], [best["miou"]], "o", color="black", markersize=5)
            scores.annotate(
                f"{best['miou']:.3f}", (best["step"], best["miou"]), textcoords="offset points", xytext=(0, 7),
                ha="center", fontsize=9, fontweight="bold",
            )  # fmt: skip
        scores.set_ylim(0, 1)
        scores.set_ylabel("validation")
        for axes in (losses, scores):
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.grid(color=_GRID, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        rates.spines[["top"]].set_visible(False)
        lines = [*losses.get_lines(), *rates.get_lines()]
        losses.legend(lines, [str(line.get_label()) for line in lines], fontsize=8, frameon=False, loc="upper right")
        if scores.get_lines():
            scores.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        with atomic(dest) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def _line(axes: Any, entries: Sequence[Mapping[str, Any]], value: Any, **style: Any) -> None:
    points = [(entry["step"], value(entry)) for entry in entries]
    points = [(x, y) for x, y in points if y is not None]
    if points:
        marker = {"marker": "o", "markersize": 3} if len(points) < 12 else {}
        axes.plot(*zip(*points, strict=True), **{"linewidth": 1.5, **marker, **style})


def _visible(colour: str) -> str:
    """Return a colour dark enough for a line on white."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    light = (0.299 * red + 0.587 * green + 0.114 * blue) / 255
    share = min(1.0, 0.62 / light) if light > 0 else 1.0
    return "#" + "".join(f"{round(v * share):02x}" for v in (red, green, blue))
