"""The facts of a receipt: what was asked, read and found, as JSON values."""

import importlib.metadata
import json
import math
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geniu_lightning.files import now
from geniu_lightning.kit.header import KIT
from geniu_lightning.receipt import sentences
from geniu_lightning.receipt.files import files_of
from geniu_lightning.receipt.sentences import STILL_INSIDE
from geniu_lightning.report.document import Json, leaves, numbers
from geniu_lightning.version import __version__

if TYPE_CHECKING:  # torch is imported late
    from geniu_lightning.kit.file import Kit

VERSION = 2  # of receipt.json
MOST_DECIDING = 3  # findings on the page; metrics.json has all


def facts_of(
    weights: Path,
    document: Json,
    kit: "Kit",
    kit_file: Path,
    before: Sequence[float] | None,
    revision: str | None,
) -> Json:
    """Return all that a receipt says of an unlearning run, as `receipt.json` holds it.

    Args:
        weights: The unlearned weights, in the run's folder.
        document: What `metrics.json` is to hold, version 2.
        kit: The kit that they were made from.
        kit_file: Its file.
        before: Accuracy of each class of the original on the split that was evaluated, NaN of a
            class without images; `None` where it was not measured.
        revision: Git revision of the package; `None` where it is unknown.
    """
    run, cost, verdict = document["run"], document["cost"], document["verdict"]
    forget = {k: kit.info.class_names[k] for k in run["forget"]}
    measured = set(numbers(leaves(document["metrics"]), "value"))
    versions = versions_of(revision)
    draws, new_kit = kit.prompts is not None, weights.with_name(KIT).is_file()
    settings = {k: v for k, v in run["unlearner"].items() if k != "name"}
    made_for = kit.info.settings.get("weights_sha256")
    return {
        "headline": sentences.headline(verdict, forget),
        "asked": {
            "classes": [
                {"index": k, "name": name, "earlier": k in kit.info.forgotten}
                for k, name in forget.items()
            ],
            "kit": kit_file.name,
            "method": run["unlearner"]["name"],
            "settings": _without_folders(settings),
            "seeds": {
                "training": run["trained"]["seed"],
                "unlearning": run["seed"],
                "evaluation": run["evaluation"]["seed"],
                "oracles": document["oracles"],
            },
        },
        "unlearned": _unlearned(weights.parent, cost, versions),
        "evaluated": {"at": now(), "versions": versions} if measured else None,
        "read": {
            "training_images": cost["training_images_read"],
            "declared": cost["access"],
            "prompts": cost["reads_prompts"],
            "files": [kit_file.name],
        },
        "cost": {name: cost[name] for name in ("seconds", "seconds_each", "steps")},
        "found": _found(document, bool(measured), before),
        "not_checked": sentences.not_checked(document, measured, kit_file.name, draws, new_kit),
        "next": sentences.next_steps(verdict, new_kit),
        "files": [*files_of(weights, kit_file, draws, verdict in STILL_INSIDE, made_for)],
        "version": VERSION,
    }


def versions_of(revision: str | None) -> dict[str, str | None]:
    """Return the versions of the software that computes."""
    found = {name: importlib.metadata.version(name) for name in ("torch", "pytorch-lightning")}
    own = {"geniu_lightning": __version__, "git revision": revision}
    return {**own, **found, "python": platform.python_version()}


def _found(document: Json, measured: bool, before: Sequence[float] | None) -> Json:
    verdict, tolerances = document["verdict"], document.get("tolerances", [])
    return {
        "verdict": verdict,
        "short": sentences.short(verdict, measured),
        "meaning": sentences.meaning(verdict, measured, document["run"]["evaluation"]["metrics"]),
        "reason": document["reason"] if measured else None,
        "oracles": len(document["oracles"]),
        "oracle_verdicts": document.get("oracle_verdicts", {}),
        "controls": document.get("controls", {}),
        "tolerances": tolerances,
        # in which not even the original differs from the oracles
        "blind": [
            tolerance["name"]
            for tolerance in tolerances
            if tolerance["reach"] is not None and tolerance["reach"] <= tolerance["allowed"]
        ],
        "values": _values(document, before),
    }


def _values(document: Json, before: Sequence[float] | None) -> list[Json]:
    """Return the values of the page: answers, what brings the class back, and what decided."""
    found = dict(leaves(document["metrics"]))
    split, forget = document["run"]["evaluation"]["split"], document["run"]["forget"]
    deciding = [finding["name"] for finding in document.get("deciding", [])]
    accuracies: dict[str, float | None] = {}  # of the original
    for side in ("forget", "retain"):
        classes = [a for k, a in enumerate(before or ()) if (k in forget) == (side == "forget")]
        known = [accuracy for accuracy in classes if not math.isnan(accuracy)]
        accuracies[f"accuracy.{split}.{side}"] = statistics.fmean(known) if known else None
    rows = []
    for name in dict.fromkeys([*accuracies, *sentences.RELEARNING, *deciding[:MOST_DECIDING]]):
        leaf = found.get(name, {})
        if "value" in leaf:
            original = accuracies.get(name) if leaf["original"] is None else leaf["original"]
            row = {"name": name, "before": original, "after": leaf["value"]}
            rows.append(row | {"oracle_mean": leaf["oracle_mean"]})
    return rows


def _unlearned(folder: Path, cost: Json, versions: Json) -> Json:
    """Return when the weights were made, and by which software where that is known."""
    done, earlier = folder / "done.json", folder / "receipt.json"
    if not done.is_file():
        return {"at": cost["ended"], "versions": versions}
    if earlier.is_file():
        found: Json = json.loads(earlier.read_text())["unlearned"]
        return found
    return {"at": cost.get("ended", json.loads(done.read_text())["ended"]), "versions": None}


def _without_folders(value: Any) -> Any:  # JSON values
    """Return settings with the names of files alone: a receipt says nothing of the machine."""
    if isinstance(value, dict):
        return {k: _without_folders(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_folders(v) for v in value]
    if isinstance(value, str) and ("/" in value or value.startswith("~")):
        return Path(value).name
    return value
