"""What stands in the columns of a table, in all forms alike, and which values these are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tables take the names of values from here
    from geniu_lightning.report.tables import Line

FORGOTTEN = "accuracy.test.forget"
RETAINED = "accuracy.test.retain"
RELEARNED = "relearning.k10.area"
CURVE = "relearning.k10.curve"
SECONDS = "cost.seconds"
READ = "cost.training_images_read"
COLUMNS = {
    "A_f": FORGOTTEN,
    "A_r": RETAINED,
    "worst": "accuracy.test.worst_retained",
    "A_f train": "accuracy.train.forget",
    "relearned": RELEARNED,
    "after reset": "adaptive.net_area",
    "time, s": SECONDS,
    "read": READ,
}
OF_FULL = {"relearned", "after reset"}
EXPLANATION = (
    "A_f: accuracy on forgotten classes, A_r: mean over retained classes, worst: the least of them,"
    " on test images; relearned: accuracy that ten images of a forgotten class bring back over 50"
    " steps, after reset: the same where the forgotten rows of the head are set anew first, less"
    " what retained accuracy lost; n: training seeds, a kit each; of several unlearning seeds on"
    " a kit the mean counts; (k) behind a value: only k of the n have it; read: training images"
    " read while unlearning."
    " The yardstick is the retrained model, not A_f = 0: logit_mask reaches that too, and forgets"
    " nothing. The word is that of the evaluation's rule (docs/evaluation.md), with the number of"
    " runs that got it; it needs retrained oracles, and forgets needs evaluation=word or full."
    " oracles: the retrained models, in brackets how many, that the runs were compared with, their"
    " spread, the time to train one, and the rule's words for them over all kits and evaluations:"
    " any but forgets and not refuted is a false alarm; none (before): the model before unlearning."
)


@dataclass(frozen=True)
class Cell:
    """What one cell shows.

    Attributes:
        text: For people.
        value: What it is sorted by; ``None`` where there is no number.
    """

    text: str
    value: float | None = None


def columns_of(lines: "Sequence[Line]") -> dict[str, str]:
    """Return the columns, without those of a full evaluation where there was none."""
    return {
        title: name
        for title, name in COLUMNS.items()
        if title not in OF_FULL or any(name in line.row.mean for line in lines)
    }


def heads_of(columns: dict[str, str]) -> list[str]:
    """Return the heads of a table."""
    return ["method", "n", *columns, "word"]


def cells_of(line: "Line", columns: dict[str, str]) -> list[Cell]:
    """Return a line's cells, as many as there are heads."""
    seeds = len(line.row.seeds)
    numbers = [_cell(line, name) for name in columns.values()]
    return [Cell(line.label), Cell(str(seeds), seeds), *numbers, Cell(line.words)]


def _cell(line: "Line", name: str) -> Cell:
    mean, std = line.row.mean.get(name), line.row.std.get(name)
    if mean is None:
        return Cell("-")
    count = line.row.counts[name]
    fewer = "" if count == len(line.row.seeds) else f" ({count})"
    if name == READ:
        return Cell(f"{mean:,.0f}{fewer}", mean)
    digits = 2 if name == SECONDS else 4
    spread = "" if std is None else f" ± {std:.{digits}f}"
    return Cell(f"{mean:.{digits}f}{spread}{fewer}", mean)
