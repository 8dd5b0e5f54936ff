"""`geounet model`, as a user calls it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp

from geounet.cli.main import main
from geounet.models import bundle as module
from tests.support.models import small_unet

OPTIONS = ["--classes", "background,road", "--bands", "red,green,blue", "--mean", "98,102,95", "--std", "41,38,36",
           "--activation", "softmax", "--tile", "64"]  # fmt: skip


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("geounet").setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "source"
    smp.Unet("tu-mobilenetv3_small_050", encoder_weights=None, classes=2).save_pretrained(folder)
    return folder


def test_import_show_and_list(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "roads"
    assert main(["model", "import", str(source), str(made), *OPTIONS, "--gsd", "0.3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["folder"] == str(made)
    assert facts["card"]["gsd"] == 0.3
    assert [c["kind"] for c in facts["card"]["classes"]] == ["background", "road"]

    assert main(["model", "show", str(made), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == facts
    assert main(["model", "show", str(made)]) == 0
    shown = capsys.readouterr().out
    for words in (facts["sha256"], "Unet", "red (98 ± 41)", "0.3 m", "64 px", "1 road (road)"):
        assert words in shown

    monkeypatch.setattr(module, "BUNDLED", tmp_path)
    assert main(["model", "list"]) == 0
    assert capsys.readouterr().out.startswith("roads  Unet")
    assert main(["model", "list", "--json"]) == 0
    assert [f["card"]["name"] for f in json.loads(capsys.readouterr().out)] == ["roads"]
    assert main(["model", "show", "roads"]) == 0


def test_no_bundled_models(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "none")
    assert main(["model", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["model", "show", "demo"]) == 1
    assert "no models are bundled" in capsys.readouterr().err


def test_the_table_of_networks(capsys: pytest.CaptureFixture[str]) -> None:
    from geounet.models.networks.table import NETWORKS

    assert main(["model", "list", "--networks"]) == 0
    shown = capsys.readouterr().out
    lines = [line.split()[:2] for line in shown.splitlines()]
    assert lines[: len(NETWORKS)] == [[name, entry.library] for name, entry in NETWORKS.items()]
    assert "padding=same" in shown
    assert main(["model", "list", "--networks", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(NETWORKS)


def test_ensembles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(small_unet(tmp_path / f"fold_{k}", seed=k).folder) for k in range(2)]
    both = str(tmp_path / "both")
    assert main(["model", "ensemble", both, *folders, "--name", "mean", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["card"]["name"], facts["card"]["members"]) == ("mean", ["fold_0", "fold_1"])
    assert main(["model", "show", both]) == 0
    shown = capsys.readouterr().out
    for words in (
        "Ensemble of 2 models: 0.6 million parameters",
        "fold_0 (Unet with encoder tu-mobile",
        facts["sha256"],
    ):
        assert words in shown
    assert main(["model", "ensemble", both, *folders]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["model", "ensemble", both, *folders, "--overwrite"]) == 0
    assert main(["model", "ensemble", both, folders[0], "--overwrite"]) == 1
    assert "two members or more" in capsys.readouterr().err
    assert main(["model", "export", both, str(tmp_path / "x.tflite")]) == 2
    assert "expected a file that ends in .onnx or .pt2" in capsys.readouterr().err


def test_networks_of_our_own_are_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A state dict without words: the card in part says which network, the weights how many bands and classes."""
    import torch

    from geounet.models.networks.residual import ResUnet

    torch.save({f"net.{k}": v for k, v in ResUnet(3, 2, width=4, depth=2).state_dict().items()}, tmp_path / "w.pt")
    (tmp_path / "part.json").write_text('{"architecture": "ResUnet", "arguments": {"width": 4, "depth": 2}}')
    made = tmp_path / "made"
    arguments = ["model", "import", str(tmp_path / "w.pt"), str(made), *OPTIONS, "--card", str(tmp_path / "part.json")]
    assert main([*arguments, "--json"]) == 0
    card = json.loads(capsys.readouterr().out)["card"]
    assert (card["architecture"], card["library"], card["encoder"]) == ("ResUnet", "geounet", "")
    assert card["tile"] == {"size": 64, "overlap": None, "multiple_of": 4, "fixed": False}
    without = [a for a in OPTIONS if a not in ("--classes", "background,road")]
    assert (
        main(["model", "import", str(tmp_path / "w.pt"), str(made), *without, "--card", str(tmp_path / "part.json")])
        == 2
    )
    assert "give --classes (2 names" in capsys.readouterr().err


def test_mistakes_end_in_one_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made"
    for arguments, code, words in (
        ([str(source), str(made)], 2, "give --classes (2 names"),
        ([str(source), str(made), *OPTIONS, "--mean", "a,b"], 2, "expected numbers separated by commas"),
        ([str(source), str(made), *OPTIONS, "--classes", "a,,b"], 2, "expected words separated by commas"),
        ([str(source), str(made), *OPTIONS, "--gsd", "0"], 2, "0"),
        ([str(tmp_path / "none.pt"), str(made), *OPTIONS], 1, "no such file or folder"),
        ([str(source), str(made), *OPTIONS, "--encoder", "resnet19"], 1, "did you mean resnet1"),
    ):
        assert main(["model", "import", *arguments]) == code, arguments
        error = capsys.readouterr().err
        assert words in error
        assert "Traceback" not in error
        assert not made.exists()
    small_unet(made)
    assert main(["model", "import", str(source), str(made), *OPTIONS]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["model", "import", str(source), str(made), *OPTIONS, "--overwrite"]) == 0
