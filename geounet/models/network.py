"""Networks of segmentation-models-pytorch (smp), built from a card and filled from a bundle.

https://smp.readthedocs.io; importing this module is cheap, smp and torch are imported when a network is built.
"""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from typing import TYPE_CHECKING, Any

from geounet.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from geounet.config.card import Card
    from geounet.models.bundle import Bundle

ARCHITECTURES: dict[str, tuple[int, int]] = {
    "Unet": (5, 32),
    "UnetPlusPlus": (5, 32),
    "MAnet": (5, 32),
    "Linknet": (5, 32),
    "FPN": (5, 32),
    "PSPNet": (3, 32),
    "PAN": (5, 16),
    "DeepLabV3": (5, 8),
    "DeepLabV3Plus": (5, 16),
    "UPerNet": (5, 32),
    "Segformer": (5, 32),
    "DPT": (4, 0),
}
"""Default `encoder_depth` and `encoder_output_stride` of smp's classes; 0: the patch size of the vision transformer."""

RESERVED: dict[str, str] = {
    "encoder_name": "the card's `encoder`",
    "in_channels": "the number of `input.bands`",
    "classes": "the number of `classes`",
    "encoder_weights": "nothing: weights come from the bundle",
    "pretrained": "nothing: weights come from the bundle",
    "pretrained_cfg": "nothing: weights come from the bundle",
    "pretrained_cfg_overlay": "nothing: weights come from the bundle",
    "checkpoint_path": "nothing: weights come from the bundle",
    "cache_dir": "nothing: weights come from the bundle",
}
"""Arguments that `arguments` of a card may not hold, and what says it instead."""

_LEGACY = {"decoder_use_batchnorm", "psp_use_batchnorm", "upscale_mode"}  # former arguments, which smp still takes
_ACTIVATIONS = {"softmax": "softmax", "softmax2d": "softmax", "sigmoid": "sigmoid"}
_SHOWN = 3


def import_libraries() -> None:
    """Import what building a network takes: seconds that a worker can spend before it has work."""
    import segmentation_models_pytorch  # noqa: F401 - the import is the work


def build(card: Card) -> torch.nn.Module:
    """Build the card's network, with random weights.

    It returns one tensor of logits `(n, classes, rows, cols)`: a final activation of the network itself
    (`output: probabilities`) has no weights and is left to the caller, who applies `card.activation` in float32;
    an auxiliary classification head (`aux_params`) is left out.

    Raises
    ------
    ModelError
        If smp has no such architecture or encoder (with the nearest names), or refuses the combination.
    """
    import segmentation_models_pytorch as smp

    architecture = _architecture(card)
    _check_encoder(card)
    arguments = _arguments(card)
    network_class = getattr(smp, architecture)
    if not card.encoder.startswith("tu-"):
        # smp passes on what it does not know, and its own encoders ignore it: a slip would go unnoticed.
        known = {*inspect.signature(network_class.__init__).parameters, *_LEGACY}
        for key in arguments.keys() - known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ModelError(f"{card.name}: arguments.{key}: {hint}smp's {architecture} has no such argument")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated names of encoders stay usable
            network = network_class(
                encoder_name=card.encoder,
                encoder_weights=None,
                in_channels=len(card.input.bands),
                classes=card.channels,
                activation=None,
                **arguments,
            )
    except (ValueError, KeyError, TypeError, RuntimeError, AssertionError, NotImplementedError, AttributeError,
            IndexError, ImportError) as error:  # fmt: skip
        raise ModelError(
            f"{card.name}: smp cannot build {architecture} with encoder {card.encoder} "
            f"and arguments {arguments}: {one_line(error)}"
        ) from error
    module: torch.nn.Module = network
    return module


def load(bundle: Bundle) -> torch.nn.Module:
    """Build a bundle's network and fill it; float32, on the CPU, in evaluation mode, without gradients.

    Raises
    ------
    ModelError
        If names or shapes of the weights are not those of the network, or a weight is not finite.
    """
    from safetensors.torch import load_file

    network = build(bundle.card)
    state = {k: v for k, v in load_file(bundle.weights).items() if not k.startswith("classification_head.")}
    compare(state, network.state_dict(), str(bundle.weights), bundle.card)
    network.load_state_dict(state)
    for key, value in network.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(f"{bundle.weights}: {key} holds values that are not finite")
    return network.requires_grad_(False).eval()


def compare(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], where: str, card: Card) -> None:
    """Check that weights are exactly those a network needs.

    Raises
    ------
    ModelError
        Naming the first names and shapes that differ.
    """
    problems = [
        f"{key} is {tuple(found[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    problems += [f"{len(k)} {what} ({_first(k)})" for what, k in (("missing", missing), ("unknown", unknown)) if k]
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + ("; …" if len(problems) > _SHOWN else "")
        raise ModelError(
            f"{where}: weights do not fit {card.architecture} with encoder {card.encoder}, "
            f"{len(card.input.bands)} bands and {card.channels} classes: {shown}"
        )


def stride(card: Card) -> int:
    """Return what tile sizes and distances between tiles must be a multiple of, in pixels.

    The least common multiple of the card's `tile.multiple_of` and the encoder's output stride. The latter follows from
    the card, except for DPT, whose patch size only the encoder knows (this imports smp).

    Raises
    ------
    ModelError
        If the card names an architecture or an encoder that smp does not have.
    """
    architecture = _architecture(card)
    depth, output = ARCHITECTURES[architecture]
    if architecture == "DPT":
        output = _patch(card)
    else:
        depth = _whole(card, "encoder_depth", depth)
        output = min(_whole(card, "encoder_output_stride", output), 2**depth)
    return math.lcm(card.tile.multiple_of, output)


def one_line(error: BaseException) -> str:
    """Return the first line of an exception's text, with the exception's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _whole(card: Card, key: str, default: int) -> int:
    value = card.arguments.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{card.name}: arguments.{key}: found {value!r}, expected a whole number from 1 on")
    return value


def _patch(card: Card) -> int:
    import torch

    network: Any
    try:
        with torch.device("meta"):  # shapes without data: quick
            network = build(card)
    except ModelError:  # some encoders compute while they are built
        network = build(card)
    return int(network.encoder.output_stride)


def _architecture(card: Card) -> str:
    if card.architecture in ARCHITECTURES:
        return card.architecture
    folded = {name.lower(): name for name in ARCHITECTURES}
    near = difflib.get_close_matches(card.architecture.lower().replace("-", ""), folded, n=1)
    hint = f"did you mean {folded[near[0]]}? " if near else ""
    raise ModelError(f"{card.name}: architecture {card.architecture!r}: {hint}smp has {', '.join(ARCHITECTURES)}")


def _check_encoder(card: Card) -> None:
    import segmentation_models_pytorch as smp
    import timm

    name = card.encoder
    own = sorted(smp.encoders.encoders)
    if name.startswith("tu-"):
        if timm.is_model(name[3:]):
            return
        near = difflib.get_close_matches(name[3:], timm.list_models(), n=3)
        hint = f"did you mean {', '.join('tu-' + n for n in near)}? " if near else ""
        raise ModelError(f"{card.name}: encoder {name!r}: {hint}timm has no such model")
    if name in own or smp.encoders.is_equivalent_to_timm_universal(name):
        return
    near = [f"tu-{name}"] if timm.is_model(name) else difflib.get_close_matches(name, own, n=3)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise ModelError(f"{card.name}: encoder {name!r}: {hint}smp has {len(own)} encoders, and timm's behind `tu-`")


def _arguments(card: Card) -> dict[str, Any]:
    arguments = dict(card.arguments)
    arguments.pop("aux_params", None)
    for key in arguments:
        if key in RESERVED:
            raise ModelError(f"{card.name}: arguments.{key} cannot be given: what counts is {RESERVED[key]}")
    own = arguments.pop("activation", None)
    if own not in (None, "identity"):
        if _ACTIVATIONS.get(str(own)) != card.activation:
            raise ModelError(f"{card.name}: arguments.activation {own!r} contradicts activation {card.activation!r}")
        if card.output != "probabilities":
            raise ModelError(f"{card.name}: with arguments.activation {own!r}, the card's output is `probabilities`")
    return arguments
