"""The rules of the house, read from the imports themselves."""

import ast
import json
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GROUND = {"errors", "console", "files"}  # known by all, knowing none but one another
MAY_IMPORT: dict[str, set[str]] = {  # which room or top-level file may know which others, beside the ground
    "errors": set(),
    "console": set(),
    "files": {"errors", "console"},
    "methods": set(),
    "distributed": set(),
    "pipeline": set(),
    "checkpoint": {"pipeline"},  # migration knows the recipes
    "models": {"checkpoint"},
    "objectives": {"methods", "distributed"},
    "evaluation": {"pipeline"},
    "training": {"methods", "distributed", "pipeline", "checkpoint", "models", "objectives", "evaluation", "commands"},
    "transfer": {"distributed", "pipeline", "checkpoint", "models", "evaluation", "training", "commands", "datasets"},
    "export": {"pipeline", "checkpoint", "models", "training", "commands"},
    "report": {"pipeline", "checkpoint", "training", "commands", "datasets"},
    "study": {"methods", "pipeline", "training", "commands", "datasets"},
    "commands": set(),
    "benchmarks": {"methods", "pipeline", "models", "objectives", "training", "commands", "datasets", "run"},
}
PACKAGES = tuple(name for name in MAY_IMPORT if (ROOT / name).is_dir())
LIMIT, RUN_LIMIT = 260, 450  # lines: past them a file is telling that it is two things


def imports(path: Path) -> set[str]:
    """Which rooms of the house a file imports: the first part of each relative import."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = path.relative_to(ROOT).parts[:-1]
            parts = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            rooms |= {parts[0]} if parts[0] else {alias.name for alias in node.names}
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module else []
        assert not [name for name in names if name.split(".")[0] in (*PACKAGES, "run")], f"{path} imports absolutely"
    return rooms


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_only_what_they_may(package):
    for path in (ROOT / package).rglob("*.py"):
        foreign = imports(path) - {package} - (GROUND if package not in GROUND else set())
        assert foreign <= MAY_IMPORT[package], f"{path.name} imports {foreign - MAY_IMPORT[package]}"


def test_nothing_imports_the_program():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")] + list(ROOT.glob("*.py"))
    programs = ("run.py", "trace.py")  # which is a program of its own, that gives it command lines
    assert not [path for path in files if "run" in imports(path) and path.name not in programs]


def test_no_file_has_grown_into_two():
    sizes = {path: len(path.read_text().splitlines()) for path in ROOT.glob("**/*.py") if ".venv" not in path.parts}
    house = {path: size for path, size in sizes.items() if path.relative_to(ROOT).parts[0] not in ("tests", "build")}
    assert not [(path.name, size) for path, size in house.items() if size > (RUN_LIMIT if path.name == "run.py" else LIMIT)]


def test_the_type_checker_reads_every_file_but_the_tests_themselves():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["basedpyright"]
    assert told["include"] == ["."]
    assert set(told["exclude"]) == {".venv", ".make", "build", "runs", "tests/**/test_*.py", "**/__pycache__"}


def loaded_by(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_settings_and_help_need_neither_torch_nor_the_engines():
    modules = ["viewmill", *(f"viewmill.{package}" for package in PACKAGES), "viewmill.run", "viewmill.commands"]
    modules += ["viewmill.pipeline.views.recipe", "viewmill.methods.table"]
    loaded = loaded_by("import " + ", ".join(modules))
    assert not loaded & {"torch", "torchvision", "numba", "ffcv", "nvidia.dali", "accelerate"}


def test_conversion_needs_no_torch():
    assert not loaded_by("import viewmill.pipeline.conversion.convert") & {"torch", "numba", "ffcv"}


def test_the_mill_never_imports_ffcv_itself():
    loaded = loaded_by("import viewmill.pipeline.engines.ffcv_engine as d\nd.kernels.bind()")
    assert "ffcv" not in loaded


def test_help_answers_within_a_second():
    def used() -> float:  # processor time: what others run on this machine does not count
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    subprocess.run([sys.executable, str(ROOT / "run.py"), "train", "--help"], capture_output=True, check=True)
    assert used() - before < 1.0
