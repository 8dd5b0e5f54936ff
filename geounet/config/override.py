"""`--set key.sub=value`: one key of a job from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_origin

import yaml
from pydantic import BaseModel

from geounet.config.document import parse
from geounet.config.job import Job
from geounet.config.keys import alternatives, entries, field_at, nearest, words
from geounet.errors import JobError


def parse_override(text: str, root: type[BaseModel] = Job) -> tuple[tuple[str, ...], Any]:
    """Return the key path and the value of `key.sub=value`, a key of `root`.

    The value is YAML; where the key takes text only it is taken as it stands, and where it takes a list, `1,2` is one.

    Raises
    ------
    JobError
        If there is no `=`, no such key, or the value is not YAML.
    """
    dotted, equals, raw = text.partition("=")
    path = tuple(part.strip() for part in dotted.split("."))
    if not equals or not all(path):
        raise JobError(f"--set {text}: expected key=value or section.key=value, for example --set tiling.tile=512")
    for depth, key in enumerate(path):
        if field_at(root, path[: depth + 1]) is None:
            raise JobError(f"--set {text}: unknown key {dotted.strip()}; {nearest(root, path[:depth], key)}")
    field = field_at(root, path)
    assert field is not None
    try:
        return path, _value(raw.strip(), field.annotation)
    except yaml.YAMLError as error:
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise JobError(f"--set {text}: the value is not YAML ({problem}); put quotes around text") from None


def _value(raw: str, annotation: Any) -> Any:
    scalars = [m for m in alternatives(annotation) if get_origin(m) is None and m is not type(None)]
    listed = entries(annotation)
    if raw in words(annotation) or (scalars == [str] and not listed):
        return raw or None
    if not listed or raw.startswith(("[", "{")) or raw == "":
        return parse(raw)
    texts = str in listed and int not in listed
    if "," in raw or not scalars:
        return [part.strip() if texts else parse(part.strip()) for part in raw.split(",")]
    return parse(raw)


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return `{"a": {"b": value}}` for the path `("a", "b")`."""
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def merge(data: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return `data` with the values of `change` in place; sections are merged, everything else is replaced.

    Where a section is set over a word (`vector: none`, then `vector.cell=512`) the section takes its place.
    """
    merged = dict(data)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
