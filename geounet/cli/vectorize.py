"""`geounet vectorize`: vectors from rasters that exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from geounet.cli.options import json_option

KEYS = {
    "buildings": ("min_area_m2", "min_hole_m2", "tolerance_px"),
    "roads": ("min_length_m", "tolerance_px"),
    "landcover": ("classes", "min_area_m2", "tolerance_px"),
}
"""Keys of the job file's section that each kind takes, beside the class."""

METRES = click.FloatRange(min=0)


@click.command(short_help="Vectors from any class or probability raster.")
@click.argument("raster", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The GeoPackage to write.")
@click.option("--kind", required=True, type=click.Choice(list(KEYS)), help="What to make.")
@click.option(
    "--class", "class_", metavar="NAME_OR_CODE", help="Class of buildings or roads; needed if names do not say."
)
@click.option("--threshold", type=float, help="The raster holds probabilities: the class is where they reach this.")
@click.option(
    "--band", type=click.IntRange(min=1), help="Band of the raster.  [default: 1, or the one named as the class]"
)
@click.option(
    "--min-area-m2", type=METRES, help="Smaller buildings are left out, smaller land cover joins a neighbour."
)
@click.option("--min-hole-m2", type=METRES, help="Smaller holes in buildings are filled.")
@click.option("--min-length-m", type=METRES, help="Shorter dead ends and loose pieces of roads are left out.")
@click.option("--tolerance-px", type=METRES, help="Simplification; 0: none.")
@click.option("--classes", metavar="A,B", help="Land-cover classes to write, by name or code.  [default: all]")
@click.option("--cell", type=click.IntRange(min=1), help="Side of a vector cell, px; bounds memory.  [default: 1024]")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--overwrite", is_flag=True, help="Replace the output file.")
@json_option
def vectorize(
    raster: Path,
    out: Path,
    kind: str,
    class_: str | None,
    threshold: float | None,
    band: int | None,
    cell: int | None,
    workers: int,
    overwrite: bool,
    as_json: bool,
    **keys: Any,
) -> None:
    """Make vectors from RASTER, a class raster of any integer type or (with --threshold) a probability raster.

    \b
      $ geounet vectorize mask.tif --out buildings.gpkg --kind buildings --class 1
      $ geounet vectorize road_prob.tif --out roads.gpkg --kind roads --threshold 0.5
      $ geounet vectorize landcover.tif --out landcover.gpkg --kind landcover --min-area-m2 100 --workers 4

    Options that are not given are those of the job file. What is nodata in the raster never becomes a feature.
    """
    given = {key: value for key, value in keys.items() if value is not None}
    for key in given:
        if key not in KEYS[kind]:
            raise click.UsageError(f"--{key.replace('_', '-')} is no option of --kind {kind}.")
    if kind == "landcover" and class_ is not None:
        raise click.UsageError("--kind landcover takes --classes A,B instead of --class.")
    result = _vectorize(raster, out, kind, class_, threshold, band, cell, workers, overwrite, given)
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    layers = ", ".join(f"{count} {name}" for name, count in result["layers"].items())
    click.echo(f"{out}: {layers} in {result['seconds']['total']:.1f} s")


def _vectorize(
    raster: Path,
    out: Path,
    kind: str,
    class_: str | None,
    threshold: float | None,
    band: int | None,
    cell: int | None,
    workers: int,
    overwrite: bool,
    given: dict[str, Any],
) -> dict[str, Any]:
    import tempfile

    from geounet.config.card import Kind
    from geounet.config.job import Vector
    from geounet.errors import JobError, OutputExistsError, VectorError
    from geounet.vector.build import ProcessExecutor, SerialExecutor, geopackage
    from geounet.vector.ingest import class_for, find_class, ingest, ingest_probability
    from geounet.vector.request import DEFAULT_CELL, VectorRequest

    if out.suffix.lower() != ".gpkg":
        raise JobError(f"--out {out}: the output is a GeoPackage; give a name that ends in .gpkg")
    if out.exists() and not overwrite:
        raise OutputExistsError(f"{out}: exists; give another name, or --overwrite to replace it")
    if not raster.is_file():
        raise VectorError(f"{raster}: no such file; give a raster that GDAL reads")
    wanted_kind = {"buildings": Kind.building, "roads": Kind.road, "landcover": Kind.other}[kind]
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the output, where there is room for it; parts are of no use afterwards.
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}.", suffix=".tmp", dir=out.parent) as folder:
        work = Path(folder)
        section = dict(given)
        if threshold is None:
            source = ingest(raster, work, band=band or 1)
            if kind != "landcover":
                found = class_for(source.classes, wanted_kind) if class_ is None else find_class(
                    source.classes, source.values, class_
                )  # fmt: skip
                section["class"] = found.name
        else:
            name = class_ or (wanted_kind.value if kind != "landcover" else "class")
            source = ingest_probability(raster, work, name, wanted_kind, threshold, band=band)
            if kind != "landcover":
                section["class"] = source.classes[1].name
        if "classes" in section:
            wanted = [part.strip() for part in str(section["classes"]).split(",") if part.strip()]
            section["classes"] = [find_class(source.classes, source.values, part).name for part in wanted]
        request = VectorRequest(
            mask=source.mask,
            probability=source.probability,
            classes=source.classes,
            channels=source.channels,
            layers=Vector.model_validate({kind: section}),
            cell=cell or DEFAULT_CELL,
            out=out,
            work=work,
            metadata={"source": raster.name},
        )
        if workers == 1:
            return geopackage(request, SerialExecutor())
        with ProcessExecutor(workers) as executor:
            return geopackage(request, executor)


command = vectorize
