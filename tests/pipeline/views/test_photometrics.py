import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from viewmill.pipeline.threads import Scratch
from viewmill.pipeline.views import photometrics_device, photometrics_host, plan, recipe
from viewmill.pipeline.views.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION
from viewmill.pipeline.views.recipe import RECIPES, Blur, CentreCrop, Jitter, Recipe, View

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


def on_device(images: torch.Tensor, made: plan.ViewPlan, members: tuple[int, ...] = (0,)) -> torch.Tensor:
    space = made.recipe.views[members[0]].space
    return photometrics_device.apply_photometrics(images, photometrics_device.draws(made, members), space)


def on_host(
    images: torch.Tensor, made: plan.ViewPlan, members: tuple[int, ...] = (0,), dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    count, side = images.shape[:2]
    assert made.recipe.groups == (members,)
    out = torch.full((count, side, side, 3), torch.nan, dtype=dtype).permute(0, 3, 1, 2)
    crops_VBSS3 = images.numpy().reshape(len(members), -1, side, side, 3)
    photometrics_host.developer((crops_VBSS3,), made, (out,), Scratch())(0, crops_VBSS3.shape[1])
    return out


@pytest.fixture(params=[on_device, on_host])
def apply_photometrics(request):
    """Each placement in turn."""
    return request.param


def float_images(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def test_a_neutral_plan_only_scales_to_the_unit_interval(apply_photometrics):
    images = crops(4)
    assert (apply_photometrics(images, neutral(4)) - float_images(images)).abs().max() < 2e-6


@pytest.mark.parametrize(
    ("field", "operation", "values"),
    [
        ("brightness_VB", BRIGHTNESS, (0.6, 0.9, 1.1, 1.4)),
        ("contrast_VB", CONTRAST, (0.6, 0.9, 1.1, 1.4)),
        ("saturation_VB", SATURATION, (0.0, 0.6, 1.2, 1.4)),
        ("hue_VB", HUE, (-0.5, -0.1, 0.05, 0.3)),
    ],
)
def test_each_colour_operation_is_torchvisions(field, operation, values, apply_photometrics):
    images = crops(4)
    expected = torch.stack([TORCHVISION[operation](x, v) for x, v in zip(float_images(images), values, strict=True)])
    assert (apply_photometrics(images, neutral(4, **{field: values})) - expected).abs().max() < 1e-5


def test_jitter_in_every_order_lies_a_tenth_of_a_level_from_torchvision(apply_photometrics):
    images, rng = crops(24), np.random.default_rng(0)
    factors = {name: rng.uniform(0.6, 1.4, 24) for name in ("brightness_VB", "contrast_VB", "saturation_VB")}
    factors["hue_VB"] = rng.uniform(-0.1, 0.1, 24)
    made = neutral(24, order_VB=np.arange(24), **factors)
    expected = float_images(images)
    for b, sequence in enumerate(plan.ORDERS):
        for operation in sequence:
            field = ("brightness_VB", "contrast_VB", "saturation_VB", "hue_VB")[operation]
            expected[b] = TORCHVISION[int(operation)](expected[b], float(made._asdict()[field][0, b]))
    levels = (apply_photometrics(images, made) - expected).abs() * 255
    # what is left comes of clamping once a map instead of once an operation
    assert levels.mean() < 0.5
    assert levels.flatten().quantile(0.95) < 2.0


def test_greyscale_comes_after_the_jitter_and_is_torchvisions(apply_photometrics):
    images = crops(3)
    made = neutral(3, grey_VB=(True, False, True), brightness_VB=(0.7, 0.7, 0.9))
    expected = torch.stack([tv.adjust_brightness(x, f) for x, f in zip(float_images(images), (0.7, 0.7, 0.9), strict=True)])
    for b in (0, 2):
        expected[b] = tv.rgb_to_grayscale(expected[b], num_output_channels=3)
    assert (apply_photometrics(images, made) - expected).abs().max() < 1e-4


def test_blur_is_torchvisions_and_touches_only_its_views(apply_photometrics):
    images, sigmas = crops(4), (0.0, 0.1, 1.0, 2.0)
    expected = float_images(images)
    reach = max(1, round(0.1 * SIDE) // 2)
    for b in (1, 2, 3):
        expected[b] = tv.gaussian_blur(expected[b], [2 * reach + 1] * 2, [sigmas[b]] * 2)
    assert (apply_photometrics(images, neutral(4, sigma_VB=sigmas)) - expected).abs().max() < 1e-5


def test_solarise_inverts_what_is_bright(apply_photometrics):
    images = crops(2)
    expected = float_images(images)
    settled = (expected - 128 / 255).abs() > 1e-5  # on the threshold itself the last bit decides
    expected[1] = tv.solarize(expected[1], 128 / 255)
    assert ((apply_photometrics(images, neutral(2, solarise_VB=(False, True))) - expected).abs() * settled).max() < 2e-6
    assert settled.float().mean() > 0.99


def test_views_are_normalised_and_channels_last(apply_photometrics):
    view = View(size=SIDE, crop=CentreCrop(1.0), flip=0)
    sizes = {"height_B": np.full(2, SIDE), "width_B": np.full(2, SIDE)}
    made = plan.draw(Recipe((view, view)), seed=0, epoch=0, row_B=np.arange(2), **sizes)
    images = crops(4)
    developed = apply_photometrics(images, made, (0, 1))
    expected = tv.normalize(float_images(images), list(view.mean), list(view.std))
    assert developed.is_contiguous(memory_format=torch.channels_last)
    assert (developed - expected).abs().max() < 1e-5


def test_a_view_is_the_same_alone_and_in_a_batch(apply_photometrics):
    view = View(size=SIDE, jitter=Jitter(0.4, 0.4, 0.4, 0.1), grey=0.5, blur=Blur(), solarise=0.5)
    images = crops(6)
    rows, size = np.arange(6), np.full(6, SIDE)
    together = apply_photometrics(
        images, plan.draw(Recipe((view,)), seed=0, epoch=0, row_B=rows, height_B=size, width_B=size)
    )
    for b in rows:
        one = plan.draw(Recipe((view,)), seed=0, epoch=0, row_B=rows[b : b + 1], height_B=size[:1], width_B=size[:1])
        assert (apply_photometrics(images[b : b + 1], one)[0] - together[b]).abs().max() < 1e-5


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [32, 96])
def test_both_placements_make_the_same_views(name, size):
    """Apart by float32's rounding, and by a hundredth of a level where the host's blur ends 4 sigma from its middle."""
    whole = RECIPES[name](size)
    for members in whole.groups:
        made_of_one = Recipe(tuple(whole.views[v] for v in members))
        side, count = made_of_one.views[0].size, 12
        images = torch.nn.functional.interpolate(crops(count * len(members)).permute(0, 3, 1, 2), size=side)
        images = images.permute(0, 2, 3, 1).contiguous()
        sizes = {"height_B": np.full(count, SIDE), "width_B": np.full(count, SIDE)}
        made = plan.draw(made_of_one, seed=1, epoch=2, row_B=np.arange(count), **sizes)
        every = tuple(range(len(members)))
        one, other = on_device(images, made, every), on_host(images, made, every)
        view = made_of_one.views[0]
        units = (one - other).abs() * torch.tensor(view.std)[:, None, None]
        if view.space != "rgb":
            assert units.max() < 0.02  # of 100 or 255: the host takes roots from a table
        else:
            # on the threshold of a solarised view the last bit decides between x and 1 - x, which lie a level apart
            assert 255 * units.max() < (1.1 if any(view.solarise for view in made_of_one.views) else 0.05)
            assert 255 * units.mean() < 0.001


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_views_are_the_float_views_rounded_to_the_nearest_even(dtype):
    values = torch.arange(SIDE * SIDE * 3, dtype=torch.int32).mul(7919).remainder(256).to(torch.uint8)
    images = values.reshape(1, SIDE, SIDE, 3)
    sizes = {"height_B": np.full(1, SIDE), "width_B": np.full(1, SIDE)}
    for std in (1.0, 1e-3, 3e4, 3e6, 4e8):  # the last are where float16 has no exponent left, or nothing at all
        view = View(size=SIDE, flip=0, mean=(0.5, 0.001, 0.499))
        object.__setattr__(view, "std", (std, std * 1.37, std / 3))  # past what a recipe may ask for
        made = plan.draw(Recipe((view,)), seed=0, epoch=0, row_B=np.arange(1), **sizes)
        assert torch.equal(on_host(images, made, dtype=dtype), on_host(images, made).to(dtype))


# From scikit-image 0.25: rgb2lab and rgb2ycbcr of the primaries, white, black and a dark grey.
KNOWN = {
    "lab": {
        (255, 0, 0): (53.2406, 80.0923, 67.2028),
        (0, 255, 0): (87.7351, -86.1829, 83.1866),
        (0, 0, 255): (32.2957, 79.1875, -107.8617),
        (255, 255, 255): (100.0, -0.0025, 0.0047),
        (0, 0, 0): (0.0, 0.0, 0.0),
    },
    "ycbcr": {
        (255, 0, 0): (81.481, 90.203, 240.0),
        (0, 255, 0): (144.553, 53.797, 34.214),
        (0, 0, 255): (40.966, 240.0, 109.786),
        (255, 255, 255): (235.0, 128.0, 128.0),
        (0, 0, 0): (16.0, 128.0, 128.0),
    },
}


@pytest.mark.parametrize("space", KNOWN)
def test_spaces_are_those_of_scikit_image(space, apply_photometrics):
    view = View(size=SIDE, flip=0, space=space, **PLAIN)
    pixels = torch.tensor(list(KNOWN[space]), dtype=torch.uint8)
    images = pixels[:, None, None].expand(-1, SIDE, SIDE, -1).contiguous()
    sizes = {"height_B": np.full(len(pixels), SIDE), "width_B": np.full(len(pixels), SIDE)}
    made = plan.draw(Recipe((view,)), seed=0, epoch=0, row_B=np.arange(len(pixels)), **sizes)
    found = apply_photometrics(images, made)[:, :, 3, 5]
    assert (found - torch.tensor(list(KNOWN[space].values()))).abs().max() < 0.01


def test_the_halves_of_cmc_have_the_stated_means():
    assert recipe.lab(32).tensors == ((0, 0, 1), (0, 1, 2))
    assert recipe.lab(32).views[0].mean == (50.0, 6.025, -6.6895)
