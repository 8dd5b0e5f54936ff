"""Which keys a section has, which one was probably meant, and which paths are none of this file system."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def is_remote(path: str) -> bool:
    """Whether a path is none of this file system: a URL or one of GDAL's virtual file systems."""
    return "://" in path or path.startswith("/vsi")


def fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of a section under the names that files use."""
    return {info.alias or name: info for name, info in section.model_fields.items()}


def alternatives(annotation: Any) -> list[Any]:
    """Return the members of a (nested) union, without their `Annotated` wrappers."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for argument in get_args(annotation) for member in alternatives(argument)]
    return [annotation]


def words(annotation: Any) -> set[Any]:
    """Return the literal values that an annotation allows, such as `auto`."""
    return {word for member in alternatives(annotation) if get_origin(member) is Literal for word in get_args(member)}


def entries(annotation: Any) -> list[Any]:
    """Return what the entries of a list may be; nothing if the annotation allows no list."""
    lists = [member for member in alternatives(annotation) if get_origin(member) is list]
    return [entry for member in lists for entry in alternatives(get_args(member)[0])]


def sections(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that an annotation allows, also as entries of a list."""
    members = [*alternatives(annotation), *entries(annotation)]
    return [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]


def section_at(root: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the section that a path of keys and list indexes leads to, if it leads to one."""
    section: type[BaseModel] | None = root
    for part in path:
        if isinstance(part, int) or section is None:
            continue
        field = fields(section).get(part)
        found = sections(field.annotation) if field is not None else []
        section = found[0] if found else None
    return section


def field_at(root: type[BaseModel], path: Sequence[str | int]) -> FieldInfo | None:
    """Return the field that a path of keys and list indexes leads to, or nothing."""
    keys = [part for part in path if isinstance(part, str)]
    if not keys:
        return None
    section = section_at(root, keys[:-1])
    return fields(section).get(keys[-1]) if section is not None else None


def dotted(path: Sequence[str | int]) -> str:
    """Return a path as users write it: `scenes[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def nearest(root: type[BaseModel], parent: Sequence[str | int], key: str) -> str:
    """Return a hint for an unknown key: the nearest one of its section, else of the whole file, else all known ones.

    At the top of a job, `tilling` leads to `did you mean tiling?`, and `overlap` to `did you mean tiling.overlap?`.
    """
    section = section_at(root, parent)
    here = list(fields(section)) if section is not None else []
    close = difflib.get_close_matches(key.lower(), here, n=1, cutoff=0.7)
    if close:
        return f"did you mean {dotted([*parent, close[0]])}?"
    elsewhere = {path[-1]: dotted(path) for path in _all_paths(root)}
    close = difflib.get_close_matches(key.lower(), elsewhere, n=1, cutoff=0.8)
    if close:
        return f"did you mean {elsewhere[close[0]]}?"
    if not here:
        return f"{dotted(parent)} has no keys below it"
    return f"known here: {', '.join(here)}"


def _all_paths(section: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, field in fields(section).items():
        yield (*above, key)
        # Entries of lists have no dotted path to suggest.
        for member in alternatives(field.annotation):
            if isinstance(member, type) and issubclass(member, BaseModel):
                yield from _all_paths(member, (*above, key))
