"""What a receipt says in sentences: they follow from what was measured and say no more."""

import re
from collections.abc import Mapping
from typing import Any

from geniu_lightning.evaluation import checks
from geniu_lightning.evaluation.verdict import FEWEST_ORACLES
from geniu_lightning.report.document import Json
from geniu_lightning.report.template import template

# the verdicts, with what stands below the first line of the page, and what the verdict means
MEANINGS = {
    "retained": (
        "The model still gives the answer.",
        "Shown pictures of the class, the model still names it.",
    ),
    "damaged": (
        "The model was damaged.",
        "The model is worse at classes that it was to keep. Damage may hide what is left of the"
        " class; what was found of it stands below.",
    ),
    "damaged and retained": (
        "The model was damaged, and still gives the answer.",
        "The model is worse at classes that it was to keep, and still names the forgotten one.",
    ),
    "suppressed": (
        "Out of the answers, but still inside the model.",
        "The model does not name the class, but has kept what it learned of it: somebody who has"
        " the weights can bring it back, or tell that it was there.",
    ),
    "distinguishable": (
        "The model is not like models that never saw it.",
        "The class was not found where it was looked for, but the model differs from models that"
        " never saw it: something of the class may be left, or the way the model was made shows.",
    ),
    "untested": (
        "No test found the class, but some were not run or lack the power to find it.",
        "The class was not found, but attacks that have to fail before a model counts as one that"
        " has forgotten were not run, or cannot tell with so few models and images to compare"
        " with.",
    ),
    "forgotten in the model only": (
        "Not found in the model, but the kit that is kept with it gives the class away.",
        "The model answers like models that never saw the class, but the kit that is kept for the"
        " next request still shows the class.",
    ),
    "forgotten": (
        "No test told the model from models that never saw it. That is no proof.",
        "Asked about the class, the model answers like models that never saw it, and has to learn"
        " it anew as slowly, as far as these tests can tell.",
    ),
    "inconclusive": (
        "The comparison does not work here, so it says nothing.",
        "The models to compare with, or those whose answer is known, do not look as they must: no"
        " verdict can be trusted here.",
    ),
}
# with one of these the class was found inside the model, or damage may hide it
STILL_INSIDE = ("retained", "damaged", "damaged and retained", "suppressed")

# of each family of values that the decision rule looks at: what it tries
TRIES = {
    "accuracy": "which answers the model gives",
    "confusion": "what it answers instead",
    "divergence": "how sure it is of its answers, compared with models that never saw the class",
    "membership": "whether its answers give away that images of the class were trained on",
    "retained_attack": "whether answers on kept classes give the forgotten one away",
    "prototype": "whether the class can be told by its mean in the model's features",
    "head": "whether repairing the last layer brings the class back",
    "probe": "whether a new last layer finds the class",
    "relearning": "how fast images of the class bring it back",
    "relearning_sgd": "how fast they do with another optimizer",
    "relearning_head": "how fast they do where the last layer alone learns",
    "retain_only": "whether images of kept classes bring it back",
    "adaptive": "an attacker who first repairs the last layer, then trains",
    "quantisation": "whether rounding its weights brings the class back",
    "which_class": "whether the weights alone name the forgotten class",
    "over_unlearning": "what happened to answers near the class",
    "weights": "how far the weights moved, compared with models that never saw the class",
    "own_proxies": "whether pictures that the kept kit draws bring it back",
    "copying": "whether these pictures copy training images",
    "knowledge": "what a new model learns of the class from these pictures",
}
QUESTIONS = (checks.WORKS, checks.ANSWERS, checks.PROBABILITIES, checks.SYSTEM)
INSIDE = [name for family in checks.INSIDE for name in family.checks]
ASKED = {check.name for question in QUESTIONS for check in question} | {*INSIDE}
RELEARNING = [name for name in INSIDE if name.startswith("relearning")]


def headline(verdict: str | None, forget: Mapping[int, str]) -> str:
    """Return the first line: only one verdict says that nothing was found."""
    begin = "Not found by these tests" if verdict == "forgotten" else "NOT shown to be gone"
    return f"{begin}: {named(forget)}"


def named(classes: Mapping[int, str]) -> str:
    """Return classes as sentences name them: index and name."""
    names = {k: escaped(name) for k, name in classes.items()}
    each = ", ".join(f"{k} ({name})" if name != str(k) else name for k, name in names.items())
    return f"{'class' if len(names) == 1 else 'classes'} {each}"


def escaped(text: str) -> str:
    """Return a text of others as Markdown shows it word for word."""
    return re.sub(r"([\\`*_{}\[\]()<>#|!&~])", r"\\\1", " ".join(text.split()))


def short(verdict: str | None, measured: bool, inside: bool) -> str:
    """Return what stands below the first line; `inside` says that attacks found the class."""
    if verdict == "damaged" and inside:
        return "The model was damaged, and the class is still inside."
    if verdict is not None:
        return MEANINGS[verdict][0]
    return "The tests cannot tell." if measured else "Nothing was measured."


def meaning(verdict: str | None, measured: bool, metrics: Any) -> str:
    """Return what a verdict means, or why there is none; no `metrics` were wanted if empty."""
    if verdict is not None:
        return MEANINGS[verdict][1]
    if measured:
        return "No verdict was reached, so nothing is known of whether the class is gone."
    if not metrics:
        return "Nothing was measured: the evaluation was switched off."
    return "Nothing was measured: the images to measure with were not found."


def not_checked(
    document: Json,
    measured: set[str],
    kit: str,
    *,
    draws: bool,
    sampled: bool,
    archived: int,
    new_kit: bool,
) -> list[str]:
    """Return a sentence for each thing that nobody looked at.

    Args:
        document: What `metrics.json` holds, version 3.
        measured: Names of the values that are there.
        kit: Name of the old kit's file.
        draws: Whether that kit has prompts, from which pictures of its classes are drawn.
        sampled: Whether it has distributions of its classes.
        archived: Number of images of kept classes in its archive.
        new_kit: Whether there is a kit for the next request.
    """
    run, relearning = document["run"], document["metrics"].get("relearning", {})
    families = {name.partition(".")[0] for name in measured}
    compared = "copying" in families
    if not any(name.startswith("copying.") and ".forget." in name for name in measured):
        families.discard("copying")  # of kept classes alone: a new kit has no pictures of others
    return _sentences(
        "not_checked.j2",
        measured=measured,
        meaning=meaning(None, False, run["evaluation"]["metrics"]),
        tests=[text for family, text in TRIES.items() if family not in families],
        values=sorted(n for n in ASKED - measured if n.partition(".")[0] in families),
        oracles=len(document["oracles"]),
        fewest=FEWEST_ORACLES,
        kit=kit,
        draws=draws,
        sampled=sampled,
        archived=archived,
        new_kit=new_kit,
        compared=compared,
        classes=len(run["forget"]),
        shots=[int(name[1:]) for name in relearning if name[1:].isdigit()],
        steps=document.get("steps", {}).get("relearning"),
        timings=len(document["cost"]["seconds_each"]),
    )


def next_steps(verdict: str | None, new_kit: bool) -> list[str]:
    """Return what to do next, in order."""
    return _sentences("next.j2", verdict=verdict, new_kit=new_kit)


def _sentences(name: str, **facts: Any) -> list[str]:
    return template("geniu_lightning.receipt", name).render(facts).splitlines()
