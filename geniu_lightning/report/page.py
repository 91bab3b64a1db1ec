"""One page for a browser, with everything in it: tables, figures, each run's verdict and why."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from geniu_lightning.report.aggregate import LABELS
from geniu_lightning.report.best import RULE
from geniu_lightning.report.columns import EXPLANATION, Cell, cells_of
from geniu_lightning.report.document import Json, is_number
from geniu_lightning.report.figures import Drawing
from geniu_lightning.report.tables import Table
from geniu_lightning.report.template import template
from geniu_lightning.version import __version__

TEXTS = ("name", "question", "against")
NUMBERS = ("value", "reference", "allowed", "original", "position")


def as_html(found: Sequence[Table], pictures: Mapping[str, Sequence[Drawing]]) -> str:
    """Return the page of the tables, with the figures of each setting."""
    runs = [run for table in found for run in table.runs]
    return template("geniu_lightning.report", "page.html.j2").render(
        title="What unlearning found",
        runs=runs,
        failed=sum(bool(run.failed) for run in runs),
        revisions=sorted({str(r)[:12] for run in runs if (r := run.settings.get("revision"))}),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        version=__version__,
        tables=found,
        pictures=pictures,
        cells_of=cells_of,
        in_order=lambda runs: sorted(runs, key=lambda run: (run.method, run.seed, str(run.folder))),
        labels=LABELS,
        text_columns={"method", "verdict", *TEXTS},
        finding_heads=[*TEXTS, *NUMBERS],
        finding_cells=_finding_cells,
        base64=lambda png: base64.b64encode(png).decode(),
        explanation=EXPLANATION,
        rule=RULE,
    )


def _finding_cells(findings: Sequence[Json]) -> list[list[Cell]]:
    return [
        [
            *(Cell(str(one.get(key, "-"))) for key in TEXTS),
            *(_number(one.get(key)) for key in NUMBERS),
        ]
        for one in findings
    ]


def _number(value: Any) -> Cell:  # whatever JSON holds
    return Cell(f"{value:.4f}", value) if is_number(value) else Cell("-")
