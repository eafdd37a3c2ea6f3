"""What regions, banks and clusters cost, on made-up embeddings: times in turns in one process, memory by the process's peak.

Shape suffixes: B = anchors, N = rows of a bank, M = rows on offer, K = negatives, D = embedding.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..console import answer, say, table
from ..errors import Refused
from ..methods.parts import Everything, Nearest, Region, Ring
from ..objectives import bank
from ..objectives.bounds import info_nce
from ..objectives.candidates import candidates
from ..objectives.clusters import lloyd
from ..objectives.ranking import Ranking
from ..objectives.regions import Offered, gathered, positions, select, window
from ..pipeline.threads import usable_cores
from ..settings import Bench
from ..training.log import hardware, versions
from .report import Rounds, ratios

SMALL, LARGE = 65_536, 1_281_167
ANCHORS, DIMENSION, TERMS, TEMPERATURE = 256, 128, 4096, 0.07
CANDIDATES = 45_500  # (K - 1) / (outer - inner) of the ring from 1 to 10 %
RING = Ring(0.01, 0.1)
EXACT = {"ring 1 to 10 %": RING, "ring 1 to 100 %": Ring(0.01, 1.0), "nearest 4,096": Nearest(4096)}
SORTED_ANCHORS = 16
CLUSTERS, ITERATIONS, WRITTEN = 1000, 20, 512
PEAK = """
import sys
from viewmill.benchmarks.objective import EXACT, exact_once, made_up, status
step = exact_once(*made_up(int(sys.argv[1])), EXACT[sys.argv[2]])
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = status("VmRSS")
step()
print((status("VmHWM") - before) * 1024 / 1e6)
"""


def unit(count: int, seed: int) -> Tensor:
    """[count, D] random directions."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, DIMENSION, generator=generator), dim=1)


def made_up(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, their rows, and a bank: clustered, since random directions alone have no near rows."""
    centre_CD = unit(1000, 1)
    bank_ND = F.normalize(unit(rows, 2) + centre_CD[torch.arange(rows) % 1000], dim=1)
    own_B = torch.arange(ANCHORS) * (rows // ANCHORS)
    anchor_BD = F.normalize(bank_ND[own_B] + 0.5 * unit(ANCHORS, 3), dim=1)
    return anchor_BD, own_B, bank_ND


def sampled_once(
    anchor_BD: Tensor, own_B: Tensor, bank_ND: Tensor, count: int, region: Ring | Everything
) -> Callable[[], None]:
    """A step forward and backward over a region of `count` candidates, shared by the batch."""
    step = iter(range(10**9))

    def run() -> None:
        number = next(step)
        candidate_M = torch.from_numpy(candidates(len(bank_ND), count, seed=0, step=number))
        offered = Offered(bank_ND[candidate_M], candidate_M)
        _contrast(anchor_BD, own_B, bank_ND, offered, region, number)

    return run


def exact_once(anchor_BD: Tensor, own_B: Tensor, bank_ND: Tensor, region: Region = RING) -> Callable[[], None]:
    """A step forward and backward over an exact region of the whole bank."""
    offered = Offered(bank_ND, torch.arange(len(bank_ND)), in_place=True)
    return lambda: _contrast(anchor_BD, own_B, bank_ND, offered, region, 0)


def _contrast(anchor_BD: Tensor, own_B: Tensor, bank_ND: Tensor, offered: Offered, region: Region, step: int) -> None:
    anchor_BD = anchor_BD.detach().requires_grad_()
    where = window(region, len(offered.key_MD), limit=TERMS - 1, step=step)
    selected = select(where, anchor_BD, own_B, offered, temperature=TEMPERATURE)
    positive_B = (anchor_BD * bank_ND[own_B]).sum(dim=1) / TEMPERATURE
    info_nce(positive_B, selected.value_NK, selected.keep_NK).loss_B.mean().backward()


def ranked(critic_NM: Tensor, own_N: Tensor) -> tuple[Tensor, Tensor]:
    """Places and values of the exact ring, as the step finds them in a block of critic values."""
    where = window(RING, critic_NM.shape[1], limit=TERMS - 1)
    taken_K = positions(where, critic_NM.shape[1], None, critic_NM.device)[0]
    index_NK = torch.empty(len(critic_NM), len(taken_K), dtype=torch.int64)
    ranking = Ranking(len(critic_NM), critic_NM.shape[1], critic_NM.device)
    ranking.nearest_(index_NK, critic_NM, where.outer, taken_K, own_N=own_N)
    return index_NK, critic_NM.gather(1, index_NK)


def gathered_once(anchor_BD: Tensor, own_B: Tensor, bank_ND: Tensor) -> Callable[[], None]:
    """A step forward and backward over uniform negatives drawn and gathered for each anchor."""
    generator = np.random.default_rng(0)
    offered = Offered(bank_ND, torch.arange(len(bank_ND)), in_place=True)

    def run() -> None:
        anchor = anchor_BD.detach().requires_grad_()
        drawn_BK = torch.from_numpy(generator.integers(0, len(bank_ND), (ANCHORS, TERMS - 1)))
        selected = gathered(anchor, own_B, offered, drawn_BK, temperature=TEMPERATURE)
        positive_B = (anchor * bank_ND[own_B]).sum(dim=1) / TEMPERATURE
        info_nce(positive_B, selected.value_NK, selected.keep_NK).loss_B.mean().backward()

    return run


def bench(config: Bench) -> int:
    """Measure in turns, print JSON lines and a table."""
    if config.data is not None:
        raise Refused("objectives are measured on made-up embeddings: leave the file out")
    torch.set_num_threads(config.threads or usable_cores())
    small, large = made_up(SMALL), made_up(LARGE)
    some = (large[0][:SORTED_ANCHORS], large[1][:SORTED_ANCHORS])
    critic_NM = some[0] @ large[2].T
    nothing = Offered(large[2], torch.arange(LARGE), in_place=True)
    ring = window(RING, LARGE, limit=TERMS - 1)
    written, row = unit(WRITTEN, 4), torch.arange(WRITTEN) * (LARGE // WRITTEN) + 7
    known = torch.ones(WRITTEN, dtype=torch.bool)
    contenders: dict[str, Callable[[], Any]] = {
        "sampled ring, 65,536 rows": sampled_once(*small, CANDIDATES, RING),
        "sampled ring, 1,281,167 rows": sampled_once(*large, CANDIDATES, RING),
        "uniform, gathered for each anchor": gathered_once(*large),
        "uniform, shared by the batch": sampled_once(*large, TERMS - 1, Everything()),
        "exact ring of 16 anchors out of their critic values": lambda: ranked(critic_NM, some[1]),
        "full sort of those critic values": lambda: critic_NM.sort(dim=1, descending=True),
        "exact ring of 16 anchors, the product with the bank included": lambda: select(
            ring, *some, nothing, temperature=TEMPERATURE
        ),
        "draw of the candidates out of 1,281,167 rows": lambda: candidates(LARGE, CANDIDATES, seed=0, step=0),
        "bank write of 512 rows": lambda: bank.write_(large[2], row, written, known, momentum=0.5),
        **clusterings(unit(SMALL, 5)),
    }
    rounds = in_turns(contenders, config.repeats)
    facts = {
        "extra_mb": {name: [round(exact_peak_mb(name)) for _ in range(min(3, config.repeats))] for name in EXACT},
        "ks_distance_of_sampled_ranks": round(sampled_ranks_ks(*small), 4),
    }
    report(rounds, facts, config)
    return 0


def clusterings(row_ND: Tensor) -> dict[str, Callable[[], Any]]:
    """k-means of ours, and faiss's from the same rows where it is installed: random ones, on which neither ends early."""
    start_CD = row_ND[torch.randperm(len(row_ND), generator=torch.Generator().manual_seed(0))[:CLUSTERS]]
    ours = {"k-means, 20 iterations": lambda: lloyd(row_ND, start_CD, ITERATIONS)}
    try:
        import faiss
    except ImportError:
        say("without faiss: pip install faiss-cpu")
        return ours
    faiss.omp_set_num_threads(torch.get_num_threads())

    def theirs() -> None:
        kmeans = faiss.Kmeans(DIMENSION, CLUSTERS, niter=ITERATIONS, max_points_per_centroid=len(row_ND))
        kmeans.train(row_ND.numpy(), init_centroids=start_CD.numpy())
        kmeans.index.search(row_ND.numpy(), 1)  # labels, as ours

    return ours | {"k-means by faiss, 20 iterations": theirs}


def in_turns(contenders: dict[str, Callable[[], Any]], repeats: int) -> Rounds:
    """Seconds of each contender in each round, after one that is not counted."""
    rounds = []
    for turn in range(-1, repeats):
        say("warming up" if turn < 0 else f"round {turn + 1} of {repeats}")
        names = list(contenders)
        names = names[turn % len(names) :] + names[: turn % len(names)]
        rounds.append({name: seconds(contenders[name]) for name in names})
    return rounds[1:]


def seconds(run: Callable[[], Any]) -> float:
    """Of one call; of quick ones the mean of as many as fill a fifth of a second, after one to fetch what it touches."""
    run()
    done, started = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - started < 0.2:
        run()
        done += 1
    return (time.perf_counter() - started) / done


def status(name: str) -> int:
    """A number of KiB in this process's /proc entry."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def exact_peak_mb(region: str) -> float:
    """By how much a first step over an exact region of the large bank raises the peak memory of a process, in MB."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(LARGE), region], capture_output=True, text=True, check=True)
    return float(done.stdout)


def sampled_ranks_ks(anchor_BD: Tensor, own_B: Tensor, bank_ND: Tensor) -> float:
    """Largest distance between the distributions of exact ranks that the sampled ring and the exact ring take."""
    order_BN = (anchor_BD @ bank_ND.T).scatter(1, own_B[:, None], -2.0).argsort(dim=1, descending=True)
    every = torch.arange(len(bank_ND))
    rank_BN = torch.empty_like(order_BN).scatter_(1, order_BN, every.expand_as(order_BN))
    offers = torch.from_numpy(candidates(len(bank_ND), CANDIDATES, seed=0, step=0)), every
    taken = [
        select(window(RING, len(rows), limit=TERMS - 1), anchor_BD, own_B, Offered(bank_ND[rows], rows), temperature=1.0)
        for rows in offers
    ]
    ranks = [
        rank_BN.gather(1, rows[part.index_NK])[part.keep_NK].sort().values for part, rows in zip(taken, offers, strict=True)
    ]
    below = [torch.searchsorted(found, every, right=True) / len(found) for found in ranks]
    return (below[0] - below[1]).abs().max().item()


def report(rounds: Rounds, facts: dict[str, Any], config: Bench) -> None:
    """Print the JSON lines, then the table, with the ratios that the project promises."""
    asked = [
        ("sampled ring, 1,281,167 rows", "sampled ring, 65,536 rows", "at most 1.2"),
        ("sampled ring, 1,281,167 rows", "uniform, gathered for each anchor", "at most 1.0"),
        ("full sort of those critic values", "exact ring of 16 anchors out of their critic values", "5 or more"),
        ("k-means, 20 iterations", "k-means by faiss, 20 iterations", "at most 1.25"),
    ]
    shared = {"hardware": hardware(), "versions": versions(), "threads": config.threads or usable_cores(), "n": len(rounds)}
    rows = []
    for name in rounds[0]:
        found = sorted(turn[name] for turn in rounds)
        line = {
            "contender": name,
            "ms": 1e3 * statistics.median(found),
            "lowest": 1e3 * found[0],
            "highest": 1e3 * found[-1],
        }
        answer(
            json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()} | shared)
        )
        rows.append((name, f"{line['ms']:,.2f}", f"{line['lowest']:,.2f} to {line['highest']:,.2f}"))
    shown = [
        (f"{one} / {other}", " ".join(map(str, ratios(rounds, one, other))), promise)
        for one, other, promise in asked
        if other in rounds[0]
    ]
    middle = statistics.median(turn["bank write of 512 rows"] for turn in rounds)
    shown.append(("bank write of 512 rows, ms", f"{1e3 * middle:.2f}", "under 1"))
    for name, found in facts["extra_mb"].items():
        shown.append((f"memory that an exact {name} adds, MB", " ".join(map(str, found)), "under 300"))
    shown.append(("KS distance of sampled to exact ranks", str(facts["ks_distance_of_sampled_ranks"]), "at most .01"))
    answer(json.dumps({"ratios": [list(line) for line in shown], **facts}))
    if config.json:
        return
    table(f"ms, median and range of {len(rounds)}, on {shared['threads']} threads", ("what", "ms", "range"), rows)
    table("median, lowest and highest ratio", ("what", "is", "asked"), shown)
