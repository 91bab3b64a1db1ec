"""What a receipt says, in sentences that follow from what was measured.

A sentence says no more than the values carry.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geniu_lightning.evaluation import checks as word
from geniu_lightning.evaluation.verdict import FEWEST_ORACLES
from geniu_lightning.receipt.page import classes_of
from geniu_lightning.report.leaves import leaves, numbers

VERSION = 1  # of receipt.json
MOST_DECIDING = 3  # values on the page; metrics.json has all
NEW_KIT = "the new kit, in the same folder"
# of a model with one of these words the class was found to be inside, or nobody looked that far
STILL_HOLD = ("keeps", "destroys", "destroys without forgetting", "hides")
NO_WORD = "The tests cannot tell."
NOT_MEASURED = "Nothing was measured."
Json = dict[str, Any]  # JSON values

# of each word: what stands below the first line, and what the word means
MEANINGS = {
    "keeps": (
        "The model still gives the answer.",
        "Shown pictures of the class, the model still names it.",
    ),
    "destroys": (
        "The model was damaged, and the tests ended there.",
        "The model is worse at classes that it was to keep. Whether the class is still inside was"
        " then not asked.",
    ),
    "destroys without forgetting": (
        "The model was damaged, and still gives the answer.",
        "The model is worse at classes that it was to keep, and still names the forgotten one.",
    ),
    "hides": (
        "Out of the answers, but still inside the model.",
        "The model does not name the class, but has kept what it learned of it: somebody who has"
        " the weights can bring it back, or tell that it was there.",
    ),
    "scars": (
        "The model is not like models that never saw it.",
        "The class was not found where it was looked for, but the model differs from models that"
        " never saw it, so something of it may be left.",
    ),
    "not refuted": (
        "The tests that were run found nothing, but they were not all run.",
        "The class was not found, but nobody tried everything that these tests have to bring it"
        " back.",
    ),
    "forgets in the model, not in the system": (
        "Not found in the model, but what is kept beside the model gives it away.",
        "The model answers like models that never saw the class, but the kit that is kept beside"
        " it still shows the class.",
    ),
    "forgets": (
        "No test told the model from models that never saw it. That is no proof.",
        "Asked about the class, the model answers like models that never saw it, and has to learn"
        " it anew as slowly, as far as these tests can tell.",
    ),
    "invalid": (
        "The comparison does not work here, so it says nothing.",
        "The models to compare with, or those whose answer is known, do not look as they must: no"
        " word can be trusted here.",
    ),
}

# of each family of values that the rule looks at: what it tries
TRIES = {
    "accuracy": "which answers the model gives",
    "confusion": "what it answers instead",
    "divergence": "how sure it is of its answers, beside models that never saw the class",
    "membership": "whether its answers give away that images of the class were trained on",
    "retained_attack": "whether answers on kept classes give the forgotten one away",
    "prototype": "whether the class can be told by its mean in the model's features",
    "head": "whether repairing the last layer brings the class back",
    "probe": "whether a new last layer finds the class",
    "relearning": "how fast images of the class bring it back",
    "retain_only": "whether images of kept classes bring it back",
    "adaptive": "an attacker who first repairs the last layer, then trains",
    "own_proxies": "whether pictures that the kept kit draws bring it back",
    "copying": "whether these pictures copy training images",
    "knowledge": "what a new model learns of the class from these pictures",
}
_QUESTIONS = (word.WORKS, word.ANSWERS, word.INSIDE, word.PROBABILITIES, word.SYSTEM)


@dataclass(frozen=True)
class Facts:
    """What a receipt says beside what stands in ``metrics.json``.

    Attributes:
        forget: Names of the forgotten classes by index.
        earlier: Those of them that the kit had forgotten by earlier requests.
        kit: Name of the kit's file.
        draws: Whether the kit holds what draws pictures of its classes.
        files: ``{what, file, sha256, delete}`` of each; the unlearned weights among them.
        before: Values of the original by full name, for where no oracles were compared with.
        unlearned: ``{at, versions}``: when the weights were made, and with which software.
        judged: The same of the evaluation.
    """

    forget: Mapping[int, str]
    earlier: Collection[int]
    kit: str
    draws: bool
    files: Sequence[Json]
    before: Mapping[str, float]
    unlearned: Json
    judged: Json


def receipt_of(document: Json, facts: Facts) -> Json:
    """Return the receipt, as ``receipt.json`` holds it.

    Args:
        document: What stands in ``metrics.json``.
        facts: The rest.
    """
    run, cost = document["run"], document["cost"]
    settings = {k: v for k, v in run["unlearner"].items() if k != "name"}
    measured = numbers(leaves(document["metrics"]), "value")
    said = document["word"]
    return {
        "version": VERSION,
        "headline": _headline(said, facts.forget),
        "asked": {
            "classes": [
                {"index": k, "name": name, "earlier": k in facts.earlier}
                for k, name in facts.forget.items()
            ],
            "kit": facts.kit,
            "method": run["unlearner"]["name"],
            "settings": _without_paths(settings),
            "seeds": {
                "training": run["trained"]["seed"],
                "unlearning": run["seed"],
                "evaluation": run["evaluation"]["seed"],
                "oracles": document["oracles"],
            },
        },
        "unlearned": facts.unlearned,
        "judged": facts.judged if measured else None,
        "read": {
            "training_images": cost["training_images_read"],
            "declared": cost["access"],
            "prompts": cost["reads_prompts"],
            "files": [facts.kit],
        },
        "cost": {name: cost[name] for name in ("seconds", "seconds_each", "steps")},
        "found": {
            "word": said,
            "short": _short(said, bool(measured)),
            "meaning": MEANINGS[said][1] if said else _without_word(document, bool(measured)),
            "reason": document["word_reason"] if measured else None,
            "oracles": len(document["oracles"]),
            "oracle_words": document.get("oracle_words", {}),
            "controls": document.get("controls", {}),
            "bands": document.get("bands", []),
            "blind": _blind(document.get("bands", [])),
            "values": _values(document, facts.before),
        },
        "not_checked": list(_not_checked(document, facts, set(measured))),
        "next": list(_next(said, facts)),
        "files": list(facts.files),
    }


def _headline(said: str | None, forget: Mapping[int, str]) -> str:
    begin = "Not found by these tests" if said == "forgets" else "NOT shown to be gone"
    return f"{begin}: {classes_of(forget)}"


def _short(said: str | None, measured: bool) -> str:
    if said is not None:
        return MEANINGS[said][0]
    return NO_WORD if measured else NOT_MEASURED


def _without_word(document: Json, measured: bool) -> str:
    if measured:
        return "No word was given, so nothing is known of whether the class is gone."
    if not document["run"]["evaluation"]["metrics"]:
        return "Nothing was measured: the evaluation was switched off."
    return "Nothing was measured: the images to measure with were not found."


def _without_paths(value: Any) -> Any:  # JSON values
    """Return settings with the names of files alone: a receipt tells nothing of the machine."""
    if isinstance(value, dict):
        return {k: _without_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_paths(v) for v in value]
    if isinstance(value, str) and ("/" in value or value.startswith("~")):
        return Path(value).name
    return value


def _blind(bands: Sequence[Json]) -> list[str]:
    """Return the values in which not even the original is told from the oracles."""
    return [b["name"] for b in bands if b["reach"] is not None and b["reach"] <= b["allowed"]]


def _values(document: Json, before: Mapping[str, float]) -> list[Json]:
    """Return the values of the page: answers, what brings the class back, and what decided."""
    found = dict(leaves(document["metrics"]))
    split = document["run"]["evaluation"]["split"]
    names = [f"accuracy.{split}.forget", f"accuracy.{split}.retain"]
    names += [check.name for check in word.INSIDE if check.name.startswith("relearning.")]
    deciding = [failure["name"] for failure in document.get("deciding", [])]
    rows = []
    for name in dict.fromkeys(names + deciding[:MOST_DECIDING]):
        leaf = found.get(name, {})
        if "value" in leaf:
            original = before.get(name) if leaf["original"] is None else leaf["original"]
            rows.append(
                {
                    "name": name,
                    "before": original,
                    "after": leaf["value"],
                    "oracle_mean": leaf["oracle_mean"],
                }
            )
    return rows


def _not_checked(document: Json, facts: Facts, measured: set[str]) -> Iterator[str]:
    if not measured:
        yield _without_word(document, False)
    families = {name.partition(".")[0] for name in measured}
    compared = "copying" in families
    if not any(name.startswith("copying.") and ".forget." in name for name in measured):
        families.discard("copying")  # of kept classes alone: a new kit has no pictures of others
    if missing := [said for family, said in TRIES.items() if family not in families]:
        yield f"These tests were not run, or have no result: {'; '.join(missing)}."
    asked = {check.name for question in _QUESTIONS for check in question}
    if gaps := sorted(n for n in asked - measured if n.partition(".")[0] in families):
        yield f"These values have no result, metrics.json says why: {', '.join(gaps)}."
    count = len(document["oracles"])
    if count < FEWEST_ORACLES:
        yield (
            f"The model was compared with {count} models that never saw the class, and the rule"
            f" needs at least {FEWEST_ORACLES}."
        )
    draws = " and draws pictures of the class" if facts.draws else ""
    yield f"The old kit, {facts.kit}, still holds the model before{draws}."
    if _has_new_kit(facts):
        looked = (
            "What the new kit draws was compared with training images of kept classes (`copying` in"
            " metrics.json), but not searched for the class."
            if compared
            else "Nobody looked at what the new kit draws."
        )
        yield (
            f"{looked} Its prompts of the class are gone, and what draws has learned from its other"
            " pictures alone."
        )
    else:
        yield "No new kit was made: a next request has only the old one to draw from."
    yield (
        "Nobody looked at copies: backups, logs, other copies of weights and kit, other models made"
        " from the original or taught by it."
    )
    yield (
        "The training images themselves, and decoded copies in this library's cache folder, are"
        " as they were."
    )
    if len(facts.forget) > 1 and measured:
        yield (
            "Values are means over the classes that are gone; each one on its own was not judged,"
            " and one of them may be worse."
        )
    yield "Nobody asked whether one certain image can be told to have been trained on."
    yield "Images of kept classes may show the forgotten class, too."
    yield (
        "Attacks that are not among these tests, and stronger attackers, were not tried"
        f"{_limits(document)}."
    )
    if measured:
        yield "The class was shown by images of this library's own splits of the data alone."
    each = document["cost"]["seconds_each"]
    times = "once" if len(each) == 1 else f"{len(each)} times"
    yield f"Seconds were measured {times}, on one machine; elsewhere they differ."


def _limits(document: Json) -> str:
    """Return what those had who tried to bring the class back, where anybody did."""
    tried = document["metrics"].get("relearning", {})
    shots = [int(name[1:]) for name in tried if name[1:].isdigit()]
    steps = document.get("steps", {}).get("relearning")
    if not shots or not steps:
        return ""
    most = f"at most {max(shots)} images of the class and {max(steps)} steps"
    return f" (to bring the class back, `relearning` had {most})"


def _has_new_kit(facts: Facts) -> bool:
    return any(file["what"] == NEW_KIT for file in facts.files)


def _next(said: str | None, facts: Facts) -> Iterator[str]:
    if said in (None, "not refuted"):
        yield (
            "Measure: train models without the class to compare with (`sweep=oracles`), then run"
            " unlearning with `evaluation=full`. Until then nothing shows that this model forgets."
        )
    elif said == "invalid":
        yield "Find out why the comparison does not work: its reason stands above."
    elif not said.startswith("forgets"):
        yield (
            "Do not use this model as one that has forgotten. A model retrained without the class"
            " never saw it (`unlearner=retrain`, which reads images of the kept classes)."
        )
    when = "Delete" if said is not None and said.startswith("forgets") else "In the end, delete"
    yield (
        f"{when} the files that are marked below, and every copy of them: as long as one is there,"
        " so is the class."
    )
    if _has_new_kit(facts):
        yield (
            "Keep the new kit: the next request starts from it."
            if said is not None and said.startswith("forgets")
            else "Start no further request from the new kit: it counts the class as forgotten."
        )
    else:
        yield "Decide, before the old kit is deleted, what the next request is to start from."
    yield "Keep this page, receipt.json and metrics.json: no image and no weight is in them."
