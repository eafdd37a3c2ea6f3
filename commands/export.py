"""`viewmill export`: a run's encoder in the layout of a library, which has loaded it and sees what it sees."""

from ..console import say
from ..errors import refusing
from ..export import place, to_onnx
from ..export.card import Said, card
from ..export.compare import LIMIT, compare
from ..export.formats import TARGETS
from ..export.target import Target, require, weights_at
from ..export.trained import Trained, load
from ..pipeline.beton.manifest import file_sha256
from ..settings.export import Export


def export(config: Export) -> int:
    """Write the encoder and its card; exit code 1, and nothing written, where the library sees something else than it."""
    raw = config.raw_pixels
    target = to_onnx.target(raw_pixels=raw) if config.format == "onnx" else TARGETS[config.format]
    with refusing():
        if raw and config.format != "onnx":
            raise ValueError(f"--raw-pixels is for --format onnx: {config.format} has no place for a normalisation")
        out = place.place(config.out, config.format, target.suffix)
        place.check(out, overwrite=config.overwrite)
        require(config.format, target)
        trained = load(config.run, ema=config.ema, half=config.half)
        check(config.format, trained)
    for fault in trained.passed_over:
        say(f"passed over: {fault}")
    with refusing(), place.building(out) as built:
        with place.naming(out):
            target.write(trained, built)
        found = compare(trained, target, target.load(trained, built), raw_pixels=raw)
        if not found.agrees:
            say(
                f"viewmill: {target.library} sees something else in {out.name} than the encoder of {config.run}: features "
                f"differ by {found.difference:.2g} of the largest (limit {LIMIT:g}), so nothing is written"
            )
            return 1
        digest = file_sha256(built if place.is_file(out) else weights_at(built))
        said = Said(config.licence, config.author)
        text = card(trained, target, target.lines(trained, out.name), found, said, sha256=digest)
        place.settle(built, out, text)
    sizes = " and ".join(map(str, found.sizes))
    say(
        f"{out}: {trained.name} of step {trained.step:,} for {target.library}; features agree to {found.difference:.1e} "
        f"of the largest (limit {LIMIT:g}) at {sizes} px; its card: {place.card_of(out)}"
    )
    return 0


def check(format: str, trained: Trained) -> None:
    """Raise ValueError where the encoder does not fit the format, naming those that it fits."""
    try:
        TARGETS[format].check(trained)
    except ValueError as error:
        fitting = [name for name, target in TARGETS.items() if _fits(target, trained)]
        raise ValueError(f"{error}. What fits it: --format {' or '.join(fitting)}") from error


def _fits(target: Target, trained: Trained) -> bool:
    try:
        target.check(trained)
    except ValueError:
        return False
    return True
