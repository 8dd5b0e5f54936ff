"""What is wrong with a job file or a card, one line a problem, from pydantic's errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from geounet.config.keys import dotted, field_at, fields, nearest, section_at

Path = tuple[str | int, ...]

_TYPES = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "list": "a list",
}


def problems(error: ValidationError, root: type[BaseModel], data: Any) -> list[tuple[Path, str]]:
    """Return `(path, sentence)` of every problem, in the order of the model's fields.

    The members of a union that did not match are told in one sentence ("expected a whole number or auto"), and where
    one of them matched deeper, only what is wrong inside it is told.

    Parameters
    ----------
    error
        What validating `data` raised.
    root
        The model that `data` was validated against.
    data
        The raw value: nested mappings and lists.
    """
    groups: dict[Path, list[Mapping[str, Any]]] = {}
    for item in error.errors():
        groups.setdefault(_real_path(item["loc"], item["type"] == "missing", data), []).append(item)
    kept = [p for p in groups if not any(q != p and q[: len(p)] == p for q in groups)]
    return [(path, _sentence(path, groups[path], root, data)) for path in kept]


def _real_path(loc: Sequence[str | int], missing: bool, data: Any) -> Path:
    """Drop pydantic's tags of union members from a location: they are not in the data."""
    path: list[str | int] = []
    node = data
    for part in loc:
        inside = part in node if isinstance(node, Mapping) else isinstance(node, list) and isinstance(part, int)
        if inside:
            path.append(part)
            node = node[part]
    return (*path, loc[-1]) if missing else tuple(path)


def _sentence(path: Path, items: Sequence[Mapping[str, Any]], root: type[BaseModel], data: Any) -> str:
    name = dotted(path)
    for item in items:
        kind = item["type"]
        if kind == "extra_forbidden":
            return f"{name}: unknown key; {nearest(root, path[:-1], str(path[-1]))}"
        if kind == "missing":
            field = field_at(root, path)
            return f"{name}: missing" + (f"; expected {field.description}" if field and field.description else "")
        if kind in ("value_error", "assertion_error"):
            message = str(item["ctx"]["error"]) if "error" in item.get("ctx", {}) else str(item["msg"])
            return f"{name}: {message}" if name else message
    expected = list(dict.fromkeys(_expected(item, path, root) for item in items))
    return f"{name}: found {_shown(data, path)}, expected {' or '.join(expected)}"


def _expected(item: Mapping[str, Any], path: Path, root: type[BaseModel]) -> str:
    kind, context = str(item["type"]), item.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        section = section_at(root, path)
        return f"keys ({', '.join(fields(section))})" if section is not None else "keys"
    if kind == "string_pattern_mismatch":
        field = field_at(root, path)
        return field.description if field and field.description else f"text that matches {context['pattern']}"
    bounds: dict[str, Callable[[], str]] = {
        "greater_than": lambda: f"a number above {context['gt']:g}",
        "greater_than_equal": lambda: f"a number of at least {context['ge']:g}",
        "less_than": lambda: f"a number below {context['lt']:g}",
        "less_than_equal": lambda: f"a number of at most {context['le']:g}",
        "too_short": lambda: _entries("at least", context["min_length"]),
        "too_long": lambda: _entries("at most", context["max_length"]),
        "string_too_short": lambda: "text that is not empty",
    }
    if kind in bounds:
        return bounds[kind]()
    for prefix, words in _TYPES.items():
        if kind.startswith(prefix):
            return words
    return str(item["msg"])


def _entries(bound: str, count: int) -> str:
    return f"{bound} {count} {'entry' if count == 1 else 'entries'}"


def _shown(data: Any, path: Path) -> str:
    """Return the value at `path` as one short piece of text."""
    value = data
    for part in path:
        value = value[part]
    if isinstance(value, bool):
        word = "true" if value else "false"
        alike = "on, yes" if value else "off, no"
        return f"{word} (so YAML reads {alike} and {word}: put quotes around text)"
    if isinstance(value, Mapping):
        return f"keys ({', '.join(map(str, value))})"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
