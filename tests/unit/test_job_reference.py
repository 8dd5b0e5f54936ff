"""Pages list every key of a file; the lists are generated from the models (GEOUNET_WRITE_DOCS=1 rewrites them)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from geounet.config.document import parse
from geounet.config.schema import job_schema
from geounet.config.train import parse_train

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "jobs.md"
TRAINING = DOCS / "training.md"
LEAVES = {"BandSet", "Chance", "Kind", "Not"}
"""Sections whose keys are told where they are used."""

HEAD = """# The job file

Every key of a job file, in YAML. Paths start at the job file's folder; on the command line they start at the current
one, and any key can be set with `--set key.sub=value`, entries of lists by their number, from 0: `--set
'scenes[0].name=north'`. `null` is no value: `--set aoi=null`. Unknown keys are errors. `geounet schema` prints the JSON
schema, `geounet check JOB.yaml` validates a file without reading a scene.

| key | default | what |
| --- | --- | --- |
"""


def rows(schema: dict[str, Any], node: dict[str, Any], path: str = "") -> list[str]:
    lines = []
    for key, field in node["properties"].items():
        members = [field, *field.get("anyOf", []), *field.get("allOf", [])]
        members += [entry for m in members if "items" in m for entry in (m["items"], *m["items"].get("anyOf", []))]
        names = {m["$ref"].rsplit("/", 1)[1]: None for m in members if "$ref" in m}
        inner = [schema["definitions"][name] for name in names]
        name = f"{path}{key}"
        text = field.get("description") or (inner[0].get("description", "") if inner else "")
        default = (
            "" if isinstance(field.get("default"), dict) or "default" not in field else f"`{shown(field['default'])}`"
        )
        required = "required" if key in node.get("required", []) else default
        lines.append(f"| `{name}` | {required} | {' '.join(text.split()).replace('|', chr(92) + '|')} |")
        for section in (schema["definitions"][n] for n in names if n not in LEAVES):
            lines += rows(schema, section, f"{name}.")
    return lines


def shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_page_lists_every_key() -> None:
    schema = job_schema()
    text = HEAD + "\n".join(rows(schema, schema)) + "\n"
    if os.environ.get("GEOUNET_WRITE_DOCS"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, "run the tests with GEOUNET_WRITE_DOCS=1 and look at the change"


def test_the_page_about_training_lists_every_key() -> None:
    schema = job_schema("train")
    head, rule, _ = TRAINING.read_text(encoding="utf-8").partition("| key | default | what |\n| --- | --- | --- |\n")
    text = head + rule + "\n".join(rows(schema, schema)) + "\n"
    if os.environ.get("GEOUNET_WRITE_DOCS"):
        TRAINING.write_text(text, encoding="utf-8")
    assert TRAINING.read_text(encoding="utf-8") == text, "run the tests with GEOUNET_WRITE_DOCS=1; look at the change"


def test_the_training_jobs_of_the_page_are_valid() -> None:
    jobs = re.findall(r"^```yaml\n(.*?)^```", TRAINING.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    whole = parse(jobs[0])
    for text in jobs:
        keys = parse(text)
        assert parse_train(keys if "data" in keys else {**whole, **keys}, "page").data
    assert len(jobs) >= 4
