"""What each command does: one file a command, with a function of its name. Most load torch, so none before it is called."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def body_of(command: Any) -> Callable[[Any], int]:
    """The function that takes these settings and returns the exit code: `train` of train.py for `Train`, and so on."""
    name = type(command).__name__.lower()
    return getattr(import_module(f".{name}", __package__), name)
