"""What README and docs show is run: shell blocks, job files and Python, in order, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from geounet.config.document import parse
from geounet.config.job import Job
from geounet.config.train import TrainJob

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[tuple[str, str]]:
    return [(m.group(1), m.group(2)) for m in BLOCK.finditer(path.read_text(encoding="utf-8"))]


@pytest.mark.slow
def test_readme_runs(tmp_path: Path) -> None:
    from geounet.testing.scenes import generate

    generate(tmp_path / "scene.tif", width=640, height=512, seed=3)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = []
    for language, text in blocks(ROOT / "README.md"):
        if language == "yaml":
            (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
            continue
        if language == "sh":
            commands = [["bash", "-c", line] for line in text.splitlines() if line.strip()]
        elif language == "python":
            (tmp_path / "block.py").write_text(text, encoding="utf-8")
            commands = [[sys.executable, "block.py"]]
        else:
            continue
        for command in commands:
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            ran.append(command)
    assert len(ran) >= 7
    assert (tmp_path / "results" / "scene" / "scene_prob.tif").exists()
    assert (tmp_path / "roads.gpkg").exists()


def test_console_blocks_name_real_commands_and_options() -> None:
    from click.testing import CliRunner

    from geounet.cli.main import COMMANDS, cli

    shown = 0
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for language, text in blocks(path):
            if language not in ("console", "sh"):
                continue
            for line in text.replace("\\\n", " ").splitlines():
                words = line.removeprefix("$ ").split()
                if not words or words[0] != "geounet" or words[1].startswith("-"):
                    continue
                assert words[1] in COMMANDS, f"{path}: {line}"
                depth = words[1:3] if words[1] == "model" else words[1:2]
                help_text = CliRunner().invoke(cli, [*depth, "--help"]).output
                for option in (w.split("=")[0] for w in words if w.startswith("--")):
                    assert option in help_text, f"{path}: {line}: no {option}"
                shown += 1
    assert shown >= 6


def as_job(block: dict[str, Any]) -> None:
    Job.model_validate({"scenes": ["a.tif"], "model": "demo", "outputs": {"folder": "out"}, **block})


def as_training(block: dict[str, Any]) -> None:
    data = [{"scenes": "a.tif", "labels": [{"files": "b.tif"}]}]
    TrainJob.model_validate({"classes": ["building", "land", "road"], "data": data, **block})


def as_labels(block: dict[str, Any]) -> None:
    # in an evaluation `other` stands for all classes that are not named
    as_training({"classes": ["building", "road", "other"], "data": [{"scenes": "a.tif", **block}]})


def test_yaml_blocks_are_valid_whole_or_in_part() -> None:
    shown = 0
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for language, text in blocks(path):
            if language != "yaml":
                continue
            found, reasons = parse(text), []
            for reads in (as_job, as_training, as_labels):
                try:
                    reads(found)
                except ValidationError as error:
                    reasons.append(str(error))
            assert len(reasons) < 3, f"{path}: {text}\n" + "\n".join(reasons)
            shown += 1
    assert shown >= 6


def test_links_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path}: {target}"
