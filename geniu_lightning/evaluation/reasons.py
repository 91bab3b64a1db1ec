"""Why a word was given: values outside of what oracles show, and the sentence that says so."""

from collections.abc import Sequence
from dataclasses import dataclass

from geniu_lightning.evaluation.metric import Values

TOWARDS_ORIGINAL = 0.1  # of the way from the oracles to the original that is still forgetting


@dataclass(frozen=True)
class Failure:
    """A value outside of what oracles show.

    Attributes:
        question: ``works``, ``answers``, ``inside``, ``probabilities`` or ``system``.
        name: Of the value.
        value: The model's.
        oracles: Mean of the oracles'.
        allowed: Largest distance from that mean.
        original: The original's; ``None`` where it has none.
        position: Between oracles, 0, and original, 1; ``None`` where that tells nothing.
    """

    question: str
    name: str
    value: float
    oracles: float
    allowed: float
    original: float | None = None
    position: float | None = None

    @property
    def towards_original(self) -> bool:
        """Whether it lies on the original's side, by more than is still forgetting."""
        return self.position is not None and self.position > TOWARDS_ORIGINAL


def destroyed(failures: Sequence[Failure]) -> str:
    """Return what was lost, from values of the first question, the farthest first."""
    first = failures[0]
    where = {
        "accuracy.test.retain": "retained accuracy",
        "accuracy.test.retain_minority": "accuracy of the smaller retained classes",
        "accuracy.test.worst_retained": "accuracy of the worst retained class",
        "confusion.attractor_retained": "share of retained images taken for the largest class",
    }[first.name]
    return f"the {where} is {first.value:.3f}, where oracles have {first.oracles:.3f}"


def hidden(failures: Sequence[Failure]) -> str:
    """Return where the class was found, from values of which the farthest stands first."""
    by_name = {failure.name: failure for failure in failures}
    begin = "the class no longer appears in the answers, but it is still inside: "
    relearned = by_name.get("relearning.k10.area")
    if relearned is not None:
        return begin + (
            f"ten images bring back {relearned.value:.0%} of it, averaged over the attack, where"
            f" oracles get back {relearned.oracles:.0%}"
        )
    first = failures[0]
    return begin + f"{first.name} is {first.value:.2f}, where oracles have {first.oracles:.2f}"


def not_refuted(families: Sequence[str], row: Values) -> str:
    """Return why a word is no better; without a result from a family nobody looked there."""
    if any(not any(name.startswith(family) for name in row) for family in families):
        return "what was measured finds nothing; evaluation=full looks on"
    names = ", ".join(family.rstrip(".") for family in families)
    return f"what was measured finds nothing, but there is no result to compare of {names}"


def scarred(failures: Sequence[Failure]) -> str:
    """Return what gives away that something was removed, the farthest value first."""
    first = failures[0]
    return (
        "what was asked before finds no class, but the model shows that something was removed:"
        f" {first.name} is {first.value:.3f}, where oracles have {first.oracles:.3f}"
    )
