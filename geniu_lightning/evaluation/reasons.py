"""Findings, and the sentence that gives the reason of each verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from geniu_lightning.evaluation.metric import Values

TOWARDS_ORIGINAL = 0.1  # position between oracles and original that still counts as forgotten


@dataclass(frozen=True)
class Finding:
    """A value outside of the oracles' tolerance."""

    question: str  # `works`, `answers`, `inside`, `probabilities` or `system`
    name: str
    value: float  # the model's
    oracles: float  # mean of theirs
    allowed: float  # largest distance from that mean that passes
    original: float | None = None
    position: float | None = None  # between the oracles, 0, and the original, 1

    @property
    def towards_original(self) -> bool:
        """Whether the value lies on the original's side of the oracles."""
        return self.position is not None and self.position > TOWARDS_ORIGINAL

    @property
    def distance(self) -> float:
        """Distance from the oracles, in steps of the original's where that is known."""
        return abs(self.value - self.oracles) if self.position is None else abs(self.position)


def damaged(first: Finding) -> str:
    """Return which retained accuracy was lost."""
    what = {
        "accuracy.test.retain": "retained accuracy",
        "accuracy.test.retain_minority": "accuracy of the smaller retained classes",
        "accuracy.test.worst_retained": "accuracy of the worst retained class",
        "confusion.attractor_retained": "share of retained images taken for the largest class",
    }[first.name]
    return f"the {what} is {first.value:.3f}, oracles have {first.oracles:.3f}"


def retained(first: Finding) -> str:
    """Return how often the class is answered."""
    split = first.name.split(".")[1]
    return f"the class is still answered, for {first.value:.1%} of its {split} images"


def suppressed(findings: Sequence[Finding]) -> str:
    """Return which attack found the class."""
    first = next((f for f in findings if f.name == "relearning.k10.area"), findings[0])
    found = f"{first.name} is {first.value:.2f}, oracles have {first.oracles:.2f}"
    if first.name == "relearning.k10.area":
        found = (
            f"ten images bring back {first.value:.0%} of it, averaged over the attack; oracles"
            f" get back {first.oracles:.0%}"
        )
    return f"the class no longer appears in the answers, but it is still inside: {found}"


def untested(families: Sequence[str], model: Values) -> str:
    """Return which families of attacks are missing."""
    if any(not any(name.startswith(family) for name in model) for family in families):
        return "the metrics of this evaluation find no class; evaluation=full measures more"
    names = ", ".join(family.rstrip(".") for family in families)
    return f"the other metrics find no class, but {names} cannot be compared with the oracles"


def distinguishable(first: Finding) -> str:
    """Return which value tells the model from a retrained one."""
    return (
        "no attack finds the class, but the model differs from retrained ones:"
        f" {first.name} is {first.value:.3f}, oracles have {first.oracles:.3f}"
    )


def in_model_only(first: Finding) -> str:
    """Return which value shows the class in the stored proxies."""
    return (
        "the model answers as one that never saw the class, but the proxies stored with it give"
        f" the class away ({first.name} {first.value:.2f})"
    )


def forgotten(oracles: int) -> str:
    """Return the limits of the verdict."""
    return (
        "the model answers about the class as one that never saw it, and relearns it as slowly,"
        f" within what {oracles} oracles and these metrics can resolve"
    )
