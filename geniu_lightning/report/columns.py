"""The columns of a table, and a row's cells in all forms alike."""

from collections.abc import Sequence
from typing import NamedTuple

from geniu_lightning.report.aggregate import Row
from geniu_lightning.report.document import (
    FORGET_ACCURACY,
    IMAGES_READ,
    RELEARNED,
    RETAIN_ACCURACY,
    SECONDS,
)

COLUMNS = {
    "A_f": FORGET_ACCURACY,
    "A_r": RETAIN_ACCURACY,
    "worst": "accuracy.test.worst_retained",
    "A_f train": "accuracy.train.forget",
    "relearned": RELEARNED,
    "after reset": "adaptive.net_area",
    "time, s": SECONDS,
    "read": IMAGES_READ,
}
OF_FULL = {"relearned", "after reset"}
EXPLANATION = (
    "A_f: accuracy on forgotten classes, A_r: mean over retained classes, worst: the least of them,"
    " on test images; relearned: accuracy that ten images of a forgotten class bring back,"
    " averaged over the attack, after reset: the same where the forgotten rows of the head are"
    " reset first, less what retained accuracy lost; n: training seeds, a kit each; of several"
    " unlearning seeds on a kit the mean counts; (k) behind a value: only k of the n have it; read:"
    " training images read while unlearning."
    " The reference is the retrained model, not A_f = 0: logit_mask reaches that too, and forgets"
    " nothing. The verdict is that of the decision rule (docs/evaluation.md), with the number of"
    " runs that got it; it needs retrained oracles, and forgotten needs evaluation=verdict or full."
    " oracles: the retrained models, in brackets how many, that the runs were compared with, their"
    " spread, the time to train one, and their own verdicts over all kits and evaluations:"
    " any but forgotten and untested is a false alarm; none (before): the model before unlearning."
)


class Cell(NamedTuple):
    """What a cell shows, and what it is sorted by; `None` where there is no number."""

    text: str
    value: float | None = None


def cells_of(rows: Sequence[Row]) -> tuple[list[str], list[list[Cell]]]:
    """Return the heads, without those of a full evaluation where there was none, and the cells."""
    columns = {
        title: name
        for title, name in COLUMNS.items()
        if title not in OF_FULL or any(name in row.mean for row in rows)
    }
    cells = [
        [
            *(Cell(row.label), Cell(str(len(row.seeds)), len(row.seeds))),
            *(_cell(row, name) for name in columns.values()),
            Cell(row.verdict),
        ]
        for row in rows
    ]
    return ["method", "n", *columns, "verdict"], cells


def _cell(row: Row, name: str) -> Cell:
    mean, std = row.mean.get(name), row.std.get(name)
    if mean is None:
        return Cell("-")
    fewer = "" if row.count[name] == len(row.seeds) else f" ({row.count[name]})"
    if name == IMAGES_READ:
        return Cell(f"{mean:,.0f}{fewer}", mean)
    digits = 2 if name == SECONDS else 4
    spread = "" if std is None else f" ± {std:.{digits}f}"
    return Cell(f"{mean:.{digits}f}{spread}{fewer}", mean)
