"""What a study is: its TOML file, read and checked before anything is trained. No torch here.

title = "CIFAR-10, core"
results = "results/cifar10-core.jsonl"   # table and picture stand beside it; paths are relative to the TOML
runs = "../runs/cifar10-core"            # trainings
seeds = [0, 1, 2]
[data]                                   # files, with $VARIABLES and ~; or factors = {train = 4000, test = 1000, size = 48}
train = "../data/cifar10_train.beton"
test = "../data/cifar10_test.beton"
[train]                                  # flags of `viewmill train`, the same for all
width = 16
[evaluate]                               # flags of `viewmill evaluate`
protocols = ["knn", "linear"]
[[methods]]
name = "Ring"
method = "ring"
base = "IR"                              # paired differences to it
set = ["region.outer=0.1"]
train = {learning_rate = 0.03}           # flags of this one alone
[[data.others]]                          # images that the same encoders are evaluated on as well: train and test
[[scatter]]                              # a panel of a second picture: see study/axes.py
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..commands import Train
from ..limits import method_of
from ..pipeline.recipe_file import recipe_of
from .axes import Scatter, scatters_of
from .data import Data, data_of, expanded, located
from .flags import known, nearest, of_evaluation, of_training


@dataclass(frozen=True)
class Contender:
    """A method of the study: its name, the name of its base ("" for none), and how it is trained."""

    name: str
    base: str
    train: Train
    """Of seed 0, without a folder of its own."""
    given: Mapping[str, Any]
    """The flags that the file gives, for all and for this one."""


@dataclass(frozen=True)
class Job:
    """One training of a study, and its evaluation."""

    contender: Contender
    seed: int
    floors: bool
    """Whether floors are measured with it: by the first method of each kind of encoder, for every seed."""

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the study's other jobs."""
        return self.contender.name, self.seed

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.contender.name}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A study that has been found sound, as far as it can be told without its images."""

    file: Path
    title: str
    results: Path
    runs: Path
    seeds: tuple[int, ...]
    data: Data
    evaluate: Mapping[str, Any]
    """Flags that the file gives."""
    contenders: tuple[Contender, ...]
    scatters: tuple[Scatter, ...] = ()

    def jobs(self) -> list[Job]:
        """Seed by seed, so that a study that is cut short has as many seeds of each method as of any other."""
        kinds = dict[tuple, str]()
        for contender in self.contenders:
            kinds.setdefault(_encoder(contender), contender.name)
        first = set(kinds.values())
        return [Job(contender, seed, contender.name in first) for seed in self.seeds for contender in self.contenders]


def _encoder(contender: Contender) -> tuple:
    """What an untrained encoder depends on, besides the seed."""
    train = contender.train
    return (train.encoder, train.width, train.size, str(train.init), method_of(train).network)


def read_plan(path: Path, *, results: Path | None = None) -> Plan:
    """The study in the TOML file `path`, with `results` in the place of its own; raises ValueError naming what is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: name a study, as one of studies/") from None
    except ValueError as error:  # of TOML or of UTF-8
        raise ValueError(f"{path} is no TOML: {error}") from None
    try:
        return _plan(path, content, results)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _plan(path: Path, content: dict[str, Any], results: Path | None) -> Plan:
    known(content, ("title", "results", "runs", "seeds", "data", "train", "evaluate", "methods", "scatter"), "a study")
    texts = {"title": path.stem, "results": f"results/{path.stem}.jsonl", "runs": f"../runs/{path.stem}"}
    texts |= {name: content[name] for name in texts if name in content}
    for name, text in texts.items():
        if not isinstance(text, str) or not text:
            raise ValueError(f"{name} must be a text, got {text!r}")
    target = results or located(path, texts["results"])
    if target.suffix != ".jsonl":
        raise ValueError(f"results are JSON lines, in a file that ends in .jsonl, got {target}")
    runs = located(path, texts["runs"])
    for place in (target, runs):
        expanded(place)
    data = data_of(path, content.get("data"), runs)
    evaluate = of_evaluation(content.get("evaluate", {}))
    shared = of_training(content.get("train", {}), "[train]")
    contenders = _contenders(path, content.get("methods"), shared, data)
    seeds, scatters = _seeds(content.get("seeds")), scatters_of(content.get("scatter", []))
    return Plan(path, texts["title"], target, runs, seeds, data, evaluate, contenders, scatters)


def _seeds(given: Any) -> tuple[int, ...]:
    whole = isinstance(given, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in given)
    if not whole or not given or min(given) < 0:
        raise ValueError(f"seeds must be a list of whole numbers from 0 on, as [0, 1, 2], got {given!r}")
    if twice := [seed for seed in given if given.count(seed) > 1]:
        raise ValueError(f"seeds has {twice[0]} more than once: a seed is one training of each method")
    return tuple(given)


def _contenders(path: Path, given: Any, shared: Mapping[str, Any], data: Data) -> tuple[Contender, ...]:
    if not isinstance(given, list) or not given or not all(isinstance(entry, dict) for entry in given):
        raise ValueError("it has no [[methods]]: a study compares at least one")
    found = [_contender(path, entry, shared, data) for entry in given]
    names = [contender.name for contender in found]
    folders = [slug(name) for name in names]
    for place, folder in enumerate(folders):
        if folder in folders[:place]:
            other = names[folders.index(folder)]
            raise ValueError(f"two methods are called {names[place]!r} and {other!r}: give names that differ more")
    for contender in found:
        if contender.base == contender.name:
            raise ValueError(f"{contender.name!r} is its own base: name another method, or none")
        if contender.base and contender.base not in names:
            advice = nearest(contender.base, names)
            raise ValueError(f"{contender.name!r} has the base {contender.base!r}, which is no method here: {advice}")
    return tuple(found)


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "method"


def _contender(path: Path, entry: Mapping[str, Any], shared: Mapping[str, Any], data: Data) -> Contender:
    known(entry, ("name", "method", "base", "set", "train"), "[[methods]]")
    own = {"name": entry.get("method", ""), "method": "", "base": "", **entry}
    for key in ("name", "method", "base"):
        if not isinstance(own[key], str) or not (own[key] or key == "base"):
            raise ValueError(f"[[methods]] {key} must be a text, got {own[key]!r}")
    where = f"the method {own['name']!r}"
    chosen = own.get("set", [])
    if not isinstance(chosen, list) or not all(isinstance(item, str) for item in chosen):
        raise ValueError(f'set of {where} must be a list, as ["region.outer=0.1"], got {chosen!r}')
    given = {**shared, **of_training(own.get("train", {}), f"train of {where}")}
    for name, is_path in (("init", True), ("recipe", str(given.get("recipe", "")).endswith(".toml"))):
        if name in given and is_path:
            given[name] = type(given[name])(expanded(located(path, str(given[name]))))
            if not Path(given[name]).exists():
                raise ValueError(f"{name} of {where} does not exist: {given[name]}")
    train = Train(data=data.train, out=Path(), method=own["method"], set=tuple(chosen), **given)
    try:
        method_of(train)
        if train.recipe:
            recipe_of(train.recipe, train.size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Contender(own["name"], own["base"], train, given)
