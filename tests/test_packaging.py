"""The wheel, built, installed elsewhere and run from another folder: the repository must not mask a packaging fault."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = tuple(sorted(path.parent.name for path in ROOT.glob("*/__init__.py")))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    tracked = [*ROOMS, *(path.name for path in ROOT.glob("*.py")), "py.typed", "pyproject.toml"]
    for name in [*tracked, "README.md", "LICENSE"]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    built = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, str(site / "bin" / "viewmill"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_one_package_and_nothing_generic(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"viewmill"}
    assert {f"viewmill/{room}/__init__.py" for room in ROOMS} <= set(names)
    assert {f"viewmill/{path.name}" for path in ROOT.glob("*.py")} | {
        f"viewmill/{path.relative_to(ROOT)}" for room in ROOMS for path in (ROOT / room).rglob("*.py")
    } <= set(names)
    assert {"viewmill/py.typed", "viewmill/report/page.css", "viewmill/report/page.js"} <= set(names)
    assert not [name for name in names if "tests/" in name]


def test_the_installed_command_converts_from_another_folder(site, photos, tmp_path):
    done = run(site, tmp_path, "convert", str(photos), "photos.beton", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "photos.beton.json").exists()
    where = [sys.executable, "-c", "import viewmill.pipeline.conversion.convert as c; print(c.__file__)"]
    answer = subprocess.run(where, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True)
    assert answer.stdout.startswith(str(site))


def test_the_script_converts_from_a_folder_of_any_name_without_being_installed(photos, tmp_path):
    house = tmp_path / "some-checkout"
    for name in ROOMS:
        shutil.copytree(ROOT / name, house / name)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, house / path.name)
    # -S -I would drop the environment's packages too: only the editable install of viewmill itself has to be out of the way
    block = "import sys; sys.meta_path = [f for f in sys.meta_path if 'viewmill' not in getattr(f, '__module__', '')]\n"
    code = block + f"import runpy; sys.argv = ['run.py', 'convert', {str(photos)!r}, 'out.beton', '--workers', '1']\n"
    code += f"runpy.run_path({str(house / 'run.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.beton").exists()


def test_the_image_is_built_from_every_room():
    let_through = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{room}" for room in ROOMS} <= set(let_through)


def test_an_image_is_built_of_every_room():
    assert set(ROOMS) <= {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
