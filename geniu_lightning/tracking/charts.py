"""What a dashboard shows of an evaluation: plain values, and wandb's own charts of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geniu_lightning.evaluation.evaluator import Evaluation
from geniu_lightning.report.document import leaves

if TYPE_CHECKING:  # wandb is imported late
    import wandb

CURVES = ("curve", "retain_curve")
SUFFIXES = {"oracles": "oracle_mean", "oracles_std": "oracle_std", "z": "z"}
LINES = {"model": "value", "oracles": "oracle_mean", "original": "original"}


@dataclass(frozen=True)
class Shown:
    """What is shown of a run that has ended.

    Args:
        summary: Final values, for a table of runs.
        evaluation: Of the model; after training, where `forget` is empty, of the original alone.
        split: That the evaluation's accuracies and confusions are of.
        pictures: Files by name.
    """

    summary: Mapping[str, float | str]
    evaluation: Evaluation
    classes: Sequence[str]
    forget: Sequence[int]
    split: str
    pictures: Mapping[str, Path] = field(default_factory=dict)

    @property
    def moments(self) -> tuple[str, ...]:
        """When the evaluated models were there."""
        return ("before", "after") if self.forget else ("before",)


def numbers_of(metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, float]:
    """Return the single numbers of `metrics.json` and its cost by dotted names.

    With oracles also `NAME.oracles` (their mean), `NAME.oracles_std` and `NAME.z`.
    """
    found: dict[str, float] = {}
    for name, leaf in leaves(metrics):
        if isinstance(leaf.get("value"), int | float):
            parts = {f"{name}.{suffix}": leaf.get(part) for suffix, part in SUFFIXES.items()}
            found |= {name: leaf["value"]} | {k: v for k, v in parts.items() if v is not None}
    return found | {f"cost.{k}": v for k, v in cost.items() if isinstance(v, int | float)}


def charts_of(shown: Shown) -> dict[str, Any]:
    """Return wandb's charts and tables of what there is to show, by name."""
    metrics = shown.evaluation.metrics
    return {**_classes(shown, metrics), **_confusions(shown), **_curves(shown, metrics)}


def _classes(shown: Shown, metrics: dict[str, Any]) -> dict[str, Any]:
    import wandb

    if not shown.evaluation.accuracies:
        return {}
    columns: dict[str, Sequence[float | None]] = {
        when: shown.evaluation.accuracies[when] for when in shown.moments
    }
    oracles = metrics.get("accuracy", {}).get(shown.split, {}).get("per_class", {})
    if shown.forget and oracles.get("oracle_mean") is not None:
        columns["oracles"] = oracles["oracle_mean"]
    values = {
        when: [None if x is None or math.isnan(x) else x for x in column]
        for when, column in columns.items()
    }
    sides = ["forget" if k in shown.forget else "retain" for k in range(len(shown.classes))]
    rows = zip(shown.classes, sides, *values.values(), strict=True)
    charts: dict[str, Any] = {"classes/table": _table(["class", "side", *values], rows)}
    for when, column in values.items():
        bars = _table(["class", "accuracy"], zip(shown.classes, column, strict=True))
        title = f"{shown.split} accuracy, {when}"
        charts[f"classes/{when}"] = wandb.plot.bar(bars, "class", "accuracy", title=title)
    return charts


def _confusions(shown: Shown) -> dict[str, Any]:
    """Return charts of the matrices; wandb's `confusion_matrix` would count answers one by one."""
    import wandb

    columns = ["Actual", "Predicted", "nPredictions"]
    charts = {}
    found = shown.evaluation.confusions
    for when in shown.moments if found else ():
        rows = [
            (actual, predicted, count)
            for actual, counts in zip(shown.classes, found[when].tolist(), strict=True)
            for predicted, count in zip(shown.classes, counts, strict=True)
        ]
        charts[f"confusion/{when}"] = wandb.plot_table(
            "wandb/confusion_matrix/v1",
            _table(columns, rows),
            {name: name for name in columns},
            {"title": f"{shown.split}, {when}"},
        )
    return charts


def _curves(shown: Shown, metrics: dict[str, Any]) -> dict[str, Any]:
    import wandb

    charts = {}
    for name, leaf in leaves(metrics):
        steps = shown.evaluation.steps.get(name.partition(".")[0])
        if name.rpartition(".")[2] in CURVES and steps is not None and "value" in leaf:
            lines = {who: leaf[part] for who, part in LINES.items() if leaf.get(part) is not None}
            charts[f"curves/{name}"] = wandb.plot.line_series(
                [*steps],
                [*lines.values()],
                keys=[*lines],
                title=name,
                xname="steps of fine-tuning",
            )
    return charts


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> "wandb.Table":
    import wandb

    return wandb.Table(columns=[*columns], data=[[*row] for row in rows])
