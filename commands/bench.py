"""`viewmill bench`: measure speeds."""

from ..settings import Bench


def bench(config: Bench) -> int:
    """Measure what is asked; returns the exit code."""
    if config.what == "step":
        from ..benchmarks.step import bench as measure
    elif config.what == "objective":
        from ..benchmarks.objective import bench as measure
    else:
        from ..benchmarks.pipeline import bench as measure
    return measure(config)
