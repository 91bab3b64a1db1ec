"""Which figures there are of a setting, as PNG files with a name and a caption."""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geniu_lightning.report import figures
from geniu_lightning.report.files import MARK
from geniu_lightning.report.runs import Trained
from geniu_lightning.report.tables import Table

if TYPE_CHECKING:  # matplotlib is imported late
    from matplotlib.figure import Figure

LONGEST = 80  # of a name's words: file systems allow 255 bytes, and classes may be hundreds
KINDS = {
    "tradeoff": (
        figures.tradeoff,
        "What is kept against what comes back. Shaded: mean ± std of the retrained oracles; where"
        " the bands cross is where a method should be. Shape and colour: the word; hollow: no"
        " method but something to compare with.",
        "there is no run with A_r and A_f",
    ),
    "relearning": (
        figures.relearning,
        "How fast the forgotten class comes back when ten of its images are taught again, mean over"
        " seeds. A model that forgot learns as slowly as the oracles.",
        "no run was attacked by relearning (evaluation=full), or earlier versions judged them",
    ),
    "cost": (
        figures.cost,
        "What unlearning took, beside training an oracle anew.",
        "no run says how long it took",
    ),
}


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
    return Drawn(name, "proxies", caption, _png(figures.proxies(kit.picture, title)))


def _png(figure: "Figure") -> bytes:
    out = io.BytesIO()
    # no date and no version: the same runs give the same file
    figure.savefig(out, format="png", metadata={"Software": MARK})
    return out.getvalue()


def _slug(text: str) -> str:
    """Return a file's name: words that read well, and what tells it from others like it."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:LONGEST]
    return f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
