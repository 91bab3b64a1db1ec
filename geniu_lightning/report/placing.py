"""Names beside points, placed so that they can be read."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

DISTANCES = (8, 14, 22, 32, 44, 58, 74)  # in points, nearest first
DIRECTIONS = 12
MARKER = 4  # half the width of one, in points


def label(
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
    half = MARKER * figure.dpi / 72
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
