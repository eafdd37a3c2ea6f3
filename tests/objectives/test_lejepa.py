"""LeJEPA: its formula in loops, values of code not ours, closed forms, and the slices of a step.

Values were computed once with lightly (MIT), commit e8d317fc, lightly/loss/lejepa_loss.py, in double precision.
Shape suffixes: V = views, B = images, D = embedding, S = slices.
"""

import cmath
import math

import pytest
import torch

from viewmill.methods.outputs import Outputs
from viewmill.methods.schedules import Moment
from viewmill.methods.table import METHODS
from viewmill.methods.terms import LeJEPA
from viewmill.objectives.images import Images
from viewmill.objectives.lejepa import gaussianity, lejepa, slices

NOW = Moment(5, 100, 10)


def table(*shape):
    count = math.prod(shape)
    return torch.sin(torch.arange(1, count + 1, dtype=torch.float64) ** 1.3).view(*shape)


def everyone(z_VBD):
    return torch.ones(z_VBD.shape[1], dtype=torch.bool)


def images(valid_B):
    return Images(torch.arange(len(valid_B)), valid_B, torch.empty(0, dtype=torch.int64))


def test_values_and_gradient_are_those_of_lightly():
    z_VBD = (1.5 * table(2, 7, 5)).requires_grad_()
    direction_DS = table(5, 11).cos()
    apart = gaussianity(z_VBD, everyone(z_VBD), direction_DS / direction_DS.norm(dim=0), knots=17, farthest=3.0)
    together = (z_VBD - z_VBD.mean(dim=0)).square().mean()
    (0.05 * apart + 0.95 * together).backward()
    assert apart.item() == pytest.approx(1.2176747544413098, abs=1e-13)
    assert together.item() == pytest.approx(0.5228972382174, abs=1e-13)
    assert z_VBD.grad.norm().item() == pytest.approx(0.16504116603712438, abs=1e-13)
    row = [0.020094655129677435, -0.016381085826720543, -0.01129026739295974, -0.019565544221455674, 0.024826463209089256]
    assert z_VBD.grad[1, 3].tolist() == pytest.approx(row, abs=1e-13)


def test_the_statistic_is_an_integral_of_characteristic_functions_written_as_loops():
    z_VBD, knots, farthest = table(2, 6, 3), 9, 2.5
    direction_DS = slices(3, 4, step=1, like=z_VBD)
    found = gaussianity(z_VBD, everyone(z_VBD), direction_DS, knots=knots, farthest=farthest)
    statistics, step = [], farthest / (knots - 1)
    for view_BD in z_VBD:
        for direction_D in direction_DS.T:
            x = (view_BD @ direction_D).tolist()
            whole = 0.0
            for k in range(-(knots - 1), knots):
                t = k * step
                apart = abs(sum(cmath.exp(1j * t * value) for value in x) / len(x) - math.exp(-t * t / 2)) ** 2
                whole += (0.5 if abs(k) == knots - 1 else 1) * step * apart * math.exp(-t * t / 2)
            statistics.append(len(x) * whole)
    assert found.item() == pytest.approx(sum(statistics) / len(statistics), abs=1e-12)


def test_a_collapse_costs_the_distance_of_a_point_from_a_gaussian_and_a_gaussian_next_to_nothing():
    """At 0: N times the integral of (1 - e^(-t^2/2))^2 e^(-t^2/2) = N sqrt(2 pi) (1 - 2 / sqrt 2 + 1 / sqrt 3)."""
    collapsed = torch.zeros(1, 50, 4, dtype=torch.float64)
    wide = {"knots": 121, "farthest": 12.0}
    direction_DS = slices(4, 8, step=0, like=collapsed)
    found = gaussianity(collapsed, everyone(collapsed), direction_DS, **wide).item()
    assert found == pytest.approx(50 * math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3)), abs=1e-8)
    many = torch.randn(1, 4000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # of true Gaussians the expectation is the integral of (1 - e^(-t^2)) e^(-t^2/2), whatever N
    expected = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))
    assert gaussianity(many, everyone(many), slices(4, 256, step=0, like=many), **wide).item() < 3 * expected


def test_images_that_do_not_count_may_hold_no_number_and_change_nothing():
    z_VBD, valid_B = table(2, 6, 4), torch.tensor([True, True, False, True, True, True])
    junk_VBD = z_VBD.masked_fill(~valid_B[:, None], math.nan).requires_grad_()
    outputs = Outputs(junk_VBD, junk_VBD, junk_VBD)
    found, facts = lejepa(LeJEPA(), METHODS["lejepa"], outputs, images(valid_B), NOW)
    alone_VBD = z_VBD[:, valid_B]
    alone = Outputs(alone_VBD, alone_VBD, alone_VBD)
    expected, _ = lejepa(LeJEPA(), METHODS["lejepa"], alone, images(valid_B[valid_B]), NOW)
    torch.testing.assert_close(found, expected)
    assert set(facts) == {"invariance", "gaussianity"}
    found.backward()
    assert (junk_VBD.grad[:, ~valid_B] == 0).all()
    assert torch.isfinite(junk_VBD.grad).all()


def test_the_weight_shares_between_views_and_distribution():
    z_VBD = table(2, 6, 4)
    outputs, batch = Outputs(z_VBD, z_VBD, z_VBD), images(everyone(z_VBD))
    for weight in (0.0, 0.3, 1.0):
        found, facts = lejepa(LeJEPA(weight=weight), METHODS["lejepa"], outputs, batch, NOW)
        torch.testing.assert_close(found, weight * facts["gaussianity"] + (1 - weight) * facts["invariance"])


def test_slices_are_unit_vectors_everywhere_and_new_at_each_step():
    like = torch.empty(0, dtype=torch.float64)
    first, again, later = (slices(5, 2000, step=step, like=like) for step in (3, 3, 4))
    assert torch.equal(first, again)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(2000, dtype=torch.float64))
    torch.testing.assert_close(first @ first.T / 2000, torch.eye(5, dtype=torch.float64) / 5, rtol=0, atol=0.03)
    assert (first * later).sum(dim=0).mean().abs() < 0.06


@pytest.mark.parametrize(
    ("settings", "word"), [({"weight": 1.5}, r"\[0, 1\]"), ({"slices": 0}, "1 slice"), ({"knots": 1}, "2 knots")]
)
def test_what_lejepa_cannot_be_is_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        LeJEPA(**settings)
