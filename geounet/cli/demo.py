"""`geounet demo`: the main job on a scene that it makes itself."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Make a scene and segment it.")
@click.argument("out", default="demo", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", default=2048, show_default=True, type=click.IntRange(64, 32768), help="Side of the scene, px.")
@click.option("--seed", default=7, show_default=True, help="Another seed is another place.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes of the local cluster.")
@click.pass_context
def demo(ctx: click.Context, out: Path, size: int, seed: int, workers: int | None) -> None:
    """Make an aerial scene, segment it with the bundled model on a local Dask cluster, and say how to open the result.

    Works offline. OUT is the output folder (default: demo).
    """
    from geounet.atomic import make_folder
    from geounet.batch.run import run as run_job
    from geounet.cli.progress import Progress
    from geounet.cli.run import summary
    from geounet.config.load import job_from_options
    from geounet.testing.scenes import generate

    scene = out / "scenes" / f"demo_{size}_{seed}.tif"
    if not scene.exists():
        make_folder(scene.parent)
        click.echo(f"making {scene} ({size} × {size} px)", err=True)
        generate(scene, width=size, height=size, seed=seed)
    settings = ["model=demo", f"outputs.folder={out}", "name=demo"]
    if workers is not None:
        settings.append(f"cluster.workers={workers}")
    with Progress() as progress:
        result = run_job(job_from_options([str(scene)], None, None, settings), progress=progress)
    for line in summary(result.manifest, result.folder):
        click.echo(line)
    if result.exit_code == 0:
        folder = out / scene.stem
        click.echo("")
        click.echo(f"Look at {folder / (scene.stem + '_preview.png')}, or in QGIS open the project in the GeoPackage:")
        click.echo(f"  Project > Open From > GeoPackage: {folder / (scene.stem + '.gpkg')}")
        click.echo(f"What was done, in figures: {out / 'report.html'}")
    ctx.exit(result.exit_code)
