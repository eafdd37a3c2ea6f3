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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from ..files.typed import read_toml
from ..files.wording import nearest
from ..pipeline.views.recipe_file import recipe_of
from ..settings import Train
from ..settings.parts import made
from ..settings.ranges import Seed
from ..training.options import method_of
from .axes import Panel, Scatter, scatters_of
from .data import Data, Text, data_of, expanded, located
from .data import Given as Images
from .flags import of_evaluation, of_training


class Entry(Struct, forbid_unknown_fields=True, frozen=True):
    """The table [[methods]] of a study."""

    method: Text
    name: Text | None = None
    base: str = ""
    set: list[str] = []
    train: dict[str, Any] = {}


class Given(Struct, forbid_unknown_fields=True, frozen=True):
    """A study as its file has it."""

    seeds: Annotated[list[Seed], Meta(min_length=1, max_length=1000)]
    data: Images
    methods: Annotated[list[Entry], Meta(min_length=1)]
    title: Text | None = None
    results: Text | None = None
    runs: Text | None = None
    train: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    scatter: list[Panel] = []


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
    network = train.network
    return (network.encoder, network.width, train.views.size, str(network.init), method_of(train).network)


def read_plan(path: Path, *, results: Path | None = None) -> Plan:
    """The study in the TOML file `path`, with `results` in the place of its own; raises ValueError naming what is wrong."""
    try:
        given = read_toml(path, Given)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: name a study, as one of studies/") from None
    try:
        return _plan(path, given, results)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _plan(path: Path, given: Given, results: Path | None) -> Plan:
    target = results or located(path, given.results or f"results/{path.stem}.jsonl")
    if target.suffix != ".jsonl":
        raise ValueError(f"results are JSON lines, in a file that ends in .jsonl, got {target}")
    runs = located(path, given.runs or f"../runs/{path.stem}")
    for place in (target, runs):
        expanded(place)
    if twice := [seed for seed in given.seeds if given.seeds.count(seed) > 1]:
        raise ValueError(f"seeds has {twice[0]} more than once: a seed is one training of each method")
    data = data_of(path, given.data, runs)
    evaluate = of_evaluation(given.evaluate)
    shared = of_training(given.train, "[train]")
    contenders = _contenders(path, given.methods, shared, data)
    scatters = scatters_of(given.scatter)
    return Plan(path, given.title or path.stem, target, runs, tuple(given.seeds), data, evaluate, contenders, scatters)


def _contenders(path: Path, given: Sequence[Entry], shared: Mapping[str, Any], data: Data) -> tuple[Contender, ...]:
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


def _contender(path: Path, entry: Entry, shared: Mapping[str, Any], data: Data) -> Contender:
    name = entry.name or entry.method
    where = f"the method {name!r}"
    given = {**shared, **of_training(entry.train, f"train of {where}")}
    for flag, is_path in (("init", True), ("recipe", str(given.get("recipe", "")).endswith((".toml", ".json")))):
        if flag in given and is_path:
            given[flag] = type(given[flag])(expanded(located(path, str(given[flag]))))
            if not Path(given[flag]).exists():
                raise ValueError(f"{flag} of {where} does not exist: {given[flag]}")
    train = made(Train, data=data.train, out=Path(), method=entry.method, set=tuple(entry.set), **given)
    try:
        method_of(train)
        if train.views.recipe:
            recipe_of(train.views.recipe, train.views.size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Contender(name, entry.base, train, given)
