"""What a method remembers from step to step: named tensors, all of them in every checkpoint, the same on every rank.

"bank" ("second_bank" and so on where further views are keys, as with CMC): one embedding per image; "bank_step": the step
that wrote each row last; "labels" ("second_labels"): k-means clusters, one line per clustering; "queue" and "queue_row":
MoCo's keys and the images they show; "log_partition": NCE's Z per pair, and "partition_steps" how many steps have told it;
"outer": the state of an adaptive schedule, and "ranked": that of a warm start that waits (`warm_start`). These two live on
the host, since they decide how many rows are ranked.

Shape suffixes: V = views, B = images of this rank, W = ranks, D = embedding.
"""

import math

import torch
from torch import Tensor

from ..distributed.collectives import broadcast_, everyone, gather, rank
from ..methods.method import Method, candidate_count
from ..methods.outputs import Outputs
from ..methods.parts import NCE, Bank, Batch, Clusters, Queue, Ring, SameCluster
from ..methods.schedules import ADAPTIVE, HEARD_EVERY, REMEMBERED, Moment, adapt_
from . import bank, queue, warm_start
from .clusters import cluster_labels
from .images import Images
from .regions import window
from .warm_start import first_step, in_force

Memory = dict[str, Tensor]

ORDINALS = ("", "second_", "third_", "fourth_")  # of the names of banks and their clusters, before "bank" and "labels"
FIRST_CLUSTERING_SEED = 1234  # of the released local aggregation
NEVER = -1  # was a row written: it holds a random direction, and is no negative
COUNTED = -2  # the same in a run of versions before, which took such rows as negatives


def bank_of(view: int) -> str:
    """The name of the bank that is written from this view."""
    return f"{ORDINALS[view]}bank" if view < len(ORDINALS) else f"bank_{view + 1}"


def labels_of(view: int) -> str:
    """The name of its rows' clusters."""
    return f"{ORDINALS[view]}labels" if view < len(ORDINALS) else f"labels_{view + 1}"


def uses_clusters(method: Method) -> bool:
    """Whether the method asks which rows share a k-means cluster."""
    return isinstance(method.positives, Clusters) or isinstance(method.region, SameCluster)


def start(method: Method, *, rows: int, batch: int, dimension: int, seed: int, device: torch.device) -> Memory:
    """The memory of a run's first step.

    Raises ValueError where the data set, the queue or the global batch is too small for the method's region.
    """
    memory: Memory = {}
    _check_region(method, rows=rows, batch=batch)
    if isinstance(method.memory, Bank) and method.contrast:
        for index in range(method.banks):
            memory[bank_of(index)] = bank.start(rows, dimension, seed=seed + index, device=device)
        memory["bank_step"] = torch.full((rows,), NEVER, dtype=torch.int64).to(device)
        if uses_clusters(method):
            count = _clusters(method).clusterings
            for index in range(method.banks):  # every row a cluster of its own, until the first are found
                labels = torch.arange(rows, dtype=torch.int32).repeat(count, 1)
                memory[labels_of(index)] = labels.to(device)
    if isinstance(method.memory, Queue):
        keys = queue.start(method.memory.size, dimension, seed=seed, device=device)
        memory["queue"], memory["queue_row"] = keys
    if isinstance(method.bound, NCE):
        memory["log_partition"] = torch.zeros(len(method.pairs)).to(device)
        memory["partition_steps"] = torch.zeros((), dtype=torch.int64).to(device)
    if isinstance(method.region, Ring) and method.region.anneal is not None and method.region.anneal.kind in ADAPTIVE:
        memory["outer"] = torch.zeros(REMEMBERED, dtype=torch.float64)
        memory["outer"][0] = method.region.anneal.start
    if method.ranked_share > 0 and method.contrast:
        memory["ranked"] = warm_start.start()
    return memory


def rows_of(memory: Memory) -> int:
    """How many rows a bank or a queue holds; 1 where there is neither."""
    return next((len(memory[name]) for name in ("bank", "queue") if name in memory), 1)


def as_before_(memory: Memory) -> None:
    """Make the memory of a run of a version before go on as it did there: what was never written counts as a negative."""
    for name, absent, counted in (("queue_row", queue.NOBODY, queue.STRANGER), ("bank_step", NEVER, COUNTED)):
        if name in memory:
            memory[name].masked_fill_(memory[name] == absent, counted)


def _check_region(method: Method, *, rows: int, batch: int) -> None:
    """Try the region at both ends of its schedule on as many rows as will be on offer."""
    if not method.contrast:
        return
    match method.memory:
        case Bank():
            offered = candidate_count(method, rows) or rows
        case Queue(size=size):
            offered = size
        case Batch():
            offered = len(method.key_views) * batch
    window(method.region, offered, limit=None)
    if isinstance(method.region, Ring) and method.region.anneal is not None:
        window(method.region, offered, limit=None, outer=method.region.anneal.start)
        ring, narrowest = method.region, min(method.region.outer, method.region.anneal.start)
        if ring.relative and (1 - ring.inner) * narrowest * offered <= 1:
            raise ValueError(f"a ring within {ring.inner:g} of its outer edge can be empty of {offered} rows: lower it")
    if uses_clusters(method) and round(rows / _clusters(method).rows_per_cluster) < 2:
        raise ValueError(
            f"{rows} rows make less than 2 clusters of {_clusters(method).rows_per_cluster:g}: take more images"
        )


def _clusters(method: Method) -> Clusters:
    return method.positives if isinstance(method.positives, Clusters) else Clusters(clusterings=1)


def outer_edge(method: Method, memory: Memory, moment: Moment) -> float | None:
    """Where the ring's outer edge stands; None where it does not move."""
    if not isinstance(method.region, Ring) or method.region.anneal is None or in_force(method, memory, moment) is not method:
        return None
    if "outer" in memory:
        return float(memory["outer"][0])
    return method.region.anneal.to(method.region.outer).at(moment)


def listens(method: Method, memory: Memory, moment: Moment) -> bool:
    """Whether an adaptive schedule is to hear the loss of `moment`: every tenth or each step, whatever a run logs."""
    if "outer" not in memory or in_force(method, memory, moment) is not method:
        return False
    anneal = method.region.anneal if isinstance(method.region, Ring) else None
    return anneal is not None and (moment.step + 1) % HEARD_EVERY[anneal.kind] == 0


def hear_(method: Method, memory: Memory, loss: float, moment: Moment) -> None:
    """Tell an adaptive schedule the loss, the same on every rank, where it listens."""
    if listens(method, memory, moment) and isinstance(method.region, Ring) and method.region.anneal and math.isfinite(loss):
        adapt_(memory["outer"].numpy(), loss, method.region.anneal.to(method.region.outer))


@torch.no_grad()
def write_(
    method: Method, memory: Memory, outputs: Outputs, images: Images, moment: Moment, pending: dict[str, Tensor]
) -> None:
    """Bring the memory up to date in place, from every rank's embeddings; call after backward, once a step.

    `pending` is what the loss of this step has found out.
    """
    if isinstance(method.memory, Bank) and method.banks:
        row_B, valid_B = (gather(part).flatten() for part in (images.row_B, images.valid_B))
        momentum: float | Tensor = method.memory.momentum
        if method.memory.unvisited == "own":  # nothing of what a row began with stays in it
            momentum = momentum * (memory["bank_step"][row_B] != NEVER)[:, None].to(memory["bank"].dtype)
        for index in range(method.banks):
            new_BD = gather(outputs.embedding_VBD[index].detach()).flatten(0, 1)
            written_B = bank.write_(memory[bank_of(index)], row_B, new_BD, valid_B, momentum=momentum)
            if index == 0:
                step_B = torch.where(written_B, moment.step, memory["bank_step"][row_B])
                memory["bank_step"].index_copy_(0, row_B, step_B)
    if isinstance(method.memory, Queue) and outputs.target_VBD is not None:
        key_VBD = everyone(outputs.target_VBD)
        row_B, valid_B = (gather(part).flatten().repeat(len(key_VBD)) for part in (images.row_B, images.valid_B))
        queue.write_(memory["queue"], memory["queue_row"], key_VBD.flatten(0, 1), row_B, valid_B, step=moment.step)
    for name, value in pending.items():
        memory[name].copy_(torch.where(torch.isfinite(value), value, memory[name]))


def refresh_(method: Method, memory: Memory, moment: Moment) -> bool:
    """Find the clusters anew where it is time: at the start of every n-th epoch from the end of the warm start on.

    Returns whether it did. Takes seconds; the main process finds them and tells the others.
    """
    if not uses_clusters(method) or in_force(method, memory, moment) is not method:
        return False
    clusters = _clusters(method)
    if (moment.step - first_step(method, memory, moment)) % (clusters.every * moment.steps_per_epoch):
        return False
    seeds = [FIRST_CLUSTERING_SEED + h for h in range(clusters.clusterings)]
    for index in range(method.banks):
        rows = memory[bank_of(index)]
        count = round(len(rows) / clusters.rows_per_cluster)
        if rank() == 0:
            memory[labels_of(index)].copy_(cluster_labels(rows, count, seeds))
        broadcast_(memory[labels_of(index)])
    return True
