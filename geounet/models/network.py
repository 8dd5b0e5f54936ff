"""Networks of segmentation-models-pytorch (smp) and our own, built from a card and filled from a bundle.

https://smp.readthedocs.io; importing this module is cheap, smp and torch are imported when a network is built.
"""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from typing import TYPE_CHECKING, Any

from geounet.config.card import ENSEMBLE, OWN_NETWORKS
from geounet.errors import ModelError, first_line
from geounet.models.libraries import import_libraries
from geounet.models.networks.table import NETWORKS, context

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from geounet.config.card import Card
    from geounet.models.bundle import Bundle

ARCHITECTURES = {name: (entry.depth, entry.stride) for name, entry in NETWORKS.items() if entry.library == "smp"}
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

FORMER = {"decoder_use_batchnorm", "psp_use_batchnorm", "upscale_mode"}  # former arguments, which smp still takes
_ACTIVATIONS = {"softmax": "softmax", "softmax2d": "softmax", "sigmoid": "sigmoid"}
_SHOWN = 3


def build(card: Card, *, filled: bool = True) -> torch.nn.Module:
    """Build the card's network, with random weights; not `filled`, with whatever is in memory.

    It returns one tensor of logits `(n, classes, rows, cols)`: a final activation of the network itself
    (`output: probabilities`) has no weights and is left to the caller, who applies `card.activation` in float32;
    an auxiliary classification head (`aux_params`) is left out.

    Raises
    ------
    ModelError
        If there is no such architecture or encoder (with the nearest names), or the combination is refused.
    """
    from geounet.models.fills import without_fills

    architecture = _architecture(card)
    if architecture in OWN_NETWORKS:
        with without_fills(everywhere=not filled):
            return _build_own(card)

    import_libraries()
    import segmentation_models_pytorch as smp

    _check_encoder(card)
    arguments = _arguments(card)
    network_class = getattr(smp, architecture)
    if not card.encoder.startswith("tu-"):
        # smp passes on what it does not know, and its own encoders ignore it: a slip would go unnoticed.
        known = {*inspect.signature(network_class.__init__).parameters, *FORMER}
        for key in arguments.keys() - known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ModelError(f"{card.name}: arguments.{key}: {hint}smp's {architecture} has no such argument")
    try:
        with warnings.catch_warnings(), without_fills(everywhere=not filled):
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
            f"and arguments {arguments}: {first_line(error)}"
        ) from error
    module: torch.nn.Module = network
    return module


def _build_own(card: Card) -> torch.nn.Module:
    """Build one of our own networks."""
    from geounet.models.networks.attention import AttentionUnet
    from geounet.models.networks.classic import Unet2015
    from geounet.models.networks.residual import ResUnet

    classes: dict[str, type[torch.nn.Module]] = {
        "Unet2015": Unet2015, "AttentionUnet": AttentionUnet, "ResUnet": ResUnet
    }  # fmt: skip
    network_class = classes[card.architecture]
    arguments = _arguments(card)
    known = set(inspect.signature(network_class).parameters)
    for key in arguments.keys() - known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        takes = NETWORKS[card.architecture].arguments
        raise ModelError(f"{card.name}: arguments.{key}: {hint}{card.architecture} takes {takes}")
    try:
        return network_class(len(card.input.bands), card.channels, **arguments)
    except ValueError as error:
        raise ModelError(f"{card.name}: {card.architecture}: arguments.{first_line(error)}") from None


def load(bundle: Bundle) -> torch.nn.Module:
    """Build a bundle's network and fill it; float32, on the CPU, in evaluation mode, without gradients.

    Raises
    ------
    ModelError
        If names or shapes of the weights are not those of the network, a weight is not finite, or the bundle is an
        ensemble.
    """
    from safetensors.torch import load_file

    network = build(bundle.card, filled=False)
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
            f"{where}: weights do not fit {card.network}, "
            f"{len(card.input.bands)} bands and {card.channels} classes: {shown}"
        )


def stride(card: Card) -> int:
    """Return what tile sizes and distances between tiles must be a multiple of, in pixels.

    The least common multiple of the card's `tile.multiple_of` and the encoder's output stride. The latter follows from
    the card, except for DPT, whose patch size only the encoder knows (this imports smp).

    Raises
    ------
    ModelError
        If the card names an architecture or an encoder that there is not.
    """
    architecture = _architecture(card)
    entry = NETWORKS[architecture]
    if architecture == "DPT":
        output = _patch(card)
    elif entry.library == "geounet":
        output = 2 ** _whole(card, "depth", entry.depth)
    else:
        depth = _whole(card, "encoder_depth", entry.depth)
        output = min(_whole(card, "encoder_output_stride", entry.stride), 2**depth)
    return math.lcm(card.tile.multiple_of, output)


def margin(card: Card) -> int:
    """Return how many pixels beside a tile the network takes on each side of it.

    Raises
    ------
    ModelError
        If the card's `depth` is no whole number.
    """
    if card.architecture not in OWN_NETWORKS:
        return 0
    _whole(card, "depth", NETWORKS[card.architecture].depth)
    return context(card.architecture, card.arguments)


def give_context(network: Any) -> None:
    """Tell a network with a `margin` that its input holds it; as built it mirrors its input instead."""
    network.given_context = True


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
    if card.architecture in NETWORKS:
        return card.architecture
    if card.architecture == ENSEMBLE:
        raise ModelError(f"{card.name}: is an ensemble of {len(card.members)} models, where a single network is needed")
    folded = {name.lower(): name for name in NETWORKS}
    near = difflib.get_close_matches(card.architecture.lower().replace("-", ""), folded, n=1)
    hint = f"did you mean {folded[near[0]]}? " if near else ""
    raise ModelError(f"{card.name}: architecture {card.architecture!r}: {hint}there are {', '.join(NETWORKS)}")


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
