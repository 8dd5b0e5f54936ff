"""Job files and command-line options to a validated `Job`. Paths become absolute: see docs/decisions/0002-paths.md."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from geounet.config.document import read
from geounet.config.job import Job
from geounet.config.keys import is_remote
from geounet.config.override import Entries, merge, nested, parse_override
from geounet.config.problems import problems
from geounet.errors import JobError


class InvalidJobError(JobError):
    """A job with one or more problems; the message tells the first."""

    def __init__(self, lines: Sequence[str]) -> None:
        more = "" if len(lines) == 1 else f" (and {len(lines) - 1} more: `geounet check` lists all)"
        super().__init__(lines[0] + more)
        self.lines = list(lines)
        """One line a problem."""

    def __reduce__(self) -> tuple[type[InvalidJobError], tuple[list[str]]]:
        return InvalidJobError, (self.lines,)


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job file.

    Paths in the file are relative to the file's folder, paths in `overrides` to the current directory.

    Parameters
    ----------
    path
        YAML file.
    overrides
        `key.sub=value` each; the last one wins.

    Raises
    ------
    JobError
        If the file cannot be read, or the job is invalid: `file:line: key: found …, expected …`.
    """
    file = Path(path)
    document = read(job_text(file), str(path))
    origins = {key: f"{path}:{line}" for key, line in document.lines.items()}
    data = anchored(document.data, file.absolute().parent)
    outputs = data.get("outputs") or {}
    if isinstance(outputs, dict) and outputs.get("folder") is None:
        # The default is a path of the job file as well.
        data["outputs"] = {**outputs, "folder": str(file.absolute().parent / "out")}
    return _with_overrides(data, overrides, str(path), origins)


def job_from_options(scenes: Sequence[str], model: str | None, out: str | None, overrides: Sequence[str] = ()) -> Job:
    """Return the job of `geounet run SCENE... --model MODEL --out OUT`; paths are relative to the current directory.

    Raises
    ------
    JobError
        If the job is invalid.
    """
    data = {"scenes": list(scenes), "model": model, "outputs": {"folder": out or "out"}}
    return _with_overrides(anchored(data, Path.cwd()), overrides, "command line", {})


def parse_job(data: Mapping[str, Any], source: str, origins: Mapping[tuple[str | int, ...], str] | None = None) -> Job:
    """Validate plain values as a job; paths are taken as they are.

    Parameters
    ----------
    data
        Nested mappings and lists.
    source
        What messages call it.
    origins
        Where keys come from (`file:line`), by path; the nearest one above a problem is named instead of `source`.

    Raises
    ------
    InvalidJobError
        Whose `lines` hold one line a problem.
    """
    try:
        return Job.model_validate(data)
    except ValidationError as error:
        found = problems(error, Job, data)
    raise InvalidJobError([f"{nearest_origin(path, origins or {}, source)}: {sentence}" for path, sentence in found])


def anchored(data: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return the raw values of a job with all its paths made absolute.

    Parameters
    ----------
    data
        Raw values, possibly invalid: what is not text where a path belongs stays as it is.
    base
        Folder that relative paths start from.
    """
    result = dict(data)
    if "scenes" in result:
        result["scenes"] = _each(result["scenes"], lambda entry: _scene(entry, base))
    if "aoi" in result:
        result["aoi"] = resolved(result["aoi"], base)
    if "model" in result:
        result["model"] = _model(result["model"], base)
    if "models" in result:
        result["models"] = _each(result["models"], lambda entry: _model(entry, base))
    if isinstance(result.get("outputs"), dict):
        result["outputs"] = outputs = dict(result["outputs"])
        if "folder" in outputs:
            outputs["folder"] = resolved(outputs["folder"], base)
        if outputs.get("work") not in (None, "auto"):
            outputs["work"] = resolved(outputs["work"], base)
    return result


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a list, or what is set of its entries, with `change` done to each."""
    if isinstance(value, list):
        return [change(entry) for entry in value]
    if isinstance(value, Entries):
        return Entries({index: change(entry) for index, entry in value.items()})
    return value


def missing_aoi(path: str) -> str | None:
    """Return what is wrong with the path of an area of interest: it is a file of this file system, or of no use."""
    if Path(path).is_file():
        return None
    if is_remote(path):
        return f"aoi: {path}: is none of this file system's files; give a local vector file"
    return f"aoi: {path}: {'is a folder' if Path(path).is_dir() else 'no such file'}; expected a vector file"


def _with_overrides(
    data: dict[str, Any], overrides: Iterable[str], source: str, origins: dict[tuple[str | int, ...], str]
) -> Job:
    for text in overrides:
        path, value = parse_override(text)
        # `model` and `models` exclude each other: setting one replaces the other.
        other = None if value is None else {"model": "models", "models": "model"}.get(str(path[0]))
        data = {key: kept for key, kept in data.items() if key != other}
        data = merge(data, anchored(nested(path, value), Path.cwd()))
        origins = {key: origin for key, origin in origins.items() if key[: len(path)] != path}
        origins[path] = f"--set {text}"
    return parse_job(data, source, origins)


def nearest_origin(path: tuple[str | int, ...], origins: Mapping[tuple[str | int, ...], str], source: str) -> str:
    """Return where the key of a problem, or the nearest one above it, comes from; `source` if that is unknown."""
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return origins[path[:length]]
    return source


def job_text(file: Path, kind: str = "job file") -> str:
    """Return the text of a job file.

    Raises
    ------
    JobError
        If it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise JobError(f"{file}: no such file; expected a {kind} (YAML)") from None
    except IsADirectoryError:
        raise JobError(f"{file}: is a folder; expected a {kind} (YAML)") from None
    except UnicodeDecodeError:
        raise JobError(f"{file}: not text in UTF-8; expected a {kind} (YAML)") from None
    except OSError as error:
        raise JobError(f"{file}: cannot be read: {error.strerror}") from None


def resolved(value: Any, base: Path) -> Any:
    """Return a path made absolute; what is no text, or no path of this file system, stays as it is."""
    if not isinstance(value, str) or not value or is_remote(value):
        return value
    path = Path(value)
    return str(base / (path.expanduser() if value.startswith("~") else path))


def _model(value: Any, base: Path) -> Any:
    # A bare name is a bundled model, whatever lies in the folder.
    return resolved(value, base) if isinstance(value, str) and ("/" in value or "\\" in value) else value


def _scene(entry: Any, base: Path) -> Any:
    if isinstance(entry, dict) and "files" in entry:
        return {**entry, "files": _each(entry["files"], lambda file: resolved(file, base))}
    if not isinstance(entry, str) or not entry or is_remote(entry) or Path(entry).is_absolute() or entry[0] == "~":
        return resolved(entry, base)
    # In a pattern, brackets in the name of the job's own folder are no pattern.
    return str((Path(glob.escape(str(base))) if glob.has_magic(entry) else base) / entry)
