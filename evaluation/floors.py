"""The floor of raw pixels in a time that is bounded: where a protocol would take longer, images are pooled to fewer pixels.

3,072 values an image are six times what most encoders yield, so of many classes this floor, which nobody has asked for, took
longer than all that was. How far images are pooled follows from what is asked alone, not from the machine: it is the same
everywhere, and stands in the protocol.
"""

import math

from torch.nn.functional import interpolate

from .features import Features, Pair
from .protocols import PROTOCOLS, Options, Size

SPEED = 1.5e10
"""Products and sums a second of one core, in probes of many classes; what a second of --floor-seconds is worth anywhere."""
LEAST = 4  # pixels: a side below which nothing is left of an image


def within(seconds: float, pair: Pair, protocol: str, options: Options, *, classes: int) -> tuple[Pair, str]:
    """The raw pixels of both files as a protocol can take them in about so many seconds of a core, and what was done, in
    words; 0 seconds mean no limit."""
    rows, features = pair.known.feature_NF.shape
    side = math.isqrt(features // 3)

    def takes(side: int) -> float:
        return PROTOCOLS[protocol].work(Size(rows, 3 * side * side, classes), options) / SPEED

    if not seconds or takes(side) <= seconds:
        return pair, ""
    small = next((each for each in range(side, LEAST, -1) if takes(each) <= seconds), LEAST)
    if small >= side:
        return pair, ""
    return Pair(*(_pooled(each, side, small) for each in pair)), f"pixels pooled from {side} to {small} px"


def _pooled(found: Features, side: int, small: int) -> Features:
    image_N3SS = found.feature_NF.view(-1, 3, side, side)
    return found._replace(feature_NF=interpolate(image_N3SS, size=(small, small), mode="area").flatten(1))
