"""The network of a method as config.json has it, and back."""

import json
from dataclasses import replace

import pytest

from viewmill.methods.architecture import Architecture, architecture
from viewmill.methods.table import METHODS
from viewmill.methods.terms import HEADS

SIZES = {"encoder": "resnet18", "width": 2, "size": 16, "hidden": 8, "embedding": 6, "seed": 1, "batch_norm": "local"}


@pytest.mark.parametrize("name", METHODS)
def test_what_is_recorded_is_read_again(name):
    made_of = architecture(SIZES, METHODS[name])
    assert Architecture.of_record(json.loads(json.dumps(made_of.record()))) == made_of


@pytest.mark.parametrize(
    ("name", "numbers"), [("fixed", [0.2]), ("bounded", [0.02, 0.9]), ("von-mises-fisher", [512.0])], ids=list(HEADS)
)
def test_a_head_is_recorded_by_its_name_and_its_numbers(name, numbers):
    made_of = architecture(SIZES, replace(METHODS["simclr"], head=HEADS[name](*numbers)))
    record = made_of.record()
    assert record["head"] == [name, numbers]
    assert "recompute" not in record
    again = Architecture.of_record(record, recompute=True)
    assert again == replace(made_of, recompute=True)
