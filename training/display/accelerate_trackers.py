"""TensorBoard, Weights & Biases and Trackio, started by Accelerate's trackers so that they ask nothing and delay nothing."""

import contextlib
import io
import json
import netrc
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

PROJECT = "viewmill"
WANDB_START_S, WANDB_END_S = 30.0, 120.0  # to wait for its server; by default 90 s, and without end
QUIET = {"silent": True, "console": "off", "disable_git": True, "save_code": False}

if TYPE_CHECKING:
    import numpy as np

Scalars = dict[str, float]
Pictures = dict[str, "np.ndarray"]
Histograms = dict[str, tuple["np.ndarray", "np.ndarray"]]  # counts, edges


class Run(NamedTuple):
    """What a tracker has to know of a run."""

    folder: Path
    """RUN/track."""
    settings: Mapping[str, Any]
    name: str
    step: int
    """Steps done before this start."""
    warn: Callable[[str], None]


class Opened(NamedTuple):
    """A tracker that runs."""

    log: Callable[[Scalars, Histograms, int], None]
    show: Callable[[Pictures, int], None]
    finish: Callable[[], None]


def _tensorboard(run: Run) -> Opened:
    from accelerate.tracking import TensorBoardTracker

    # events of steps that happen again are shown once: TensorBoard drops those from purge_step on
    tracker = TensorBoardTracker("tensorboard", run.folder, purge_step=run.step + 1 if run.step else 0)
    tracker.start()
    tracker.log({"settings": f"```\n{json.dumps(run.settings, indent=2)}\n```"}, step=run.step)

    def log(numbers: Scalars, histograms: Histograms, step: int) -> None:
        for name, (counts, edges) in histograms.items():
            middles = [(low + high) / 2 for low, high in pairwise(edges)]
            tracker.writer.add_histogram_raw(
                name,
                min=edges[0],
                max=edges[-1],
                num=sum(counts),
                sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
                sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles, strict=True)),
                bucket_limits=edges[1:],
                bucket_counts=counts,
                global_step=step,
            )
        tracker.log(numbers, step=step)

    def show(pictures: Pictures, step: int) -> None:
        tracker.log_images({name: picture[None] for name, picture in pictures.items()}, step, dataformats="NHWC")
        tracker.writer.flush()

    return Opened(log, show, tracker.finish)


def _wandb(run: Run) -> Opened:
    cache = run.folder / "wandb" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    # it reports its own errors to its makers, even where it runs offline
    quiet = {"WANDB_ERROR_REPORTING": os.environ.get("WANDB_ERROR_REPORTING", "false"), "WANDB_CACHE_DIR": str(cache)}
    with _environment(**quiet):
        import wandb
        from accelerate.tracking import WandBTracker

    waits = {"init_timeout": WANDB_START_S, "finish_timeout": WANDB_END_S}
    named = {"id": run.name, "name": run.name, "dir": run.folder, "resume": "allow"}
    options = named | {"config": run.settings, "settings": QUIET | waits}

    def started(mode: str) -> WandBTracker:
        tracker = WandBTracker(PROJECT, mode=mode, **options)
        with _environment(**quiet):
            tracker.start()
        return tracker

    mode = os.environ.get("WANDB_MODE") or "online"
    if mode not in ("offline", "dryrun", "disabled") and not _logged_in(wandb.Settings().base_url):
        if "WANDB_MODE" in os.environ:
            run.warn("wandb has no key, so it writes to RUN/track alone: `wandb login`, then `wandb sync`")
        mode = "offline"
    try:
        tracker = started(mode)
    except wandb.Error as error:
        reason = str(error).splitlines()[0]
        run.warn(f"wandb does not answer ({reason}): it writes to RUN/track alone, `wandb sync` sends that")
        wandb.teardown()  # its service holds the run's id otherwise
        tracker = started("offline")

    def log(numbers: Scalars, histograms: Histograms, step: int) -> None:
        shown = {name: wandb.Histogram(np_histogram=histogram) for name, histogram in histograms.items()}
        tracker.log({**numbers, **shown}, step=step)

    def show(pictures: Pictures, step: int) -> None:
        tracker.log_images({name: [picture] for name, picture in pictures.items()}, step)

    def finish() -> None:
        tracker.finish()
        wandb.teardown()

    return Opened(log, show, finish)


def _logged_in(base_url: str) -> bool:
    """Whether wandb would find a key without asking for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        keys = netrc.netrc(os.environ.get("NETRC") or None)
    except (OSError, netrc.NetrcParseError):
        return False
    hosts = (urlsplit(os.environ.get("WANDB_BASE_URL") or base_url).netloc, "api.wandb.ai")
    return any(keys.authenticators(host) for host in hosts)


def _trackio(run: Run) -> Opened:
    target = run.folder / "trackio"
    target.mkdir(parents=True, exist_ok=True)  # Trackio itself would go on without a folder
    with _environment(TRACKIO_DIR=str(target)):  # which it reads as it is imported
        import trackio  # pyright: ignore[reportMissingImports] (takes an older Pillow than the others)
        from accelerate.tracking import TrackioTracker
        from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]
        from trackio.utils import TRACKIO_DIR  # pyright: ignore[reportMissingImports]

    if target != TRACKIO_DIR:
        raise RuntimeError(f"it was loaded before, and writes to {TRACKIO_DIR}: train in a process of its own")
    alone = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    tracker = TrackioTracker(PROJECT, name=run.name, resume="allow", config=dict(run.settings), **alone)
    with contextlib.redirect_stdout(io.StringIO()):
        tracker.start()
    known = SQLiteStorage.get_max_step_for_run(PROJECT, run.name)
    before = -1 if known is None else known  # steps that happen again stand there already, with the same values

    def log(numbers: Scalars, histograms: Histograms, step: int) -> None:
        shown = {name: trackio.Histogram(np_histogram=histogram) for name, histogram in histograms.items()}
        if step > before:
            tracker.log({**numbers, **shown}, step=step)

    def show(pictures: Pictures, step: int) -> None:
        if step > before:
            tracker.log({name: trackio.Image(picture) for name, picture in pictures.items()}, step=step)

    return Opened(log, show, trackio.finish)


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables that stand for a moment."""
    earlier = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in earlier.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


OPENING: dict[str, Callable[[Run], Opened]] = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
