"""Words of a command line: positional ones anywhere, the nearest command, addresses of other machines."""

import pytest

from viewmill.commands.line import by_name, in_order
from viewmill.errors import Refused
from viewmill.settings import Bench, Convert, Evaluate, Export, Inspect, Report, Train

COMMANDS = by_name([Bench, Convert, Evaluate, Export, Inspect, Report, Train])


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        ("convert a --workers 0 b.beton", "convert a b.beton --workers 0"),
        ("convert --overwrite a --quality 90 b c.beton", "convert a b c.beton --overwrite --quality 90"),
        ("convert a --root=. --no-overwrite b.beton", "convert a b.beton --root=. --no-overwrite"),
        ("evaluate --protocols knn linear RUN --train a --test b", "evaluate RUN --protocols knn linear --train a --test b"),
        ("evaluate --k 20 200 RUN --train a b --test c d", "evaluate RUN --k 20 200 --train a b --test c d"),
        ("evaluate --temperature .1 1e-2 RUN --train a --test b", "evaluate RUN --temperature .1 1e-2 --train a --test b"),
        ("train --set region.outer=0.2 loss=1 ring --data x", "train ring --set region.outer=0.2 loss=1 --data x"),
        ("train --learning-rate -1 ring --data x", "train ring --learning-rate -1 --data x"),
        ("train --learning_rate .1 ring", "train ring --learning_rate .1"),
        ("train --track tensorboard wandb simclr", "train simclr --track tensorboard wandb"),
        ("bench --size 32 pipeline a.beton", "bench pipeline a.beton --size 32"),
        ("bench --json step", "bench step --json"),
        ("report a --out b.html c", "report a c --out b.html"),
        ("export --unknown run out", "export run out --unknown"),
        ("train --set bound --data x", "train --set bound --data x"),
        ("--help", "--help"),
        ("train --help", "train --help"),
        ("inspect -- -odd.beton", "inspect -- -odd.beton"),
    ],
)
def test_positional_words_may_stand_anywhere(given, ordered):
    assert in_order(given.split(), COMMANDS) == ordered.split()


def test_a_command_that_there_is_not_is_refused_with_the_nearest():
    with pytest.raises(Refused, match="no command is called 'trein': did you mean train"):
        in_order(["trein", "simclr"], COMMANDS)
    with pytest.raises(Refused, match="there are bench, convert"):
        in_order(["xyzzy"], COMMANDS)


@pytest.mark.parametrize("word", ["s3://bucket/images", "--data=gs://a/b", "HTTPS://x/y.tar", "hf://datasets/a"])
def test_an_address_is_refused_as_it_was_written(word):
    with pytest.raises(Refused, match="is an address"):
        in_order(["train", "simclr", "--data", word], COMMANDS)
