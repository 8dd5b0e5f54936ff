"""`geounet evaluate`: predictions against labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geounet.cli.options import json_option

if TYPE_CHECKING:
    from geounet.evaluation.specs import LabelKeys

MANY = ("--pred", "--truth", "--scenes")
"""Options that take all words up to the next option, as a shell makes them of `scenes/*.tif`."""

PATH = click.Path(path_type=Path)


class ManyWords(click.Command):
    """A command some of whose options take several words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat such an option before each of its words."""
        return super().parse_args(ctx, repeated(args))


def repeated(args: list[str]) -> list[str]:
    """Return `--truth A B` as `--truth A --truth B`."""
    found: list[str] = []
    option = None
    for word in args:
        if word.startswith("-") and len(word) > 1:
            name, sign, _ = word.partition("=")
            option = name if name in MANY else None
            found += [word] if option is None or sign else []
            if option is not None and not sign:
                continue
        elif option is not None:
            found += [option, word]
        else:
            found.append(word)
    if args and args[-1] in MANY:
        found.append(args[-1])  # click says that its value is missing
    return found


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> str | list[float] | None:
    if value is None:
        return None
    parts = value.replace(",", " ").split()
    try:
        box = [float(part) for part in parts]
    except ValueError:
        return value  # a file
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise click.BadParameter(f"found {value!r}, expected a vector file or XMIN,YMIN,XMAX,YMAX")
    return box


@click.command(cls=ManyWords, short_help="Measure predictions against labels.")
@click.option(
    "--pred", multiple=True, type=PATH, metavar="PATH...", help="Masks, vector files, or output folders of `run`."
)
@click.option("--truth", multiple=True, metavar="PATH...", help="Labels: class rasters, colour pictures, vector files.")
@click.option("--labels", type=PATH, metavar="YAML", help="A file that says how labels are to be read, instead.")
@click.option("--model", metavar="MODEL", help="Segment --scenes with this model first.")
@click.option("--scenes", multiple=True, metavar="SCENE...", help="Scenes to segment, with --model.")
@click.option("--set", "keys", multiple=True, metavar="KEY=VALUE", help="Any key of the job, with --model.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write evaluation.html and evaluation.json (and the run) here.",
)
@click.option("--overwrite", is_flag=True, help="Replace an evaluation in --out.")
@click.option(
    "--class", "class_", metavar="NAME", help="All features, or all raster values but 0, are this class of the mask."
)
@click.option("--values", metavar="V=CLASS,...", help="What raster values, or values of --column, mean.")
@click.option("--colours", metavar="#RRGGBB=CLASS,...", help="What the colours of a picture mean.")
@click.option("--names", metavar="V=CLASS,...", help="Names of the mask's values, where it has none itself.")
@click.option("--column", metavar="NAME", help="Attribute that tells the class of features.")
@click.option("--layer", metavar="NAME", help="Layer of the vector labels.")
@click.option("--others", metavar="WORD", default="refuse", help="Values not listed: refuse, skip, ignored or a class.")
@click.option("--rest", metavar="WORD", help="Where labels say nothing: a class, other, ignored.")
@click.option("--width-m", type=click.FloatRange(min=0, min_open=True), help="Lines of labels are areas this wide.")
@click.option("--band", type=click.IntRange(min=1), help="Band of a mask with several: a class of a multi-label model.")
@click.option("--label-band", type=click.IntRange(min=1), default=1, show_default=True, help="Band of label rasters.")
@click.option("--aoi", callback=_numbers, metavar="FILE|BOX", help="Only what lies here: polygons, or X0,Y0,X1,Y1.")
@click.option("--aoi-crs", metavar="CRS", help="CRS of the four numbers.  [default: that of the prediction]")
@click.option("--pred-layer", metavar="NAME", help="Layer of predicted vectors.  [default: buildings, road_edges]")
@click.option("--probability", type=PATH, help="Probabilities of the mask, for calibration.")
@click.option("--image", type=PATH, help="Image to show beside labels and prediction.")
@click.option("--what", metavar="A,B", default="pixels,buildings,roads", show_default=True, help="What to compare.")
@click.option("--window", type=click.IntRange(min=64), default=512, show_default=True, help="Side of a window, px.")
@click.option("--boundary-px", type=click.IntRange(min=1), default=3, show_default=True, help="Of boundary IoU.")
@click.option("--tolerance-px", type=click.FloatRange(min=0), help="Of relaxed measures of roads.  [default: 3]")
@click.option("--tolerance-m", type=click.FloatRange(min=0), help="The same in metres.")
@click.option(
    "--min-area-m2", type=click.FloatRange(min=0), default=0.0, help="Smaller buildings are left out on both sides."
)
@json_option
@click.pass_context
def evaluate(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Measure predictions against labels: pixels, buildings, roads, land cover, calibration.

    \b
      $ geounet evaluate --pred mask.tif --truth labels.tif
      $ geounet evaluate --pred results/scene --truth footprints.geojson --aoi labelled.gpkg --out evaluation
      $ geounet evaluate --pred mask.tif --truth colours.png --colours '#3C1098=building,#8429F6=land'
      $ geounet evaluate --model aerial --scenes scenes/*.tif --truth labels/*.tif --out evaluation

    Labels may lie on another grid and in another CRS. Classes go by name; 255 and nodata are ignored. What is compared
    follows from what is there: a mask and labels that are areas give pixels; buildings and roads on both sides, as
    vectors or as classes, give polygons and networks. --labels takes the keys of `labels` and `complete` of a training
    job.
    """
    exit_code = _evaluate(given, as_json)
    ctx.exit(exit_code)


def _evaluate(given: Mapping[str, Any], as_json: bool) -> int:
    if bool(given["model"]) != bool(given["scenes"]):
        raise click.UsageError("--model and --scenes go together.")
    if bool(given["model"]) == bool(given["pred"]):
        raise click.UsageError("give either --pred, or --model and --scenes.")
    if bool(given["truth"]) == bool(given["labels"]):
        raise click.UsageError("give labels: --truth FILE..., or --labels YAML.")
    if given["tolerance_px"] is not None and given["tolerance_m"] is not None:
        raise click.UsageError("--tolerance-px and --tolerance-m are one thing; give one of them.")
    if given["keys"] and not given["model"]:
        raise click.UsageError("--set goes with --model.")
    what = {part.strip() for part in given["what"].split(",") if part.strip()}
    if not what or what - {"pixels", "buildings", "roads"}:
        raise click.UsageError(f"--what: found {given['what']!r}, expected any of pixels, buildings, roads.")

    import tempfile
    from contextlib import ExitStack

    from geounet.atomic import make_folder
    from geounet.cli.progress import Progress
    from geounet.errors import OutputExistsError
    from geounet.evaluation.compare import EvaluationSettings
    from geounet.evaluation.measure import evaluate as measure
    from geounet.evaluation.measure import predicted

    out: Path | None = given["out"]
    if out is not None and (out / "evaluation.json").exists() and not given["overwrite"]:
        raise OutputExistsError(f"{out}: holds an evaluation; give another folder, or --overwrite to replace it")
    if out is not None:
        make_folder(out)
    exit_code = 0
    with ExitStack() as stack:
        progress = stack.enter_context(Progress())
        pred: Any = list(given["pred"])
        if given["model"]:
            folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geounet-evaluate-")))
            folder, exit_code = predicted(
                given["model"], given["scenes"], folder, given["keys"], progress, kept=out is not None
            )
            pred = folder
        result = measure(
            pred,
            list(given["truth"]) or None,
            labels=given["labels"],
            aoi=given["aoi"],
            aoi_crs=given["aoi_crs"],
            probability=given["probability"],
            image=given["image"],
            band=given["band"],
            label_band=given["label_band"],
            names=_pairs(given, "names"),
            how=_how(given),
            settings=EvaluationSettings(
                window=given["window"],
                boundary_px=given["boundary_px"],
                tolerance=_first(given["tolerance_px"], given["tolerance_m"], 3.0),
                metres=given["tolerance_m"] is not None,
                what=frozenset(what),
                min_area_m2=given["min_area_m2"],
                layer=given["pred_layer"],
            ),
            progress=progress,
        )
        if out is not None:
            from geounet.atomic import write_text

            result.write_page(out / "evaluation.html")
            write_text(out / "evaluation.json", json.dumps(result.scores, indent=1, ensure_ascii=False) + "\n")
    if as_json:
        click.echo(json.dumps(result.scores, indent=1, ensure_ascii=False))
        return exit_code
    _show(result.scores)
    if out is not None:
        click.echo(out / "evaluation.html")
    return exit_code


def _first(*values: float | None) -> float:
    return next(v for v in values if v is not None)


def _how(given: Mapping[str, Any]) -> LabelKeys:
    return {
        "class_": given["class_"],
        "values": _pairs(given, "values"),
        "colours": _pairs(given, "colours"),
        "column": given["column"],
        "layer": given["layer"],
        "width_m": given["width_m"],
        "others": given["others"],
        "rest": given["rest"],
    }


def _pairs(given: Mapping[str, Any], key: str) -> dict[str, str] | None:
    from geounet.evaluation.specs import pairs

    return None if given[key] is None else pairs(given[key], f"--{key}")


def _show(scores: Mapping[str, Any]) -> None:
    """Print the measures as tables."""
    import sys

    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)

    def table(*columns: str) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold")
        for k, column in enumerate(columns):
            made.add_column(column, justify="left" if k == 0 else "right", no_wrap=True)
        return made

    pixel, unit = scores["pixel"], scores["unit"]
    if pixel:
        rows = table("class", "IoU", "Dice", "precision", "recall", "boundary IoU", "labels", "area error")
        for name in scores["classes"]:
            cover = scores["landcover"][name]
            error = "–" if cover["error_percent"] is None else f"{cover['error_percent']:+.1f} %"
            size = f"{cover['truth_pixels']:,} px"
            measures = [pixel[key][name] for key in ("iou", "dice", "precision", "recall")]
            rows.add_row(name, *map(_text, [*measures, pixel["boundary"]["iou"][name]]), size, error)
        rows.add_section()
        rows.add_row("mean", _text(pixel["miou"]), _text(pixel["mean_dice"]), "", "", _text(pixel["boundary"]["mean"]))
        console.print(rows)
        console.print(f"pixel accuracy {_text(pixel['accuracy'])} of {pixel['pixels']:,} pixels", end="")
        if pixel["unpredicted"]:
            console.print(f"; {pixel['unpredicted']:,} labelled pixels have no prediction", end="")
        ece = (scores["calibration"] or {}).get("ece")
        console.print("" if ece is None else f"; calibration error (ECE) {_text(ece)}")
    lines = table("", "")
    buildings, roads = scores["buildings"], scores["roads"]
    if buildings:
        lines.add_row("buildings: labels, predicted", f"{buildings['truth']:,}, {buildings['found']:,}")
        lines.add_row("buildings: F1 at IoU 0.5; 0.5 to 0.95", _several(buildings, "f1_50", "f1_50_95"))
        lines.add_row("buildings: precision, recall at 0.5", _several(buildings, "precision_50", "recall_50"))
        lines.add_row(f"buildings: PoLiS, {unit}", _text(buildings[f"polis_{unit}"]))
    if roads:
        lines.add_row("roads: APLS (labels to prediction, back)",
                      _several(roads, "apls", "apls_truth_to_found", "apls_found_to_truth"))  # fmt: skip
        lines.add_row("roads: TOPO F1, precision, recall", _several(roads, "topo_f1", "topo_precision", "topo_recall"))
        if roads["relaxed"]:
            near = roads["relaxed"]
            lines.add_row(f"roads: F1, precision, recall within {near['tolerance']:g} {near['unit']}",
                          _several(near, "f1", "precision", "recall"))  # fmt: skip
    if buildings or roads:
        lines.show_header = False
        console.print(lines)
    for name in scores["left_out"]:
        console.print(f"{name}: no labels, left out", markup=False)


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _several(scores: Mapping[str, Any], *keys: str) -> str:
    return ", ".join(_text(scores[key]) for key in keys)
