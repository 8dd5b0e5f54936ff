"""A network of 1×1 convolutions in place of a bundle's: the whole job without torch, hence exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from geounet.config.card import PALETTE, Card, ClassInfo, InputSpec, Kind, Scaling, TileSpec
from geounet.config.job import Job
from geounet.engine.ledger import Ledger
from geounet.engine.pool import InlinePool
from geounet.engine.scene import SceneRun
from geounet.grid.weights import STEPS
from geounet.models.bundle import Bundle
from geounet.predict.recipe import Recipe
from geounet.predict.stitch import stitch
from geounet.raster.scene import SceneSpec, describe

TILE, OVERLAP = 32, 8


def card(*, channels: int = 4, bands: int = 3, activation: str = "softmax", **more: Any) -> Card:
    kinds = [Kind.background, Kind.building, Kind.road, Kind.other, Kind.other]
    names = ["land", "building", "road", "vegetation", "water"]
    classes = [
        ClassInfo(name=names[i], code=i + (activation == "sigmoid"), colour=PALETTE[i], kind=kinds[i])
        for i in range(channels)
    ]
    fields: dict[str, Any] = {
        "name": "local",
        "architecture": "Unet",
        "encoder": "resnet18",
        "activation": activation,
        "classes": classes,
        "input": InputSpec(
            bands=["red", "green", "blue", "nir", "extra"][:bands],
            data_type="any",
            value_scaling=[Scaling(mean=100, stddev=50)] * bands,
        ),
        "tile": TileSpec(size=32, overlap=8, multiple_of=4),
    }
    return Card(**{**fields, **more})


class LocalNetwork:
    """Looks at one pixel at a time: `p = softmax(W x + b)` or sigmoid, in float64, quantised as a predictor does."""

    halved = False

    def __init__(self, of: Card, seed: int = 0, batch: int = 2) -> None:
        rng = np.random.default_rng(seed)
        self.card, self.batch = of, batch
        self.weights = rng.normal(size=(of.channels, len(of.input.bands)))
        self.bias = rng.normal(size=of.channels)
        self.tiles = 0

    def probabilities(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return `(channels, rows, cols)` of normalised `(bands, rows, cols)`."""
        logits = np.tensordot(self.weights, x.astype(np.float64), 1) + self.bias[:, None, None]
        if self.card.activation == "sigmoid":
            return 1 / (1 + np.exp(-logits))
        logits -= logits.max(axis=0)
        return np.exp(logits) / np.exp(logits).sum(axis=0)

    def quantised(self, tiles: NDArray[np.float32]) -> NDArray[np.int16]:
        assert tiles.ndim == 4
        assert len(tiles) <= self.batch
        assert np.isfinite(tiles).all()
        self.tiles += len(tiles)
        return np.stack([np.rint(self.probabilities(t) * STEPS).astype(np.int16) for t in tiles])


NORTH_UP = rasterio.Affine(0.3, 0, 500000, 0, -0.3, 5000000)


def write_scene(
    path: Path,
    values: NDArray[Any],
    *,
    nodata: float | None = None,
    crs: str | None = "EPSG:32633",
    transform: rasterio.Affine = NORTH_UP,
    **options: Any,
) -> Path:
    """Write `(bands, rows, cols)` as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "count": values.shape[0],
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype.name,
        "nodata": nodata,
        "crs": crs,
        "transform": transform,
        **options,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)
    return path


def use_network(monkeypatch: pytest.MonkeyPatch, network: LocalNetwork, folder: Path) -> None:
    """Make the job use a local network in place of the bundle's."""
    bundle = Bundle(folder, network.card, "0" * 64)
    for module in ("infer", "seal", "regrid", "stitch"):
        monkeypatch.setattr(f"geounet.predict.{module}.load_bundle", lambda _: bundle)
    monkeypatch.setattr("geounet.predict.infer.predictor_of", lambda *_: network)


def run_local(
    tmp_path: Path,
    network: LocalNetwork,
    scene: Path,
    *,
    side: int = 1,
    overlap: int = OVERLAP,
    shuffle: int | None = None,
    model_shape: tuple[int, int] | None = None,
    name: str = "run",
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], dict[str, Any]]:
    """Run the raster stages; return mask `(bands, rows, cols)`, probability `(channels, rows, cols)` and receipts."""
    spec = SceneSpec(name="scene", files=(str(scene),))
    info = describe(spec)
    folder = tmp_path / name
    shape = info.height, info.width
    recipe = Recipe(
        scene=spec,
        fingerprint="f" * 64,
        model="local",
        model_sha256="0" * 64,
        scene_shape=shape,
        model_shape=model_shape or shape,
        tile=TILE,
        overlap=overlap,
        side=side,
        device="cpu",
        precision="fp32",
        batch=network.batch,
        tta="none",
        threads=1,
        keep_probability=True,
        folder=str(folder),
    )
    job = Job(scenes=[str(scene)], model="local")
    run = SceneRun(InlinePool(shuffle), job, spec, Bundle(tmp_path, network.card, "0" * 64), folder, folder, None)
    ledger = Ledger(folder, "scene", "f" * 64)
    ledger.folder = folder
    infer, _seal, failed = run._blocks(recipe, ledger)
    assert not failed
    if recipe.resampled:
        run._regrid(recipe, ledger, ())
    stitch(recipe, info, (), str(folder / "final"), True, {})
    with (
        rasterio.open(folder / "final" / "scene_mask.tif") as mask,
        rasterio.open(folder / "final" / "scene_prob.tif") as prob,
    ):
        return mask.read(), prob.read(), infer
