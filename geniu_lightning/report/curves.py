"""The relearning figure: how fast the forgotten class comes back."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from geniu_lightning.report.aggregate import LABELS
from geniu_lightning.report.canvas import add_legend, add_note, canvas
from geniu_lightning.report.document import RELEARNING_CURVE
from geniu_lightning.report.load import Run
from geniu_lightning.report.tables import Table

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")


def relearning(table: Table) -> "Figure | None":
    """Draw the accuracy on the forgotten class while ten of its images are taught again."""
    runs = [run for run in table.runs if not run.failed]
    with_curve = [run for run in runs if _steps(run) and RELEARNING_CURVE in run.curves["value"]]
    if not with_curve:
        return None
    steps = _steps(with_curve[0])
    readable = [run for run in with_curve if _steps(run) == steps]
    left_out = {run.method for run in runs if run not in readable}
    curves = {
        name: _mean([run for run in readable if run.method == name], "value", by_kit=True)
        for name in sorted({run.method for run in runs} - left_out)
    }
    figure, (axes,) = canvas(7.0, 4.2, table.setting)
    order = sorted(curves.items(), key=lambda item: -sum(item[1]))
    for k, (name, curve) in enumerate(item for item in order if item[0] != "none"):
        style, colour = DASHES[k // len(COLOURS) % len(DASHES)], COLOURS[k % len(COLOURS)]
        axes.plot(steps, curve, style, color=colour, lw=1.2, label=LABELS.get(name, name))
    if before := curves.get("none", _mean(readable, "original")):
        axes.plot(steps, before, color="0.6", lw=3, label=LABELS["none"], zorder=1)
    if oracles := _mean(readable, "oracle_mean"):
        axes.plot(steps, oracles, color="black", lw=3, label="oracles", zorder=1)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks(steps, [f"{step:g}" for step in steps])
    axes.minorticks_off()
    axes.set_xlabel("steps of fine-tuning on ten images of the forgotten class")
    axes.set_ylabel("accuracy on the forgotten class")
    axes.set_ylim(-0.03, 1.03)
    if left_out:
        names = ", ".join(sorted(left_out))
        add_note(figure, [f"left out, for a run has no curve at these steps: {names}"])
    add_legend(axes)
    return figure


def _steps(run: Run) -> list[float]:
    """Return the steps at which a curve was measured; none by an earlier version."""
    steps: list[float] = run.document.get("steps", {}).get("relearning") or []
    return steps


def _mean(runs: Sequence[Run], part: str, by_kit: bool = False) -> list[float]:
    """Return the mean curve of the runs that have one; of several runs from a kit their mean."""
    import pandas

    measured = [run for run in runs if RELEARNING_CURVE in run.curves[part]]
    curves = [run.curves[part][RELEARNING_CURVE] for run in measured]
    frame = pandas.DataFrame(curves, index=[run.seed for run in measured])
    if by_kit:
        frame = frame.groupby(level=0).mean()
    mean: list[float] = frame.mean().tolist()
    return mean
