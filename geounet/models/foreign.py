"""Bundles from models that were trained elsewhere with segmentation-models-pytorch.

Sources: a folder of smp's `save_pretrained` (`config.json`, `model.safetensors`), a state dict
(`.safetensors`, `.pt`, `.pth`), a Lightning checkpoint (`.ckpt`). What a source does not say must be given: a wrong
guess (of the normalisation, say) would give masks that look plausible and are wrong.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from geounet.config.card import OWN_NETWORKS, PALETTE, Card, TileSpec, kind_of
from geounet.errors import JobError, ModelError, first_line
from geounet.models.bundle import Bundle, save_bundle
from geounet.models.checkpoint import Source, Weights, arguments_of, read_source
from geounet.models.network import build, compare, stride
from geounet.models.networks.table import NETWORKS
from geounet.models.sizes import multiple_of, refusal

logger = logging.getLogger(__name__)

_USUAL_TILE = 512


def import_model(
    source: Path,
    dest: Path,
    *,
    classes: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    gsd: float | None = None,
    tile: int | None = None,
    architecture: str | None = None,
    encoder: str | None = None,
    activation: str | None = None,
    data_type: str | None = None,
    card: Path | None = None,
    name: str | None = None,
    prefix: str | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Make a bundle of a foreign model.

    Parameters
    ----------
    source
        Folder of smp's `save_pretrained`, state dict or Lightning checkpoint.
    dest
        The bundle's folder.
    classes, kinds
        Names and kinds of the classes, in the order of the network's channels. Without kinds, classes called
        building, road, background and contact are of that kind and the rest is `other`.
    bands, mean, std
        Names, means and standard deviations of the bands, in the network's order and the units of the files.
    gsd
        Ground sample distance of the training data, metres. Without it, no scene is refused for its resolution.
    tile
        Side of a tile, px.
    architecture, encoder
        Names of the table of networks and of smp's encoders. Only for sources that do not say.
    activation
        `softmax` (one class a pixel) or `sigmoid`. It goes before what the source says.
    data_type
        Type of the training imagery, for example uint8.
    card
        A `model.json`, whole or in part. The other parameters have precedence over it, and it over the source.
    name
        The model's name; else the card's, else the folder's.
    prefix
        What precedes the network's names in the checkpoint; only needed when it holds several networks that fit.
    half
        Store kernels and matrices as float16.
    overwrite
        Replace an existing bundle.

    Raises
    ------
    ModelError
        If the source cannot be read without running code, or the weights do not fit the network.
    JobError
        If information is missing: one message names all options to give; or if an option is invalid.
    OutputExistsError
        If `dest` exists and `overwrite` is false.
    """
    found = read_source(source)
    if found.ending is not None:
        raise ModelError(f"{source}: the network ends in {found.ending!r}; only softmax and sigmoid can be used")
    given = _partial(card)
    data: dict[str, Any] = {k: v for k, v in given.items() if k != "total_parameters"}
    for key, option, said in (
        ("architecture", architecture, found.architecture),
        ("encoder", encoder, found.encoder),
        ("activation", activation, found.activation),
    ):
        value = option or data.get(key) or said
        if value is not None:
            data[key] = value
    data["arguments"] = {**arguments_of(found, data.get("architecture")), **(data.get("arguments") or {})}
    if found.probabilities and data["activation"] == found.activation:
        data.setdefault("output", "probabilities")
    data["name"] = name or data.get("name") or re.sub(r"[^A-Za-z0-9._-]+", "-", dest.name).strip("-._")

    missing = []
    if "architecture" not in data:
        missing.append(f"--architecture ({', '.join(NETWORKS)})")
    if "encoder" not in data and data.get("architecture") not in OWN_NETWORKS:
        missing.append("--encoder (smp's name, for example resnet34)")
    channels = found.channels
    in_channels = found.in_channels
    if not missing:
        shapes = _expected(data, source)
        found.weights = _stripped(found, shapes, prefix)
        in_channels = _in_channels(found.weights, shapes) or in_channels
        channels = _channels(found.weights, shapes) or channels
    missing += _fill(data, classes, kinds, bands, mean, std, data_type, in_channels, channels)
    if missing:
        raise JobError(f"{source}: does not say everything; give {'; '.join(missing)}; or --card with a model.json")
    if gsd is not None:
        data["gsd"] = gsd
    wanted = tile if tile is not None else (given.get("tile") or {}).get("size")
    data["tile"] = {**(given.get("tile") or {}), "size": _USUAL_TILE if wanted is None else wanted}
    draft = _validated(data, source)

    network = build(draft)
    weights = _filled(found.weights, network, draft, source)
    data["tile"] = _tile(network, draft, wanted, given.get("tile") or {})
    finished = _validated(data, source)
    if finished.gsd is None:
        logger.warning("%s: no --gsd: scenes of any resolution will be taken", finished.name)
    if finished.input.data_type != "float32" and all(
        abs(s.mean) <= 1 and s.stddev <= 1 for s in finished.input.value_scaling
    ):
        logger.warning(
            "%s: mean and std are below 1; they apply to the values of the files, so for 8-bit imagery and a network "
            "trained on values from 0 to 1 multiply both by 255",
            finished.name,
        )
    return save_bundle(dest, finished, weights, half=half, overwrite=overwrite)


def _partial(card: Path | None) -> dict[str, Any]:
    if card is None:
        return {}
    try:
        data = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise JobError(f"--card {card}: not readable as JSON: {first_line(error)}") from None
    if not isinstance(data, dict):
        raise JobError(f"--card {card}: expected an object with the fields of model.json")
    return data


def _expected(data: Mapping[str, Any], source: Path) -> Weights:
    """Return the state dict of the described network with three bands and one class."""
    arguments = data["arguments"]
    if isinstance(arguments, dict):
        arguments = {k: v for k, v in arguments.items() if k != "activation"}
    draft = {
        "name": "draft",
        "architecture": data["architecture"],
        "encoder": data.get("encoder", ""),
        "arguments": arguments,
        "activation": "sigmoid",
        "input": {
            "bands": ["r", "g", "b"],
            "data_type": "any",
            "value_scaling": [{"mean": 0, "stddev": 1}] * 3,
        },
        "classes": [{"name": "c", "code": 1, "colour": PALETTE[1]}],
    }
    return dict(build(_validated(draft, source)).state_dict())


def _stripped(source: Source, expected: Weights, prefix: str | None) -> Weights:
    """Return the weights under the prefix that makes their names the network's."""
    weights = {k.replace("_orig_mod.", ""): v for k, v in source.weights.items()}  # torch.compile adds that
    names = {k for k in expected if not k.endswith("num_batches_tracked")}
    if prefix is None:
        sample = max(names, key=len)
        fits = {
            p: sum(p + n in weights for n in names) for p in {k[: -len(sample)] for k in weights if k.endswith(sample)}
        }
        full = sorted(p for p, count in fits.items() if count == len(names))
        if len(full) > 1:
            raise JobError(
                f"{source.where}: holds {len(full)} networks that fit; choose one with --prefix: "
                + ", ".join(repr(p) for p in full)
            )
        prefix = full[0] if full else max(fits, key=lambda p: fits[p], default="")
    kept = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if len(kept) < len(weights):
        others = sorted({k.split(".")[0] for k in weights if not k.startswith(prefix)})
        logger.info("%s: left out what is not below %r: %s", source.where, prefix, ", ".join(others[:5]))
    return {k: v for k, v in kept.items() if not k.startswith("classification_head.")}


def _in_channels(weights: Weights, expected: Weights) -> int | None:
    """Return the first convolution's input channels: the one kernel that differs from a network of 3 bands there."""
    for key, value in expected.items():
        found = weights.get(key)
        if key.startswith("encoder.") and found is not None and value.ndim == found.ndim == 4 and value.shape[1] == 3:
            return int(found.shape[1])
    return None


def _channels(weights: Weights, expected: Weights) -> int | None:
    """Return the last convolution's output channels: of the bias that has one value in a network of one class."""
    for key, value in expected.items():
        found = weights.get(key)
        if key.startswith("segmentation_head.") and value.shape == (1,) and found is not None and found.ndim == 1:
            return int(found.shape[0])
    return None


def _fill(
    data: dict[str, Any],
    classes: Sequence[str] | None,
    kinds: Sequence[str] | None,
    bands: Sequence[str] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    data_type: str | None,
    in_channels: int | None,
    channels: int | None,
) -> list[str]:
    """Complete the card's data with what was given, and return what is missing, as options."""
    missing = []
    names = list(classes) if classes is not None else [c["name"] for c in data.get("classes") or []]
    if names and channels is not None and len(names) != channels:
        raise JobError(
            f"--classes: found {len(names)} names ({', '.join(names)}), but the network has {channels} channels"
        )
    if not names:
        missing.append(f"--classes ({f'{channels} names' if channels else 'names'}, separated by commas)")
    if "activation" not in data:
        if (channels or len(names)) == 1:
            data["activation"] = "sigmoid"  # a softmax over one channel is always 1
        else:
            missing.append("--activation (softmax: one class a pixel; sigmoid: several)")
    if classes is not None and "activation" in data:
        data["classes"] = _classes(names, str(data["activation"]))
    if kinds is not None and "classes" in data:
        if len(kinds) != len(data["classes"]):
            raise JobError(f"--kinds: found {len(kinds)} for {len(data['classes'])} classes")
        for info, kind in zip(data["classes"], kinds, strict=True):
            info["kind"] = kind

    given = dict(data.get("input") or {})
    if bands is not None:
        given["bands"] = list(bands)
    count = len(given.get("bands") or []) or in_channels
    if in_channels is not None and given.get("bands") and len(given["bands"]) != in_channels:
        raise JobError(f"--bands: found {len(given['bands'])} names, but the network takes {in_channels} bands")
    if not given.get("bands"):
        missing.append(f"--bands ({f'{count} names' if count else 'names'} in the network's order)")
    scaling = given.get("value_scaling")
    for option, values in (("--mean", mean), ("--std", std)):
        if values is not None and count and len(values) != count:
            raise JobError(f"{option}: found {len(values)} values for {count} bands")
        if values is None and not scaling:
            missing.append(f"{option} ({f'{count} values' if count else 'a value a band'} in the files' units)")
    if (mean is not None or std is not None) and (scaling or (mean is not None and std is not None)):
        means = mean if mean is not None else [s["mean"] for s in scaling or []]
        stds = std if std is not None else [s["stddev"] for s in scaling or []]
        given["value_scaling"] = [{"mean": m, "stddev": s} for m, s in zip(means, stds, strict=False)]
    given["data_type"] = data_type or given.get("data_type") or "any"
    data["input"] = given
    return missing


def _classes(names: Sequence[str], activation: str) -> list[dict[str, Any]]:
    first = 0 if activation == "softmax" else 1
    return [
        {
            "name": name,
            "code": code,
            "colour": PALETTE[code % len(PALETTE)],
            "kind": kind_of(name).value,
        }
        for code, name in enumerate(names, start=first)
    ]


def _validated(data: Mapping[str, Any], source: Path) -> Card:
    try:
        return Card.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "card"
        raise JobError(f"{source}: the card would be invalid: {where}: {first['msg']}") from None


def _filled(weights: Weights, network: torch.nn.Module, card: Card, source: Path) -> Weights:
    """Load the weights and return the network's state dict."""
    expected = network.state_dict()
    complete = dict(weights)
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):  # not in all checkpoints; inference does not use it
            complete.setdefault(key, value)
    try:
        compare(complete, expected, str(source), card)
    except ModelError:
        # smp knows older names of some encoders' weights.
        try:
            network.load_state_dict(dict(weights))
        except (RuntimeError, KeyError):
            pass
        else:
            return _finite(dict(network.state_dict()), source)
        raise
    network.load_state_dict(complete)
    return _finite(dict(network.state_dict()), source)


def _finite(weights: Weights, source: Path) -> Weights:
    for key, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(f"{source}: {key} holds values that are not finite")
    return weights


def _tile(network: Any, card: Card, wanted: int | None, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card's tile section: a size that the network takes, and whether it takes others."""
    encoder = network.encoder
    native = getattr(encoder, "input_size", None)
    if native is None:
        native = (getattr(getattr(encoder, "model", None), "pretrained_cfg", None) or {}).get("input_size")
    sizes = [wanted] if wanted is not None else [_USUAL_TILE, *([int(native[-1])] if native else [])]
    shapes = network.to(device="meta")
    reason = None
    plain = card.model_copy(update={"tile": TileSpec(multiple_of=1)})
    multiple = int(said.get("multiple_of") or getattr(encoder, "output_stride", None) or stride(plain))
    for size in sizes:
        reason = f"not a multiple of {multiple}" if size % multiple else refusal(shapes, card, size)
        if reason is None:
            larger = multiple_of(shapes, card, size, multiple)
            fixed = said.get("fixed", larger is None)
            return {**said, "size": size, "multiple_of": multiple if fixed else larger or multiple, "fixed": fixed}
    raise ModelError(f"{card.name}: {card.network} does not take tiles of {sizes[-1]} px ({reason}); give --tile")
