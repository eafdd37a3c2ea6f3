import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from viewmill.pipeline import photometric, plan
from viewmill.pipeline.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION
from viewmill.pipeline.recipe import Blur, CentreCrop, Jitter, Recipe, View

SIDE = 48
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
TORCHVISION = {
    BRIGHTNESS: tv.adjust_brightness,
    CONTRAST: tv.adjust_contrast,
    SATURATION: tv.adjust_saturation,
    HUE: tv.adjust_hue,
}


def crops(count: int, seed: int = 0) -> torch.Tensor:
    """Smooth colour fields with some texture: nearer to photographs than noise is."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)
    noisy = (smooth + 0.05 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
    return (noisy * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def neutral(count: int, **changes) -> plan.ViewPlan:
    view = View(size=SIDE, crop=CentreCrop(1.0), flip=0, jitter=Jitter(0.4, 0.4, 0.4, 0.1), **PLAIN)
    sizes = {"height_B": np.full(count, SIDE), "width_B": np.full(count, SIDE)}
    made = plan.draw(Recipe((view,)), seed=0, epoch=0, row_B=np.arange(count), **sizes)
    ones, zeros = np.ones((1, count), np.float32), np.zeros((1, count), np.float32)
    still = {"brightness_VB": ones, "contrast_VB": ones, "saturation_VB": ones, "hue_VB": zeros}
    return made._replace(
        **(still | {name: np.array([value], made._asdict()[name].dtype) for name, value in changes.items()})
    )


def develop(images: torch.Tensor, made: plan.ViewPlan) -> torch.Tensor:
    return photometric.develop(images, photometric.draws(made, (0,)))


def float_images(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def test_a_neutral_plan_only_scales_to_the_unit_interval():
    images = crops(4)
    assert (develop(images, neutral(4)) - float_images(images)).abs().max() < 2e-6


@pytest.mark.parametrize(
    ("field", "operation", "values"),
    [
        ("brightness_VB", BRIGHTNESS, (0.6, 0.9, 1.1, 1.4)),
        ("contrast_VB", CONTRAST, (0.6, 0.9, 1.1, 1.4)),
        ("saturation_VB", SATURATION, (0.0, 0.6, 1.2, 1.4)),
        ("hue_VB", HUE, (-0.5, -0.1, 0.05, 0.3)),
    ],
)
def test_each_colour_operation_is_torchvisions(field, operation, values):
    images = crops(4)
    expected = torch.stack([TORCHVISION[operation](x, v) for x, v in zip(float_images(images), values, strict=True)])
    assert (develop(images, neutral(4, **{field: values})) - expected).abs().max() < 1e-5


def test_jitter_in_every_order_lies_a_tenth_of_a_level_from_torchvision():
    images, rng = crops(24), np.random.default_rng(0)
    factors = {name: rng.uniform(0.6, 1.4, 24) for name in ("brightness_VB", "contrast_VB", "saturation_VB")}
    factors["hue_VB"] = rng.uniform(-0.1, 0.1, 24)
    made = neutral(24, order_VB=np.arange(24), **factors)
    expected = float_images(images)
    for b, sequence in enumerate(plan.ORDERS):
        for operation in sequence:
            field = ("brightness_VB", "contrast_VB", "saturation_VB", "hue_VB")[operation]
            expected[b] = TORCHVISION[int(operation)](expected[b], float(made._asdict()[field][0, b]))
    levels = (develop(images, made) - expected).abs() * 255
    # what is left comes of clamping once a map instead of once an operation
    assert levels.mean() < 0.5
    assert levels.flatten().quantile(0.95) < 2.0


def test_greyscale_comes_after_the_jitter_and_is_torchvisions():
    images = crops(3)
    made = neutral(3, grey_VB=(True, False, True), brightness_VB=(0.7, 0.7, 0.9))
    expected = torch.stack([tv.adjust_brightness(x, f) for x, f in zip(float_images(images), (0.7, 0.7, 0.9), strict=True)])
    for b in (0, 2):
        expected[b] = tv.rgb_to_grayscale(expected[b], num_output_channels=3)
    assert (develop(images, made) - expected).abs().max() < 1e-4


def test_blur_is_torchvisions_and_touches_only_its_views():
    images, sigmas = crops(4), (0.0, 0.1, 1.0, 2.0)
    expected = float_images(images)
    reach = max(1, round(0.1 * SIDE) // 2)
    for b in (1, 2, 3):
        expected[b] = tv.gaussian_blur(expected[b], [2 * reach + 1] * 2, [sigmas[b]] * 2)
    assert (develop(images, neutral(4, sigma_VB=sigmas)) - expected).abs().max() < 1e-5


def test_solarise_inverts_what_is_bright():
    images = crops(2)
    expected = float_images(images)
    settled = (expected - 128 / 255).abs() > 1e-5  # on the threshold itself the last bit decides
    expected[1] = tv.solarize(expected[1], 128 / 255)
    assert ((develop(images, neutral(2, solarise_VB=(False, True))) - expected).abs() * settled).max() < 2e-6
    assert settled.float().mean() > 0.99


def test_views_are_normalised_and_channels_last():
    view = View(size=SIDE, crop=CentreCrop(1.0), flip=0)
    sizes = {"height_B": np.full(2, SIDE), "width_B": np.full(2, SIDE)}
    made = plan.draw(Recipe((view, view)), seed=0, epoch=0, row_B=np.arange(2), **sizes)
    images = crops(4)
    developed = photometric.develop(images, photometric.draws(made, (0, 1)))
    expected = tv.normalize(float_images(images), list(view.mean), list(view.std))
    assert developed.is_contiguous(memory_format=torch.channels_last)
    assert (developed - expected).abs().max() < 1e-5


def test_a_view_is_the_same_alone_and_in_a_batch():
    view = View(size=SIDE, jitter=Jitter(0.4, 0.4, 0.4, 0.1), grey=0.5, blur=Blur(), solarise=0.5)
    images = crops(6)
    rows, size = np.arange(6), np.full(6, SIDE)
    together = develop(images, plan.draw(Recipe((view,)), seed=0, epoch=0, row_B=rows, height_B=size, width_B=size))
    for b in rows:
        one = plan.draw(Recipe((view,)), seed=0, epoch=0, row_B=rows[b : b + 1], height_B=size[:1], width_B=size[:1])
        assert (develop(images[b : b + 1], one)[0] - together[b]).abs().max() < 1e-5
