"""What stands around the program: workflows, make, locks, the image."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from geounet.config.document import parse
from geounet.config.load import load_job
from geounet.config.train import load_train
from geounet.models.bundle import list_bundles

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.yaml"))
TRAININGS = [file for file in WORKFLOWS if file.stem.startswith("train_")]
JOBS = [file for file in WORKFLOWS if file not in TRAININGS]
BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None or os.name == "nt", reason="needs bash")


def test_there_are_workflows() -> None:
    assert {file.stem for file in WORKFLOWS} >= {
        "quickstart", "aerial_buildings", "landcover_cluster", "nightly", "slurm_workers", "train_quick",
        "train_aerial", "train_aerial_all",
    }  # fmt: skip


@pytest.mark.parametrize("file", JOBS, ids=lambda f: f.stem)
def test_every_workflow_is_a_valid_job(file: Path) -> None:
    from geounet.cli.check import misfits

    job = load_job(file)
    for bundle in list_bundles():
        if bundle.card.name == job.model:
            assert list(misfits(job, bundle.card)) == []
    schema = json.loads((file.parent / "job.schema.json").read_text(encoding="utf-8"))
    Draft7Validator(schema).validate(yaml.safe_load(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", TRAININGS, ids=lambda f: f.stem)
def test_every_training_is_valid_without_its_data(file: Path) -> None:
    job = load_train(file, ["root=/nowhere"])
    assert {info.kind for info in job.infos()} >= {"building", "road"}
    schema = json.loads((file.parent / "train.schema.json").read_text(encoding="utf-8"))
    Draft7Validator(schema).validate(parse(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda f: f.stem)
def test_every_workflow_names_its_schema_first(file: Path) -> None:
    first = file.read_text(encoding="utf-8").splitlines()[0]
    name = first.removeprefix("# yaml-language-server: $schema=")
    assert name != first
    assert (file.parent / name).is_file()


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda f: f.stem)
def test_commands_in_comments_exist(file: Path) -> None:
    from geounet.cli.main import COMMANDS

    words = re.findall(r"^#.*?\bgeounet((?: --?[a-z-]+)*) ([a-z]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    for _, command in words:
        assert command in COMMANDS


def fake(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!{BASH}\n{body}\n")
    path.chmod(0o755)


def slurm(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the batch script with the programs in `folder` before all others."""
    return subprocess.Popen(
        [str(BASH), str(ROOT / "workflows/slurm.sh"), *arguments],
        cwd=folder,
        env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@needs_bash
def test_slurm_on_one_node(tmp_path: Path) -> None:
    fake(tmp_path, "geounet", 'echo "$@"; exit 3')
    with slurm(tmp_path, "job.yaml", "--bbox", "1,2,3,4", SLURM_CPUS_PER_TASK="16") as process:
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 3
    assert out == "run job.yaml --set cluster.workers=4 --set cluster.threads=4 --bbox 1,2,3,4\n"


@needs_bash
def test_slurm_on_several_nodes(tmp_path: Path) -> None:
    # The real run waits for workers, too: without them the script would end before it has started any.
    fake(tmp_path, "geounet", 'while ! grep -q srun calls; do sleep 0.05; done; echo "geounet $@"')
    fake(tmp_path, "hostname", "echo node1")
    fake(tmp_path, "srun", 'echo "srun $@" >> calls; exec sleep 60')
    fake(
        tmp_path,
        "dask",
        'echo "dask $@" >> calls; for last; do :; done; sleep 0.3\n'
        """printf '{"address": "tcp://node1:1234"}' > "$last"; exec sleep 60""",
    )
    with slurm(tmp_path, "job.yaml", SLURM_JOB_NUM_NODES="4", SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="8") as process:
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "--set cluster.kind=address --set cluster.address=tcp://node1:1234" in out
    calls = (tmp_path / "calls").read_text()
    assert "dask scheduler --host node1 --port 0" in calls
    assert "srun --ntasks-per-node=1 --cpus-per-task=8 dask worker tcp://node1:1234 --nworkers 2 --nthreads 1" in calls
    assert list(tmp_path.glob(".dask-scheduler*")) == []


@needs_bash
def test_slurm_job_that_runs_out_of_time_is_requeued(tmp_path: Path) -> None:
    fake(tmp_path, "geounet", "trap 'echo put down; exit 143' TERM; echo ready; while :; do sleep 0.1; done")
    fake(tmp_path, "scontrol", 'echo "scontrol $@"')
    with slurm(tmp_path, "job.yaml", SLURM_JOB_ID="7") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert out.splitlines() == ["put down", "scontrol requeue 7"]


def test_systemd_units_name_what_exists() -> None:
    service = (ROOT / "workflows/systemd/geounet.service").read_text()
    timer = (ROOT / "workflows/systemd/geounet.timer").read_text()
    assert re.search(r"^ExecStart=\S+/geounet --quiet --log-json batch \S+\.yaml$", service, re.MULTILINE)
    assert "SuccessExitStatus=75" in service
    assert "OnCalendar=" in timer


def test_the_service_survives_the_death_of_a_worker_and_has_a_place_for_caches() -> None:
    service = (ROOT / "workflows/systemd/geounet.service").read_text().splitlines()
    assert "OOMPolicy=continue" in service, "the default ends the service with the first process killed for memory"
    (folder,) = [line.removeprefix("CacheDirectory=") for line in service if line.startswith("CacheDirectory=")]
    assert f"Environment=MPLCONFIGDIR=%C/{folder}/matplotlib" in service


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", ["geounet.service", "geounet.timer"])
def test_systemd_understands_the_units(tmp_path: Path, unit: str) -> None:
    for file in (ROOT / "workflows/systemd").iterdir():
        text = re.sub(r"^(ExecStart=).*", r"\1/bin/true", file.read_text(), flags=re.MULTILINE)  # ours is not installed
        (tmp_path / file.name).write_text(text)
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)], capture_output=True, text=True, check=False
    )
    assert [line for line in found.stderr.splitlines() if str(tmp_path) in line] == []


@needs_bash
@pytest.mark.parametrize("script", [".ci/run", "workflows/slurm.sh"])
def test_scripts_are_valid_and_executable(script: str) -> None:
    subprocess.run([str(BASH), "-n", str(ROOT / script)], check=True)
    assert os.access(ROOT / script, os.X_OK)
    assert "set -euo pipefail" in (ROOT / script).read_text()


@pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="needs make")
def test_make_tests_after_linting_and_adds_the_tools_to_the_demos_environment(tmp_path: Path) -> None:
    def steps(target: str) -> str:
        result = subprocess.run(
            ["make", "-n", target, f"VENV={tmp_path}/venv", "JOBS=3", "PYTEST_ARGS=-k word"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return result.stdout

    demo, test = steps("demo"), steps("test")
    assert "--require-hashes --only-binary :all: -r requirements.lock" in demo
    assert "requirements-test.lock" not in demo
    assert "geounet demo demo/" in demo
    order = [
        "-r requirements.lock",
        "-r requirements-test.lock",
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "-m pytest -n 3 --dist loadfile --no-loadscope-reorder -k word",
    ]
    assert sorted(order, key=test.index) == order
    for target in ("lint", "bench", "lock", "clean", "help"):
        assert steps(target)


def locked(name: str) -> dict[str, list[Requirement]]:
    """Requirements of a lock file by name; a name occurs once a marker."""
    found: dict[str, list[Requirement]] = {}
    text = (ROOT / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        requirement = Requirement(line.split("--hash=")[0].strip())
        assert "--hash=sha256:" in line, f"{name}: {requirement} has no hash"
        assert [s.operator for s in requirement.specifier] == ["=="], f"{name}: {requirement} is not pinned"
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def test_locks_are_hashed_and_consistent() -> None:
    runtime, test = locked("requirements.lock"), locked("requirements-test.lock")
    assert {"torch", "torchvision", "hatchling", "editables"} <= set(runtime)
    for name, requirements in runtime.items():
        assert sorted(str(r) for r in test[name]) == sorted(str(r) for r in requirements), name
    assert {"pytest", "hypothesis", "mypy", "ruff"} <= set(test)
    assert "pytest" not in runtime
    for name in ("requirements.lock", "requirements-test.lock"):
        assert not re.search(r"^--|://", (ROOT / name).read_text(), re.MULTILINE), "a lock names no index"


def test_locks_hold_what_the_package_needs() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = locked("requirements.lock")
    for text in project["dependencies"]:
        requirement = Requirement(text)
        pins = runtime[canonicalize_name(requirement.name)]
        for pin in pins:
            (specifier,) = pin.specifier
            assert requirement.specifier.contains(specifier.version), f"{pin} does not fit {text}"


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "docker/Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def in_build_context(path: str) -> bool:
    """Whether .dockerignore lets a path through: the last pattern that matches it or a folder above decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            parts = Path(path).parts
            above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
            if any(fnmatch(p, pattern.lstrip("!").removeprefix("**/")) for p in above):
                kept = pattern.startswith("!")
    return kept


def test_the_image_takes_its_base_as_an_argument() -> None:
    steps = instructions()
    assert steps[0][0] == "ARG"
    assert steps[0][1].startswith("BASE=")
    bases = [rest.split()[0] for word, rest in steps if word == "FROM"]
    assert len(bases) == 2
    assert set(bases) == {"${BASE}"}


def test_the_image_is_made_of_what_exists() -> None:
    copied = 0
    for word, rest in instructions():
        if word in ("COPY", "ADD") and not rest.startswith("--from="):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert in_build_context(source), f"{source} is in .dockerignore"
                copied += 1
    assert copied == 5
    assert not in_build_context("tests/unit")
    assert not in_build_context(".git")


def test_the_image_is_pinned_and_unprivileged() -> None:
    steps = instructions()
    last = dict(steps[max(i for i, s in enumerate(steps) if s[0] == "FROM") :])
    assert json.loads(last["ENTRYPOINT"]) == ["geounet"]
    assert last["USER"] not in ("root", "0")
    installs = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    assert any("--require-hashes" in rest and "requirements.lock" in rest for rest in installs)
    assert all("--require-hashes" in rest or "--no-deps" in rest for rest in installs)


@needs_bash
def test_ci_ends_with_the_tests(tmp_path: Path) -> None:
    """The entry chooses a Python and hands over to `make test`."""
    fake(tmp_path, "make", 'echo "make $@"')
    fake(tmp_path, "apt-get", "exit 0")  # nothing is installed here
    (tmp_path / "python3").symlink_to(sys.executable)
    result = subprocess.run(
        [str(ROOT / ".ci/run")],
        env={"PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.splitlines()[-1] == "make test PYTHON=python3"
