"""What a method reaches against the time it takes: a point a method, with its name beside it."""

from typing import TYPE_CHECKING

from geniu_lightning.report.cells import RELEARNED, RETAINED, SECONDS
from geniu_lightning.report.tables import Table
from geniu_lightning.report.tradeoff import (
    FAR_BELOW,
    MARKERS,
    canvas,
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

    Methods whose A_r is far below the best are left out of both.

    Returns:
        ``None`` where no method has seconds and A_r.
    """
    timed = [line for line in table.lines if line.row.mean.get(SECONDS, 0.0) > 0]  # a logarithm
    lines = [line for line in timed if RETAINED in line.row.mean and line.role != "original"]
    if not any(line.role != "oracles" for line in lines):
        return None
    least = FAR_BELOW * max(line.row.mean[RETAINED] for line in lines)
    lines = [line for line in lines if line.row.mean[RETAINED] >= least]
    values = [v for v in WHAT if any(v in x.row.mean for x in lines if x.role != "oracles")]
    figure, first = canvas(7.0, 3.4 * len(values), table.setting)
    first.remove()
    grid = figure.add_gridspec(len(values), 1)
    panels = [figure.add_subplot(grid[k]) for k in range(len(values))]
    panels[0].set_title(first.get_title(), fontsize=9)
    order = sorted(lines, key=lambda line: [*MARKERS].index(word_of(line)))
    for axes, value in zip(panels, values, strict=True):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_xscale("log")
        axes.set_ylabel(WHAT[value])
        for line in order:
            if value in line.row.mean:
                draw_point(axes, line, SECONDS, value)
            if value in line.row.mean and line.role == "oracles":
                centre, spread = line.row.mean[value], line.row.std.get(value, 0.0)
                axes.axhspan(centre - spread, centre + spread, color="0.6", alpha=0.25, lw=0)
        axes.margins(0.12)
    panels[-1].set_xlabel("seconds of unlearning")
    panels[0].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    for axes, value in zip(panels, values, strict=True):
        shown = [line for line in order if value in line.row.mean]
        points = [(line.row.mean[SECONDS], line.row.mean[value]) for line in shown]
        label_points(figure, axes, points, [line.label for line in shown])
    return figure
