"""A trained network to measure with: a resnet18 U-Net that tells buildings from background, in minutes on two cores.

Trained from random weights on the southern half of the labelled drone imagery of Banepa where it lies beside the
checkout (what is measured on lies in the northern half), else on generated scenes. Its bundle stays in the work folder:
the labels' licence is not ours to pass on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Row, note, report
from benchmarks.material import GSD, SEED, card, shared

CROP = 256
NORTH = 2048
"""First row of the labelled window that is trained on."""


def model(work: Path, **how: Any) -> Path:
    """Return the bundle, trained at the first call."""
    folder = work / "model_reference"
    if not folder.exists():
        run(work, None, **how)
    return folder


def labelled_window(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return imagery `(3, rows, cols)` and building labels `(rows, cols)`, 0 or 1, of the labelled window of Banepa.

    All of it lies in the area where the footprints are complete (SOURCE.txt).
    """
    import geopandas
    import rasterio
    from rasterio.features import rasterize

    with rasterio.open(folder / "banepa_oam" / "banepa_labelled_z19_512.tif") as raster:
        values, transform, crs = raster.read(), raster.transform, raster.crs
    footprints = geopandas.read_file(folder / "banepa_oam" / "banepa_osm_buildings.geojson").to_crs(crs)
    labels = rasterize(footprints.geometry, out_shape=values.shape[1:], transform=transform, dtype="uint8")
    return values, labels


def material() -> tuple[str, float, list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], Any]:
    """Return where imagery is from, its ground sample distance, what is trained on, and what is held out."""
    folder = shared()
    if folder is not None and (folder / "banepa_oam").is_dir():
        values, labels = labelled_window(folder)
        south, north = slice(NORTH, None), slice(0, NORTH)
        pairs = [(values[:, south], labels[south])]
        return "Banepa (OpenAerialMap, labels OpenStreetMap)", 0.132, pairs, (values[:, north], labels[north])
    from geounet.testing.scenes import window
    from geounet.types import Rect

    pairs = []
    for seed in range(SEED, SEED + 5):
        picture, codes = window(seed, Rect(0, 0, 1024, 1024), gsd=GSD)
        pairs.append((picture, (codes == 1).astype(np.uint8)))
    return "generated scenes", GSD, pairs[:-1], pairs[-1]


def _batches(
    pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], batch: int, described: Any
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    rng = np.random.default_rng(SEED)
    scaling = described.input.value_scaling
    mean = np.array([s.mean for s in scaling], np.float32)[:, None, None]
    stddev = np.array([s.stddev for s in scaling], np.float32)[:, None, None]
    sizes = np.array([labels.size for _, labels in pairs], float)
    while True:
        tiles, truths = [], []
        for _ in range(batch):
            values, labels = pairs[int(rng.choice(len(pairs), p=sizes / sizes.sum()))]
            y, x = (int(rng.integers(0, size - CROP + 1)) for size in labels.shape)
            tile = values[:, y : y + CROP, x : x + CROP].astype(np.float32)
            truth = labels[y : y + CROP, x : x + CROP]
            turns = int(rng.integers(4))
            tile, truth = np.rot90(tile, turns, (1, 2)), np.rot90(truth, turns)
            if rng.random() < 0.5:
                tile, truth = tile[:, :, ::-1], truth[:, ::-1]
            gain, shift = rng.uniform(0.85, 1.15), rng.uniform(-15, 15)
            tiles.append((tile * np.float32(gain) + np.float32(shift) - mean) / stddev)
            truths.append(truth)
        yield np.stack(tiles).astype(np.float32), np.stack(truths).astype(np.int64)


def run(
    work: Path, out: Path | None, *, steps: int = 320, batch: int = 6, threads: int = 2, rate: float = 2e-3
) -> dict[str, Any]:  # fmt: skip
    """Train, save the bundle as `model_reference` in the work folder, and report how well it does on unseen ground."""
    import torch
    from torch.nn import functional

    from geounet.models.bundle import save_bundle
    from geounet.models.device import cpu_has_bf16
    from geounet.models.network import build

    torch.manual_seed(SEED)
    torch.set_num_threads(threads)
    source, gsd, pairs, held_out = material()
    described = card("reference", 2, gsd=gsd).model_copy(update={"training": {"data": source, "steps": steps}})
    network = build(described)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    bf16, started, batches = cpu_has_bf16(), time.monotonic(), _batches(pairs, batch, described)
    network.train()
    for step in range(steps):
        tiles, truths = (torch.from_numpy(a) for a in next(batches))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(tiles)
        logits = logits.float()
        share = logits.softmax(dim=1)[:, 1]
        dice = 1 - (2 * (share * truths).sum() + 1) / (share.sum() + truths.sum() + 1)
        loss = functional.cross_entropy(logits, truths) + dice
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            note(f"step {step + 1} of {steps}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s")
    minutes = (time.monotonic() - started) / 60
    save_bundle(work / "model_reference", described, network.state_dict(), overwrite=True)
    row: Row = {"trained on": source, "steps": steps, "minutes": round(minutes, 1), **_scores(work, held_out, threads)}
    return report("reference", {"The reference network": [row]}, out)


def _scores(work: Path, held_out: tuple[NDArray[np.uint8], NDArray[np.uint8]], threads: int) -> Row:
    """Return accuracy and building IoU, tile by tile, on what was not trained on."""
    from geounet.models.api import load_model

    values, labels = held_out
    mask = load_model(str(work / "model_reference")).predict(values[:, :1536, :1536])
    truth = labels[:1536, :1536]
    both, either = ((mask == 1) & (truth == 1)).sum(), ((mask == 1) | (truth == 1)).sum()
    return {"accuracy": round(float((mask == truth).mean()), 4), "building IoU": round(float(both / max(either, 1)), 4)}
