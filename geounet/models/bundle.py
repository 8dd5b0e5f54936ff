"""Model bundles: a folder with `model.safetensors` and `model.json`, known by the checksum of both.

An ensemble is a folder with `model.json` alone beside the folders of its members, each a bundle of its own.

Finding and listing bundles needs neither torch nor safetensors, so that the command line stays quick;
what a weights file holds is read from its header.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geounet.config.card import Card, InputSpec, read_card
from geounet.errors import ModelError, OutputExistsError, UnknownModelError
from geounet.models.members import check_members, ensemble_card, folder_names

if TYPE_CHECKING:
    import torch

CARD_NAME = "model.json"
WEIGHTS_NAME = "model.safetensors"
BUNDLED = Path(__file__).parent / "bundled"
"""Where the models that come with the package live, one folder each."""

_CHUNK = 1 << 20
_HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors format
_HALF_LIMIT = 65504.0  # largest finite float16
_ITEM_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
    "U16": 16, "U32": 32, "U64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """A model bundle on disk."""

    folder: Path
    card: Card
    sha256: str
    """Checksum of the card's bytes followed by the weights' bytes, hexadecimal. Of an ensemble: of its card's bytes
    followed by those of card and weights of each member."""
    members: tuple[Bundle, ...] = ()
    """Of an ensemble."""

    @property
    def weights(self) -> Path:
        """The weights file; an ensemble has none of its own."""
        return self.folder / WEIGHTS_NAME

    @property
    def parts(self) -> tuple[Bundle, ...]:
        """The bundles that hold networks: the members, or this one."""
        return self.members or (self,)

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return sum(part.weights.stat().st_size for part in self.parts)

    @property
    def reading(self) -> InputSpec:
        """How pixels are normalised before they are given to the bundle's predictor.

        As the card says; the members of an ensemble that differ from it convert the values to their own normalisation.
        Invalid pixels are NaN for them, since every member has a value of its own there.
        """
        given = self.card.input
        if all(part.card.input == given for part in self.parts):
            return given
        return given.model_copy(update={"fill": math.nan})


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Find and check a bundle.

    Parameters
    ----------
    name_or_path
        A bare name is a bundled model; a path has a slash (or is a `Path`).

    Raises
    ------
    UnknownModelError
        If there is no such bundle.
    ModelError
        If its card or weights file is invalid. The weights are compared with the network when that is built, see
        `geounet.models.network.load`.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or os.sep in text:
        folder = Path(name_or_path)
        if not folder.is_dir():
            raise UnknownModelError(
                f"{folder}: no such folder; a bundle is a folder with {WEIGHTS_NAME} and {CARD_NAME}"
            )
    else:
        folder = BUNDLED / text
        if text in ("", ".", "..") or not folder.is_dir():
            raise UnknownModelError(_unknown(text))
    return _load(folder)


def list_bundles() -> list[Bundle]:
    """Return the bundled models, by name.

    Raises
    ------
    ModelError
        If one of them is damaged.
    """
    return [_load(BUNDLED / name) for name in _names()]


def save_bundle(
    folder: Path,
    card: Card,
    state_dict: Mapping[str, torch.Tensor],
    *,
    half: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle; the folder appears only when it is complete.

    Parameters
    ----------
    folder
        Where to; its parent is made.
    card
        The card; `total_parameters` is filled in.
    state_dict
        The network's `state_dict()`. An auxiliary classification head is left out.
    half
        Store matrices and kernels as float16 (vectors, such as biases and the statistics of normalisations, stay
        float32: they are small, and rounding them costs most). Computation is in float32 all the same.
    overwrite
        Replace an existing bundle.

    Raises
    ------
    OutputExistsError
        If the folder exists and `overwrite` is false.
    ModelError
        If the folder exists and holds something else than a bundle.
    """
    import torch
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    parameters = 0
    for key, value in state_dict.items():
        if key.startswith("classification_head."):
            continue
        tensor = value.detach().to("cpu")
        if tensor.is_floating_point():
            if not key.endswith(("running_mean", "running_var")):
                parameters += tensor.numel()
            small_enough = tensor.numel() > 0 and float(tensor.abs().amax()) <= _HALF_LIMIT
            tensor = tensor.to(torch.float16 if half and tensor.ndim >= 2 and small_enough else torch.float32)
        # Cloned, because safetensors refuses tensors that share memory.
        tensors[key] = tensor.clone(memory_format=torch.contiguous_format)

    card = card.model_copy(update={"total_parameters": parameters})
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    folder = _absolute(folder)
    with _fresh(folder, overwrite) as fresh:
        # Not save_file: its files can be read by nobody but their owner, whatever the umask says.
        (fresh / WEIGHTS_NAME).write_bytes(save(tensors, metadata={"format": "pt"}))
        (fresh / CARD_NAME).write_text(text, encoding="utf-8")
    return _load(folder)


def save_ensemble(
    folder: Path,
    members: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    name: str | None = None,
    overwrite: bool = False,
    **more: Any,
) -> Bundle:
    """Write an ensemble of bundles, whose files are copied into it; the folder appears only when it is complete.

    Parameters
    ----------
    folder
        Where to; its parent is made.
    members
        Bundled models' names or paths, in the order in which their probabilities are added.
    names
        What their folders are called in the ensemble; else as their own folders, or numbered.
    name
        Of the ensemble; else the folder's.
    overwrite
        Replace an existing bundle.
    more
        Further fields of the card: `description`, `metrics`, `training`.

    Raises
    ------
    OutputExistsError
        If the folder exists and `overwrite` is false.
    ModelError
        If there are fewer than two members, they cannot be averaged, or something else is in the folder.
    """
    folder = _absolute(folder)
    if len(members) < 2:
        raise ModelError(f"{folder}: an ensemble has two members or more, found {len(members)}")
    bundles = [load_bundle(member) for member in members]
    folders = list(names) if names is not None else folder_names(bundles)
    cards = {where: bundle.card for where, bundle in zip(folders, bundles, strict=True)}
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-._")
    card = ensemble_card(name or plain, cards, more)
    with _fresh(folder, overwrite) as fresh:
        for where, bundle in zip(folders, bundles, strict=True):
            (fresh / where).mkdir()
            for file in (CARD_NAME, WEIGHTS_NAME):
                shutil.copyfile(bundle.folder / file, fresh / where / file)
        text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
        (fresh / CARD_NAME).write_text(text, encoding="utf-8")
    return _load(folder)


def _absolute(folder: Path) -> Path:
    return Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow a link at the destination


@contextmanager
def _fresh(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write a bundle to, which on a clean exit is synced and takes the final name.

    Raises
    ------
    OutputExistsError
        If the folder exists and `overwrite` is false.
    ModelError
        If the folder exists and holds something else than a bundle.
    """
    if folder.exists():
        if not overwrite:
            raise OutputExistsError(f"{folder}: exists already; choose another folder or ask to overwrite it")
        known = {CARD_NAME, WEIGHTS_NAME, *_members(folder)}
        strangers = sorted(p.name for p in folder.iterdir() if p.name not in known)
        if strangers:
            raise ModelError(f"{folder}: is not replaced, because it holds more than a model bundle: {strangers[0]}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    stale = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        for path in sorted(fresh.rglob("*")):
            if path.is_file():
                with path.open("rb+") as stream:
                    os.fsync(stream.fileno())
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if stale.exists():
            if folder.exists():
                shutil.rmtree(stale)
            else:
                stale.rename(folder)


def _members(folder: Path) -> list[str]:
    """Return the folders that an ensemble's card names, none where there is no such card."""
    try:
        return read_card(folder / CARD_NAME).members
    except ModelError:
        return []


def _names() -> list[str]:
    if not BUNDLED.is_dir():
        return []
    return sorted(p.name for p in BUNDLED.iterdir() if (p / CARD_NAME).is_file())


def _unknown(name: str) -> str:
    names = _names()
    known = f"bundled models: {', '.join(names)}" if names else "no models are bundled"
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    if name and Path(name).is_dir():
        hint = f"write ./{name} for the folder of that name; "
    return f"model {name!r}: {hint}{known}; a path to a bundle has a slash"


def _load(folder: Path) -> Bundle:
    card = read_card(folder / CARD_NAME)
    if not card.members:
        _check_weights(folder)
        return Bundle(folder=folder, card=card, sha256=_checksum(folder, [CARD_NAME, WEIGHTS_NAME]))
    members = []
    for name in card.members:
        if not (folder / name).is_dir():
            raise ModelError(f"{folder / name}: no such folder; {CARD_NAME} of the ensemble {card.name} names it")
        members.append(_load(folder / name))
    check_members(card, {b.folder.name: b.card for b in members}, str(folder))
    files = [f"{name}/{file}" for name in card.members for file in (CARD_NAME, WEIGHTS_NAME)]
    return Bundle(folder, card, _checksum(folder, [CARD_NAME, *files]), tuple(members))


def _check_weights(folder: Path) -> None:
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise ModelError(f"{weights}: no such file; a model bundle holds {WEIGHTS_NAME} and {CARD_NAME}")
    read_header(weights)


def _checksum(folder: Path, names: Sequence[str]) -> str:
    files = []
    for name in names:
        path = folder.resolve() / name
        status = path.stat()
        files.append((str(path), status.st_size, status.st_mtime_ns, status.st_ino))
    return _digest(tuple(files))


@functools.lru_cache(maxsize=64)
def _digest(files: tuple[tuple[str, int, int, int], ...]) -> str:
    """Hash files one after the other; once a process for files that did not change, for each block asks."""
    digest = hashlib.sha256()
    for name, *_ in files:
        with Path(name).open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return `{tensor name: (dtype, shape)}` of a safetensors file, without reading the tensors.

    The format: 8 bytes little-endian length of the header, the header as JSON, the data
    (https://huggingface.co/docs/safetensors).

    Raises
    ------
    ModelError
        If the file is not in that format, or truncated.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 10 or not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                raise ModelError(f"{path}: is not a safetensors file, or truncated ({size} bytes)")
            header = json.loads(stream.read(length))
        tensors = {}
        end = 0
        for key, entry in header.items():
            if key == "__metadata__":
                continue
            shape = tuple(int(n) for n in entry["shape"])
            start, stop = entry["data_offsets"]
            bits = _ITEM_BITS.get(entry["dtype"])
            if bits is not None and (stop - start) * 8 != prod(shape) * bits:
                raise ModelError(f"{path}: {key}: {stop - start} bytes for {entry['dtype']} of shape {shape}")
            end = max(end, stop)
            tensors[key] = (str(entry["dtype"]), shape)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: is not a safetensors file: {error}") from None
    if 8 + length + end != size:
        raise ModelError(f"{path}: is truncated or damaged: {size} bytes, expected {8 + length + end}")
    return tensors
