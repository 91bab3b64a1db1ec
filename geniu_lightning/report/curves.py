"""The relearning figure: how fast the forgotten class comes back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from geniu_lightning.report.aggregate import LABELS
from geniu_lightning.report.canvas import add_legend, add_note, canvas
from geniu_lightning.report.leaves import RELEARNING_CURVE
from geniu_lightning.report.load import Run
from geniu_lightning.report.tables import Table

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Curves:
    """Accuracy on forgotten classes while they are taught again.

    Attributes:
        steps: Steps of fine-tuning after which the accuracies were measured.
        methods: Mean over seeds, by the method's name.
        oracles: Mean over the oracles; empty without any.
        original: Mean over kits; empty where it is unknown.
        left_out: Methods with a run that has no curve at these steps.
    """

    steps: Sequence[float]
    methods: dict[str, list[float]]
    oracles: list[float] = field(default_factory=list)
    original: list[float] = field(default_factory=list)
    left_out: Sequence[str] = ()


def curves_of(table: Table) -> Curves | None:
    """Return the curves of a setting; `None` where no run has one."""
    runs = [run for run in table.runs if not run.failed]
    with_curve = [run for run in runs if run.steps and RELEARNING_CURVE in run.measured.curves]
    if not with_curve:
        return None
    steps = with_curve[0].steps
    readable = [run for run in with_curve if run.steps == steps]
    left_out = {run.method for run in runs if run not in readable}
    names = sorted({run.method for run in runs} - left_out)
    return Curves(
        steps,
        {name: _over_kits([run for run in readable if run.method == name]) for name in names},
        _mean([run.oracles.mean.curves.get(RELEARNING_CURVE, []) for run in readable]),
        _mean([run.original.curves.get(RELEARNING_CURVE, []) for run in readable]),
        sorted(left_out),
    )


def relearning(table: Table) -> "Figure | None":
    """Draw the accuracy on the forgotten class while ten of its images are taught again.

    Returns:
        `None` where no run was attacked so.
    """
    curves = curves_of(table)
    if curves is None:
        return None
    figure, (axes,) = canvas(7.0, 4.2, table.setting)
    order = sorted(curves.methods.items(), key=lambda item: -sum(item[1]))
    for k, (name, curve) in enumerate(item for item in order if item[0] != "none"):
        style, colour = DASHES[k // len(COLOURS) % len(DASHES)], COLOURS[k % len(COLOURS)]
        axes.plot(curves.steps, curve, style, color=colour, lw=1.2, label=LABELS.get(name, name))
    if before := curves.methods.get("none", curves.original):
        axes.plot(curves.steps, before, color="0.6", lw=3, label=LABELS["none"], zorder=1)
    if curves.oracles:
        axes.plot(curves.steps, curves.oracles, color="black", lw=3, label="oracles", zorder=1)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks(curves.steps, [f"{step:g}" for step in curves.steps])
    axes.minorticks_off()
    axes.set_xlabel("steps of fine-tuning on ten images of the forgotten class")
    axes.set_ylabel("accuracy on the forgotten class")
    axes.set_ylim(-0.03, 1.03)
    if curves.left_out:
        left_out = ", ".join(curves.left_out)
        add_note(figure, [f"left out, for a run has no curve at these steps: {left_out}"])
    add_legend(axes)
    return figure


def _over_kits(runs: Sequence[Run]) -> list[float]:
    """Return the mean over kits of the means over the runs from one kit."""
    kits: dict[int, list[list[float]]] = {}
    for run in runs:
        kits.setdefault(run.seed, []).append(run.measured.curves[RELEARNING_CURVE])
    return _mean([_mean(own) for own in kits.values()])


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean at each step over the curves that are not empty."""
    import numpy as np

    found = [curve for curve in curves if curve]
    mean: list[float] = np.mean(found, axis=0).tolist() if found else []
    return mean
