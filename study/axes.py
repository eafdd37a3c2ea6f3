"""What a study's results are drawn against: one number of a training on either axis, and how it is read from its result.

[[scatter]]
title = "What is kept"
x = {bits = ["hue", "texture"]}   # information that a probe proves, summed over independent tasks
y = {top1 = "shape"}              # or {scalar = "bound_valid"}: of the log, over the last epoch; {setting = "region.inner"}
protocol = "ridge"                # where the evaluation has several: which one (its kind begins like that)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct

from .data import Text

KINDS = ("top1", "bits", "scalar", "setting")
OWN, RAW = "run", "raw pixels"
"""Whose score it is, in a result's evaluations."""


class Numbers(Struct, forbid_unknown_fields=True, frozen=True):
    """An axis as a study has it: one of these."""

    top1: Text | None = None
    bits: Annotated[list[Text], Meta(min_length=1)] | None = None
    scalar: Text | None = None
    setting: Text | None = None


class Panel(Struct, forbid_unknown_fields=True, frozen=True):
    """The table [[scatter]] of a study."""

    x: Numbers
    y: Numbers
    title: str = ""
    protocol: str = ""


@dataclass(frozen=True)
class Axis:
    """A number of a training: `kind`, one of KINDS, of `names`."""

    kind: str
    names: tuple[str, ...]

    @property
    def label(self) -> str:
        """For people, with its unit."""
        what = ", ".join(self.names).replace("_", " ")
        return {"top1": f"{what}, top-1 (%)", "bits": f"{what}: information (bits)"}.get(self.kind, what)


@dataclass(frozen=True)
class Scatter:
    """One panel: a dot a training."""

    title: str
    x: Axis
    y: Axis
    protocol: str
    """How the kind of the protocol begins that scores are taken from; "" for the last."""


def scatters_of(given: Sequence[Panel]) -> tuple[Scatter, ...]:
    """The panels of a study; raises ValueError for what they cannot be."""
    return tuple(Scatter(one.title, _axis(one.x, "x"), _axis(one.y, "y"), one.protocol) for one in given)


def _axis(given: Numbers, where: str) -> Axis:
    found = [(kind, value) for kind in KINDS if (value := getattr(given, kind)) is not None]
    if len(found) != 1:
        kinds = " and ".join(kind for kind, _ in found) or "none"
        raise ValueError(f'[[scatter]] {where} must be one of {", ".join(KINDS)}, as {{top1 = "shape"}}, got {kinds}')
    ((kind, value),) = found
    return Axis(kind, tuple(value) if isinstance(value, list) else (value,))


def value_of(line: Mapping[str, Any], axis: Axis, protocol: str, encoder: str = OWN) -> float | None:
    """The number of a result `line` on an axis, accuracies in percent; None where it has none."""
    if axis.kind == "scalar":
        return line["last_epoch"].get(axis.names[0]) if encoder == OWN else None
    if axis.kind == "setting":
        found = line["settings"].get(f"objective.{axis.names[0]}", line["settings"].get(f"train.{axis.names[0]}"))
        return float(found) if isinstance(found, int | float) and encoder == OWN else None
    scores = [_score(line, name, protocol, encoder) for name in axis.names]
    if axis.kind == "top1":
        return None if scores[0] is None else 100 * scores[0]["top1"]
    bits = [information(score["top1"], score["classes"]) for score in scores if score is not None and "classes" in score]
    return sum(bits) if len(bits) == len(scores) else None


def _score(line: Mapping[str, Any], task: str, protocol: str, encoder: str) -> Mapping[str, Any] | None:
    found = [score for score in line["evaluations"] if (score["task"], score["encoder"]) == (task, encoder)]
    fitting = [score for score in found if score["kind"].startswith(protocol)]
    return fitting[-1] if fitting else None


def information(top1: float, classes: int) -> float:
    """What an accuracy proves, in bits: I(Z; F) >= log2 C - h(e) - e log2(C - 1) for C classes that are equally frequent.

    Fano's inequality (Cover and Thomas, Elements of Information Theory, 2.10), with e the share of errors and h the binary
    entropy; 0 at chance and below. For independent factors the sum over them is a lower bound too: I(Z; F1 F2) is at least
    I(Z; F1) + I(Z; F2). Of 1,000 images an accuracy of 10 classes that is
    two standard deviations above chance by chance alone, .119, proves .003 bits.
    """
    if classes < 2 or not 0 <= top1 <= 1:
        raise ValueError(f"an accuracy is a share of 1 among 2 or more classes, got {top1} of {classes}")
    error = 1 - top1
    if top1 <= 1 / classes:
        return 0.0
    entropy = -sum(share * math.log2(share) for share in (error, top1) if share > 0)
    return math.log2(classes) - entropy - error * math.log2(max(classes - 1, 1))
