"""What all figures are drawn with: axes, a legend, a note."""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
NOTE = 100  # characters of a line below a figure
TITLE = 75  # characters of a line above its axes


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
