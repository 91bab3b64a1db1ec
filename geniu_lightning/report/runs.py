"""Finished runs as they describe themselves in their ``metrics.json``."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geniu_lightning.errors import UserError
from geniu_lightning.report.leaves import Leaf, is_number, leaves, lists, numbers


@dataclass(frozen=True)
class Found:
    """What was measured of one model, by dotted names.

    Attributes:
        values: Numbers, such as ``accuracy.test.forget`` and ``cost.seconds``.
        curves: Lists of numbers, such as ``relearning.k10.curve``.
    """

    values: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Oracles:
    """The retrained models that a run was compared with.

    Attributes:
        seeds: Their training seeds; empty where there were none.
        mean: Means over them.
        std: Deviations of the numbers between them.
        words: How many of them the rule gave which word.
    """

    seeds: tuple[int, ...] = ()
    mean: Found = field(default_factory=Found)
    std: dict[str, float] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One unlearning run that ended, well or not.

    Attributes:
        folder: Where it is.
        parts: What was forgotten from what: data, imbalance, network, classes.
        method: Name of the method; an experiment that changes its settings changes its name too.
        basis: The file of ``unlearning/`` that the method is in, whatever its name.
        seed: Training seed of the kit it began with.
        training: How the kit was trained, as text.
        recipe: The method's settings, as text; runs of one row share it and ``training``.
        found: What was measured.
        oracles: What it was compared with.
        original: What was measured of the original beside it.
        original_word: What the evaluation says of the original; ``None`` where it says nothing.
        word: What the evaluation says of the run; ``None`` where it says nothing.
        reason: Why it says so.
        deciding: The values that decided, as the evaluation wrote them.
        steps: At which relearning was read; empty where the settings do not say it.
        revision: Of the package's sources; empty where it is not known.
        failed: Why there is nothing; empty where the run ended well.
    """

    folder: Path
    parts: tuple[str, str, str, str]
    method: str
    basis: str
    seed: int
    training: str
    recipe: str
    found: Found
    oracles: Oracles
    original: Found
    original_word: str | None = None
    word: str | None = None
    reason: str = ""
    deciding: tuple[dict[str, Any], ...] = ()
    steps: tuple[float, ...] = ()
    revision: str = ""
    failed: str = ""

    @property
    def setting(self) -> str:
        """All parts in one line."""
        return ", ".join(self.parts)


@dataclass(frozen=True)
class Trained:
    """A training run that left a picture of the kit's proxies.

    Attributes:
        picture: The file.
        parts: As of a :class:`Run`, without the classes.
        seed: Training seed.
        training: As of a :class:`Run`.
    """

    picture: Path
    parts: tuple[str, str, str]
    seed: int
    training: str


def find(folders: Sequence[Path]) -> list[Run]:
    """Return the unlearning runs at or below some folders that ended, well or not.

    Raises:
        UserError: If there is none, or a file cannot be read.
    """
    names = ("metrics.json", "failed.json")
    found = {file.parent for folder in folders for name in names for file in folder.rglob(name)}
    runs = [run for folder in sorted(found) if (run := read(folder)) is not None]
    if not runs:
        raise UserError(f"no finished unlearning run in {', '.join(map(str, folders))}")
    return runs


def trained(folders: Sequence[Path]) -> list[Trained]:
    """Return the training runs at or below some folders that left a picture of their proxies.

    Raises:
        UserError: If a file cannot be read.
    """
    pictures = {file for folder in folders for file in folder.rglob("proxies.png")}
    return list(_trained(sorted(pictures)))


def _trained(pictures: Sequence[Path]) -> Iterator[Trained]:
    for picture in pictures:
        file = picture.parent / "metrics.json"
        if file.is_file():
            try:
                run = json.loads(file.read_text())["run"]
                if run.get("job") == "train":
                    yield Trained(picture, _parts(run), run["seed"], _text(run.get("training")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _unreadable(file, error) from error


def read(folder: Path) -> Run | None:
    """Return the unlearning run in a folder; ``None`` where there is none.

    Raises:
        UserError: If its file cannot be read.
    """
    file = folder / ("failed.json" if (folder / "failed.json").is_file() else "metrics.json")
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text())
        return _run(folder, document) if document["run"].get("job") == "unlearn" else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(file, error) from error


def _run(folder: Path, document: dict[str, Any]) -> Run:
    run, cost = document["run"], document.get("cost", {})
    name = str(run["unlearner"]["name"])
    found = list(leaves(document.get("metrics", {})))
    costs = {f"cost.{k}": float(v) for k, v in cost.items() if is_number(v)}
    metrics = run.get("evaluation", {}).get("metrics") or {}
    return Run(
        folder=folder,
        parts=(*_parts(run["trained"]), f"forget {run['forget']}"),
        method=name,
        basis=(str(run["unlearner"].get("_target_", "")).split(".") * 2)[-2] or name,
        seed=run["trained"]["seed"],
        training=_text(run["trained"].get("training")),
        recipe=_text([run["unlearner"], run["trained"].get("precision")]),
        found=Found(numbers(found, "value") | costs, lists(found, "value")),
        oracles=_oracles(document, found, costs),
        original=Found(numbers(found, "original"), lists(found, "original")),
        original_word=(document.get("controls") or {}).get("original"),
        word=document.get("word"),
        reason=str(document.get("word_reason") or ""),
        deciding=tuple(document.get("deciding") or ()),
        steps=tuple((metrics.get("relearning") or {}).get("steps") or ()),
        revision=str(run.get("revision") or ""),
        failed=str(document.get("failed", "")),
    )


def _oracles(
    document: dict[str, Any], found: list[tuple[str, Leaf]], costs: dict[str, float]
) -> Oracles:
    mean = numbers(found, "oracle_mean")
    if "cost.retrain_seconds" in costs:  # what unlearning takes, for a model retrained
        mean["cost.seconds"] = costs["cost.retrain_seconds"]
    return Oracles(
        tuple(document.get("oracles") or ()),
        Found(mean, lists(found, "oracle_mean")),
        numbers(found, "oracle_std"),
        dict(document.get("oracle_words") or {}),
    )


def _parts(trained: dict[str, Any]) -> tuple[str, str, str]:
    """Return data, imbalance and network in words."""
    imbalance = dict(trained["imbalance"])
    kind = str(imbalance.pop("_target_")).rpartition(".")[2]
    imbalance.pop("_partial_", None)
    if not imbalance.get("seed"):  # said where it is not the usual one: other images were kept
        imbalance.pop("seed", None)
    details = ", ".join(f"{k} {v}" for k, v in sorted(imbalance.items()))
    network = str(trained["model"]["_target_"]).rpartition(".")[2]
    width = trained["model"].get("width")
    return (
        str(trained["data"]["name"]),
        f"{kind}{f' ({details})' if details else ''}",
        f"{network}{f' width {width}' if width else ''}",
    )


def _text(settings: object) -> str:
    return json.dumps(settings, sort_keys=True)


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} cannot be read as the metrics of a run: {error!r}")
