"""Finished runs as they describe themselves, gathered over seeds."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geniu_lightning.errors import UserError


@dataclass(frozen=True)
class Run:
    """One unlearning run that ended, well or not.

    Attributes:
        folder: Where it is.
        setting: What was forgotten from what: data, imbalance, network, classes.
        method: Name of the method; an experiment that changes its settings changes its name too.
        seed: Training seed of the kit it began with.
        recipe: How the kit was trained and the method set, which runs of one row share.
        word: What the evaluation says of it; ``None`` where it says nothing.
        values: Numbers by dotted names, such as ``accuracy.test.forget`` and ``cost.seconds``.
        failed: Why there are none; empty where the run ended well.
    """

    folder: Path
    setting: str
    method: str
    seed: int
    recipe: str
    values: dict[str, float]
    word: str | None = None
    failed: str = ""


@dataclass(frozen=True)
class Row:
    """One method in one setting, over seeds.

    Attributes:
        setting: As in :class:`Run`.
        method: As in :class:`Run`.
        seeds: Training seeds, sorted.
        mean: Of each number over the seeds that have it.
        std: Its deviation (divisor n - 1); absent with one seed.
        words: How many of its runs the evaluation gave which word.
        failures: Training seeds whose run failed, and why.
    """

    setting: str
    method: str
    seeds: tuple[int, ...]
    mean: dict[str, float]
    std: dict[str, float]
    words: dict[str, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)


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


def gather(runs: Iterable[Run]) -> list[Row]:
    """Return a row for each method in each setting.

    Raises:
        UserError: If runs of one method and setting share a seed, or differ in more than the seed.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.setting, run.method), []).append(run)
    rows = []
    for (setting, method), members in sorted(groups.items()):
        well = _by_seed(run for run in members if not run.failed)
        values: dict[str, list[float]] = {}
        for run in well.values():
            for name, value in run.values.items():
                values.setdefault(name, []).append(value)
        rows.append(
            Row(
                setting,
                method,
                tuple(sorted(well)),
                {name: statistics.fmean(found) for name, found in values.items()},
                {k: statistics.stdev(found) for k, found in values.items() if len(found) > 1},
                dict(Counter(run.word for run in well.values() if run.word)),
                # what failed and was then done elsewhere is no failure
                {run.seed: run.failed for run in members if run.failed and run.seed not in well},
            )
        )
    return rows


def _by_seed(runs: Iterable[Run]) -> dict[int, Run]:
    found: dict[int, Run] = {}
    for run in runs:
        if run.seed in found:
            raise UserError(
                f"{found[run.seed].folder} and {run.folder} are the same method on kits of the same"
                " training seed; name one of them"
            )
        other = next(iter(found.values()), run)
        if other.recipe != run.recipe:
            raise UserError(
                f"{other.folder} and {run.folder} have one name and are not the same experiment:"
                " their training or the method's settings differ; set unlearner.name, or name one"
            )
        found[run.seed] = run
    return found


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
        run = document["run"]
        if run.get("job") != "unlearn":
            return None
        trained = run["trained"]
        return Run(
            folder=file.parent,
            setting=_setting(trained, run["forget"]),
            method=str(run["unlearner"]["name"]),
            seed=trained["seed"],
            recipe=json.dumps(
                [run["unlearner"], trained.get("training"), trained.get("precision")],
                sort_keys=True,
            ),
            values=_numbers(document.get("metrics", {}))
            | {f"cost.{k}": float(v) for k, v in document.get("cost", {}).items() if _is_number(v)},
            word=document.get("word"),
            failed=document.get("failed", ""),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as the metrics of a run: {error!r}") from error


def _setting(trained: dict[str, Any], forget: list[int]) -> str:
    imbalance = dict(trained["imbalance"])
    kind = str(imbalance.pop("_target_")).rpartition(".")[2]
    imbalance.pop("_partial_", None)
    if not imbalance.get("seed"):  # said where it is not the usual one: other images were kept
        imbalance.pop("seed", None)
    details = ", ".join(f"{k} {v}" for k, v in sorted(imbalance.items()))
    network = str(trained["model"]["_target_"]).rpartition(".")[2]
    width = trained["model"].get("width")
    return (
        f"{trained['data']['name']}, {kind}{f' ({details})' if details else ''},"
        f" {network}{f' width {width}' if width else ''}, forget {forget}"
    )


def _numbers(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, node in tree.items():
        if not isinstance(node, dict) or "absent" in node:
            continue
        if "value" not in node:
            found |= _numbers(node, f"{prefix}{name}.")
        elif _is_number(node["value"]):
            found[prefix + name] = float(node["value"])
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
