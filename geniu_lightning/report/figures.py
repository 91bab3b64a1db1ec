"""The figures of a setting, as PNG files with a name and a caption.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; nothing is said by
colour alone.
"""

import hashlib
import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from geniu_lightning.report.cells import CURVE, SECONDS
from geniu_lightning.report.files import MARK
from geniu_lightning.report.price import price
from geniu_lightning.report.runs import Run, Trained
from geniu_lightning.report.tables import LABELS, Table
from geniu_lightning.report.tradeoff import CHARACTERS, DOTS_PER_INCH, canvas, tradeoff

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")
SHADES = 128  # of all a figure
LONGEST = 80  # of a name's words: file systems allow 255 bytes, and classes may be hundreds


@dataclass(frozen=True)
class Drawn:
    """A figure, or why there is none.

    Attributes:
        name: Of its file, without the ending.
        title: What it shows, in a word or two.
        caption: How it is read; the reason where there is no figure.
        png: The file; empty where there is no figure.
    """

    name: str
    title: str
    caption: str
    png: bytes = b""


@dataclass(frozen=True)
class Curves:
    """Accuracy on forgotten classes while they are taught again.

    Attributes:
        steps: Of fine-tuning, where the accuracies were read.
        methods: Mean over seeds, by the method's name.
        oracles: Mean over the oracles; empty without any.
        original: Mean over kits; empty where it is not known.
        left_out: Methods of which a run has no curve that could be read beside the others.
    """

    steps: Sequence[float]
    methods: dict[str, list[float]]
    oracles: list[float] = field(default_factory=list)
    original: list[float] = field(default_factory=list)
    left_out: Sequence[str] = ()


def drawn(table: Table, kits: Sequence[Trained]) -> list[Drawn]:
    """Return the figures of a setting.

    Args:
        table: What to draw.
        kits: Training runs that left a picture of proxies, of this setting or others.
    """
    found = []
    for kind, (draw, caption, missing) in KINDS.items():
        figure = draw(table)
        name = f"{_slug(table.setting)}-{kind}"
        found.append(
            Drawn(name, kind, f"No figure of {kind}: {missing}.")
            if figure is None
            else Drawn(name, kind, caption, _png(figure))
        )
    return [*found, _proxies(table, kits)]


def relearning(table: Table) -> "Figure | None":
    """Draw the accuracy on the forgotten class while ten of its images are taught again.

    Returns:
        ``None`` where no run was attacked so.
    """
    curves = curves_of(table)
    if curves is None:
        return None
    figure, axes = canvas(7.0, 4.2, table.setting)
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
    figure, axes = canvas(7.0, 1.4 + 0.22 * len(names), table.setting)
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


def curves_of(table: Table) -> Curves | None:
    """Return the curves of a setting; ``None`` where no run has one."""
    runs = [run for run in table.runs if not run.failed]
    steps = next((run.steps for run in runs if run.steps and CURVE in run.found.curves), None)
    if steps is None:
        return None
    readable = [run for run in runs if run.steps == steps and CURVE in run.found.curves]
    names = sorted({run.method for run in runs})
    odd = {run.method for run in runs if run not in readable}
    return Curves(
        steps,
        {
            name: _over_kits([run for run in readable if run.method == name])
            for name in names
            if name not in odd
        },
        _mean([run.oracles.mean.curves.get(CURVE, []) for run in readable]),
        _mean([run.original.curves.get(CURVE, []) for run in readable]),
        sorted(odd),
    )


def proxies(picture: Path, title: str) -> "Figure":
    """Return the picture that training left of what the generator draws, under a title."""
    from matplotlib.image import imread

    pixels = imread(picture)
    height, width = (side / DOTS_PER_INCH for side in pixels.shape[:2])
    figure, _ = canvas(width, height + 0.3, "")
    figure.clear()
    figure.suptitle(title, fontsize=9)
    figure.figimage(pixels)  # a dot of the picture is a dot of the figure
    return figure


KINDS = {
    "tradeoff": (
        tradeoff,
        "What is kept against what comes back. Shaded: mean ± std of the retrained oracles; where"
        " the bands cross is where a method should be. Shape and colour: the word; hollow: no"
        " method but something to compare with.",
        "there is no run with A_r and A_f",
    ),
    "relearning": (
        relearning,
        "How fast the forgotten class comes back when ten of its images are taught again, mean over"
        " seeds. A model that forgot learns as slowly as the oracles.",
        "no run was attacked by relearning (evaluation=full), or earlier versions judged them",
    ),
    "price": (
        price,
        "What is reached in how much time: accuracy on retained classes, and what ten images bring"
        " back of the forgotten one. Shaded: mean ± std of the retrained oracles; the hollow point"
        " among them is the time that training one takes. Shape and colour: the word.",
        "no method has seconds and A_r",
    ),
    "cost": (
        cost,
        "What unlearning took, beside training an oracle anew.",
        "no run says how long it took",
    ),
}


def _over_kits(runs: Sequence[Run]) -> list[float]:
    """Return the mean over kits of the means over the runs from one kit."""
    kits: dict[int, list[list[float]]] = {}
    for run in runs:
        kits.setdefault(run.seed, []).append(run.found.curves[CURVE])
    return _mean([_mean(own) for own in kits.values()])


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean in each place over the curves that are there."""
    return [statistics.fmean(column) for column in zip(*filter(None, curves), strict=True)]


def _proxies(table: Table, kits: Sequence[Trained]) -> Drawn:
    """Return the proxies of the first kit that the runs began with."""
    wanted = [(run.problem, run.seed, run.training) for run in table.runs]
    fitting = [kit for kit in kits if (kit.problem, kit.seed, kit.training) in wanted]
    name = f"{_slug(table.setting)}-proxies"
    if not fitting:
        missing = "the training run that left proxies.png is not below the folders named"
        return Drawn(name, "proxies", f"No figure of proxies: {missing}.")
    kit = min(fitting, key=lambda kit: kit.seed)
    title = f"{', '.join(kit.parts)}, training seed {kit.seed}"
    caption = f"What the kit of training seed {kit.seed} draws of each class: all that stays of it."
    return Drawn(name, "proxies", caption, _png(proxies(kit.picture, title)))


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
    """Return a file's name: words that read well, and what tells it from others like it."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:LONGEST]
    return f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
