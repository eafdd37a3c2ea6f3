"""What a run's folder tells, read and never changed: config.json, log.jsonl, exit.json, evaluation.jsonl, checkpoints."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..files.opening import open_to_read, read_text
from ..training.run_config import as_now
from ..training.run_folder import read_config
from .curve import Curve, number

CURVES, EVENTS, SNAPSHOTS = 200, 200, 48  # of a log at most: quantities, remarks in words, histograms
RECENT = 3  # readings that the end of a run is judged by
BEHIND = ("step", "steps", "time", "epoch", "left_s", "saved_step", "saved_age_s", "event")  # what is no quantity of its own


Judge = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], dict[str, str]]
"""A run's configuration and its last readings -> what looks wrong, in words by their short names."""


class Remark(NamedTuple):
    """What a log says in words: an alarm, an update that was left out, a fault of a checkpoint."""

    step: int
    kind: str
    text: str


class Told(NamedTuple):
    """What a log holds."""

    curves: dict[str, Curve]
    histograms: list[tuple[int, list[float]]]
    """Step, and shares of the negatives by cosine from -1 to 1: evenly spread over the run."""
    starts: list[dict[str, Any]]
    remarks: list[Remark]
    counts: dict[str, int]
    """How many remarks of each kind there were; of many only the first are kept."""
    unreadable: list[int]
    """Rows that could not be decoded."""
    step: int
    steps: int
    epoch: float | None
    seconds: float
    """From each start to its last record, together."""
    time: float | None
    """Of the last record, in seconds since 1970."""
    torn: int
    """Lines that could not be read."""
    recent: tuple[dict[str, Any], ...] = ()
    """The last readings."""


class Saved(NamedTuple):
    """A checkpoint on disk."""

    step: int
    bytes: int
    time: float


class Run(NamedTuple):
    """A run as its folder tells it."""

    folder: Path
    name: str
    config: dict[str, Any]
    told: Told
    ending: dict[str, Any]
    """RUN/exit.json; empty where there is none."""
    results: list[dict[str, Any]]
    """Lines of RUN/evaluation.jsonl."""
    torn_results: int
    checkpoints: list[Saved]
    doubts: Mapping[str, str] = MappingProxyType({})
    """What looks wrong in the last readings: a sentence by its short name."""

    @property
    def data(self) -> Path | None:
        """Where the images lay at the last start."""
        found = self.told.starts[-1].get("data") if self.told.starts else None
        return Path(found) if isinstance(found, str) and found else None

    @property
    def steps(self) -> int:
        """Of the whole run, as far as is known."""
        return int(number(self.config.get("steps")) or self.told.steps)


def read_runs(folders: Sequence[Path], *, judge: Judge = lambda config, readings: {}) -> list[Run]:
    """The runs in `folders`, each once, by names that differ; raises ValueError where one holds no run."""
    places = list(dict.fromkeys(folder.resolve() for folder in folders))
    if not places:
        raise ValueError("name at least one run: viewmill report RUN")
    bins = 512 if len(places) <= 2 else 256 if len(places) <= 5 else 128
    return [_run(place, name, bins, judge) for place, name in zip(places, names(places), strict=True)]


def names(places: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells it from the others."""
    for parts in range(1, max(len(place.parts) for place in places) + 1):
        found = ["/".join(place.parts[-parts:]).replace("//", "/") for place in places]
        if len(set(found)) == len(found):
            return found
    return [str(place) for place in places]


def _run(folder: Path, name: str, bins: int, judge: Judge) -> Run:
    config = read_config(folder)
    with suppress(ValueError):  # what cannot be taken as it is written is shown as it is written
        config = as_now(config, where=str(folder / "config.json")).config
    results, torn = _lines(folder / "evaluation.jsonl")
    told = read_log(folder / "log.jsonl", bins=bins)
    return Run(
        folder=folder,
        name=name,
        config=config,
        told=told,
        ending=_object(folder / "exit.json"),
        results=results,
        torn_results=torn,
        checkpoints=_checkpoints(folder / "checkpoints"),
        doubts=judge(config, told.recent),
    )


def read_log(path: Path, *, bins: int = 512) -> Told:
    """What the log at `path` holds; lines that are torn are counted, and a log that is missing holds nothing."""
    curves: dict[str, Curve] = {}
    histograms, recent = _Spread(), deque[dict[str, Any]](maxlen=RECENT)
    starts, remarks, counts, unreadable = [], [], dict[str, int](), set[int]()
    step, steps, epoch, seconds, began, last, torn = 0, 0, None, 0.0, None, None, 0
    for record in _records(path):
        if record is None:
            torn += 1
            continue
        event, at = record.get("event", ""), int(number(record.get("step")) or 0)
        time = number(record.get("time"))
        if event == "start":
            seconds += last - began if began is not None and last is not None else 0.0
            began = time
            starts.append(record)
        last = last if time is None else time
        step = max(step, at)
        if event == "step":
            steps, epoch = int(number(record.get("steps")) or steps), number(record.get("epoch"))
            _take_(curves, record, at, bins)
            recent.append({name: found for name, value in record.items() if (found := number(value)) is not None})
            histograms.add(at, record.get("negative_histogram"))
        elif event == "end" and isinstance(record.get("unreadable"), list):
            unreadable |= {row for row in record["unreadable"] if isinstance(row, int)}
        elif isinstance(record.get("text"), str):
            kind = f"alarm: {record['kind']}" if event == "alarm" and "kind" in record else str(event)
            counts[kind] = counts.get(kind, 0) + 1
            if len(remarks) < EVENTS:
                remarks.append(Remark(at, kind, record["text"]))
    seconds += last - began if began is not None and last is not None else 0.0
    kept = histograms.kept()
    seconds = max(seconds, 0.0)
    rest = (step, steps, epoch, seconds, last, torn, tuple(recent))
    return Told(curves, kept, starts, remarks, counts, sorted(unreadable), *rest)


def _take_(curves: dict[str, Curve], record: dict[str, Any], step: int, bins: int) -> None:
    """Put every number of a reading into its curve; what is null was not finite, or does not belong to this run."""
    for name, value in record.items():
        if name in BEHIND or isinstance(value, str | list | dict | bool):
            continue
        found = number(value)
        if found is None and name not in curves and name != "loss":
            continue
        if name in curves or len(curves) < CURVES:
            curves.setdefault(name, Curve(bins)).add(step, found)


class _Spread:
    """Histograms that are spread evenly over a log of unknown length, and always its last one."""

    def __init__(self) -> None:
        self._found: list[tuple[int, list[float]]] = []
        self._every, self._seen = 1, 0
        self._last: tuple[int, list[float]] | None = None

    def add(self, step: int, shares: Any) -> None:
        """Take in a histogram, if it is one."""
        if not isinstance(shares, list) or not shares or None in (found := [number(value) for value in shares]):
            return
        self._last = (step, [value or 0.0 for value in found])
        if self._seen % self._every == 0:
            self._found.append(self._last)
            if len(self._found) > SNAPSHOTS:
                del self._found[1::2]
                self._every *= 2
        self._seen += 1

    def kept(self) -> list[tuple[int, list[float]]]:
        """First to last; all of one length."""
        found = [*self._found, *([self._last] if self._last and self._last not in self._found else [])]
        return [item for item in found if len(item[1]) == len(found[-1][1])]


def _records(path: Path) -> Iterator[dict[str, Any] | None]:
    """The records of a file of JSON lines, None for one that cannot be read; nothing where there is no file."""
    with suppress(FileNotFoundError), open_to_read(path) as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            yield record if isinstance(record, dict) and isinstance(record.get("event", ""), str) else None


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    found = list(_records(path))
    return [record for record in found if record is not None], found.count(None)


def _object(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none that can be read."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _checkpoints(folder: Path) -> list[Saved]:
    found = []
    for path in sorted(folder.glob("step-*")):
        step = path.name.removeprefix("step-")
        if not (step.isdecimal() and (path / "manifest.json").is_file()):
            continue
        try:
            sizes = [part.stat().st_size for part in path.iterdir()]
            found.append(Saved(int(step), sum(sizes), (path / "manifest.json").stat().st_mtime))
        except OSError:  # pruned meanwhile by the run itself
            continue
    return found
