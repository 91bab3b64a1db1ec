"""The values that each question of the decision rule looks at."""

from dataclasses import dataclass
from typing import Literal

from geniu_lightning.evaluation.attacks.membership import SCORES

WORST_CLASS_LOSS = 0.05  # accuracy that the worst retained class may lose
FLOORS = 2.0  # a divergence may be so many times that of two oracles


@dataclass(frozen=True)
class Check:
    """One value that a question looks at."""

    name: str
    side: Literal["above", "below", "either"] = "above"  # of the oracles on which it fails
    slack: float = 0.0  # smallest distance that fails, where more than the metric's own epsilon
    floors: float | None = None  # allowed multiple of the oracles' mean, instead of a tolerance
    damage: bool = False  # no worse than the original is enough: oracles gain classes


LEAKS = tuple(Check(f"membership.{score}.leak") for score in SCORES)
WORKS = (
    Check("accuracy.test.retain", "below", damage=True),
    Check("accuracy.test.retain_minority", "below", damage=True),
    Check("accuracy.test.worst_retained", "below", WORST_CLASS_LOSS, damage=True),
    Check("confusion.attractor_retained", damage=True),
)
ANSWERS = (Check("accuracy.test.forget"), Check("accuracy.train.forget"))
INSIDE = (
    *(Check(f"relearning.k{k}.area", "either") for k in (1, 5, 10, 50)),
    Check("retain_only.area", "either"),
    Check("adaptive.net", "either"),
    Check("adaptive.net_area", "either"),
    Check("probe.recall", "either"),
    *(Check(f"prototype.{k}.recall", "either") for k in ("k1", "k5", "all")),
    Check("head.repair", "either"),
    Check("head.transplant", "either"),
)
PROBABILITIES = (
    Check("divergence.test_forget.js", floors=FLOORS),
    Check("divergence.train_forget.js", floors=FLOORS),
    *LEAKS,
    Check("retained_attack.auc"),
    Check("retained_attack.distance"),
    Check("confusion.distance"),
    Check("confusion.attractor", "either"),
)
SYSTEM = (Check("own_proxies.area"),)
FULL = ("relearning.", "retain_only.", "adaptive.", "probe.", "prototype.", "head.")
