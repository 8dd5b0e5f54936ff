"""The network at the first step: random, from another bundle, or with an encoder that was trained elsewhere."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Collection
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from geounet.errors import JobError, ModelError, UnknownModelError, first_line
from geounet.models.bundle import load_bundle
from geounet.models.checkpoint import Weights, read_source
from geounet.models.network import build
from geounet.training import about

if TYPE_CHECKING:
    from geounet.config.card import Card
    from geounet.config.train import TrainJob

logger = logging.getLogger(__name__)


def start(job: TrainJob, card: Card) -> tuple[nn.Module, str]:
    """Return the network to train, and in words where its weights come from.

    Parameters
    ----------
    job
        Seed, dropout, and the weights to start from.
    card
        Of the network.

    Raises
    ------
    ModelError
        If weights cannot be had or do not fit.
    JobError
        If the job names a network, weights or files that there are not, or asks for dropout of a network without.
    """
    torch.manual_seed(job.run.seed)
    with about.named(card):
        network = build(card)
    said = "random"
    if job.model.encoder_weights is not None:
        said = _encoder(network, card, job.model.encoder_weights)
    if job.model.start is not None:
        said = _filled(network, job.model.start)
    if job.model.dropout is not None:
        set_dropout(network, job.model.dropout, card)
    try_out(network, card, job.sampling.size)
    return network, said


def check_start(job: TrainJob, bands: int | None = None) -> None:
    """Check network and weights as `start` will need them, without reading scenes and without downloading anything.

    Parameters
    ----------
    job
        The training job.
    bands
        Of the scenes; None: what the job says of them. Where it says nothing, layers that depend on it are let pass.

    Raises
    ------
    JobError, ModelError
        As `start`.
    """
    bands = bands or _bands(job)
    card = about.outlined(job, bands or 3)
    network = _outline(job, card)
    # Layers whose shapes depend on the number of bands, as those of another number have others.
    loose: set[str] = set()
    if bands is None and (job.model.start or job.model.encoder_weights):
        other = _outline(job, about.outlined(job, 4)).state_dict()
        loose = {k for k, v in network.state_dict().items() if k not in other or other[k].shape != v.shape}
    if job.model.encoder_weights is not None:
        encoder, source = _encoder_of(network, card), job.model.encoder_weights
        if _is_path(source):
            wanted = {k: v for k, v in encoder.state_dict().items() if f"encoder.{k}" not in loose}
            fitted(_of_file(source, "model.encoder_weights"), wanted, source)
        else:
            _check_name(card, source)
    if job.model.start is not None:
        found, theirs, _ = _weights(job.model.start)
        _fitting(network.state_dict(), found, job.model.start, theirs, loose)


def _bands(job: TrainJob) -> int | None:
    """Return how many bands the job's scenes have, as far as it says so."""
    if job.bands is not None:
        return len(job.bands)
    said = [len(data.bands) if data.bands is not None else data.generated and data.generated.bands for data in job.data]
    return next((count for count in said if count), None)


def _outline(job: TrainJob, card: Card) -> nn.Module:
    """Return the network, tried out; where possible without its weights, which takes neither time nor memory."""

    def made() -> nn.Module:
        with about.named(card):
            network = build(card)
        if job.model.dropout is not None:
            set_dropout(network, job.model.dropout, card)
        try_out(network, card, job.sampling.size)
        if job.sampling.batch == 1:
            _check_single(network, card, job.sampling.size)
        return network

    # Some networks compute while they are built. What is wrong with others is told by the real one.
    with suppress(JobError, ModelError), torch.device("meta"):
        return made()
    return made()


def _check_single(network: nn.Module, card: Card, size: int) -> None:
    """Refuse a network that normalises over one value a channel while it learns from single windows."""
    try:
        with torch.no_grad():
            network.train()(torch.zeros(1, len(card.input.bands), size, size))
    except ValueError as error:
        raise JobError(
            f"sampling.batch: found 1; {card.network} normalises over the windows of a batch, and takes 2 or more "
            f"({first_line(error)})"
        ) from None


def try_out(network: nn.Module, card: Card, size: int) -> None:
    """Run a network on one window of zeros; its state stays as it is.

    Raises
    ------
    ModelError
        If it fails, or returns another shape than is wanted.
    """
    training = network.training
    try:
        with torch.no_grad():
            found = tuple(network.eval()(torch.zeros(1, len(card.input.bands), size, size)).shape)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ModelError(f"{card.network} fails on windows of {size} px: {first_line(error)}") from error
    finally:
        network.train(training)
    if found != (1, card.channels, size, size):
        raise ModelError(
            f"{card.network} returns {found} for a window of {size} px, expected (1, {card.channels}, {size}, {size}): "
            "a value for each pixel and class"
        )


def set_dropout(network: nn.Module, share: float, card: Card) -> None:
    """Set the rate of every dropout layer.

    Raises
    ------
    JobError
        If the network has none, and the rate is not 0.
    """
    layers = [module for module in network.modules() if isinstance(module, _DropoutNd)]
    if share > 0 and not layers:
        raise JobError(f"model.dropout: {card.network} has no dropout; leave it out")
    for layer in layers:
        layer.p = share


def _filled(network: nn.Module, source: str) -> str:
    """Fill a network with the weights of a bundle or file; layers of another shape, such as the head's, stay random."""
    found, theirs, said = _weights(source)
    own = network.state_dict()
    fitting = _fitting(own, found, source, theirs)
    differing = sorted(own.keys() - fitting.keys())
    network.load_state_dict(fitting, strict=False)
    if differing:
        logger.info("model.start: %d tensors of %s do not fit and start at random (%s, …)", len(differing), source,
                    differing[0])  # fmt: skip
    return said


def _fitting(own: Weights, found: Weights, source: str, theirs: str, loose: Collection[str] = ()) -> Weights:
    """Return the tensors that a network can take, those of `loose` in any shape.

    Raises
    ------
    ModelError
        If they are fewer than half of the network's.
    """
    fitting = {k: v for k, v in found.items() if k in own and (own[k].shape == v.shape or k in loose)}
    if 2 * len(fitting) < len(own):
        raise ModelError(
            f"model.start: {source} is {theirs}; only {len(fitting)} of the network's {len(own)} tensors fit"
        )
    return fitting


def _is_path(source: str) -> bool:
    return "/" in source or "\\" in source


def _of_file(source: str, key: str) -> Weights:
    """Return the weights in a file, or in a folder of smp's.

    Raises
    ------
    JobError
        If it does not exist.
    ModelError
        If it cannot be read.
    """
    if not Path(source).exists():
        raise JobError(f"{key}: {source}: no such file or folder")
    return read_source(Path(source)).weights


def _weights(source: str) -> tuple[Weights, str, str]:
    """Return weights, what network they are of, and in words where they come from."""
    path = Path(source)
    if path.is_file():
        found = _of_file(source, "model.start")
        digest = sha256(path.read_bytes()).hexdigest()
        return found, f"a file of {len(found)} tensors", f"weights {path.name} (sha256 {digest[:16]})"
    try:
        bundle = load_bundle(source)
    except UnknownModelError as error:
        problem = f"{source}: no such file or folder" if _is_path(source) else str(error)
        raise JobError(f"model.start: {problem}") from None
    if bundle.members:
        raise ModelError(
            f"model.start: {source} is an ensemble; give one of its members, such as {bundle.members[0].folder}"
        )
    found = read_source(bundle.weights).weights
    return found, bundle.card.network, f"model {bundle.card.name} (sha256 {bundle.sha256[:16]})"


def _encoder(network: nn.Module, card: Card, source: str) -> str:
    """Fill the encoder: a path has a slash, a name is one of smp's or timm's pretrained weights."""
    encoder = _encoder_of(network, card)
    if _is_path(source):
        weights = _of_file(source, "model.encoder_weights")
        encoder.load_state_dict(fitted(weights, encoder.state_dict(), source), strict=False)
        return f"encoder from {Path(source).name}"
    _check_name(card, source)
    encoder.load_state_dict(_from_hub(card, source))
    return f"encoder {card.encoder} with weights {source}"


def _encoder_of(network: nn.Module, card: Card) -> nn.Module:
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ModelError(f"model.encoder_weights: {card.architecture} has no encoder")
    return encoder


def _check_name(card: Card, name: str) -> None:
    """Check the name of an encoder's weights; smp lists those of its own encoders.

    Raises
    ------
    ModelError
        If weights of the encoder have no names.
    JobError
        If there are none of this name.
    """
    import segmentation_models_pytorch as smp

    if not card.encoder:
        raise ModelError(
            f"model.encoder_weights: {card.network} has its own encoder, whose weights have no names; give the path of "
            "a file with a slash, or leave it out"
        )
    known = smp.encoders.encoders.get(card.encoder, {}).get("pretrained_settings")
    if known is not None and name not in known:
        raise JobError(
            f"model.encoder_weights: {card.encoder} has no weights {name!r}; there are {', '.join(known) or 'none'}, "
            "or give the path of a file with a slash"
        )


def _from_hub(card: Card, name: str) -> dict[str, torch.Tensor]:
    """Return an encoder's weights that smp or timm know by name; they are downloaded unless they were before."""
    import segmentation_models_pytorch as smp

    arguments: dict[str, Any] = {"name": card.encoder, "in_channels": len(card.input.bands)}
    arguments["depth"] = card.arguments.get("encoder_depth", 5)
    arguments["weights"] = True if card.encoder.startswith("tu-") else name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoder = smp.encoders.get_encoder(**arguments)
    except Exception as error:  # whatever the hub's client raises when there is no network
        raise ModelError(
            f"model.encoder_weights: {name} for {card.encoder} cannot be had: {first_line(error)}; "
            "give the path of a file with a slash, or leave it out"
        ) from error
    state: dict[str, torch.Tensor] = encoder.state_dict()
    return state


def fitted(found: Weights, wanted: Weights, where: str) -> Weights:
    """Return a file's tensors under the encoder's names.

    Parameters
    ----------
    found
        Of the file: an encoder of smp, timm or torchvision, or a network with one inside. What else it holds is left.
    wanted
        The encoder's state.
    where
        Where the file is, for messages.

    Returns
    -------
    dict
        All of the encoder's tensors. The first kernel is repeated or summed over bands where their number differs.

    Raises
    ------
    ModelError
        If tensors are missing, or the file is of a deeper encoder.
    """
    best: dict[str, torch.Tensor] = {}
    beside: set[str] = set()
    # What comes before the encoder's own names differs: encoder., module.backbone., …
    parts = [key.split(".") for key in found]
    prefixes = {".".join([*names[:depth], ""]) for names in parts for depth in range(min(4, len(names)))}
    for theirs in sorted(prefixes):
        stripped = {_plain(k.removeprefix(theirs)): v for k, v in found.items() if k.startswith(theirs)}
        for ours in ("", "model."):
            chosen = {}
            for key, value in wanted.items():
                given = stripped.get(_plain(key.removeprefix(ours))) if key.startswith(ours) else None
                if given is not None and (given := _for_bands(given, value)) is not None:
                    chosen[key] = given
            if len(chosen) > len(best):
                best, beside = chosen, stripped.keys() - {_plain(key.removeprefix(ours)) for key in chosen}
    missing = [key for key in wanted if key not in best and not key.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(
            f"{where}: does not hold this encoder: {len(missing)} of {len(wanted)} tensors are missing or of another "
            f"shape ({missing[0]}, …); the file has {', '.join(list(found)[:2])}, …"
        )
    known = {_plain(key) for key in wanted}
    known |= {name.removeprefix("model_") for name in known}
    deeper = sorted(key for key in beside if _goes_on(key, known))
    if deeper:
        raise ModelError(
            f"{where}: holds a deeper encoder than this one: {len(deeper)} tensors are left over ({deeper[0]}, …)"
        )
    return best


def _goes_on(name: str, known: Collection[str]) -> bool:
    """Return whether a tensor is of one more layer in a row of them, within a numbered stage: `layer1_2_conv1_weight`.

    Rows of whole stages may be longer: an encoder can be cut off after any. So may be what is in no stage.
    """
    for number in re.finditer(r"\d+", name):
        row = name[: number.start()]
        if re.search(r"\d", row):
            there = {found[0] for key in known if key.startswith(row) and (found := re.match(r"\d+", key[len(row) :]))}
            if there and number[0] not in there:
                return True
    return False


def _plain(key: str) -> str:
    return re.sub(r"[._]", "_", key)  # timm flattens names with underscores where features are taken


def _for_bands(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor | None:
    """Return a tensor in the wanted shape, or nothing; a kernel for three bands fits any number."""
    if given.shape == wanted.shape:
        return given
    if given.ndim == 4 and given.shape[1] == 3 and given.shape[:1] == wanted.shape[:1]:
        from timm.models import adapt_input_conv

        adapted: torch.Tensor = adapt_input_conv(wanted.shape[1], given)
        return adapted if adapted.shape == wanted.shape else None
    return None
