"""The log of a training: a JSON line for each validation, and TensorBoard's files where that is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geounet.atomic import write_text
from geounet.errors import JobError

LOG = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a log; a last line that a kill cut off is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


class Log:
    """Appends to `log.jsonl`.

    Parameters
    ----------
    path
        The file; entries after `step` are dropped, because they are made again.
    step
        Where training goes on from.
    board
        Folder of TensorBoard's files; None: none are written.

    Raises
    ------
    JobError
        If TensorBoard is asked for and is not installed.
    """

    def __init__(self, path: Path, step: int = 0, board: Path | None = None) -> None:
        self.path = path
        self.entries = [entry for entry in read_log(path) if entry["step"] <= step]
        write_text(path, "".join(_line(entry) for entry in self.entries))
        self._writer = None if board is None else _writer(board, step)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append an entry: it has a `step`, and numbers, or mappings of names to numbers."""
        self.entries.append(dict(entry))
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_line(entry))
        if self._writer is not None:
            for key, value in _flat(entry):
                if key != "step":
                    self._writer.add_scalar(key, value, entry["step"])
            self._writer.flush()

    def close(self) -> None:
        """Close TensorBoard's files."""
        if self._writer is not None:
            self._writer.close()


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _flat(entry: Mapping[str, Any], above: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in entry.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{above}{key}/")
        elif isinstance(value, int | float):
            found.append((f"{above}{key}", float(value)))
    return found


def _writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise JobError(
            "run.tensorboard: TensorBoard is not installed; pip install 'geounet[tensorboard]', or leave it out "
            "(log.jsonl holds the same numbers)"
        ) from None
    # What an interrupted run wrote beyond its last checkpoint is hidden.
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
