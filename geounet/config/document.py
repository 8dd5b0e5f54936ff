"""YAML text to plain values, with the line of every key. `safe_load` semantics: no tags that make objects."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

from geounet.errors import JobError

Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as `safe_load` reads it, but dates stay text, and `1e3` is a number as in YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Document(NamedTuple):
    """A parsed file."""

    data: dict[str, Any]
    lines: dict[Path, int]
    """Line, from 1, of every key and list entry."""


def parse(text: str) -> Any:
    """Return the value of a piece of YAML.

    Raises
    ------
    yaml.YAMLError
        If it is none.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (it is a SafeLoader)


def read(text: str, source: str, needs: str = "`scenes:` and `model:`", *, numbers: bool = False) -> Document:
    """Parse the text of a job file.

    Parameters
    ----------
    text
        The whole file.
    source
        What messages call it.
    needs
        The keys that a file has at least, for the message about an empty one.
    numbers
        Whether keys may be whole numbers, as in tables of raster values.

    Raises
    ------
    JobError
        `source:line: …` if the text is not YAML, is not a mapping, is empty, or has a key twice.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise JobError(f"{source}:1: empty; a job file needs at least {needs}")
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else f"text ({node.value[:40]!r})"
            line = node.start_mark.line + 1
            raise JobError(f"{source}:{line}: found {kind}, expected keys and values such as `model: aerial`")
        lines: dict[Path, int] = {}
        _walk(node, (), lines, set(), source, numbers)
        return Document(loader.construct_document(node), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise JobError(f"{source}{line}: not valid YAML: {_problem(error)}") from None
    except yaml.YAMLError as error:
        raise JobError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise JobError(f"{source}: not valid YAML: nested too deeply, or an alias that contains itself") from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context or "cannot be parsed")
    if "\\t" in problem:
        return "a tab where spaces are expected; YAML is indented with spaces only"
    if "mapping values are not allowed" in problem:
        return "a second `:` in one line; put quotes around text that contains `: `, and check the indentation"
    return problem


def _walk(node: yaml.Node, path: Path, lines: dict[Path, int], seen: set[int], source: str, numbers: bool) -> None:
    """Note the line of every key and refuse keys that occur twice or are not text; aliases are visited once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            lines[*path, index] = entry.start_mark.line + 1
            _walk(entry, (*path, index), lines, seen, source, numbers)
    elif isinstance(node, yaml.MappingNode):
        here: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str" and not (numbers and key.tag == "tag:yaml.org,2002:int"):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise JobError(f"{source}:{line}: the key {shown} is not text to YAML; put quotes around it")
            if key.value in here:
                raise JobError(f"{source}:{line}: the key `{key.value}` occurs twice, first in line {here[key.value]}")
            here[key.value] = lines[*path, key.value] = line
            _walk(value, (*path, key.value), lines, seen, source, numbers)
