"""What a dashboard shows of an evaluation, in plain values: a tracker makes it its own."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from geniu_lightning.evaluation.evaluator import Evaluation
from geniu_lightning.report.leaves import leaves

Cell = str | int | float | None
CURVES = ("curve", "retain_curve")


@dataclass(frozen=True)
class Sheet:
    """A table."""

    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Bars:
    """A number for each name."""

    title: str
    values: dict[str, float | None]


@dataclass(frozen=True)
class Matrix:
    """Counts of true class (row) and answer (column)."""

    title: str
    names: Sequence[str]
    counts: Tensor


@dataclass(frozen=True)
class Lines:
    """Several lines over the same places."""

    title: str
    xname: str
    xs: list[int]
    series: dict[str, list[float]]


Chart = Sheet | Bars | Matrix | Lines


@dataclass(frozen=True)
class Shown:
    """All that a dashboard shows of a run that has ended.

    Args:
        summary: Final values, for a table of runs.
        charts: By name.
        pictures: Files by name.
    """

    summary: dict[str, float | str]
    charts: dict[str, Chart]
    pictures: dict[str, Path] = field(default_factory=dict)


def charts_of(
    found: Evaluation, names: Sequence[str], forget: Sequence[int], split: str
) -> dict[str, Chart]:
    """Return what there is to show, by its name.

    Args:
        found: What evaluation found.
        names: Of the classes.
        forget: Forgotten classes; none after training, where only the original is shown.
        split: That the classes were laid out on.
    """
    return (
        _classes(found, names, forget, split)
        | _confusion(found, names, forget, split)
        | {f"curves/{name}": lines for name, lines in _curves(found)}
    )


def numbers_of(
    metrics: Mapping[str, Any],  # as metrics.json holds them
    cost: Mapping[str, Any],  # likewise
) -> dict[str, float]:
    """Return single numbers by dotted names, each beside what the oracles show.

    Returns:
        ``NAME``, and where there are oracles ``NAME.oracles`` (their mean), ``NAME.oracles_std``
        and ``NAME.z``; ``cost.NAME``.
    """
    found: dict[str, float] = {}
    for name, leaf in leaves(metrics):
        if isinstance(leaf.get("value"), int | float):
            found[name] = leaf["value"]
            beside = {"oracles": "oracle_mean", "oracles_std": "oracle_std", "z": "z"}
            found |= {
                f"{name}.{short}": leaf[full]
                for short, full in beside.items()
                if leaf.get(full) is not None
            }
    numbers = {k: v for k, v in cost.items() if isinstance(v, int | float)}
    return found | {f"cost.{name}": value for name, value in numbers.items()}


def _classes(
    found: Evaluation, names: Sequence[str], forget: Sequence[int], split: str
) -> dict[str, Chart]:
    if not found.accuracies:
        return {}
    columns: dict[str, Sequence[float | None]] = {"before": found.accuracies["before"]}
    if forget:
        columns["after"] = found.accuracies["after"]
        leaf = found.metrics.get("accuracy", {}).get(split, {}).get("per_class", {})
        if leaf.get("oracle_mean") is not None:
            columns["oracles"] = leaf["oracle_mean"]
    values = {name: [_number(v) for v in column] for name, column in columns.items()}
    rows: list[list[Cell]] = [
        [name, "forget" if k in forget else "retain", *(column[k] for column in values.values())]
        for k, name in enumerate(names)
    ]
    charts: dict[str, Chart] = {"classes/table": Sheet(["class", "side", *values], rows)}
    for when, column in values.items():
        title = f"{split} accuracy, {when}"
        charts[f"classes/{when}"] = Bars(title, dict(zip(names, column, strict=True)))
    return charts


def _confusion(
    found: Evaluation, names: Sequence[str], forget: Sequence[int], split: str
) -> dict[str, Chart]:
    counts = {k: v for k, v in found.confusions.items() if forget or k == "before"}
    return {
        f"confusion/{when}": Matrix(f"{split}, {when}", names, matrix)
        for when, matrix in counts.items()
    }


def _curves(found: Evaluation) -> Iterator[tuple[str, Lines]]:
    for name, leaf in leaves(found.metrics):
        steps = found.steps.get(name.partition(".")[0])
        if name.rpartition(".")[2] not in CURVES or steps is None or "value" not in leaf:
            continue
        series = {"model": "value", "oracles": "oracle_mean", "original": "original"}
        drawn = {who: leaf[key] for who, key in series.items() if leaf.get(key) is not None}
        yield name, Lines(name, "steps of fine-tuning", steps, drawn)


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
