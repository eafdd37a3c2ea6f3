import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import closing, suppress

import pytest
from rich.console import Console

from viewmill.console import duration, opening, say
from viewmill.training.display import dashboard as screens
from viewmill.training.display.clock import Clock
from viewmill.training.display.dashboard import History, dashboard
from viewmill.training.display.panel import Passed, Progressed, bound_line, frame, plain_line, sparkline
from viewmill.training.display.region import Region

NOW = Progressed(
    step=500,
    steps=1000,
    epoch=2.02,
    loss=3.1234,
    bound=3.5,
    ceiling=5.545,
    learning_rate=0.15,
    images_per_s=12345.6,
    wait=0.012,
    left_s=100.0,
    grad_norm=1.234,
    masked=3,
    probe=0.612,
    neighbours=0.581,
    memory_bytes=13 << 30,
    saved_step=400,
    saved_age_s=4.0,
)
UNKNOWN = {name: None for name, kind in Progressed.__annotations__.items() if "None" in str(kind)}
BARE = NOW._replace(**UNKNOWN, masked=0)


def drawn(now, *, width=100, height=40, plain=False, age_s=0.0, warnings=(), losses=(5.0, None, 4.0, 3.0)) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    options = {"age_s": age_s, "width": width, "height": height, "plain": plain}
    console.print(frame("simclr on photos.beton, ffcv engine", now, losses, warnings, **options))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [*range(40, 121, 8), 200])
@pytest.mark.parametrize("now", [None, BARE, NOW], ids=["none", "bare", "full"])
@pytest.mark.parametrize("plain", [False, True])
def test_a_panel_fits_any_width_to_the_column_and_is_ascii_where_asked(width, now, plain):
    lines = drawn(now, width=width, plain=plain, age_s=99, warnings=[("the embeddings collapse: lower the rate " * 3, 12)])
    edges = [line for line in lines if line[0] in "╭│╰+|"]
    assert {len(line) for line in edges} == {min(width, 120)}
    assert max(map(len, lines)) <= min(width, 120)
    assert all(line.isascii() for line in lines) == plain


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_panel_shows_everything_that_is_known(width):
    text = "\n".join(drawn(NOW, width=width))
    for part in ("50.0%", "1:40 left", "step 500 of 1,000", "epoch 2.02", "3.1234", "3.500 of 5.545", "63%", "12,346"):
        assert part in text
    for part in ("1.2%", "0.15", "1.23", "13.0 GiB", "400, 0:04 ago", "61.2%", "58.1%", "masked updates"):
        assert part in text


def test_ages_and_the_time_left_go_on_between_readings_and_a_stall_is_told():
    assert "0:34 ago" in "\n".join(drawn(NOW, age_s=30))
    assert "1:10 left" in "\n".join(drawn(NOW, age_s=30))
    assert "no reading" not in "\n".join(drawn(NOW, age_s=30))
    assert "no reading for 0:45" in "\n".join(drawn(NOW, age_s=45))


@pytest.mark.parametrize("height", range(5, 40))
def test_a_panel_is_never_taller_than_the_terminal_and_keeps_its_frame(height):
    lines = drawn(NOW, height=height, width=60, warnings=[("a fault " * 20, 1)] * 3)
    assert len(lines) <= max(height, 6)
    assert sum(line[0] in "╭╰" for line in lines) == 2


def test_the_last_five_warnings_stand_below_newest_last_folded_and_counted():
    warnings = [(f"fault {i} of a training that has many words to say", 1 + 11 * (i == 6)) for i in range(7)]
    lines = drawn(NOW, width=40, height=60, warnings=warnings)
    below = lines[[line[0] for line in lines].index("╰") + 1 :]
    assert below[0] == "  and 2 earlier, see log.jsonl"
    assert [line[:9] for line in below if line.startswith("! ")] == [f"! fault {i}" for i in range(2, 7)]
    assert " ".join(line.strip("! ") for line in below).endswith("words to say (12 times)")


def test_a_sparkline_goes_from_low_to_high_with_gaps_and_shrinks_by_means():
    assert sparkline([1.0, None, 8.0], 10, plain=False) == "▁ █"
    assert sparkline([0.0, 7.0], 10, plain=True) == "_#"
    assert sparkline([0.0, 2.0, 8.0, 10.0], 2, plain=False) == "▁█"
    assert sparkline([2.0, 2.0], 9, plain=False) == "▁▁"
    assert sparkline([None, None], 9, plain=False) == "  "
    assert sparkline([], 9, plain=False) == ""


def test_a_history_is_as_long_as_the_run_and_bounded():
    history = History()
    for value in range(100_000):
        history.add(float(value))
    values = history.values()
    assert screens.HISTORY / 2 <= len(values) <= screens.HISTORY
    assert values == sorted(values)
    assert values[0] < 1000
    assert values[-1] > 99_000


def test_durations_and_bounds_are_words():
    assert [duration(seconds) for seconds in (-1, 5, 123, 3723, 90061)] == ["0:00", "0:05", "2:03", "1:02:03", "1 d 1:01:01"]
    assert bound_line(NOW) == "3.500 of 5.545 nats"
    assert bound_line(NOW._replace(ceiling=None)) == "3.500 nats"
    assert bound_line(BARE) == "-"
    assert "loss not finite" in plain_line(BARE)


def test_a_log_file_gets_a_line_every_ten_seconds_and_the_last_one_without_escapes(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    now = [100.0]
    monkeypatch.setattr(screens.time, "monotonic", lambda: now[0])
    with dashboard("run", visible=True) as screen:
        for step in range(1, 36):
            screen.show(NOW._replace(step=step))
            now[0] += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/1000", "11/1000", "21/1000", "31/1000", "35/1000"]
    assert not any("\x1b" in line for line in lines)


def test_slow_steps_are_told_of_between_two_readings_but_not_before_the_first(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(screens.time, "monotonic", lambda: now[0])
    with dashboard("run", visible=True) as screen:
        for step in range(1, 9):
            screen.passed(Passed(step, 0.1 * step, 0.0512, 3600.0 - step))
            if step == 2:
                screen.show(NOW._replace(step=2))
            now[0] += 6.0
        screen.show(NOW._replace(step=9))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["2/1000", "4/1000", "6/1000", "8/1000", "9/1000"]
    assert lines[1] == "step 4/1000  epoch 0.40  0.0512 images/s  left 59:56"


def test_a_panel_follows_each_step_and_keeps_what_only_readings_tell():
    later = screens._further(NOW, Passed(507, 2.05, 11.0, 93.0), passed_s=2.5)
    assert later == NOW._replace(step=507, epoch=2.05, images_per_s=11.0, left_s=93.0, saved_age_s=6.5)
    assert screens._further(BARE, Passed(507, 2.05, 11.0, 93.0), passed_s=2.5).saved_age_s is None
    seen = "\n".join(drawn(later))
    assert "step 507 of 1,000" in seen
    assert "3.1234" in seen


def test_the_last_step_is_told_once(capsys):
    with dashboard("run", visible=True) as screen:
        screen.show(NOW._replace(step=999))
        screen.show(NOW._replace(step=1000))
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["999/1000", "1000/1000"]


def test_a_warning_is_a_line_at_once_and_a_repeated_one_does_not_fill_the_log(capsys):
    with dashboard("run", visible=True) as screen:
        screen.warn("it collapses")
        assert capsys.readouterr().err == "warning: it collapses\n"
        for _ in range(999):
            screen.warn("it collapses")
    assert capsys.readouterr().err.splitlines() == [f"warning: it collapses ({n} times)" for n in ("10", "100", "1,000")]


def test_other_ranks_are_mute(capsys):
    with dashboard("run", visible=False) as screen:
        screen.show(NOW)
        screen.warn("it collapses")
    assert capsys.readouterr() == ("", "")


def test_the_plan_is_aligned_and_folded(capsys):
    opening(
        "simclr on photos.beton", [("images", "5,000"), ("views of each", "crop, flip, jitter, grey " * 8), ("output", "")]
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["simclr on photos.beton", "  images         5,000"]
    assert lines[2].startswith("  views of each  crop, flip")
    assert re.match(" {17}[a-z]", lines[3])
    assert lines[-1] == "  output         -"
    assert max(map(len, lines)) <= 100


def shut(file) -> None:
    """Close a file whose buffer cannot be written any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)
    file.close()


def test_a_full_disk_behind_standard_error_ends_nothing(monkeypatch):
    full = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(OSError, match="No space"):
        print("a line", file=full, flush=True)
    monkeypatch.setattr(sys, "stderr", full)
    say("nobody hears this")
    with dashboard("run", visible=True) as screen:
        screen.show(NOW)
        screen.warn("nor this")
    monkeypatch.undo()
    shut(full)


class Terminal:
    """As much of a terminal as the screen needs; a narrower one folds its lines, as most do."""

    def __init__(self, columns: int, rows: int) -> None:
        self.master, slave = pty.openpty()
        self.file = os.fdopen(slave, "w", encoding="utf-8")
        self.lines, self.at, self.column, self.written = [""], 0, 0, ""
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.file.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        assert self.at == len(self.lines) - 1
        folds = [[line[i : i + columns] for i in range(0, len(line), columns)] or [""] for line in self.lines]
        self.lines = [part for fold in folds for part in fold]
        self.at, self.column = len(self.lines) - 1, len(self.lines[-1])

    def close(self) -> None:
        shut(self.file)
        with suppress(OSError):
            os.close(self.master)

    def read(self) -> list[str]:
        os.set_blocking(self.master, False)
        data = b""
        with suppress(OSError):
            while part := os.read(self.master, 1 << 16):
                data += part
        self.written = data.decode()
        for escape, text in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", self.written):
            self.take(escape, text)
        return [line.rstrip() for line in self.lines]

    def take(self, escape: str, text: str) -> None:
        if escape == "\r":
            self.column = 0
        elif escape == "\n":
            self.at, self.column = self.at + 1, 0
            self.lines += [""] * (self.at + 1 - len(self.lines))
        elif escape.endswith("A"):
            self.at -= int(escape[2:-1])
            assert self.at >= 0
        elif escape.endswith("J"):
            self.lines[self.at :] = [self.lines[self.at][: self.column]]
        elif escape.endswith("K"):
            self.lines[self.at] = self.lines[self.at][: self.column]
        elif text:
            line = self.lines[self.at].ljust(self.column)
            self.lines[self.at] = line[: self.column] + text + line[self.column + len(text) :]
            self.column += len(text)


@pytest.fixture
def terminal():
    with closing(Terminal(40, 20)) as made:
        yield made


def test_a_region_is_repainted_in_place_through_prints_growth_and_resizing(terminal):
    lines = ["one", "two"]
    terminal.file.write("before\n")
    region = Region(terminal.file, lambda width, height: [line.ljust(width)[:width] for line in lines])
    region.paint()
    assert terminal.read() == ["before", "one", "two"]
    region.paint()
    terminal.read()
    assert terminal.written == ""  # nothing changed, nothing is sent
    lines[1] = "changed"
    region.paint()
    assert terminal.read() == ["before", "one", "changed"]
    assert "\x1b[J" not in terminal.written  # what is written again is not erased first
    region.paint("printed\n")
    assert terminal.read() == ["before", "printed", "one", "changed"]
    lines += ["three"]
    region.paint()
    lines[:] = ["only"]
    region.paint()
    assert terminal.read() == ["before", "printed", "only"]
    lines[:] = ["a" * 100, "b"]
    region.paint()
    for columns in (25, 12, 60, 40):
        terminal.read()
        terminal.resize(columns, 20)
        region.paint()
        assert terminal.read() == ["before", "printed", "a" * min(columns - 1, 100), "b"]
    region.close()
    assert terminal.read()[-1] == ""
    assert terminal.written.endswith("\x1b[?25h")


def test_a_region_of_a_closed_terminal_is_left_alone(terminal):
    region = Region(terminal.file, lambda width, height: ["line"])
    region.paint()
    os.close(terminal.master)
    region.paint("more\n")
    region.paint("and more\n")
    region.close()


LIVE = """
from viewmill.console import opening, say
from viewmill.training.display.dashboard import dashboard
from viewmill.training.display.panel import Progressed
opening("a run", [("images", "5,000")])
with dashboard("a title", visible=True) as screen:
    for step in (1, 2, 3):
        now = Progressed(step, 3, .5, 4 - step, 3.5, 5.5, .1, 1000, .1, 9, 1.5, 0, None, None, None, None, None)
        screen.show(now)
        screen.warn("it collapses")
    say("said meanwhile")
    print("printed", "meanwhile")
    print("a rest without an end", end="")
say("after")
"""


def live(environment: dict[str, str]) -> tuple[list[str], str]:
    """The screen that LIVE leaves on a terminal, and what was written to it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")} | environment
    with closing(Terminal(72, 30)) as terminal:
        streams = {"stdin": terminal.file, "stdout": terminal.file, "stderr": terminal.file}
        process = subprocess.Popen([sys.executable, "-c", LIVE], env=environment, **streams)
        written = ""
        while process.poll() is None:
            terminal.read()
            written += terminal.written
            time.sleep(0.01)
        seen = terminal.read()
        assert process.returncode == 0, seen
        return seen, written + terminal.written


def test_a_live_panel_survives_what_is_said_and_printed_and_stays_when_it_ends():
    seen, written = live({"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"})
    assert seen[:5] == ["a run", "  images  5,000", "said meanwhile", "printed meanwhile", "a rest without an end"]
    assert seen[5].startswith("╭─ a title ─")
    assert "step 3 of 3" in "\n".join(seen)
    assert seen[-4].startswith("╰")
    assert seen[-3:] == ["! it collapses (3 times)", "after", ""]
    assert "\x1b[36m" in written


def test_no_color_means_none_and_a_terminal_without_utf_8_gets_ascii():
    seen, written = live({"TERM": "xterm-256color", "NO_COLOR": "1", "PYTHONIOENCODING": "ascii"})
    assert seen[5].startswith("+- a title -")
    assert all(line.isascii() for line in seen)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", written)


def test_a_dumb_terminal_gets_plain_lines():
    seen, written = live({"TERM": "dumb"})
    assert "\x1b" not in written
    assert "warning: it collapses" in seen
    assert [line.split()[1] for line in seen if line.startswith("step ")] == ["1/3", "3/3"]


def test_a_clock_reads_what_it_is_given_and_divides_by_nothing():
    clock = Clock(256, 0, 100, first=10)
    empty = clock.read(10, {}, 0.1)
    assert (empty.loss, empty.bound, empty.masked, empty.left_s, empty.saved_step) == (None, None, 0, 0.0, None)
    values = {"loss": float("nan"), "bound": 2.0, "grad_norm": float("inf"), "masked": 3.0, "probe": 0.5, "memory_bytes": 7}
    now = clock.read(12, values | {"positive": 0.3, "ceiling": None}, 0.1, saved=(11, time.monotonic() - 5))
    assert (now.loss, now.bound, now.ceiling, now.grad_norm) == (None, 2.0, None, None)
    assert (now.masked, now.probe, now.neighbours, now.memory_bytes, now.saved_step) == (3, 0.5, None, 7, 11)
    assert 5 <= now.saved_age_s < 6
    assert now.images_per_s > 0
    assert now.left_s > 0
    assert 0 <= now.wait <= 1


def test_a_clock_tells_of_a_step_without_beginning_a_new_reading():
    clock = Clock(8, 5, 100, first=10)
    time.sleep(0.02)
    passed = clock.passed(12)
    assert passed.step == 12
    assert passed.epoch == 2.4
    assert 0 < passed.images_per_s <= 16 / 0.02
    assert passed.left_s >= 0.01 * 88
    assert clock.read(14, {}, 0.1).images_per_s <= 32 / 0.02  # of all four steps
    assert clock.passed(10).left_s >= 0


def test_a_clock_tells_waiting_from_working():
    clock = Clock(10, 5, 100, first=0)

    def slow():
        for item in range(3):
            time.sleep(0.02)
            yield item

    assert list(clock.timed(slow())) == [0, 1, 2]
    assert clock.waited_total >= 0.06
    assert clock.read(3, {"loss": 1.0}, 0.1).wait > 0.9
    assert clock.read(4, {"loss": 1.0}, 0.1).wait == 0
