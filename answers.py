"""The commands that answer a question: what there is to train, what an encoder is worth, what works on this machine."""

import json

from .commands import Doctor, Evaluate, Methods
from .datasets import open_images, refusing
from .journal.dashboard import table
from .journal.log import versions
from .objectives.methods import METHODS
from .settings import choices, method_named, summary, values


def evaluate(config: Evaluate) -> int:
    """Print the kNN accuracy of a run's encoder beside its floors."""
    import torch

    from .evaluation.features import extract_pairs
    from .evaluation.report import class_task, knn_scores
    from .resume import load_encoders

    with refusing():
        settings, trained, untrained, colours = load_encoders(config.run, ema=config.ema)
        train_set, test_set = open_images(config.train), open_images(config.test)
        task = class_task(train_set, test_set)
        if config.k < 1 or config.temperature <= 0:
            raise ValueError(f"--k must be at least 1 and --temperature above 0, got {config.k} and {config.temperature}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoders = {str(config.run): trained.to(device), "untrained encoder": untrained.to(device)}
    pairs = extract_pairs(encoders, train_set, test_set, colours=colours, device=device)
    scores = knn_scores(pairs, [task], size=settings["size"], k=config.k, temperature=config.temperature)[task.name]
    if config.json:
        results = {score.name: score.accuracy for score in scores}
        print(json.dumps({"protocol": scores[0].protocol, "accuracy": results}))  # noqa: T201 (the answer itself)
    else:
        table(scores[0].protocol, ("encoder", "top-1"), [(score.name, f"{score.accuracy:.3f}") for score in scores])
    return 0


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

    from .pipeline.engine import choose, survey
    from .pipeline.threads import usable_cores

    engines = survey()
    rows = [(item.name, "works" if item.works else "does not work", item.stages or "", item.reason) for item in engines]
    table("engines", ("engine", "here", "where its stages run", "what mends it"), rows)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: everything runs on the CPU"
    facts = [("auto chooses", choose("auto")), ("device", device), ("usable cores", str(usable_cores()))]
    table("this machine", ("", ""), [*facts, *versions().items()])
    return 0 if any(item.works for item in engines) else 1
