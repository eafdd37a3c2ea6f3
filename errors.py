"""What ends a command without a trace: input that is refused, and a run that cannot go on."""


class Refused(ValueError):
    """Input that cannot be used; the message names it, the limit and the remedy. Exit code 2."""


class Failed(RuntimeError):
    """A run that cannot go on, for a reason that needs no trace; the message names step, cause and remedy. Exit code 1."""
