"""Import of foreign checkpoints: what they say, what must be given, what is never run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

from geounet.errors import JobError, ModelError, OutputExistsError
from geounet.models.bundle import Bundle
from geounet.models.checkpoint import read_source
from geounet.models.foreign import import_model
from geounet.models.network import load
from geounet.models.predictor import Predictor

ENCODER = "tu-mobilenetv3_small_050"
SMALL = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
GIVEN: dict[str, Any] = {
    "classes": ["background", "Building", "water"],
    "bands": ["red", "green", "blue", "nir"],
    "mean": [1.0, 2.0, 3.0, 4.0],
    "std": [5.0, 6.0, 7.0, 8.0],
    "activation": "softmax",
    "tile": 64,
}
NAMED: dict[str, Any] = {**GIVEN, "architecture": "Unet", "encoder": ENCODER}


def trained(**more: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"encoder_name": ENCODER, "encoder_weights": None, "in_channels": 4, "classes": 3, **SMALL, **more}
    network: torch.nn.Module = smp.Unet(**options).eval()
    return network


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return trained()


@pytest.fixture(scope="module")
def card_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The part of a card that options cannot say."""
    path = tmp_path_factory.mktemp("card") / "card.json"
    path.write_text(json.dumps({"arguments": SMALL, "description": "from elsewhere", "licence": "MIT"}))
    return path


def same(bundle: Bundle, network: torch.nn.Module) -> bool:
    x = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(x)
        expected = expected[0] if isinstance(expected, tuple) else expected
        return torch.equal(load(bundle)(x), expected)


def test_a_folder_of_save_pretrained(tmp_path: Path) -> None:
    network = trained(aux_params={"classes": 2})
    network.save_pretrained(tmp_path / "source")
    made = import_model(tmp_path / "source", tmp_path / "roof-model", gsd=0.3, **GIVEN)
    assert same(made, network)
    card = made.card
    assert (card.name, card.architecture, card.encoder, card.gsd) == ("roof-model", "Unet", ENCODER, 0.3)
    assert card.arguments == SMALL  # defaults are left out
    assert (card.head, card.output) == ("softmax", "logits")
    assert [(c.code, c.name, str(c.kind)) for c in card.classes] == [
        (0, "background", "background"), (1, "Building", "building"), (2, "water", "other"),
    ]  # fmt: skip
    assert card.input.bands == GIVEN["bands"]
    assert [(s.mean, s.stddev) for s in card.input.value_scaling] == [(1, 5), (2, 6), (3, 7), (4, 8)]
    assert (card.tile.size, card.tile.multiple_of, card.tile.fixed) == (64, 8, False)


def test_what_is_missing_is_told_at_once(tmp_path: Path, network: torch.nn.Module) -> None:
    network.save_pretrained(tmp_path / "source")
    with pytest.raises(JobError) as caught:
        import_model(tmp_path / "source", tmp_path / "made")
    text = str(caught.value)
    for words in (
        "--classes (3 names",
        "--activation",
        "--bands (4 names",
        "--mean (4 values",
        "--std (4 values",
        "--card",
    ):
        assert words in text
    assert "--architecture" not in text
    assert "\n" not in text
    assert not (tmp_path / "made").exists()

    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(JobError, match=r"--architecture \(Unet, .*--encoder .*--classes \(names.*--bands \(names"):
        import_model(tmp_path / "w.pt", tmp_path / "made")
    with pytest.raises(JobError, match=r"give --std \(4 values in the files' units\); or --card"):
        import_model(tmp_path / "source", tmp_path / "made", **{k: v for k, v in GIVEN.items() if k != "std"})


@pytest.mark.parametrize("ending", ["pt", "pth", "safetensors"])
def test_a_state_dict(tmp_path: Path, network: torch.nn.Module, card_file: Path, ending: str) -> None:
    source = tmp_path / f"w.{ending}"
    if ending == "safetensors":
        save_file(network.state_dict(), source)
    else:
        torch.save(network.state_dict(), source)
    made = import_model(source, tmp_path / "made", card=card_file, **NAMED)
    assert same(made, network)
    assert (made.card.description, made.card.licence) == ("from elsewhere", "MIT")


@pytest.mark.parametrize("prefix", ["model.", "net.", "module.", "model._orig_mod.", "task.net.module."])
def test_prefixes_are_found(tmp_path: Path, network: torch.nn.Module, card_file: Path, prefix: str) -> None:
    state = {prefix + k: v for k, v in network.state_dict().items()}
    torch.save({"model_state_dict": {**state, "loss.weight": torch.ones(3)}, "epoch": 3}, tmp_path / "w.pth")
    assert same(import_model(tmp_path / "w.pth", tmp_path / "made", card=card_file, **NAMED), network)


def test_a_lightning_checkpoint_says_its_hyper_parameters(tmp_path: Path, network: torch.nn.Module) -> None:
    content = {
        "epoch": 9,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{k}": v for k, v in network.state_dict().items()},
        "hyper_parameters": {
            "model": "unet", "backbone": ENCODER, "encoder_depth": 3, "decoder_channels": (16, 8, 8), "lr": 1e-3,
        },
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
    }  # fmt: skip
    torch.save(content, tmp_path / "last.ckpt")
    made = import_model(tmp_path / "last.ckpt", tmp_path / "made", **GIVEN)
    assert same(made, network)
    assert made.card.arguments == SMALL


def lightning(path: Path, network: torch.nn.Module, **said: Any) -> Path:
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    torch.save({"epoch": 9, "state_dict": state, "hyper_parameters": {**said, "lr": 1e-3}}, path)
    return path


@pytest.mark.parametrize("named", [True, False])
def test_hyper_parameters_that_no_weight_shows(tmp_path: Path, named: bool) -> None:
    network = trained(decoder_interpolation="bilinear")
    said = {**SMALL, "decoder_interpolation": "bilinear", "decoder_attention_type": None, "decoder_rate": 0.1,
            "in_channels": 4, "classes": 3, "loss": {"name": "dice"}, "kwargs": {"a": 1}}  # fmt: skip
    source = lightning(
        tmp_path / "last.ckpt", network, **said, **({"arch": "Unet", "encoder": ENCODER} if named else {})
    )
    made = import_model(source, tmp_path / "made", **(GIVEN if named else NAMED))
    assert made.card.arguments == {**SMALL, "decoder_interpolation": "bilinear"}
    assert same(made, network)
    assert not same(made, trained())


def test_what_a_card_adds_leaves_the_rest(tmp_path: Path) -> None:
    network = trained(decoder_interpolation="bilinear")
    source = lightning(tmp_path / "last.ckpt", network, **SMALL, decoder_interpolation="bilinear", in_channels=4,
                       classes=3)  # fmt: skip
    added = tmp_path / "card.json"
    added.write_text(json.dumps({"arguments": {"decoder_use_norm": "batchnorm"}}))
    made = import_model(source, tmp_path / "made", card=added, **NAMED)
    assert made.card.arguments == {**SMALL, "decoder_interpolation": "bilinear", "decoder_use_norm": "batchnorm"}
    assert same(made, network)


def test_hyper_parameters_of_other_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = {"encoder_name": "resnet18", "in_channels": 4, "classes": 3, "decoder_atrous_rates": (2, 4, 6)}
    network = smp.DeepLabV3Plus(encoder_weights=None, **own).eval()
    source = lightning(tmp_path / "last.ckpt", network, model="deeplabv3+", decoder_interpolation="bilinear", **own)
    made = import_model(source, tmp_path / "made", **GIVEN)
    assert made.card.arguments == {"decoder_atrous_rates": [2, 4, 6]}
    assert same(made, network)


def test_hyper_parameters_that_json_cannot_say(
    tmp_path: Path, network: torch.nn.Module, card_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = lightning(tmp_path / "last.ckpt", network, decoder_channels=torch.tensor([16, 8, 8]), encoder_depth=3)
    assert same(import_model(source, tmp_path / "made", card=card_file, **NAMED), network)
    with pytest.raises(ModelError, match="decoder_channels"):  # smp's own do not fit
        import_model(source, tmp_path / "other", **NAMED)
    assert "hyper-parameter decoder_channels is a Tensor, expected what JSON can say" in caplog.text


@pytest.mark.parametrize(
    ("said", "given", "found", "noted"),
    [
        ("relu", "softmax", ("softmax", "logits"), True),
        ("None", "sigmoid", ("sigmoid", "logits"), False),
        ("logits", "softmax", ("softmax", "logits"), False),
        ("Sigmoid", None, ("sigmoid", "probabilities"), False),
        ("Softmax2d", None, ("softmax", "probabilities"), False),
        ("softmax", "sigmoid", ("sigmoid", "logits"), False),
    ],
)
def test_activations_of_hyper_parameters_are_hints(
    tmp_path: Path, network: torch.nn.Module, caplog: pytest.LogCaptureFixture,
    said: str, given: str | None, found: tuple[str, str], noted: bool,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    source = lightning(tmp_path / "last.ckpt", network, **SMALL, activation=said)
    made = import_model(source, tmp_path / "made", **{**NAMED, "activation": given})
    assert (made.card.activation, made.card.output) == found
    assert ("neither softmax nor sigmoid: not used" in caplog.text) == noted


def test_an_unknown_activation_is_asked_for(tmp_path: Path, network: torch.nn.Module) -> None:
    source = lightning(tmp_path / "last.ckpt", network, **SMALL, activation="relu")
    with pytest.raises(JobError, match="give --activation"):
        import_model(source, tmp_path / "made", **{**NAMED, "activation": None})
    # weights alone are of use whatever the network ends in
    trained(activation="tanh").save_pretrained(tmp_path / "tanh")
    assert len(read_source(tmp_path / "tanh").weights) == len(network.state_dict())


def test_two_networks_in_one_checkpoint(tmp_path: Path, network: torch.nn.Module, card_file: Path) -> None:
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    state |= {f"ema.{k}": v * 2 if v.is_floating_point() else v for k, v in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "two.ckpt")
    with pytest.raises(JobError, match=r"2 networks that fit; choose one with --prefix: 'ema.', 'model.'"):
        import_model(tmp_path / "two.ckpt", tmp_path / "made", card=card_file, **NAMED)
    made = import_model(tmp_path / "two.ckpt", tmp_path / "made", card=card_file, prefix="model.", **NAMED)
    assert same(made, network)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("way", ["torch", "legacy", "pickle"])
def test_code_in_pickles_is_not_run(tmp_path: Path, way: str) -> None:
    source, trap = tmp_path / "evil.ckpt", tmp_path / "trap"
    content = {"state_dict": {"x": torch.zeros(1)}, "callbacks": Evil(trap)}
    if way == "pickle":
        source.write_bytes(pickle.dumps(content["callbacks"]))
    else:
        torch.save(content, source, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(
        ModelError, match=r"evil\.ckpt: (holds Python objects beside tensors|is not a checkpoint)"
    ) as caught:
        import_model(source, tmp_path / "made", **NAMED)
    assert "\n" not in str(caught.value)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Evil(trap)))
    assert trap.exists()  # the trap does work


def test_objects_beside_tensors_are_named(tmp_path: Path, network: torch.nn.Module) -> None:
    torch.save({"state_dict": network.state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "n.ckpt")
    with pytest.raises(ModelError, match=r"\(argparse.Namespace\).*torch.save\(model.state_dict"):
        import_model(tmp_path / "n.ckpt", tmp_path / "made", **NAMED)
    torch.save(network, tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="holds Python objects beside tensors"):
        import_model(tmp_path / "whole.pt", tmp_path / "made", **NAMED)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 broken"])
def test_files_of_something_else(tmp_path: Path, content: bytes) -> None:
    for ending in ("pt", "safetensors"):
        path = tmp_path / f"x.{ending}"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=rf"x\.{ending}: "):
            import_model(path, tmp_path / "made", **NAMED)


def test_a_raster_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "banepa.tif").write_bytes(b"II*\0" + bytes(400))
    (tmp_path / "notes.txt").write_text("hello\n")
    for name in ("banepa.tif", "notes.txt"):
        with pytest.raises(ModelError, match=rf"{name}: is not a checkpoint .* neither an archive nor a pickle"):
            import_model(tmp_path / name, tmp_path / "made", **NAMED)


def test_sources_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file or folder"):
        import_model(tmp_path / "none.pt", tmp_path / "made", **NAMED)
    with pytest.raises(ModelError, match=r"has no config\.json"):
        import_model(tmp_path, tmp_path / "made", **NAMED)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        import_model(tmp_path, tmp_path / "made", **NAMED)
    torch.save({"epoch": 1, "best": 0.5}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="holds entries epoch, best, expected a state dict"):
        import_model(tmp_path / "x.pt", tmp_path / "made", **NAMED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["a", "b"]}, r"--classes: found 2 names \(a, b\), but the network has 3 channels"),
        ({"bands": ["a", "b", "c"]}, r"--bands: found 3 names, but the network takes 4 bands"),
        ({"mean": [1.0]}, r"--mean: found 1 values for 4 bands"),
        ({"std": [1.0, 1.0, 1.0, 0.0]}, r"stddev: Input should be greater than 0"),
        ({"kinds": ["building"]}, r"--kinds: found 1 for 3 classes"),
        ({"kinds": ["house", "road", "other"]}, r"kind: Input should be"),
        ({"classes": ["a", "a", "b"]}, r"class name used twice: a"),
        ({"data_type": "uint12"}, r"data_type"),
        ({"name": "a name"}, r"name: String should match"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, network: torch.nn.Module, card_file: Path, change: dict[str, Any], words: str
) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(JobError, match=words):
        import_model(tmp_path / "w.pt", tmp_path / "made", card=card_file, **{**NAMED, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder": "resnet18"}, r"weights do not fit Unet with encoder resnet18"),
        ({"architecture": "FPN"}, r"weights do not fit FPN|cannot build FPN"),
        ({"encoder": "resnet19"}, r"did you mean resnet1"),
        ({"tile": 0}, r"tile.size: Input should be greater"),
        ({"tile": 100}, r"does not take tiles of 100 px \(not a multiple of 8\); give --tile"),
    ],
)
def test_another_network_than_the_weights(
    tmp_path: Path, network: torch.nn.Module, card_file: Path, change: dict[str, Any], words: str
) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises((ModelError, JobError), match=words):
        import_model(tmp_path / "w.pt", tmp_path / "made", card=card_file, **{**NAMED, **change})
    assert not (tmp_path / "made").exists()


def test_missing_and_unknown_weights_are_refused(tmp_path: Path, network: torch.nn.Module, card_file: Path) -> None:
    state = dict(network.state_dict())
    del state["decoder.blocks.0.conv1.0.weight"]
    state["decoder.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"1 missing \(decoder.blocks.0.conv1.0.weight\); 1 unknown \(decoder.extra\)"):
        import_model(tmp_path / "w.pt", tmp_path / "made", card=card_file, **NAMED)


def test_counters_of_batches_may_be_missing(tmp_path: Path, network: torch.nn.Module, card_file: Path) -> None:
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert len(state) < len(network.state_dict())
    torch.save(state, tmp_path / "w.pt")
    assert same(import_model(tmp_path / "w.pt", tmp_path / "made", card=card_file, **NAMED), network)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, network: torch.nn.Module, card_file: Path) -> None:
    state = dict(network.state_dict())
    state["segmentation_head.0.bias"] = torch.full((3,), float("inf"))
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"segmentation_head\.0\.bias holds values that are not finite"):
        import_model(tmp_path / "w.pt", tmp_path / "made", card=card_file, **NAMED)


def test_an_own_activation_is_read_and_applied_once(tmp_path: Path) -> None:
    network = trained(activation="softmax2d")
    network.save_pretrained(tmp_path / "source")
    options = {k: v for k, v in GIVEN.items() if k != "activation"}
    made = import_model(tmp_path / "source", tmp_path / "made", **options)
    assert (made.card.activation, made.card.output) == ("softmax", "probabilities")
    tiles = np.random.default_rng(0).normal(size=(1, 4, 64, 64)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(tiles)).numpy()
    np.testing.assert_allclose(Predictor(made, tile=64).probabilities(tiles), expected, atol=1e-5)

    trained(activation="tanh").save_pretrained(tmp_path / "tanh")
    with pytest.raises(ModelError, match="ends in 'tanh'"):
        import_model(tmp_path / "tanh", tmp_path / "other", **options)


def test_one_channel_is_a_sigmoid(tmp_path: Path) -> None:
    network = trained(classes=1)
    network.save_pretrained(tmp_path / "source")
    options = {k: v for k, v in GIVEN.items() if k not in ("activation", "classes")}
    made = import_model(tmp_path / "source", tmp_path / "made", classes=["road"], **options)
    assert made.card.head == "binary"
    assert [(c.code, c.name, str(c.kind)) for c in made.card.classes] == [(1, "road", "road")]


def test_several_sigmoids_are_multilabel(tmp_path: Path, network: torch.nn.Module) -> None:
    network.save_pretrained(tmp_path / "source")
    made = import_model(
        tmp_path / "source",
        tmp_path / "made",
        **{**GIVEN, "activation": "sigmoid", "kinds": ["other", "road", "other"]},
    )
    assert made.card.head == "multilabel"
    assert [str(c.kind) for c in made.card.classes] == ["other", "road", "other"]


def test_an_existing_bundle_stays(tmp_path: Path, network: torch.nn.Module, card_file: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    first = import_model(tmp_path / "w.pt", tmp_path / "made", card=card_file, **NAMED)
    with pytest.raises(OutputExistsError):
        import_model(tmp_path / "w.pt", tmp_path / "made", card=card_file, **NAMED)
    half = import_model(tmp_path / "w.pt", tmp_path / "made", card=card_file, half=True, overwrite=True, **NAMED)
    assert half.sha256 != first.sha256
    assert half.weights.stat().st_size < 0.6 * 4 * (first.card.total_parameters or 0)


def test_a_whole_card_is_enough(tmp_path: Path, network: torch.nn.Module, card_file: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pt")
    first = import_model(tmp_path / "w.pt", tmp_path / "made", card=card_file, gsd=0.5, **NAMED)
    again = import_model(tmp_path / "w.pt", tmp_path / "again", card=first.folder / "model.json")
    assert again.card == first.card
    assert again.sha256 == first.sha256
    changed = import_model(tmp_path / "w.pt", tmp_path / "other", card=first.folder / "model.json", gsd=1, name="new")
    assert (changed.card.gsd, changed.card.name) == (1, "new")
    for content in ("[1]", "{"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(JobError, match=r"--card .*bad\.json"):
            import_model(tmp_path / "w.pt", tmp_path / "bad", card=tmp_path / "bad.json")


def test_a_network_of_fixed_size_brings_its_own(tmp_path: Path) -> None:
    network = smp.DPT(
        "tu-vit_tiny_patch16_224", encoder_weights=None, encoder_depth=2, decoder_intermediate_channels=(16, 16),
        decoder_fusion_channels=16, classes=3, in_channels=4,
    )  # fmt: skip
    network.save_pretrained(tmp_path / "source")
    options = {k: v for k, v in GIVEN.items() if k != "tile"}
    made = import_model(tmp_path / "source", tmp_path / "made", **options)
    assert (made.card.tile.size, made.card.tile.multiple_of, made.card.tile.fixed) == (224, 16, True)
    with pytest.raises(ModelError, match=r"does not take tiles of 256 px .*give --tile"):
        import_model(tmp_path / "source", tmp_path / "other", **options, tile=256)


def test_values_from_0_to_1_are_warned_of(tmp_path: Path, network: torch.nn.Module, caplog: Any) -> None:
    network.save_pretrained(tmp_path / "source")
    imagenet = {"mean": [0.485, 0.456, 0.406, 0.4], "std": [0.229, 0.224, 0.225, 0.2]}
    import_model(tmp_path / "source", tmp_path / "made", **{**GIVEN, **imagenet})
    assert "multiply both by 255" in caplog.text
    caplog.clear()
    import_model(tmp_path / "source", tmp_path / "other", gsd=1, **GIVEN)
    assert caplog.text == ""
