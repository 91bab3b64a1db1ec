"""What a command writes, prints and logs of an evaluation."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from geniu_lightning.cli import terminal
from geniu_lightning.cli.request import Request
from geniu_lightning.data.module import ImageData
from geniu_lightning.evaluation.evaluator import Evaluation
from geniu_lightning.files import write_json
from geniu_lightning.kit.file import Kit
from geniu_lightning.report import pictures
from geniu_lightning.runs.oracles import OracleBank
from geniu_lightning.tracking.charts import Shown, numbers_of

VERSION = 2  # of metrics.json


@dataclass(frozen=True)
class Result:
    """The evaluation of a model, or why there is none.

    Attributes:
        evaluation: Without values where nothing was measured.
        oracles: Training seeds of the oracles that the model was compared with.
        missing: Why nothing was measured; empty where something was.
    """

    evaluation: Evaluation
    oracles: list[int] = field(default_factory=list)
    missing: str = ""

    @property
    def ruling(self) -> dict[str, Any]:
        """The verdict and all behind it, as `metrics.json` holds them."""
        if self.evaluation.decision is None:
            return {"verdict": None, "reason": self.missing or "nothing was unlearned"}
        return self.evaluation.decision.as_json()


def document(
    result: Result,
    about: dict[str, Any],  # any JSON value
    bank: OracleBank | None,
) -> dict[str, Any]:
    """Return the content of `metrics.json`.

    Args:
        result: Of the evaluation.
        about: `run` and, of an unlearning run, `cost`.
        bank: Whose oracles tell what retraining costs.
    """
    if "cost" in about and bank is not None:
        seconds = bank.seconds()
        retraining = (
            statistics.median(seconds) if seconds else {"absent": "no oracle was trained yet"}
        )
        about = about | {"cost": about["cost"] | {"retrain_seconds": retraining}}
    return {
        "version": VERSION,
        **result.ruling,
        "oracles": result.oracles,
        "steps": result.evaluation.steps,
        **about,
        "metrics": result.evaluation.metrics or {"accuracy": {"absent": result.missing}},
    }


def write(
    folder: Path,
    request: Request,
    result: Result,
    content: Mapping[str, Any],  # any JSON value
) -> None:
    """Write `metrics.json` and pictures of confusions, and print tables.

    Args:
        folder: Of the run.
        request: Kit and forgotten classes.
        result: Of the evaluation.
        content: As `document` returns it.
    """
    write_json(folder / "metrics.json", content)
    found, names = result.evaluation, request.kit.info.class_names
    split = request.config.evaluation.split
    if found.accuracies:
        rows = [
            [name, "forget" if k in request.forget else "", before, after]
            for k, (name, before, after) in enumerate(
                zip(names, found.accuracies["before"], found.accuracies["after"], strict=True)
            )
        ]
        terminal.table(f"{split} accuracy", ["class", "", "before", "after"], rows)
    if found.decision is not None:
        terminal.verdict(found.decision, len(result.oracles))
    for when, counts in found.confusions.items():
        title = f"{when} unlearning, {split}"
        pictures.confusion(counts, names, title, folder / f"confusion_{when}.png")


def shown(
    result: Result,
    request: Request,
    cost: Mapping[str, Any],  # any JSON value
) -> Shown:
    """Return what loggers show of a run that has ended."""
    found, ruling = result.evaluation, result.ruling
    summary = {
        **numbers_of(found.metrics, cost),
        "verdict": ruling["verdict"] or "none",
        "reason": ruling["reason"],
    }
    return Shown(
        summary,
        classes=request.kit.info.class_names,
        forget=request.forget,
        split=request.config.evaluation.split,
        accuracies=found.accuracies,
        confusions=found.confusions,
        metrics=found.metrics,
        steps=found.steps,
    )


def class_table(
    found: Evaluation, kit: Kit, data: ImageData, split: str
) -> tuple[list[str], list[list[object]]]:
    """Return columns and rows of the table of classes after training."""
    measured = torch.bincount(data.labels(split), minlength=len(data.names)).tolist()
    accuracies: Sequence[object] = found.accuracies.get("after") or ["not measured"] * len(
        data.names
    )
    rows: list[list[object]] = [
        [name, count, n, accuracy]
        for name, count, n, accuracy in zip(
            data.names, kit.info.class_counts, measured, accuracies, strict=True
        )
    ]
    return ["class", "training images", f"{split} images", f"{split} accuracy"], rows
