"""The table of methods. A method is a row of presets, not a class; adding one is adding a row (docs/adding-a-method.md).

No torch here. Instance discrimination (IR, arXiv 1805.01978), local aggregation (LA, arXiv 1903.12355), contrastive
multiview coding (CMC, arXiv 1906.05849) and momentum contrast (MoCo, arXiv 1911.05722) are the bases of arXiv 2005.13149 and
2010.02037, whose negatives come from a ball or a ring (the annulus); CAVE has the ring's negatives and the ball's positives.
`docs/methods/` has a page on each family: settings, equations, and what differs from the authors' code.
"""

from dataclasses import replace

from .method import Method
from .pairing import Graph, Pair
from .parts import NCE, Bank, Clusters, Decoupled, HardNegatives, InfoNCE, Nearest, Neighbours, Queue, Ring
from .synthetic import MixedQueue
from .terms import (
    BarlowTwins,
    Bootstrap,
    FixedGaussian,
    LeJEPA,
    Momentum,
    OwnReconstruction,
    SquaredError,
    Superfluous,
    VICReg,
    VonMisesFisher,
)

BALL, RING = Ring(inner=0.0, outer=0.1), Ring(inner=0.01, outer=0.1)
BOTH_WAYS = (Pair(0, 1, 0.5), Pair(1, 0, 0.5))
RINGS = "arXiv 2005.13149, 2010.02037"
SUPERINFO = "arXiv 2408.10292"

IR = Method("instance", "arXiv 1805.01978", contrast=(Pair(),), memory=Bank())
CMC = Method(
    "lab", "arXiv 1906.05849", contrast=(Pair(0, 1), Pair(1, 0)), memory=Bank(), bound=InfoNCE(0.07), network="colour"
)
SIMCLR = Method("simclr", "arXiv 2002.05709", contrast=BOTH_WAYS, bound=InfoNCE(0.2), learning_rate=0.12)
MOCO_V1 = Method("moco-v1", "arXiv 1911.05722", contrast=(Pair(0, 1),), memory=Queue(), target=Momentum())
LOCAL = Graph(views=8, keys=2)  # two large views and six small ones, which are anchors alone
MOCO_V2 = replace(MOCO_V1, recipe="moco-v2", source="arXiv 2003.04297", bound=InfoNCE(0.2), learning_rate=0.12)
PAIRED = replace(SIMCLR, contrast=(), terms=(VICReg(),))


def _restricted(name: str, base: Method) -> dict[str, Method]:
    """The family of arXiv 2005.13149 over a base with a bank: ball or ring x own or neighbouring positives, and LA
    itself.
    """
    rows = {
        "ball": replace(base, region=BALL),
        "ring": replace(base, region=RING),
        # the neighbours of a ball are the rows that a ring would leave out
        "simplified-la": replace(base, region=RING, positives=Neighbours(among_negatives=True)),
        "cave": replace(base, region=RING, positives=Neighbours()),
        "la": replace(base, region=Nearest(4096), positives=Clusters(), warm_start=10.0, source="arXiv 1903.12355"),
    }
    ours = {key: row if key == "la" else replace(row, source=RINGS) for key, row in rows.items()}
    return {f"{name}-{key}" if name else key: row for key, row in ours.items()}


def _superinfo(name: str, base: Method) -> dict[str, Method]:
    """SuperInfo over a base with two views both ways. The weights are ours: the paper's could not be read."""
    noisy = replace(base, source=SUPERINFO, head=FixedGaussian(0.1))
    decoding = Superfluous("variational", first=1e-4, second=1e-4, decode_first=0.01, decode_second=0.01)
    residual = Superfluous("ceb", first=1.0, second=1.0)
    ceb = replace(base, source=SUPERINFO, head=VonMisesFisher(1024.0), bound=InfoNCE(0.1), terms=(residual,))
    return {
        f"superinfo-{name}": replace(noisy, terms=(Superfluous("conditional-kl"),)),
        f"superinfo-{name}-variational": replace(noisy, terms=(decoding,)),
        f"superinfo-{name}-ceb": ceb,
    }


METHODS: dict[str, Method] = {
    "ir": IR,
    "ir-nce": replace(IR, bound=NCE(0.07)),
    **_restricted("", IR),
    "cmc": CMC,
    "cmc-nce": replace(CMC, bound=NCE(0.07)),
    **_restricted("cmc", CMC),
    "cmc-full": replace(CMC, contrast=Graph("full", 3, total="sum")),
    "cmc-core": replace(CMC, contrast=Graph("core", 3, total="sum")),
    "pirl": Method(
        "pirl",
        "arXiv 1912.01991",
        contrast=(Pair(0, 0, 0.5), Pair(1, 0, 0.5)),
        memory=Bank(negatives=32_000),
        network="jigsaw",
    ),
    "moco-v1": MOCO_V1,
    "moco-v1-ball": replace(MOCO_V1, region=BALL, source=RINGS),
    "moco-v1-ring": replace(MOCO_V1, region=RING, source=RINGS),
    "moco-v2": MOCO_V2,
    "moco-v2-ball": replace(MOCO_V2, region=BALL, source=RINGS),
    "moco-v2-ring": replace(MOCO_V2, region=RING, source=RINGS),
    "mochi": replace(MOCO_V2, memory=MixedQueue(mixed=1024, interpolated=128), source="arXiv 2010.01028"),
    "synco": replace(
        MOCO_V2,
        memory=MixedQueue(mixed=256, interpolated=256, extrapolated=256, noisy=64, perturbed=64, adversarial=64),
        source="arXiv 2410.02401",
    ),
    "simclr": SIMCLR,
    "simclr-ball": replace(SIMCLR, region=replace(BALL, outer=0.5), source=RINGS),
    "simclr-ring": replace(SIMCLR, region=Ring(inner=0.1, outer=0.5, relative=True), source=RINGS),
    **_superinfo("simclr", SIMCLR),
    **_superinfo("moco", replace(MOCO_V2, contrast=BOTH_WAYS)),
    "simclr-views": replace(SIMCLR, contrast=Graph(views=4), source="arXiv 1906.05849, 2002.05709"),
    "simclr-multicrop": replace(SIMCLR, recipe="multicrop", contrast=LOCAL, source="arXiv 2002.05709, 2006.09882"),
    "moco-v2-multicrop": replace(MOCO_V2, recipe="multicrop", contrast=LOCAL, source="arXiv 2003.04297, 2006.09882"),
    "superinfo-simclr-multicrop": replace(
        SIMCLR,
        recipe="multicrop",
        contrast=LOCAL,
        source="arXiv 2408.10292, 2006.09882",
        head=FixedGaussian(0.1),
        terms=(Superfluous("conditional-kl"),),
    ),
    "simclr-noise": replace(SIMCLR, head=FixedGaussian(0.1), source="control of arXiv 2203.07004"),
    "simclr-squared-error": replace(SIMCLR, terms=(SquaredError(),), source="arXiv 2006.05576"),
    "simclr-reconstruction": replace(
        SIMCLR, head=FixedGaussian(0.1), terms=(OwnReconstruction(),), source="arXiv 2203.07004"
    ),
    "decoupled": replace(SIMCLR, bound=Decoupled(0.1), learning_rate=0.06, source="arXiv 2110.06848"),
    "debiased": replace(SIMCLR, bound=HardNegatives(0.5, 0.1), learning_rate=0.3, source="arXiv 2007.00224"),
    "hcl": replace(SIMCLR, bound=HardNegatives(0.5, 0.1, 1.0), learning_rate=0.3, source="arXiv 2010.04592"),
    "vicreg": replace(PAIRED, terms=(VICReg(),), learning_rate=0.01, source="arXiv 2105.04906"),
    "barlow-twins": replace(PAIRED, terms=(BarlowTwins(),), learning_rate=0.01, source="arXiv 2103.03230"),
    "lejepa": replace(PAIRED, terms=(LeJEPA(),), learning_rate=0.1, source="arXiv 2511.08544"),
    "byol": replace(
        PAIRED,
        recipe="asymmetric",
        terms=(Bootstrap(),),
        target=Momentum(0.996, rising=True),
        learning_rate=0.1,
        source="arXiv 2006.07733",
    ),
}
