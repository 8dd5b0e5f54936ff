"""What a trained model says of itself: its card, and how the training can be repeated."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geounet import machine
from geounet.config.card import OWN_NETWORKS, Card, InputSpec, Scaling, TileSpec
from geounet.errors import JobError, ModelError
from geounet.models.bundle import load_bundle

if TYPE_CHECKING:
    from geounet.config.train import TrainJob
    from geounet.training.dataset import Dataset

_PACKAGES = ("geounet", "torch", "segmentation-models-pytorch", "timm", "numpy")
_SILENT: Any = {
    "out": True,
    "root": True,
    "run": {"overwrite", "pictures", "tensorboard"},
    "sampling": {"threads", "ahead", "cache_mb"},
}
"""Keys of a job that change nothing in the weights."""


def card_of(job: TrainJob, data: Dataset) -> Card:
    """Return the card of a job's network, without metrics.

    Parameters
    ----------
    job
        Names, classes, network.
    data
        Bands, their type, the normalisation, the ground sample distance.

    Raises
    ------
    JobError
        If there is no such architecture or encoder, or the network does not take windows of that size.
    """
    spec = InputSpec(
        bands=list(data.bands),
        data_type=data.dtype,
        value_scaling=data.ranges.scaling(),
        fill=job.model.fill,
    )
    return _card(job, spec, data.gsd, data.gsd_range)


def outlined(job: TrainJob, bands: int) -> Card:
    """Return the card of a job's network before its scenes are known: of so many bands without names.

    Raises
    ------
    JobError
        As `card_of`.
    """
    spec = InputSpec(
        bands=[f"band{number}" for number in range(1, bands + 1)],
        data_type="uint8",
        value_scaling=[Scaling(mean=0.0, stddev=1.0)] * bands,
        fill=job.model.fill,
    )
    return _card(job, spec, job.gsd, None)


def _card(job: TrainJob, spec: InputSpec, gsd: float | None, gsd_range: tuple[float, float] | None) -> Card:
    from geounet.models.network import stride

    size = job.sampling.validation_size or job.sampling.size
    card = Card.model_validate(
        {
            "name": job.name,
            "description": job.description,
            "architecture": job.model.architecture,
            "encoder": "" if job.model.architecture in OWN_NETWORKS else job.model.encoder,
            "arguments": job.model.arguments,
            "activation": job.model.activation,
            "input": spec,
            "gsd": gsd,
            "gsd_range": gsd_range,
            "classes": job.infos(),
            "tile": TileSpec(size=size, multiple_of=1),
            "licence": job.licence,
        }
    )
    with named(card):
        step = stride(card)
    for key, side in (("size", job.sampling.size), ("validation_size", job.sampling.validation_size)):
        if side is not None and side % step:
            near = " or ".join(str(k * step) for k in (side // step, side // step + 1) if k)
            raise JobError(f"sampling.{key}: found {side}, {card.network} takes multiples of {step}: {near}")
    return card.model_copy(update={"tile": _tile(card, size, step)})


def _tile(card: Card, size: int, step: int) -> TileSpec:
    """Return the tiles that suit a network which was trained with windows of a size."""
    import torch

    from geounet.models.network import build
    from geounet.models.sizes import multiple_of, refusal

    multiple: int | None = step
    # Those that compute while they are built take any size.
    with suppress(JobError, ModelError, RuntimeError), torch.device("meta"):
        network = build(card)
        if refusal(network, card, size) is None:  # else trying it out says more
            multiple = multiple_of(network, card, size, step)
    if multiple is None:
        return TileSpec(size=size, multiple_of=step, fixed=True)
    # Larger tiles than windows were trained with do no harm to a convolutional network, and waste less on overlaps.
    return TileSpec(size=-(-max(size, 512) // multiple) * multiple, multiple_of=multiple)


@contextmanager
def named(card: Card) -> Iterator[None]:
    """Of a training, all that its card says of the network stands in the job: what is wrong there is the job's.

    Raises
    ------
    JobError
        In the place of a `ModelError`.
    """
    try:
        yield
    except ModelError as error:
        raise JobError(f"model: {str(error).removeprefix(f'{card.name}: ')}") from error


def digest(source: str) -> str:
    """Return the checksum of weights to start from; of what is no file and no bundle (names of a hub), its name."""
    path = Path(source)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        return load_bundle(source).sha256
    except ModelError:
        return source


def fingerprint(job: TrainJob, data: Dataset) -> str:
    """Return a checksum of all that decides the weights but the machine.

    Scenes and labels are known by what was measured of them: a changed image changes its statistics, changed labels
    their counts, while a copy of the files elsewhere is the same data.
    """
    settings = job.model_dump(mode="json", exclude=_SILENT)
    # 0.0 once stood for the network's own dropout: trainings that were begun with it go on
    settings["model"]["dropout"] = {None: 0.0, 0.0: "none"}.get(job.model.dropout, job.model.dropout)
    content = {
        "job": settings,
        "scenes": {side.name: names for side, names in data.scenes.items()},
        "statistics": [data.ranges.mean, data.ranges.stddev],
        "labels": [[tally.data, tally.side.name, tally.pixels] for tally in data.tallies],
    }
    given = [weights for weights in (job.model.start, job.model.encoder_weights) if weights is not None]
    if given:
        content["weights"] = [digest(weights) for weights in given]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what computes the weights."""
    return {"python": platform.python_version(), **machine.versions(_PACKAGES)}


def command() -> str:
    """Return the command that trains, without the paths of this machine."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    if words[0] in ("__main__.py", "geounet"):
        words[0] = "geounet"
    else:
        words = ["geounet.train(job)"]
    return shlex.join(w for w in (_without_place(w) for w in words)) if len(words) > 1 else words[0]


def _without_place(word: str) -> str:
    """Return a word of a command line with an absolute path cut to its name."""
    key, equals, value = word.rpartition("=")
    return f"{key}{equals}{Path(value).name}" if os.path.isabs(value) else word  # noqa: PTH117 - a word is no path


def training_of(
    job: TrainJob,
    *,
    initialisation: str,
    data: Dataset,
    record: Mapping[str, Any],
    steps: int,
    best_step: int,
    seconds: float,
) -> dict[str, Any]:
    """Return the section `training` of a card: whose data, from what, how, and how long.

    Parameters
    ----------
    job
        What was asked for.
    initialisation
        Where the first weights came from.
    data
        Scenes of each side, and their labelled pixels.
    record
        What was resolved at the first start: device, precision, threads, processes, versions.
    steps, best_step, seconds
        How long it learned, and when the weights were best.
    """
    settings = job.model_dump(
        mode="json", exclude_defaults=True,
        include={"sampling", "augment", "loss", "optimiser", "schedule", "split", "run", "gsd"},
    )  # fmt: skip
    settings.get("run", {}).pop("overwrite", None)
    return {
        "attribution": list(job.attribution),
        "scenes": {side.name: names for side, names in data.scenes.items() if names},
        "labels": [
            {"data": t.data, "side": t.side.name, "scenes": t.scenes, "share": t.share, "pixels": t.pixels}
            for t in data.tallies
        ],
        "initialisation": initialisation,
        "command": command(),
        "settings": settings,
        "loss": " + ".join(f"{t.weight:g} {t.name}" for t in job.terms()),
        "steps": steps,
        "best_step": best_step,
        "windows": steps * job.sampling.batch * job.optimiser.accumulate * int(record.get("processes", 1)),
        "minutes": round(seconds / 60, 1),
        **{k: record[k] for k in ("device", "precision", "processes", "versions", "fingerprint") if k in record},
    }
