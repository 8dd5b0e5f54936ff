"""Every network of the table through the main job, and ensembles as one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from geounet.batch.plan import plan_job
from geounet.batch.run import scene_runs
from geounet.config.card import Card, TileSpec
from geounet.config.job import Job
from geounet.config.load import job_from_options
from geounet.engine.pool import InlinePool
from geounet.models.bundle import Bundle, save_bundle, save_ensemble
from geounet.models.network import build
from geounet.models.predictor import Predictor
from tests.support.local import card, write_scene
from tests.support.models import small_unet
from tests.unit.test_models_network import CASES

OWN: dict[str, dict[str, Any]] = {
    "Unet2015": {"width": 4, "depth": 3},
    "AttentionUnet": {"width": 4, "depth": 3},
    "ResUnet": {"width": 4, "depth": 2},
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture with a hole and odd sizes, larger than two tiles."""
    rng = np.random.default_rng(1)
    values = rng.integers(20, 250, (3, 18, 20)).repeat(8, axis=1).repeat(8, axis=2)[:, :141, :155].astype(np.uint8)
    values[:, 60:75, 20:33] = 0
    return write_scene(tmp_path_factory.mktemp("scenes") / "place.tif", values, nodata=0)


def bundle_of(folder: Path, made: Card, seed: int = 0) -> Bundle:
    """Save a random network that tells classes apart."""
    torch.manual_seed(seed)
    network = build(made).train()
    with torch.no_grad():
        for _ in range(3):  # statistics of normalisations as after training; random ones blow up deep networks
            network(torch.randn(2, 3, made.tile.size, made.tile.size))
        for parameter in network.segmentation_head.parameters():
            parameter *= 10  # random heads hardly tell classes apart
    return save_bundle(folder, made, network.state_dict())


def job_of(scene: Path, bundle: Bundle, out: Path, *settings: str) -> Job:
    fast = ("predict.device=cpu", "predict.precision=fp32", "vector=none", "outputs.probability=true")
    return job_from_options([str(scene)], str(bundle.folder), str(out), [*fast, *settings])


def run(scene: Path, bundle: Bundle, out: Path, *settings: str) -> tuple[np.ndarray, np.ndarray]:
    """Run one scene without a cluster; return mask `(rows, cols)` and probabilities `(classes, rows, cols)`."""
    (one,) = scene_runs(job_of(scene, bundle, out, *settings))
    one.pool = InlinePool()
    one.run()
    with rasterio.open(out / "place/place_mask.tif") as mask, rasterio.open(out / "place/place_prob.tif") as prob:
        return mask.read(1), prob.read()


@pytest.mark.parametrize("architecture", [*CASES, *OWN])
def test_every_network_runs(scene: Path, tmp_path: Path, architecture: str) -> None:
    encoder, arguments, size = CASES.get(architecture, ("", OWN.get(architecture, {}), 64))
    made = card(architecture=architecture, encoder=encoder, arguments=arguments, name="net",
                tile=TileSpec(size=size, overlap=size // 2, multiple_of=16))  # fmt: skip
    mask, prob = run(scene, bundle_of(tmp_path / "net", made), tmp_path / "out")
    hole = np.zeros(mask.shape, bool)
    hole[60:75, 20:33] = True
    np.testing.assert_array_equal(mask == 255, hole)
    sums = prob[:, ~hole].sum(axis=0, dtype=int)
    assert abs(sums - 254).max() <= 4  # each class is rounded by itself
    assert prob[:, ~hole].std(axis=1).max() > 0


def test_valid_convolutions_know_no_tiles(scene: Path, tmp_path: Path) -> None:
    """The margin is read from the scene: whatever the tiles, and without any overlap, the result is the same."""
    made = card(architecture="Unet2015", encoder="", name="net", tile=TileSpec(size=64, overlap=0, multiple_of=4),
                arguments={"width": 4, "depth": 2, "padding": "valid", "normalisation": "batch"})  # fmt: skip
    valid = bundle_of(tmp_path / "valid", made)
    fields = {"arguments": {**made.arguments, "padding": "same"}}
    same = bundle_of(tmp_path / "same", made.model_copy(update=fields))
    tilings = (("tiling.tile=64",), ("tiling.tile=160", "tiling.block=1"), ("tiling.tile=96", "tiling.overlap=32"))
    of: dict[str, list[np.ndarray]] = {}
    for name, bundle in (("valid", valid), ("same", same)):
        of[name] = [run(scene, bundle, tmp_path / f"{name}{k}", *t)[1].astype(int) for k, t in enumerate(tilings)]
    assert max(int(abs(of["valid"][0] - other).max()) for other in of["valid"][1:]) <= 1
    assert max(int(abs(of["same"][0] - other).max()) for other in of["same"][1:]) > 5

    free = {"tile": TileSpec(size=64, multiple_of=4)}
    overlaps = []
    for bundle in (valid, same):
        (bundle.folder / "model.json").write_text(bundle.card.model_copy(update=free).model_dump_json())
        (entry,) = plan_job(job_of(scene, bundle, tmp_path / "plan"), timing=False)
        overlaps.append(entry["grid"]["overlap"])
    assert overlaps[0] == 0 < overlaps[1], "auto"


def test_an_ensemble_runs_as_one_model(scene: Path, tmp_path: Path) -> None:
    """Its probabilities are the mean of its members', also where their normalisations differ."""
    first = small_unet(tmp_path / "fold_0", seed=0)
    second = small_unet(tmp_path / "fold_1", seed=1)
    given = second.card.input
    other = given.model_copy(
        update={
            "value_scaling": [s.model_copy(update={"mean": 90.0, "stddev": 70.0}) for s in given.value_scaling],
            "fill": 0.5,
        }
    )
    (second.folder / "model.json").write_text(second.card.model_copy(update={"input": other}).model_dump_json())
    both = save_ensemble(tmp_path / "both", [first.folder, second.folder])
    probabilities = {b.name: run(scene, Bundle(b, first.card, ""), tmp_path / f"of_{b.name}")[1].astype(int)
                     for b in (first.folder, second.folder, both.folder)}  # fmt: skip
    inside = probabilities["both"][0] != 255
    mean = (probabilities["fold_0"] + probabilities["fold_1"]) / 2
    assert abs(probabilities["both"] - mean)[:, inside].max() <= 1
    assert abs(probabilities["fold_0"] - probabilities["fold_1"])[:, inside].max() > 50

    (entry,) = plan_job(job_of(scene, both, tmp_path / "plan"), timing=False)
    assert (entry["networks"], entry["state"]) == (2, "planned")


def test_a_plan_counts_all_members(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a tile is measured with all members at work, and the memory holds the weights of all."""
    forwards: list[str] = []
    real = Predictor._symmetric

    def counting(self: Predictor, tiles: torch.Tensor, member: Any, n: int) -> torch.Tensor:
        forwards.append(self.name)
        return real(self, tiles, member, n)

    monkeypatch.setattr(Predictor, "_symmetric", counting)
    single = small_unet(tmp_path / "single")
    five = save_ensemble(tmp_path / "five", [single.folder] * 5)
    memory = []
    for bundle in (single, five):
        (entry,) = plan_job(job_of(scene, bundle, tmp_path / bundle.card.name, "tiling.tile=128"))
        assert entry["networks"] == len(bundle.parts)
        assert entry["seconds"] is not None
        memory.append(entry["memory_bytes"])
    assert forwards.count("five") == 5 * forwards.count("small") > 0
    assert memory[1] - memory[0] > 3 * single.size
