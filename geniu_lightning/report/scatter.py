"""Figures with a point a method: what is retained against what comes back, and against time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from geniu_lightning.report.aggregate import Row
from geniu_lightning.report.canvas import add_legend, add_note, canvas
from geniu_lightning.report.document import FORGET_ACCURACY, RELEARNED, RETAIN_ACCURACY, SECONDS
from geniu_lightning.report.tables import Table

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# colours of Okabe and Ito, which colour-blind readers tell apart; no fact is in colour alone
SEVERAL = "several verdicts"
NONE = "no verdict"
MARKERS = {  # of the verdicts, as `metrics.json` writes them
    "forgotten": ("o", "#009E73"),
    "forgotten in the model only": ("D", "#009E73"),
    "untested": ("P", "#56B4E9"),
    "distinguishable": ("^", "#CC79A7"),
    "suppressed": ("s", "#E69F00"),
    "retained": ("X", "#D55E00"),
    "damaged": ("v", "#0072B2"),
    "damaged and retained": ("<", "#0072B2"),
    "inconclusive": ("*", "#000000"),
    SEVERAL: ("h", "#999999"),
    NONE: (".", "#000000"),
}
MOST_LABELS = 40
APART = 8  # points between a marker and its name
STEPS = (0, *(sign * 9 * k for k in range(1, 20) for sign in (1, -1)))  # points up and down
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
        _draw_point(axes, row, over, RETAIN_ACCURACY)
    for k, row in enumerate(row for row in table.rows if row.role == "oracles"):
        _shade(axes, row, RETAIN_ACCURACY, label="" if k else f"{row.method}, mean ± std")
        _shade(axes, row, over, across=True)
    axes.margins(y=0.12)
    add_legend(axes)
    if missing := [row.label for row in rows if row not in measured]:
        notes.append(f"not drawn, for lack of a number: {', '.join(missing)}")
    add_note(figure, notes)
    _label_points(figure, axes, shown, over, RETAIN_ACCURACY)
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
    if not values:
        return None
    figure, panels = canvas(7.0, 3.4, table.setting, len(values))
    for axes, value in zip(panels, values, strict=True):
        axes.set_xscale("log")
        axes.set_ylabel(AXES[value])
        for row in shown:
            if value in row.mean:
                _draw_point(axes, row, SECONDS, value)
                if row.role == "oracles":
                    _shade(axes, row, value, line=False)
        axes.margins(0.12)
    panels[-1].set_xlabel("seconds of unlearning")
    add_legend(panels[0])
    if untimed := [row.label for row in rows if row not in timed]:
        notes.append(f"without seconds or A_r: {', '.join(untimed)}")
    add_note(figure, notes)
    for axes, value in zip(panels, values, strict=True):
        _label_points(figure, axes, [row for row in shown if value in row.mean], SECONDS, value)
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
    if name not in row.mean:
        return
    centre, spread = row.mean[name], row.std.get(name, 0.0)
    span = axes.axvspan if across else axes.axhspan
    span(centre - spread, centre + spread, color="0.6", alpha=0.25, lw=0, zorder=0)
    if line:
        mean = axes.axvline if across else axes.axhline
        mean(centre, color="0.45", lw=0.8, zorder=0, label=label or "_")


def verdict_of(row: Row) -> str:
    """Return the verdict that a row is drawn with: one that all its runs have."""
    if not row.verdicts:
        return NONE
    verdict, count = max(row.verdicts.items(), key=lambda item: item[1])
    if count < row.runs or row.failures:
        return SEVERAL
    return verdict if verdict in MARKERS else NONE


def _draw_point(axes: "Axes", row: Row, across: str, up: str) -> None:
    """Draw a row's means of two values with their spread; what is no method is hollow."""
    verdict = verdict_of(row)
    shape, colour = MARKERS[verdict]
    known = axes.get_legend_handles_labels()[1]
    axes.errorbar(
        row.mean[across],
        row.mean[up],
        xerr=row.std.get(across),
        yerr=row.std.get(up),
        fmt=shape,
        color=colour,
        markerfacecolor=colour if row.role == "method" else "white",
        ms=7,
        elinewidth=0.7,
        label="_" if verdict in known else verdict,
    )


def _label_points(
    figure: "Figure", axes: "Axes", rows: Sequence[Row], across: str, up: str
) -> None:
    """Write each row's label at its point, moved until it covers no other label or marker.

    Nothing may move in the figure afterwards. More than `MOST_LABELS` would cover the points, and
    take seconds to place: then the table alone has the names.
    """
    if len(rows) > MOST_LABELS:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # settles where the axes are
    figure.set_layout_engine("none")
    renderer = FigureCanvasAgg(figure).get_renderer()
    inside = axes.get_window_extent()
    points = sorted((row.mean[across], row.mean[up], row.label) for row in rows)
    half = APART / 2 * figure.dpi / 72
    centres = [axes.transData.transform(point) for *point, _ in points]
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in centres]
    for (x, y, name), centre in zip(points, centres, strict=True):
        right = centre[0] < (inside.x0 + inside.x1) / 2  # on the side where the axes are wider
        note = axes.annotate(
            name,
            (x, y),
            (0, 0),
            textcoords="offset points",
            fontsize=7,
            ha="left" if right else "right",
            va="center",
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 3},
        )
        for step in STEPS:
            note.set_position((APART if right else -APART, step))
            note.update_positions(renderer)
            box = Text.get_window_extent(note)  # without the line that leads to it
            if inside.y0 <= box.y0 and box.y1 <= inside.y1 and not box.count_overlaps(taken):
                break
        taken.append(box)
