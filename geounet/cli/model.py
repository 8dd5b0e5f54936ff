"""`geounet model`: bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geounet.cli.options import json_option

if TYPE_CHECKING:
    from geounet.models.bundle import Bundle


def _words(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    words = [part.strip() for part in value.split(",")]
    if not all(words):
        raise click.BadParameter(f"found {value!r}, expected words separated by commas")
    return words


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> list[float] | None:
    if value is None:
        return None
    try:
        return [float(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"found {value!r}, expected numbers separated by commas") from None


@click.group()
def model() -> None:
    """Show, list, import, export and combine model bundles.

    A bundle is a folder with `model.safetensors` and `model.json`, the card that says how to use the weights.
    """


@model.command("list")
@click.option("--networks", is_flag=True, help="The networks that a card or a training job can name, instead.")
@json_option
def list_(networks: bool, as_json: bool) -> None:
    """List the models that come with this program, or the networks that models can have."""
    if networks:
        _list_networks(as_json)
        return
    from geounet.models.bundle import list_bundles

    bundles = list_bundles()
    if as_json:
        click.echo(json.dumps([_facts(b) for b in bundles], indent=1, ensure_ascii=False))
        return
    for bundle in bundles:
        card = bundle.card
        gsd = card.resolution or "any resolution"
        click.echo(f"{card.name}  {card.network}, {gsd}, {len(card.input.bands)} bands: "
                   f"{', '.join(c.name for c in card.mask_classes())}")  # fmt: skip
    if not bundles:
        click.echo("no models come with this installation; `geounet model import` makes bundles")


def _list_networks(as_json: bool) -> None:
    from dataclasses import asdict

    from geounet.models.networks.table import NETWORKS

    if as_json:
        click.echo(json.dumps({name: asdict(entry) for name, entry in NETWORKS.items()}, indent=1, ensure_ascii=False))
        return
    for name, entry in NETWORKS.items():
        arguments = f" ({entry.arguments})" if entry.arguments else ""
        click.echo(f"{name:<15}{entry.library:<9}{entry.about}{arguments}  {entry.paper}")
    click.echo(
        "smp's networks take an encoder of smp, or one of timm behind tu-: resnet34, mit_b0, tu-convnext_tiny, …"
    )


@model.command()
@click.argument("model_name", metavar="NAME|PATH")
@json_option
def show(model_name: str, as_json: bool) -> None:
    """Show a bundled model (NAME) or a bundle (PATH, with a slash).

    \b
        $ geounet model show demo
        $ geounet model show ./my_model --json
    """
    from geounet.models.bundle import load_bundle

    _show(load_bundle(model_name), as_json)


@model.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--classes", callback=_words, metavar="A,B,...", help="Names, in the order of the network's channels.")
@click.option(
    "--kinds", callback=_words, metavar="A,B,...", help="building, road, contact, background or other, for each class."
)
@click.option("--bands", callback=_words, metavar="A,B,...", help="Names, in the network's order.")
@click.option("--mean", callback=_numbers, metavar="N,N,...", help="Of each band, in the units of the files.")
@click.option(
    "--std", callback=_numbers, metavar="N,N,...", help="Standard deviation of each band, in the units of the files."
)
@click.option("--gsd", type=click.FloatRange(min=0, min_open=True), metavar="METRES", help="Ground sample distance.")
@click.option("--tile", type=click.IntRange(min=1), metavar="PX", help="Side of a tile.")
@click.option("--architecture", metavar="NAME", help="Network, for example Unet; see model list --networks.")
@click.option("--encoder", metavar="NAME", help="smp's encoder, for example resnet34; timm's behind tu-.")
@click.option("--activation", type=click.Choice(["softmax", "sigmoid"]), help="softmax: one class a pixel.")
@click.option("--data-type", metavar="TYPE", help="Type of the training imagery, for example uint8.")
@click.option("--card", type=click.Path(path_type=Path), help="A model.json, whole or in part; options go before it.")
@click.option("--name", help="The model's name; otherwise the folder's.")
@click.option("--prefix", metavar="TEXT", help="Of the weights' names, if a checkpoint holds several networks.")
@click.option("--half", is_flag=True, help="Store the weights as float16: half the size.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@json_option
def import_(source: Path, bundle: Path, as_json: bool, **options: Any) -> None:
    """Make a bundle of a model trained with segmentation-models-pytorch.

    SOURCE is a folder of smp's `save_pretrained`, a state dict (.safetensors, .pt, .pth) or a Lightning checkpoint
    (.ckpt). No code in it is run. What it does not say is asked for.

    \b
        $ geounet model import trained/ ./roads --classes background,road \\
              --bands red,green,blue --mean 98,102,95 --std 41,38,36 --gsd 0.3
    """
    from geounet.models.foreign import import_model

    made = import_model(source, bundle, **options)
    _show(made, as_json)


@model.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("members", nargs=-1, required=True, metavar="MEMBER MEMBER...")
@click.option("--name", help="The ensemble's name; otherwise the folder's.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@json_option
def ensemble(bundle: Path, members: tuple[str, ...], name: str | None, overwrite: bool, as_json: bool) -> None:
    """Combine models to one whose probabilities are the mean of theirs.

    Each MEMBER is a bundled model's name or a bundle's path (with a slash); they are copied into BUNDLE. Networks and
    normalisations may differ; classes, bands, data type and activation may not. A run takes as long as
    those of all members together, but reads the scene once.

    \b
        $ geounet model ensemble ./mean ./fold_0 ./fold_1 ./fold_2
    """
    from geounet.models.bundle import save_ensemble

    made = save_ensemble(bundle, members, name=name, overwrite=overwrite)
    _show(made, as_json)


@model.command()
@click.argument("model_name", metavar="NAME|PATH")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--tile", type=click.IntRange(min=1), metavar="PX", help="Side of a tile; otherwise the card's.")
@click.option("--normalise", is_flag=True, help="Take values as they are in scenes; otherwise normalised ones.")
@click.option("--probabilities", is_flag=True, help="Return probabilities; otherwise logits. Ensembles always do.")
@click.option("--opset", type=click.IntRange(min=1), metavar="N", help="Of ONNX; otherwise torch's choice.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@json_option
def export(model_name: str, out: Path, as_json: bool, **options: Any) -> None:
    """Write a model for other programs: OUT.onnx (ONNX) or OUT.pt2 (torch.export).

    The file takes any number of tiles, holds the card in its metadata, and is written only if its results on random
    tiles are those of the bundle. ONNX needs the extra packages of `pip install 'geounet[export]'`.

    \b
        $ geounet model export demo demo.onnx --normalise --probabilities
    """
    from geounet.models.bundle import load_bundle
    from geounet.models.export import export_model

    made = export_model(load_bundle(model_name), out, **options)
    size = out.stat().st_size
    if as_json:
        facts = {"file": str(out), "bytes": size, "tile": made.tile, "normalised": made.normalised,
                 "output": made.output, "difference": made.difference}  # fmt: skip
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    values = "values as in scenes" if made.normalised else "normalised values"
    click.echo(f"{out}  {size / 1e6:.1f} MB: {values} of n × {made.tile} × {made.tile} px in, {made.output} out; "
               f"differs from the bundle by {made.difference:.1g}")  # fmt: skip


def _show(bundle: Bundle, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_facts(bundle), indent=1, ensure_ascii=False))
        return
    for line in _lines(bundle):
        click.echo(line)


def _facts(bundle: Bundle) -> dict[str, Any]:
    return {
        "folder": str(bundle.folder),
        "sha256": bundle.sha256,
        "weights_bytes": bundle.size,
        "card": bundle.card.model_dump(mode="json"),
    }


def _lines(bundle: Bundle) -> list[str]:
    card = bundle.card
    given = card.input
    bands = [f"{b} ({s.mean:g} ± {s.stddev:g})" for b, s in zip(given.bands, given.value_scaling, strict=True)]
    parameters = f"{card.total_parameters / 1e6:.1f} million parameters, " if card.total_parameters else ""
    tile = card.tile
    rows = [
        ("folder", str(bundle.folder)),
        ("sha256", bundle.sha256),
        ("about", card.description),
        ("network", f"{card.network}: {parameters}{bundle.size / 1e6:.1f} MB"),
        ("members", ", ".join(f"{b.folder.name} ({b.card.network})" for b in bundle.members)),
        ("bands", ", ".join(bands)),
        ("data type", given.data_type),
        ("resolution", card.resolution or "not said: scenes of any resolution are taken"),
        ("tile", f"{tile.size} px{' only' if tile.fixed else f', multiples of {tile.multiple_of}'}"),
        ("classes", f"{card.head}: " + ", ".join(f"{c.code} {c.name} ({c.kind})" for c in card.mask_classes())),
        ("metrics", ", ".join(f"{k} {v}" for k, v in card.metrics.items() if isinstance(v, int | float | str))),
        ("licence", card.licence),
    ]  # fmt: skip
    return [card.name, *(f"  {what:<11}{text}" for what, text in rows if text)]
