"""What a command writes, prints and logs of an evaluation."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geniu_lightning.cli import terminal
from geniu_lightning.cli.request import Request
from geniu_lightning.data.classes import labelled
from geniu_lightning.evaluation.evaluator import Evaluation
from geniu_lightning.files import write_json
from geniu_lightning.report import pictures
from geniu_lightning.runs.oracles import OracleBank
from geniu_lightning.tracking.charts import Shown, numbers_of

VERSION = 3  # of metrics.json


@dataclass(frozen=True)
class Result:
    """The evaluation of a model, without values where nothing was measured."""

    evaluation: Evaluation
    oracles: list[int] = field(default_factory=list)  # training seeds
    nulls: int = 0  # null runs
    missing: str = ""  # why nothing was measured


def document(result: Result, about: dict[str, Any], bank: OracleBank | None) -> dict[str, Any]:
    """Return the content of `metrics.json`; oracles of a bank tell the cost of retraining."""
    found = result.evaluation
    if "cost" in about and bank is not None:
        seconds = bank.seconds()
        absent = {"absent": "no oracle was trained yet"}
        retraining = statistics.median(seconds) if seconds else absent
        about = about | {"cost": about["cost"] | {"retrain_seconds": retraining}}
    why = result.missing or "nothing was unlearned"
    nothing: dict[str, Any] = {"verdict": None, "verdict_reason": why, "findings": []}
    return {
        "version": VERSION,
        **(nothing if found.decision is None else found.decision.as_json()),
        "oracles": result.oracles,
        "nulls": result.nulls,
        "steps": found.steps,
        **about,
        "metrics": found.metrics or {"accuracy": {"absent": result.missing}},
    }


def write(folder: Path, request: Request, result: Result, content: Mapping[str, Any]) -> Shown:
    """Write `metrics.json` and pictures of confusions, print tables; return what loggers show."""
    write_json(folder / "metrics.json", content)
    found, names = result.evaluation, request.kit.info.class_names
    split = request.config.evaluation.split
    if found.accuracies:
        columns = (found.accuracies["before"], found.accuracies["after"])
        rows = [
            [labelled([k], names), "forget" if k in request.forget else "", before, after]
            for k, (before, after) in enumerate(zip(*columns, strict=True))
        ]
        terminal.table(f"{split} accuracy", ["class", "", "before", "after"], rows)
    if found.decision is not None:
        terminal.verdict(found.decision, len(result.oracles))
    for when, counts in found.confusions.items():
        title = f"{when} unlearning, {split}"
        pictures.confusion(counts, names, title, folder / f"confusion_{when}.png")
    summary = {
        **numbers_of(found.metrics, content.get("cost", {})),
        "verdict": str(content["verdict"] or "none"),  # of an enum wandb shows the name
        "verdict_reason": content["verdict_reason"],
        "findings": len(content["findings"]),
    }
    return Shown(summary, found, names, request.forget, split)
