"""What `auto` means, on machines that are only pretended."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from geounet.config.train import parse_train
from geounet.errors import ModelError
from geounet.models import device as module
from geounet.models.device import check_present, cpu_has_bf16, has_bf16_flag, resolve
from geounet.training.run import train

LEAST = {"classes": ["a", "b"], "data": [{"scenes": "a.tif", "labels": [{"files": "b.tif"}]}]}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine whose devices a test chooses."""
    chosen = SimpleNamespace(bf16=False, gpus=[])
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: chosen.bf16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(chosen.gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(chosen.gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: chosen.gpus[index])
    return chosen


@pytest.mark.parametrize(
    ("gpus", "bf16", "asked", "expected"),
    [
        ([], False, ("auto", "auto"), ("cpu", "fp32")),
        ([], True, ("auto", "auto"), ("cpu", "bf16")),
        ([], True, ("cpu", "fp32"), ("cpu", "fp32")),
        ([], False, ("cpu", "bf16"), ("cpu", "bf16")),
        ([(9, 0)], False, ("auto", "auto"), ("cuda:0", "bf16")),
        ([(7, 5)], True, ("auto", "auto"), ("cuda:0", "fp16")),
        ([(9, 0)], True, ("cpu", "auto"), ("cpu", "bf16")),
        ([(9, 0), (7, 0)], False, ("cuda:1", "auto"), ("cuda:1", "fp16")),
        ([(9, 0)], False, ("cuda", "fp32"), ("cuda:0", "fp32")),
        ([(9, 0)], False, ("auto", "fp16"), ("cuda:0", "fp16")),
    ],
)
def test_resolve(
    machine: SimpleNamespace, gpus: list[tuple[int, int]], bf16: bool, asked: tuple[str, str], expected: tuple[str, str]
) -> None:
    machine.gpus, machine.bf16 = gpus, bf16
    assert resolve(*asked) == expected


@pytest.mark.parametrize(
    ("gpus", "asked", "words"),
    [
        ([], ("cuda", "auto"), "finds no CUDA device"),
        ([], ("cpu", "fp16"), "fp16 on a CPU"),
        ([], ("auto", "fp16"), "fp16 on a CPU"),
        ([(8, 0)], ("cuda:1", "auto"), "there are 1 CUDA devices"),
        ([(7, 5)], ("auto", "bf16"), "8.0 is needed"),
        ([], ("tpu", "auto"), "device 'tpu'"),
        ([], ("cuda:x", "auto"), "device 'cuda:x'"),
        ([], ("cpu", "int8"), "precision 'int8'"),
    ],
)
def test_refusals(machine: SimpleNamespace, gpus: list[tuple[int, int]], asked: tuple[str, str], words: str) -> None:
    machine.gpus = gpus
    with pytest.raises(ModelError, match=re.escape(words)):
        resolve(*asked)


def test_the_way_out_is_in_the_words_of_whoever_asks(machine: SimpleNamespace) -> None:
    with pytest.raises(ModelError, match=r"; use --set predict\.device=cpu$"):
        resolve("cuda", "auto")
    with pytest.raises(ModelError, match=r"; use --set run\.device=cpu$"):
        train(parse_train({**LEAST, "run": {"device": "cuda"}}, "t"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f avx512_bf16 rdpid", True), ("fpu amx_bf16", True), ("fpu avx512f avx512bw", False), ("", False)],
)
def test_cpuinfo(flags: str, expected: bool) -> None:
    assert (
        has_bf16_flag(f"processor\t: 0\nmodel name\t: avx512_bf16 lookalike\nflags\t\t: {flags}\nbugs\t:\n") is expected
    )
    assert not has_bf16_flag("")


def test_torch_and_cpuinfo_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    if not module._CPUINFO.exists() or not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("needs /proc/cpuinfo and a torch that tells capabilities")
    by_torch = cpu_has_bf16()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert cpu_has_bf16() == by_torch


def test_a_run_keeps_to_its_device(machine: SimpleNamespace) -> None:
    check_present("cpu")
    with pytest.raises(ModelError, match=r"cuda:0: .* finds 0 CUDA devices; .* `geounet clean`"):
        check_present("cuda:0")
    machine.gpus = [(9, 0)]
    check_present("cuda:0")
    with pytest.raises(ModelError, match=r"cuda:1: .* finds 1 CUDA devices"):
        check_present("cuda:1")
