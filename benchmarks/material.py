"""What is measured: scenes, models with random weights, real imagery where it lies beside the checkout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import ROOT, note

GSD = 0.3
"""Ground sample distance of scenes that are made up, metres."""

SEED = 11

TINY: dict[str, Any] = {
    "encoder": "tu-mobilenetv3_small_050",
    "arguments": {"encoder_depth": 3, "decoder_channels": [24, 16, 8]},
}
"""A network that is many times faster than a resnet18 U-Net, where its speed and results do not matter."""

_NAMES = ("land", "building", "road", "vegetation")


def shared() -> Path | None:
    """Return the folder with real imagery beside the checkout, or None."""
    folder = ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


def made_up(work: Path, size: int) -> Path:
    """Return a scene of `size` × `size` px, uint8 RGB without nodata, made on the first call.

    Scenes over 4096 px repeat one of 2048 px: their content is the same at every size, and they are made in seconds.
    """
    path = work / f"scene_{size}.tif"
    if path.exists():
        return path
    from geounet.testing.scenes import generate

    note(f"making {path.name}")
    if size <= 4096:
        generate(path, width=size, height=size, seed=SEED, gsd=GSD, nodata_wedge=False)
    else:
        _repeat(made_up(work, 2048), path, size)
    return path


def _repeat(source: Path, dest: Path, size: int) -> None:
    import rasterio
    from rasterio.windows import Window

    from geounet.atomic import atomic

    with rasterio.open(source) as raster:
        values, profile = raster.read(), raster.profile
    side = values.shape[1]
    profile.update(width=size, height=size, compress="deflate", zlevel=1, BIGTIFF="IF_SAFER")
    with atomic(dest) as temporary, rasterio.open(temporary, "w", **profile) as raster:
        for y in range(0, size, side):
            for x in range(0, size, side):
                rows, cols = min(side, size - y), min(side, size - x)
                raster.write(values[:, :rows, :cols], window=Window(x, y, cols, rows))


def crop(source: Path, dest: Path, x: int, y: int, cols: int, rows: int) -> Path:
    """Write a window of a raster as a lossless GeoTIFF, once, and return it."""
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    from geounet.atomic import atomic

    if dest.exists():
        return dest
    window = Window(x, y, cols, rows)
    with rasterio.open(source) as raster:
        values = raster.read(window=window)
        a, b, c, d, e, f = tuple(raster.transform)[:6]
        transform = Affine(a, b, c + a * x + b * y, d, e, f + d * x + e * y)
        crs = raster.crs
    with (
        atomic(dest) as temporary,
        rasterio.open(
            temporary, "w", driver="GTiff", width=cols, height=rows, count=values.shape[0], dtype=values.dtype,
            crs=crs, transform=transform, tiled=True, blockxsize=512, blockysize=512, compress="deflate",
        ) as raster,
    ):  # fmt: skip
        raster.write(values)
    return dest


def card(name: str, classes: int, *, tile: int = 512, gsd: float | None = None, **network: Any) -> Any:
    """Return the card of a U-Net for uint8 RGB imagery."""
    from geounet.config.card import PALETTE, Card, ClassInfo, InputSpec, Kind, Scaling, TileSpec

    kinds = [Kind.background, Kind.building, Kind.road, *[Kind.other] * classes]
    return Card(
        name=name,
        architecture="Unet",
        **{"encoder": "resnet18", **network},
        input=InputSpec(
            bands=["red", "green", "blue"],
            data_type="uint8",
            value_scaling=[Scaling(mean=m, stddev=s) for m, s in ((124, 58), (116, 57), (104, 57))],
        ),
        gsd=gsd,
        classes=[ClassInfo(name=_NAMES[k], code=k, colour=PALETTE[k], kind=kinds[k]) for k in range(classes)],
        tile=TileSpec(size=tile),
    )


def random_model(work: Path, kind: str = "resnet18") -> Path:
    """Return a bundle with random weights, 4 classes: `resnet18`, or `tiny`, which is fast."""
    import torch

    from geounet.models.bundle import save_bundle
    from geounet.models.network import build

    folder = work / f"model_{kind}"
    if folder.exists():
        return folder
    described = card(f"random-{kind}", 4, gsd=GSD, **(TINY if kind == "tiny" else {}))
    torch.manual_seed(SEED)
    made = build(described)
    for name, parameter in made.named_parameters():
        if name.startswith("segmentation_head"):
            parameter.data *= 20  # random heads hardly tell classes apart; louder ones do
    save_bundle(folder, described, made.state_dict())
    return folder


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Return the first band of a raster."""
    import rasterio

    with rasterio.open(path) as raster:
        band: NDArray[np.uint8] = raster.read(1)
    return band


def fresh(folder: Path) -> Path:
    """Return a folder that does not exist: what was there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder
