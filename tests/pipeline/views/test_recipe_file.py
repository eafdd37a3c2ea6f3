import json

import pytest

from viewmill.pipeline.views.recipe import RECIPES, Blur, CentreCrop, Jitter, Patch, RandomCrop, Recipe, View
from viewmill.pipeline.views.recipe_file import data_of, recipe_from, recipe_of

MINE = """
[[views]]
count = 2
crop = {scale = [0.3, 1.0]}
jitter = {brightness = 0.8, contrast = 0.8, saturation = 0.8, hue = 0.2, probability = 0.8}
blur = {sigma = [0.1, 1.0]}
grey = 0.1

[[views]]
size = 48
crop = {share = 0.9}
flip = 0.0

[[views]]
size = 16
crop = {slot = 3}
"""


def test_a_file_says_what_the_dataclasses_say(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    large = View(
        96, crop=RandomCrop((0.3, 1.0)), jitter=Jitter(0.8, 0.8, 0.8, 0.2, 0.8), blur=Blur(sigma=(0.1, 1.0)), grey=0.1
    )
    expected = Recipe((large, large, View(48, crop=CentreCrop(0.9), flip=0.0), View(16, crop=Patch(3))))
    assert recipe_of(str(tmp_path / "mine.toml"), 96) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_names_are_those_of_the_table(name):
    assert recipe_of(name, 64) == RECIPES[name](64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("views = 3", "a list of"),
        ("", "a list of"),
        ("[[views]]\ncolour = 1", "has no setting 'colour'"),
        ("[[views]]\njitter = {brightnes = 1}", "jitter has no setting 'brightnes'"),
        ("[[views]]\njitter = {brightness = 1}", r"jitter.contrast is missing"),
        ("[[views]]\ncrop = {scale = [0.5, 0.2]}", "scale must rise"),
        ("[[views]]\ncrop = 3", "crop must be a table"),
        ("[[views]]\nsize = 'large'", "size"),
        ("views = [3]", r"views\[0\] must be a table"),
        ("[[views", "mine.toml"),
        ("[[views]]\nmean = [123.7, 116.3, 103.5]", "mean of rgb must lie in 0 to 1.*divide by 255"),
        ("[[views]]\nstd = [58.4, 57.1, 57.4]", "std of rgb .*divide by 255"),
        ("[[views]]\nspace = 'lab'\nmean = [500, 0, 0]", "mean of lab must lie in -128 to 128"),
        ("[[views]]\nmean = [0.5, 0.5]", r"views\[0\].mean must be a list of 3 numbers"),
        ("[[views]]\nstd = [0.5, 0.5, 0.5, 0.5]", r"views\[0\].std must be a list of 3 numbers"),
        ("[[views]]\nstd = [0.5, 0.5, -0.5]", r"views\[0\].std\[2\] must be above 0"),
        ("[[views]]\n[[views]]\ngrey = nan", r"views\[1\].grey must be a finite number"),
        ("[[views]]\nflip = true", r"views\[0\].flip must be a number in 0 to 1, got true"),
        ("[[views]]\nflip = 5", r"views\[0\].flip must lie in 0 to 1, got 5"),
        ("[[views]]\nblur = {probability = 5}", r"views\[0\].blur.probability must lie in 0 to 1, got 5"),
        ("[[views]]\nblur = {sigma = [2.0, 0.1]}", "sigma must rise above 0"),
        ("[[views]]\nblur = {sigma = 0.5}", r"blur.sigma must be a list of 2 numbers"),
        ("[[views]]\nblur = {sigma = [0.1, inf]}", r"blur.sigma\[1\] must be a finite number"),
        ("[[views]]\ncrop = {scale = [0.3]}", r"crop.scale must be a list of 2 numbers"),
        ("[[views]]\ncrop = {ratio = [0.0, 1.0]}", r"crop.ratio\[0\] must lie in 0.01 to 100"),
        ("[[views]]\ncrop = {slot = 9}", "a slot must lie in 0 to 8"),
        ("[[views]]\ncrop = {slot = 0, cells = 1000000}", "crop.cells must lie in 1 to 16"),
        ("[[views]]\ncount = -2", r"views\[0\].count must lie in 1 to 64, got -2"),
        ("[[views]]\ncount = 1000000000", r"views\[0\].count must lie in 1 to 64"),
        ("[[views]]\ncount = 40\n[[views]]\ncount = 40", "a recipe has 1 to 64 views, got 80"),
        ("[[views]]\nsize = 32.0", r"views\[0\].size must be a whole number in 1 to 4096"),
        ("[[views]]\nsize = 100000", r"views\[0\].size must lie in 1 to 4096"),
        ("[[views]]\nspace = 'bgr'", "must be one of rgb, lab, ycbcr, got 'bgr'"),
        ("[[views]]\nsplit = [1, 1]", "split must share out 3 channels"),
        ("[[views]]\nsplit = [-1, 4]", r"split\[0\] must lie in 1 to 3"),
        ("[[views]]\ngrey = '0.1'", r"views\[0\].grey must be a number in 0 to 1, got '0.1'"),
        ("[[views]]\njitter = {brightness = -1, contrast = 1, saturation = 1, hue = 0}", "brightness must lie in 0 to 10"),
        ("[[views]]\njitter = {brightness = 1, contrast = 1, saturation = 1, hue = 0.6}", "hue must lie in 0 to 0.5"),
        ("[[view]]", "has no setting 'view': did you mean views"),
    ],
)
def test_a_file_that_says_nothing_sensible_is_refused_by_its_name(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        recipe_of(str(path), 96)
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_files_of_any_editor_are_read(tmp_path, before, ends):
    (tmp_path / "mine.toml").write_bytes(before + MINE.encode().replace(b"\n", ends))
    assert len(recipe_of(str(tmp_path / "mine.toml"), 96).views) == 4


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_written_as_data_and_read_again(name):
    recipe = RECIPES[name](224)
    assert recipe_from(json.loads(json.dumps(data_of(recipe))), where="config.json") == recipe


def test_a_misspelt_name_is_told_the_nearest():
    with pytest.raises(ValueError, match="did you mean simclr"):
        recipe_of("simclrr", 96)
    with pytest.raises(FileNotFoundError):
        recipe_of("nowhere.toml", 96)
