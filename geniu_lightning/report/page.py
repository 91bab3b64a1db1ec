"""One page for a browser, with everything in it: tables, figures, each run's verdict and why."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from geniu_lightning.report.aggregate import LABELS
from geniu_lightning.report.best import RULE
from geniu_lightning.report.columns import EXPLANATION, Cell, cells_of, columns_of, heads_of
from geniu_lightning.report.figures import Drawing
from geniu_lightning.report.leaves import is_number
from geniu_lightning.report.load import Run
from geniu_lightning.report.tables import Table
from geniu_lightning.report.template import template
from geniu_lightning.version import __version__

DECIDING = {
    "value": "value",
    "oracles": "oracles",
    "allowed": "allowed distance",
    "original": "original",
    "position": "position",
}


def as_html(found: Sequence[Table], pictures: Mapping[str, Sequence[Drawing]]) -> str:
    """Return the page.

    Args:
        found: A table a setting.
        pictures: The figures of each setting.
    """
    runs = [run for table in found for run in table.runs]
    return template("geniu_lightning.report", "page.html.j2").render(
        title="What unlearning found",
        runs=runs,
        failed=sum(bool(run.failed) for run in runs),
        revisions=sorted({run.revision[:12] for run in runs if run.revision}) or ["unknown"],
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        version=__version__,
        settings=[_section(table, pictures.get(table.setting, ())) for table in found],
        labels=LABELS,
        text_columns={"method", "verdict", "name", "question"},
        deciding_heads=["name", "question", *DECIDING.values()],
        deciding_cells=_deciding_cells,
        base64=lambda png: base64.b64encode(png).decode(),
        explanation=EXPLANATION,
        rule=RULE,
    )


def _section(table: Table, pictures: Sequence[Drawing]) -> dict[str, Any]:
    columns = columns_of(table.rows)
    return {
        "table": table,
        "pictures": pictures,
        "heads": heads_of(columns),
        "cells": [cells_of(row, columns) for row in table.rows],
        "kinds": [
            "best" if row.best else "" if row.role == "method" else "reference"
            for row in table.rows
        ],
        "runs": sorted(table.runs, key=lambda run: (run.method, run.seed, str(run.folder))),
    }


def _deciding_cells(run: Run) -> list[list[Cell]]:
    """Return a row of cells for each finding that decided the verdict of a run."""
    return [
        [
            Cell(str(one.get("name", "-"))),
            Cell(str(one.get("question", "-"))),
            *(_number(one.get(key)) for key in DECIDING),
        ]
        for one in run.deciding
    ]


def _number(value: Any) -> Cell:  # whatever JSON holds
    return Cell(f"{value:.4f}", value) if is_number(value) else Cell("-")
