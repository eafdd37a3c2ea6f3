"""The classes of two files as one task: matched by name, or by number where neither has names or where that is asked."""

from typing import Literal

import torch

from ..pipeline.beton.manifest import classes_of, lacking
from ..pipeline.beton.reader import Beton
from .labels import dense, placed
from .tasks import NOBODY, Task

Matching = Literal["name", "number"]
NAMED = 5  # classes that an error names


def class_task(
    train: Beton, test: Beton, *, name: str = "class", by: Matching = "name", labelled_only: bool = False
) -> Task:
    """The classes that the training images have, told of the test images; those of both files are matched `by` name.

    Rows without a label are left out where `labelled_only` says so. Raises ValueError where there are such rows otherwise,
    where there are fewer than two classes, where one file names its classes and the other does not, and where the test
    images have a class that the training images do not have.
    """
    notes = [note for beton in (train, test) for note in _unlabelled(beton, left_out=labelled_only)]
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
    notes += [f"{test.path} has no image of {_counted(missing, classes)}: nothing is told of these"] if missing else []
    told_M = torch.where(test_label_M < 0, NOBODY, place_D[test_label_M.clamp(min=0)])
    return Task(name, label_N, told_M, classes, tuple(notes))


def _unlabelled(beton: Beton, *, left_out: bool) -> list[str]:
    """A note on the images without a label, where there are some and they are `left_out`; raises ValueError otherwise."""
    bare, rows = int((beton.label_N < 0).sum()), len(beton)
    if bare == rows:
        raise ValueError(f"{beton.path} holds images without a label alone: convert a folder with one subfolder per class")
    if bare and not left_out:
        raise ValueError(
            f"{beton.path} holds images without a label, {bare:,} of {rows:,}: add --labelled-only to leave them out, or "
            "convert a source that has labels for all"
        )
    return [f"{bare:,} of {rows:,} images of {beton.path} have no label and are left out"] if bare else []


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
