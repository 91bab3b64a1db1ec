"""What a method reaches against the time it takes: a point a method, with its name beside it."""

from textwrap import fill
from typing import TYPE_CHECKING

from geniu_lightning.report.cells import RELEARNED, RETAINED, SECONDS
from geniu_lightning.report.tables import Table
from geniu_lightning.report.tradeoff import (
    CHARACTERS,
    FAR_BELOW,
    MARKERS,
    canvases,
    draw_point,
    label_points,
    word_of,
)

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.figure import Figure

WHAT = {
    RETAINED: "A_r: accuracy on retained classes",
    RELEARNED: "relearned: accuracy on the forgotten class\nthat ten images bring back",
}


def price(table: Table) -> "Figure | None":
    """Draw A_r, and what ten images bring back where that was measured, against seconds.

    Methods whose A_r is far below the best are left out of both, which a note says.

    Returns:
        ``None`` where no method has seconds and A_r.
    """
    lines = [line for line in table.lines if line.row.seeds and line.role != "original"]
    timed = [
        line
        for line in lines
        if line.row.mean.get(SECONDS, 0.0) > 0 and RETAINED in line.row.mean  # for a logarithm
    ]
    if not any(line.role != "oracles" for line in timed):
        return None
    least = FAR_BELOW * max(line.row.mean[RETAINED] for line in timed)
    shown = [line for line in timed if line.row.mean[RETAINED] >= least]
    shown.sort(key=lambda line: [*MARKERS].index(word_of(line)))
    values = [v for v in WHAT if any(v in x.row.mean for x in shown if x.role != "oracles")]
    figure, panels = canvases(7.0, 3.4, table.setting, len(values))
    for axes, value in zip(panels, values, strict=True):
        axes.set_xscale("log")
        axes.set_ylabel(WHAT[value])
        for line in shown:
            if value in line.row.mean:
                draw_point(axes, line, SECONDS, value)
            if value in line.row.mean and line.role == "oracles":
                centre, spread = line.row.mean[value], line.row.std.get(value, 0.0)
                axes.axhspan(centre - spread, centre + spread, color="0.6", alpha=0.25, lw=0)
        axes.margins(0.12)
    panels[-1].set_xlabel("seconds of unlearning")
    panels[0].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    notes = []
    if below := [f"{x.label} {x.row.mean[RETAINED]:.2f}" for x in timed if x not in shown]:
        notes.append(f"too low to be drawn, A_r: {', '.join(below)}")
    if untimed := [line.label for line in lines if line not in timed]:
        notes.append(f"without seconds or A_r: {', '.join(untimed)}")
    if notes:
        figure.supxlabel(fill("; ".join(notes), CHARACTERS), fontsize=7)
    for axes, value in zip(panels, values, strict=True):
        drawn = [line for line in shown if value in line.row.mean]
        points = [(line.row.mean[SECONDS], line.row.mean[value]) for line in drawn]
        label_points(figure, axes, points, [line.label for line in drawn])
    return figure
