"""The JSON schema of job files, for editors and other programs."""

from __future__ import annotations

import json
from typing import Any

from geounet.config.job import Job


def job_schema() -> dict[str, Any]:
    """Return the schema of a job file in JSON Schema draft 07, which editors understand.

    pydantic writes draft 2020-12. The differences that occur in it are the name of the definitions, and `$ref` with
    neighbours, which draft 07 ignores: the reference is wrapped in `allOf`.
    """
    draft = _draft07(Job.model_json_schema(by_alias=True))
    definitions = draft.pop("$defs", {})
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "geounet job",
        **{key: value for key, value in draft.items() if key != "title"},
        "definitions": definitions,
    }


def schema_text() -> str:
    """Return the schema as text, ending in a line break; `workflows/job.schema.json` is equal to it."""
    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"


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
