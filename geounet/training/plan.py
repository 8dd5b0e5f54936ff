"""What a training would do: scenes, sides, windows, classes, steps, the network; nothing is learned."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from geounet.models.device import resolve
from geounet.models.network import build
from geounet.training import about
from geounet.training.dataset import check_folds, load_data
from geounet.training.gather import gather
from geounet.training.run import class_weights
from geounet.training.splits import Side
from geounet.training.start import check_start

if TYPE_CHECKING:
    from geounet.config.train import TrainJob

_TIMED = 3
"""Batches that are prepared to see how long one takes."""


def plan(job: TrainJob) -> dict[str, Any]:
    """Return what `train` would do, as JSON values.

    Raises
    ------
    JobError, LabelError, SceneError, ModelError
        As `train`, before it starts.
    """
    check_start(job)
    gathered = gather(job)
    if job.split.folds is not None:
        check_folds(job, gathered, but=job.split.fold)
    data = load_data(job, gathered=gathered)
    check_start(job, len(data.bands))
    card = about.card_of(job, data)
    network = build(card)
    device, precision = resolve(job.run.device, job.run.precision, "--set run.device=cpu")
    for number in range(_TIMED):  # the first windows of a scene make its smaller copies
        data.train.batch(number)
    started = time.perf_counter()
    for number in range(_TIMED, 2 * _TIMED):
        data.train.batch(number)
    each = (time.perf_counter() - started) / _TIMED
    sampling, steps = job.sampling, job.run.steps
    drawn = steps * sampling.batch * job.optimiser.accumulate
    pixels = int(data.counts.sum())
    weights = class_weights(job, data.counts)
    return {
        "name": job.name,
        "out": job.out,
        "scenes": {side.name: data.scenes[side] for side in Side},
        "labels": [
            {
                "data": t.data,
                "side": t.side.name,
                "scenes": t.scenes,
                "share": t.share,
                "pixels": t.pixels,
                "centres": t.centres,
            }
            for t in data.tallies
        ],
        "bands": list(data.bands),
        "data_type": data.dtype,
        "gsd": data.gsd,
        "mean": list(data.ranges.mean),
        "stddev": list(data.ranges.stddev),
        "class_weights": None if weights is None else dict(zip((c.name for c in job.classes), weights, strict=True)),
        "windows": {
            "size": sampling.size,
            "train": drawn,
            "passes": round(drawn * sampling.size**2 / max(pixels, 1), 1),
            "validation": data.validation.count,
            "test": data.test.count,
        },
        "steps": steps,
        "validations": -(-steps // job.run.epoch),
        "network": card.network,
        "parameters": sum(p.numel() for p in network.parameters()),
        "loss": " + ".join(f"{t.weight:g} {t.name}" for t in job.terms()),
        "device": device,
        "precision": precision,
        "batch_ms": round(1000 * each, 1),
    }
