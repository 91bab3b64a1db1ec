"""Finished runs, as their `metrics.json` describes them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from geniu_lightning.errors import UserError
from geniu_lightning.report.document import below, document_in
from geniu_lightning.report.leaves import is_number, leaves, lists, numbers
from geniu_lightning.report.problem import (
    as_text,
    difference_of,
    parts_of,
    problem_of,
    request_of,
)


@dataclass(frozen=True)
class Measured:
    """What was measured of one model, by dotted names.

    Attributes:
        values: Numbers, such as `accuracy.test.forget` and `cost.seconds`.
        curves: Lists of numbers, such as `relearning.k10.curve`.
    """

    values: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Oracles:
    """The retrained models that a run was compared with.

    Attributes:
        seeds: Their training seeds; empty where there were none.
        mean: Means over them.
        std: Standard deviations of the numbers between them.
        verdicts: How many of them the decision rule gave which verdict.
    """

    seeds: tuple[int, ...] = ()
    mean: Measured = field(default_factory=Measured)
    std: dict[str, float] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One unlearning run that ended, well or not.

    Attributes:
        folder: Where it is.
        parts: Data, imbalance, network and forgotten classes, in words.
        method: Name of the method; an experiment that changes its settings changes its name too.
        basis: Module of the method in `unlearning/`, whatever its name.
        problem: Settings that an original and its oracles follow from, by dotted names, as text.
        seed: Training seed of the kit.
        kit: Digest of the kit; empty where it is unknown.
        unlearning_seed: Seed of the method; `None` where it is unknown.
        training: How the kit was trained, as text.
        recipe: The method's settings, as text; runs of one row share it and `training`.
        evaluation: Its settings, and whether prompts were read (then they are evaluated), as text.
        measured: Of the unlearned model.
        oracles: The models that it was compared with.
        original: What was measured of the original model.
        original_verdict: `None` where there is none.
        verdict: `None` where there is none.
        reason: Why it is this verdict.
        deciding: The findings that decided, as `metrics.json` holds them.
        steps: Steps of the relearning curve; empty where they are unknown.
        revision: Git revision of the package; empty where it is unknown.
        failed: Why the run failed; empty where it ended well.
        failed_again: Why a later evaluation failed; the values are then those of the earlier one.
        difference: What of the problem tells it from others with the same parts; empty without any.
    """

    folder: Path
    parts: tuple[str, str, str, str]
    method: str
    basis: str
    problem: dict[str, str]
    seed: int
    kit: str
    unlearning_seed: int | None
    training: str
    recipe: str
    evaluation: str
    measured: Measured
    oracles: Oracles
    original: Measured
    original_verdict: str | None = None
    verdict: str | None = None
    reason: str = ""
    deciding: tuple[dict[str, Any], ...] = ()
    steps: tuple[float, ...] = ()
    revision: str = ""
    failed: str = ""
    failed_again: str = ""
    difference: str = ""

    @property
    def setting(self) -> str:
        """All parts in one line; runs that share it are about one problem."""
        return ", ".join(filter(None, (*self.parts, self.difference)))


@dataclass(frozen=True)
class TrainingRun:
    """A training run that left a picture of the kit's proxies.

    Attributes:
        picture: The file.
        parts: As of a `Run`, without the classes.
        problem: As of a `Run`.
        seed: Training seed.
        training: As of a `Run`.
    """

    picture: Path
    parts: tuple[str, str, str]
    problem: dict[str, str]
    seed: int
    training: str


def find(folders: Sequence[Path]) -> list[Run]:
    """Return the unlearning runs at or below some folders that ended, well or not.

    Raises:
        UserError: If there is none, a folder does not exist, or a file cannot be read.
    """
    files = [file for name in ("metrics.json", "failed.json") for file in below(folders, name)]
    runs = [run for folder in sorted({f.parent for f in files}) if (run := read(folder))]
    if not runs:
        raise UserError(f"no finished unlearning run in {', '.join(map(str, folders))}")
    return _told_apart(runs)


def find_training(folders: Sequence[Path]) -> list[TrainingRun]:
    """Return the training runs at or below some folders that left a picture of their proxies.

    Raises:
        UserError: If a folder does not exist, or a file cannot be read.
    """
    found = []
    for picture in below(folders, "proxies.png"):
        file = picture.parent / "metrics.json"
        if not file.is_file():
            continue
        with document_in(file) as document:
            run = document["run"]
            if run.get("job") == "train":
                precision = run.get("trainer", {}).get("precision")  # where a kit has `precision`
                problem = problem_of(run | {"precision": precision})
                training = as_text(run.get("training"))
                found.append(TrainingRun(picture, parts_of(run), problem, run["seed"], training))
    return found


def read(folder: Path) -> Run | None:
    """Return the unlearning run in a folder; `None` where there is none.

    Raises:
        UserError: If its file cannot be read.
    """
    file, failure = folder / "metrics.json", folder / "failed.json"
    # a run that ended well stays one, though evaluating it again failed
    again = failure.is_file() and file.is_file() and (folder / "done.json").is_file()
    if failure.is_file() and not again:
        file = failure
    if not file.is_file():
        return None
    with document_in(file) as document:
        if document["run"].get("job") != "unlearn":
            return None
        run = _run(folder, document)
        if again:
            run = replace(run, failed_again=json.loads(failure.read_text())["failed"])
        return run


def _run(folder: Path, document: dict[str, Any]) -> Run:
    run, cost = document["run"], document.get("cost", {})
    name = str(run["unlearner"]["name"])
    module = str(run["unlearner"].get("_target_", "")).rpartition(".")[0].rpartition(".")[2]
    found = list(leaves(document.get("metrics", {})))
    costs = {f"cost.{k}": float(v) for k, v in cost.items() if is_number(v)}
    oracle_mean = numbers(found, "oracle_mean")
    if "cost.retrain_seconds" in costs:  # what unlearning costs, for a retrained model
        oracle_mean["cost.seconds"] = costs["cost.retrain_seconds"]
    return Run(
        folder=folder,
        parts=(*parts_of(run["trained"]), request_of(run)),
        method=name,
        basis=module or name,
        problem=problem_of(run["trained"]),
        seed=run["trained"]["seed"],
        kit=str(run.get("kit_sha256") or ""),
        unlearning_seed=run.get("seed"),
        training=as_text(run["trained"].get("training")),
        recipe=as_text(run["unlearner"]),
        evaluation=as_text([run.get("evaluation"), cost.get("reads_prompts")]),
        measured=Measured(numbers(found, "value") | costs, lists(found, "value")),
        oracles=Oracles(
            tuple(document.get("oracles") or ()),
            Measured(oracle_mean, lists(found, "oracle_mean")),
            numbers(found, "oracle_std"),
            dict(document.get("oracle_verdicts") or {}),
        ),
        original=Measured(numbers(found, "original"), lists(found, "original")),
        original_verdict=(document.get("controls") or {}).get("original"),
        verdict=document.get("verdict"),
        reason=str(document.get("reason") or ""),
        deciding=tuple(document.get("deciding") or ()),
        steps=tuple(document.get("steps", {}).get("relearning") or ()),
        revision=str(run.get("revision") or ""),
        failed=str(document.get("failed", "")),
    )


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Return the runs; where one setting's name stands for several problems, it says what differs.

    Models of different problems are neither averaged nor compared.
    """
    problems: dict[str, list[dict[str, str]]] = {}
    for run in runs:
        known = problems.setdefault(run.setting, [])
        if run.problem not in known:
            known.append(run.problem)
    differences = [difference_of(run.problem, problems[run.setting]) for run in runs]
    return [replace(run, difference=text) for run, text in zip(runs, differences, strict=True)]
