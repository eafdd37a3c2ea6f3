"""Text to a person: whatever becomes of the streams nothing ends, and what came from a file moves no cursor."""

import ast
import io
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import TINY, figures
from rich.console import Console

from viewmill import console
from viewmill.report.markup import tag
from viewmill.training.display.panel import frame

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = "cat\x1b[31m\x1b]0;owned\x07\r\x9b2J\x08\u202egnp\u2066\u200f\x00"
"""Colours, a terminal's title, the line's begin, C1, marks that turn the direction of writing."""
BEGUN = "from viewmill import console; import os, sys; console.settle_streams(); "


def shell(line: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell line does in which $RUN is Python with `code`."""
    given = {**os.environ, "CODE": BEGUN + code, "RUN": f"{sys.executable} -c", **environment}
    return subprocess.run(["bash", "-c", line], env=given, capture_output=True, text=True, check=False, timeout=280)


def harmless(text: str) -> bool:
    return console.printable(text) == text


def test_foreign_text_is_shown_by_its_codes():
    assert console.printable("a\tb\nä猫") == "a\tb\nä猫"
    assert console.in_line(HOSTILE + "\n") == (r"cat\x1b[31m\x1b]0;owned\x07\r\x9b2J\x08\u202egnp\u2066\u200f\x00" + r"\n")
    assert console.printable("half \udce4") == r"half \udce4"


@pytest.mark.parametrize("way", ["say", "answer", "table", "bars", "opening"])
def test_every_way_to_the_screen_shows_foreign_text_by_its_codes(way, capsys):
    calls = {
        "say": lambda: console.say(HOSTILE),
        "answer": lambda: console.answer(HOSTILE),
        "table": lambda: console.table(HOSTILE, (HOSTILE, "[bold]"), [(HOSTILE, "[/bold]")]),
        "bars": lambda: console.bars(HOSTILE, [(HOSTILE, 3)]),
        "opening": lambda: console.opening(HOSTILE, [(HOSTILE, HOSTILE)]),
    }
    calls[way]()
    shown = "".join(capsys.readouterr())
    assert "cat" in shown
    assert harmless(shown)


def test_the_panel_and_the_page_show_foreign_text_by_its_codes():
    screen = io.StringIO()
    drawn = frame(HOSTILE, None, [], [(HOSTILE, 2)], age_s=1.0, width=80, height=20, plain=True)
    Console(file=screen, width=80).print(drawn)
    assert harmless(screen.getvalue())
    assert "cat" in screen.getvalue()
    assert harmless(tag("p", HOSTILE, title=HOSTILE))


def test_an_error_a_warning_and_a_mistyped_command_show_it_by_its_codes():
    done = shell('$RUN "$CODE"', f"import warnings; warnings.warn({HOSTILE!r}); raise ValueError({HOSTILE!r})")
    assert done.returncode == 1
    assert harmless(done.stderr)
    assert done.stderr.count("cat") >= 2
    assert "ValueError: cat" in done.stderr
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", f"tra{HOSTILE[:-1]}in"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr
    assert harmless(done.stderr + done.stdout)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_streams_that_are_closed_are_the_null_device_and_no_file_takes_their_place(tmp_path, unbuffered):
    code = (
        f"console.say('said'); console.answer('answered'); console.table('t', ('a',), [('b',)]); "
        f"file = open({str(tmp_path / 'file')!r}, 'w'); assert file.fileno() > 2; "
        "assert all(map(os.get_inheritable, (0, 1, 2))); print('more'); print('more', file=sys.stderr)"
    )
    line = ""
    for number in range(8):
        closed = " ".join(shut for bit, shut in enumerate(("0<&-", "1>&-", "2>&-")) if number >> bit & 1)
        line += f'( $RUN "$CODE" {closed} ) || exit {number + 10}; '
    done = shell(line, code, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("answered") == done.stderr.count("said") == 4
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_is_gone_and_a_full_disk_end_nothing(unbuffered):
    code = "[console.answer('x' * 1000) for _ in range(3000)]; print('y' * 9000); console.say('the end')"
    done = shell('set -o pipefail; $RUN "$CODE" | head -c 5', code, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stdout, done.stderr) == (0, "xxxxx", "the end\n")
    done = shell('$RUN "$CODE" > /dev/full', code, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 0
    assert done.stderr == "standard output takes no more (No space left on device): what follows is not shown\nthe end\n"
    assert shell('$RUN "$CODE" > /dev/full 2> /dev/full', code, PYTHONUNBUFFERED=unbuffered).returncode == 0


@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "cp1252"}]
)
def test_what_an_encoding_lacks_is_shown_by_its_code(environment):
    code = "cat = chr(0x732b); console.answer(cat); console.table(cat, ('a',), [(cat,)]); console.bars('n', [(cat, 3)])"
    done = shell('$RUN "$CODE"', code, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(r"\u732b") == 4


def test_a_pipe_that_does_not_wait_loses_nothing():
    read, write = os.pipe()
    os.set_blocking(write, False)
    code = BEGUN + "[console.answer(str(n) * 100) for n in range(5000)]"
    with subprocess.Popen([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE) as process:
        os.close(write)
        time.sleep(0.5)  # until the pipe is full
        with os.fdopen(read, "rb") as file:
            lines = file.read().split()
        assert (process.wait(60), process.stderr.read()) == (0, b"")
    assert lines == [(str(n) * 100).encode() for n in range(5000)]


def test_a_terminal_that_goes_away_ends_nothing(tmp_path):
    master, slave = pty.openpty()
    code = (
        BEGUN + "print('here', flush=True); sys.stdin.read(1); [console.say('x') for _ in range(99)]; console.answer('y'); "
    )
    code += f"open({str(tmp_path / 'end')!r}, 'w')"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=slave, stderr=slave, start_new_session=True) as process:
        os.close(slave)
        assert b"here" in os.read(master, 100)
        os.close(master)
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "end").exists()


def test_a_training_whose_output_nobody_reads_is_done(tmp_path):
    beton, run = figures(tmp_path, 64), tmp_path / "run"
    words = [sys.executable, ROOT / "run.py", "train", "simclr", "--data", beton, "--out", run, *TINY, "--steps", "2"]
    done = shell("set -o pipefail; " + " ".join(f"'{word}'" for word in words) + " 2>&- | head -c 0")
    assert done.returncode == 0
    assert json.loads((run / "exit.json").read_text())["code"] == 0


def test_nothing_prints_beside_the_console():
    live = {"training/display/dashboard.py", "training/display/panel.py", "training/display/region.py", "console.py"}
    found = []
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT)
        if name.parts[0] in ("tests", "build", ".venv") or str(name) in live:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            words = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if words in ("print", "Console", "sys.stdout.write", "sys.stderr.write", "pprint.pprint"):
                found.append(f"{name}:{node.lineno}")
            if isinstance(node, ast.ImportFrom | ast.Import) and any(a.name.startswith("rich") for a in node.names):
                found.append(f"{name}:{node.lineno}")
    assert not found
