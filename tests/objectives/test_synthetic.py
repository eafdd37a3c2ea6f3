"""Synthetic negatives: values of code not ours, what the loss of MoCHi and SynCo is, and when there are none.

Values were computed once with SynCo's code (MIT), commit 79a9c42, synco/builder.py, in double precision, its draws replaced
by tables; MoCHi's kinds there are those of davidsvy/hard-negative-mixing (MIT), commit 2955553.
Shape suffixes: B = anchors, M = rows on offer, K = negatives, S = synthetic ones, D = embedding.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from viewmill.methods.method import bounded
from viewmill.methods.overrides import changed
from viewmill.methods.schedules import Moment
from viewmill.methods.synthetic import MixedQueue
from viewmill.methods.table import METHODS
from viewmill.objectives.bounds import info_nce
from viewmill.objectives.images import Images
from viewmill.objectives.regions import Offered, Selected
from viewmill.objectives.synthetic import added, mixed, moved

LATE = Moment(30, 100, 2)
KINDS = ("mixed", "interpolated", "extrapolated", "noisy", "perturbed", "adversarial")
SYNCO = {
    "interpolated": [
        0.770436758002,
        0.5588847091476,
        0.0519523331468,
        0.180781179757,
        0.7199231784624,
        0.1274424297888,
        0.6088662090662,
        0.6154423755745,
    ],
    "extrapolated": [
        -0.0161872064144,
        -0.2890415344838,
        -0.0195330220155,
        -0.2177850301115,
        -0.256121095067,
        0.0020190128264,
        0.1971902565503,
        -0.2515071160826,
    ],
    "mixed": [
        0.2995550768583,
        -0.0321414018764,
        -0.062999718171,
        -0.0880985312348,
        0.0712131622296,
        0.0419069255927,
        0.3388916899764,
        0.0523819482017,
    ],
    "noisy": [
        0.299796299993,
        -0.0471484656383,
        0.0029290354844,
        -0.0738260599733,
        0.0844364717356,
        0.0721790080231,
        0.3749096010234,
        0.0423401480996,
    ],
    "perturbed": [
        0.4640655133219,
        0.1842027835447,
        0.2101844714196,
        0.1395559437435,
        0.2571167663003,
        0.2531326029972,
        0.533793456869,
        0.2325617079079,
    ],
    "adversarial": [
        0.6884766517072,
        0.5898681162901,
        0.5221032485109,
        0.4713373394367,
        0.5978724506211,
        0.5980882460159,
        0.7470740941683,
        0.5774628425978,
    ],
}


def table(*shape):
    count = math.prod(shape)
    return torch.sin(torch.arange(1, count + 1, dtype=torch.float64) ** 1.3).view(*shape)


def unit(*shape, seed):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_each_kind_has_the_cosines_of_synco():
    key_MD, query_B1D = F.normalize(table(8, 5), dim=1), F.normalize(table(2, 5).cos(), dim=1)[:, None]
    hard_BH = torch.tensor([[0, 3, 4, 5, 6, 7], [0, 2, 4, 5, 6, 7]])
    drawn_2BS = torch.arange(16).view(2, 2, 4) * 7 % 6
    one_BSD = key_MD[hard_BH.gather(1, drawn_2BS[0])]
    share_BS1 = (table(2, 4, 1) + 1) / 2
    made = {
        "interpolated": mixed(query_B1D, one_BSD, 0.5 * share_BS1),
        "extrapolated": mixed(one_BSD, query_B1D, 1 + 0.5 * share_BS1),
        "mixed": mixed(one_BSD, key_MD[hard_BH.gather(1, drawn_2BS[1])], share_BS1),
        "noisy": moved(one_BSD, table(2, 4, 5), 0.1),
        "perturbed": moved(one_BSD, query_B1D, 0.2),
        "adversarial": moved(one_BSD, query_B1D.sign(), 0.3),
    }
    for kind, expected in SYNCO.items():
        assert (made[kind] * query_B1D).sum(dim=2).flatten().tolist() == pytest.approx(expected, abs=1e-12)


def offer(anchors=4, rows=30, kept=30):
    """Anchors, rows on offer of which the first `kept` count, and all of them as negatives."""
    anchor_BD, key_MD = unit(anchors, 6, seed=1).requires_grad_(), unit(rows, 6, seed=2)
    keep_BK = (torch.arange(rows) < kept).expand(anchors, rows)
    index_BK = torch.arange(rows).expand(anchors, rows)
    images = Images(torch.arange(anchors) * 11, torch.ones(anchors, dtype=torch.bool), torch.empty(0, dtype=torch.int64))
    negative = Selected(anchor_BD @ key_MD.T / 0.2, keep_BK, index_BK)
    return anchor_BD, Offered(key_MD, torch.arange(rows) + 1000), images, negative


def made_of(queue, *, moment=LATE, stream=0, **options):
    anchor_BD, offered, images, negative = offer(**options)
    found = added(queue, negative, anchor_BD, offered, images, moment, stream=stream, temperature=0.2)
    return anchor_BD, offered, negative, found


@pytest.mark.parametrize("kind", KINDS)
def test_those_of_each_kind_are_made_of_the_hardest_that_count_and_get_no_gradient(kind):
    queue = MixedQueue(hardest=5, since=0.0, sigma=0.0, delta=0.0, eta=0.0, **{kind: 40})
    anchor_BD, _, negative, found = made_of(queue, kept=20)
    assert found.value_NK.shape == (4, 30 + 40)
    assert found.keep_NK[:, 30:].all()
    hardest_BH = negative.value_NK[:, :20].topk(5, dim=1)
    for anchor in range(4):
        assert set(found.index_NK[anchor, 30:].tolist()) == set(hardest_BH.indices[anchor].tolist())
    if kind in ("noisy", "perturbed", "adversarial"):  # moved by nothing they are the hardest themselves
        torch.testing.assert_close(found.value_NK[:, 30:], negative.value_NK.gather(1, found.index_NK[:, 30:]))
    if kind == "interpolated":
        assert (found.value_NK[:, 30:] > negative.value_NK.gather(1, found.index_NK[:, 30:])).all()
    if kind == "extrapolated":
        assert (found.value_NK[:, 30:] < negative.value_NK.gather(1, found.index_NK[:, 30:])).all()
    gradient_BD = torch.autograd.grad(found.value_NK[:, 30:].sum(), anchor_BD)[0]
    # linear in the anchor: its gradient is the sum of the made vectors / temperature, which lie on the sphere
    torch.testing.assert_close((gradient_BD * anchor_BD).sum(dim=1), found.value_NK[:, 30:].sum(dim=1))
    assert (gradient_BD.norm(dim=1) <= 40 / 0.2 + 1e-9).all()


def test_draws_follow_the_image_the_step_and_the_pairing():
    queue = MixedQueue(hardest=10, mixed=50, since=0.0)
    first, again, later, other = (
        made_of(queue, moment=moment, stream=stream)[3].value_NK
        for moment, stream in ((LATE, 0), (LATE, 0), (LATE._replace(step=31), 0), (LATE, 1))
    )
    assert torch.equal(first, again)
    for changed_BK in (later, other):  # that one row is drawn twice happens, and the same one in both
        assert torch.isclose(first[:, 30:], changed_BK[:, 30:]).double().mean() < 0.05


def test_noise_is_of_its_standard_deviation_in_each_dimension():
    queue = MixedQueue(hardest=1, noisy=20_000, sigma=0.001, since=0.0)
    _, _, negative, found = made_of(queue, anchors=1)
    apart = (found.value_NK[0, 30:] - negative.value_NK[0].max()) * 0.2
    # what lies along the row itself is taken away by the norm
    cosine = negative.value_NK[0].max() * 0.2
    assert apart.std().item() == pytest.approx(0.001 * math.sqrt(1 - cosine.item() ** 2), rel=0.03)


def test_there_are_none_before_their_epoch_nor_where_nothing_counts():
    queue = MixedQueue(hardest=10, mixed=50, since=15.5)
    assert made_of(queue, moment=Moment(30, 100, 2))[3].value_NK.shape[1] == 30
    assert made_of(queue, moment=Moment(31, 100, 2))[3].value_NK.shape[1] == 80
    empty = made_of(replace(queue, since=0.0), kept=0)[3]
    assert not empty.keep_NK.any()
    assert torch.isfinite(empty.value_NK).all()
    assert info_nce(torch.zeros(4, dtype=torch.float64), empty.value_NK, empty.keep_NK).loss_B.eq(0).all()


def test_rows_are_moco_and_as_published_and_a_ring_goes_with_them():
    plain = METHODS["moco-v2"]
    for name, counts in (("mochi", (1024, 128, 0, 0, 0, 0)), ("synco", (256, 256, 256, 64, 64, 64))):
        method = METHODS[name]
        assert tuple(getattr(method.memory, kind) for kind in KINDS) == counts
        assert replace(method, memory=plain.memory, source=plain.source) == plain
        assert bounded(method, rows=500).memory == replace(method.memory, size=500)
        ring = changed(method, ["region=ring", "memory.hardest=64"])
        assert ring.region == METHODS["ring"].region
        assert ring.memory.hardest == 64
    with pytest.raises(ValueError, match=r"memory\.hardest"):
        changed(plain, ["memory.hardest=64"])


@pytest.mark.parametrize("settings", [{"hardest": 0}, {"mixed": -1}, {"sigma": math.inf}, {"since": -1.0}, {"size": 0}])
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match=r"synthetic negatives|size"):
        MixedQueue(**settings)
