"""Logs on stderr: text or JSON lines, from the loggers of all packages."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
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
