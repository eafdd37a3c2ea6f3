"""What a person is told: each alarm at its own numbers, and nothing of a healthy run or of its first steps."""

import pytest

from viewmill.objectives.alarms import AFTER_STEPS, alarms

HEALTHY = {
    "loss": 3.0,
    "bound": 2.0,
    "ceiling": 8.3,
    "bound_valid": 1.0,
    "effective_rank": 40.0,
    "spread": 0.9,
    "learned": 0.0,
    "false_negatives": 0.1,
    "superfluous_first": 3.0,
}


def test_a_healthy_run_raises_none():
    assert alarms(HEALTHY, step=1000, most_rank=128) == {}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"effective_rank": 1.2}, "collapse", "one point or line (effective rank 1.2"),
        ({"spread": 0.01}, "collapse", "spread 0.01 of 1"),
        ({"learned": 0.8}, "dead", "80% of the anchors"),
        ({"bound_valid": 0.25}, "no bound", "75% of the anchors"),
        ({"false_negatives": 0.6}, "false negatives", "60% of the negatives"),
        ({"bound": 0.001}, "superinfo collapse", "the bound is 0.001 nats"),
    ],
)
def test_each_fault_is_told_in_words_with_its_number(changes, kind, words):
    found = alarms(HEALTHY | changes, step=AFTER_STEPS, most_rank=128)
    assert list(found) == [kind]
    assert words in found[kind]
    assert alarms(HEALTHY | changes, step=AFTER_STEPS - 1, most_rank=128) == {}


def test_a_method_that_logs_less_is_asked_for_no_more():
    assert alarms({"loss": 1.0, "bound": 0.5, "ceiling": 2.0}, step=1000, most_rank=128) == {}


def test_a_batch_of_two_images_has_no_rank_to_lose():
    assert alarms(HEALTHY | {"effective_rank": 1.8}, step=1000, most_rank=2) == {}
    assert "collapse" in alarms(HEALTHY | {"effective_rank": 1.0}, step=1000, most_rank=3)
