"""Progress: lines in logs, bars on a terminal, nothing on stdout."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from geounet.cli.progress import Progress, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _info() -> Iterator[None]:
    logger = logging.getLogger("geounet")
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


def test_a_line_has_rate_and_time_left(clock: Clock) -> None:
    progress = Progress(clock=clock)
    progress.update("blocks", 3, 483, "0 failed", pixels=0)
    assert progress.line("blocks") == "[3/483 blocks] 0 % · 0 failed"
    clock.now += 60
    progress.update("blocks", 123, 483, "0 failed", pixels=306_000_000)
    assert progress.line("blocks") == "[123/483 blocks] 25 % · 5.1 Mpx/s · 3 min left · 0 failed"
    clock.now += 60  # nothing is reported meanwhile: the time left still shrinks
    assert progress.line("blocks") == "[123/483 blocks] 25 % · 5.1 Mpx/s · 2 min left · 0 failed"
    progress.update("blocks", 483, 483, "2 failed", pixels=720_000_000)
    assert progress.line("blocks") == "[483/483 blocks] 100 % · 6.0 Mpx/s · 2 failed"


def test_the_rate_is_that_of_the_last_minutes(clock: Clock) -> None:
    progress = Progress(clock=clock)
    for step in range(101):  # fast at first: 10 in 10 s
        progress.update("cells", step * 10, 100_000)
        clock.now += 10
    for step in range(101):  # then slow: 1 in 10 s
        progress.update("cells", 1000 + step, 2000)
        clock.now += 10
    # 900 are left at 0.1 a second
    clock.now -= 10
    assert progress.line("cells") == "[1100/2000 cells] 55 % · 2 h 30 min left"


def test_totals_may_be_zero_or_grow(clock: Clock) -> None:
    progress = Progress(clock=clock)
    progress.update("cells", 0, 0)
    assert progress.line("cells") == "[0/0 cells]"
    progress.update("cells", 1, 4)
    assert progress.line("cells") == "[1/4 cells] 25 %"


def test_every_interval_a_line_and_one_at_the_end(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="geounet")
    with Progress(interval=0.05) as progress:
        progress.update("blocks", 1, 4)
        deadline = time.monotonic() + 10
        while sum("[1/4" in m for m in caplog.messages) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        progress.update("blocks", 4, 4)
        progress.update("blocks", 4, 4)
    assert sum("[1/4 blocks] 25 %" in m for m in caplog.messages) >= 3
    assert [m for m in caplog.messages if "[4/4" in m] == [caplog.messages[-1]]
    count = len(caplog.messages)
    time.sleep(0.15)
    assert len(caplog.messages) == count
    assert capsys.readouterr().out == ""


def test_quiet_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("geounet").setLevel(logging.WARNING)
    with Progress(interval=0.01) as progress:
        progress.update("blocks", 1, 1)
        time.sleep(0.05)
    assert caplog.messages == []


CODE = """
import logging
from geounet.cli import logs
from geounet.cli.progress import Progress
logs.configure()
with Progress() as progress:
    progress.update("blocks", 1, 4, "0 failed")
    logging.getLogger("geounet.x").warning("a line between")
    progress.update("blocks", 4, 4, "0 failed")
print("result")
"""


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_on_a_terminal_bars_on_stderr_only() -> None:
    import pty

    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=slave, env=environment, text=True
    ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                chunk = os.read(master, 4096)
            except OSError:  # Linux tells the end of a terminal this way
                break
            if not chunk:
                break
            shown += chunk
        out, _ = process.communicate(timeout=30)
    os.close(master)
    text = shown.decode()
    assert (process.returncode, out) == (0, "result\n")
    assert "\x1b[" in text
    assert "[4/4 blocks] 100 % · 0 failed" in text
    assert " WARNING geounet.x: a line between" in text
    assert "INFO geounet.cli.progress" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (200, "3 min"),
        (5400, "1 h 30 min"),
        (7500, "2 h 05 min"),
        (180000, "2 d 2 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_end_of_a_short_stage_is_no_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="geounet")
    with Progress(clock=clock) as progress:
        for scene in range(3):  # one stage for all scenes, and short in each
            progress.update("specks", 0, 1)
            clock.now += 12
            progress.update("specks", 1, 1)
            progress.update("outlines", 2 * scene, 2 * scene + 2)
            clock.now += 12
            progress.update("outlines", 2 * scene + 2, 2 * scene + 2)
        assert caplog.messages == []
        progress.update("specks", 0, 1)
        clock.now += 31
        progress.update("specks", 1, 1)
    assert caplog.messages == ["[1/1 specks] 100 %"]


def test_a_stage_that_begins_anew_has_a_new_rate(clock: Clock) -> None:
    progress = Progress(clock=clock)
    progress.update("blocks", 0, 4)
    clock.now += 10
    progress.update("blocks", 4, 4, pixels=40_000_000)
    progress.update("blocks", 0, 8)
    clock.now += 10
    progress.update("blocks", 2, 8, pixels=10_000_000)
    assert progress.line("blocks") == "[2/8 blocks] 25 % · 1.0 Mpx/s · 30 s left"
