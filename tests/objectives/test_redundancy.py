"""VICReg, Barlow Twins and BYOL: their formulas, what they are invariant to, and rows that do not count.

Shape suffixes: B = rows of the global batch, D = embedding.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from viewmill.objectives.redundancy import barlow_twins, byol, vicreg

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LOSSES = [vicreg, barlow_twins]
entries = st.floats(-3, 3).map(lambda x: round(x, 3))


def views(rows, dimension, seed=0, scale=1.0):
    """Two correlated views, [B, D] each."""
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(rows, dimension, generator=generator, dtype=torch.float64)
    two = one + 0.5 * torch.randn(rows, dimension, generator=generator, dtype=torch.float64)
    return scale * one, scale * two + 0.3


def everyone(x_BD):
    return torch.ones(len(x_BD), dtype=torch.bool)


@st.composite
def batches(draw):
    """Two views [B, D] and which rows count: none, one, some or all of them."""
    rows, dimension = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    two = [[[draw(entries) for _ in range(dimension)] for _ in range(rows)] for _ in range(2)]
    valid = torch.tensor([draw(st.booleans()) for _ in range(rows)])
    one_BD, two_BD = torch.tensor(two, dtype=torch.float64)
    return one_BD, two_BD, valid


def moments(rows, dimension, ddof):
    """Rows less their mean, and what sums over rows are divided by."""
    count = len(rows)
    mean = [sum(row[i] for row in rows) / max(1, count) for i in range(dimension)]
    return [[row[i] - mean[i] for i in range(dimension)] for row in rows], max(1, count - ddof)


def slow_vicreg(one, two, dimension):
    """arXiv 2105.04906, eq. 1 to 6, with the means of its code."""
    invariance = variance = covariance = 0.0
    for a, b in zip(one, two, strict=True):
        invariance += sum((a[i] - b[i]) ** 2 for i in range(dimension)) / (len(one) * dimension)
    for rows in (one, two):
        centred, divisor = moments(rows, dimension, 1)
        for i in range(dimension):
            for j in range(dimension):
                shared = sum(row[i] * row[j] for row in centred) / divisor
                if i == j:
                    variance += max(0.0, 1 - math.sqrt(shared + 1e-4)) / dimension / 2
                else:
                    covariance += shared**2 / dimension
    return invariance, variance, covariance


def slow_barlow(one, two, dimension):
    """arXiv 2103.03230, eq. 1, of columns standardised with 1e-5 under the root: on and off the diagonal."""
    first, divisor = moments(one, dimension, 0)
    second, _ = moments(two, dimension, 0)
    deviation = [
        [math.sqrt(sum(row[i] ** 2 for row in x) / divisor + 1e-5) for i in range(dimension)] for x in (first, second)
    ]
    on = off = 0.0
    for i in range(dimension):
        for j in range(dimension):
            shared = sum(a[i] * b[j] for a, b in zip(first, second, strict=True)) / divisor
            shared /= deviation[0][i] * deviation[1][j]
            on, off = (on + (1 - shared) ** 2, off) if i == j else (on, off + shared**2)
    return on, off


@settings(deadline=None)
@given(batches())
def test_vicreg_is_its_formula_written_as_loops(batch):
    one_BD, two_BD, valid_B = batch
    loss, terms = vicreg(*batch, invariance=3.0, variance=5.0, covariance=7.0)
    slow = slow_vicreg(one_BD[valid_B].tolist(), two_BD[valid_B].tolist(), one_BD.shape[1])
    assert [terms[name].item() for name in ("invariance", "variance", "covariance")] == pytest.approx(slow, abs=1e-12)
    assert loss.item() == pytest.approx(3 * slow[0] + 5 * slow[1] + 7 * slow[2], abs=1e-11)


@settings(deadline=None)
@given(batches())
def test_barlow_twins_is_its_formula_written_as_loops(batch):
    one_BD, two_BD, valid_B = batch
    loss, terms = barlow_twins(*batch, off_diagonal=0.3)
    slow = slow_barlow(one_BD[valid_B].tolist(), two_BD[valid_B].tolist(), one_BD.shape[1])
    assert [terms[name].item() for name in ("on_diagonal", "off_diagonal")] == pytest.approx(slow, abs=1e-11)
    assert loss.item() == pytest.approx(slow[0] + 0.3 * slow[1], abs=1e-11)


@pytest.mark.parametrize("masked", [False, True])
def test_vicreg_agrees_with_the_covariance_of_the_rows_that_count(masked):
    one_BD, two_BD = views(40, 7)
    valid_B = torch.arange(40) % 3 != 0 if masked else everyone(one_BD)
    seen = [x_BD[valid_B] for x_BD in (one_BD, two_BD)]
    covariances = [torch.cov(x_BD.T) for x_BD in seen]
    _, terms = vicreg(one_BD, two_BD, valid_B)
    hinge = [(1 - (matrix.diagonal() + 1e-4).sqrt()).clamp(min=0).mean().item() for matrix in covariances]
    off = [(matrix - matrix.diagonal().diag()).square().sum().item() / 7 for matrix in covariances]
    assert terms["invariance"].item() == pytest.approx(F.mse_loss(*seen).item(), abs=1e-13)
    assert terms["variance"].item() == pytest.approx(sum(hinge) / 2, abs=1e-13)
    assert terms["covariance"].item() == pytest.approx(sum(off), abs=1e-13)


@pytest.mark.parametrize("masked", [False, True])
def test_barlow_twins_agrees_with_the_correlation_of_the_rows_that_count(masked):
    one_BD, two_BD = views(40, 7)
    valid_B = torch.arange(40) % 3 != 0 if masked else everyone(one_BD)
    both = torch.cat((one_BD, two_BD), dim=1)[valid_B].T
    damping = (1 + 1e-5 / both.var(dim=1, correction=0)).rsqrt()
    correlation = (torch.corrcoef(both) * damping[:, None] * damping)[:7, 7:]
    by_numpy = np.corrcoef(both.numpy())[:7, 7:]
    loss, terms = barlow_twins(one_BD, two_BD, valid_B)
    on = (1 - correlation.diagonal()).square().sum().item()
    off = (correlation - correlation.diagonal().diag()).square().sum().item()
    assert terms["on_diagonal"].item() == pytest.approx(on, abs=1e-12)
    assert terms["off_diagonal"].item() == pytest.approx(off, abs=1e-12)
    assert loss.item() == pytest.approx(on + 5e-3 * off, abs=1e-12)
    assert terms["on_diagonal"].item() == pytest.approx(((1 - by_numpy.diagonal()) ** 2).sum(), abs=1e-3)


@settings(deadline=None)
@given(batches(), st.sampled_from([-100.0, 3.0, 1e4]), st.sampled_from(LOSSES))
def test_rows_that_do_not_count_change_nothing_and_get_no_gradient(batch, junk, loss_of):
    one_BD, two_BD, valid_B = batch
    outcomes = []
    for rows in ((one_BD, two_BD), [x.masked_fill(~valid_B[:, None], junk) for x in (one_BD, two_BD)]):
        one, two = (x.clone().requires_grad_() for x in rows)
        loss, terms = loss_of(one, two, valid_B)
        loss.backward()
        assert (one.grad[~valid_B] == 0).all()
        assert (two.grad[~valid_B] == 0).all()
        outcomes.append((loss.detach(), one.grad, two.grad, *terms.values()))
    for first, second in zip(*outcomes, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("loss_of", LOSSES)
def test_rows_that_do_not_count_may_hold_the_largest_number_or_none(loss_of):
    for junk in (torch.finfo(torch.float32).max, math.inf, math.nan):
        one, two = (x.float().requires_grad_() for x in views(6, 3))
        valid_B = torch.arange(6) < 4
        loss, _ = loss_of(*[x.masked_fill(~valid_B[:, None], junk) for x in (one, two)], valid_B)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(one.grad).all()
        assert torch.equal(loss.detach(), loss_of(one.detach(), two.detach(), valid_B)[0])


def test_collapsed_embeddings_cost_what_the_formula_says():
    same = torch.full((8, 5), 0.3, dtype=torch.float64)
    loss, terms = vicreg(same, same, everyone(same))
    assert loss.item() == pytest.approx(25 * (1 - math.sqrt(1e-4)), abs=1e-12)
    assert loss.item() == pytest.approx(24.75, abs=1e-12)
    assert [terms[name].item() for name in ("invariance", "covariance")] == pytest.approx([0, 0], abs=1e-15)
    loss, terms = barlow_twins(same, same, everyone(same))
    assert loss.item() == pytest.approx(5, abs=1e-12)
    assert terms["off_diagonal"].item() == pytest.approx(0, abs=1e-15)


def test_embeddings_collapsed_to_a_line_are_punished_by_what_is_shared():
    """Every dimension the same, of variance 1: D - 1 covariances of 1 in each row of both matrices."""
    column = torch.tensor([-1.0, 1.0, -1.0, 1.0, 0.0], dtype=torch.float64)[:, None]
    line = column.repeat(1, 6)
    loss, terms = vicreg(line, line, everyone(line))
    assert [terms[name].item() for name in ("invariance", "variance", "covariance")] == pytest.approx([0, 0, 10], abs=1e-12)
    assert loss.item() == pytest.approx(10, abs=1e-12)
    loss, terms = barlow_twins(line, line, everyone(line))
    shared = 0.8 / (0.8 + 1e-5)
    assert loss.item() == pytest.approx(6 * (1 - shared) ** 2 + 5e-3 * 30 * shared**2, abs=1e-12)


def test_identical_views_with_independent_columns_of_variance_1_cost_nothing():
    hadamard = torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]], dtype=torch.float64)
    loss, _ = vicreg(hadamard, hadamard, everyone(hadamard))
    assert loss.item() == pytest.approx(0, abs=1e-15)
    loss, _ = barlow_twins(hadamard, hadamard, everyone(hadamard))
    assert loss.item() == pytest.approx(3 * (1 - 1 / (1 + 1e-5)) ** 2, abs=1e-15)


@pytest.mark.parametrize("counting", [0, 1])
def test_fewer_than_two_rows_give_the_finite_loss_of_a_collapse(counting):
    one, two = (x.requires_grad_() for x in views(4, 3))
    valid_B = torch.arange(4) < counting
    loss, terms = vicreg(one, two, valid_B)
    apart = (one - two)[valid_B].square().sum().item() / 3
    assert terms["variance"].item() == pytest.approx(0.99, abs=1e-14)
    assert loss.item() == pytest.approx(24.75 + 25 * apart, abs=1e-12)
    loss.backward()
    torch.testing.assert_close(one.grad, 50 / 3 * (one - two).detach() * valid_B[:, None], rtol=1e-12, atol=1e-12)
    one.grad = None
    loss, _ = barlow_twins(one, two, valid_B)
    loss.backward()
    assert loss.item() == pytest.approx(3, abs=1e-14)
    assert (one.grad == 0).all()


@pytest.mark.parametrize("loss_of", LOSSES)
def test_the_order_of_rows_and_of_dimensions_does_not_matter(loss_of):
    one, two = views(12, 5)
    valid_B = torch.arange(12) != 4
    rows, columns = torch.randperm(12, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 0, 4, 1, 2])
    loss, _ = loss_of(one, two, valid_B)
    torch.testing.assert_close(loss_of(one[rows], two[rows], valid_B[rows])[0], loss)
    torch.testing.assert_close(loss_of(one[:, columns], two[:, columns], valid_B)[0], loss)
    torch.testing.assert_close(loss_of(two, one, valid_B)[0], loss)
    signs = torch.tensor([1.0, -1, -1, 1, -1], dtype=torch.float64)
    torch.testing.assert_close(loss_of(one * signs, two * signs, valid_B)[0], loss)


def test_barlow_twins_does_not_see_scale_nor_shift_of_a_dimension_of_either_view():
    one, two = views(30, 5)
    loss, _ = barlow_twins(one, two, everyone(one))
    scale = torch.tensor([0.5, 3.0, 10.0, 1.0, 100.0], dtype=torch.float64)
    moved, _ = barlow_twins(one * scale + 7, two / scale.sqrt() - scale, everyone(one))
    assert moved.item() == pytest.approx(loss.item(), abs=1e-2)  # variances of .01 against 1e-5 under the root
    large, _ = barlow_twins(1e4 * one, 1e4 * two, everyone(one))
    larger, _ = barlow_twins(1e4 * one * scale + 7, 1e4 * two * scale - 7, everyone(one))
    assert larger.item() == pytest.approx(large.item(), abs=1e-10)


def test_vicreg_does_not_see_a_shift_and_scales_its_terms_by_the_second_and_fourth_power():
    one, two = views(30, 5)
    terms = vicreg(one, two, everyone(one))[1]
    shifted = vicreg(one + 7, two + 7, everyone(one))[1]
    doubled = vicreg(2 * one, 2 * two, everyone(one))[1]
    for name in terms:
        assert shifted[name].item() == pytest.approx(terms[name].item(), abs=1e-11)
    assert doubled["invariance"].item() == pytest.approx(4 * terms["invariance"].item(), abs=1e-12)
    assert doubled["covariance"].item() == pytest.approx(16 * terms["covariance"].item(), abs=1e-11)


def test_a_rotation_of_both_views_keeps_the_invariance_and_the_sum_of_squared_covariances():
    one, two = views(30, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    before, after = (vicreg(*pair, everyone(one))[1] for pair in ((one, two), (one @ rotation, two @ rotation)))
    assert after["invariance"].item() == pytest.approx(before["invariance"].item(), abs=1e-12)

    def whole(pair, terms):
        return 5 * terms["covariance"].item() + sum(x.var(dim=0).square().sum().item() for x in pair)

    assert whole((one @ rotation, two @ rotation), after) == pytest.approx(whole((one, two), before), abs=1e-10)
    assert after["covariance"].item() != pytest.approx(before["covariance"].item(), abs=1e-3)


@settings(deadline=None)
@given(batches())
def test_byol_is_the_squared_distance_of_unit_vectors(batch):
    made_BD, seen_BD, _ = batch
    loss_B = byol(made_BD, seen_BD)
    for made, seen, loss in zip(made_BD.tolist(), seen_BD.tolist(), loss_B.tolist(), strict=True):
        lengths = math.hypot(*made) * math.hypot(*seen)
        cosine = sum(a * b for a, b in zip(made, seen, strict=True)) / lengths if lengths else 0.0
        assert loss == pytest.approx(2 - 2 * cosine, abs=1e-12)
        if lengths:
            distance = sum((a / math.hypot(*made) - b / math.hypot(*seen)) ** 2 for a, b in zip(made, seen, strict=True))
            assert loss == pytest.approx(distance, abs=1e-12)


def test_byol_knows_equal_opposite_and_orthogonal_and_neither_scale_nor_rotation():
    made, seen = views(9, 4)
    known = byol(torch.eye(2).repeat(2, 1), torch.tensor([[3.0, 0], [0, -2], [0, 5], [0, 1e-3]]))
    torch.testing.assert_close(known, torch.tensor([0.0, 4, 2, 0]))
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    torch.testing.assert_close(byol(7 * made @ rotation, 0.01 * seen @ rotation), byol(made, seen))
    assert byol(made, seen).shape == (9,)


def test_gradients_are_those_of_finite_differences():
    one, two = (x.requires_grad_() for x in views(6, 4, scale=0.7))
    for valid_B in (everyone(one), torch.tensor([True, False, True, True, False, True]), torch.arange(6) < 2):
        assert torch.autograd.gradcheck(lambda a, b, valid_B=valid_B: vicreg(a, b, valid_B)[0], (one, two))
        assert torch.autograd.gradcheck(lambda a, b, valid_B=valid_B: barlow_twins(a, b, valid_B)[0], (one, two))
    assert torch.autograd.gradcheck(byol, (one, two))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scalars_are_detached_and_all_is_in_at_least_single_precision(dtype):
    one, two = (x.to(dtype).requires_grad_() for x in views(6, 4))
    wide = torch.promote_types(dtype, torch.float32)
    for loss_of in LOSSES:
        loss, terms = loss_of(one, two, everyone(one))
        same, _ = loss_of(one.to(wide), two.to(wide), everyone(one))
        assert loss.dtype == wide
        assert torch.equal(loss, same)
        assert loss.requires_grad
        assert all(term.ndim == 0 and not term.requires_grad for term in terms.values())
    assert byol(one, two).dtype == wide
    assert torch.equal(byol(one, two), byol(one.to(wide), two.to(wide)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_float16_values_give_finite_losses_and_gradients(dtype):
    edge = torch.finfo(torch.float16).max
    signs = torch.tensor([[1.0, -1, 1], [-1, -1, 1], [0, 1, 1], [1e-7, 0, 1]])
    for scale in (0.0, 6e-8, 1.0, edge):
        for loss_of in (*LOSSES, lambda a, b, _: (byol(a, b).sum(), {})):
            one, two = ((scale * x).clamp(-edge, edge).half().to(dtype).requires_grad_() for x in (signs, signs.flip(0)))
            loss, _ = loss_of(one, two, everyone(one))
            loss.backward()
            assert torch.isfinite(loss)
            if dtype != torch.float16:  # the gradient of fourth powers of 65504 does not fit in float16 itself
                assert torch.isfinite(one.grad).all()
                assert torch.isfinite(two.grad).all()


def test_single_precision_agrees_with_double_at_the_size_of_a_real_step():
    one, two = views(256, 512)
    for loss_of in LOSSES:
        double, single = loss_of(one, two, everyone(one))[0], loss_of(one.float(), two.float(), everyone(one))[0]
        assert single.item() == pytest.approx(double.item(), rel=1e-5)
