"""Rules of the house that no linter knows: who imports whom, sizes and names of modules, what text must not say."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import geounet
from geounet.engine.launch import LAUNCHERS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "geounet"

# Data order; an import points to the left, or stays in its own package.
ORDER = [
    {"types", "errors", "atomic", "machine"},
    {"config"},
    {"grid"},
    {"raster"},
    {"labels"},  # training learns from them, evaluation measures by them
    {"models"},
    {"predict"},
    {"vector"},
    {"report"},
    {"engine"},
    {"batch"},
    {"testing"},
    {"evaluation"},  # training validates with its measures
    {"training"},  # the demo's model learns from generated scenes
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)


def package_of(module: Path) -> str:
    """First name below `geounet`, of a module or package."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path) -> Iterator[str]:
    """Every module that the file imports, anywhere in it, with its full name."""
    parents = ["geounet", *module.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from geounet import grid` imports geounet.grid
            yield from (f"{name}.{alias.name}" for alias in node.names) if name == "geounet" else (name,)


DISTRIBUTIONS = {"PIL": "pillow", "skimage": "scikit-image", "yaml": "PyYAML",
                 "segmentation_models_pytorch": "segmentation-models-pytorch"}  # fmt: skip
"""Names of packages whose modules are called otherwise."""


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {Requirement(text).name for text in project["dependencies"]}
    optional = {Requirement(text).name for texts in project["optional-dependencies"].values() for text in texts}
    tops = {name.split(".")[0] for module in MODULES for name in imports(module)} - {
        "geounet",
        *sys.stdlib_module_names,
    }
    imported = {DISTRIBUTIONS.get(top, top) for top in tops}
    assert imported - needed - optional == set(), "imported, but only there by chance"
    # torchvision: torch of another build than its pair breaks it, and smp and timm import it
    # onnx and onnxscript: torch.onnx imports them; tensorboard: torch.utils.tensorboard does
    # launchers of clusters: imported by the kind that a job names, out of one table
    others = {launcher.package for launcher in LAUNCHERS.values()}
    assert (needed | optional) - imported - others - {"torchvision", "onnx", "onnxscript", "tensorboard"} == set()
    for kind, launcher in LAUNCHERS.items():
        assert [Requirement(text).name for text in project["optional-dependencies"][kind]] == [launcher.package]


def importing(names: set[str]) -> dict[str, set[str]]:
    """Packages of ours whose modules import one of the top-level names, with the modules."""
    found: dict[str, set[str]] = {}
    for module in MODULES:
        if {name.partition(".")[0] for name in imports(module)} & names:
            found.setdefault(package_of(module), set()).add(str(module.relative_to(PACKAGE)))
    return found


def test_the_walk_sees_imports() -> None:
    # Otherwise the tests below would pass on an empty list.
    assert len(MODULES) > 20
    assert "geounet.errors" in set(imports(PACKAGE / "config/load.py"))
    assert "click" in set(imports(PACKAGE / "cli/main.py"))


def test_every_package_has_its_place() -> None:
    assert {package_of(m) for m in MODULES} - {"__init__"} <= set(RANK)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_imports_point_to_the_left(module: Path) -> None:
    own = package_of(module)
    if own == "__init__":  # the public names, which come from everywhere
        return
    wrong = []
    for name in imports(module):
        parts = name.split(".")
        if parts[0] == "geounet" and len(parts) > 1 and parts[1] != own and RANK.get(parts[1], -1) >= RANK[own]:
            # Names of one rank may use each other only where they are single modules without a package.
            if RANK.get(parts[1]) == RANK[own] == 0:
                continue
            wrong.append(name)
    assert wrong == []


def test_only_the_command_line_imports_click_and_rich() -> None:
    assert set(importing({"click", "rich"})) <= {"cli"}


def test_only_models_and_training_import_networks() -> None:
    assert set(importing({"segmentation_models_pytorch", "timm"})) <= {"models", "training", "testing", "cli"}
    assert importing({"segmentation_models_pytorch", "timm"}).get("cli", set()) <= {"cli/doctor.py"}


def test_pure_parts_know_no_files_and_no_torch() -> None:
    heavy = {"torch", "torchvision", "rasterio", "geopandas", "pyogrio", "dask", "distributed"}
    assert set(importing(heavy)) & {"types", "errors", "atomic", "machine", "config", "grid"} == set()


def test_dask_stays_in_the_engine() -> None:
    assert set(importing({"dask", "distributed"})) <= {"engine", "batch", "testing", "cli"}


def test_the_engine_knows_no_pixels() -> None:
    assert "engine" not in importing({"rasterio", "torch", "shapely", "pyogrio", "geopandas", "PIL", "scipy"})


def test_one_module_asks_what_the_machine_has() -> None:
    # Dask, psutil and the standard library know only some of the limits.
    asks = re.compile(r"sched_getaffinity|process_cpu_count|CPU_COUNT|MEMORY_LIMIT|virtual_memory\(\)\.total")
    assert [m.name for m in MODULES if asks.search(m.read_text(encoding="utf-8"))] == ["machine.py"]


def test_a_protocol_is_defined_once() -> None:
    classes = (
        n for m in MODULES for n in ast.walk(ast.parse(m.read_text(encoding="utf-8"))) if type(n) is ast.ClassDef
    )
    names = [c.name for c in classes if any(isinstance(b, ast.Name) and b.id == "Protocol" for b in c.bases)]
    assert "Progress" in names
    assert sorted(names) == sorted(set(names))


def test_an_error_is_told_by_one_function_each() -> None:
    trees = (ast.parse(m.read_text(encoding="utf-8")) for m in MODULES)
    names = [node.name.strip("_") for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert [name for name in sorted(names) if name in ("first_line", "one_line")] == ["first_line", "one_line"]


def test_modules_are_short_and_have_one_word_names() -> None:
    for module in MODULES:
        lines = len(module.read_text(encoding="utf-8").splitlines())
        assert lines <= 500, f"{module.relative_to(ROOT)}: {lines} lines; split it by meaning"
        if module.stem not in ("__init__", "__main__"):
            assert re.fullmatch(r"[a-z]+[0-9]*", module.stem), f"{module.relative_to(ROOT)}: one word, lower case"


def test_every_package_says_what_it_is() -> None:
    for module in MODULES:
        assert ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))), module.relative_to(ROOT)


def tracked() -> list[Path]:
    result = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("needs a git checkout")
    return [ROOT / name for name in result.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            yield path, data.decode("utf-8")


def test_tracked_text_names_no_registry_and_no_place_of_this_machine() -> None:
    hosts = ["py" + "pi.org", "python" + "hosted.org", "registry." + "npmjs", "deb." + "debian.org"]
    places = [f"{folder}/" for folder in (ROOT, Path.home()) if len(folder.parts) > 1]
    found = [
        f"{path.relative_to(ROOT)}: {word}" for path, text in texts() for word in [*hosts, *places] if word in text
    ]
    assert found == []


def test_nothing_tracked_is_large() -> None:
    bundled = ROOT / "geounet/models/bundled"
    sizes = {p: p.stat().st_size for p in tracked()}
    most = {p: 30_000_000 if p.is_relative_to(bundled) and p.name == "model.safetensors" else 8 << 20 for p in sizes}
    assert [f"{p.relative_to(ROOT)}: {size >> 20} MiB" for p, size in sizes.items() if size > most[p]] == []


def test_nothing_is_left_unfinished() -> None:
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3 + r"\b", "raise Not" + "ImplementedError")))
    assert [str(p.relative_to(ROOT)) for p, t in texts() if p.suffix == ".py" and marks.search(t)] == []


def test_public_functions_take_and_return_public_names() -> None:
    """Whoever calls `geounet.run` and the like needs no module of ours."""
    ours = {
        node.name
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    functions = [found for name in geounet.__all__ if inspect.isfunction(found := getattr(geounet, name))]
    assert len(functions) >= 4
    for function in functions:
        named = set(re.findall(r"\w+", " ".join(map(str, function.__annotations__.values()))))
        assert (named & ours) - set(geounet.__all__) == set(), function.__name__
