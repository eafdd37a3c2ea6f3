"""The classes of two files as one task: matched by name, or by number where neither has names or where that is asked."""

from typing import Literal

import torch

from ..pipeline.beton import Beton
from ..pipeline.manifest import classes_of, lacking
from .labels import dense, placed
from .tasks import Task

Matching = Literal["name", "number"]
NAMED = 5  # classes that an error names


def class_task(train: Beton, test: Beton, *, name: str = "class", by: Matching = "name") -> Task:
    """The classes that the training images have, told of the test images; those of both files are matched `by` name.

    Raises ValueError where a row has no label, where there are fewer than two classes, where one file names its classes and
    the other does not, and where the test images have a class that the training images do not have.
    """
    for beton in (train, test):
        if not len(beton) or beton.label_N.min() < 0:
            raise ValueError(f"{beton.path} holds images without a label: convert a folder with one subfolder per class")
    known, asked = classes_of(train), classes_of(test)
    if by == "name" and bool(known) != bool(asked):
        raise ValueError(_one_sided(*((train, test) if known else (test, train))))
    label_N, number_C = dense(torch.from_numpy(train.label_N))
    if len(number_C) < 2:
        raise ValueError(f"{train.path} has one class alone: there is nothing to tell apart")
    classes = tuple(_name(number, known or asked) for number in number_C.tolist())
    test_label_M, test_number_D = dense(torch.from_numpy(test.label_N))
    if by == "number" or not known:
        place_D = placed(test_number_D, number_C)
    else:
        places: dict[str, int] = {}
        for place, each in enumerate(classes):
            places.setdefault(each, place)
        place_D = torch.tensor([places.get(_name(number, asked), -1) for number in test_number_D.tolist()])
    _check_known(train, test, known, [_name(number, asked or known) for number in test_number_D[place_D < 0].tolist()])
    missing = sorted(set(range(len(classes))) - set(place_D.tolist()))
    notes = (f"{test.path} has no image of {_counted(missing, classes)}: nothing is told of these",) if missing else ()
    return Task(name, label_N, place_D[test_label_M], classes, notes)


def _name(number: int, names: tuple[str, ...]) -> str:
    return names[number] if number < len(names) else str(number)


def _counted(missing: list[int], classes: tuple[str, ...]) -> str:
    named = ", ".join(classes[place] for place in missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
    return f"{len(missing)} of the {len(classes)} classes ({named})"


def _one_sided(named: Beton, bare: Beton) -> str:
    why = lacking(bare) or f"the manifest of {bare.path} names no classes"
    return (
        f"{named.path} names its classes and {bare.path} does not, so nobody knows whether their numbers mean the same: "
        f"{why}; put the manifest back, convert it from folders or a list with names, or add --classes-by number if they do"
    )


def _check_known(train: Beton, test: Beton, known: tuple[str, ...], strange: list[str]) -> None:
    """Raise ValueError where there are classes, `strange`, that the training images do not have."""
    unheard = [name for name in strange if name not in known] if known else []
    if unheard:
        raise ValueError(
            f"{test.path} has {len(unheard)} classes that {train.path} lacks ({', '.join(unheard[:NAMED])}): "
            "give two parts of one data set"
        )
    if strange:
        shown = ", ".join(strange[:NAMED])
        raise ValueError(f"{train.path} has no image of {len(strange)} classes of {test.path} ({shown})")
