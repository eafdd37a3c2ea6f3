"""What a person should be told of a run's numbers, in words. No torch here."""

from collections.abc import Mapping
from typing import Any

COLLAPSED_RANK, COLLAPSED_SPREAD = 2.0, 0.05
LEARNED_SHARE, INVALID_SHARE, FALSE_SHARE = 0.5, 0.5, 0.5
CHANCE = 0.02  # nats that a bound stands above 0 at least, once an encoder tells images apart
AFTER_STEPS = 50  # before, embeddings are those of a random network


def alarms(values: Mapping[str, Any], *, step: int, most_rank: int) -> dict[str, str]:
    """By its short name, a sentence for each thing that looks wrong in a reading; empty where all looks well.

    `most_rank` is what an effective rank can be at most: the smaller of batch and embedding.
    """
    if step < AFTER_STEPS:
        return {}
    found = {}
    rank, spread = values.get("effective_rank"), values.get("spread", 1.0)
    if rank is not None and (rank < min(COLLAPSED_RANK, most_rank / 2) or spread < COLLAPSED_SPREAD):
        found["collapse"] = (
            f"all images come to lie on one point or line (effective rank {rank:.1f}, spread {spread:.2f} of 1): the "
            "representation has collapsed; lower the learning rate, or the weight of what pulls views together"
        )
    if values.get("learned", 0) > LEARNED_SHARE:
        found["dead"] = (
            f"{values['learned']:.0%} of the anchors tell their positive from every negative and no longer learn: take "
            "harder negatives (a narrower ring) or a higher temperature"
        )
    if values.get("bound_valid", 1) < INVALID_SHARE:
        found["no bound"] = (
            f"for {1 - values['bound_valid']:.0%} of the anchors the logged value is no lower bound on mutual information: "
            "the region leaves out too many near rows, or reaches too far; do not compare it with other methods' bounds"
        )
    if values.get("false_negatives", 0) > FALSE_SHARE:
        found["false negatives"] = (
            f"{values['false_negatives']:.0%} of the negatives are images of the anchor's own class: a larger inner edge "
            "would leave more of them out"
        )
    if "superfluous_first" in values and values["bound"] < CHANCE:
        found["superinfo collapse"] = (
            f"the bound is {values['bound']:.3f} nats: the penalty on superfluous information has won before the views were "
            "told apart; lower its weight or lengthen its warm-up"
        )
    return found
