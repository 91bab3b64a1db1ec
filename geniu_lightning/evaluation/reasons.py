"""Findings, and the sentence that gives the reason of each verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from geniu_lightning.evaluation.checks import Family
from geniu_lightning.evaluation.inside import BROKEN, Attack, oracles_needed
from geniu_lightning.evaluation.metric import Values

NAMES = {
    "relearning": "relearning",
    "retain_only": "fine-tuning on retained images alone",
    "adaptive": "resetting the class's row",
    "features": "a probe and class means on its features",
    "head": "repairing the class's row",
    "quantisation": "rounding its weights",
    "membership": "membership inference",
}


@dataclass(frozen=True)
class Finding:
    """A value outside of what is allowed."""

    # `works`, `answers`, `inside`, `procedure` (an attack's value that tells how the model was
    # made), `probabilities` or `system`
    question: str
    name: str  # of the value; of a family of attacks, the mean of its values
    value: float  # the model's
    reference: float  # mean of the networks it is compared with, or for damage the original's
    allowed: float  # largest distance from that mean that passes
    original: float | None = None
    against: str = "oracles"  # or `nulls`: what the reference is of
    position: float | None = None  # between the reference, 0, and the original, 1


def too_few_oracles(there: int, fewest: int) -> str:
    """Return why there is no verdict at all."""
    few = f"only {there} of {fewest}" if there else "no"
    return (
        f"{few} oracles were available to compare with, and accuracy cannot tell forgetting from"
        " suppression"
    )


def damaged(first: Finding) -> str:
    """Return which retained accuracy was lost."""
    what = {
        "accuracy.test.retain": "retained accuracy",
        "accuracy.test.retain_minority": "accuracy of the smaller retained classes",
        "accuracy.test.worst_retained": "accuracy of the worst retained class",
        "confusion.attractor_retained": "share of retained images taken for the largest class",
    }[first.name]
    return f"the {what} is {first.value:.3f}, without damage it would be {first.reference:.3f}"


def retained(first: Finding) -> str:
    """Return how often the class is answered."""
    split = first.name.split(".")[1]
    return f"the class is still answered, for {first.value:.1%} of its {split} images"


def suppressed(findings: Sequence[Finding]) -> str:
    """Return which attack found the class."""
    first = next((f for f in findings if f.name == "relearning.k10.area"), findings[0])
    who = "networks made alike that never saw it" if first.against == "nulls" else "oracles"
    if first.name == "relearning.k10.area":
        return (
            f"ten images bring back {first.value:.0%} of it, averaged over the attack; {who} get"
            f" back {first.reference:.0%}"
        )
    what = NAMES.get(first.name, first.name)
    return f"{what} shows {first.value:.2f}, {who} have {first.reference:.2f}"


def untested(
    blind: Sequence[Family],
    tried: Sequence[Attack],
    model: Values,
    references: tuple[int, str],
    images: int,
) -> str:
    """Return which families of attacks lack power, and what would give it."""
    missing = [f for f in blind if not any(a.family is f for a in tried)]
    if any(not any(name in model for name in family.checks) for family in missing):
        return "the metrics of this evaluation find no class; evaluation=verdict measures more"
    said = []
    for family in blind:
        mine = [attack for attack in tried if attack.family is family]
        if not mine:
            said.append(f"{NAMES[family.name]} has no result")
            continue
        best = min(mine, key=lambda attack: attack.detects)
        if best.loss > BROKEN:
            said.append(f"{NAMES[family.name]} costs {best.loss:.0%} of retained accuracy")
            continue
        if best.detects > 2:
            said.append(f"{NAMES[family.name]} does not tell even the original from oracles")
            continue
        needed = oracles_needed(best, references[0])
        cure = f"{needed} {references[1]} would do"
        if needed is None:
            cure = f"fifty {references[1]} would not do: more test images than {images} might"
        said.append(f"{NAMES[family.name]} sees no less than {best.detects:.0%} of it ({cure})")
    return "no attack finds the class, but some could not have: " + "; ".join(said)


def unasked(questions: Sequence[str]) -> str:
    """Return which questions of the rule have no value at all."""
    metrics = {
        "works": "accuracy or confusion on test images",
        "answers": "accuracy on images of the class",
        "probabilities": "divergence, retained_attack and confusion",
    }
    lacking = "; ".join(metrics[question] for question in questions)
    return (
        f"no attack finds the class, but these were not measured, or oracles lack them: {lacking}"
    )


def doubtful(attack: Attack, references: tuple[int, str]) -> str:
    """Return which value looks like the original's, where that may be chance."""
    return (
        f"{attack.name} is {attack.value:.2f}, nearer to the original's {attack.original:.2f} than"
        f" to the {attack.mean:.2f} of networks that never saw the class; with"
        f" {references[0]} {references[1]} that may be chance: more of them tell, as with"
        f" oracles.count={2 * references[0]}"
    )


def distinguishable(from_null: Sequence[Finding], from_oracles: Sequence[Finding]) -> str:
    """Return which value tells the model from others, and what that means."""
    if from_null:
        first = from_null[0]
        return (
            "no attack finds the class, but it left a mark: the model differs from networks made"
            f" alike that never saw it: {first.name} is {first.value:.3f}, they have"
            f" {first.reference:.3f}"
        )
    first = from_oracles[0]
    return (
        "no attack finds the class, but the procedure shows: the model differs from retrained"
        f" ones: {NAMES.get(first.name, first.name)} is {first.value:.3f}, oracles have"
        f" {first.reference:.3f}"
    )


def in_model_only(first: Finding) -> str:
    """Return which value shows the class in the stored proxies."""
    return (
        "the model answers as one that never saw the class, but the proxies stored with it give"
        f" the class away ({first.name} {first.value:.2f})"
    )


def forgotten(tried: Sequence[Attack], references: tuple[int, str], proxies: bool) -> str:
    """Return the limits of the verdict; `proxies`: whether what they give away was measured."""
    best: dict[str, Attack] = {}
    for attack in (attack for attack in tried if attack.family.kind and attack.has_power):
        kind = attack.family.kind
        best[kind] = min(attack, best.get(kind, attack), key=lambda one: one.detects)
    seen = ", ".join(f"{NAMES[one.family.name]} {one.detects:.0%}" for one in best.values())
    return (
        "the model answers about the class as one that never saw it, and no attack brings it back;"
        f" with {references[0]} {references[1]} they would have seen, of what the original holds:"
        f" {seen}" + ("" if proxies else "; what the stored proxies give away was not measured")
    )
