"""Train the demo's model on generated scenes: `python -m geounet.training.demo --out geounet/models/bundled/demo`.

A small U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597) learns from scratch to label the pictures of
`geounet.testing.scenes`. The worlds of training and measurement differ in their seeds, hence in plan, season, light
and colours. The run is repeatable on one machine with one number of threads.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geounet.config.card import Card, ClassInfo, InputSpec, Kind, Scaling, TileSpec
from geounet.errors import OutputExistsError
from geounet.models.bundle import load_bundle, save_bundle
from geounet.models.memory import keep_freed_memory
from geounet.models.network import build, load
from geounet.testing.noise import stream
from geounet.testing.paint import BLOCK
from geounet.testing.scenes import CLASSES, window
from geounet.types import Rect

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

FIRST_UNSEEN = 10_000
"""Worlds with seeds from here on are never trained on."""

_MEAN, _STDDEV = (110.0, 108.0, 92.0), (42.0, 38.0, 38.0)
_COLOURS = ("#d9c9a3", "#d1495b", "#5b5f66", "#3f7d3a", "#3a7ca5")
_KINDS = (Kind.background, Kind.building, Kind.road, Kind.other, Kind.other)
_ABOUT = (
    "open ground: grass, crops, soil, yards",
    "roofs of all kinds",
    "carriageways and tracks, with the cars on them",
    "trees, bushes and hedges",
    "rivers, ponds, pools",
)


@dataclass(frozen=True)
class Plan:
    """What is trained, and how."""

    seed: int = 1
    worlds: int = 64
    blocks: int = 4  # per world, 512 px each
    steps: int = 560
    batch: int = 8
    tile: int = 256
    rate: float = 3e-3
    decay: float = 1e-2
    smoothing: float = 0.02
    weighting: float = 0.0  # classes weigh share ** -weighting in the cross-entropy: rare ones are found, then overdone
    start: Path | None = None  # a bundle of an earlier round; None: random weights
    threads: int = 2
    bf16: bool = True


def card() -> Card:
    """Return the card of the demo's model, without metrics."""
    return Card(
        name="demo",
        description="Small U-Net for the generated scenes of geounet.testing; it knows no real imagery.",
        architecture="Unet",
        encoder="tu-resnet10t",
        arguments={"encoder_depth": 4, "decoder_channels": [64, 48, 32, 16]},
        input=InputSpec(
            bands=["red", "green", "blue"],
            data_type="uint8",
            value_scaling=[Scaling(mean=m, stddev=s) for m, s in zip(_MEAN, _STDDEV, strict=True)],
        ),
        gsd=0.3,
        classes=[
            ClassInfo(name=n, code=k, colour=c, kind=kind, description=about)
            for k, (n, c, kind, about) in enumerate(zip(CLASSES, _COLOURS, _KINDS, _ABOUT, strict=True))
        ],
        tile=TileSpec(size=512, overlap=64, multiple_of=16),
        licence="MIT",
    )


def samples(seeds: Sequence[int], blocks: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return pictures (n, 3, 512, 512) and labels (n, 512, 512), `blocks` from each world.

    Blocks of a world are neighbours, about a hashed place: they share the work of laying it out.
    """
    pictures, labels = [], []
    for seed in seeds:
        rng = stream(seed, 200)
        row, col = (int(v) for v in rng.integers(-40, 40, 2))
        for k in range(blocks):
            y, x = (row + k // 2) * BLOCK, (col + k % 2) * BLOCK
            picture, label = window(seed, Rect(y, x, y + BLOCK, x + BLOCK))
            pictures.append(picture)
            labels.append(label)
    return np.stack(pictures), np.stack(labels)


def normalised(pictures: NDArray[Any]) -> NDArray[np.float32]:
    """Return pictures (n, 3, rows, cols) as the network takes them."""
    mean, stddev = (np.asarray(v, dtype=np.float32)[:, None, None] for v in (_MEAN, _STDDEV))
    out: NDArray[np.float32] = (pictures.astype(np.float32) - mean) / stddev
    return out


def confusion(
    network: torch.nn.Module, pictures: NDArray[np.uint8], labels: NDArray[np.uint8], *, bf16: bool = False
) -> NDArray[np.int64]:
    """Return the (truth, prediction) counts of classes."""
    import torch

    n = len(CLASSES)
    counts = np.zeros((n, n), dtype=np.int64)
    network.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for k in range(0, len(pictures), 4):
            batch = torch.from_numpy(normalised(pictures[k : k + 4])).to(memory_format=torch.channels_last)
            found = network(batch).argmax(dim=1).numpy()
            pairs = labels[k : k + 4].astype(np.int64) * n + found
            counts += np.bincount(pairs.ravel(), minlength=n * n).reshape(n, n)
    return counts


def scores(counts: NDArray[np.int64]) -> dict[str, Any]:
    """Return mIoU, accuracy and the IoU of each class, rounded to four places."""
    union = counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    iou = np.diag(counts) / np.maximum(union, 1)
    return {
        "miou": round(float(iou.mean()), 4),
        "accuracy": round(float(np.trace(counts) / counts.sum()), 4),
        "iou": {name: round(float(v), 4) for name, v in zip(CLASSES, iou, strict=True)},
    }


def _loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return cross-entropy plus soft Dice over the batch (Milletari et al. 2016, https://arxiv.org/abs/1606.04797)."""
    import torch
    from torch.nn import functional

    logits = logits.float()
    entropy = functional.cross_entropy(logits, target, weight=weight, label_smoothing=smoothing)
    share = logits.softmax(dim=1)
    truth = functional.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).to(share.dtype)
    both = (share * truth).sum(dim=(0, 2, 3))
    either = (share + truth).sum(dim=(0, 2, 3))
    dice = 1 - (2 * both + 1) / (either + 1)
    return entropy + torch.mean(dice)


def _batch(
    pictures: NDArray[np.uint8], labels: NDArray[np.uint8], plan: Plan, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cut random tiles, flip and turn them, and change their brightness, contrast and colour a little."""
    tiles, truths = [], []
    for _ in range(plan.batch):
        k = int(rng.integers(len(pictures)))
        y, x = (int(v) for v in rng.integers(0, BLOCK - plan.tile + 1, 2))
        picture = pictures[k, :, y : y + plan.tile, x : x + plan.tile].astype(np.float32)
        truth = labels[k, y : y + plan.tile, x : x + plan.tile]
        turns = int(rng.integers(4))
        picture, truth = np.rot90(picture, turns, axes=(1, 2)), np.rot90(truth, turns)
        if rng.random() < 0.5:
            picture, truth = picture[:, :, ::-1], truth[:, ::-1]
        gain = rng.uniform(0.9, 1.1) * rng.uniform(0.97, 1.03, (3, 1, 1)).astype(np.float32)
        tiles.append((picture - 100) * np.float32(rng.uniform(0.9, 1.1)) + 100 * gain)
        truths.append(truth)
    return normalised(np.stack(tiles)), np.stack(truths).astype(np.int64)


def train(plan: Plan, out: Path, *, overwrite: bool = False, unseen: int = 16) -> dict[str, Any]:
    """Train, measure on `unseen` worlds that are not trained on, and write the bundle; return its metrics.

    Raises
    ------
    OutputExistsError
        If the bundle exists and `overwrite` is false.
    """
    import torch

    if out.exists() and not overwrite:  # said before the work, not after
        raise OutputExistsError(f"{out}: exists already; choose another folder or ask to overwrite it")
    started = time.monotonic()
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    seeds = range(plan.seed * 1000, plan.seed * 1000 + plan.worlds)
    if seeds.stop > FIRST_UNSEEN:
        raise ValueError(f"worlds {seeds.start} to {seeds.stop - 1} reach into the unseen ones from {FIRST_UNSEEN}")
    pictures, labels = samples(seeds, plan.blocks)
    share = np.maximum(np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size, 1e-3)
    logger.info("%d blocks in %.0f s, classes %s", len(pictures), time.monotonic() - started, np.round(share, 3))
    model_card = card()
    rounds: list[Any] = []
    if plan.start is None:
        network = build(model_card)
    else:
        earlier = load_bundle(plan.start)
        network, rounds = load(earlier).requires_grad_(True), list(earlier.card.training.get("rounds", []))
    network = network.to(memory_format=torch.channels_last)
    weight = torch.tensor(share**-plan.weighting / (share**-plan.weighting).mean(), dtype=torch.float32).clamp(0.4, 2.5)
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=plan.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.rate, total_steps=plan.steps, pct_start=0.2)
    rng = stream(plan.seed, 201)
    recent: list[float] = []
    network.train()
    for step in range(plan.steps):
        tiles, truths = _batch(pictures, labels, plan, rng)
        batch = torch.from_numpy(tiles).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.bf16):
            logits = network(batch)
        loss = _loss(logits, torch.from_numpy(truths), weight, plan.smoothing)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        recent.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            mean, seconds = np.mean(recent[-50:]), time.monotonic() - started
            logger.info("step %d of %d: loss %.3f, %.0f s", step + 1, plan.steps, mean, seconds)
    minutes = (time.monotonic() - started) / 60

    # measured as it is stored: read back from half precision
    this_round = {
        "command": (
            f"python -m geounet.training.demo --seed {plan.seed} --steps {plan.steps} --worlds {plan.worlds} "
            f"--rate {plan.rate} --weighting {plan.weighting}" + (" --start EARLIER" if rounds else "")
        ),
        "seed": plan.seed,
        "worlds": f"seeds {seeds.start} to {seeds.stop - 1}, {plan.blocks} blocks of {BLOCK} px each",
        "steps": plan.steps,
    }
    training = {
        "data": "generated by geounet.testing.scenes; no imagery of others",
        "initialisation": "random",
        "rounds": [*rounds, this_round],
        "batch": plan.batch,
        "tile": plan.tile,
        "optimiser": f"AdamW, one cycle, weight decay {plan.decay}",
        "loss": "cross-entropy + Dice",
        "precision": "bf16" if plan.bf16 else "fp32",
    }
    model_card = model_card.model_copy(update={"training": training})
    save_bundle(out, model_card, network.state_dict(), half=True, overwrite=overwrite)
    network = load(load_bundle(Path(out))).to(memory_format=torch.channels_last)
    others = range(FIRST_UNSEEN, FIRST_UNSEEN + unseen)
    pictures, labels = samples(others, 4)
    metrics: dict[str, Any] = {"scenes": f"worlds {others.start} to {others.stop - 1}, 4 blocks of {BLOCK} px each"}
    metrics |= scores(confusion(network, pictures, labels))
    metrics["miou_bf16"] = scores(confusion(network, pictures, labels, bf16=True))["miou"]
    save_bundle(
        out, model_card.model_copy(update={"metrics": metrics}), network.state_dict(), half=True, overwrite=True
    )
    logger.info("trained in %.1f min; unseen worlds: %s", minutes, metrics)
    return metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of this module."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--seed", type=int, default=plan.seed, help="of worlds, weights and batches (1 to 9)")
    parser.add_argument("--steps", type=int, default=plan.steps)
    parser.add_argument("--worlds", type=int, default=plan.worlds)
    parser.add_argument("--rate", type=float, default=plan.rate, help="highest learning rate")
    parser.add_argument("--weighting", type=float, default=plan.weighting, help="0 to 1, how much rare classes weigh")
    parser.add_argument("--start", type=Path, help="bundle of an earlier round to go on from")
    parser.add_argument("--threads", type=int, default=plan.threads)
    parser.add_argument("--overwrite", action="store_true")
    given = parser.parse_args(arguments)
    # threads that wait by spinning take the processor from those they wait for, where others use it too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plan = Plan(
        seed=given.seed, steps=given.steps, worlds=given.worlds, rate=given.rate, threads=given.threads,
        weighting=given.weighting, start=given.start,
    )  # fmt: skip
    train(plan, given.out, overwrite=given.overwrite)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
