"""Logs on stderr: text or JSON lines, from the loggers of all packages."""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

# Level of our loggers and of everybody else's, by verbosity.
_LEVELS = {
    -2: (logging.ERROR, logging.ERROR),
    -1: (logging.WARNING, logging.WARNING),
    0: (logging.INFO, logging.WARNING),
    1: (logging.DEBUG, logging.WARNING),
    2: (logging.DEBUG, logging.INFO),
}


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the time: the progress display replaces it to keep lines whole."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        more = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return json_line(record.levelname, record.name, record.getMessage(), record.created, **more)


def json_line(level: str, name: str, message: str, created: float | None = None, **more: Any) -> str:
    """Return one JSON line; `created` is in seconds since 1970, default now."""
    time = datetime.now(UTC) if created is None else datetime.fromtimestamp(created, UTC)
    stamp = time.isoformat(timespec="milliseconds")
    return json.dumps({"time": stamp, "level": level, "logger": name, "message": message, **more}, ensure_ascii=False)


def writes_json() -> bool:
    """Whether logs are JSON."""
    return any(isinstance(h, _Stderr) and isinstance(h.formatter, _Json) for h in logging.getLogger().handlers)


def configure(verbosity: int = 0, *, json_lines: bool = False) -> None:
    """Attach the handler to the root logger (once), and set format and levels.

    Parameters
    ----------
    verbosity
        -2 (errors only) to 2 (also what libraries tell); beyond, the nearest.
    json_lines
        One JSON object a line instead of text.
    """
    # GDAL's errors are raised and told in our words; rasterio would log each a second time.
    for name in ("rasterio._env", "rasterio._err"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Without a network it warns of each try, here and through a handler of its own; what failed is an error of ours. It
    # sets level and handler when it is imported, which may be before or after.
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    _give_matplotlib_a_folder()
    root = logging.getLogger()
    handler = next((h for h in root.handlers if isinstance(h, _Stderr)), None)
    if handler is None:
        handler = _Stderr()
        root.addHandler(handler)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
    handler.setFormatter(_Json() if json_lines else text)
    ours, others = _LEVELS[max(-2, min(2, verbosity))]
    root.setLevel(others)
    logging.getLogger("geounet").setLevel(ours)
    # Libraries set levels of their own loggers (distributed: INFO); what is shown is decided here.
    handler.filters = [lambda record: record.levelno >= others or record.name.partition(".")[0] == "geounet"]


def _give_matplotlib_a_folder() -> None:
    """Name a folder for matplotlib's settings and fonts where it can write neither, as a service has no home.

    It would warn, in each process of a run, and look for all fonts anew in each: those that are started from here share
    this one.
    """
    if os.environ.get("MPLCONFIGDIR") or sys.platform == "win32":
        return
    try:
        home = Path.home()
    except RuntimeError:  # this user has none
        home = Path("/")
    places = [home / ".matplotlib"]
    if sys.platform.startswith(("linux", "freebsd")):
        named = (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))
        places = [Path(os.environ.get(name) or home / usual, "matplotlib") for name, usual in named]
    if all(_can_be_made(place) for place in places):
        return
    import shutil
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="geounet-matplotlib-")
    except OSError:
        return
    os.environ["MPLCONFIGDIR"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _can_be_made(folder: Path) -> bool:
    while not os.access(folder, os.F_OK) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
