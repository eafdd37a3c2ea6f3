"""The commands that answer a question: what there is to train, and what works on this machine."""

from .commands import Doctor, Methods
from .console import table
from .errors import refusing
from .methods.overrides import choices, method_named, summary, values
from .methods.table import METHODS
from .training.log import versions


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


def doctor(config: Doctor) -> int:
    """Print engines, devices and versions; exit code 1 where no engine works."""
    import torch

    from .pipeline.engines.engine import choose, survey
    from .pipeline.threads import usable_cores

    engines = survey()
    rows = [(item.name, "works" if item.works else "does not work", item.stages or "", item.reason) for item in engines]
    table("engines", ("engine", "here", "where its stages run", "what mends it"), rows)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: everything runs on the CPU"
    facts = [("auto chooses", choose("auto")), ("device", device), ("usable cores", str(usable_cores()))]
    table("this machine", ("", ""), [*facts, *versions().items()])
    return 0 if any(item.works for item in engines) else 1
