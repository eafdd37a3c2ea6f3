"""The rules of the house, read from the imports themselves."""

import ast
import graphlib
import json
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from viewmill.settings import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
GROUND = {"errors", "console", "files"}  # known by all, knowing none but one another
MAY_IMPORT: dict[str, set[str]] = {  # which room or top-level file may know which others, beside the ground; no circles
    "errors": set(),
    "console": set(),
    "files": {"errors", "console"},
    "methods": set(),
    "settings": set(),
    "distributed": set(),
    "pipeline": set(),
    "checkpoint": {"pipeline"},  # migration knows the recipes
    "models": {"methods", "checkpoint"},
    "objectives": {"methods", "distributed", "pipeline"},  # random numbers alone: a test below
    "evaluation": {"pipeline"},
    "training": {"methods", "settings", "distributed", "pipeline", "checkpoint", "models", "objectives", "evaluation"},
    "transfer": {"settings", "distributed", "pipeline", "checkpoint", "models", "evaluation", "training"},
    "export": {"pipeline", "checkpoint", "models", "training"},
    "report": {"settings", "pipeline", "checkpoint", "training"},
    "study": {"settings", "methods", "pipeline", "training"},
    "benchmarks": {
        "settings",
        "methods",
        "distributed",
        "pipeline",
        "checkpoint",
        "models",
        "objectives",
        "training",
        "run",
    },
    "run": {"settings", "distributed", "commands", "training"},
}
MAY_IMPORT["commands"] = MAY_IMPORT.keys() - {"commands", "run"}
PACKAGES = tuple(name for name in MAY_IMPORT if (ROOT / name).is_dir())
LIMIT = 400  # lines: past them a file may be telling that it is two things
AT_THE_TOP = {"__init__", "console", "errors", "run"}


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


def files_of(room: str) -> list[Path]:
    return list((ROOT / room).rglob("*.py")) or [ROOT / f"{room}.py"]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room):
    for path in files_of(room):
        foreign = imports(path) - {room} - (GROUND if room not in GROUND else set())
        if path != ROOT / "benchmarks" / "trace.py":  # a program of its own, that gives the other one command lines
            foreign = foreign if "run" not in foreign else foreign | {"nothing imports the program"}
        assert foreign <= MAY_IMPORT[room], f"{path.name} imports {foreign - MAY_IMPORT[room]}"


def test_objectives_take_random_numbers_from_the_pipeline_and_nothing_else():
    """Which rows are drawn is theirs to say; how images come to be views is not."""
    taken = []
    for path in files_of("objectives"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pipeline":
                taken += [f"{node.module}: {alias.name}" for alias in node.names]
    assert set(taken) == {"pipeline: counter"}


def test_the_table_has_every_file_and_no_circle():
    told = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, text=True, check=True, cwd=ROOT)
    rooms = {Path(line).parts[0].removesuffix(".py") for line in told.stdout.splitlines()} - {"tests", "__init__"}
    assert rooms == MAY_IMPORT.keys()
    whole = {room: others | GROUND if room not in GROUND else others for room, others in MAY_IMPORT.items()}
    whole["benchmarks"] = whole["benchmarks"] - {"run"}
    assert list(graphlib.TopologicalSorter(whole).static_order())  # raises CycleError


def test_a_training_travels_whole_through_few_functions():
    """Each room gets its part of the settings: `views`, `optimisation`, and so on."""
    whole = []
    for path in (path for room in MAY_IMPORT for path in files_of(room)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                hints = [ast.unparse(given.annotation) for given in node.args.args if given.annotation]
                whole += [f"{path.name}: {node.name}"] if "Train" in hints else []
    assert len(whole) <= 8, whole


def test_few_files_stand_at_the_top():
    assert {path.stem for path in ROOT.glob("*.py")} == AT_THE_TOP


def test_tests_stand_in_the_folder_of_their_room():
    """Beside them lie those of the house as a whole: its program, its rules, its packaging, its pages."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        room = path.relative_to(ROOT / "tests").parent
        assert (ROOT / room / "__init__.py").exists() or room == Path("."), path
    assert {path.stem for path in (ROOT / "tests").glob("test_*.py")} == {
        *(
            "test_console",
            "test_docs",
            "test_extending",
            "test_fuzz",
            "test_gpu",
            "test_packaging",
            "test_run",
            "test_structure",
        )
    }


def test_every_command_has_a_file_with_a_function_of_its_name():
    for settings in COMMANDS:
        name = settings.__name__.lower()
        body = ast.parse((ROOT / "commands" / f"{name}.py").read_text()).body
        assert name in [node.name for node in body if isinstance(node, ast.FunctionDef)]


def test_no_file_has_grown_into_two():
    sizes = {path: len(path.read_text().splitlines()) for room in MAY_IMPORT for path in files_of(room)}
    assert not [(path.name, size) for path, size in sizes.items() if size > LIMIT]


def test_the_type_checker_reads_every_file_but_the_tests_themselves():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["basedpyright"]
    assert told["include"] == ["."]
    assert set(told["exclude"]) == {".venv", ".make", "build", "runs", "tests/**/test_*.py", "**/__pycache__"}


def loaded_by(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_settings_and_help_need_neither_torch_nor_the_engines():
    modules = ["viewmill", *(f"viewmill.{package}" for package in PACKAGES), "viewmill.run", "viewmill.settings"]
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
