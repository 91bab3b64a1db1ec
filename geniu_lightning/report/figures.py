"""Figures of a setting: what was lost and gained, what comes back, what it cost.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; nothing is said by
colour alone.
"""

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from geniu_lightning.report.best import RETAINED
from geniu_lightning.report.curves import AREA, curves_of
from geniu_lightning.report.placing import label
from geniu_lightning.report.tables import LABELS, Line, Table

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORGOTTEN = "accuracy.test.forget"
SECONDS = "cost.seconds"
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
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")
DOTS_PER_INCH = 150
CHARACTERS = 130  # of a note below a figure, a line
FAR_BELOW = 0.75  # of the largest A_r: lower points would press all others together


def tradeoff(table: Table) -> "Figure | None":
    """Draw A_r against what ten images bring back, or against A_f where that was not measured.

    Returns:
        ``None`` where no method has both numbers.
    """
    lines = [line for line in table.lines if line.role != "oracles"]
    over = AREA if any(AREA in line.row.mean for line in lines) else FORGOTTEN
    missing = [
        line for line in lines if line.row.seeds and not {over, RETAINED} <= line.row.mean.keys()
    ]
    lines = [line for line in lines if {over, RETAINED} <= line.row.mean.keys()]
    if not lines:
        return None
    figure, axes = _figure(7.0, 4.8, table.setting)
    least = FAR_BELOW * max(line.row.mean[RETAINED] for line in lines)
    shown = [line for line in lines if line.row.mean[RETAINED] >= least]
    axes.set_xlim(-0.04, 1.04)
    axes.set_xlabel(
        "relearned: accuracy on the forgotten class that ten images bring back"
        if over == AREA
        else "A_f: accuracy on the forgotten class"
    )
    axes.set_ylabel("A_r: accuracy on retained classes")
    for line in sorted(shown, key=lambda line: [*MARKERS].index(word_of(line))):
        _point(axes, line, over)
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
    label(figure, axes, points, [line.label for line in shown])
    return figure


def relearning(table: Table) -> "Figure | None":
    """Draw the accuracy on the forgotten class while ten of its images are taught again.

    Returns:
        ``None`` where no run was attacked so.
    """
    curves = curves_of(table)
    if curves is None:
        return None
    figure, axes = _figure(7.0, 4.2, table.setting)
    order = sorted(curves.methods.items(), key=lambda item: -sum(item[1]))
    for k, (name, curve) in enumerate(x for x in order if x[0] != "none"):
        style = DASHES[k // len(COLOURS) % len(DASHES)]
        axes.plot(
            curves.steps,
            curve,
            style,
            color=COLOURS[k % len(COLOURS)],
            lw=1.2,
            label=LABELS.get(name, name),
        )
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
        note = f"left out, for a run has no curve at these steps: {left_out}"
        figure.supxlabel(fill(note, CHARACTERS), fontsize=7)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def cost(table: Table) -> "Figure | None":
    """Draw the seconds that each method took, and those that retraining takes.

    Returns:
        ``None`` where no seconds are known.
    """
    times: dict[str, list[float]] = {}
    for run in table.runs:
        if run.found.values.get(SECONDS, 0.0) > 0:  # a logarithm needs it
            times.setdefault(run.method, []).append(run.found.values[SECONDS])
    if not times:
        return None
    names = sorted(times, key=lambda name: -sum(times[name]) / len(times[name]))
    figure, axes = _figure(7.0, 1.4 + 0.22 * len(names), table.setting)
    for k, name in enumerate(names):
        axes.plot(times[name], [k] * len(times[name]), "o", color="#0072B2", ms=5, alpha=0.7)
    oracles = [line.row.mean.get(SECONDS) for line in table.lines if line.role == "oracles"]
    for k, seconds in enumerate(filter(None, oracles)):
        name = "" if k else "retraining one oracle"
        axes.axvline(seconds, color="black", ls="--", lw=1.2, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("seconds, a dot a run")
    axes.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names], fontsize=8)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.grid(axis="x", color="0.9")
    if any(oracles):
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def proxies(picture: Path, title: str) -> "Figure":
    """Return the picture that training left of what the generator draws, under a title."""
    from matplotlib.image import imread

    pixels = imread(picture)
    height, width = (side / DOTS_PER_INCH for side in pixels.shape[:2])
    figure, _ = _figure(width, height + 0.3, "")
    figure.clear()
    figure.suptitle(title, fontsize=9)
    figure.figimage(pixels)  # a dot of the picture is a dot of the figure
    return figure


def word_of(line: Line) -> str:
    """Return the word that a line is drawn with: one that not all its runs have is not its own."""
    row = line.row
    if not row.words:
        return "no word"
    word, count = max(row.words.items(), key=lambda item: item[1])
    if count < row.runs or row.failures:
        return "several words"
    return word if word in MARKERS else "no word"


def _point(axes: "Axes", line: Line, over: str) -> None:
    """Draw a line's mean with its spread; what is no method is hollow."""
    word = word_of(line)
    shape, colour = MARKERS[word]
    known = axes.get_legend_handles_labels()[1]
    axes.errorbar(
        line.row.mean[over],
        line.row.mean[RETAINED],
        xerr=line.row.std.get(over),
        yerr=line.row.std.get(RETAINED),
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


def _figure(width: float, height: float, title: str) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes
