"""Schedules at their first, last and later steps, in the unit they name; the adaptive one on losses that fall and rise."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewmill.methods.schedules import DELTA, REMEMBERED, WINDOW, Moment, Schedule, adapt_


def value(schedule, step, steps_per_epoch=1, steps=1000):
    return schedule.at(Moment(step, steps, steps_per_epoch))


def test_a_line_starts_at_the_first_step_and_ends_at_the_last_of_its_length():
    line = Schedule("linear", over=50, unit="steps")
    assert [value(line, step) for step in (0, 49, 50, 999)] == pytest.approx([1, 0.1, 0.1, 0.1])
    assert value(line, 24) == pytest.approx(1 - 0.9 * 24 / 49)


def test_epochs_are_as_many_steps_as_an_epoch_has():
    by_epochs, by_steps = Schedule("linear", over=5), Schedule("linear", over=50, unit="steps")
    assert [value(by_epochs, step, 10) for step in range(60)] == [value(by_steps, step) for step in range(60)]


def test_steps_are_ten_levels_of_equal_length_and_the_last_one_stays():
    stairs = Schedule("step", over=95, unit="steps")
    seen = [value(stairs, step) for step in range(120)]
    assert sorted({round(x, 9) for x in seen}, reverse=True) == pytest.approx([1 - 0.1 * level for level in range(10)])
    assert seen[0] == 1
    assert seen[94:] == pytest.approx([0.1] * 26)
    assert seen == sorted(seen, reverse=True)


def test_exponential_decay_is_that_of_the_release_in_the_unit_that_is_declared():
    for unit, per_epoch in (("steps", 10), ("epochs", 1), ("epochs", 10)):
        decay = Schedule("exponential", unit=unit)
        steps = [t * (per_epoch if unit == "epochs" else 1) for t in (0, 10, 23, 46)]
        assert [value(decay, step, per_epoch) for step in steps] == pytest.approx([1, 0.431, 0.190, 0.109], abs=5e-4)


@pytest.mark.parametrize(
    ("kind", "over", "released"),
    [
        ("linear", 50, {0: 1.0, 1: 0.9816326530612246, 24: 0.5591836734693878, 49: 0.1, 50: 0.1, 99: 0.1}),
        ("step", 50, {0: 1.0, 8: 0.9, 10: 0.8, 19: 0.7, 20: 0.6, 45: 0.1, 99: 0.1}),
        ("step", 100, {0: 1.0, 9: 1.0, 10: 0.9, 19: 0.9, 20: 0.8, 89: 0.2, 90: 0.1, 99: 0.1}),
        (
            "exponential-release",
            30,
            {0: 1.0, 1: 0.9143536762323635, 10: 0.43109149705429817, 29: 0.1495208980507665, 30: 0.1},
        ),
    ],
)
def test_values_are_those_of_the_release(kind, over, released):
    # src/utils/policy.py of mhw32/contrastive-ring-public: arithmetic of its classes, evaluated for max_anneal_step = over
    schedule = Schedule(kind, over=over, unit="steps")
    assert {step: value(schedule, step) for step in released} == pytest.approx(released, abs=1e-12)


def test_the_exponential_of_the_release_ends_at_once_and_ours_never_does():
    ours, theirs = (Schedule(kind, over=30, unit="steps") for kind in ("exponential", "exponential-release"))
    assert all(value(ours, step) == value(theirs, step) for step in range(30))
    assert value(ours, 30) == pytest.approx(0.1448083615)
    assert value(ours, 31) > 0.1
    assert value(theirs, 30) == value(theirs, 31) == 0.1
    by_epochs = Schedule("exponential-release", over=3)
    assert [value(by_epochs, step, 10) == 0.1 for step in (29, 30)] == [False, True]


def test_a_constant_is_what_it_stops_at():
    assert value(Schedule("constant", stop=0.3), 0) == value(Schedule("constant", stop=0.3), 999) == 0.3


@given(
    kind=st.sampled_from(["constant", "linear", "step", "exponential", "exponential-release"]),
    start=st.floats(0, 1),
    stop=st.floats(0, 1),
    over=st.floats(0.1, 500),
    unit=st.sampled_from(["epochs", "steps"]),
    step=st.integers(0, 10**6),
)
def test_no_schedule_leaves_the_range_between_its_ends(kind, start, stop, over, unit, step):
    found = value(Schedule(kind, start, stop, over, unit), step, steps_per_epoch=7)
    assert min(start, stop) - 1e-12 <= found <= max(start, stop) + 1e-12


def test_the_adaptive_edge_comes_in_while_the_loss_falls_and_goes_back_while_it_rises():
    schedule, state = Schedule("adaptive", start=1.0, stop=0.1), [1.0, *[0.0] * (REMEMBERED - 1)]
    for reading in range(5 * WINDOW):
        adapt_(state, 10 - 0.1 * reading, schedule)
    assert state[0] == pytest.approx(1 - 4 * DELTA)  # after each window but the first
    for reading in range(3 * WINDOW):
        adapt_(state, 10 + reading, schedule)
    assert state[0] == pytest.approx(1 - DELTA)
    for _ in range(200 * WINDOW):
        adapt_(state, 10 - state[1], schedule)
    assert state[0] == pytest.approx(0.1)


def test_the_release_s_adaptive_edge_moves_at_each_reading_as_its_code_does():
    # src/utils/policy.py of mhw32/contrastive-ring-public, AdaptiveThresholdPolicy, run on these losses: .01 inwards below
    # the mean of the last ten, .01 outwards above it, between .1 and 1
    released = {0: 1.0, 1: 1.0, 2: 0.99, 5: 0.96, 10: 0.91, 25: 0.94, 60: 0.91, 150: 0.87, 399: 0.74}
    schedule, state = Schedule("adaptive-release", start=1.0, stop=0.1), [1.0, *[0.0] * (REMEMBERED - 1)]
    for reading in range(400):
        adapt_(state, 9 - 0.01 * reading + math.sin(1.7 * reading) * 0.5 + math.cos(0.31 * reading), schedule)
        if reading in released:
            assert state[0] == pytest.approx(released[reading])


@pytest.mark.parametrize("over", [0, -1, math.nan])
def test_a_schedule_without_length_is_refused(over):
    with pytest.raises(ValueError, match="more than 0 epochs"):
        Schedule("linear", over=over)


def test_an_unknown_kind_or_unit_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="step, exponential, exponential-release, adaptive or adaptive-release"):
        Schedule("cosine")
    with pytest.raises(ValueError, match="epochs or steps"):
        Schedule("linear", unit="days")
