import pytest

from viewmill.pipeline.recipe import RECIPES, Blur, CentreCrop, Jitter, Patch, RandomCrop, Recipe, View
from viewmill.pipeline.recipe_file import recipe_of

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
        ("[[views]]\njitter = {brightness = 1}", "missing 3 required"),
        ("[[views]]\ncrop = {scale = [0.5, 0.2]}", "scale must rise"),
        ("[[views]]\ncrop = 3", "crop must be a table"),
        ("[[views]]\nsize = 'large'", "size"),
        ("views = [3]", "views must be a table"),
        ("[[views", "mine.toml"),
    ],
)
def test_a_file_that_says_nothing_sensible_is_refused_by_its_name(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        recipe_of(str(path), 96)
    assert "mine.toml" in str(caught.value)


def test_a_misspelt_name_is_told_the_nearest():
    with pytest.raises(ValueError, match="did you mean simclr"):
        recipe_of("simclrr", 96)
    with pytest.raises(FileNotFoundError):
        recipe_of("nowhere.toml", 96)
