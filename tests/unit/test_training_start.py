"""Where weights come from: files of several libraries, other bundles, other numbers of bands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

from geounet.config.card import TileSpec
from geounet.config.data import Sampling
from geounet.config.train import TrainJob
from geounet.errors import JobError, ModelError
from geounet.models.bundle import save_ensemble
from geounet.models.network import build, load
from geounet.training import about
from geounet.training import start as module
from geounet.training.start import check_start, fitted, start, try_out
from tests.support.local import card
from tests.support.models import small_unet

RESNET = card(encoder="resnet18", arguments={"decoder_channels": [16, 16, 8, 8, 8]})
TIMM = card(encoder="tu-resnet10t", arguments={"encoder_depth": 4, "decoder_channels": [16, 16, 8, 8]})


def job(**model: Any) -> TrainJob:
    return TrainJob.model_validate(
        {"classes": ["land", "road"], "data": [{"generated": {"seeds": [0, 1]}}], "model": model}
    )


def test_the_seed_decides() -> None:
    first, _ = start(job(), TIMM)
    second, said = start(job(), TIMM)
    assert said == "random"
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def save(path: Path, state: dict[str, torch.Tensor], prefix: str = "") -> str:
    tensors = {prefix + k: v.clone().contiguous() for k, v in state.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


def timm_resnet() -> dict[str, torch.Tensor]:
    return dict(timm.create_model("resnet10t", pretrained=False).state_dict())


@pytest.mark.parametrize(
    ("of", "state", "prefix", "name"),
    [
        (RESNET, lambda: smp.encoders.get_encoder("resnet18", weights=None).state_dict(), "", "weights.pt"),
        (RESNET, lambda: timm.create_model("resnet18").state_dict(), "", "timm.safetensors"),
        (RESNET, lambda: build(RESNET).state_dict(), "module.", "whole.pt"),
        (TIMM, timm_resnet, "", "weights.safetensors"),
        (TIMM, timm_resnet, "backbone.", "weights.pt"),
        (TIMM, lambda: build(TIMM).state_dict(), "", "whole.safetensors"),
    ],
)
def test_encoders_from_files(tmp_path: Path, of: Any, state: Any, prefix: str, name: str) -> None:
    torch.manual_seed(5)
    source = state()
    path = save(tmp_path / name, source, prefix)
    network, said = start(job(encoder_weights=path), of)
    assert name in said
    kernel = next(v for k, v in network.encoder.state_dict().items() if v.ndim == 4)
    theirs = next(v for k, v in source.items() if v.ndim == 4)
    assert torch.equal(kernel, theirs)
    kernels = [v for v in network.encoder.state_dict().values() if v.ndim == 4]
    found = [any(v.shape == w.shape and torch.equal(v, w) for w in source.values()) for v in kernels]
    assert all(found)


def test_encoders_for_other_bands(tmp_path: Path) -> None:
    source = smp.encoders.get_encoder("resnet18", weights=None)
    kernel = source.conv1.weight.detach()
    path = save(tmp_path / "weights.pt", source.state_dict())
    for bands, expected in ((1, kernel.sum(1, keepdim=True)), (4, kernel[:, [0, 1, 2, 0]] * 3 / 4)):
        of = card(encoder="resnet18", bands=bands, arguments={"decoder_channels": [16, 16, 8, 8, 8]})
        network, _ = start(job(encoder_weights=path), of)
        torch.testing.assert_close(network.encoder.conv1.weight.detach(), expected)


def test_files_that_hold_another_encoder(tmp_path: Path) -> None:
    path = save(tmp_path / "weights.pt", timm_resnet())
    with pytest.raises(ModelError, match=r"does not hold this encoder: .* missing"):
        start(job(encoder_weights=path), RESNET)
    with pytest.raises(JobError, match="no such file"):
        start(job(encoder_weights=str(tmp_path / "none.pt")), RESNET)


@pytest.mark.parametrize(
    ("file", "name", "tensor"),
    [("resnet34", "resnet18", "layer1_2_"), ("densenet201", "densenet169", "features_denseblock3_denselayer33_")],
)
def test_a_deeper_encoder_is_another_one(file: str, name: str, tensor: str) -> None:
    def state(name: str, **how: Any) -> dict[str, torch.Tensor]:
        with torch.device("meta"):
            return dict(smp.encoders.get_encoder(name, weights=None, **how).state_dict())

    given, wanted = state(file), state(name)
    wanted = {key: value for key, value in wanted.items() if key in given and given[key].shape == value.shape}
    with pytest.raises(
        ModelError, match=rf"holds a deeper encoder than this one: \d+ tensors are left over \({tensor}"
    ):
        fitted(given, wanted, "x.pt")
    assert fitted(wanted, wanted, "x.pt") == wanted


@pytest.mark.parametrize("name", ["resnet18", "tu-resnet10t", "efficientnet-b0", "tu-mobilenetv3_small_050", "mit_b0"])
def test_an_encoder_may_be_cut_off_after_any_stage(name: str) -> None:
    whole, short = (smp.encoders.get_encoder(name, weights=None, depth=n).state_dict() for n in (5, 4))
    assert set(fitted(dict(whole), dict(short), "x.pt")) >= {k for k in short if not k.endswith("num_batches_tracked")}


def test_a_name_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    original = smp.encoders.get_encoder

    def get_encoder(name: str, in_channels: int, depth: int, weights: Any) -> torch.nn.Module:
        asked.append((name, in_channels, depth, weights))
        torch.manual_seed(77)
        module: torch.nn.Module = original(name, in_channels=in_channels, depth=depth, weights=None)
        return module

    monkeypatch.setattr(smp.encoders, "get_encoder", get_encoder)
    network, said = start(job(encoder_weights="imagenet"), RESNET)
    assert asked == [("resnet18", 3, 5, "imagenet")]
    assert said == "encoder resnet18 with weights imagenet"
    torch.manual_seed(77)
    expected = original("resnet18", in_channels=3, depth=5, weights=None).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in network.encoder.state_dict().items())

    def offline(**_: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(smp.encoders, "get_encoder", offline)
    with pytest.raises(ModelError, match="imagenet for resnet18 cannot be had: no route to host"):
        start(job(encoder_weights="imagenet"), RESNET)


def test_a_bundle_as_start(tmp_path: Path) -> None:
    bundle = small_unet(tmp_path / "bundle", seed=3)
    network, said = start(job(start=str(bundle.folder)), bundle.card)
    assert said.startswith("model small (sha256 ")
    again = load(bundle)
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in again.state_dict().items())
    # another number of classes: only the head is new
    fewer = bundle.card.model_copy(update={"classes": bundle.card.classes[:2]})
    network, _ = start(job(start=str(bundle.folder)), fewer)
    new = network.state_dict()
    different = [k for k, v in again.state_dict().items() if v.shape != new[k].shape or not torch.equal(v, new[k])]
    assert different
    assert all(k.startswith("segmentation_head.") for k in different)
    with pytest.raises(ModelError, match=r"only \d+ of the network's \d+ tensors fit"):
        start(job(start=str(bundle.folder)), RESNET)
    # a checkpoint of a training is a file without a card
    network, said = start(job(start=str(bundle.weights)), bundle.card)
    assert said.startswith("weights model.safetensors (sha256 ")
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in again.state_dict().items())
    with pytest.raises(ModelError, match=r"is a file of \d+ tensors; only"):
        start(job(start=str(bundle.weights)), RESNET)


def test_dropout_where_the_network_has_it() -> None:
    network, _ = start(job(dropout=0.25), card(architecture="FPN", encoder="tu-resnet10t"))
    rates = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout2d | torch.nn.Dropout)]
    assert rates
    assert set(rates) == {0.25}
    with pytest.raises(JobError, match="Unet with encoder resnet18 has no dropout"):
        start(job(dropout=0.25), RESNET)


def dropped(found: torch.nn.Module) -> set[float]:
    return {m.p for m in found.modules() if isinstance(m, torch.nn.Dropout2d | torch.nn.Dropout)}


@pytest.mark.parametrize(("architecture", "own"), [("FPN", 0.2), ("DeepLabV3Plus", 0.5)])
def test_no_dropout_is_none_and_left_out_it_is_the_networks_own(architecture: str, own: float) -> None:
    of = card(architecture=architecture, encoder="resnet18")
    assert dropped(start(job(), of)[0]) >= {own}
    assert dropped(start(job(dropout=0), of)[0]) == {0.0}
    check_start(job(architecture=architecture, dropout=0))
    start(job(dropout=0), RESNET)  # it has none to begin with


def test_networks_without_a_choice_of_encoder_and_ensembles_say_so(tmp_path: Path) -> None:
    own = card(architecture="ResUnet", encoder="", arguments={"width": 4})
    with pytest.raises(ModelError, match="ResUnet has its own encoder, whose weights have no names"):
        start(job(encoder_weights="imagenet"), own)
    members = [small_unet(tmp_path / f"m{k}", seed=k).folder for k in range(2)]
    both = save_ensemble(tmp_path / "both", members)
    with pytest.raises(ModelError, match=r"is an ensemble; give one of its members, such as .*m0"):
        start(job(start=str(both.folder)), both.members[0].card)


def test_a_network_that_does_not_take_the_windows() -> None:
    pyramid = card(architecture="FPN", encoder="tu-resnet10t")
    with pytest.raises(ModelError, match=r"FPN with encoder tu-resnet10t fails on windows of 250 px: "):
        try_out(build(pyramid), pyramid, 250)
    network = build(RESNET).train()
    try_out(network, RESNET, 64)
    assert network.training
    pooled = torch.nn.Sequential(build(RESNET), torch.nn.AvgPool2d(4))
    with pytest.raises(ModelError, match=r"returns \(1, 4, 16, 16\) for a window of 64 px, expected \(1, 4, 64, 64\)"):
        try_out(pooled, RESNET, 64)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"architecture": "Unett"}, "model: architecture 'Unett': did you mean Unet?"),
        ({"encoder": "resnet19"}, "model: encoder 'resnet19': did you mean resnet18"),
        ({"encoder": "tu-resnet19t"}, "model: encoder 'tu-resnet19t': did you mean"),
        ({"arguments": {"decoder_chanels": [8]}}, "model: arguments.decoder_chanels: did you mean decoder_channels?"),
        ({"arguments": {"decoder_channels": [8]}}, "model: smp cannot build Unet with encoder resnet18"),
        ({"start": "areial"}, "model.start: model 'areial': did you mean aerial?"),
        ({"start": "./none"}, "model.start: ./none: no such file or folder"),
        ({"encoder_weights": "./none.pt"}, "model.encoder_weights: ./none.pt: no such file or folder"),
        ({"encoder_weights": "imagenette"}, "model.encoder_weights: resnet18 has no weights 'imagenette'; there are "),
        ({"dropout": 0.5}, "model.dropout: Unet with encoder resnet18 has no dropout"),
    ],
)
def test_what_a_job_names_and_there_is_not_is_the_jobs_mistake(model: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match="^" + re.escape(message)):
        check_start(job(**model))


@pytest.mark.parametrize(
    ("encoder", "size", "expected"),
    [
        ("resnet18", 224, TileSpec(size=512, multiple_of=32)),
        ("tu-swin_tiny_patch4_window7_224", 224, TileSpec(size=224, multiple_of=32, fixed=True)),
        ("tu-maxvit_nano_rw_256", 256, TileSpec(size=512, multiple_of=256)),
    ],
)
def test_the_card_says_which_tiles_the_network_takes(encoder: str, size: int, expected: TileSpec) -> None:
    trained = job(encoder=encoder).model_copy(update={"sampling": Sampling(size=size)})
    assert about.outlined(trained, 3).tile == expected


def test_networks_that_normalise_over_a_batch_need_two_windows() -> None:
    pooling = {"architecture": "DeepLabV3", "encoder": "resnet18", "arguments": {}}
    check_start(job(**pooling))
    single = job(**pooling).model_copy(update={"sampling": Sampling(size=64, batch=1)})
    with pytest.raises(JobError, match=r"sampling.batch: found 1; DeepLabV3 with encoder resnet18 .* takes 2 or more"):
        check_start(single)
    check_start(job().model_copy(update={"sampling": Sampling(size=64, batch=1)}))


def test_weights_are_compared_before_the_number_of_bands_is_known(tmp_path: Path) -> None:
    """Scenes tell how many bands there are, so that layers which depend on it are let pass until then."""

    def of_files(**model: Any) -> TrainJob:
        data = [{"scenes": "a.tif", "labels": [{"files": "b.tif"}]}]
        return TrainJob.model_validate({"classes": ["land", "road"], "data": data, "model": model})

    with pytest.raises(ModelError, match=r"aerial is Unet with encoder tu-regnetx_008; only \d+ of"):
        check_start(of_files(start="aerial"))
    five = card(encoder="resnet18", bands=5, arguments={"decoder_channels": [16, 16, 8, 8, 8]})
    path = save(tmp_path / "five.pt", build(five).state_dict())
    check_start(of_files(start=path, arguments=five.arguments))
    check_start(of_files(encoder_weights=path))
    with pytest.raises(ModelError, match="does not hold this encoder"):
        check_start(of_files(encoder_weights=path), bands=4)
    with pytest.raises(ModelError, match="does not hold this encoder"):
        check_start(of_files(encoder="resnet34", encoder_weights=path))
    (tmp_path / "torn.pt").write_bytes(Path(path).read_bytes()[:1000])
    with pytest.raises(ModelError, match="is not a checkpoint that torch can read"):
        check_start(of_files(start=str(tmp_path / "torn.pt")))


def test_nothing_is_downloaded_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_from_hub", lambda *_: pytest.fail("asked the hub"))
    check_start(job(encoder_weights="imagenet"))


def test_networks_that_compute_while_they_are_built_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real, devices = module.build, []

    def computes(of: Any) -> torch.nn.Module:
        network = real(of)
        devices.append(next(network.parameters()).device.type)
        if devices[-1] == "meta":
            raise ModelError("Tensor.item() cannot be called on meta tensors")
        return network

    monkeypatch.setattr(module, "build", computes)
    check_start(job())
    assert devices == ["meta", "cpu"]
