"""Counter-based noise against its definition in big integers, stochastic heads against closed forms, the pixel decoder."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from viewmill.methods.terms import BoundedGaussian, FixedGaussian, VonMisesFisher
from viewmill.models import noise
from viewmill.models.decoder import Decoder
from viewmill.models.stochastic import angle_table, quantile, sampler, turned

WHEN = {"seed": 3, "step": 5, "stream": 1}
UNIFORM_GOLDEN = [[15770023, 8611725], [195615, 11399961]]
NORMAL_GOLDEN = [1.292669, 0.672794, 0.438546, 1.016938]


def fixed(sigma):
    return sampler(FixedGaussian(sigma), 1)


def bounded(features, low, high):
    return sampler(BoundedGaussian(low, high), features)


def von_mises_fisher(dimension, kappa):
    return sampler(VonMisesFisher(kappa), dimension)


HEADS = {
    "fixed": lambda features: fixed(0.1),
    "bounded": lambda features: bounded(features, 0.01, 1.0),
    "vmf": lambda features: von_mises_fisher(features, 50.0),
}


def mix(word):
    """splitmix64's finaliser, in big integers."""
    word %= 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def word(row, column, kind, *, seed, step, stream):
    golden = 0x9E3779B97F4A7C15
    moment = ((stream * 2 + kind) << 41) + step
    return mix(mix(mix(row * golden + seed) + moment) + (column + 1) * golden)


def bessel_ratio(dimension, kappa):
    """A_d(kappa) = I_{d/2}(kappa) / I_{d/2-1}(kappa), by its continued fraction from the far end."""
    ratio = 0.0
    for n in range(int(200 + 4 * kappa + 4 * dimension), 0, -1):
        ratio = 1 / ((dimension - 2 + 2 * n) / kappa + ratio)
    return ratio


def ks(cumulative):
    """sqrt(n) times the Kolmogorov-Smirnov distance of values in [0, 1] to the uniform law; 1.95 is p = .001."""
    value = np.sort(cumulative.double().flatten().numpy())
    place = np.arange(len(value) + 1) / len(value)
    return max((place[1:] - value).max(), (value - place[:-1]).max()) * math.sqrt(len(value))


def correlation(x, y):
    return float(torch.corrcoef(torch.stack((x.flatten().double(), y.flatten().double())))[0, 1]) * math.sqrt(x.numel())


# ---------------------------------------------------------------------------------------------------------------- noise


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**40),
    stream=st.integers(0, 2**21 - 1),
    row=st.lists(st.integers(0, 2**62), min_size=1, max_size=3),
)
def test_numbers_are_those_of_the_definition_in_big_integers(seed, step, stream, row):
    when = {"seed": seed, "step": step, "stream": stream}
    drawn = noise.uniform(torch.tensor(row), 3, **when)
    assert drawn.dtype == torch.float32
    assert drawn.double().tolist() == [[((word(r, c, 0, **when) >> 41) + 0.5) / 2**23 for c in range(3)] for r in row]
    for r, normals in zip(row, noise.normal(torch.tensor(row), 3, **when).double(), strict=True):
        first, second = word(r, 0, 1, **when), word(r, 1, 1, **when)
        radius = [math.sqrt(-2 * math.log(((w >> 24) + 0.5) / 2**40)) for w in (first, second)]
        angle = [math.tau * (w & 0xFFFFFF) / 2**24 for w in (first, second)]
        wanted = [radius[0] * math.cos(angle[0]), radius[0] * math.sin(angle[0]), radius[1] * math.cos(angle[1])]
        # radii near 0 stand on log(1 - x), of which float32 has 6e-8
        assert normals.tolist() == pytest.approx(wanted, abs=3e-4)


def test_numbers_never_change():
    row, when = torch.tensor([0, 1_281_166]), {"seed": 2**63 - 1, "step": 2**40, "stream": 2**21 - 1}
    assert noise.uniform(row, 2, **when).double().mul(2**24).tolist() == UNIFORM_GOLDEN
    assert noise.normal(row, 2, **when).flatten().tolist() == pytest.approx(NORMAL_GOLDEN, abs=1e-5)


def test_uniforms_are_uniform_and_inside_the_open_interval():
    drawn = noise.uniform(torch.arange(2048), 128, **WHEN)
    assert 0 < drawn.min() < drawn.max() < 1
    assert ks(drawn) < 1.95
    count = torch.histc(drawn, 256, 0, 1)
    assert abs(float(((count - 1024) ** 2 / 1024).sum()) - 255) < 4 * math.sqrt(2 * 255)


def test_the_extreme_words_stay_inside_the_open_interval(monkeypatch):
    for extreme in (0, -1):  # all bits 0, all bits 1
        monkeypatch.setattr(noise, "_words", lambda *a, w=extreme, **k: torch.full((1, 1), w))
        assert 0 < noise.uniform(torch.arange(1), 1, **WHEN).item() < 1
        assert abs(noise.normal(torch.arange(1), 2, **WHEN)).max().item() == pytest.approx(
            7.539 if extreme == 0 else 0, abs=1e-3
        )


def test_normals_have_the_law_and_moments_of_a_normal():
    drawn = noise.normal(torch.arange(2048), 128, **WHEN).double()
    assert ks(torch.special.ndtr(drawn)) < 1.95
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs(float((drawn**power).mean()) - moment) < 4 * math.sqrt(variance / drawn.numel())


@pytest.mark.parametrize(
    ("row", "column", "changed"),
    [
        (1, 0, {}),
        (0, 1, {}),
        (0, 2, {}),
        (0, 0, {"step": 6}),
        (0, 0, {"step": 5 + 2**39}),
        (0, 0, {"stream": 2}),
        (0, 0, {"seed": 4}),
        (0, 0, {"seed": 2**62 + 3}),
    ],
)
def test_neighbours_in_row_column_step_stream_and_seed_are_unrelated(row, column, changed):
    here = noise.normal(torch.arange(4096), 33, **WHEN)[:, :31]
    there = noise.normal(torch.arange(row, 4096 + row), 33, **(WHEN | changed))[:, column : 31 + column]
    for power in (1, 2, 3):  # the two halves of a Box-Muller pair share their radius: the squares would tell
        assert abs(correlation(here**power, there**power)) < 4
    bins = [(torch.special.ndtr(part).clamp(max=0.999999) * 16).long() for part in (here, there)]
    count = torch.bincount((bins[0] * 16 + bins[1]).flatten(), minlength=256).double()
    wanted = here.numel() / 256
    assert abs(float(((count - wanted) ** 2 / wanted).sum()) - 255) < 4 * math.sqrt(2 * 255)


def test_uniform_and_normal_of_one_stream_are_unrelated():
    row = torch.arange(4096)
    u, z = noise.uniform(row, 32, **WHEN), noise.normal(row, 64, **WHEN)
    radius = z[:, ::2] ** 2 + z[:, 1::2] ** 2
    assert abs(correlation(u, radius)) < 4
    assert abs(correlation(u, z[:, ::2])) < 4


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
def test_noise_of_a_row_depends_neither_on_its_batch_nor_on_the_columns_asked_for(draw):
    row = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    whole = draw(row, 7, **WHEN)
    assert torch.equal(torch.cat([draw(part, 7, **WHEN) for part in row.split(13)]), whole)
    assert torch.equal(draw(torch.arange(100), 7, **WHEN)[row], whole)
    assert torch.equal(draw(row, 12, **WHEN)[:, :7], whole)
    assert draw(row[:0], 7, **WHEN).shape == (0, 7)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, "seed"),
        ({"step": 2**40 + 1}, "step"),
        ({"stream": 2**21}, "stream"),
        ({"columns": 0}, "at least 1 column"),
        ({"row_B": torch.arange(3).int()}, "int64"),
        ({"row_B": torch.arange(3)[:, None]}, "int64"),
    ],
)
def test_noise_refuses_what_it_has_no_numbers_for(arguments, says):
    with pytest.raises(ValueError, match=says):
        noise.uniform(**({"row_B": torch.arange(3), "columns": 2} | WHEN | arguments))


# ---------------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("name", HEADS)
def test_evaluation_yields_the_mean_whatever_the_step(name):
    head, feature = HEADS[name](6).eval(), torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    first = head(feature, torch.arange(4), seed=0, step=0, stream=0)
    second = head(feature, torch.arange(4) + 9, seed=1, step=2, stream=3)
    assert torch.equal(first.sample_BF, first.mean_BF)
    assert torch.equal(first.sample_BF, second.sample_BF)
    assert torch.equal(first.mean_BF, F.normalize(feature) if name == "vmf" else feature)


@pytest.mark.parametrize("name", HEADS)
def test_a_row_gets_the_same_sample_in_any_batch(name):
    head, row = HEADS[name](6), torch.tensor([7, 3, 1000, 4])
    feature = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    whole = head(feature, row, **WHEN)
    halves = [head(feature[part], row[part], **WHEN) for part in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(torch.cat([half.sample_BF for half in halves]), whole.sample_BF, atol=1e-6, rtol=0)
    assert not torch.equal(head(feature, row + 1, **WHEN).sample_BF, whole.sample_BF)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("changed", [{"stream": 2}, {"step": 6}, {"seed": 4}])
def test_views_steps_and_seeds_draw_independently(name, changed):
    head, feature, row = HEADS[name](5), torch.ones(20_000, 5), torch.arange(20_000)
    here, there = (head(feature, row, **(WHEN | more)) for more in ({}, changed))
    here, there = here.sample_BF - here.sample_BF.mean(0), there.sample_BF - there.sample_BF.mean(0)
    cross = (here.T @ there) / (here.norm(dim=0)[:, None] * there.norm(dim=0))
    assert cross.abs().max() * math.sqrt(20_000) < 4.5


@pytest.mark.parametrize("name", HEADS)
def test_samples_are_float32_also_under_autocast_and_from_bf16(name):
    head, row = HEADS[name](6), torch.arange(4)
    feature = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    if name == "bounded":
        torch.nn.init.normal_(head.place.weight, generator=torch.Generator().manual_seed(1))
    wanted = head(feature.float(), row, **WHEN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = head(feature, row, **WHEN)
    for part, exact in zip(drawn, wanted, strict=True):
        assert part is exact is None or (part.dtype == torch.float32 and torch.equal(part, exact))


class Watch(TorchDispatchMode):
    """Raises where an operation has tensors on both sides, or makes one on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)}
        if devices - {"cuda"}:
            raise RuntimeError(f"{func} works on {sorted(devices)}")
        return out


@pytest.mark.parametrize("name", HEADS)
def test_heads_noise_and_decoder_stay_on_their_device_and_never_wait(name):
    head, decoder = HEADS[name](6), Decoder(6, 12, width=8)
    with FakeTensorMode(allow_non_fake_inputs=True):
        head, decoder = head.to("cuda"), decoder.to("cuda")
        feature = torch.empty(4, 6, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        row = torch.empty(4, dtype=torch.int64, device="cuda")
        with Watch():
            drawn = head(feature, row, **WHEN)
            out = decoder(drawn.sample_BF)
            uniform = noise.uniform(row, 5, **WHEN)
    assert (out.device.type, uniform.device.type) == ("cuda", "cuda")
    assert (out.shape, uniform.shape, drawn.sample_BF.shape) == ((4, 3, 12, 12), (4, 5), (4, 6))


def test_a_fixed_gaussian_has_its_mean_and_covariance():
    feature = torch.tensor([1.0, -2.0, 0.0, 30.0]).repeat(40_000, 1)
    drawn = fixed(0.5)(feature, torch.arange(40_000), **WHEN)
    assert torch.equal(drawn.mean_BF, feature)
    assert torch.equal(drawn.scale_BF, torch.full_like(feature, 0.5))
    off = drawn.sample_BF - feature
    assert off.mean(0).abs().max() < 4 * 0.5 / math.sqrt(40_000)
    assert (torch.cov(off.T) - 0.25 * torch.eye(4)).abs().max() < 4 * 0.25 * math.sqrt(2 / 40_000)


def test_a_bounded_gaussian_starts_at_the_geometric_middle_and_never_leaves_its_bounds():
    head = bounded(6, 0.01, 1.0)
    feature = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    start = head(feature, torch.arange(5), **WHEN).scale_BF
    torch.testing.assert_close(start, torch.full((5, 6), 0.1))
    torch.nn.init.normal_(head.place.weight, std=100.0, generator=torch.Generator().manual_seed(1))
    for scale in (1, 1e30):  # up to pre-activations of 1e33
        drawn = head((feature * scale).requires_grad_(), torch.arange(5), **WHEN)
        assert 0.01 * (1 - 1e-6) <= drawn.scale_BF.min() < 0.011
        assert 0.9 < drawn.scale_BF.max() <= 1 + 1e-6
        drawn.sample_BF.mean().backward()
        assert torch.isfinite(head.place.weight.grad).all()


def test_a_bounded_gaussian_scales_the_noise_of_a_fixed_one_and_passes_gradient_to_its_sigma():
    feature, row = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    head = bounded(6, 0.01, 1.0)
    torch.nn.init.normal_(head.place.weight, generator=torch.Generator().manual_seed(1))
    drawn, unit = head(feature, row, **WHEN), fixed(1.0)(feature, row, **WHEN)
    torch.testing.assert_close((drawn.sample_BF - feature) / drawn.scale_BF, unit.sample_BF - feature, atol=1e-4, rtol=1e-4)
    drawn.sample_BF.sum().backward()
    share = torch.log(drawn.scale_BF.detach() / 0.01) / math.log(100)
    slope = (unit.sample_BF - feature) * drawn.scale_BF.detach() * math.log(100) * share * (1 - share)
    torch.testing.assert_close(head.place.bias.grad, slope.sum(0), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["fixed", "bounded"])
def test_gaussian_gradients_are_exact(name):
    head, row = HEADS[name](4).double(), torch.arange(3)
    if name == "bounded":
        torch.nn.init.normal_(head.place.weight, generator=torch.Generator().manual_seed(1))
    feature = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: head(h, row, **WHEN), feature)


@pytest.mark.parametrize(("kappa", "wanted"), [(1024.0, 0.939880785), (10.0, 0.077660976)])
def test_the_bessel_ratio_is_the_published_one(kappa, wanted):
    assert bessel_ratio(128, kappa) == pytest.approx(wanted, abs=5e-10)


@pytest.mark.parametrize("dimension", [2, 3, 64, 128, 2048])
@pytest.mark.parametrize("kappa", [1e-2, 1.0, 10.0, 1024.0, 1e5])
def test_the_angle_table_has_the_first_two_moments_of_a_von_mises_fisher_law(dimension, kappa):
    table = angle_table(dimension, kappa)
    assert all(left < right for left, right in pairwise(table.tolist()))
    score = torch.linspace(-7.5, 7.5, 100_001, dtype=torch.float64)
    weight = torch.exp(-(score**2) / 2)
    cosine = quantile(torch.from_numpy(table).float(), score).cos()
    mean = bessel_ratio(dimension, kappa)
    assert float((cosine * weight).sum() / weight.sum()) == pytest.approx(mean, abs=2e-7)
    # 1 - w is what the angle keeps at large kappa, where w is 1 to seven digits
    assert float(((1 - cosine) * weight).sum() / weight.sum()) == pytest.approx(1 - mean, rel=3e-7)
    second = 1 - (dimension - 1) * mean / kappa
    assert float((cosine**2 * weight).sum() / weight.sum()) == pytest.approx(second, abs=4e-7)


@pytest.mark.parametrize(("dimension", "kappa"), [(2, 3.0), (3, 0.5), (8, 20.0), (128, 10.0), (128, 1024.0)])
def test_von_mises_fisher_samples_have_their_mean_and_covariance(dimension, kappa):
    count = 30_000
    direction = F.normalize(torch.arange(1.0, dimension + 1), dim=0)
    drawn = von_mises_fisher(dimension, kappa)(7 * direction.repeat(count, 1), torch.arange(count), **WHEN)
    assert drawn.scale_BF is None
    torch.testing.assert_close(drawn.mean_BF, direction.repeat(count, 1))
    mean = bessel_ratio(dimension, kappa)
    along = 1 - (dimension - 1) * mean / kappa
    across = (1 - along) / (dimension - 1)
    cosine = drawn.sample_BF @ direction
    assert float(cosine.mean()) == pytest.approx(mean, abs=4 * math.sqrt((along - mean**2) / count))
    assert (drawn.sample_BF.mean(0) - mean * direction).abs().max() < 4.5 * math.sqrt(max(along - mean**2, across) / count)
    line = torch.outer(direction, direction)
    wanted = along * line + across * (torch.eye(dimension) - line)
    second = drawn.sample_BF.T @ drawn.sample_BF / count
    assert (second - wanted).abs().max() < 5 * math.sqrt(2 / count) * max(along, across)
    assert torch.trace(second) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kappa", [1e-2, 2.0, 1e5])
def test_on_the_sphere_the_cosine_has_its_closed_form_law(kappa):
    direction = torch.tensor([0.0, 0.6, -0.8], dtype=torch.float64)
    z = von_mises_fisher(3, kappa)(direction.repeat(50_000, 1), torch.arange(50_000), **WHEN).sample_BF
    gap = (z - direction).square().sum(dim=1) / 2  # 1 - cosine without cancelling
    # F(w) = (e^(kappa w) - e^-kappa) / (e^kappa - e^-kappa)
    assert ks(1 - torch.expm1(-kappa * gap) / math.expm1(-2 * kappa)) < 1.95
    azimuth = torch.atan2(z[:, 0], z @ torch.tensor([0.0, 0.8, 0.6], dtype=torch.float64))
    assert ks(azimuth / math.tau + 0.5) < 1.95


@pytest.mark.parametrize("dimension", [2, 3, 128])
@pytest.mark.parametrize("kappa", [1e-2, 10.0, 1e5, 1e6])
def test_von_mises_fisher_samples_are_unit_vectors(dimension, kappa):
    count = 100_000 // dimension
    feature = torch.randn(count, dimension, generator=torch.Generator().manual_seed(0)) * 5
    z = von_mises_fisher(dimension, kappa)(feature, torch.arange(count), **WHEN).sample_BF
    assert (z.norm(dim=1) - 1).abs().max() < 1e-6


def test_a_draw_almost_along_the_mean_still_gives_a_unit_vector():
    draw = noise.normal(torch.arange(2000), 3, **WHEN)[:, 1:]  # what the head draws for the direction around the mean
    feature = draw + 1e-4 * draw.flip(1) * torch.tensor([1.0, -1.0])
    z = von_mises_fisher(2, 1.0)(feature, torch.arange(2000), **WHEN).sample_BF
    assert (z.norm(dim=1) - 1).abs().max() < 1e-6


def test_a_von_mises_fisher_sample_turns_as_its_mean_turns():
    mean = F.normalize(torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    step, cotangent = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = step - (step * mean).sum(1, keepdim=True) * mean
    mean.requires_grad_()
    z = von_mises_fisher(4, 3.0)(mean, torch.arange(6), **WHEN).sample_BF
    (gradient,) = torch.autograd.grad((z * cotangent).sum(), mean)
    rotated = (z * mean).sum(1, keepdim=True) * step - (z * step).sum(1, keepdim=True) * mean
    torch.testing.assert_close((gradient * step).sum(1), (rotated * cotangent).sum(1).detach(), atol=1e-10, rtol=1e-10)


def test_turning_passes_gradcheck_through_the_mean():
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    tangent = F.normalize(torch.randn(3, 5, dtype=torch.float64, generator=generator), dim=1)
    angle = torch.tensor([0.0, 0.4, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h: turned(F.normalize(h, dim=1, eps=1e-6), angle, tangent), feature)


def test_the_mean_gradient_of_samples_is_the_gradient_of_the_mean():
    # E (a.z)^2 = c (a.mu)^2 + (1 - E w^2) / (d - 1) with c = E w^2 - (1 - E w^2) / (d - 1)
    count, kappa = 200_000, 2.0
    mean = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64).repeat(count, 1).requires_grad_()
    weight = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
    z = von_mises_fisher(3, kappa)(mean, torch.arange(count), **WHEN).sample_BF
    (gradient,) = torch.autograd.grad(((z @ weight) ** 2).sum(), mean)
    along = 1 - 2 * bessel_ratio(3, kappa) / kappa
    dot = mean[0].detach() @ weight
    wanted = 2 * (along - (1 - along) / 2) * dot * (weight - dot * mean[0].detach())
    assert ((gradient.mean(0) - wanted).abs() < 4 * gradient.std(0) / math.sqrt(count) + 1e-9).all()
    assert gradient.std(0).max() < 10  # as bounded as the rotation is


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-6, 1e15, 1e30])
def test_gradients_are_finite_for_any_length_of_feature(name, size):
    feature = torch.full((4, 6), size, requires_grad=True)
    drawn = HEADS[name](6)(feature, torch.arange(4), **WHEN)
    drawn.sample_BF.sum().backward()
    assert torch.isfinite(drawn.sample_BF).all()
    assert torch.isfinite(feature.grad).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fixed(0.0), "sigma"),
        (lambda: fixed(math.nan), "sigma"),
        (lambda: fixed(math.inf), "sigma"),
        (lambda: bounded(4, 0.0, 1.0), "low"),
        (lambda: bounded(4, 1.0, 1.0), "low"),
        (lambda: bounded(4, 0.1, math.inf), "high"),
        (lambda: von_mises_fisher(1, 1.0), "2 dimensions"),
        (lambda: von_mises_fisher(4, 0.0), "kappa"),
        (lambda: von_mises_fisher(4, math.nan), "kappa"),
        (lambda: von_mises_fisher(4, 1e13), "kappa"),
        (lambda: von_mises_fisher(4, 1.0)(torch.ones(2, 5), torch.arange(2), **WHEN), "built for 4"),
        (lambda: fixed(1.0)(torch.ones(4, 5), torch.arange(2), **WHEN), "view by view"),
        (lambda: Decoder(0, 32), "features"),
        (lambda: Decoder(4, 0), "size"),
        (lambda: Decoder(4, 32, channels=0), "channels"),
        (lambda: Decoder(4, 32, width=0), "width"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_the_table_is_no_part_of_a_checkpoint():
    assert not von_mises_fisher(4, 1.0).state_dict()


# -------------------------------------------------------------------------------------------------------------- decoder


@pytest.mark.parametrize(
    ("size", "start", "blocks"),
    [(8, 1, 3), (24, 3, 3), (30, 4, 3), (32, 4, 3), (64, 4, 4), (96, 3, 5), (100, 4, 5), (224, 7, 5)],
)
def test_pixels_come_in_the_size_asked_for_and_channels_last(size, start, blocks):
    decoder = Decoder(6, size, width=16)
    assert (decoder.start, len(decoder.blocks)) == (start, blocks)
    out = decoder(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (2, 3, size, size)
    assert out.is_contiguous(memory_format=torch.channels_last)
    out.square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())


@pytest.mark.parametrize(
    ("features", "size", "wanted"), [(512, 32, 2_790_691), (512, 64, 2_798_483), (2048, 224, 26_401_739)]
)
def test_the_decoder_has_as_many_parameters_as_its_docstring_says(features, size, wanted):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in Decoder(features, size).parameters()) == wanted


def test_channels_and_width_are_free():
    assert Decoder(5, 10, channels=1, width=3)(torch.ones(2, 5)).shape == (2, 1, 10, 10)


@pytest.mark.parametrize("size", [8, 24])
def test_the_decoder_learns_a_handful_of_images_by_heart(size):
    torch.manual_seed(0)
    decoder, code = Decoder(8, size, width=64), torch.randn(4, 8)
    image = F.interpolate(torch.rand(4, 3, 4, 4), size=size, mode="bilinear")
    optimiser = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = F.mse_loss(decoder(code), image)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[50] < losses[0] / 10
    assert losses[-1] < float(image.var()) / 10  # one grey for all already has the variance
