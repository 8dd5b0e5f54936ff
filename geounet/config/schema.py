"""The JSON schemas of job files and training jobs, for editors and other programs."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from geounet.config.job import Job
from geounet.config.train import TrainJob

KINDS: dict[str, tuple[type[BaseModel], str]] = {"job": (Job, "geounet job"), "train": (TrainJob, "geounet train")}
"""What there is a schema of, with its model and title."""


def job_schema(kind: str = "job") -> dict[str, Any]:
    """Return the schema of a job file (or training job, `train`) in JSON Schema draft 07, which editors understand.

    pydantic writes draft 2020-12. The differences that occur in it are the name of the definitions, and `$ref` with
    neighbours, which draft 07 ignores: the reference is wrapped in `allOf`.
    """
    model, title = KINDS[kind]
    draft = _draft07(model.model_json_schema(by_alias=True))
    definitions = draft.pop("$defs", {})
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": title,
        **{key: value for key, value in draft.items() if key != "title"},
        "definitions": definitions,
    }


def schema_text(kind: str = "job") -> str:
    """Return a schema as text, ending in a line break; `workflows/<kind>.schema.json` is equal to it."""
    return json.dumps(job_schema(kind), indent=2, ensure_ascii=False) + "\n"


def _draft07(node: Any) -> Any:
    if isinstance(node, list):
        return [_draft07(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    result = {key: _draft07(value) for key, value in node.items()}
    if "$ref" in result:
        reference = {"$ref": str(result.pop("$ref")).replace("#/$defs/", "#/definitions/")}
        return {"allOf": [reference], **result} if result else reference
    return result
