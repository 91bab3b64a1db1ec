"""Figures with a point a method: what is retained against what comes back, and against time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from geniu_lightning.report.aggregate import Row
from geniu_lightning.report.canvas import (
    MARKERS,
    add_legend,
    add_note,
    canvas,
    draw_point,
    label_points,
    verdict_of,
)
from geniu_lightning.report.document import FORGET_ACCURACY, RELEARNED, RETAIN_ACCURACY, SECONDS
from geniu_lightning.report.tables import Table

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR_BELOW = 0.75  # of the largest A_r: lower points would press all others together
AXES = {
    FORGET_ACCURACY: "A_f: accuracy on the forgotten class",
    RETAIN_ACCURACY: "A_r: accuracy on retained classes",
    RELEARNED: "relearned: accuracy on the forgotten class\nthat ten images bring back",
}


def tradeoff(table: Table) -> "Figure | None":
    """Draw A_r against what ten images bring back, or against A_f where that was not measured."""
    rows = [row for row in table.rows if row.role != "oracles" and row.seeds]
    over = RELEARNED if any(RELEARNED in row.mean for row in rows) else FORGET_ACCURACY
    measured = [row for row in rows if {over, RETAIN_ACCURACY} <= row.mean.keys()]
    if not measured:
        return None
    figure, (axes,) = canvas(7.0, 4.8, table.setting)
    shown, notes = _without_far_below(measured)
    axes.set_xlim(-0.04, 1.04)
    axes.set_xlabel(AXES[over].replace("\n", " "))
    axes.set_ylabel(AXES[RETAIN_ACCURACY])
    for row in shown:
        draw_point(axes, row, over, RETAIN_ACCURACY)
    for k, row in enumerate(row for row in table.rows if row.role == "oracles"):
        _shade(axes, row, RETAIN_ACCURACY, label="" if k else f"{row.method}, mean ± std")
        _shade(axes, row, over, across=True)
    axes.margins(y=0.12)
    add_legend(axes)
    if missing := [row.label for row in rows if row not in measured]:
        notes.append(f"not drawn, for lack of a number: {', '.join(missing)}")
    add_note(figure, notes)
    label_points(figure, axes, shown, over, RETAIN_ACCURACY)
    return figure


def price(table: Table) -> "Figure | None":
    """Draw A_r, and what ten images bring back where that was measured, against seconds."""
    rows = [row for row in table.rows if row.seeds and row.role != "original"]
    timed = [
        row
        for row in rows
        if row.mean.get(SECONDS, 0.0) > 0 and RETAIN_ACCURACY in row.mean  # for a logarithm
    ]
    if all(row.role == "oracles" for row in timed):
        return None
    shown, notes = _without_far_below(timed)
    values = [
        value
        for value in (RETAIN_ACCURACY, RELEARNED)
        if any(value in row.mean for row in shown if row.role != "oracles")
    ]
    figure, panels = canvas(7.0, 3.4, table.setting, len(values))
    for axes, value in zip(panels, values, strict=True):
        axes.set_xscale("log")
        axes.set_ylabel(AXES[value])
        for row in shown:
            if value in row.mean:
                draw_point(axes, row, SECONDS, value)
                if row.role == "oracles":
                    _shade(axes, row, value, line=False)
        axes.margins(0.12)
    panels[-1].set_xlabel("seconds of unlearning")
    add_legend(panels[0])
    if untimed := [row.label for row in rows if row not in timed]:
        notes.append(f"without seconds or A_r: {', '.join(untimed)}")
    add_note(figure, notes)
    for axes, value in zip(panels, values, strict=True):
        label_points(figure, axes, [row for row in shown if value in row.mean], SECONDS, value)
    return figure


def _without_far_below(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Return the rows to draw, by verdict, and a note on those whose A_r is far below the best."""
    least = FAR_BELOW * max(row.mean[RETAIN_ACCURACY] for row in rows)
    shown = [row for row in rows if row.mean[RETAIN_ACCURACY] >= least]
    below = [f"{r.label} {r.mean[RETAIN_ACCURACY]:.2f}" for r in rows if r not in shown]
    notes = [f"too low to be drawn, A_r: {', '.join(below)}"] if below else []
    return sorted(shown, key=lambda row: [*MARKERS].index(verdict_of(row))), notes


def _shade(
    axes: "Axes", row: Row, name: str, across: bool = False, line: bool = True, label: str = ""
) -> None:
    """Shade mean ± std of oracles."""
    if name not in row.mean:
        return
    centre, spread = row.mean[name], row.std.get(name, 0.0)
    span = axes.axvspan if across else axes.axhspan
    span(centre - spread, centre + spread, color="0.6", alpha=0.25, lw=0, zorder=0)
    if line:
        mean = axes.axvline if across else axes.axhline
        mean(centre, color="0.45", lw=0.8, zorder=0, label=label or "_")
