"""Memory that is kept: what the system has to clear anew, before and after."""

from __future__ import annotations

import subprocess
import sys

import pytest

from geounet.models.memory import keep_freed_memory

STEPS = """
import resource, sys
import torch
from geounet.models.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
network = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(8)))
def step():
    network(torch.ones(2, 8, 512, 512)).mean().backward()
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_pages_are_faulted_in_once() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    given_back = faults("give")
    if given_back < 40 * 2 * 8 * 512 * 512 * 4 // 4096:  # forty times the pages of what one of its layers makes
        pytest.skip("this C library keeps freed memory by itself, or pages are large")
    assert faults("keep") < given_back / 10


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
