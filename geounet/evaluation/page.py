"""The HTML page of an evaluation: one file that opens anywhere, without scripts and without requests."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from geounet import report
from geounet.atomic import write_text
from geounet.evaluation.compare import WindowScore
from geounet.evaluation.pictures import chosen, window_picture
from geounet.evaluation.plots import reliability, thresholds

if TYPE_CHECKING:
    from geounet.evaluation.measure import Evaluation

WORST, BEST = 8, 2
"""Windows that are shown."""


def write_page(dest: Path, evaluation: Evaluation, *, worst: int = WORST, best: int = BEST) -> None:
    """Write the page of an evaluation.

    Parameters
    ----------
    dest
        The HTML file, replaced atomically.
    evaluation
        What was found.
    worst, best
        How many windows are shown as pictures.

    Raises
    ------
    OSError
        If the page cannot be written.
    GeounetError
        If a window cannot be read again.
    """
    folders = [Path(__file__).parent / "templates", Path(report.__file__).parent / "templates"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("evaluation.html.j2").render(view(evaluation, worst, best))
    write_text(dest, html)


def view(evaluation: Evaluation, worst: int, best: int) -> dict[str, Any]:
    """Return what the template shows: every key is there, every value is text or ready to be shown."""
    scores, tally = evaluation.scores, evaluation.tally
    unit = scores["unit"]
    buildings, roads = scores["buildings"], scores["roads"]
    names = [case.prediction.name for case in evaluation.cases]
    shown = chosen(evaluation.windows, worst, worst=True)
    good = [w for w in chosen(evaluation.windows, best, worst=False) if w not in shown]
    calibrated = tally.pixels is not None and tally.pixels.calibration is not None and tally.pixels.calibration.pixels
    return {
        "title": names[0] if len(names) == 1 else f"{len(names)} scenes",
        "unit": unit,
        "headline": _headline(scores),
        "classes": _classes(evaluation),
        "matrix": _matrix(evaluation),
        "calibration": scores["calibration"] if calibrated else None,
        "reliability": data_url(reliability(tally.pixels.calibration, [i.colour for i in tally.infos]))
        if calibrated and tally.pixels is not None and tally.pixels.calibration is not None
        else "",
        "buildings": _buildings(buildings, unit) if buildings else [],
        "thresholds": data_url(thresholds(buildings["by_threshold"]))
        if buildings and buildings["f1_50"] is not None
        else "",
        "roads": _roads(roads, unit) if roads else [],
        "scenes": [_scene(entry) for entry in scores["scenes"]] if len(names) > 1 else [],
        "legend": [(info.name, info.colour) for info in tally.infos],
        "worst": [_window(evaluation, window) for window in shown],
        "best": [_window(evaluation, window) for window in good],
    }


def data_url(png: bytes) -> str:
    """Return a PNG as a URL that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def text(value: Any, digits: int = 3) -> str:
    """Return a measure as text; a dash for one that is not defined."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _headline(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    pixel, buildings, roads = scores["pixel"], scores["buildings"], scores["roads"]
    found = []
    if pixel:
        found += [("Pixels compared", text(pixel["pixels"])), ("Mean IoU", text(pixel["miou"])),
                  ("Pixel accuracy", text(pixel["accuracy"])), ("Mean Dice", text(pixel["mean_dice"])),
                  ("Mean boundary IoU", text(pixel["boundary"]["mean"]))]  # fmt: skip
        if pixel["unpredicted"]:
            found.append(("Labelled, not predicted", f"{text(pixel['unpredicted'])} pixels"))
    if scores["calibration"]:
        found.append(("Calibration error (ECE)", text(scores["calibration"]["ece"])))
    if buildings:
        found += [("Buildings: F1 at IoU 0.5", text(buildings["f1_50"])),
                  ("Buildings: PoLiS", _length(buildings, "polis", scores["unit"]))]  # fmt: skip
    if roads:
        found += [("Roads: APLS", text(roads["apls"])), ("Roads: TOPO F1", text(roads["topo_f1"]))]
    return found


def _length(scores: Mapping[str, Any], name: str, unit: str) -> str:
    value = scores[f"{name}_{unit}"]
    return "–" if value is None else f"{value:,.2f} {unit}"


def _classes(evaluation: Evaluation) -> list[dict[str, str]]:
    """Return a row per class: overlaps, borders, areas."""
    scores = evaluation.scores
    pixel, cover, unit = scores["pixel"], scores["landcover"], scores["unit"]
    if not pixel:
        return []
    rows = []
    for info in evaluation.tally.infos:
        name = info.name
        area = cover[name]
        far = pixel["hausdorff"][name]["hausdorff_95"]
        known = area["truth_m2"] is not None
        rows.append(
            {
                "name": name,
                "colour": info.colour,
                "width": f"{100 * (pixel['iou'][name] or 0):.1f}",
                **{key: text(pixel[key][name]) for key in ("iou", "dice", "precision", "recall")},
                "boundary": text(pixel["boundary"]["iou"][name]),
                "far": "–" if far is None else f"{far:,.1f} {unit}",
                "truth": f"{area['truth_m2']:,.0f} m²" if known else f"{area['truth_pixels']:,} px",
                "found": f"{area['found_m2']:,.0f} m²" if known else f"{area['found_pixels']:,} px",
                "error": "–" if area["error_percent"] is None else f"{area['error_percent']:+,.1f} %",
            }
        )
    return rows


def _matrix(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return a row per class of the labels: shares of what it was found as."""
    if evaluation.tally.pixels is None:
        return []
    confusion = evaluation.tally.pixels.confusion
    rows = []
    for k, info in enumerate(evaluation.tally.infos):
        total = int(confusion.truth[k])
        cells = [
            {
                "share": f"{100 * n / total:.1f}" if total else "–",
                "tint": f"{0.85 * n / total:.3f}" if total else "0",
                "pixels": f"{int(n):,}",
                "right": j == k,
            }
            for j, n in enumerate(confusion.counts[k])
        ]
        rows.append({"name": info.name, "colour": info.colour, "pixels": f"{total:,}", "cells": cells})
    return rows


def _buildings(scores: Mapping[str, Any], unit: str) -> list[tuple[str, str]]:
    return [
        ("In the labels", text(scores["truth"])),
        ("Predicted", text(scores["found"])),
        ("F1 at IoU 0.5", text(scores["f1_50"])),
        ("Precision, recall at IoU 0.5", f"{text(scores['precision_50'])}, {text(scores['recall_50'])}"),
        ("F1, mean over IoU 0.5 to 0.95", text(scores["f1_50_95"])),
        ("IoU of pairs", text(scores["iou_matched"])),
        ("PoLiS of pairs: mean, median",
         f"{_length(scores, 'polis', unit)}, {_length(scores, 'polis_median', unit)}"),
        ("Hausdorff, 95 % Hausdorff of pairs",
         f"{_length(scores, 'hausdorff', unit)}, {_length(scores, 'hausdorff_95', unit)}"),
    ]  # fmt: skip


def _roads(scores: Mapping[str, Any], unit: str) -> list[tuple[str, str]]:
    relaxed, lines = scores["relaxed"], scores["lines"]
    rows = [
        ("In the labels", _length(scores, "truth", unit)),
        ("Predicted", _length(scores, "found", unit)),
        ("APLS", text(scores["apls"])),
        ("APLS labels → prediction, back",
         f"{text(scores['apls_truth_to_found'])}, {text(scores['apls_found_to_truth'])}"),
        ("TOPO: F1 (precision, recall)",
         f"{text(scores['topo_f1'])} ({text(scores['topo_precision'])}, {text(scores['topo_recall'])})"),
        (f"Centre lines within {lines['tolerance']:.2g} {lines['unit']}: F1 (precision, recall)",
         f"{text(lines['f1'])} ({text(lines['precision'])}, {text(lines['recall'])})"),
    ]  # fmt: skip
    if relaxed:
        rows.append(
            (
                f"Pixels within {relaxed['tolerance']:g} {relaxed['unit']}: F1 (precision, recall)",
                f"{text(relaxed['f1'])} ({text(relaxed['precision'])}, {text(relaxed['recall'])})",
            )
        )
    return rows


def _scene(entry: Mapping[str, Any]) -> dict[str, str]:
    pixel, buildings, roads = (entry[key] or {} for key in ("pixel", "buildings", "roads"))
    return {
        "name": str(entry["name"]),
        "miou": text(pixel.get("miou")),
        "accuracy": text(pixel.get("accuracy")),
        "f1": text(buildings.get("f1_50")),
        "apls": text(roads.get("apls")),
    }


def _window(evaluation: Evaluation, window: WindowScore) -> dict[str, str]:
    picture = window_picture(evaluation, window)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    rect, name = window.rect, evaluation.cases[window.scene].prediction.name
    where = f"rows {rect.y0:,} to {rect.y1:,}, columns {rect.x0:,} to {rect.x1:,}"
    return {
        "picture": data_url(buffer.getvalue()),
        "caption": f"{name}, {where}: {100 * window.wrong:.1f} % of {window.known:,} pixels wrong",
    }
