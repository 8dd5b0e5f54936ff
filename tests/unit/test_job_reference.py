"""docs/jobs.md lists every key of the job file; it is generated from the models (GEOUNET_WRITE_DOCS=1 rewrites it)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from geounet.config.schema import job_schema

PAGE = Path(__file__).resolve().parents[2] / "docs" / "jobs.md"

HEAD = """# The job file

Every key of a job file, in YAML. Paths start at the job file's folder; on the command line they start at the current
one, and any key can be set with `--set key.sub=value`. Unknown keys are errors. `geounet schema` prints the JSON
schema, `geounet check JOB.yaml` validates a file without reading a scene.

| key | default | what |
| --- | --- | --- |
"""


def rows(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> list[str]:
    lines = []
    for key, field in node["properties"].items():
        sections = [f for f in [field, *field.get("anyOf", []), *field.get("allOf", [])] if "$ref" in f]
        inner = [schema["definitions"][f["$ref"].rsplit("/", 1)[1]] for f in sections]
        name = f"{path}{key}"
        text = field.get("description") or (inner[0].get("description", "") if inner else "")
        default = (
            "" if isinstance(field.get("default"), dict) or "default" not in field else f"`{shown(field['default'])}`"
        )
        required = "required" if key in node.get("required", []) else default
        lines.append(f"| `{name}` | {required} | {' '.join(text.split()).replace('|', chr(92) + '|')} |")
        if name != "scenes":
            for section in inner:
                lines += rows(schema, section, f"{name}.")
    return lines


def shown(value: Any) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_page_lists_every_key() -> None:
    schema = job_schema()
    text = HEAD + "\n".join(rows(schema, schema)) + "\n"
    if os.environ.get("GEOUNET_WRITE_DOCS"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, "run the tests with GEOUNET_WRITE_DOCS=1 and look at the change"
