"""Values of finished runs: what a sweeper maximises, and rows of the table of a sweep."""

import json
from pathlib import Path


def accuracies(folder: Path, split: str | None = None) -> dict[str, float]:
    """Return the accuracies of a finished run by name, none where they were not measured.

    Args:
        folder: Of the run.
        split: Of the images; by default the first one that was measured.
    """
    measured = json.loads((folder / "metrics.json").read_text())["metrics"].get("accuracy", {})
    leaves = next(iter(measured.values()), {}) if split is None else measured.get(split, {})
    if not isinstance(leaves, dict):  # the reason why nothing was measured
        return {}
    return {name: leaf["value"] for name, leaf in leaves.items() if "value" in leaf}


def retain_minus_forget(folder: Path, split: str) -> float | None:
    """Return A_r - A_f of a finished run, `None` where they were not measured."""
    found = accuracies(folder, split)
    return found["retain"] - found["forget"] if {"retain", "forget"} <= set(found) else None


def training_row(folder: Path) -> list[object]:
    """Return name, mean accuracy and that of the worst class of a training run."""
    found = accuracies(folder)
    return [folder.name, *(found.get(name, "-") for name in ("retain", "worst_retained"))]


def unlearning_row(folder: Path) -> list[object] | None:
    """Return method, A_f, A_r, seconds and verdict of an unlearning run; `None` for an oracle."""
    from geniu_lightning.report.load import read

    run = read(folder)
    if run is None:
        return None
    values = run.numbers["value"]
    split = "test" if "accuracy.test.retain" in values else "validation"
    sides = [values.get(f"accuracy.{split}.{side}", "-") for side in ("forget", "retain")]
    return [run.method, *sides, f"{values['cost.seconds']:.2f}", run.verdict or "-"]
