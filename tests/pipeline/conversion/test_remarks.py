"""Remarks: what a person should know and is no loss is counted by kind, listed beside the file, and said once."""

import json
import shutil
from pathlib import Path

import pytest

from viewmill.pipeline.beton.manifest import sidecars
from viewmill.pipeline.conversion import convert as conversion
from viewmill.pipeline.conversion.convert import convert, remarks_on
from viewmill.pipeline.sources.candidate import Candidate, Rejected, Remark, Span
from viewmill.run import main


class Mixed:
    """A source that lists images, losses, and files that it passes over."""

    columns, classes = (), None

    def __init__(self, path: Path) -> None:
        self.path = path

    def items(self):
        for number, path in enumerate(sorted(self.path.rglob("*.jpg"))):
            if number % 4 == 0:
                yield Remark(f"{path}.txt", "passed over: no image by its name")
            if number % 8 == 0:
                yield Rejected(f"{path}.lnk", "a link that leads out of the folder")
            yield Candidate(str(path), path.name, Span(str(path)), None, path.stat().st_size)
        yield Remark(str(self.path), "the table names files that are not here", "3 of 27 lines")


@pytest.fixture
def mixed(photos, monkeypatch):
    monkeypatch.setattr(conversion, "open_sources", lambda paths, reading: [Mixed(path) for path in paths])
    return photos


@pytest.mark.parametrize("workers", [0, 2])
def test_remarks_of_a_source_are_counted_listed_and_said_and_are_no_loss(mixed, tmp_path, workers):
    done = convert([mixed], tmp_path / "a.beton", workers=workers, max_bad=3)
    assert (done.rows, done.rejected) == (24, 3)
    assert {kind: counted.files for kind, counted in done.remarks.items()} == {
        "passed over: no image by its name": 6,
        "the table names files that are not here": 1,
    }
    paths = sidecars(done.target)
    lines = [json.loads(line) for line in paths["remarks"].read_text().splitlines()]
    assert len(lines) == 7
    assert lines[-1] == {"path": str(mixed), "kind": "the table names files that are not here", "detail": "3 of 27 lines"}
    assert json.loads(paths["manifest"].read_text())["remarks"] == {kind: each.files for kind, each in done.remarks.items()}
    first = sorted(mixed.rglob("*.jpg"))[0]
    said = list(remarks_on(done))
    assert said[:3] == [
        f"6 files: passed over: no image by its name; the first: {first}.txt",
        f"{mixed}: the table names files that are not here (3 of 27 lines)",
        f"all remarks (7): {paths['remarks']}",
    ]
    assert said[-1] == f"all quarantined, with their reasons (3): {paths['quarantine']}"


def test_a_share_of_bad_files_is_one_of_all_that_are_listed(mixed, tmp_path):
    with pytest.raises(ValueError, match="3 of 27 files are unusable, more than --max-bad bears"):
        convert([mixed], tmp_path / "a.beton", max_bad=0.1)
    assert convert([mixed], tmp_path / "a.beton", max_bad=0.112).rejected == 3


def test_without_remarks_there_is_no_file_of_them_and_an_old_one_goes(photos, tmp_path):
    folder, target = tmp_path / "source", tmp_path / "a.beton"
    shutil.copytree(photos, folder)
    sidecars(target)["remarks"].write_text("of an older conversion")
    assert convert([folder], target).remarks == {}
    assert not sidecars(target)["remarks"].exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_limit_that_is_no_number_of_files_is_refused(photos, tmp_path, capsys, value):
    assert main(["convert", str(photos), str(tmp_path / "a.beton"), f"--max-bad={value}"]) == 2
    assert "--max-bad must be" in capsys.readouterr().err
