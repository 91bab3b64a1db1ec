"""The facts of a receipt: what was asked, read and found, as JSON values."""

import importlib.metadata
import json
import math
import platform
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geniu_lightning.files import now, sha256_of
from geniu_lightning.kit.header import KIT
from geniu_lightning.receipt import sentences
from geniu_lightning.receipt.sentences import STILL_INSIDE
from geniu_lightning.report.document import Json, leaves, numbers, without_power
from geniu_lightning.version import __version__

if TYPE_CHECKING:  # torch is imported late
    from geniu_lightning.kit.file import Kit

VERSION = 3  # of receipt.json


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
        weights: In the run's folder.
        document: What `metrics.json` is to hold, version 3.
        kit: What the weights were made from.
        kit_file: Its file.
        before: Accuracy of each class of the original on the evaluated split, NaN of a class
            without images; `None` where it was not measured.
        revision: Git revision of the package; `None` where it is unknown.
    """
    run, cost, verdict = document["run"], document["cost"], document["verdict"]
    forget = {k: kit.info.class_names[k] for k in run["forget"]}
    measured = set(numbers(leaves(document["metrics"]), "value"))
    versions = versions_of(revision)
    draws, new_kit = kit.prompts is not None, weights.with_name(KIT).is_file()
    counts = kit.info.archive.counts if kit.info.archive else ()
    archived = sum(count for k, count in enumerate(counts) if k not in forget)
    settings = {k: v for k, v in run["unlearner"].items() if k != "name"}
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
            "archived_images": cost["archived_images_read"],
            "archived_forgotten": cost["archived_forgotten_read"],
            "samples": cost["draws_samples"],
            "files": [kit_file.name],
        },
        "cost": {name: cost[name] for name in ("seconds", "seconds_each", "steps")},
        "found": _found(document, bool(measured), before),
        "not_checked": sentences.not_checked(
            document,
            measured,
            kit_file.name,
            draws=draws,
            sampled=kit.distribution is not None,
            archived=archived,
            new_kit=new_kit,
        ),
        "next": sentences.next_steps(verdict, new_kit),
        "files": [*_files(weights, kit_file, kit, verdict in STILL_INSIDE)],
        "version": VERSION,
    }


def versions_of(revision: str | None) -> dict[str, str | None]:
    """Return the versions of the software that computes."""
    found = {name: importlib.metadata.version(name) for name in ("torch", "pytorch-lightning")}
    own = {"geniu_lightning": __version__, "git revision": revision}
    return {**own, **found, "python": platform.python_version()}


def _found(document: Json, measured: bool, before: Sequence[float] | None) -> Json:
    verdict, findings = document["verdict"], document["findings"]
    inside = any(finding["question"] == "inside" for finding in findings)
    return {
        "verdict": verdict,
        "short": sentences.short(verdict, measured, inside),
        "meaning": sentences.meaning(verdict, measured, document["run"]["evaluation"]["metrics"]),
        "verdict_reason": document["verdict_reason"] if measured else None,
        "findings": findings,
        "oracles": len(document["oracles"]),
        "nulls": document["nulls"],
        "oracle_verdicts": document.get("oracle_verdicts", {}),
        "controls": document.get("controls", {}),
        "attacks": document.get("attacks", []),
        "blind": without_power(document),
        "values": _values(document, before),
    }


def _values(document: Json, before: Sequence[float] | None) -> list[Json]:
    """Return the values of the page's table: answers, and how much brings the class back."""
    found = dict(leaves(document["metrics"]))
    split, forget = document["run"]["evaluation"]["split"], document["run"]["forget"]
    accuracies: dict[str, float | None] = {}  # of the original
    for side in ("forget", "retain"):
        classes = [a for k, a in enumerate(before or ()) if (k in forget) == (side == "forget")]
        known = [accuracy for accuracy in classes if not math.isnan(accuracy)]
        accuracies[f"accuracy.{split}.{side}"] = statistics.fmean(known) if known else None
    rows = []
    for name in (*accuracies, *sentences.RELEARNING):
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


def _files(weights: Path, kit_file: Path, kit: "Kit", still_inside: bool) -> Iterator[Json]:
    """Yield `{what, file, sha256, delete}` of each file: the new ones, and what holds the class."""

    def entry(path: Path, what: str, delete: bool = True, name: str = "") -> Json:
        name = name or path.name
        return {"what": what, "file": name, "sha256": sha256_of(path), "delete": delete}

    yield entry(weights, "the unlearned weights", still_inside)
    new = weights.with_name(KIT)
    if new.is_file():
        yield entry(new, "the new kit, in the same folder", still_inside)
    draws = kit.prompts is not None or kit.distribution is not None
    drawing = " and what draws its classes" if draws else ""
    images = " and images of its classes" if kit.info.archive else ""
    yield entry(kit_file, f"the old kit: the model before{drawing}{images}")
    run = kit_file.parent
    if (run / "run.json").is_file():  # a run wrote the kit
        for path in sorted(run.glob("checkpoints/*.ckpt")):
            name = f"{path.parent.name}/{path.name}"
            yield entry(path, "beside the old kit: the model before", name=name)
        others = {
            weights.name: "the model before",
            KIT: "the model before and what draws its classes",
            "proxies.png": "pictures of classes",
            "samples.png": "pictures of classes",
        }
        for name, what in others.items():
            if (run / name).is_file() and name != kit_file.name:
                yield entry(run / name, f"beside the old kit: {what}")
    earlier = run / "receipt.json"
    if earlier.is_file():  # the kit is that of an earlier request
        for file in json.loads(earlier.read_text())["files"]:
            if file["delete"]:
                yield file | {"what": f"by the receipt of the request before, {file['what']}"}
    if made_for := kit.info.settings.get("weights_sha256"):
        what = "the weights that the old kit was made for"
        yield {"what": what, "file": None, "sha256": made_for, "delete": True}


def _without_folders(value: Any) -> Any:  # JSON values
    """Return settings with the names of files alone: a receipt says nothing of the machine."""
    if isinstance(value, dict):
        return {k: _without_folders(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_folders(v) for v in value]
    if isinstance(value, str) and ("/" in value or value.startswith("~")):
        return Path(value).name
    return value
