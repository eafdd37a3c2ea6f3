"""`viewmill methods`: what there is to train, and the settings of each method."""

from ..console import table
from ..errors import refusing
from ..methods.overrides import choices, method_named, summary, values
from ..methods.table import METHODS
from ..settings import Methods


def methods(config: Methods) -> int:
    """Print the table of methods, or the settings of one."""
    if config.name:
        with refusing():
            method = method_named(config.name)
        rows = [(name, str(value)) for name, value in values(method) if value is not None]
        table(f"{config.name} ({method.source})", ("--set", "is"), rows)
        table("what else can be set", ("--set", "to, or (is then)"), list(choices(method)))
        return 0
    rows = [(name, *summary(method)) for name, method in METHODS.items()]
    table("methods", ("method", "views", "positive", "negatives", "memory", "loss", "source"), rows)
    return 0
