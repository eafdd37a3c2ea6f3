"""The pages: what they name exists, and every method has its place in one of them."""

import re
from pathlib import Path

import pytest

from viewmill.methods.overrides import changed, method_named
from viewmill.methods.table import METHODS

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["tests", "docs", *sorted({path.parent.name for path in ROOT.glob("*/__init__.py")})]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_every_method_stands_on_a_page_of_its_family():
    named = set().union(
        *(re.findall(r"`([a-z0-9-]+)`", page.read_text()) for page in (ROOT / "docs" / "methods").glob("*.md"))
    )
    assert set(METHODS) <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_methods_and_settings_in_command_lines_are_ones_that_can_be_had(page):
    for line in re.findall(r"^viewmill train .*$", page.read_text(), flags=re.M):
        words = line.split("#")[0].split()
        name = words[2] if not words[2].startswith("-") else "simclr"
        settings = words[words.index("--set") + 1 :] if "--set" in words else []
        changed(method_named(name), [word for word in settings if not word.startswith("-")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    for name in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[a-z_0-9./-]+\.(?:py|md))`", page.read_text()):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_readme_counts_the_rows_of_the_table():
    assert f"prints all {len(METHODS)} rows" in (ROOT / "README.md").read_text()
