"""The JSON schema of job files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from geounet.config.load import parse_job
from geounet.config.schema import job_schema, schema_text
from geounet.errors import JobError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", ["job", "train"])
def test_the_committed_schema_is_the_generated_one(kind: str) -> None:
    committed = (ROOT / f"workflows/{kind}.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(kind), f"run: geounet schema {kind} > workflows/{kind}.schema.json"


@pytest.mark.parametrize("kind", ["job", "train"])
def test_it_is_draft_07(kind: str) -> None:
    schema = json.loads(schema_text(kind))
    Draft7Validator.check_schema(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for entry in node:
                walk(entry)
        elif isinstance(node, dict):
            # Keywords of later drafts, and neighbours of $ref, which draft 07 ignores.
            assert not {"$defs", "prefixItems", "unevaluatedProperties", "dependentRequired"} & set(node)
            assert "$ref" not in node or len(node) == 1
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/definitions/") in schema["definitions"]
            for entry in node.values():
                walk(entry)

    walk(schema)


@pytest.mark.parametrize("kind", ["job", "train"])
def test_every_key_is_described(kind: str) -> None:
    schema = job_schema(kind)
    sections = [schema, *schema["definitions"].values()]
    bare = [name for s in sections for name, key in s.get("properties", {}).items() if not key.get("description")]
    assert bare == []


@pytest.mark.parametrize(
    "data",
    [
        {"scenes": ["a.tif"], "model": "m"},
        {"scenes": [{"name": "a", "files": ["b.tif"]}], "models": ["m", "./n"], "vector": "none"},
        {"scenes": ["a"], "model": "m", "vector": {"buildings": {"class": "house"}, "roads": False, "cell": 7}},
        {
            "scenes": ["a"],
            "model": "m",
            "tiling": {"tile": 64, "block": "scene"},
            "nodata": [0, 255],
            "bands": [1, "red"],
        },
        {"scenes": ["a"], "model": "m", "tilling": {}},
        {"scenes": ["a"], "model": "m", "tiling": {"tile": 0}},
        {"scenes": ["a"], "model": "m", "tiling": {"tile": "x"}},
        {"scenes": [], "model": "m"},
        {"scenes": [5], "model": "m"},
        {"scenes": ["a"], "model": "m", "vector": "all"},
        {"scenes": ["a"], "model": "m", "bbox": [1, 2, 3]},
        {"scenes": ["a"], "model": "m", "predict": {"device": "gpu"}},
        {"scenes": ["a"], "model": "m", "outputs": {"probability": 1}},
        {"scenes": ["a"], "model": "m", "max_failed_blocks": -1},
        {"model": "m"},
    ],
)
def test_editors_and_the_program_agree(data: dict[str, Any]) -> None:
    try:
        parse_job(data, "test")
        valid = True
    except JobError:
        valid = False
    assert Draft7Validator(job_schema()).is_valid(data) is valid
