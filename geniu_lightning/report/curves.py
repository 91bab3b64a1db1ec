"""Relearning curves over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from geniu_lightning.report.runs import Run
from geniu_lightning.report.tables import Table

CURVE = "relearning.k10.curve"
AREA = "relearning.k10.area"


@dataclass(frozen=True)
class Curves:
    """Accuracy on forgotten classes while they are taught again.

    Attributes:
        steps: Of fine-tuning, where the accuracies were read.
        methods: Mean over seeds, by the method's name.
        oracles: Mean over the oracles; empty without any.
        original: Mean over kits; empty where it is not known.
        left_out: Methods of which a run has no curve that could be read beside the others.
    """

    steps: Sequence[float]
    methods: dict[str, list[float]]
    oracles: list[float] = field(default_factory=list)
    original: list[float] = field(default_factory=list)
    left_out: Sequence[str] = ()


def curves_of(table: Table) -> Curves | None:
    """Return the curves of a setting; ``None`` where no run has one."""
    runs = [run for run in table.runs if not run.failed]
    steps = next((run.steps for run in runs if run.steps and CURVE in run.found.curves), None)
    if steps is None:
        return None
    readable = [run for run in runs if run.steps == steps and CURVE in run.found.curves]
    names = sorted({run.method for run in runs})
    odd = {run.method for run in runs if run not in readable}
    return Curves(
        steps,
        {
            name: _over_kits([run for run in readable if run.method == name])
            for name in names
            if name not in odd
        },
        _mean([run.oracles.mean.curves.get(CURVE, []) for run in readable]),
        _mean([run.original.curves.get(CURVE, []) for run in readable]),
        sorted(odd),
    )


def _over_kits(runs: Sequence[Run]) -> list[float]:
    """Return the mean over kits of the means over the runs from one kit."""
    kits: dict[int, list[list[float]]] = {}
    for run in runs:
        kits.setdefault(run.seed, []).append(run.found.curves[CURVE])
    return _mean([_mean(own) for own in kits.values()])


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean in each place over the curves that are there."""
    return [statistics.fmean(column) for column in zip(*filter(None, curves), strict=True)]
