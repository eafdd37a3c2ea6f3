"""`viewmill doctor`: what works on this machine."""

from ..console import table
from ..settings import Doctor
from ..training.log import versions


def doctor(config: Doctor) -> int:
    """Print engines, devices and versions; exit code 1 where no engine works."""
    import torch

    from ..pipeline.engines.engine import choose, survey
    from ..pipeline.threads import usable_cores

    engines = survey()
    rows = [(item.name, "works" if item.works else "does not work", item.stages or "", item.reason) for item in engines]
    table("engines", ("engine", "here", "where its stages run", "what mends it"), rows)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: everything runs on the CPU"
    facts = [("auto chooses", choose("auto")), ("device", device), ("usable cores", str(usable_cores()))]
    table("this machine", ("", ""), [*facts, *versions().items()])
    return 0 if any(item.works for item in engines) else 1
