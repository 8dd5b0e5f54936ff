"""What foreign checkpoints hold: names and tensors, and what they say of the network.

Pickles are read by torch's restricted unpickler, which makes tensors and plain containers and calls nothing else.
"""

from __future__ import annotations

import inspect
import json
import logging
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from geounet.errors import ModelError, first_line
from geounet.models.bundle import read_header
from geounet.models.network import ARCHITECTURES, FORMER, RESERVED
from geounet.models.networks.table import NETWORKS

logger = logging.getLogger(__name__)

Weights = dict[str, torch.Tensor]

_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
_NONE = "is not a checkpoint that torch can read: neither an archive nor a pickle; expected what torch.save wrote"
_ACTIVATIONS = {"softmax": "softmax", "softmax2d": "softmax", "logsoftmax": "softmax", "sigmoid": "sigmoid"}
_NOTHING = ("", "none", "null", "identity", "linear", "logits")


@dataclass
class Source:
    """What a source says.

    `said` are the hyper-parameters of a Lightning checkpoint: whatever its author called so, of which `arguments_of`
    takes what the network has. `ending` is an activation at the network's end that is neither softmax nor sigmoid.
    """

    where: Path
    weights: Weights
    architecture: str | None = None
    encoder: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)
    activation: str | None = None
    ending: str | None = None
    probabilities: bool = False
    in_channels: int | None = None
    channels: int | None = None


def read_source(source: Path) -> Source:
    """Read a folder of smp's `save_pretrained`, a state dict or a Lightning checkpoint.

    Raises
    ------
    ModelError
        If it is none of these, is damaged, or could only be read by running code in it.
    """
    if source.is_dir():
        return _read_pretrained(source)
    if not source.is_file():
        raise ModelError(f"{source}: no such file or folder")
    if source.suffix == ".safetensors":
        return Source(source, _safetensors(source))
    content = _unpickled(source)
    said: Mapping[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("hyper_parameters"), Mapping):
        said = content["hyper_parameters"]
    weights = _state_dict(content)
    if weights is None:
        what = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            what = f"entries {', '.join(str(k) for k in list(content)[:5])}"
        raise ModelError(f"{source}: holds {what}, expected a state dict (names and tensors)")
    result = Source(source, weights)
    _read_hyper_parameters(result, said)
    return result


def _read_pretrained(folder: Path) -> Source:
    config_path, weights_path = folder / "config.json", folder / "model.safetensors"
    if not config_path.is_file():
        raise ModelError(f"{folder}: has no config.json; expected a folder of smp's save_pretrained")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{config_path}: not readable as JSON: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{config_path}: expected an object")
    if weights_path.is_file():
        weights = _safetensors(weights_path)
    elif (folder / "pytorch_model.bin").is_file():
        weights = _state_dict(_unpickled(folder / "pytorch_model.bin")) or {}
    else:
        raise ModelError(f"{folder}: has no model.safetensors")
    source = Source(folder, weights, architecture=config.get("_model_class"), encoder=config.get("encoder_name"))
    source.in_channels, source.channels = config.get("in_channels"), config.get("classes")
    _read_activation(source, config.get("activation"))
    source.arguments = _arguments(source.architecture, config)
    return source


def _read_activation(source: Source, activation: object) -> None:
    """Take the activation that smp's config says the network ends in."""
    if activation in (None, "identity"):
        return
    source.activation = _ACTIVATIONS.get(str(activation))
    source.probabilities = source.activation is not None
    source.ending = None if source.probabilities else str(activation)


def arguments_of(source: Source, architecture: str | None) -> dict[str, Any]:
    """Return the arguments that a source says of its network, but for the defaults of smp's class.

    Parameters
    ----------
    source
        From `read_source`.
    architecture
        The network's, which the source need not say.
    """
    import segmentation_models_pytorch as smp

    if architecture not in ARCHITECTURES:
        return source.arguments
    parameters = inspect.signature(getattr(smp, architecture).__init__).parameters
    known = {*FORMER, *(name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD)}
    said = {}
    for key in (known & source.said.keys()) - {*RESERVED, "activation", "aux_params"}:
        try:
            value = json.loads(json.dumps(source.said[key]))
        except (TypeError, ValueError):
            logger.warning("%s: hyper-parameter %s is a %s, expected what JSON can say: left out; give it in --card",
                           source.where, key, type(source.said[key]).__name__)  # fmt: skip
            continue
        if value is not None:
            said[key] = value
    return {**source.arguments, **_arguments(architecture, said)}


def _arguments(architecture: str | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a config that differ from the defaults of smp's class."""
    import segmentation_models_pytorch as smp

    if architecture not in ARCHITECTURES:
        return {}
    parameters = inspect.signature(getattr(smp, architecture).__init__).parameters
    defaults = {name: json.loads(json.dumps(p.default)) for name, p in parameters.items() if p.default is not p.empty}
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("_")
        and key not in RESERVED
        and key not in ("activation", "aux_params")
        and not (key in defaults and defaults[key] == value)
    }


def _read_hyper_parameters(source: Source, said: Mapping[str, Any]) -> None:
    """Take what Lightning modules usually call these things, also torchgeo's (`model`, `backbone`)."""
    folded = {name.lower(): name for name in NETWORKS}
    for key in ("architecture", "arch", "model", "model_name"):
        value = said.get(key)
        if isinstance(value, str):
            plain = re.sub(r"[-_ ]", "", value.lower().replace("+", "plus"))
            if plain in folded:
                source.architecture = folded[plain]
                break
    for key in ("encoder_name", "encoder", "backbone"):
        if isinstance(said.get(key), str):
            source.encoder = said[key]
            break
    source.said = said
    activation = said.get("activation")
    if isinstance(activation, str) and activation.strip().lower() not in _NOTHING:
        # A word for people, perhaps of a layer within: only a hint.
        source.activation = _ACTIVATIONS.get(activation.strip().lower())
        source.probabilities = source.activation is not None
        if source.activation is None:
            logger.info("%s: its hyper-parameter activation is %r, neither softmax nor sigmoid: not used",
                        source.where, activation)  # fmt: skip


def _safetensors(path: Path) -> Weights:
    from safetensors.torch import load_file

    read_header(path)  # says what is wrong with a damaged file
    return dict(load_file(path))


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles; what cannot be read is an error anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL ([\w.]+)|Unsupported (?:class|global) ([\w.]+)", str(error))
        what = next((a or b for a, b in names), "")
        if not what and not _looks_like_one(path):
            raise ModelError(f"{path}: {_NONE}") from None
        raise ModelError(
            f"{path}: holds Python objects beside tensors{f' ({what})' if what else ''}, and loading those can run any "
            "code; where you trust it, save its weights alone: torch.save(model.state_dict(), 'weights.pt')"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        # Of bytes that are no pickle, unpickling says only where it stumbled.
        if not isinstance(error, RuntimeError | OSError):
            raise ModelError(f"{path}: {_NONE}") from None
        raise ModelError(
            f"{path}: is not a checkpoint that torch can read: {first_line(error)}; expected what torch.save wrote"
        ) from None


def _looks_like_one(path: Path) -> bool:
    """Return whether a file begins as zip archives or pickles (of protocol 2 or later) do."""
    with path.open("rb") as file:
        start = file.read(2)
    return start == b"PK" or (start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def _state_dict(content: object) -> Weights | None:
    """Return the names and tensors in what a checkpoint holds, or none."""
    if not isinstance(content, Mapping):
        return None
    for key in _NESTED:
        if isinstance(content.get(key), Mapping):
            return _state_dict(content[key])
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    return tensors if tensors and len(tensors) == len(content) else None
