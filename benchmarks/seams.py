"""Seams: tiled against whole-scene inference with a trained U-Net, on a scene that fits into memory.

Our tiles see reflected pixels where they reach past the scene. Such rows are compared with a whole-scene pass that sees
the same reflection, so that only the tiles differ, and in further columns with the pass over the scene alone, padded to
the network's multiple, with which the others are compared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers, reference
from benchmarks.harness import Row, note, report
from benchmarks.material import crop, fresh, made_up, read_mask, shared

NEAR = 16
"""Distance from a tile's edge that counts as near, px."""

RING = 8
"""Width of the outermost ring, px."""

SETTINGS: tuple[tuple[int, int] | None, ...] = (
    *((512, overlap) for overlap in (64, 96, 128, 192, 256)),
    *((768, overlap) for overlap in (128, 192)),
    *((1088, overlap) for overlap in (128, 192, 256)),
    None,
)
"""Tile and overlap; None is what `auto` chooses."""


def scenes(work: Path, size: int) -> list[Path]:
    """Return a square scene and one that fits no tile grid; of real imagery, what was not trained on."""
    folder = shared()
    odd = size * 3 // 4 - size // 56, size - size // 14
    if folder is not None and (folder / "banepa_oam").is_dir():
        source = folder / "banepa_oam" / "banepa_labelled_z19_512.tif"
    else:
        source = made_up(work, 2048)
    square = crop(source, work / f"{source.stem}_{size}.tif", 0, 0, size, size)
    return [square, crop(source, work / f"{source.stem}_{odd[1]}x{odd[0]}.tif", 0, 0, odd[1], odd[0])]


class Network:
    """The network of a bundle in this process, fp32 unless told otherwise."""

    def __init__(self, bundle: Path, threads: int, precision: str = "fp32") -> None:
        from geounet.models.bundle import load_bundle
        from geounet.models.predictor import Predictor

        self.folder, self.threads, self.precision = bundle, threads, precision
        loaded = load_bundle(str(bundle))
        self.card = loaded.card
        self.predictor = Predictor(loaded, precision=precision, tile=512, batch=1, threads=threads)

    def normalised(self, scene: Path) -> NDArray[np.float32]:
        """Return a scene as the network takes it, `(bands, rows, cols)`; all its pixels count as valid."""
        import rasterio

        from geounet.predict.source import normalise

        with rasterio.open(scene) as raster:
            values = raster.read().astype(np.float32)
        normalise(values, np.ones(values.shape[1:], bool), self.card.input)
        return np.asarray(values)

    def whole(self, values: NDArray[np.float32], reach: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the mask of one forward over the whole scene, reflected at the far sides up to `reach` rows, cols."""
        from geounet.grid.tiles import reflected

        rows, cols = values.shape[1:]
        padded = values[:, reflected(0, reach[0], rows)][:, :, reflected(0, reach[1], cols)]
        probabilities = self.predictor.probabilities(np.ascontiguousarray(padded)[None])[0]
        return self._mask(probabilities)[:rows, :cols]

    def tiled(self, scene: Path, out: Path, tiling: tuple[int, int] | None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Return the mask and the manifest of the whole pipeline, run in this process."""
        from geounet.batch.run import scene_runs
        from geounet.config.job import Job

        job = Job.model_validate(
            {
                "scenes": [str(scene)],
                "model": str(self.folder),
                "resample": "never",
                "tiling": {} if tiling is None else {"tile": tiling[0], "overlap": tiling[1]},
                "predict": {"device": "cpu", "precision": self.precision, "batch": 1},
                "outputs": {"folder": str(fresh(out))},
                "vector": "none",
                "cluster": {"threads": self.threads},
            }
        )
        (one,) = scene_runs(job)
        manifest = one.run()
        return read_mask(out / manifest["name"] / f"{manifest['name']}_mask.tif"), manifest

    def forward(self, tiles: Any) -> Any:
        """Return logits of normalised tiles, as the peers call a network."""
        import torch

        with torch.inference_mode():
            return self.predictor._members[0].network(tiles.contiguous(memory_format=torch.channels_last)).float()

    def _mask(self, scores: NDArray[Any]) -> NDArray[np.uint8]:
        if self.card.head == "softmax":
            return np.asarray(scores.argmax(axis=0), np.uint8)
        return np.asarray(scores[0] >= 0.5, np.uint8)


def compared(
    mask: NDArray[np.uint8], truth: NDArray[np.uint8], begins: tuple[Sequence[int], Sequence[int]], tile: int
) -> Row:
    """Return where a mask differs from that of the whole scene: all, near tile edges, elsewhere, on the outer ring."""
    wrong = mask != truth
    near = np.zeros(wrong.shape, bool)
    for axis, starts in enumerate(begins):
        size = wrong.shape[axis]
        edges = {e for start in starts for e in (start, start + tile) if 0 < e < size}
        position = np.arange(size) + 0.5
        close = np.zeros(size, bool)
        for edge in edges:
            close |= np.abs(position - edge) < NEAR
        near |= close[:, None] if axis == 0 else close[None, :]
    ring = np.ones(wrong.shape, bool)
    ring[RING:-RING, RING:-RING] = False

    def percent(where: NDArray[np.bool_]) -> float | None:
        return round(100 * float(wrong[where].mean()), 3) if where.any() else None

    beside, far = percent(near), percent(~near)
    return {
        "differs %": round(100 * float(wrong.mean()), 3),
        f"within {NEAR} px of tile edges %": beside,
        "elsewhere %": far,
        "ratio": round(beside / far, 2) if beside is not None and far else None,
        f"outer {RING} px %": percent(ring),
    }


def run(work: Path, out: Path | None, *, size: int = 2048, threads: int = 2, others: bool = True) -> dict[str, Any]:
    """Measure and report; `size` is the side of the scene, px."""
    network = Network(reference.model(work), threads)
    multiple = network.card.tile.multiple_of
    if others:
        reason = peers.install(work / "peers")
        if reason is None:
            sys.path.append(str(work / "peers"))
        else:
            note(f"peers cannot be installed: {reason}")
    tables: dict[str, list[Row]] = {}
    for scene in scenes(work, size):
        values = network.normalised(scene)
        shape = (values.shape[1], values.shape[2])
        note(f"{scene.stem}: the whole scene at once")
        truth = network.whole(values, (_up(shape[0], multiple), _up(shape[1], multiple)))
        rows: list[Row] = []
        for tiling in SETTINGS:
            note(f"{scene.stem}: {tiling or 'auto'}")
            mask, manifest = network.tiled(scene, work / "seams", tiling)
            rows.append(_own(network, values, mask, manifest["grid"], truth, tiling is None))
        for name, tile, overlap, scores in _others(network, values) if others else ():
            starts = tuple(peers.starts(s, tile, overlap) for s in shape)
            rows.append({"what": name, "tile/overlap": f"{tile}/{overlap}"}
                        | compared(network._mask(scores), truth, (starts[0], starts[1]), tile))  # fmt: skip
        shares = ", ".join(f"{100 * float((truth == c.code).mean()):.1f} % {c.name}" for c in network.card.classes)
        tables[f"{scene.stem}, {shape[1]} × {shape[0]} px ({shares}), fp32"] = rows
    return report("seams", tables, out, near_px=NEAR, ring_px=RING)


def _own(
    network: Network, values: NDArray[np.float32], mask: NDArray[np.uint8], grid: dict[str, Any],
    truth: NDArray[np.uint8], auto: bool,
) -> Row:  # fmt: skip
    from geounet.grid.tiles import count_tiles

    tile, overlap, stride = grid["tile"], grid["overlap"], grid["stride"]
    counts = [count_tiles(s, tile, overlap) for s in mask.shape]
    begins = tuple([k * stride for k in range(n)] for n in counts)
    row: Row = {"what": "geounet, auto" if auto else "geounet", "tile/overlap": f"{tile}/{overlap}"}
    reach = (counts[0] - 1) * stride + tile, (counts[1] - 1) * stride + tile
    # The same reflection past the far sides as the tiles see: what differs is due to the tiles alone.
    same = truth if reach == mask.shape else network.whole(values, reach)
    row |= compared(mask, same, (begins[0], begins[1]), tile)
    unpadded = compared(mask, truth, (begins[0], begins[1]), tile)
    row["differs from unpadded %"] = unpadded["differs %"]
    row[f"outer {RING} px from unpadded %"] = unpadded[f"outer {RING} px %"]
    row["inferred px per px"] = grid["inferred_per_pixel"]
    return row


def _others(network: Network, values: NDArray[np.float32]) -> list[tuple[str, int, int, NDArray[Any]]]:
    def read(y: int, x: int) -> Any:
        return np.ascontiguousarray(values[:, y : y + 512, x : x + 512])

    classes, shape = network.card.channels, (values.shape[1], values.shape[2])
    note("the others")
    found = [
        (name, 512, overlap, peers.hann_loop(read, network.forward, classes, shape, 512, overlap))
        for name, overlap in (("loop, Hann", 128), ("loop, no overlap", 0))
    ]
    for name, blend in (("MONAI, gaussian", peers.monai), ("terratorch", peers.terratorch)):
        try:
            found.append((name, 512, 128, blend(values, network.forward, 512, 128)))
        except ModuleNotFoundError as error:
            note(f"{name}: {error}")
    return found


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
