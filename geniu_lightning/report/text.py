"""Tables as text: on a screen, as Markdown, for a paper (LaTeX), for a spreadsheet (CSV)."""

from collections.abc import Mapping, Sequence
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid

from geniu_lightning.report.aggregate import means
from geniu_lightning.report.best import RULE
from geniu_lightning.report.columns import EXPLANATION, cells_of
from geniu_lightning.report.output import CSV_HEAD
from geniu_lightning.report.tables import Table
from geniu_lightning.report.template import template
from geniu_lightning.report.values import HEADS, Sheet

NARROWEST = 120  # characters; a wrapped line is better than numbers cut short
SPECIAL = str.maketrans(
    {
        **{character: f"\\{character}" for character in "{}$&#%_"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "−": r"$-$",
    }
)
SYMBOLS = {"A_f": "$A_f$", "A_r": "$A_r$", "A_f train": "$A_f$ train"}
SHAPE = (
    "one line a setting and method, oracles and original included; for each number NAME (such as"
    " accuracy.test.forget) the columns NAME.mean, NAME.std (divisor n - 1, empty for one seed) and"
    " NAME.n, then NAME.oracle_mean and NAME.oracle_std of the oracles it was compared with,"
    " of which the column oracles has the number;"
    " numbers as measured, nothing rounded, an empty cell where there is none; pandas:"
    " read_csv(FILE, index_col=['setting', 'method'])"
)


def print_tables(found: Sequence[Table], markdown: bool) -> None:
    """Print a table a setting, and what the columns mean."""
    out = _console()
    for table in found:
        heads, cells = cells_of(table.rows)
        texts = [[cell.text for cell in row] for row in cells]
        references = sum(row.role != "method" for row in table.rows)
        _print(out, table.setting, heads, texts, markdown, references)
        for sentence in (table.conclusion, *table.failures):
            out.out(f"{sentence}\n")
    out.print(EXPLANATION)
    out.print(RULE)


def print_values(found: Sequence[Sheet], markdown: bool) -> None:
    """Print a table a run, and what could not be measured in it."""
    out = _console()
    for sheet in found:
        _print(out, sheet.title, HEADS, sheet.rows, markdown)
        out.out(f"{sheet.reason}\n")
        for reason, names in sheet.absent.items():
            out.out(f"absent: {', '.join(names)}: {' '.join(reason.split())}\n")


def as_latex(found: Sequence[Table]) -> str:
    """Return a `table` environment a setting, with booktabs; comments say what columns mean."""
    return template("geniu_lightning.report", "tables.tex.j2", latex=True).render(
        tables=found,
        cells_of=cells_of,
        escaped=escaped,
        symbols=SYMBOLS,
        explanation=EXPLANATION,
        rule=RULE,
    )


def as_csv(found: Sequence[Table]) -> str:
    """Return all numbers of all rows, in the form of `SHAPE`."""
    import pandas

    names = sorted({name for table in found for row in table.rows for name in row.mean})
    lines = []
    for table in found:
        for row in table.rows:
            own = [r.numbers for r in table.runs if r.method == row.method and not r.failed]
            parts: dict[str, Mapping[str, float]] = {
                "mean": row.mean,
                "std": row.std,
                "n": dict.fromkeys(names, 0) | row.count,
                "oracle_mean": means([numbers["oracle_mean"] for numbers in own]),
                "oracle_std": means([numbers["oracle_std"] for numbers in own]),
            }
            about = (table.setting, *table.runs[0].parts, row.method, row.role)
            lines.append(
                {
                    **dict(zip(CSV_HEAD.split(","), about, strict=True)),
                    "best": row.best,
                    "seeds": " ".join(map(str, row.seeds)),
                    "n": len(row.seeds),
                    "oracles": " ".join(map(str, sorted({len(bank) for bank in row.oracles}))),
                    "verdicts": row.verdict,
                    "failed_seeds": " ".join(map(str, sorted(row.failures))),
                    **{f"{name}.{k}": parts[k].get(name) for name in names for k in parts},
                }
            )
    return pandas.DataFrame(lines).to_csv(index=False)


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return " ".join(text.split()).translate(SPECIAL)


def _console() -> Console:
    """Return where to print; brackets in a run's text are no style."""
    width = max(Console().width, NARROWEST)
    return Console(highlight=False, markup=False, emoji=False, width=width)


def _print(
    out: Console,
    title: str,
    heads: Sequence[str],
    rows: list[list[str]],
    markdown: bool,
    references: int = 0,
) -> None:
    """Print a table; a line stands below the rows that are references."""
    if markdown:
        lines = [f"**{title}**", "", _markdown(heads), "|---" * len(heads) + "|"]
        out.out("\n".join([*lines, *map(_markdown, rows)]) + "\n")
        return
    grid = Grid(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.title_justify, grid.title_style = "left", "bold"
    for k, (head, *cells) in enumerate(zip(heads, *rows, strict=True)):
        # a narrow screen breaks a number before its spread, and no word or number within
        longest = max(len(part) for cell in (head, *cells) for part in [*cell.split(), ""])
        justify: Literal["left", "right"] = "left" if k == 0 else "right"
        grid.add_column(head, justify=justify, no_wrap=k < 2, min_width=longest)
    for k, row in enumerate(rows, 1):
        grid.add_row(*row, end_section=k == references)
    out.print(grid)


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
