"""The files that runs leave: where they are, their form, and the values in them."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from geniu_lightning.errors import UserError, printable

FORGET_ACCURACY = "accuracy.test.forget"
RETAIN_ACCURACY = "accuracy.test.retain"
RELEARNED = "relearning.k10.area"
RELEARNING_CURVE = "relearning.k10.curve"
SECONDS = "cost.seconds"
IMAGES_READ = "cost.training_images_read"
NEW_NAMES = {  # of the verdicts in version 1
    "keeps": "retained",
    "hides": "suppressed",
    "destroys": "damaged",
    "destroys without forgetting": "damaged and retained",
    "scars": "distinguishable",
    "forgets": "forgotten",
    "forgets in the model, not in the system": "forgotten in the model only",
    "not refuted": "untested",
    "invalid": "inconclusive",
}

log = logging.getLogger(__name__)
T = TypeVar("T")
Json = dict[str, Any]
Leaf = Json  # {value, direction, …} or {absent: reason}


def below(folders: Sequence[Path], name: str) -> list[Path]:
    """Return the files of a name at or below some folders, all of which must exist."""
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise UserError(f"there is no folder {', '.join(missing)}")
    return sorted(
        {
            file
            for folder in folders
            for file in folder.rglob(name)
            # a run that is repeated keeps the backup of its results under such a name
            if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        }
    )


@contextmanager
def document_in(file: Path) -> Iterator[Json]:
    """Yield a file's content; a `UserError` if it, or what is looked for in it, cannot be read."""
    try:
        yield upgraded(_printable(json.loads(file.read_text())))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = repr(error)[:200]
        raise UserError(f"{file} cannot be read as the metrics of a run: {reason}") from error


def _printable(tree: Any) -> Any:
    """Return JSON values whose texts disturb no terminal: the file may be a stranger's."""
    match tree:
        case str():
            return "\n".join(map(printable, tree.split("\n")))
        case dict():
            return {printable(name): _printable(below) for name, below in tree.items()}
        case list():
            return [_printable(below) for below in tree]
    return tree


def readable(places: Iterable[Path], read: Callable[[Path], T | None]) -> list[T]:
    """Return what is read at some places; those that cannot be read are named in the log."""
    found = []
    for place in places:
        try:
            one = read(place)
        except UserError as error:
            log.warning("left out: %s", error)
            continue
        if one is not None:
            found.append(one)
    return found


def upgraded(document: Json) -> Json:
    """Return the content of a `metrics.json` of version 1, 2 or 3 in the form of version 3.

    Earlier versions compared with oracles alone; each of their attacks is a family of its own.
    """
    version = document.get("version", 1)
    if version not in (1, 2, 3):
        raise ValueError(f"it has version {version}; this version reads 1 to 3")
    if version == 3:
        return document
    if version == 1:
        document = _of_version_2(document)
    return document | {
        "verdict_reason": document.get("reason"),
        "findings": [
            finding | {"reference": finding.get("oracles"), "against": "oracles"}
            for finding in document.get("deciding") or ()
        ],
        "attacks": [
            attack | {"family": attack["name"].partition(".")[0], "has_power": _has_power(attack)}
            for attack in document.get("tolerances") or ()
        ],
        "nulls": 0,
    }


def _of_version_2(document: Json) -> Json:
    def renamed(verdict: str | None) -> str | None:
        return NEW_NAMES.get(verdict or "", verdict)

    return document | {
        "verdict": renamed(document.get("word")),
        "reason": document.get("word_reason"),
        "controls": {k: renamed(v) for k, v in (document.get("controls") or {}).items()},
        "oracle_verdicts": {renamed(k): n for k, n in (document.get("oracle_words") or {}).items()},
        "tolerances": document.get("bands", []),
    }


def _has_power(attack: Json) -> bool:
    """Return whether the original would have failed, in a file of an earlier version."""
    return attack["reach"] is not None and attack["allowed"] < attack["reach"]


def without_power(document: Json) -> list[str]:
    """Return the families of attacks that could not have found the class."""
    attacks = document.get("attacks") or ()
    sharp = {attack["family"] for attack in attacks if attack["has_power"]}
    return [*dict.fromkeys(a["family"] for a in attacks if a["family"] not in sharp)]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """Yield each leaf with its full name, such as `accuracy.test.forget`."""
    for name, node in tree.items():
        if not isinstance(node, Mapping):  # the reason of a family that is absent as a whole
            continue
        if "absent" in node or "value" in node:
            yield prefix + name, dict(node)
        else:
            yield from leaves(node, f"{prefix}{name}.")


def numbers(found: Iterable[tuple[str, Leaf]], part: str) -> dict[str, float]:
    """Return one part of the leaves, such as `value` or `original`, where it is a number."""
    return {name: float(leaf[part]) for name, leaf in found if is_number(leaf.get(part))}


def is_number(value: object) -> bool:
    """Return whether a value of JSON is a number; `true` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
