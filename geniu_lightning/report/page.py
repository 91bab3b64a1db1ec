"""One page for a browser, with everything in it: tables, figures, and each run's word and why."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from geniu_lightning.report.cells import EXPLANATION, Cell, cells_of, columns_of, heads_of
from geniu_lightning.report.figures import Drawn
from geniu_lightning.report.leaves import is_number
from geniu_lightning.report.runs import Run
from geniu_lightning.report.tables import LABELS, RULE, Table
from geniu_lightning.version import __version__

TITLE = "What unlearning found"
DECIDING = {
    "value": "value",
    "oracles": "oracles",
    "allowed": "allowed distance",
    "original": "original",
    "position": "position",
}
TEXT_COLUMNS = {"method", "word", "name", "question"}


def as_html(found: Sequence[Table], pictures: Mapping[str, Sequence[Drawn]]) -> str:
    """Return the page.

    Args:
        found: A table a setting.
        pictures: The figures of each setting.
    """
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=TITLE,
        about=escape(_about(found)),
        contents="".join(
            f'<li><a href="#setting-{k}">{escape(table.setting)}</a></li>'
            for k, table in enumerate(found, 1)
        )
        + '<li><a href="#legend">What the columns mean</a></li>',
        sections="\n".join(
            _section(table, pictures.get(table.setting, ()), k) for k, table in enumerate(found, 1)
        ),
        explanation=escape(EXPLANATION),
        rule=escape(RULE),
    )


def _about(found: Sequence[Table]) -> str:
    runs = [run for table in found for run in table.runs]
    failed = sum(bool(run.failed) for run in runs)
    revisions = sorted({run.revision[:12] for run in runs if run.revision}) or ["unknown"]
    return (
        f"{len(runs)} runs{f', {failed} of them failed' if failed else ''}, in {len(found)}"
        f" setting{'s' if len(found) != 1 else ''}. Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        f" by geniu_lightning {__version__}; git revision of the runs: {', '.join(revisions)}."
    )


def _section(table: Table, pictures: Sequence[Drawn], number: int) -> str:
    failures = "".join(f'<p class="failed">{escape(text)}</p>' for text in table.failures)
    runs = sorted(table.runs, key=lambda run: (run.method, run.seed, str(run.folder)))
    return "\n".join(
        [
            f'<h2 id="setting-{number}">{escape(table.setting)}</h2>',
            _of_lines(table),
            f"<p>{escape(table.verdict)}</p>",
            failures,
            f'<div class="figures">{"".join(map(_figure, pictures))}</div>',
            "<h3>Each run, its word and why</h3>",
            *map(_details, runs),
        ]
    )


def _of_lines(table: Table) -> str:
    columns = columns_of(table.lines)
    classes = [
        "best" if line.best else "" if line.role == "method" else "reference"
        for line in table.lines
    ]
    rows = [cells_of(line, columns) for line in table.lines]
    return _sortable(table.setting, heads_of(columns), rows, classes)


def _figure(picture: Drawn) -> str:
    if not picture.png:
        return f'<p class="small">{escape(picture.caption)}</p>'
    data = base64.b64encode(picture.png).decode()
    title, caption = escape(picture.title), escape(picture.caption)
    return (
        f'<figure><img alt="{title}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _details(run: Run) -> str:
    """Return what decided the word of a run, folded up."""
    word = "failed" if run.failed else run.word or "no word"
    head = f"{LABELS.get(run.method, run.method)}, seed {run.seed}: {word}"
    reason = run.failed or run.reason or "nothing is said"
    facts = f"folder {run.folder}; git revision {run.revision or 'unknown'}"
    if run.oracles.seeds:
        facts += f"; oracles of seeds {', '.join(map(str, run.oracles.seeds))}"
    if run.original_word:
        facts += f"; the original reads {run.original_word}"
    return (
        f"<details><summary>{escape(head)}</summary><p>{escape(reason)}</p>"
        f'<p class="small">{escape(facts)}</p>{"".join(_deciding(run))}</details>'
    )


def _deciding(run: Run) -> Iterator[str]:
    if run.deciding:
        rows = [
            [
                Cell(str(one.get("name", "-"))),
                Cell(str(one.get("question", "-"))),
                *(_number(one.get(key)) for key in DECIDING),
            ]
            for one in run.deciding
        ]
        heads = ["name", "question", *DECIDING.values()]
        yield _sortable("What decided", heads, rows, [""] * len(rows))


def _number(value: Any) -> Cell:  # whatever JSON holds
    return Cell(f"{value:.4f}", value) if is_number(value) else Cell("-")


def _sortable(
    name: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]], classes: Sequence[str]
) -> str:
    """Return a table whose heads are buttons; the first cell of a row is its head."""
    top = "".join(
        f'<th scope="col"{_kind(head)}><button type="button">{escape(head)}</button></th>'
        for head in heads
    )
    body = "".join(
        f'<tr class="{kind}">{"".join(map(_cell, row, heads))}</tr>'
        for row, kind in zip(rows, classes, strict=True)
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _kind(head: str) -> str:
    return ' class="text"' if head in TEXT_COLUMNS else " data-number"


def _cell(cell: Cell, head: str) -> str:
    text = escape(cell.text)
    if head in ("method", "name"):
        return f'<th scope="row">{text}</th>'
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    kind = ' class="text"' if head in TEXT_COLUMNS else ""
    return f"<td{kind}{value}>{text}</td>"
