"""`--set key.sub=value`: one key of a job from the command line. Entries of lists are counted: `scenes[0].name=a`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_origin

import yaml
from pydantic import BaseModel

from geounet.config.document import parse
from geounet.config.job import Job
from geounet.config.keys import alternatives, dotted, entries, field_at, nearest, words
from geounet.errors import JobError

_PART = re.compile(r"([^\[\]]+)((?:\[\d+\])*)")


def parse_override(text: str, root: type[BaseModel] = Job) -> tuple[tuple[str | int, ...], Any]:
    """Return the path and the value of `key.sub=value` or `key[0].sub=value`, a key of `root`.

    The value is YAML; where the key takes a list, `1,2` is one. Where it takes text only, that is taken as it stands;
    no text is none, and so is null where the key may be left out.

    Raises
    ------
    JobError
        If there is no `=`, no such key, a number behind a key that takes no list, or the value is not YAML.
    """
    keys, equals, raw = text.partition("=")
    path = _path(keys) if equals else None
    if path is None:
        raise JobError(f"--set {text}: expected key=value or section.key=value, for example --set tiling.tile=512")
    for depth, key in enumerate(path):
        field = field_at(root, path[: depth + 1])
        above = field_at(root, path[:depth])
        if field is None and above is not None and get_origin(above.annotation) is dict:
            return path, _yaml(text, raw)  # keys that are not ours
        if field is None:
            raise JobError(f"--set {text}: unknown key {dotted(path)}; {nearest(root, path[:depth], str(key))}")
        if isinstance(key, int) and (isinstance(path[depth - 1], int) or not entries(field.annotation)):
            raise JobError(f"--set {text}: {dotted(path[:depth])} takes no list")
    field = field_at(root, path)
    assert field is not None
    annotation = Union[tuple(entries(field.annotation))] if isinstance(path[-1], int) else field.annotation  # noqa: UP007
    return path, _yaml(text, raw, annotation)


def _yaml(text: str, raw: str, annotation: Any = None) -> Any:
    try:
        return parse(raw.strip()) if annotation is None else _value(raw.strip(), annotation)
    except yaml.YAMLError as error:
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise JobError(f"--set {text}: the value is not YAML ({problem}); put quotes around text") from None


def _path(keys: str) -> tuple[str | int, ...] | None:
    path: list[str | int] = []
    for part in keys.split("."):
        found = _PART.fullmatch(part.strip())
        if not found:
            return None
        path += [found[1].strip(), *(int(index) for index in re.findall(r"\d+", found[2]))]
    return tuple(path)


def _value(raw: str, annotation: Any) -> Any:
    if raw in ("", "null") and type(None) in alternatives(annotation):
        return None
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


class Entries(dict[int, Any]):
    """Changes of entries of a list, by their index."""


def nested(path: Sequence[str | int], value: Any) -> dict[str, Any]:
    """Return `{"a": {"b": value}}` for the path `("a", "b")`, with `Entries` where an entry of a list is changed."""
    for key in reversed(path):
        value = Entries({key: value}) if isinstance(key, int) else {key: value}
    return dict(value)


def merge(data: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with the values of `change` in place; sections are merged, everything else is replaced.

    Where a section is set over a word (`vector: none`, then `vector.cell=512`) the section takes its place.

    Raises
    ------
    JobError
        If the change is of an entry that a list does not have.
    """
    merged = dict(data)
    for key, value in change.items():
        merged[key] = _merged((key,), merged.get(key), value)
    return merged


def _merged(path: tuple[str | int, ...], old: Any, value: Any) -> Any:
    if isinstance(value, Entries):
        if not isinstance(old, list):
            raise JobError(f"--set {dotted((*path, max(value)))}: {dotted(path)} is no list here")
        if max(value) >= len(old):
            entries = f"{len(old)} entr{'y' if len(old) == 1 else 'ies'}, counted from 0"
            raise JobError(f"--set {dotted((*path, max(value)))}: {dotted(path)} has {entries}")
        return [_merged((*path, i), entry, value[i]) if i in value else entry for i, entry in enumerate(old)]
    if not isinstance(value, Mapping) or not isinstance(old, Mapping):
        return value
    return {**old, **{key: _merged((*path, key), old.get(key), changed) for key, changed in value.items()}}
