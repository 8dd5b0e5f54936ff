"""`geounet vectorize`: vectors from rasters that exist."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from geounet.cli.options import json_option
from geounet.config.job import Buildings, Landcover, Roads, Section
from geounet.config.presets import PRESETS

SECTIONS: dict[str, type[Section]] = {"buildings": Buildings, "roads": Roads, "landcover": Landcover}
ENDINGS = {".gpkg": "gpkg", ".fgb": "fgb", ".parquet": "parquet"}


def _keys() -> dict[str, dict[str, Any]]:
    """Return the keys of the job file's sections, with the field of each layer that has it; classes are apart."""
    found: dict[str, dict[str, Any]] = {}
    for layer, section in SECTIONS.items():
        for name, field in section.model_fields.items():
            if name not in ("class_", "classes"):
                found.setdefault(name, {})[layer] = field
    return found


def _type(annotation: Any) -> Any:
    """Return the click type of a field: the first member of a union that is no None."""
    options = [a for a in typing.get_args(annotation) if a is not type(None)]
    if typing.get_origin(annotation) is typing.Literal:
        return click.Choice(list(options))
    if typing.get_origin(annotation) is typing.Annotated or (options and annotation not in (bool, int, float, str)):
        return _type(options[0])
    return {bool: click.BOOL, int: click.INT, float: click.FLOAT}.get(annotation, click.STRING)


def _help(fields: dict[str, Any]) -> str:
    """Return the help of a key: what it does for each layer that has it, with its default."""
    said: dict[tuple[str, str], list[str]] = {}
    for layer, field in fields.items():
        default = field.default
        shown = (
            "" if default is None else f" [{default:g}]" if isinstance(default, float) else f" [{str(default).lower()}]"
        )
        said.setdefault((field.description or "", shown), []).append(layer)
    return "; ".join(f"{', '.join(layers)}: {text}{default}" for (text, default), layers in said.items())


def _key_options() -> Iterator[Any]:
    for name, fields in _keys().items():
        kind = _type(next(iter(fields.values())).annotation)
        unit = name.rpartition("_")[2].upper() if name.endswith(("_m", "_m2", "_px")) else None
        option = f"--{name.replace('_', '-')}"
        yield click.option(option, name, type=kind, metavar=unit, help=_help(fields), cls=KeyOption)


class KeyOption(click.Option):
    """An option that is a key of the job file."""


class Grouped(click.Command):
    """A command whose help lists the keys of the job file apart from its other options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write two lists."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        for title, keys in (("Options", False), ("Keys of the job file, by layer, with their [defaults]", True)):
            records = [param.get_help_record(ctx) for param in options if isinstance(param, KeyOption) is keys]
            rows = [row for row in records if row is not None]
            with formatter.section(title):
                formatter.write_dl(rows)


def _takes_keys(function: Any) -> Any:
    for option in reversed(list(_key_options())):
        function = option(function)
    return function


@click.command(cls=Grouped, short_help="Vectors from any class or probability raster.")
@click.argument("rasters", metavar="RASTER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="What to write: NAME.gpkg; with other formats NAME_LAYER.fgb, NAME_LAYER.parquet.",
)
@click.option(
    "--kind", "kinds", required=True, multiple=True, type=click.Choice(list(SECTIONS)), help="What to make; repeatable."
)
@click.option(
    "--class", "class_", metavar="NAME_OR_CODE", help="Class of buildings or roads; needed if names do not say."
)
@click.option("--classes", metavar="A,B", help="Land-cover classes to write, by name or code.  [default: all]")
@click.option("--threshold", type=float, help="The raster holds probabilities: the class is where they reach this.")
@click.option(
    "--probability",
    "probabilities",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Probabilities of RASTER's classes, a band a class: for confidences, and what else follows from them. Once "
    "for each RASTER.",
)
@click.option(
    "--band",
    type=click.IntRange(min=1),
    help="Band of the raster.  [default: the only one, or the one described as the class]",
)
@click.option(
    "--mosaic", is_flag=True, help="Take several rasters as one; an overlap belongs to the first that is valid there."
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="standard",
    show_default=True,
    help="What keys are where they are not given. standard: their defaults; raw: every pixel; detail: small things "
    "kept; map: generalised for 1:10 000 and smaller.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(list(ENDINGS.values())),
    help="Repeatable.  [default: by the ending of --out]",
)
@click.option("--cell", type=click.IntRange(min=1), help="Side of a vector cell, px; bounds memory.  [default: 1024]")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes, at most one for two cells.  [default: as many as there are cores]",
)
@click.option("--overwrite", is_flag=True, help="Replace output files.")
@json_option
@_takes_keys
def vectorize(
    rasters: tuple[Path, ...],
    out: Path,
    kinds: tuple[str, ...],
    class_: str | None,
    classes: str | None,
    threshold: float | None,
    probabilities: tuple[Path, ...],
    band: int | None,
    mosaic: bool,
    preset: str,
    formats: tuple[str, ...],
    cell: int | None,
    workers: int | None,
    overwrite: bool,
    as_json: bool,
    **keys: Any,
) -> None:
    """Make vectors from RASTER, a class raster of any integer type or (with --threshold) a probability raster.

    \b
      $ geounet vectorize mask.tif --out buildings.gpkg --kind buildings --class 1
      $ geounet vectorize road_prob.tif --out roads.gpkg --kind roads --threshold 0.5
      $ geounet vectorize landcover.tif --out landcover.gpkg --kind landcover --min-area-m2 100
      $ geounet vectorize scene_mask.tif --probability scene_prob.tif --out finer.gpkg --kind buildings --min-area-m2 4
      $ geounet vectorize results/*/*_mask.tif --mosaic --out town.gpkg --kind buildings --kind roads

    A class that is named but has no pixels makes an empty layer. Of several bands the one described as the class is
    taken. What is nodata in the raster never becomes a feature. The GeoPackage holds styles and a QGIS project.
    """
    chosen = list(dict.fromkeys(kinds))
    given = {key: value for key, value in keys.items() if value is not None}
    _check(chosen, given, rasters, class_, classes, threshold, mosaic)
    if probabilities and threshold is not None:
        raise click.UsageError("--probability goes with class rasters; with --threshold RASTER holds them itself.")
    if probabilities and len(probabilities) != len(rasters):
        raise click.UsageError(f"--probability: {len(probabilities)} for {len(rasters)} rasters, expected as many.")

    from geounet.cli.progress import Progress
    from geounet.machine import cores
    from geounet.vector.request import DEFAULT_CELL
    from geounet.vector.standalone import Order, vectorize

    known = _keys()
    sections = {kind: {k: v for k, v in given.items() if kind in known[k]} for kind in chosen}
    if classes is not None:
        sections["landcover"]["classes"] = [part.strip() for part in classes.split(",") if part.strip()]
    ending = ENDINGS.get(out.suffix.lower(), "gpkg")
    order = Order(
        rasters=rasters,
        out=out,
        sections=sections,
        class_=class_,
        threshold=threshold,
        probabilities=probabilities,
        band=band,
        preset=preset,
        formats=tuple(dict.fromkeys(formats)) or (ending,),
        cell=cell or DEFAULT_CELL,
        workers=workers or cores(),
        overwrite=overwrite,
    )
    with Progress() as progress:
        result = vectorize(order, progress)
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    layers = ", ".join(f"{count} {name}" for name, count in result["layers"].items())
    click.echo(f"{layers} in {result['seconds']['total']:.1f} s")
    for name in result["files"].values():
        click.echo(f"  {out.parent / name}")


def _check(
    kinds: list[str],
    given: dict[str, Any],
    rasters: tuple[Path, ...],
    class_: str | None,
    classes: str | None,
    threshold: float | None,
    mosaic: bool,
) -> None:
    """Refuse options that do not go together.

    Raises
    ------
    click.UsageError
        With what to do instead.
    """
    known = _keys()
    for key in given:
        if not set(known[key]) & set(kinds):
            raise click.UsageError(f"--{key.replace('_', '-')} is no option of --kind {', '.join(kinds)}.")
    if class_ is not None and kinds == ["landcover"]:
        raise click.UsageError("--kind landcover takes --classes A,B instead of --class.")
    if class_ is not None and {"buildings", "roads"} <= set(kinds):
        raise click.UsageError("--class names one class: make buildings and roads one after the other.")
    if classes is not None and "landcover" not in kinds:
        raise click.UsageError(f"--classes is no option of --kind {', '.join(kinds)}; name the class with --class.")
    if threshold is not None and len(kinds) > 1:
        raise click.UsageError("--threshold makes one class: give one --kind.")
    if len(rasters) > 1 and not mosaic:
        raise click.UsageError(f"{len(rasters)} rasters: give --mosaic to take them as one, or call once for each.")
