"""The values that each question of the decision rule looks at."""

from dataclasses import dataclass
from typing import Literal

from geniu_lightning.evaluation.attacks.membership import SCORES

WORST_CLASS_LOSS = 0.05  # accuracy that the worst retained class may lose
SCORED = 200  # test images of a class that attacks which fine-tune look at, unless set otherwise
FLOORS = 2.0  # a divergence may be so many times that of two oracles

Images = Literal["forget", "retain", "minority", "worst"]


@dataclass(frozen=True)
class Check:
    """One value that a question looks at."""

    name: str
    side: Literal["above", "below", "either"] = "above"  # of the oracles on which it fails
    slack: float = 0.0  # smallest distance that fails, where more than the metric's own epsilon
    # a distance may be so many times that of two oracles, instead of a tolerance, from `equal` on
    floors: float | None = None
    equal: float = 0.0  # value of two equal networks
    damage: bool = False  # no worse than the original is enough: oracles gain classes
    images: Images = "forget"  # test images that it is a share of, which bound what it resolves


@dataclass(frozen=True)
class Family:
    """Attacks whose values, all in [0, 1] or so, rise and fall together."""

    name: str
    checks: tuple[str, ...]
    # kind of attack; of each kind but "" a family must have power before a model is forgotten.
    # Resetting the class's row and repairing it are two ways of one attack on the head: on some
    # data the first does not tell even the original from networks that never saw the class
    kind: str = ""
    # finds the class itself. Of the others the values also depend on the procedure that made a
    # network: features of another recipe tell more classes apart that they never saw
    memory: bool = False
    # usual deviation among networks that never saw the class, as a share of the original's distance
    # (python -m tests.simulation, digits and MNIST)
    spread: float = 0.025
    scored: int = 10**9  # most test images of a class that its values are shares of


WORKS = (
    Check("accuracy.test.retain", "below", damage=True, images="retain"),
    Check("accuracy.test.retain_minority", "below", damage=True, images="minority"),
    Check("accuracy.test.worst_retained", "below", WORST_CLASS_LOSS, damage=True, images="worst"),
    Check("confusion.attractor_retained", damage=True, images="retain"),
)
ANSWERS = (Check("accuracy.test.forget"), Check("accuracy.train.forget"))
INSIDE = (
    Family(
        "relearning",
        (
            *(f"relearning.k{k}.area" for k in (1, 10, 50)),
            "relearning_sgd.k10.area",
            "relearning_head.k10.area",
        ),
        kind="relearning",
        memory=True,
        scored=SCORED,
    ),
    Family(
        "retain_only",
        ("retain_only.area", "retain_only.peak"),
        kind="retain_only",
        memory=True,
        scored=SCORED,
    ),
    Family(
        "adaptive",
        ("adaptive.net", "adaptive.net_area"),
        kind="head",
        spread=0.15,
        scored=SCORED,
    ),
    Family(
        "features",
        ("probe.net", *(f"prototype.{k}.recall" for k in ("k1", "k5", "all"))),
        kind="features",
        spread=0.2,
    ),
    Family("head", ("head.repair", "head.transplant"), kind="head", memory=True, spread=0.2),
    Family("quantisation", ("quantisation.b8.forget", "quantisation.b4.forget"), memory=True),
    Family("membership", tuple(f"membership.{score}.leak" for score in SCORES), memory=True),
)
PROBABILITIES = (
    Check("divergence.test_forget.js", floors=FLOORS),
    Check("divergence.train_forget.js", floors=FLOORS),
    Check("retained_attack.auc", floors=FLOORS, equal=0.5),
    Check("retained_attack.distance", floors=2.5),
    Check("confusion.distance", floors=2.5),
    Check("confusion.attractor", "either"),
)
SYSTEM = (Check("own_proxies.area"),)
