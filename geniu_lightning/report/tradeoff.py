"""What is kept against what comes back: a point a method, with its name beside it.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; nothing is said by
colour alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from geniu_lightning.report.cells import FORGOTTEN, RELEARNED, RETAINED
from geniu_lightning.report.tables import Line, Table

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

MARKERS = {  # of the words; the last two are no words
    "forgets": ("o", "#009E73"),
    "forgets in the model, not in the system": ("D", "#009E73"),
    "not refuted": ("P", "#56B4E9"),
    "scars": ("^", "#CC79A7"),
    "hides": ("s", "#E69F00"),
    "keeps": ("X", "#D55E00"),
    "destroys": ("v", "#0072B2"),
    "destroys without forgetting": ("<", "#0072B2"),
    "invalid": ("*", "#000000"),
    "several words": ("h", "#999999"),
    "no word": (".", "#000000"),
}
DOTS_PER_INCH = 150
CHARACTERS = 100  # of a line below a figure
TITLE = 75  # characters of a line above its axes
FAR_BELOW = 0.75  # of the largest A_r: lower points would press all others together
DISTANCES = (8, 14, 22, 32, 44, 58, 74)  # in points, nearest first
DIRECTIONS = 12
HALF_A_MARKER = 4  # in points


def tradeoff(table: Table) -> "Figure | None":
    """Draw A_r against what ten images bring back, or against A_f where that was not measured.

    Returns:
        ``None`` where no method has both numbers.
    """
    lines = [line for line in table.lines if line.role != "oracles"]
    over = RELEARNED if any(RELEARNED in line.row.mean for line in lines) else FORGOTTEN
    missing = [
        line for line in lines if line.row.seeds and not {over, RETAINED} <= line.row.mean.keys()
    ]
    lines = [line for line in lines if {over, RETAINED} <= line.row.mean.keys()]
    if not lines:
        return None
    figure, axes = canvas(7.0, 4.8, table.setting)
    least = FAR_BELOW * max(line.row.mean[RETAINED] for line in lines)
    shown = [line for line in lines if line.row.mean[RETAINED] >= least]
    axes.set_xlim(-0.04, 1.04)
    axes.set_xlabel(
        "relearned: accuracy on the forgotten class that ten images bring back"
        if over == RELEARNED
        else "A_f: accuracy on the forgotten class"
    )
    axes.set_ylabel("A_r: accuracy on retained classes")
    for line in sorted(shown, key=lambda line: [*MARKERS].index(word_of(line))):
        draw_point(axes, line, over, RETAINED)
    _bands(axes, table, over)
    axes.margins(y=0.12)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    notes = []
    if below := [f"{x.label} {x.row.mean[RETAINED]:.2f}" for x in lines if x not in shown]:
        notes.append(f"too low to be drawn, A_r: {', '.join(below)}")
    if missing:
        notes.append(f"not drawn, for lack of a number: {', '.join(x.label for x in missing)}")
    if notes:
        figure.supxlabel(fill("; ".join(notes), CHARACTERS), fontsize=7)
    points = [(line.row.mean[over], line.row.mean[RETAINED]) for line in shown]
    label_points(figure, axes, points, [line.label for line in shown])
    return figure


def canvas(width: float, height: float, title: str) -> "tuple[Figure, Axes]":
    """Return an empty figure of so many inches, and its axes."""
    figure, (axes,) = canvases(width, height, title, 1)
    return figure, axes


def canvases(width: float, height: float, title: str, rows: int) -> "tuple[Figure, list[Axes]]":
    """Return an empty figure, and the axes of its rows, each so many inches high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * rows), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(rows, 1, k + 1) for k in range(rows)]
    panels[0].set_title(fill(title, TITLE), fontsize=9)
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, panels


def word_of(line: Line) -> str:
    """Return the word that a line is drawn with: one that not all its runs have is not its own."""
    row = line.row
    if not row.words:
        return "no word"
    word, count = max(row.words.items(), key=lambda item: item[1])
    if count < row.runs or row.failures:
        return "several words"
    return word if word in MARKERS else "no word"


def draw_point(axes: "Axes", line: Line, across: str, up: str) -> None:
    """Draw a line's means of two values with their spread; what is no method is hollow."""
    word = word_of(line)
    shape, colour = MARKERS[word]
    known = axes.get_legend_handles_labels()[1]
    axes.errorbar(
        line.row.mean[across],
        line.row.mean[up],
        xerr=line.row.std.get(across),
        yerr=line.row.std.get(up),
        fmt=shape,
        color=colour,
        markerfacecolor=colour if line.role == "method" else "white",
        ms=7,
        elinewidth=0.7,
        label="_" if word in known else word,
    )


def _bands(axes: "Axes", table: Table, over: str) -> None:
    """Shade mean ± std of the oracles; where the bands cross is where to be."""
    for k, row in enumerate(line.row for line in table.lines if line.role == "oracles"):
        for name, span, mean in (
            (RETAINED, axes.axhspan, axes.axhline),
            (over, axes.axvspan, axes.axvline),
        ):
            if name in row.mean:
                centre, spread = row.mean[name], row.std.get(name, 0.0)
                span(centre - spread, centre + spread, color="0.6", alpha=0.25, lw=0, zorder=0)
                shown = name == RETAINED and not k
                text = f"{row.method}, mean ± std" if shown else "_"
                mean(centre, color="0.45", lw=0.8, zorder=0, label=text)


def label_points(
    figure: "Figure", axes: "Axes", points: Sequence[tuple[float, float]], names: Sequence[str]
) -> None:
    """Write a name beside each point, off the markers and the other names where there is room.

    A line leads from a name to its point. Nothing may move in the figure afterwards.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Annotation, Text
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # settles where the axes are
    figure.set_layout_engine("none")
    renderer = FigureCanvasAgg(figure).get_renderer()
    half = HALF_A_MARKER * figure.dpi / 72
    centres = [axes.transData.transform(point) for point in points]
    taken = [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in centres]
    for point, name in sorted(zip(points, names, strict=True)):
        note = axes.annotate(
            name,
            point,
            (0, 0),
            textcoords="offset points",
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 3},
        )

        def box_at(offset: tuple[float, float], note: Annotation = note) -> "Bbox":
            note.set_position(offset)
            note.set_horizontalalignment("left" if offset[0] >= 0 else "right")
            note.update_positions(renderer)
            return Text.get_window_extent(note)  # without the line that leads to it

        taken.append(box_at(_freest(box_at, taken, axes.get_window_extent())))


def _freest(
    box_at: Callable[[tuple[float, float]], "Bbox"], taken: Sequence["Bbox"], inside: "Bbox"
) -> tuple[float, float]:
    """Return the nearest offset that covers nothing, else the one that covers least."""
    best, least = (0.0, 0.0), math.inf
    for offset in _offsets():
        box = box_at(offset)
        covered = sum(_shared(box, other) for other in taken)
        covered += box.width * box.height - _shared(box, inside)
        if covered < least:
            best, least = offset, covered
        if covered == 0:
            break
    return best


def _offsets() -> Iterator[tuple[float, float]]:
    for distance in DISTANCES:
        for k in range(DIRECTIONS):
            angle = 2 * math.pi * k / DIRECTIONS
            yield distance * math.cos(angle), distance * math.sin(angle)


def _shared(one: "Bbox", other: "Bbox") -> float:
    """Return the area that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(width, 0.0) * max(height, 0.0))
