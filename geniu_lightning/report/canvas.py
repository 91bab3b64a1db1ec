"""What all figures are drawn with: axes, a marker a verdict, names at points.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; no fact is in colour
alone.
"""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from geniu_lightning.report.aggregate import Row

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
DOTS_PER_INCH = 150
NOTE = 100  # characters of a line below a figure
TITLE = 75  # characters of a line above its axes
APART = 8  # points between a marker and its name
STEPS = (0, *(sign * 9 * k for k in range(1, 20) for sign in (1, -1)))  # points up and down


def canvas(width: float, height: float, title: str, panels: int = 1) -> "tuple[Figure, list[Axes]]":
    """Return an empty figure and its panels, each of so many inches in width and height."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * panels), dpi=DOTS_PER_INCH, layout="constrained")
    all_axes = [figure.add_subplot(panels, 1, k + 1) for k in range(panels)]
    all_axes[0].set_title(fill(title, TITLE), fontsize=9)
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, all_axes


def add_legend(axes: "Axes") -> None:
    """Put a legend to the right of the axes."""
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def add_note(figure: "Figure", sentences: Sequence[str]) -> None:
    """Write sentences below the axes, if there are any."""
    if sentences:
        figure.supxlabel(fill("; ".join(sentences), NOTE), fontsize=7)


def verdict_of(row: Row) -> str:
    """Return the verdict that a row is drawn with: one that all its runs have."""
    if not row.verdicts:
        return NONE
    verdict, count = max(row.verdicts.items(), key=lambda item: item[1])
    if count < row.runs or row.failures:
        return SEVERAL
    return verdict if verdict in MARKERS else NONE


def draw_point(axes: "Axes", row: Row, across: str, up: str) -> None:
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


def label_points(figure: "Figure", axes: "Axes", rows: Sequence[Row], across: str, up: str) -> None:
    """Write each row's label at its point, moved until it covers no other label or marker.

    Nothing may move in the figure afterwards.
    """
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
