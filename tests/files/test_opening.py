"""How files are opened: what is not a regular file, links, sizes, outputs."""

import ast
import errno
import fcntl
import os
import socket
from pathlib import Path

import pytest

from viewmill.errors import Refused
from viewmill.export.place import building
from viewmill.files import opening
from viewmill.files.opening import Unusable
from viewmill.pipeline.beton.writer import write_beton
from viewmill.training.log import Log
from viewmill.training.run_folder import check_folder, locked


@pytest.fixture
def odd(tmp_path) -> dict[str, Path]:
    """What may stand in a file's place, by kind."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(tmp_path)  # the name of a socket has at most 107 bytes
        bound.bind("socket")
        os.chdir(here)
    return {name: tmp_path / name for name in ("folder", "pipe", "socket")} | {"device": Path("/dev/zero")}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_what_is_no_regular_file_is_neither_read_nor_changed_and_never_waited_for(odd, kind):
    for attempt in (opening.read_bytes, opening.read_text, lambda path: opening.descriptor_to_change(path, os.O_WRONLY)):
        with pytest.raises(Unusable, match=f"is a {kind}, not a regular file"):
            attempt(odd[kind])


def test_a_file_is_read_up_to_its_limit_and_through_a_link(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert opening.read_bytes(tmp_path / "link", limit=5) == b"12345"
    with pytest.raises(Unusable, match="more than 4 bytes"):
        opening.read_bytes(tmp_path / "a", limit=4)
    os.truncate(tmp_path / "a", 1 << 40)  # a hole of a terabyte is not read
    with pytest.raises(Unusable, match="more than 67,108,864 bytes"):
        opening.read_bytes(tmp_path / "a")


def test_text_is_read_without_a_byte_order_mark_and_with_plain_ends_of_lines(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree")
    assert opening.read_text(tmp_path / "a") == "one\ntwo\nthree"


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_that_is_changed_in_place_is_no_link(tmp_path, link):
    (tmp_path / "theirs").write_text("precious")
    link(tmp_path / "theirs", tmp_path / "log")
    with pytest.raises(Unusable, match="link, and what"):
        opening.descriptor_to_change(tmp_path / "log", os.O_WRONLY)
    assert (tmp_path / "theirs").read_text() == "precious"
    (tmp_path / "nowhere").symlink_to("missing")
    with pytest.raises(Unusable, match="is a link"):
        opening.descriptor_to_change(tmp_path / "nowhere", os.O_WRONLY)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_replacing_follows_no_link_in_the_place_of_the_partial_or_of_the_target(tmp_path, link):
    (tmp_path / "theirs").write_text("precious")
    link(tmp_path / "theirs", tmp_path / "out.partial")
    link(tmp_path / "theirs", tmp_path / "out")
    with opening.replacing(tmp_path / "out") as partial:
        partial.write_text("ours")
    assert (tmp_path / "theirs").read_text() == "precious"
    assert (tmp_path / "out").read_text() == "ours"
    assert not (tmp_path / "out").is_symlink()


def test_a_replacing_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "out").write_text("before")

    def broken() -> None:
        with opening.replacing(tmp_path / "out") as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text() == "before"


def test_an_output_replaces_nothing_unasked_and_a_runs_own_file_never(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    opening.check_output(tmp_path / "new.png", overwrite=False, endings=(".png",))
    (tmp_path / "old.png").write_text("")
    opening.check_output(tmp_path / "old.png", overwrite=True)
    (tmp_path / "link.png").symlink_to("old.png")
    refused = {
        tmp_path / "old.png": (False, "exists: add --overwrite"),
        tmp_path / "link.png": (True, "is a link"),
        tmp_path / "a.txt": (True, "must end in .png"),
        run / "config.json": (True, "a run's own file"),
        run / "log.jsonl": (True, "a run's own file"),
        run / "checkpoints" / "step-00000001" / "new.png": (True, "a run's own file"),
        run / "checkpoints": (True, "a run's own file"),
        tmp_path / "run": (True, "is a folder"),
    }
    for path, (overwrite, words) in refused.items():
        with pytest.raises(ValueError, match=words):
            opening.check_output(path, overwrite=overwrite, endings=(".png",) if path.suffix == ".txt" else ())
    with pytest.raises(ValueError, match=r"a\.png cannot be written, since .*missing is no folder"):
        opening.check_output(tmp_path / "missing" / "a.png", overwrite=False)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_run_writes_through_no_link_in_its_folder(tmp_path, link):
    (theirs := tmp_path / "bashrc").write_text("precious\n")
    for name in (".lock", "log.jsonl"):
        (run := tmp_path / f"run{name}").mkdir()
        link(theirs, run / name)
        with pytest.raises((Refused, Unusable), match="link, and what"), locked(run):
            Log(run / "log.jsonl", resumed_step=0)
    assert theirs.read_text() == "precious\n"


def test_a_folder_with_files_of_a_runs_names_that_is_no_run_is_somebody_elses(tmp_path):
    check_folder(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(Refused, match=r"has a file results\.json that is of no run"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    check_folder(tmp_path)


def test_a_conversion_and_an_export_write_through_no_link_in_the_place_of_their_partials(tmp_path):
    (theirs := tmp_path / "theirs").mkdir()
    (theirs / "a.txt").write_text("precious")
    (tmp_path / "x.beton.partial").symlink_to(theirs / "a.txt")
    with pytest.raises(Unusable, match="is a link"):
        write_beton(tmp_path / "x.beton", iter(()), capacity=0)
    (tmp_path / ".out.partial").symlink_to(theirs)
    with pytest.raises(OSError, match="is a link"), building(tmp_path / "out"):
        pass
    assert (theirs / "a.txt").read_text() == "precious"


@pytest.mark.parametrize("kind", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_once_of_each_place_and_the_work_goes_on(tmp_path, monkeypatch, capsys, kind):
    def none(*_):
        raise OSError(kind, os.strerror(kind))

    monkeypatch.setattr(fcntl, "flock", none)
    for _ in range(2):
        with locked(tmp_path):
            pass
        assert write_beton(tmp_path / "x.beton", iter(()), capacity=0) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" cannot be locked")[0] for line in said] == [str(tmp_path), str(tmp_path / "x.beton.partial")]


ROOT = Path(__file__).resolve().parents[2]
BARE = {"read_text", "write_text", "read_bytes", "write_bytes"}
BY_LIBRARIES = {"safe_open", "load_file", "ParquetFile", "memory_map", "memmap", "fromfile"}  # which open a path themselves
OPENED = {"open_to_read", "BytesIO"}
WRITTEN = {"replacing", "building"}  # what these yield is a new file of our own
REASONED = {
    "console.py": "streams by their numbers",
    "pipeline/compiled.py": "numba's own files, in a folder of our own: tests/pipeline/test_compiled.py",
}


def sources() -> list[Path]:
    house = [
        path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in ("tests", "build", ".venv", "files")
    ]
    assert len(house) > 150
    return house


def called(node: ast.AST) -> str:
    """The last part of what is called: `open` of Image.open(x)."""
    if not isinstance(node, ast.Call):
        return ""
    return (
        node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
    )


def named_by(tree: ast.AST, makers: set[str]) -> set[str]:
    """The names that are bound, by `=` or `with ... as`, to what one of `makers` gives."""
    found = set()
    for node in ast.walk(tree):
        pairs = [(item.context_expr, item.optional_vars) for item in node.items] if isinstance(node, ast.With) else []
        pairs += [(node.value, target) for target in node.targets] if isinstance(node, ast.Assign) else []
        found |= {target.id for value, target in pairs if called(value) in makers and isinstance(target, ast.Name)}
    return found


def bare_openings(path: Path) -> list[str]:
    """Calls that open a file by its path, other than through files/opening.py."""
    tree = ast.parse(path.read_text())
    opened, written, found = named_by(tree, OPENED), named_by(tree, WRITTEN) | {"partial"}, []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, owner = called(node), ast.unparse(node.func).rpartition(".")[0]
        first = node.args[0] if node.args else ast.Constant("")
        text, by = ast.unparse(first), called(first)
        bad = (
            name in BARE and owner and owner not in written | {"tensorfile"},
            name == "open" and owner in ("", "os", "io") and not text.strip("f'\"").startswith("/proc/"),
            name == "open" and owner not in ("", "os", "io", "Image", "tarfile"),  # Path.open
            name == "open" and owner == "Image" and not (text in opened or by in OPENED),
            name == "open" and owner == "tarfile" and not any(word.arg == "fileobj" for word in node.keywords),
            name in BY_LIBRARIES and by != "regular" and text not in opened,
            name == "load" and owner == "onnx" and "regular(" not in text,
            name in ("savefig", "ParquetWriter") and text not in written,
        )
        if any(bad):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:80]}")
    return found


def test_the_house_opens_files_in_one_way():
    house = [path for path in sources() if str(path.relative_to(ROOT)) not in REASONED]
    found = [line for path in house for line in bare_openings(path)]
    assert not found, "\n".join(found)
