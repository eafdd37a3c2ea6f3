"""What has to be the same: the settings that a result depends on, and the budgets of methods that are compared."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files.opening import read_bytes
from ..methods.overrides import summary, values
from ..settings import Evaluate, Train
from ..settings.parts import flags_of, flat, replaced
from ..training.options import FREE, method_of, peak_rate
from ..training.run_folder import difference
from .flags import OF_EVALUATION
from .plan import Contender, Job, Plan

BUDGET = ("batch", "accumulate", "epochs", "steps", "encoder", "width", "size", "embedding")


def settings_of(job: Job, plan: Plan, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """What a result depends on, by name: every flag of training and evaluation, the objective, the images.

    Without `fingerprints` that of what can be told without the images.
    """
    train = replaced(job.contender.train, seed=job.seed)
    method = method_of(train)
    own = flat(train, without=(*FREE, "method"))
    own |= {
        "learning_rate": peak_rate(train.optimisation, method),
        "recipe": _recipe(train.views.recipe) or method.recipe,
        "init": train.network.init and str(train.network.init),
    }
    placed = Evaluate(run=Path(), train=(), test=(), **plan.evaluate)
    told = flat(placed, without=(*OF_EVALUATION, "cache"))
    found = {"method": train.method, "set": train.set}
    for part, content in (("train", own), ("objective", dict(values(method))), ("evaluate", told), ("data", fingerprints)):
        found |= {f"{part}.{name}": value for name, value in content.items()}
    return json.loads(json.dumps(found))


def _recipe(recipe: str) -> str:
    if not recipe.endswith((".toml", ".json")):
        return recipe
    return f"{Path(recipe).name} {hashlib.sha256(read_bytes(recipe)).hexdigest()[:16]}"


def digest_of(settings: Mapping[str, Any]) -> str:
    """A short name of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def trained_as(settings: Mapping[str, Any]) -> str:
    """A short name of what a training depends on: studies that only evaluate otherwise share a run."""
    ours = [name for name in settings if name == "data.train" or not name.startswith(("evaluate.", "data."))]
    return digest_of({name: settings[name] for name in ours})


def budgets(contenders: Sequence[Contender]) -> list[str]:
    """In words what is not the same for all methods of what a fair comparison holds fixed."""
    facts = {name: {c.name: flat(c.train)[name] for c in contenders} for name in BUDGET}
    methods = {contender.name: method_of(contender.train) for contender in contenders}
    facts["recipe"] = {c.name: Path(c.train.views.recipe).name or methods[c.name].recipe for c in contenders}
    facts["temperature"] = {name: dict(values(method)).get("bound.temperature") for name, method in methods.items()}
    facts["negatives"] = {contender.name: _negatives(contender.train) for contender in contenders}
    notes = []
    for name, found in facts.items():
        groups = dict[Any, list[str]]()
        for contender, value in found.items():
            if value is not None:
                groups.setdefault(value, []).append(contender)
        if len(groups) > 1:
            notes.append(f"{name}: " + "; ".join(f"{value} ({', '.join(names)})" for value, names in groups.items()))
    return notes


def _negatives(train: Train) -> str:
    """How many negatives an anchor may have, and out of what."""
    method = method_of(train)
    if not method.contrast:
        return "none"
    facts, region = dict(values(method)), summary(method)[2]
    if "memory.negatives" in facts:
        return f"up to {facts['memory.negatives']:,} of a bank, {region}"
    if "memory.size" in facts:
        return f"of a queue of {facts['memory.size']:,}, {region}"
    return f"of the batch's {2 * train.optimisation.batch - 2:,}, {region}"


def other(now: Mapping[str, Any], earlier: Mapping[str, Any]) -> str:
    """The first setting in which a result of an earlier time differs, in words; "" where it is a result of these settings.

    What the earlier time did not know yet counts as a flag's default, and of an objective as what it is now: what is added
    later changes no method until it is set. Fingerprints that are not given are not compared.
    """
    usual = {f"train.{flag.name}": flag.default for flag in flags_of(Train).values()}
    usual |= {f"evaluate.{flag.name}": flag.default for flag in flags_of(Evaluate).values()}
    usual |= {name: value for name, value in now.items() if name.startswith("objective.")}
    usual = json.loads(json.dumps({name: value for name, value in usual.items() if name in now}, default=str))
    return difference(now, {**usual, **{name: value for name, value in earlier.items() if name in now}})
