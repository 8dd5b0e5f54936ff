"""The log of a training, its curves, and the gallery of sample predictions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from geounet.errors import JobError
from geounet.training.curves import draw_curves
from geounet.training.gallery import Shown, draw_gallery
from geounet.training.log import Log, read_log
from tests.support.local import card


def entry(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 2.0 / step, "rate": 1e-3, "miou": 0.1 * step, "iou": {"a": 0.2, "b": None}, **more}


def test_entries_come_back(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.add(entry(1))
    log.add(entry(2, miou=None))
    assert read_log(log.path) == [entry(1), entry(2, miou=None)]
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2]


def test_what_is_made_again_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = Log(path)
    for step in (1, 2, 3):
        log.add(entry(step))
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # cut off by a kill
    assert [e["step"] for e in read_log(path)] == [1, 2, 3]
    again = Log(path, step=2)
    again.add(entry(3, loss=0.5))
    assert [(e["step"], e["loss"]) for e in read_log(path)] == [(1, 2.0), (2, 1.0), (3, 0.5)]


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(JobError, match=r"pip install 'geounet\[tensorboard\]'"):
        Log(tmp_path / "log.jsonl", board=tmp_path / "board")


def test_numbers_go_to_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SummaryWriter:
        made: ClassVar[list[Any]] = []

        def __init__(self, folder: str, purge_step: int | None) -> None:
            self.made.append((folder, purge_step))

        def add_scalar(self, key: str, value: float, step: int) -> None:
            self.made.append((key, value, step))

        def flush(self) -> None:
            self.made.append("flush")

        def close(self) -> None:
            self.made.append("close")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    log = Log(tmp_path / "log.jsonl", step=7, board=tmp_path / "board")
    log.add(entry(8))
    log.close()
    assert SummaryWriter.made == [
        (str(tmp_path / "board"), 8), ("loss", 0.25, 8), ("rate", 1e-3, 8), ("miou", 0.8, 8), ("iou/a", 0.2, 8),
        "flush", "close",
    ]  # fmt: skip


@pytest.mark.parametrize("steps", [0, 1, 30])
def test_curves_of_any_length(tmp_path: Path, steps: int) -> None:
    entries = [entry(k, miou=min(0.02 * k, 0.9), accuracy=0.5) for k in range(1, steps + 1)]
    draw_curves(entries, {"a": "#d1495b", "b": "#ffffff"}, tmp_path / "curves.png", "title")
    with Image.open(tmp_path / "curves.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    black = (pixels.sum(axis=2) < 30).sum()  # the line of the mean IoU, 2.4 pt wide
    red = (np.abs(pixels - [0xD1, 0x49, 0x5B]).sum(axis=2) < 20).sum()
    assert pixels.shape[1] > 2 * pixels.shape[0]
    assert (red > 300) == (steps == 30)
    assert black > (2000 if steps == 30 else 0)


@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_gallery_shows_image_label_and_prediction(tmp_path: Path, number: int) -> None:
    of = card(channels=3, input=card().input.model_copy(update={"data_type": "uint8"}))
    image = np.zeros((3, 64, 64), np.float32)
    image[0] = 1.0  # 150, 100, 100 with a mean of 100 and a deviation of 50
    label = np.ones((64, 64), np.uint8)
    label[:32] = 255
    shown = Shown(image, label, np.full((64, 64), 2, np.uint8))
    draw_gallery([shown] * number, of, tmp_path / "x.png", "step 1")
    with Image.open(tmp_path / "x.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)

    def share(colour: tuple[int, int, int]) -> float:
        return float((np.abs(pixels - colour).sum(axis=2) < 6).sum()) / number / 288**2

    assert share((150, 100, 100)) == pytest.approx(1, abs=0.03)
    assert share(of.classes[1].rgb) == pytest.approx(0.5, abs=0.03)
    assert share(of.classes[2].rgb) == pytest.approx(1, abs=0.03)
