"""Linear probes against torch's own optimiser and against scikit-learn, and how their settings are chosen.

Shape suffixes: N = training images, Q = asked images, F = features, C = classes, S = settings, P = penalties.
"""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.linear_model import Ridge as Peer
from torch import nn
from torch.nn import functional as F

from viewmill.evaluation import knn, ridge, scores, selection
from viewmill.evaluation.linear import Setting, Training, accuracy, chosen, finite, logits, train


@pytest.fixture(scope="module")
def digits():
    """Pictures of handwritten digits, 64 grey values each: 1,200 to train on, 597 to be told."""
    pixels, labels = load_digits(return_X_y=True)
    feature, label = torch.from_numpy(pixels).float(), torch.from_numpy(labels)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))
    feature, label = feature[order], label[order]
    return feature[:1200], label[:1200], feature[1200:], label[1200:]


def by_torch(feature_NF, label_N, setting, training, *, classes):
    """The same training by autograd, torch.optim.SGD and torch's schedulers: logits of the training images."""
    if training.features == "standardised":
        feature_NF = F.batch_norm(feature_NF, None, None, training=True, eps=1e-6)
    layer = nn.Linear(feature_NF.shape[1], classes, dtype=feature_NF.dtype)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    groups = [{"params": [layer.weight], "weight_decay": setting.decay}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=setting.rate, momentum=training.momentum)
    batches = math.ceil(len(label_N) / training.batch)
    if training.schedule == "cosine":
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.epochs * batches)
    else:
        milestones = [training.epochs * batches * part // 10 for part in (6, 8)]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones)
    generator = torch.Generator().manual_seed(training.seed)
    for _ in range(training.epochs):
        for row_B in torch.randperm(len(label_N), generator=generator).tensor_split(batches):
            optimiser.zero_grad()
            F.cross_entropy(layer(feature_NF[row_B]), label_N[row_B]).backward()
            optimiser.step()
            scheduler.step()
    return layer(feature_NF).detach()


@pytest.mark.parametrize("schedule", ["cosine", "step"])
@pytest.mark.parametrize("features", ["raw", "standardised"])
def test_each_setting_of_the_grid_is_trained_as_torch_would_train_it_alone(digits, schedule, features):
    feature_NF, label_N = digits[0][:150].double(), digits[1][:150]
    training = Training(epochs=10, batch=40, schedule=schedule, features=features, seed=3)
    grid = [Setting(0.001, 0.0), Setting(0.01, 0.1), Setting(0.003, 0.01)]
    probe = train(feature_NF, label_N, grid, training, classes=10)
    for setting, logit_NC in zip(grid, logits(probe, feature_NF), strict=True):
        peer_NC = by_torch(feature_NF, label_N, setting, training, classes=10)
        assert logit_NC.numpy() == pytest.approx(peer_NC.numpy(), abs=1e-9)


def test_single_precision_tells_the_same_classes(digits):
    feature_NF, label_N, asked_QF, _ = digits
    training = Training(epochs=10)
    probes = [
        train(kind, label_N, [Setting(0.03, 1e-4)], training, classes=10) for kind in (feature_NF, feature_NF.double())
    ]
    single_QC, double_QC = logits(probes[0], asked_QF)[0], logits(probes[1], asked_QF.double())[0]
    assert single_QC.dtype == torch.float32
    assert single_QC.numpy() == pytest.approx(double_QC.numpy(), abs=2e-3)
    half = train(feature_NF.half(), label_N, [Setting(0.03, 1e-4)], training, classes=10)
    assert torch.equal(half.weight_SGC, probes[0].weight_SGC)


@pytest.mark.parametrize("decay", [0.01, 0.1])
def test_a_probe_that_has_converged_is_scikit_learns_logistic_regression(digits, decay):
    feature_NF, label_N = digits[0][:300].double() / 16, digits[1][:300]
    training = Training(epochs=3_000, batch=300, features="raw")
    (weight_GC,) = train(feature_NF, label_N, [Setting(0.5, decay)], training, classes=10).weight_SGC
    peer = LogisticRegression(C=1 / (300 * decay), tol=1e-10, max_iter=10_000).fit(feature_NF, label_N)
    assert weight_GC[:-1].T.numpy() == pytest.approx(peer.coef_, abs=1e-4)
    assert weight_GC[-1].numpy() == pytest.approx(peer.intercept_, abs=1e-3)


@pytest.mark.parametrize("features", ["raw", "standardised"])
def test_the_chosen_setting_tells_unseen_digits_as_well_as_a_chosen_logistic_regression(digits, features):
    feature_NF, label_N, asked_QF, label_Q = digits
    found = chosen(feature_NF, label_N, training=Training(epochs=50, features=features), classes=10)
    centre_F, scale_F = feature_NF.mean(dim=0), feature_NF.std(dim=0) + 1e-3
    rows, peers = selection.split(label_N), {}
    known, asked = ((part - centre_F) / scale_F if features == "standardised" else part for part in (feature_NF, asked_QF))
    for strength in (1e-3, 1e-2, 1e-1, 1.0):
        model = LogisticRegression(C=strength, max_iter=5_000).fit(known[rows.fit_I], label_N[rows.fit_I])
        peers[strength] = model.score(known[rows.held_J], label_N[rows.held_J])
    best = max(peers, key=lambda strength: peers[strength])
    peer_Q = torch.from_numpy(LogisticRegression(C=best, max_iter=5_000).fit(known, label_N).predict(asked))
    gain = scores.difference(logits(found.model, asked_QF)[0].argmax(dim=1), peer_Q, label_Q)
    assert gain.low < 0.003
    assert gain.high > -0.003
    assert (peer_Q == label_Q).double().mean() > 0.94


def test_a_grid_says_what_each_setting_alone_would_say(digits):
    feature_NF, label_N = digits[0][:200].double(), digits[1][:200]
    grid = [Setting(rate, decay) for rate in (0.001, 0.1) for decay in (0.0, 0.01)]
    together = train(feature_NF, label_N, grid, Training(epochs=4), classes=10).weight_SGC
    for setting, weight_GC in zip(grid, together, strict=True):
        (alone_GC,) = train(feature_NF, label_N, [setting], Training(epochs=4), classes=10).weight_SGC
        assert weight_GC.numpy() == pytest.approx(alone_GC.numpy(), abs=1e-10)


def test_training_on_some_rows_sees_no_other(digits):
    feature_NF, label_N = digits[0][:200].double(), digits[1][:200]
    row_I, training = torch.arange(1, 200, 2), Training(epochs=3, batch=32)
    some = train(feature_NF, label_N, [Setting(0.01, 0.0)], training, classes=10, row_I=row_I)
    other_NF, other_N = feature_NF.clone(), label_N.clone()
    other_NF[::2], other_N[::2] = 1e6, 0
    again = train(other_NF, other_N, [Setting(0.01, 0.0)], training, classes=10, row_I=row_I)
    assert torch.equal(some.weight_SGC, again.weight_SGC)
    cut = train(feature_NF[row_I], label_N[row_I], [Setting(0.01, 0.0)], training, classes=10)
    assert some.weight_SGC.numpy() == pytest.approx(cut.weight_SGC.numpy(), abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), exponent=st.floats(-1, 3), shift=st.floats(-100, 100))
def test_standardised_features_may_come_in_any_unit(seed, exponent, shift):
    generator = torch.Generator().manual_seed(seed)
    feature_NF = 100 * torch.randn(60, 5, generator=generator, dtype=torch.float64)
    label_N = (feature_NF @ torch.randn(5, 3, generator=generator, dtype=torch.float64)).argmax(dim=1)
    scale_F = 10.0 ** (exponent * torch.rand(5, generator=generator, dtype=torch.float64))
    training, grid = Training(epochs=5, batch=16), [Setting(0.1, 1e-3)]
    plain = logits(train(feature_NF, label_N, grid, training, classes=3), feature_NF)
    moved_NF = feature_NF * scale_F + shift
    moved = logits(train(moved_NF, label_N, grid, training, classes=3), moved_NF)
    assert moved.numpy() == pytest.approx(plain.numpy(), abs=1e-4)


def test_the_seed_and_nothing_else_orders_the_batches(digits):
    feature_NF, label_N = digits[0][:200], digits[1][:200]
    first, again, other = (
        train(feature_NF, label_N, [Setting(0.01, 0.0)], Training(epochs=2, batch=32, seed=seed), classes=10).weight_SGC
        for seed in (0, 0, 1)
    )
    torch.manual_seed(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_augmented_copies_are_asked_for_epoch_by_epoch_and_a_list_of_them_is_the_same(digits):
    feature_NF, label_N = digits[0][:120], digits[1][:120]
    copies = [feature_NF + torch.randn(feature_NF.shape, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    asked = []

    def copy(epoch):
        asked.append(epoch)
        return copies[epoch]

    grid, training = [Setting(0.01, 0.0)], Training(epochs=3)
    called = train(copy, label_N, grid, training, classes=10)
    assert asked == [0, 1, 2]
    assert torch.equal(called.weight_SGC, train(copies, label_N, grid, training, classes=10).weight_SGC)
    assert not torch.equal(called.weight_SGC, train(copies[:1], label_N, grid, training, classes=10).weight_SGC)
    assert torch.equal(
        train(copies[0], label_N, grid, training, classes=10).weight_SGC,
        train(copies[:1], label_N, grid, training, classes=10).weight_SGC,
    )


def test_a_setting_that_diverges_harms_no_other_and_is_never_chosen(digits):
    feature_NF, label_N = digits[0][:300], digits[1][:300]
    mad, sane = Setting(1e6, 1.0), Setting(0.01, 0.0)
    probe = train(feature_NF, label_N, [mad, sane], Training(epochs=30, batch=32), classes=10)
    assert finite(probe).tolist() == [False, True]
    told = accuracy(probe, feature_NF, label_N)
    assert math.isnan(told[0])
    assert told[1] > 0.9
    assert logits(probe, feature_NF)[0].isnan().all()
    found = chosen(feature_NF, label_N, [mad, sane], Training(epochs=30, batch=32), classes=10)
    assert found.setting == sane
    assert math.isnan(found.accuracy_S[0])
    with pytest.raises(ValueError, match="all of 1 settings diverged: add lower learning rates"):
        chosen(feature_NF, label_N, [mad], Training(epochs=30, batch=32), classes=10)


def test_the_words_of_a_choice_are_its_whole_protocol(digits):
    feature_NF, label_N = digits[0][:200], digits[1][:200]
    grid = [Setting(0.03, 0.0), Setting(100.0, 0.0)]
    found = chosen(feature_NF, label_N, grid, Training(epochs=12, schedule="step"), classes=10, share=0.2)
    assert found.words == (
        "linear probe, SGD, 12 epochs, last epoch, step schedule, batch 256, standardised features, "
        "lr 0.03 wd 0 chosen of 2 on 20 % of the training images"
    )
    raw = chosen(feature_NF, label_N, grid, Training(epochs=2, features="raw"), classes=10, augmented=[feature_NF])
    assert "raw features, another augmented copy each epoch, lr" in raw.words
    assert raw.model.settings == (raw.setting,)
    again = train(feature_NF, label_N, [raw.setting], Training(epochs=2, features="raw"), classes=10)
    assert torch.equal(raw.model.weight_SGC, again.weight_SGC)


def test_of_equally_good_settings_the_stronger_regularisation_is_chosen():
    label_N = torch.arange(60) % 3
    grid = [Setting(rate, decay) for rate in (0.1, 0.3, 0.01) for decay in (1e-3, 0.0, 1e-2)]
    found = chosen(torch.eye(3)[label_N], label_N, grid, Training(epochs=5), classes=3)
    assert found.accuracy_S == (1.0,) * 9
    assert found.setting == Setting(0.01, 1e-2)


def test_labels_of_test_images_change_nothing_in_a_choice(digits):
    feature_NF, label_N, asked_QF, label_Q = digits
    shuffled_Q = label_Q[torch.randperm(len(label_Q), generator=torch.Generator().manual_seed(1))]
    found = []
    for truth_Q in (label_Q, shuffled_Q):
        probe = chosen(feature_NF, label_N, training=Training(epochs=3), classes=10)
        plane = ridge.fit(feature_NF, label_N, classes=10)
        vote = knn.chosen(feature_NF, label_N, classes=10)
        told = scores.score(logits(probe.model, asked_QF)[0], truth_Q, protocol=probe.words)
        found.append((probe.setting, probe.accuracy_S, plane.loo_P.tolist(), ridge.best(plane), vote.setting, told.protocol))
        assert (told.top1.value > 0.9) == (truth_Q is label_Q)
    assert found[0] == found[1]
    takes = [
        set(inspect.signature(of).parameters) for of in (chosen, knn.chosen, ridge.fit, selection.choose, selection.split)
    ]
    assert not [name for names in takes for name in names if name.endswith("_Q") or name.endswith("_QF") or "test" in name]


def test_where_the_best_setting_diverges_on_all_images_the_next_best_is_taken():
    def fit(row_I, some):
        if some == ["best"] and len(row_I) == 10:
            raise FloatingPointError("diverged")
        return tuple(some)

    options = {"accuracy": lambda some, held_J: torch.tensor([0.9, math.nan, 0.8]), "strength": lambda _: (0,), "name": str}
    found = selection.choose(torch.arange(10) % 2, ["best", "broken", "second"], fit=fit, **options)
    assert (found.setting, found.model) == ("second", ("second",))
    assert found.words == "second chosen of 3 on 10 % of the training images"
    with pytest.raises(ValueError, match="no setting to choose from"):
        selection.choose(torch.arange(10) % 2, [], fit=fit, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs and batch must be at least 1"),
        ({"batch": 0}, "epochs and batch must be at least 1"),
        ({"momentum": 1.0}, r"momentum in \[0, 1\)"),
        ({"schedule": "linear"}, "schedule must be cosine or step, got 'linear'"),
        ({"features": "whitened"}, "features must be raw or standardised, got 'whitened'"),
    ],
)
def test_trainings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Training(**change)


def test_features_and_labels_that_cannot_be_learned_from_are_refused():
    feature_NF, label_N = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
    for labels in ([0, 1, 2, 1], [0, -1, 0, 1]):
        with pytest.raises(ValueError, match="images with labels of 0 to 1"):
            train(feature_NF, torch.tensor(labels), classes=2)
        with pytest.raises(ValueError, match="a label of 0 to 1"):
            ridge.fit(feature_NF, torch.tensor(labels), classes=2)
    with pytest.raises(ValueError, match=r"epoch 0 gave features of shape \[4, 3\] to 3 labels"):
        train(feature_NF, label_N[:3], classes=2)
    for rate, decay in ((0.0, 0.0), (0.1, -1.0), (math.nan, 0.0)):
        with pytest.raises(ValueError, match="a learning rate above 0"):
            train(feature_NF, label_N, [Setting(rate, decay)], classes=2)
    feature_NF[2, 1] = math.nan
    with pytest.raises(ValueError, match="1 of 3 features are not finite"):
        train(feature_NF, label_N, classes=2)
    with pytest.raises(ValueError, match="1 of 3 features are not finite"):
        ridge.fit(feature_NF, label_N, classes=2)
    with pytest.raises(ValueError, match="penalties must be above 0"):
        ridge.fit(torch.ones(4, 3), label_N, classes=2, penalties=[1.0, 0.0])


@pytest.mark.parametrize("count", [12, 40, 64, 65, 1200])
def test_ridge_is_scikit_learns_for_every_penalty_with_fewer_images_than_features_and_with_more(digits, count):
    feature_NF, label_N, asked_QF, _ = digits
    feature_NF, label_N = feature_NF[:count], label_N[:count]
    penalties = [0.1, 10.0, 1e3, 1e6]
    found = ridge.fit(feature_NF, label_N, classes=10, penalties=penalties)
    one_NC = F.one_hot(label_N, 10).double().numpy()
    for i, penalty in enumerate(penalties):
        peer = Peer(alpha=penalty, solver="svd").fit(feature_NF.double().numpy(), one_NC)
        assert found.weight_PGC[i, :-1].T.numpy() == pytest.approx(peer.coef_, abs=1e-8)
        assert found.weight_PGC[i, -1].numpy() == pytest.approx(peer.intercept_, abs=1e-8)
        told = ridge.scores(found, asked_QF, i).argmax(dim=1).numpy()
        if count == 1200:
            classifier = RidgeClassifier(alpha=penalty).fit(feature_NF.double().numpy(), label_N)
            assert (told == classifier.predict(asked_QF.double().numpy())).all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 9_999), count=st.integers(4, 14), width=st.integers(1, 20), penalty=st.floats(0.05, 50))
def test_the_leave_one_out_error_is_that_of_leaving_each_image_out(seed, count, width, penalty):
    rng = np.random.default_rng(seed)
    feature_NF, label_N = rng.normal(3, 1, (count, width)), rng.integers(0, 3, count)
    one_NC = np.eye(3)[label_N]
    found = ridge.fit(torch.from_numpy(feature_NF), torch.from_numpy(label_N), classes=3, penalties=[penalty])
    told_NC = np.empty((count, 3))
    for i in range(count):
        rest = np.arange(count) != i
        told_NC[i] = Peer(alpha=penalty, solver="svd").fit(feature_NF[rest], one_NC[rest]).predict(feature_NF[i : i + 1])[0]
    assert found.loo_square_P.item() == pytest.approx(((one_NC - told_NC) ** 2).mean(), rel=1e-6)
    runner_up, first = np.sort(told_NC, axis=1)[:, -2:].T
    if (first - runner_up).min() > 1e-9:
        assert found.loo_P.item() == pytest.approx((told_NC.argmax(axis=1) == label_N).mean())


def test_the_penalty_is_chosen_by_leave_one_out_and_named(digits):
    feature_NF, label_N, asked_QF, label_Q = digits
    found = ridge.fit(feature_NF, label_N, classes=10)
    best = ridge.best(found)
    assert found.loo_P[best] == found.loo_P.max() > 0.92
    assert 0 < best < len(found.penalties) - 1
    told = (ridge.scores(found, asked_QF, best).argmax(dim=1) == label_Q).double().mean().item()
    assert told == pytest.approx(found.loo_P[best].item(), abs=0.03)
    assert ridge.words(found, best) == (
        f"ridge regression on one-hot labels, penalty {found.penalties[best]:.3g} chosen of 19 "
        "by leave-one-out accuracy on the training images"
    )


def test_of_equally_good_penalties_the_largest_is_chosen():
    label_N = torch.arange(30) % 3
    found = ridge.fit(torch.eye(3)[label_N], label_N, classes=3, penalties=[0.1, 10.0, 1.0])
    assert found.loo_P.tolist() == [1.0, 1.0, 1.0]
    assert ridge.best(found) == 1


def test_ridge_stands_features_far_from_0_and_features_that_are_all_the_same(digits):
    feature_NF, label_N = digits[0][:300].double(), digits[1][:300]
    near, far = (ridge.fit(feature_NF + shift, label_N, classes=10, penalties=[10.0]) for shift in (0, 1e6))
    assert far.loo_P.item() == near.loo_P.item()
    assert far.weight_PGC[0, :-1].numpy() == pytest.approx(near.weight_PGC[0, :-1].numpy(), abs=1e-6)
    flat = ridge.fit(torch.ones(6, 4), torch.tensor([0, 0, 0, 0, 1, 2]), classes=3)
    assert ridge.scores(flat, torch.ones(1, 4), 0)[0].tolist() == pytest.approx([4 / 6, 1 / 6, 1 / 6])
