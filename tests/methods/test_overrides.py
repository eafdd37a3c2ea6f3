"""Settings by name: what can be set is set, at any depth, and what cannot is refused with the nearest that can."""

import re

import pytest

from viewmill.methods.overrides import changed, choices, method_named, summary, values
from viewmill.methods.parts import NCE, Anneal, Nearest, Neighbours, Own, Ring
from viewmill.methods.table import METHODS
from viewmill.methods.terms import BoundedGaussian, FixedGaussian


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_every_method_can_be_set_to_what_it_is(name):
    method = METHODS[name]
    listed = {key: value for key, value in values(method) if value is not None}
    assert changed(method, [f"{key}={value}" for key, value in listed.items()]) == method
    assert listed
    assert len(summary(method)) == 6


@pytest.mark.parametrize(
    ("name", "assignment", "found"),
    [
        ("ring", "region.outer=0.3", lambda m: m.region == Ring(0.01, 0.3)),
        ("ring", "region.relative=true", lambda m: m.region.relative is True),
        ("ring", "region.anneal.over=20", lambda m: m.region.anneal == Anneal("linear", over=20.0)),
        ("ring", "region.anneal.kind=adaptive", lambda m: m.region.anneal.kind == "adaptive"),
        ("ring", "memory.negatives=99", lambda m: m.memory.negatives == 99),
        ("ir", "region.shared=False", lambda m: m.region.shared is False),
        ("cmc", "contrast.1.weight=0.25", lambda m: m.contrast[1].weight == 0.25),
        ("superinfo-simclr", "terms.0.warmup.stop=0.5", lambda m: m.terms[0].warmup.stop == 0.5),
        ("superinfo-moco", "head.sigma=0.3", lambda m: m.head.sigma == 0.3),
        ("simclr", "head.sigma=0.3", lambda m: m.head == FixedGaussian(0.3)),
        ("moco-v2", "target.value=0.99", lambda m: m.target.value == 0.99),
        ("superinfo-simclr", "head=bounded", lambda m: m.head == BoundedGaussian()),
        ("simclr-noise", "head=none", lambda m: m.head is None),
        ("simclr", "region=ring", lambda m: m.region == Ring()),
        ("cmc", "bound=nce", lambda m: m.bound == NCE()),
        ("la", "positives=own", lambda m: m.positives == Own()),
        ("la", "warm_start=3", lambda m: m.warm_start == 3.0),
    ],
)
def test_a_setting_reaches_its_part(name, assignment, found):
    assert found(changed(METHODS[name], [assignment]))


def test_settings_are_taken_together_whatever_their_order():
    for order in (["region.inner=0.2", "region.outer=0.5"], ["region.outer=0.5", "region.inner=0.2"]):
        assert changed(METHODS["ring"], order).region == Ring(0.2, 0.5)
    assert changed(METHODS["ring"], ["region.outer=0.3", "region.outer=0.5"]).region.outer == 0.5
    assert changed(METHODS["ring"], ["region.count=9", "region=nearest"]).region == Nearest(9)
    both = changed(METHODS["ir"], ["positives=neighbours", "positives.numerator=mean", "region=ring"])
    assert (both.positives, both.region) == (Neighbours("mean"), Ring())
    ceb = METHODS["superinfo-simclr-ceb"]
    kl = changed(ceb, ["terms.0.estimator=conditional-kl", "head=bounded", "head.low=0.2"])
    assert kl.head == BoundedGaussian(0.2, 1.0)


def test_a_method_without_a_contrast_has_no_settings_of_one():
    assert {name.split(".")[0] for name, _ in values(METHODS["byol"])} == {"target", "head"}
    with pytest.raises(ValueError, match=r"no setting 'bound'"):
        changed(METHODS["byol"], ["bound=nce"])
    with pytest.raises(ValueError, match=r"no setting 'bound'"):
        changed(METHODS["vicreg"], ["bound.temperature=0.3"])


def test_what_can_be_set_besides_is_listed():
    listed = dict(choices(METHODS["ring"]))
    assert listed["region"] == "everything or ring or nearest or same-cluster"
    assert listed["region.anneal.kind"] == "(linear)"
    assert not {"head", "head.sigma"} & set(dict(choices(METHODS["pirl"])))
    assert dict(choices(METHODS["simclr"]))["bound"] == "info-nce or decoupled or hard-negatives"
    assert list(dict(choices(METHODS["byol"]))) == ["head", "head.sigma"]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("region.outr=0.3", "no setting 'region.outr': did you mean region.outer?"),
        ("region=0.3", "--set region takes everything, ring, nearest, same-cluster, or a setting of it as region.NAME"),
        ("recipe=simclr", "no setting 'recipe'"),
        ("source=here", "no setting 'source'"),
        ("contrast.7.weight=1", "no setting 'contrast.7': did you mean contrast.0.weight?"),
        ("contrast.0=1", "no setting 'contrast.0'"),
        ("bound.temperature.x=1", "no setting 'bound.temperature.x'"),
        ("zzz=1", "it has contrast.0.weight"),
        ("contrast.0.key=1", "no setting 'contrast.0.key'"),
        ("contrast.0.weight=nan", "weight must be above 0"),
        ("region.anneal.start=3", "above 0 and at most 1, got 3"),
        ("region.anneal.start=nan", "above 0 and at most 1, got nan"),
        ("region.anneal.start=0.005", "must start beyond the inner one at 0.01, got 0.005"),
        ("region.anneal.kind=sudden", "exponential-release, adaptive or adaptive-release, got 'sudden'"),
        ("region.anneal=linear", "no setting 'region.anneal'"),
        ("target.value=0.9", "nothing asks for a momentum encoder"),
        ("bound=nce", "everything as its region"),
        ("positives.numerator=mean", "no setting 'positives.numerator'"),
        ("warm_start=nan", "warm_start must be 0 or more"),
        ("region.=ring", "no setting 'region.'"),
        ("region..outer=.1", "no setting 'region..outer'"),
        ("region.outer", "--set takes name=value, got 'region.outer'"),
        ("memory.negatives=1.5", "takes a value like 4095, got '1.5'"),
        ("memory.exact=maybe", "takes true or false, got 'maybe'"),
        ("bound.temperature=-1", "temperature must be above 0"),
        ("bound.temperature=nan", "temperature must be above 0"),
        ("memory.negatives=0", "negatives must be at least 1"),
        ("memory.negatives=99999999999999", "--set memory.negatives must lie in -1e+09 to 1e+09"),
        ("bound.temperature=1e38", "--set bound.temperature must lie in -1e+09 to 1e+09, got 1e+38"),
        ("contrast.0.weight=inf", "--set contrast.0.weight must lie in -1e+09 to 1e+09, got inf"),
    ],
)
def test_what_cannot_be_set_is_refused(assignment, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        changed(METHODS["ring"], [assignment])


def test_an_unknown_method_is_refused_with_the_nearest():
    assert method_named("ring") is METHODS["ring"]
    with pytest.raises(ValueError, match=r"no method is called 'moco-v3': did you mean moco-v2 or moco-v1"):
        method_named("moco-v3")
    with pytest.raises(ValueError, match=r"`viewmill methods` lists them"):
        method_named("xyzzy-17")
