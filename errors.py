"""What ends a command without a trace: input that is refused, and a run that cannot go on."""


class Refused(ValueError):
    """Input that cannot be used; the message names it, the limit and the remedy. Exit code 2."""

    said = False
    """Whether the person has been told: of several processes only one does that."""


class Failed(RuntimeError):
    """A run that cannot go on, for a reason that needs no trace; the message names step, cause and remedy. Exit code 1."""


class Unsound(Failed):
    """A run that has come to numbers that are not finite."""
