"""Bundles: what is written, found, refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from geounet.errors import ModelError, OutputExistsError
from geounet.models import bundle as module
from geounet.models.bundle import Bundle, list_bundles, load_bundle, read_header, save_bundle
from geounet.models.network import load
from tests.support.local import card
from tests.support.models import small_unet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_unet(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture
def copied(made: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "copy"))


def test_round_trip(made: Bundle) -> None:
    loaded = load_bundle(str(made.folder))
    assert loaded == made
    content = (made.folder / "model.json").read_bytes() + (made.folder / "model.safetensors").read_bytes()
    assert loaded.sha256 == hashlib.sha256(content).hexdigest()
    assert sorted(p.name for p in made.folder.iterdir()) == ["model.json", "model.safetensors"]
    assert sorted(p.name for p in made.folder.parent.iterdir()) == ["small"]
    network = load(loaded)
    assert loaded.card.total_parameters == sum(p.numel() for p in network.parameters())
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    card_mode, weights_mode = ((made.folder / n).stat().st_mode for n in ("model.json", "model.safetensors"))
    assert weights_mode == card_mode, "readable by whom the card is readable"


def test_the_checksum_follows_weights_and_card(made: Bundle, copied: Path) -> None:
    assert load_bundle(copied).sha256 == made.sha256
    weights = copied / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(1, 1))
    changed = load_bundle(copied).sha256
    assert changed != made.sha256
    text = json.loads((copied / "model.json").read_text())
    text["description"] = "another"
    (copied / "model.json").write_text(json.dumps(text))
    assert load_bundle(copied).sha256 not in (changed, made.sha256)


def test_an_existing_folder_is_replaced_only_when_asked(copied: Path) -> None:
    before = load_bundle(copied)
    state = {k: v + 1 for k, v in load(before).state_dict().items()}
    with pytest.raises(OutputExistsError, match="exists already"):
        save_bundle(copied, before.card, state)
    assert load_bundle(copied) == before
    assert save_bundle(copied, before.card, state, overwrite=True).sha256 != before.sha256
    (copied / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"notes\.txt"):
        save_bundle(copied, before.card, state, overwrite=True)
    assert (copied / "notes.txt").read_text() == "mine"


def test_a_failed_write_leaves_the_old_bundle(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_bundle(copied)
    state = load(before).state_dict()

    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_bundle(copied, before.card, state, overwrite=True)
    assert load_bundle(copied) == before
    assert [p.name for p in copied.parent.iterdir()] == ["copy"]


def test_half_precision_halves_the_file_and_computes_in_float32(made: Bundle, tmp_path: Path) -> None:
    state = load(made).state_dict()
    half = save_bundle(tmp_path / "half", made.card, state, half=True)
    assert half.weights.stat().st_size < 0.56 * made.weights.stat().st_size
    loaded = load(half).state_dict()
    header = read_header(half.weights)
    for key, value in state.items():
        assert loaded[key].dtype == value.dtype
        if value.ndim < 2:
            torch.testing.assert_close(loaded[key], value, rtol=0, atol=0)
        else:
            assert header[key][0] == "F16"
            torch.testing.assert_close(loaded[key], value, rtol=1e-3, atol=1e-4)


def test_half_precision_keeps_values_that_float16_cannot_hold(made: Bundle, tmp_path: Path) -> None:
    state = dict(load(made).state_dict())
    state["segmentation_head.0.weight"] = state["segmentation_head.0.weight"] * 0 + 1e6
    half = save_bundle(tmp_path / "half", made.card, state, half=True)
    assert float(load(half).state_dict()["segmentation_head.0.weight"].max()) == 1e6


def test_names_and_paths(made: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "BUNDLED", made.folder.parent)
    monkeypatch.chdir(tmp_path)
    assert [b.card.name for b in list_bundles()] == ["small"]
    assert load_bundle("small") == made
    with pytest.raises(ModelError, match=r"did you mean small\? bundled models: small"):
        load_bundle("smal")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ModelError, match=r"write \./mine"):
        load_bundle("mine")
    with pytest.raises(ModelError, match=r"no such folder"):
        load_bundle("./other")
    with pytest.raises(ModelError, match=r"model\.json: no such file"):
        load_bundle("./mine")
    for name in ("", ".", ".."):
        with pytest.raises(ModelError, match="a path to a bundle has a slash"):
            load_bundle(name)


@pytest.mark.parametrize("keep", [0, 5, 9, 40, -1])
def test_damaged_weights_are_refused(copied: Path, keep: int) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors: .*(truncated|not a safetensors)"):
        load_bundle(copied)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for content in (b"PK\x03\x04" + b"\0" * 4 + b"x" * 100, (4).to_bytes(8, "little") + b"[1]]", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="safetensors file"):
            read_header(path)


def test_missing_weights_are_named(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: no such file"):
        load_bundle(copied)


def test_finding_a_bundle_needs_no_torch(made: Bundle) -> None:
    code = (
        "import sys; from geounet.models.bundle import list_bundles, load_bundle\n"
        "from geounet.models.network import stride\n"
        "list_bundles(); assert stride(load_bundle(sys.argv[1]).card) == 8\n"
        "print([m for m in ('torch', 'safetensors', 'timm', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(made.folder)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_auxiliary_head_is_left_out(tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    network = smp.Unet("resnet18", encoder_weights=None, classes=4, aux_params={"classes": 2})
    made = save_bundle(tmp_path / "aux", card(arguments={"aux_params": {"classes": 2}}), network.state_dict())
    assert not any(k.startswith("classification") for k in read_header(made.weights))
    loaded = load(made)
    x = torch.randn(1, 3, 64, 64)
    network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), network(x)[0], rtol=0, atol=0)
