"""The figures of a setting, as PNG files with a name and a caption."""

import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from geniu_lightning.report.aggregate import LABELS
from geniu_lightning.report.canvas import DOTS_PER_INCH, add_legend, canvas
from geniu_lightning.report.curves import relearning
from geniu_lightning.report.document import SECONDS, Json
from geniu_lightning.report.output import MARK
from geniu_lightning.report.problem import parts_of
from geniu_lightning.report.scatter import price, tradeoff
from geniu_lightning.report.tables import Table

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.figure import Figure

SHADES = 128  # of all a figure
LONGEST = 80  # characters of a setting in a file's name: classes may be hundreds


class Drawing(NamedTuple):
    """A figure with its file's name, or in its caption why there is none."""

    name: str
    title: str
    caption: str
    png: bytes = b""


def drawings(table: Table, training: Sequence[tuple[Path, Json, dict[str, str]]]) -> list[Drawing]:
    """Return the figures of a setting, with proxies of one of the training runs if it is theirs."""
    drawn = {kind: (draw(table), caption, why) for kind, (draw, caption, why) in KINDS.items()}
    drawn["proxies"] = _proxies(table, training)
    found = []
    for kind, (figure, caption, missing) in drawn.items():
        text = f"No figure of {kind}: {missing}." if figure is None else caption
        png = b"" if figure is None else _png(figure)
        found.append(Drawing(f"{_slug(table.setting)}-{kind}", kind, text, png))
    return found


def cost(table: Table) -> "Figure | None":
    """Draw the seconds that each method took, and those that retraining takes."""
    times: dict[str, list[float]] = {}
    for run in table.runs:
        if (seconds := run.numbers["value"].get(SECONDS, 0.0)) > 0:  # a logarithm needs it
            times.setdefault(run.method, []).append(seconds)
    if not times:
        return None
    names = sorted(times, key=lambda name: -sum(times[name]) / len(times[name]))
    figure, (axes,) = canvas(7.0, 1.4 + 0.22 * len(names), table.setting)
    for k, name in enumerate(names):
        axes.plot(times[name], [k] * len(times[name]), "o", color="#0072B2", ms=5, alpha=0.7)
    oracles = [row.mean.get(SECONDS) for row in table.rows if row.role == "oracles"]
    for k, seconds in enumerate(filter(None, oracles)):
        label = "" if k else "retraining one oracle"
        axes.axvline(seconds, color="black", ls="--", lw=1.2, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("seconds, a dot a run")
    axes.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names], fontsize=8)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.grid(axis="x", color="0.9")
    if any(oracles):
        add_legend(axes)
    return figure


KINDS = {
    "tradeoff": (
        tradeoff,
        "What is retained against what comes back. Shaded: mean ± std of the retrained oracles;"
        " a method should be where the shaded parts cross. Shape and colour: the verdict; hollow:"
        " no method but a reference.",
        "there is no run with A_r and A_f",
    ),
    "relearning": (
        relearning,
        "How fast the forgotten class comes back when ten of its images are taught again, mean over"
        " seeds. A model that forgot learns as slowly as the oracles.",
        "no run was attacked by relearning (evaluation=full), or by an earlier version",
    ),
    "price": (
        price,
        "What is reached in how much time: accuracy on retained classes, and what ten images bring"
        " back of the forgotten one. Shaded: mean ± std of the retrained oracles; the hollow point"
        " among them is the time that training one takes. Shape and colour: the verdict.",
        "no method has seconds, and A_r that is near enough to the oracles' to be drawn",
    ),
    "cost": (
        cost,
        "What unlearning took, and what training an oracle anew takes.",
        "no run says how long it took",
    ),
}


def _proxies(
    table: Table, training: Sequence[tuple[Path, Json, dict[str, str]]]
) -> "tuple[Figure | None, str, str]":
    """Return the proxies of the first kit that the runs began with, below a title, dot by dot."""
    wanted = [(r.problem, r.seed, r.settings["trained"].get("training")) for r in table.runs]
    fitting = [
        (settings["seed"], picture, settings)
        for picture, settings, problem in training
        if (problem, settings["seed"], settings.get("training")) in wanted
    ]
    if not fitting:
        missing = "the training run that left proxies.png is not below the folders named"
        return None, "", missing
    from matplotlib.image import imread

    seed, picture, settings = min(fitting, key=lambda one: one[0])
    pixels = imread(picture)
    height, width = (side / DOTS_PER_INCH for side in pixels.shape[:2])
    figure, _ = canvas(width, height + 0.3, "")
    figure.clear()
    figure.suptitle(f"{', '.join(parts_of(settings))}, training seed {seed}", fontsize=9)
    figure.figimage(pixels)
    return figure, f"What the kit of training seed {seed} draws of each class: all that it has.", ""


def _png(figure: "Figure") -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    drawn, written, mark = io.BytesIO(), io.BytesIO(), PngInfo()
    figure.savefig(drawn, format="png")
    # no date and no version: the same runs give the same file
    mark.add_text("Software", MARK)
    # few colours make a third of the bytes, and a page is to be sent by mail
    few = Image.open(drawn).convert("RGB").quantize(SHADES, dither=Image.Dither.NONE)
    few.save(written, "png", optimize=True, pnginfo=mark)
    return written.getvalue()


def _slug(text: str) -> str:
    """Return a file's name: words that read well, and a hash that tells it from others."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:LONGEST]
    return f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
