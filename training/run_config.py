"""What stands in a run's config.json: its type, what is missing in an older one, and how two of them are compared.

A key that an older run does not have is its default; one that this version does not know is a remark. A checkpoint holds its
run's configuration too, and is read in the same way. What older formats become is in older.py.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from ..checkpoint.migration import FORMAT, MIGRATIONS
from ..console import say
from ..errors import Refused
from ..files.typed import Misfit, fitted, read_json
from ..files.wording import fields_of
from ..methods.method import Method
from ..methods.overrides import ABSENT, KINDS, values
from ..methods.table import METHODS
from ..pipeline.views.recipe import IMAGENET_MEAN, IMAGENET_STD
from ..pipeline.views.recipe_file import data_of, recipe_from
from ..settings import Finetune, Train
from ..settings import Transfer as Detect
from ..settings.parts import flags_of
from ..settings.ranges import Embedding, FromZero, Hidden, Seed, Size, Width
from .options import FREE
from .run_folder import difference, read_config, write_json

Config = dict[str, Any]
Text = Annotated[str, Meta(min_length=1)]
Setting = float | bool | str | None
BY_COURSE = ("steps", "warmup", "learning_rate", "batch", "sides")
"""Flags of a fine-tuning in whose place its schedule stands."""


class Architecture(Struct, frozen=True):
    """A network, as models.network.Architecture has it."""

    encoder: Text
    width: Width
    size: Size
    hidden: Hidden
    out: Embedding
    views: Literal["shared", "colour", "jigsaw"] = "shared"
    head: tuple[Literal["fixed", "bounded", "von-mises-fisher"], list[float]] | None = None
    on_embedding: bool = False
    predictor: bool = False
    decode_other: bool = False
    decode_own: bool = False
    seed: Seed = 0
    batch_norm: Literal["local", "synchronised", "shuffled"] = "local"
    parts: Literal[2, 3] = 2


class Colours(Struct, frozen=True):
    """What an encoder is shown."""

    space: Literal["rgb", "lab", "ycbcr"] = "rgb"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class MadeOf(Struct, frozen=True):
    """The encoder that a detector is built on."""

    encoder: Text
    width: Width
    size: Size
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def _kind(name: str, command: type, own: list[tuple[str, Any] | tuple[str, Any, Any]], *, without: tuple[str, ...]) -> Any:
    """The type of a configuration: a command's settings, in their ranges, and what else stands there."""
    taken = {field[0] for field in own} | set(without)
    flags = [(flag.name, flag.hint, flag.default) for flag in flags_of(command).values() if flag.name not in taken]
    required = [field for field in own if len(field) == 2]
    return msgspec.defstruct(name, [*required, *(field for field in own if len(field) == 3), *flags], frozen=True)


TRAINING = _kind(
    "Training",
    Train,
    [
        ("method", Text),
        ("steps", FromZero),
        ("rows", Annotated[int, Meta(ge=1)]),
        ("data_fingerprint", Text),
        ("objective", dict[str, Setting]),
        ("architecture", Architecture),
        ("colours", Colours, Colours()),
        ("precision", Literal["no", "bf16", "fp16"], "bf16"),  # as before there was "auto", which is never written
        ("recipe", Config | Literal[""], ""),
        ("engine", str, ""),
        ("placement", str, ""),
        ("init", str | None, None),
    ],
    without=FREE,
)
FREE_OF_TUNING = ("source", "train", "test", "out", "config", "train_images", "test_images", "threads", "timeout")
FREE_OF_TUNING = (*FREE_OF_TUNING, "max_masked", "classes_by", "checkpoint_every", "keep", "log_every", *BY_COURSE)
BEGUN = [("source", str), ("init", str), ("given", str), ("data_fingerprint", str), ("test_fingerprint", str)]
KINDS_OF_RUNS: dict[str, Any] = {
    "train": TRAINING,
    "finetune": _kind("Finetuning", Finetune, [*BEGUN, ("classes", list[str])], without=FREE_OF_TUNING),
    "transfer": _kind("Transfer", Detect, [*BEGUN, ("made_of", MadeOf), ("design", Config)], without=FREE_OF_TUNING),
}


COMMANDS: dict[str, type] = {"train": Train, "finetune": Finetune, "transfer": Detect}


class Read(NamedTuple):
    """A configuration as this version would have written it, and keys that it does not know."""

    config: Config
    unknown: list[str]


def as_now(config: Mapping[str, Any], *, where: str) -> Read:
    """A configuration of any version as this one has it; raises Misfit naming `where`, the key and what is right."""
    found = dict(config)
    if fitted(found.get("format", 1), int, where=where, at=("format",)) > FORMAT:
        raise Misfit(f"{where} has format {found['format']}, and this version reads up to {FORMAT}: take a newer viewmill")
    for version in range(max(1, found.get("format", 1)), FORMAT):
        found = MIGRATIONS[version](found, where)
    found["format"] = FORMAT
    named = found.get("command", "train")
    kind = KINDS_OF_RUNS.get(named) if isinstance(named, str) else None
    if kind is None:
        raise Misfit(f"{where}: command must be one of {', '.join(KINDS_OF_RUNS)}, got {named!r}")
    made = fitted(found, kind, where=where)
    fields = fields_of(kind)
    if named != "train":
        return Read(found, [])  # parts of its schedule stand there too
    unknown = [key for key in found if key not in fields and key not in ("format", "command")]
    defaults = {name: msgspec.to_builtins(getattr(made, name), enc_hook=str) for name in fields if name not in found}
    found = json.loads(json.dumps(defaults)) | found
    found = {name: value for name, value in found.items() if name not in unknown}
    _settle_parts(found, unknown, where)
    return Read(found, unknown)


def _settle_parts(found: Config, unknown: list[str], where: str) -> None:
    """Fill what an older version did not write into the parts of a training's configuration, and name what is not known."""
    for part, kind in (("architecture", Architecture), ("colours", Colours)):
        whole = msgspec.to_builtins(fitted(found[part], kind, where=where, at=(part,)))
        unknown += [f"{part}.{name}" for name in found[part] if name not in whole]
        found[part] = json.loads(json.dumps(whole))
    if found["recipe"]:
        found["recipe"] = data_of(recipe_from(found["recipe"], where=f"{where}: recipe"))
    own = METHODS.get(found["method"])
    if own is not None:
        known = set(_every_setting())
        unknown += [f"objective.{name}" for name in found["objective"] if name not in known]
        kept = {name: value for name, value in found["objective"].items() if name in known}
        found["objective"] = json.loads(json.dumps(kept | _defaults(own, kept)))


def _every_setting() -> Iterator[str]:
    """Every name that a setting of any method may have."""
    for method in METHODS.values():
        yield from (name for name, _ in values(method))
    for name, kinds in KINDS.items():
        yield name
        for part in kinds.values():
            yield from (key for key, _ in values(part, f"{name}."))
    for name, part in ABSENT.items():
        for prefix in ("", "region."):
            yield from (key for key, _ in values(part, f"{prefix}{name}."))


def _defaults(method: Method, kept: Config) -> Config:
    """Settings that an older version did not write: as in the method's row, or in the part that stands in its place."""
    found = dict(values(method))
    for name, kinds in KINDS.items():
        held = {key for key in kept if key.startswith(f"{name}.")}
        own = {key: value for key, value in found.items() if key.startswith(f"{name}.")}
        if held <= own.keys():
            continue
        found = {key: value for key, value in found.items() if key not in own}
        parts = (dict(values(kind, f"{name}.")) for kind in kinds.values() if kind is not None)
        found |= next((part for part in parts if held <= part.keys()), {})
    return {key: value for key, value in found.items() if not any(_of_one(key, other) for other in kept)}


def _of_one(key: str, other: str) -> bool:
    """Whether two names are the same, or one is of a part that the other says is not there."""
    return key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.")


def config_of(run: Path) -> Config:
    """The configuration of the run in this folder; raises Refused where there is none, or one that cannot be."""
    try:
        return as_now(read_config(run), where=str(run / "config.json")).config
    except Misfit as error:
        raise Refused(str(error)) from None


def config_at(path: Path) -> Config:
    """The same of a run's config.json wherever it lies; raises Misfit and OSError too."""
    return as_now(read_json(path, Config), where=str(path)).config


def recorded(run: Path) -> Config:
    """The configuration of the run in this folder; empty where none has begun there."""
    return config_of(run) if (run / "config.json").exists() else {}


def settle_config(run: Path, config: Config) -> bool:
    """Write `config`, or check it against the one that stands; True where the run had been started before.

    Raises Refused naming the first key that differs. The file stays as it was written: an older version goes on reading it.
    """
    path = run / "config.json"
    if not path.exists():
        write_json(path, config)
        return False
    try:
        earlier = as_now(read_config(run), where=str(path))
    except Misfit as error:
        raise Refused(str(error)) from None
    if other := unlike(config, earlier.config):
        raise Refused(f"{run} holds a run with {other}: {_remedy(run, other)}")
    if earlier.unknown:
        say(f"{path} has {', '.join(earlier.unknown)}, which this version does not know: passed over")
    return True


def _remedy(run: Path, other: str) -> str:
    if other.split(" ")[0] in ("epochs", "steps"):
        # its schedule has fallen to its end, or will: a longer one would not be the run that it is
        return f"a run keeps its length; begin another with its weights, --init {run} --out OTHER, or start it as before"
    return "choose another --out, or start it as before to continue it"


def unlike(config: Config, earlier: Config) -> str:
    """The first key in which a configuration differs from an earlier one, which is as this version has it; "" for none."""
    flags = flags_of(COMMANDS[config.get("command", "train")]).values()
    usual = {flag.name: flag.default for flag in flags if flag.name in config}
    usual = json.loads(json.dumps(usual, default=str))
    return difference(config | {"format": FORMAT}, usual | earlier | {"format": FORMAT})
