"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Small networks on a shared machine: two threads of torch beside others take longer than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the tests in the background, and nohup, have their children ignore these; tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Examples differ in size by orders of magnitude and machines are shared: a deadline would only measure the neighbours.
settings.register_profile("geounet", deadline=None)
settings.load_profile("geounet")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real imagery beside the checkout; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real imagery beside the checkout (../shared/data)")
    return folder
