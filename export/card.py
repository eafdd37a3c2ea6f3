"""The model card: what an encoder was made of and by, what it is worth, how it is loaded, and what it is not for.

Markdown with the front matter that Hugging Face reads (https://huggingface.co/docs/hub/model-cards). Paths of the machine
that it was trained on are left out.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..files.opening import LARGE, read_text
from ..models.network import Colour
from ..training.log import versions
from .compare import LIMIT, Compared
from .place import MARK
from .target import Lines, Target
from .trained import CHANNELS, Trained

FLOORS = ("untrained encoder", "raw pixels")
# identifiers that the Hub knows; any other licence is "other" with a name
LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense", "openrail"),
)
SPACES = {"rgb": "RGB", "lab": "CIE Lab (D65, 2 degrees, L 0 to 100)", "ycbcr": "YCbCr (BT.601, Y 16 to 235)"}
TRAINED_BY = ("optimiser", "learning_rate", "schedule", "warmup", "momentum", "weight_decay", "clip", "accumulate")
TRAINED_BY = (*TRAINED_BY, "batch_norm", "recipe", "engine", "seed")


class Said(NamedTuple):
    """What the person who exports says of it."""

    licence: str
    author: str


class Result(NamedTuple):
    """A line of RUN/evaluation.jsonl: top-1 is a share of 1."""

    task: str
    protocol: str
    encoder: str
    top1: float


def card(trained: Trained, target: Target, lines: Lines, compared: Compared, said: Said, *, sha256: str) -> str:
    """The whole card."""
    results = results_of(trained)
    parts = [
        _front(trained, target, results, said),
        f"# {_title(trained)}",
        _summary(trained),
        "## How it is loaded",
        f"```python\n{lines.code}\n```",
        lines.notes,
        _input(trained, lines.image),
        _compared(target, compared),
        "## How it was made",
        _table(("", ""), _made(trained, sha256)),
        "## What it is worth",
        _worth(results),
        "## What it is not for",
        _not_for(trained),
        "## Licence and author",
        _said(said),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def results_of(trained: Trained) -> list[Result]:
    """What is recorded of these weights and of the floors, the newest of each; lines that tell nothing are passed over."""
    path = trained.run / "evaluation.jsonl"
    found: dict[tuple[str, str, str], Result] = {}
    try:
        lines = read_text(path, limit=LARGE, errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            read = json.loads(line)
            task, protocol, encoder = (plain(str(read[name])) for name in ("task", "protocol", "encoder"))
            result = Result(task, protocol, encoder, float(read["top1"]))
        except (ValueError, LookupError, TypeError):
            continue
        floor = result.encoder in FLOORS
        is_its = read.get("step", trained.step) == trained.step
        is_its &= read.get("weights", "ema" if trained.ema else "model") == ("ema" if trained.ema else "model")
        if 0 <= result.top1 <= 1 and (floor or is_its):
            result = result if floor else result._replace(encoder="this encoder")
            found[result[:3]] = result
    return list(found.values())


def plain(text: str) -> str:
    """One line of what can be printed."""
    return " ".join("".join(letter for letter in text if letter.isprintable() or letter.isspace()).split())


def _front(trained: Trained, target: Target, results: Sequence[Result], said: Said) -> str:
    """YAML whose values are JSON, which it is made to take."""
    tags = ["viewmill", "self-supervised", "contrastive", trained.settings["method"], trained.name.removeprefix("timm:")]
    facts: dict[str, Any] = {"library_name": target.library, "pipeline_tag": "image-feature-extraction", "tags": tags}
    licence = plain(said.licence)
    identifier = re.sub(r"\s+", "-", licence.lower())
    if identifier in LICENCES:
        facts["license"] = identifier
    elif licence:
        facts |= {"license": "other", "license_name": licence}
    own = [result for result in results if result.encoder not in FLOORS]
    if own:
        facts["model-index"] = [{"name": _title(trained), "results": [_indexed(result) for result in own]}]
    written = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.items()]
    return "\n".join(["---", MARK, *written, "---"])


def _indexed(result: Result) -> dict[str, Any]:
    return {
        "task": {"type": "image-classification"},
        "dataset": {"name": result.task, "type": "custom"},
        "metrics": [{"type": "accuracy", "value": result.top1, "name": f"top-1, {result.protocol}"}],
    }


def _title(trained: Trained) -> str:
    half = {"both": "", "first": ", first channel", "second": ", second and third channel"}[trained.half]
    return f"{trained.name} by {trained.settings['method']}, {trained.step:,} steps{half}"


def _summary(trained: Trained) -> str:
    settings = trained.settings
    kinds = "Two encoders, one for each half of the channels" if isinstance(trained.encoder, Colour) else "An image encoder"
    weights = "the moving average of the weights" if trained.ema else "the weights"
    return (
        f"{kinds}, trained without labels by `{settings['method']}` on {settings['rows']:,} images: an image becomes a "
        f"vector of {_features(trained)} numbers. These are {weights} of step {trained.step:,} of {settings['steps']:,}. "
        "Projector and other heads are left out, as is usual."
    )


def _features(trained: Trained) -> int:
    return int(trained.encoder.features)  # pyright: ignore[reportArgumentType]


def _input(trained: Trained, image: str) -> str:
    """What `image` is: `image` in words, or else what the encoder takes; and at which size."""
    colours, seen = trained.colours, CHANNELS[trained.half]
    space = SPACES[colours.space]
    scale = "in 0 to 1" if colours.space == "rgb" else "made of sRGB in 0 to 1"
    which = {"both": "", "first": ", of which it takes the first channel", "second": ", of which it takes channels 2 and 3"}
    channels = seen.stop - seen.start
    crop = "" if trained.share == 1 else f" {trained.share:.3g} times"
    normalised = (
        f"float32 [batch, {channels}, height, width]: {space} {scale}{which[trained.half]}, less the mean "
        f"{list(colours.mean[seen])}, divided by {list(colours.std[seen])}"
    )
    return (
        f"`image` is {image or normalised}. It was trained at {trained.size} px and is "
        f"evaluated on the centred square of{crop} the shorter side, resized to that by an antialiased bilinear filter."
    )


def _compared(target: Target, compared: Compared) -> str:
    how = "by way of its names turned back, without Detectron2 itself," if target.library == "detectron2" else ""
    how = how or f"by {target.library}"
    sizes = " and ".join(map(str, compared.sizes))
    return (
        f"When it was written it was loaded again {how} and gave the features of the run's encoder to "
        f"{compared.difference:.1e} of the largest (limit {LIMIT:g}), on rendered figures of {sizes} px."
    )


def _made(trained: Trained, sha256: str) -> list[tuple[str, str]]:
    settings = trained.settings
    rows = [
        ("encoder", f"{trained.name}, width {settings['architecture']['width']}, {_features(trained)} features"),
        ("method", settings["method"]),
        ("its settings", _settings(settings["objective"])),
        ("data", f"{settings['rows']:,} images, fingerprint {settings['data_fingerprint']}"),
        ("steps", f"{trained.step:,} of {settings['steps']:,}"),
        ("batch", f"{settings['batch']} images"),
        ("precision", "float32" if settings["precision"] == "no" else f"{settings['precision']}, mixed; weights float32"),
        ("size", f"{trained.size} px"),
        ("training", _settings({name: settings[name] for name in TRAINED_BY if settings.get(name) not in (None, "")})),
        ("began with", f"weights of sha256 {settings['init']}" if settings.get("init") else "random weights"),
        ("trained with", _settings(trained.versions)),
        ("exported with", _settings(versions())),
        ("file", f"sha256 {sha256}"),
    ]
    return rows


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _worth(results: Sequence[Result]) -> str:
    if not results:
        return "It has not been evaluated: `viewmill evaluate` measures it beside raw pixels and an untrained encoder."
    rows = [(result.task, result.protocol, result.encoder, f"{result.top1:.4f}") for result in results]
    note = "Top-1 is a share of 1. Numbers of different protocols must not be compared."
    return f"{_table(('task', 'protocol', 'encoder', 'top-1'), rows)}\n\n{note}"


def _not_for(trained: Trained) -> str:
    return f"""\
- It tells no classes: features need a linear probe, neighbours or fine-tuning, and a test on labelled images of your own.
- Images unlike the {trained.settings["rows"]:,} that it has seen, other sizes than {trained.size} px, and another \
normalisation or colour space than the one above give features of unknown worth.
- It has learnt whatever its images have in common, their biases too. It was not tested for decisions about people, for \
medical use or for safety."""


def _said(said: Said) -> str:
    licence = plain(said.licence) or "none stated: ask the author before you use or pass on these weights"
    return f"Licence: {licence}. Author: {plain(said.author) or 'not stated'}."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    written = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(plain(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in written)
