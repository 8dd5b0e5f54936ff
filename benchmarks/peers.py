"""Other programs doing the same: a scene in, a mask GeoTIFF out, one process each.

`python -m benchmarks.peers KIND SCENE MODEL OUT …` runs one; `install` puts them into a folder of their own, which goes
on the module path of that process only. They get what a user would write: the network as its library builds it, the
scene read once, logits or probabilities blended in memory, the mask written compressed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import note

PINS = Path(__file__).with_name("peers.txt")
KINDS = ("loop", "monai", "terratorch")


def install(folder: Path) -> str | None:
    """Install the peers into a folder, unless they are there; return the reason if that fails, else None."""
    stamp = folder / "installed.txt"
    pins = PINS.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == pins:
        return None
    note(f"installing the peers into {folder}")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-input"]
    done = subprocess.run(
        [*command, "--no-deps", "--only-binary", ":all:", "--upgrade", "--target", str(folder), "-r", str(PINS)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"pip ended with {done.returncode}"
    stamp.write_text(pins, encoding="utf-8")
    return None


def network(model: Path) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return the network as its library builds it, means and deviations `(bands, 1, 1)`, and the card as it stands."""
    import segmentation_models_pytorch as smp
    from safetensors.torch import load_file

    card = json.loads((model / "model.json").read_text(encoding="utf-8"))
    build = getattr(smp, card["architecture"])
    made = build(
        encoder_name=card["encoder"], encoder_weights=None, in_channels=len(card["input"]["bands"]),
        classes=len(card["classes"]), **card["arguments"],
    )  # fmt: skip
    made.load_state_dict(load_file(model / "model.safetensors"))
    scaling = card["input"]["value_scaling"]
    mean, stddev = (np.array([s[key] for s in scaling], np.float32)[:, None, None] for key in ("mean", "stddev"))
    return made.eval(), mean, stddev, card


def predictor(made: Any, precision: str) -> Callable[[Any], Any]:
    """Return a function from normalised tiles to logits in float32."""
    import torch

    def forward(tiles: Any) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return made(tiles).float()

    return forward


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin along an axis; the last is shifted back into the scene."""
    return sorted({min(start, size - tile) for start in range(0, max(size - overlap, 1), tile - overlap)})


def hann_loop(
    read: Callable[[int, int], Any], forward: Callable[[Any], Any], classes: int, shape: tuple[int, int],
    tile: int, overlap: int, *, channels_last: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return the blended probabilities `(classes, rows, cols)` of a plain window loop; `read(y, x)` gives a tile."""
    import torch

    axis = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    window = torch.from_numpy(np.outer(axis, axis).astype(np.float32)) + 1e-6
    sums, weights = torch.zeros((classes, *shape)), torch.zeros(shape)
    for y in starts(shape[0], tile, overlap):
        for x in starts(shape[1], tile, overlap):
            given = torch.from_numpy(read(y, x))[None]
            if channels_last:
                given = given.contiguous(memory_format=torch.channels_last)
            probabilities = forward(given)[0].softmax(dim=0)
            sums[:, y : y + tile, x : x + tile] += probabilities * window
            weights[y : y + tile, x : x + tile] += window
    return (sums / weights).numpy()


def monai(values: np.ndarray, forward: Callable[[Any], Any], tile: int, overlap: int) -> np.ndarray:
    """Return the logits blended by MONAI's SlidingWindowInferer, gaussian."""
    import torch
    from monai.inferers import SlidingWindowInferer  # type: ignore[import-not-found, unused-ignore]

    inferer = SlidingWindowInferer(roi_size=(tile, tile), sw_batch_size=1, overlap=overlap / tile, mode="gaussian")
    with torch.inference_mode():
        return np.asarray(inferer(torch.from_numpy(values)[None], forward)[0].numpy())


def terratorch(values: np.ndarray, forward: Callable[[Any], Any], tile: int, overlap: int) -> np.ndarray:
    """Return the logits blended by terratorch's tiled_inference."""
    import torch

    infer = _tiled_inference()
    return np.asarray(
        infer(forward, torch.from_numpy(values)[None], crop=tile, stride=tile - overlap, delta=8, batch_size=1)[0]
        .numpy()
    )  # fmt: skip


def _tiled_inference() -> Callable[..., Any]:
    # Its package needs lightning, torchgeo and more; this module imports one function of them and never calls it.
    for entry in sys.path:
        path = Path(entry) / "terratorch" / "tasks" / "tiled_inference.py"
        if path.exists():
            break
    else:
        raise ModuleNotFoundError("terratorch is not installed: python -m benchmarks peers", name="terratorch")
    for name in ("terratorch", "terratorch.models", "terratorch.models.utils"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["terratorch.models.utils"].pad_images = None  # type: ignore[attr-defined]
    loader = SourceFileLoader("terratorch.tasks.tiled_inference", str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    infer: Callable[..., Any] = module.tiled_inference
    return infer


def run(
    kind: str, scene: Path, model: Path, out: Path, *, precision: str, tile: int, overlap: int, threads: int,
    channels_last: bool,
) -> None:  # fmt: skip
    """Segment a scene with one of `KINDS` and write the mask."""
    import rasterio
    import torch
    from rasterio.windows import Window

    torch.set_num_threads(threads)
    made, mean, stddev, card = network(model)
    if channels_last:
        made = made.to(memory_format=torch.channels_last)
    forward = predictor(made, precision)
    with rasterio.open(scene) as raster:
        profile = raster.profile
        if kind == "loop":

            def read(y: int, x: int) -> np.ndarray:
                values = raster.read(window=Window(x, y, tile, tile))
                return np.asarray((values.astype(np.float32) - mean) / stddev)

            scores = hann_loop(
                read, forward, len(card["classes"]), raster.shape, tile, overlap, channels_last=channels_last
            )
        else:
            values = (raster.read().astype(np.float32) - mean) / stddev
            scores = {"monai": monai, "terratorch": terratorch}[kind](values, forward, tile, overlap)
    profile.update(count=1, dtype="uint8", nodata=255, compress="deflate", photometric=None, driver="GTiff")
    profile = {key: value for key, value in profile.items() if value is not None}
    with rasterio.open(out, "w", **profile) as raster:
        raster.write(scores.argmax(axis=0).astype(np.uint8), 1)


def export_onnx(model: Path, dest: Path, tile: int, overlap: int, gsd: float) -> Path:
    """Write a bundle as the ONNX file that GeoDeep takes: 0..1 in, probabilities out, its settings as metadata."""
    import onnx  # type: ignore[import-not-found, unused-ignore]
    import torch

    made, mean, stddev, card = network(model)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = made
            self.register_buffer("mean", torch.from_numpy(mean))
            self.register_buffer("stddev", torch.from_numpy(stddev))

        def forward(self, x: Any) -> Any:
            return self.network((x * 255 - self.mean) / self.stddev).softmax(dim=1)

    example = torch.zeros((1, len(card["input"]["bands"]), tile, tile))
    program = torch.onnx.export(Whole().eval(), (example,), dynamo=True, input_names=["input"], verbose=False)
    assert program is not None
    program.save(dest, external_data=False)
    written = onnx.load(dest)
    settings = {
        "model_type": "Segmentor", "resolution": gsd * 100, "tiles_overlap": 100 * overlap / tile, "seg_thresh": 0,
        "seg_small_segment": 0, "class_names": {str(c["code"]): c["name"] for c in card["classes"]},
    }  # fmt: skip
    for key, value in settings.items():
        entry = written.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.save(written, dest)
    return dest


def has(name: str, folder: Path) -> bool:
    """Return whether a module is in the peers' folder or in this environment."""
    return (folder / name).is_dir() or find_spec(name) is not None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=[*KINDS, "onnx"])
    parser.add_argument("scene", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--channels-last", action="store_true")
    given = parser.parse_args(arguments)
    if given.kind == "onnx":
        import rasterio

        with rasterio.open(given.scene) as raster:
            gsd = abs(raster.transform.a)
        export_onnx(given.model, given.out, given.tile, given.overlap, gsd)
        return
    run(
        given.kind, given.scene, given.model, given.out, precision=given.precision, tile=given.tile,
        overlap=given.overlap, threads=given.threads, channels_last=given.channels_last,
    )  # fmt: skip


if __name__ == "__main__":
    main()
