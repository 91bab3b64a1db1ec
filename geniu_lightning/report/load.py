"""Finished runs, as their `metrics.json` describes them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from geniu_lightning.errors import UserError
from geniu_lightning.report.document import (
    Json,
    below,
    document_in,
    is_number,
    leaves,
    numbers,
    readable,
    without_power,
)
from geniu_lightning.report.problem import as_text, parts_of, problem_of

PARTS = ("value", "oracle_mean", "oracle_std", "original")  # of the leaves of `metrics.json`


@dataclass(frozen=True)
class Run:
    """One unlearning run that ended, well or not.

    Attributes:
        parts: Data, imbalance, network and forgotten classes, in words.
        problem: As `problem_of`.
        basis: Module of the method in `unlearning/`, whatever its name.
        seed: Training seed of the kit.
        kit: Digest of the kit; empty where it is unknown.
        recipe: Settings of the method and of the kit's training; runs of one row share it.
        numbers: Of each of `PARTS` the numbers, by dotted names such as `accuracy.test.forget`.
        curves: Likewise the lists of numbers, such as `relearning.k10.curve`.
        oracles: Training seeds of the models that it was compared with.
        families: Of the metrics that it was evaluated with; they tell the tier of evaluation.
        settings: Of the run; `trained` has those of its kit.
        document: What its file holds, in the form of version 3.
        findings: All that speaks against the model, that of the verdict first.
        powerless: Families of attacks that could not have found the class.
        failed: Why the run failed; empty where it ended well.
        failed_again: Why a later evaluation failed; the values are then those of the earlier one.
        difference: What of the problem tells it from others with the same parts.
    """

    folder: Path
    parts: tuple[str, str, str, str]
    problem: dict[str, str]
    method: str
    basis: str
    seed: int
    kit: str
    recipe: str
    numbers: dict[str, dict[str, float]]
    curves: dict[str, dict[str, list[float]]]
    oracles: tuple[int, ...]
    families: frozenset[str]
    settings: Json
    document: Json
    findings: Sequence[Json] = ()
    powerless: Sequence[str] = ()
    verdict: str | None = None
    original_verdict: str | None = None
    failed: str = ""
    failed_again: str = ""
    difference: str = ""

    @property
    def setting(self) -> str:
        """All parts in one line; runs that share it are about one problem."""
        return ", ".join(filter(None, (*self.parts, self.difference)))


def find(folders: Sequence[Path]) -> list[Run]:
    """Return the unlearning runs at or below some folders that ended, well or not."""
    files = [file for name in ("metrics.json", "failed.json") for file in below(folders, name)]
    runs = readable(sorted({file.parent for file in files}), read)
    if not runs:
        raise UserError(f"no finished unlearning run in {', '.join(map(str, folders))}")
    return _told_apart(runs)


def find_training(folders: Sequence[Path]) -> list[tuple[Path, Json, dict[str, str]]]:
    """Return picture of proxies, settings and problem of the training runs that left a picture."""
    return readable(below(folders, "proxies.png"), _training)


def _training(picture: Path) -> tuple[Path, Json, dict[str, str]] | None:
    file = picture.parent / "metrics.json"
    if not file.is_file():
        return None
    with document_in(file) as document:
        run = document["run"]
        if run.get("job") != "train":
            return None
        try:
            Image.open(picture).verify()
        except (OSError, SyntaxError) as error:
            raise UserError(f"{picture} cannot be read as a picture: {error}") from error
        precision = run.get("trainer", {}).get("precision")  # where a kit has `precision`
        return picture, run, problem_of(run | {"precision": precision})


def read(folder: Path) -> Run | None:
    """Return the unlearning run in a folder; `None` where there is none."""
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


def _run(folder: Path, document: Json) -> Run:
    run, trained = document["run"], document["run"]["trained"]
    name, module = str(run["unlearner"]["name"]), str(run["unlearner"].get("_target_", ""))
    if not isinstance(run.get("seed"), int | None):
        raise TypeError(f"a seed is an integer, not {run['seed']!r}")
    found = list(leaves(document.get("metrics", {})))
    measured = {part: numbers(found, part) for part in PARTS}
    costs = document.get("cost", {}).items()
    measured["value"] |= {f"cost.{k}": float(v) for k, v in costs if is_number(v)}
    if "cost.retrain_seconds" in measured["value"]:  # what unlearning costs, for a retrained model
        measured["oracle_mean"]["cost.seconds"] = measured["value"]["cost.retrain_seconds"]
    before = run.get("forgotten_before", [])  # a second request begins with another model than one
    forget = [k for k in run["forget"] if k not in before]
    return Run(
        folder,
        (*parts_of(trained), f"forget {forget}{f' after {before}' if before else ''}"),
        problem_of(trained),
        method=name,
        basis=module.rpartition(".")[0].rpartition(".")[2] or name,
        seed=int(trained["seed"]),
        kit=str(run.get("kit_sha256") or ""),
        recipe=as_text([run["unlearner"], trained.get("training")]),
        numbers=measured,
        curves={
            part: {
                name: [float(number) for number in leaf[part]]
                for name, leaf in found
                if isinstance(leaf.get(part), list) and all(map(is_number, leaf[part]))
            }
            for part in PARTS
        },
        oracles=tuple(map(int, document.get("oracles") or ())),
        families=frozenset(run["evaluation"]["metrics"]),
        settings=run,
        document=document,
        findings=[dict(finding) for finding in document.get("findings") or ()],
        powerless=without_power(document),
        verdict=_word(document.get("verdict")),
        original_verdict=_word((document.get("controls") or {}).get("original")),
        failed=str(document.get("failed", "")),
    )


def _word(verdict: object) -> str | None:
    if not isinstance(verdict, str | None):
        raise TypeError(f"a verdict is a word, not {verdict!r}")
    return verdict


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Return the runs; where one setting's name stands for several problems, it says what differs.

    Models of different problems are neither averaged nor compared.
    """
    problems: dict[str, list[set[tuple[str, str]]]] = {}
    for run in runs:
        problems.setdefault(run.setting, []).append({*run.problem.items()})
    differing = {}
    for setting, every in problems.items():
        shared = every[0].intersection(*every)
        differing[setting] = sorted({name for own in every for name, _ in own - shared})
    return [
        replace(
            run,
            difference=", ".join(
                f"{name} {run.problem.get(name, 'null')}" for name in differing[run.setting]
            ),
        )
        for run in runs
    ]
