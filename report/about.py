"""The end of the page: what went wrong, every setting, the command that makes a run again, and where it ran."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ..settings import Train
from ..settings.parts import flags_of
from .charts import colour
from .curve import number
from .markup import Html, folded, section, table, tag
from .read import Run
from .summary import moment, state

ELSEWHERE = ("set", "data", "out", "init", "recipe", "method")  # flags that config.json has not, or has in other words
MOST_REMARKS = 60
MOST_ROWS = 10  # of images that could not be read


def warnings(runs: Sequence[Run], *, now: float) -> Html | None:
    """Alarms, updates that were left out, checkpoints that could not be written, images and lines that could not be read."""
    counts, rows = [], []
    for run in runs:
        told = run.told
        found = dict(told.counts)
        masked = told.curves.get("masked")
        if masked is not None and masked.last:
            found["updates left out, in all"] = int(masked.last)
        loss = told.curves.get("loss")
        if loss is not None and any(value is None for _, value in loss.points()):
            found["readings with a loss that is not finite"] = sum(value is None for _, value in loss.points())
        if told.unreadable:
            some = ", ".join(map(str, told.unreadable[:MOST_ROWS])) + (" ..." if len(told.unreadable) > MOST_ROWS else "")
            found[f"images that could not be decoded (rows {some})"] = len(told.unreadable)
        for kind in run.doubts:
            found[f"alarm at the end: {kind}"] = 1
        if told.torn:
            found["lines of log.jsonl that could not be read"] = told.torn
        if run.torn_results:
            found["lines of evaluation.jsonl that could not be read"] = run.torn_results
        word, reason = state(run, now=now)
        if word.startswith(("failed", "refused", "no end")):
            found[f"{word}: {reason}"] = 1
        counts += [(run.name, kind, f"{count:,}") for kind, count in found.items()]
        rows += [(run.name, f"{told.step:,}", f"alarm at the end: {kind}", text) for kind, text in run.doubts.items()]
        rows += [(run.name, f"{item.step:,}", item.kind, item.text) for item in told.remarks]
    if not counts:
        return None
    more = f" (the first {MOST_REMARKS} of {len(rows)})" if len(rows) > MOST_REMARKS else ""
    words = [folded(f"In words{more}", table(("run", "step", "kind", "what was said"), rows[:MOST_REMARKS], numbers=99))]
    note = "What looked wrong. An update that was left out changed no weight; an alarm says what helps."
    counted = table(("run", "what", "how often"), counts, numbers=2)
    return section("warnings", "Warnings", note, counted, *(words if rows else []))


def settings(runs: Sequence[Run]) -> Html:
    """The settings in which runs differ, and all of them."""
    flats = [flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for each in flats for name in each))
    heads = [tag("span", tag("i", class_=f"swatch {colour(place)}"), run.name) for place, run in enumerate(runs)]
    every = [(name, *(_said(each, name) for each in flats)) for name in names]
    whole = table(("setting", *(heads if len(runs) > 1 else ["value"])), every, numbers=99)
    if len(runs) == 1:
        note = "What makes this run what it is, as config.json has it."
        return section("settings", "Settings", note, folded(f"All {len(every)} settings", whole))
    unlike = [row for row in every if len(set(row[1:])) > 1]
    note = "Where the runs differ; a difference in a result can come from any of these, and from chance."
    shown = table(("setting", *heads), unlike, numbers=99) if unlike else tag("p", "They differ in no setting.")
    return section("settings", "Settings that differ", note, shown, folded(f"All {len(every)} settings", whole))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return found


def _said(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return "-"
    value = settings[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def origin(runs: Sequence[Run]) -> Html:
    """For each run the command, and what it ran on."""
    note = "The command that makes the run again from the same data, and the versions and hardware of its last start."
    return section("origin", "Command and environment", note, *(_origin(run, len(runs)) for run in runs))


def _origin(run: Run, runs: int) -> Html:
    line, remark = command(run)
    shown = tag("div", tag("pre", tag("code", line)), tag("button", "Copy", type="button", class_="copy"), class_="command")
    start = run.told.starts[-1] if run.told.starts else {}
    versions, hardware = (start.get(name) if isinstance(start.get(name), dict) else {} for name in ("versions", "hardware"))
    rows = [("folder", str(run.folder))]
    rows += [(name, _text(start.get(name))) for name in ("data", "device", "processes") if start.get(name) is not None]
    rows += [(name, _text(value)) for name, value in (hardware or {}).items()]
    rows += [(name, _text(value)) for name, value in (versions or {}).items()]
    begun = [f"step {number(each.get('step')) or 0:,.0f}, {_moment(each)}" for each in run.told.starts]
    rows += [("starts", "; ".join(begun[:20]) + (" ..." if len(begun) > 20 else ""))] if begun else []
    given = start.get("command")
    if isinstance(given, list):
        rows.append(("started as", shlex.join(map(str, given))))
    parts = [tag("p", remark, class_="note")] if remark else []
    title = [tag("h3", run.name)] if runs > 1 else []
    return tag("div", *title, shown, *parts, folded("Environment", table(("", ""), rows, numbers=99)), class_="origin")


def _moment(start: Mapping[str, Any]) -> str:
    at = number(start.get("time"))
    try:
        return "time unknown" if at is None else moment(at)
    except (OverflowError, OSError, ValueError):
        return "time unknown"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def command(run: Run) -> tuple[str, str]:
    """A command line that trains the same run, from config.json and the last start's own line; and what it may lack."""
    start = run.told.starts[-1] if run.told.starts else {}
    given = [str(word) for word in start["command"]] if isinstance(start.get("command"), list) else []
    words = ["viewmill", "train", str(run.config.get("method") or "simclr")]
    words += ["--data", str(run.data or "DATA"), "--out", str(run.folder)]
    for name, flag in flags_of(Train).items():
        value = run.config.get(name)
        if name in ELSEWHERE or name not in run.config or value is None:
            continue
        word, usual = name.replace("_", "-"), flag.default
        if isinstance(value, bool):
            words += [] if value == usual else [f"--{word}" if value else f"--no-{word}"]
        elif value != usual:
            words += [f"--{word}", f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)]
    missing = []
    for name, marked in (("init", "init"), ("recipe", "recipe")):
        if run.config.get(marked):
            found = _given(given, f"--{name}")
            words += [f"--{name}", *found[:1]] if found else []
            missing += [] if found else [f"--{name}"]
    sets = _given(given, "--set")
    words += ["--set", *sets] if sets else []
    if "train" not in given:
        missing.append("--set: it was not started by `viewmill train`, so see the settings under objective.")
    return shlex.join(words), f"Not recorded, and perhaps needed: {', '.join(missing)}" if missing else ""


def _given(words: Sequence[str], flag: str) -> list[str]:
    """What follows `flag` on a command line, up to the next flag."""
    for at, word in enumerate(words):
        if word.startswith(f"{flag}="):
            return [word.partition("=")[2]]
        if word == flag:
            rest = words[at + 1 :]
            end = next((place for place, each in enumerate(rest) if each.startswith("--")), len(rest))
            return list(rest[:end])
    return []
