"""Exported files: the bundle's results, alone and without this package; refusals that leave nothing."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geounet.config.card import Card, TileSpec
from geounet.errors import GeounetError, JobError, ModelError, OutputExistsError
from geounet.models import export as module
from geounet.models.bundle import Bundle, load_bundle, save_bundle, save_ensemble
from geounet.models.export import TOLERANCE, Whole, export_model
from geounet.models.network import build
from geounet.models.predictor import Predictor
from tests.support.local import card
from tests.support.models import small_unet

RAW = np.random.default_rng(0).integers(0, 255, (3, 3, 64, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_unet(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A network that exports in a second."""
    made = card(architecture="Unet2015", encoder="", name="tiny", tile=TileSpec(size=64, overlap=16, multiple_of=8),
                arguments={"width": 3, "depth": 1, "normalisation": "batch"})  # fmt: skip
    torch.manual_seed(1)
    return save_bundle(tmp_path_factory.mktemp("models") / "tiny", made, build(made).state_dict())


@pytest.fixture(scope="module")
def ensemble(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two members of different normalisation, one of them with valid convolutions."""
    folder = tmp_path_factory.mktemp("models")
    other = card(architecture="Unet2015", encoder="", name="classic", tile=TileSpec(size=64, multiple_of=8),
                 arguments={"width": 2, "depth": 2, "padding": "valid"})  # fmt: skip
    scaling = [s.model_copy(update={"mean": 80.0}) for s in other.input.value_scaling]
    other = other.model_copy(update={"input": other.input.model_copy(update={"value_scaling": scaling})})
    torch.manual_seed(0)
    classic = save_bundle(folder / "classic", other, build(other).state_dict())
    return save_ensemble(folder / "both", [tiny.folder, classic.folder])


def probabilities(bundle: Bundle, raw: np.ndarray) -> np.ndarray:
    """By the predictor, mirrored at the edges where the network wants a margin."""
    predictor = Predictor(bundle, tile=64)
    m = predictor.margin
    given = bundle.card.input.value_scaling
    values = np.stack([(raw[:, k] - s.mean) / s.stddev for k, s in enumerate(given)], axis=1).astype(np.float32)
    return predictor.probabilities(np.pad(values, ((0, 0), (0, 0), (m, m), (m, m)), mode="reflect"))


def run_pt2(path: Path, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(torch.export.load(path).module()(torch.from_numpy(x)))


def run_onnx(path: Path, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    assert name == "image"
    return np.asarray(session.run(None, {name: x})[0])


def test_torch_export(bundle: Bundle, tmp_path: Path) -> None:
    made = export_model(bundle, tmp_path / "new" / "small.pt2", normalise=True, probabilities=True)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["small.pt2"]
    assert (made.tile, made.normalised, made.output) == (64, True, "probabilities")
    assert made.difference <= TOLERANCE
    for n in (1, 3):
        np.testing.assert_allclose(run_pt2(made.path, RAW[:n]), probabilities(bundle, RAW[:n]), atol=TOLERANCE)
    extra = {"geounet.card.json": "", "geounet.sha256": ""}
    torch.export.load(made.path, extra_files=extra)
    assert Card.model_validate_json(extra["geounet.card.json"]) == bundle.card
    assert extra["geounet.sha256"] == bundle.sha256


def test_logits_of_normalised_values(tiny: Bundle, tmp_path: Path) -> None:
    made = export_model(tiny, tmp_path / "small.pt2", tile=32)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(run_pt2(made.path, x.numpy())), Whole(
            tiny, normalise=False, activate=False).networks[0](x))  # fmt: skip
    assert made.output == "logits"


def test_onnx(bundle: Bundle, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
    pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    made = export_model(bundle, tmp_path / "small.onnx", normalise=True, probabilities=True)
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"], "one file, weights inside"
    assert made.difference <= TOLERANCE
    for n in (1, 3):
        np.testing.assert_allclose(run_onnx(made.path, RAW[:n]), probabilities(bundle, RAW[:n]), atol=TOLERANCE)
    onnx.checker.check_model(str(made.path), full_check=True)
    said = {p.key: p.value for p in onnx.load(str(made.path)).metadata_props}
    assert Card.model_validate_json(said["geounet.card"]) == bundle.card
    assert said["geounet.classes"] == "land,building,road,vegetation"
    assert said["geounet.normalised"] == "true"


@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_an_ensemble_becomes_one_file(ensemble: Bundle, tmp_path: Path, ending: str) -> None:
    if ending == ".onnx":
        for name in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(name, reason="needs the extra `export`")
    made = export_model(ensemble, tmp_path / f"both{ending}", normalise=True)
    assert made.output == "probabilities"
    found = (run_pt2 if ending == ".pt2" else run_onnx)(made.path, RAW)
    np.testing.assert_allclose(found, probabilities(ensemble, RAW), atol=TOLERANCE)


def test_without_normalisation_an_ensemble_takes_values_normalised_as_its_card_says(ensemble: Bundle) -> None:
    raw, plain = (Whole(ensemble, normalise=n, activate=True).eval() for n in (True, False))
    x = torch.from_numpy(RAW)
    with torch.no_grad():
        torch.testing.assert_close(plain((x - 100) / 50), raw(x), atol=TOLERANCE, rtol=0)


def test_a_file_that_differs_is_not_written(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._pt2

    def wrong(whole: Any, example: torch.Tensor, *rest: Any) -> Any:
        whole.factor0.mul_(1.01)
        run = real(whole, example, *rest)
        whole.factor0.div_(1.01)
        return run

    monkeypatch.setattr(module, "_pt2", wrong)
    with pytest.raises(ModelError, match=r"differs from the bundle's by 0\.\d+ on random tiles, more than 0.0001"):
        export_model(tiny, tmp_path / "small.pt2", normalise=True, probabilities=True)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_exported_is_one_line(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Any, image: torch.Tensor) -> torch.Tensor:
        return image * float(image.mean())  # a number that only exists while it runs

    monkeypatch.setattr(Whole, "forward", forward)
    with pytest.raises(ModelError, match=r"tiny: Unet2015 cannot be exported as .pt2: ") as caught:
        export_model(tiny, tmp_path / "small.pt2")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_refusals(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobError, match=r"expected a file that ends in .onnx or .pt2"):
        export_model(tiny, tmp_path / "small.pt")
    with pytest.raises(JobError, match=r"expected a multiple of 8 px for Unet2015, found 60"):
        export_model(tiny, tmp_path / "small.pt2", tile=60)
    (tmp_path / "there.pt2").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists already"):
        export_model(tiny, tmp_path / "there.pt2")
    assert (tmp_path / "there.pt2").read_text() == "mine"
    monkeypatch.setattr(module, "_ONNX_PACKAGES", ("onnx", "surely_not_installed"))
    with pytest.raises(ModelError, match=r"needs .*surely_not_installed.*pip install 'geounet\[export\]'"):
        export_model(tiny, tmp_path / "small.onnx")


def test_fixed_tiles_stay(tiny: Bundle, tmp_path: Path) -> None:
    fixed = tiny.card.model_copy(update={"tile": TileSpec(size=64, multiple_of=8, fixed=True)})
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed" / "model.json").write_text(fixed.model_dump_json())
    (tmp_path / "fixed" / "model.safetensors").write_bytes(tiny.weights.read_bytes())
    with pytest.raises(JobError, match="takes tiles of 64 px only, found 128"):
        export_model(load_bundle(tmp_path / "fixed"), tmp_path / "x.pt2", tile=128)


def test_the_command(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from click.testing import CliRunner

    from geounet.cli.main import cli

    out = tmp_path / "small.pt2"
    done = CliRunner().invoke(cli, ["model", "export", str(tiny.folder), str(out), "--normalise", "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["file"] == str(out)
    assert facts["bytes"] == out.stat().st_size
    assert (facts["normalised"], facts["output"], facts["tile"]) == (True, "logits", 64)


def test_a_folder_that_cannot_be_written_is_said_to_be_so(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touch(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", touch)
    monkeypatch.setattr(module, "_pt2", lambda *_: pytest.fail("not reached"))
    with pytest.raises(GeounetError, match=r"small\.pt2: cannot be written \(Permission denied\); choose another"):
        export_model(tiny, tmp_path / "small.pt2")
