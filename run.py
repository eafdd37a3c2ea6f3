"""viewmill: from folders of images to representations.

    viewmill                                             the demo: render, convert, train, evaluate, draw
    viewmill convert PHOTOS photos.beton                 images of any kind -> one .beton
    viewmill inspect photos.beton --deep --grid a.png    what it holds, whether it is sound, a picture
    viewmill subset photos.beton few.beton --fraction .1 some of its rows; `split` writes the others too
    viewmill methods                                     what can be trained, and each method's settings
    viewmill train simclr --data photos.beton --out RUN  pretrain; the same command again continues
    viewmill evaluate RUN --train a.beton --test b.beton kNN and probes of the frozen features, beside their floors
    viewmill finetune RUN --train a.beton --test b.beton --out OUT   all of it trained with labels
    viewmill transfer RUN --train a.json --test b.json --out OUT     detection, segmentation, keypoints
    viewmill embed RUN PHOTOS photos.parquet             features of any images
    viewmill export RUN OUT --format timm                the encoder for torchvision, timm, transformers, ONNX, Detectron2
    viewmill report RUN... --out page.html               a page about one or several runs
    viewmill study STUDY.toml                            methods x seeds: one table, one picture
    viewmill doctor                                      what works on this machine

`python run.py ...` and `accelerate launch run.py ...` are the same program. Two processes on one CPU:

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 run.py train ...

Exit codes: 0 done, 1 failed, 2 refused input, 75 stopped early with a good checkpoint, 130 interrupted (checkpoint written).
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    # Run as a script (or re-imported by a conversion worker): make this folder the package `viewmill`, whatever its name,
    # so that every class has one identity. See docs/decisions/0002-one-identity.md.
    import importlib.util

    _here = Path(__file__).resolve().parent
    _spec = importlib.util.spec_from_file_location(
        "viewmill", _here / "__init__.py", submodule_search_locations=[str(_here)]
    )
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["viewmill"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["viewmill"])
    __package__ = "viewmill"
    if __name__ == "__main__":
        from viewmill.run import main  # pyright: ignore[reportMissingImports]

        raise SystemExit(main())

import contextlib
import io
from typing import Any

import tyro

from .commands import body_of
from .commands.from_file import with_file
from .commands.line import by_name, in_order
from .console import plain_errors, say, settle_streams, unboxed
from .distributed import rendezvous
from .errors import Refused, refusing
from .files.typed import check_settings
from .settings import COMMANDS, NOTED, Command


def parsed(arguments: list[str]) -> Any:
    """The command line as a command; of several processes one that cannot read its own tells the others."""

    def read() -> Any:
        commands = by_name(COMMANDS)
        words = with_file(in_order(arguments, commands), commands)
        return tyro.cli(Command, prog="viewmill", description=__doc__, args=words, config=(tyro.conf.OmitArgPrefixes,))

    if rendezvous.current().world == 1:
        return read()
    from .training.launch import shared

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return read()
    except Refused as refusal:
        shared(refusal)
        raise
    except SystemExit as error:
        if not error.code:
            raise
        shared(refusal := Refused(unboxed(told.getvalue())))
        raise refusal from None


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line (the demo where it is empty), run the command, return the exit code."""
    settle_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with plain_errors():
            command = parsed(arguments or ["demo"])
        if not isinstance(command, NOTED):
            with refusing():
                check_settings(command)
        return body_of(command)(command)
    except Refused as error:
        if not error.said:
            say(f"viewmill: {error}")
        return 2
    except KeyboardInterrupt:
        say("viewmill: interrupted")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
