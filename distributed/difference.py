"""Facts that processes should have in common: the first in which they differ, in words."""

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

SHOWN = 60  # characters of a value


def difference(told: Sequence[Mapping[str, Any]]) -> str:
    """The first fact in which processes differ, its values and who holds them, in words; "" where they agree.

    A fact that a process does not tell is compared among the others.
    """
    flat = [_flat(facts) for facts in told]
    for key in dict.fromkeys(key for facts in flat for key in facts):
        held: dict[str, list[int]] = {}
        for rank, facts in enumerate(flat):
            if key in facts:
                held.setdefault(json.dumps(facts[key]), []).append(rank)
        if len(held) > 1:
            named = zip(_short(list(held)), held.values(), strict=True)
            values = "; ".join(f"{value.replace('null', 'not given')} on {processes(ranks)}" for value, ranks in named)
            return f"the processes differ in {key}: {values}. Start all of them with the same settings, data and versions"
    return ""


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _short(texts: Sequence[str]) -> list[str]:
    """Where they are long, the part in which they begin to differ."""
    if max(map(len, texts)) <= SHOWN:
        return list(texts)
    begin = max(0, _alike(texts) - SHOWN // 3)
    cut = [text[begin : begin + SHOWN] for text in texts]
    return [
        ("..." if begin else "") + part + ("..." if begin + SHOWN < len(text) else "")
        for part, text in zip(cut, texts, strict=True)
    ]


def _alike(texts: Sequence[str]) -> int:
    """With how many characters all of them begin."""
    return sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False)))


def processes(ranks: Sequence[int]) -> str:
    """'process 0', or 'processes 0, 2 to 5'."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    return f"process{'es' if len(ranks) > 1 else ''} {', '.join(parts)}"
