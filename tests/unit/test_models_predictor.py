"""Predictors: right, the same bits for any place in a batch, and loud when something is wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geounet.config.card import TileSpec
from geounet.errors import ModelError, ValuesError
from geounet.models import predictor as module
from geounet.models.bundle import Bundle, save_bundle
from geounet.models.device import cpu_has_bf16
from geounet.models.network import build, load
from geounet.models.predictor import STEPS, Predictor, get_predictor, is_out_of_memory
from geounet.models.prepare import prepare
from tests.support.local import card
from tests.support.models import small_unet

TILE = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_unet(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small networks are slower with more, and far slower beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no ceilings and predictors behind."""
    monkeypatch.setattr(module, "_ceilings", {})
    monkeypatch.setattr(module, "_predictors", type(module._predictors)())


def noise(n: int, bands: int = 3, side: int = TILE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, bands, side, side)).astype(np.float32)


def reference(bundle: Bundle, tiles: np.ndarray) -> np.ndarray:
    """Probabilities by the plain network, float64."""
    network = load(bundle).double()
    with torch.inference_mode():
        logits = network(torch.from_numpy(tiles).double())
    p = logits.sigmoid() if bundle.card.activation == "sigmoid" else logits.softmax(dim=1)
    return p.numpy()


def test_steps_hold_the_blend() -> None:
    from geounet.grid import weights

    assert weights.STEPS == STEPS == 254 * 128 <= np.iinfo(np.int16).max


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.2)])
def test_probabilities_are_those_of_the_plain_network(bundle: Bundle, precision: str, tolerance: float) -> None:
    tiles = noise(3)
    q = Predictor(bundle, precision=precision, tile=TILE, batch=2).quantised(tiles)
    assert q.dtype == np.int16
    assert q.shape == (3, 4, TILE, TILE)
    expected = reference(bundle, tiles)
    assert np.abs(q / STEPS - expected).max() < tolerance
    assert (q.argmax(axis=1) == expected.argmax(axis=1)).mean() > (0.999 if precision == "fp32" else 0.95)
    assert expected.std() > 0.05  # or the comparison above would mean little
    assert abs(q.sum(axis=1, dtype=np.int64) - STEPS).max() <= 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tta", ["none", "d4"])
def test_bits_do_not_depend_on_place_and_padding(bundle: Bundle, precision: str, tta: str) -> None:
    tiles = noise(4)
    predictor = Predictor(bundle, precision=precision, tta=tta, tile=TILE, batch=4)
    alone = np.concatenate([predictor.quantised(tiles[i : i + 1]) for i in range(4)])

    @settings(max_examples=8)
    @given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
    def check(order: list[int]) -> None:
        np.testing.assert_array_equal(predictor.quantised(tiles[order]), alone[order])

    check()
    assert predictor.batch == 4
    assert not predictor.halved


def test_augmentation_is_the_mean_over_the_symmetries(bundle: Bundle) -> None:
    tiles = noise(2, seed=3)
    plain = Predictor(bundle, tile=TILE)

    def through(turn: Any, back: Any) -> np.ndarray:
        return np.asarray(back(plain.probabilities(np.ascontiguousarray(turn(tiles)))))

    turned = [through(lambda a, k=k: np.rot90(a, k, (2, 3)), lambda a, k=k: np.rot90(a, -k, (2, 3))) for k in range(4)]
    flip = (lambda a: a[:, :, :, ::-1], lambda a: a[:, :, ::-1], lambda a: a[:, :, ::-1, ::-1])
    flipped = [through(f, f) for f in flip]
    transposed = [
        through(lambda a: a.transpose(0, 1, 3, 2), lambda a: a.transpose(0, 1, 3, 2)),
        through(
            lambda a: a[:, :, ::-1, ::-1].transpose(0, 1, 3, 2), lambda a: a.transpose(0, 1, 3, 2)[:, :, ::-1, ::-1]
        ),
    ]
    for tta, forwards in (
        ("flips", [turned[0], *flipped]),
        ("d4", [*turned, flipped[0], flipped[1], *transposed]),
    ):
        expected = np.mean(np.asarray(forwards, dtype=np.float64), axis=0)
        q = Predictor(bundle, tta=tta, tile=TILE).quantised(tiles)
        assert np.abs(q - expected * STEPS).max() < 1.0, tta
    assert np.abs(turned[0] - turned[1]).max() > 0.01  # the network tells directions apart


def test_augmented_results_turn_with_the_tile(bundle: Bundle) -> None:
    tiles = noise(1, seed=5)
    predictor = Predictor(bundle, tta="d4", tile=TILE)
    turned = predictor.quantised(np.ascontiguousarray(np.rot90(tiles, 1, (2, 3))))
    assert np.abs(turned - np.rot90(predictor.quantised(tiles), 1, (2, 3)).astype(int)).max() <= 1


@pytest.mark.parametrize(("channels", "bands"), [(1, 3), (3, 5)])
def test_sigmoid_heads_and_more_bands(tmp_path: Path, channels: int, bands: int) -> None:
    made = small_unet(tmp_path / "sigmoid", channels=channels, activation="sigmoid", bands=bands)
    tiles = noise(2, bands=bands)
    q = Predictor(made, tile=TILE).quantised(tiles)
    assert q.shape == (2, channels, TILE, TILE)
    assert np.abs(q / STEPS - reference(made, tiles)).max() < 1e-4
    assert 0 <= q.min() < q.max() <= STEPS


def test_an_own_activation_is_applied_once(tmp_path: Path) -> None:
    plain = small_unet(tmp_path / "plain")
    fields = {"output": "probabilities", "arguments": {**plain.card.arguments, "activation": "softmax2d"}}
    own = save_bundle(tmp_path / "own", plain.card.model_copy(update=fields), load(plain).state_dict())
    tiles = noise(1)
    np.testing.assert_array_equal(
        Predictor(own, tile=TILE).quantised(tiles), Predictor(plain, tile=TILE).quantised(tiles)
    )


def test_values_that_are_not_finite_are_an_error(bundle: Bundle) -> None:
    predictor = Predictor(bundle, tile=TILE)
    tiles = noise(1)
    tiles[0, 0, 5, 5] = np.nan
    with pytest.raises(ValuesError, match=r"small: the network returned NaN \(fp32\): the input is far outside"):
        predictor.quantised(tiles)
    tiles[0, 0, 5, 5] = 3e38
    with pytest.raises(ValuesError, match=r"returned (NaN|infinite values)"):
        predictor.quantised(tiles)


def test_a_network_that_answers_nothing_finite_is_no_fault_of_the_values(bundle: Bundle) -> None:
    class Damaged(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 4, TILE, TILE), torch.inf)

    predictor = Predictor(bundle, tile=TILE)
    replace_network(predictor, lambda _: Damaged())
    with pytest.raises(ModelError, match=r"the network returned infinite values \(fp32\); its weights are") as it:
        predictor.quantised(noise(1))
    assert not isinstance(it.value, ValuesError)


def test_a_network_that_returns_another_size_is_refused(tmp_path: Path) -> None:
    wrong = card(architecture="FPN", arguments={"upsampling": 2}, tile=TileSpec(size=TILE))
    made = save_bundle(tmp_path / "wrong", wrong, build(wrong).state_dict())
    with pytest.raises(ModelError, match=r"FPN returned \(1, 4, 32, 32\) for an input of \(1, 3, 64, 64\)"):
        Predictor(made, tile=TILE).quantised(noise(1))


def test_a_size_that_the_network_does_not_take_is_refused(tmp_path: Path) -> None:
    made = save_bundle(tmp_path / "pan", card(architecture="PAN"), build(card(architecture="PAN")).state_dict())
    with pytest.raises(ModelError, match=r"PAN with encoder resnet18 fails on 64 x 64 px .*too small"):
        Predictor(made, tile=TILE)
    assert Predictor(made, tile=128).quantised(noise(1, side=128)).shape == (1, 4, 128, 128)


def test_wrong_shapes_are_a_mistake_of_the_caller(bundle: Bundle) -> None:
    predictor = Predictor(bundle, tile=TILE)
    for shape in ((3, TILE, TILE), (1, 4, TILE, TILE), (1, 3, TILE, 2 * TILE)):
        with pytest.raises(ValueError, match="expected"):
            predictor.quantised(np.zeros(shape, dtype=np.float32))
    assert predictor.quantised(np.zeros((0, 3, TILE, TILE), dtype=np.float32)).shape == (0, 4, TILE, TILE)


@pytest.mark.parametrize("options", [{"tta": "all"}, {"precision": "int8"}, {"batch": 0}])
def test_options_are_checked(bundle: Bundle, options: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="expected"):
        Predictor(bundle, tile=TILE, **options)


def replace_network(predictor: Predictor, make: Any) -> Any:
    """Put what `make` makes of the predictor's network in its place, and return it."""
    (member,) = predictor._members
    made = make(member.network)
    predictor._members = [member._replace(network=made)]
    return made


class Hungry(torch.nn.Module):
    """A network that finds memory for so many tiles only."""

    def __init__(self, inner: torch.nn.Module, most: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.most, self.error = inner, most, error
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise self.error
        result: torch.Tensor = self.inner(x)
        return result


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
def test_batches_are_halved_once_and_for_all(bundle: Bundle, error: Exception) -> None:
    tiles = noise(7)
    expected = Predictor(bundle, tile=TILE).quantised(tiles)
    predictor = Predictor(bundle, tile=TILE, batch=4)
    hungry = replace_network(predictor, lambda network: Hungry(network, 1, error))
    np.testing.assert_array_equal(predictor.quantised(tiles), expected)
    assert hungry.seen == [4, 2] + [1] * 7
    assert predictor.batch == 1
    assert predictor.halved
    again = Predictor(bundle, tile=TILE, batch=4)
    assert (again.batch, again.halved) == (1, True)
    assert Predictor(bundle, tile=TILE, tta="d4", batch=4).batch == 4


class Crowded(torch.nn.Module):
    """A network that two threads enter at once with a full batch; there is no memory for one of them, or for both."""

    def __init__(self, inner: torch.nn.Module, predictor: Predictor, *, both: bool) -> None:
        super().__init__()
        self.inner, self.predictor, self.full, self.both = inner, predictor, predictor.batch, both
        self.meeting, self.lock, self.came = threading.Barrier(2, timeout=30), threading.Lock(), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == self.full:
            self.meeting.wait()
            with self.lock:
                self.came += 1
                first = self.came == 1
            if first or self.both:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            while self.predictor.batch == self.full:
                pass
        result: torch.Tensor = self.inner(x)
        return result


@pytest.mark.parametrize(("batch", "both"), [(4, False), (2, True), (4, True)])
def test_two_threads_halve_a_batch_once(bundle: Bundle, batch: int, both: bool) -> None:
    from concurrent.futures import ThreadPoolExecutor

    tiles = noise(batch)
    # On some processors the last bits depend on the size of the batch.
    expected = [Predictor(bundle, tile=TILE, batch=size).quantised(tiles) for size in (batch, batch // 2)]
    predictor = Predictor(bundle, tile=TILE, batch=batch)
    replace_network(predictor, lambda network: Crowded(network, predictor, both=both))
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(predictor.quantised, [tiles, tiles]):
            for tile, *possible in zip(found, *expected, strict=True):
                assert any(np.array_equal(tile, of_size) for of_size in possible)
    assert predictor.batch == batch // 2


def test_too_little_memory_for_one_tile_is_an_error(bundle: Bundle) -> None:
    predictor = Predictor(bundle, tile=TILE)
    replace_network(predictor, lambda network: Hungry(network, 0, MemoryError()))
    with pytest.raises(ModelError, match=r"too little memory on cpu for 64 x 64 px; use a smaller tile"):
        predictor.quantised(noise(1))


def test_other_failures_are_told_with_the_model(bundle: Bundle) -> None:
    predictor = Predictor(bundle, tile=TILE)
    replace_network(predictor, lambda network: Hungry(network, 0, RuntimeError("shapes do not match\nlong story")))
    with pytest.raises(ModelError, match=r"small: Unet with encoder .* \(cpu, fp32\): shapes do not match$"):
        predictor.quantised(noise(1))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_run_from_a_gpu_is_refused_without_one(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="cuda:0: a run keeps to the device that it began with"):
        get_predictor(str(bundle.folder), bundle.sha256, "cuda:0", "bf16", tile=TILE)


def test_predictors_are_shared_and_checked(bundle: Bundle, tmp_path: Path) -> None:
    arguments = (bundle.sha256, "cpu", "fp32", "none", TILE, 1)
    first = get_predictor(str(bundle.folder), *arguments, threads=None)
    assert get_predictor(str(bundle.folder), *arguments, threads=None) is first
    assert get_predictor(str(bundle.folder), *arguments, threads=1) is not first
    other = small_unet(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"another model \(sha256 .* than the run began with"):
        get_predictor(str(other.folder), *arguments)


def test_threads_are_used_in_every_thread(bundle: Bundle) -> None:
    from concurrent.futures import ThreadPoolExecutor

    predictor = Predictor(bundle, tile=TILE, threads=2)

    def work() -> int:
        torch.set_num_threads(1)
        predictor.quantised(noise(1))
        return torch.get_num_threads()

    with ThreadPoolExecutor(2) as pool:
        assert [pool.submit(work).result() for _ in range(4)] == [2] * 4
    torch.set_num_threads(1)


def test_narrow_weights_give_the_bits_of_autocast(bundle: Bundle) -> None:
    tiles = noise(1)
    # the layers that a predictor has in bfloat16 on this processor
    device = "cpu" if cpu_has_bf16() else "cuda"
    network = prepare(load(bundle), torch.float32, torch.from_numpy(tiles), device=device)
    x = torch.from_numpy(tiles).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(x)
        expected = (logits.float().softmax(dim=1) * STEPS).round().to(torch.int16).numpy()
    found = Predictor(bundle, precision="bf16", tile=TILE).quantised(tiles)
    np.testing.assert_array_equal(found, expected)
