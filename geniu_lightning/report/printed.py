"""Tables on a screen, as Markdown, and for a paper: LaTeX with booktabs, ready to paste."""

from collections.abc import Sequence
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid

from geniu_lightning.report.cells import EXPLANATION, cells_of, columns_of, heads_of
from geniu_lightning.report.tables import RULE, Line, Table
from geniu_lightning.report.values import HEADS, Sheet

NARROWEST = 120  # a line that a narrow screen wraps is better than numbers cut short
SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "−": r"$-$",
    }
)
SYMBOLS = {"A_f": "$A_f$", "A_r": "$A_r$", "A_f train": "$A_f$ train"}


def console() -> Console:
    """Return where to print; what stands in brackets is a reader's, and no style."""
    width = max(Console().width, NARROWEST)
    return Console(highlight=False, markup=False, emoji=False, width=width)


def print_tables(found: Sequence[Table], markdown: bool) -> None:
    """Print a table a setting, and what the columns mean."""
    out = console()
    for table in found:
        columns = columns_of(table.lines)
        rows = [[cell.text for cell in cells_of(line, columns)] for line in table.lines]
        methods = sum(line.role == "method" for line in table.lines)
        _print(out, table.setting, heads_of(columns), rows, markdown, len(rows) - methods)
        for sentence in (table.verdict, *table.failures):
            out.out(f"{sentence}\n")
    out.print(EXPLANATION)
    out.print(RULE)


def print_values(found: Sequence[Sheet], markdown: bool) -> None:
    """Print a table a run, and what could not be measured in it."""
    out = console()
    for sheet in found:
        _print(out, sheet.title, ["", *HEADS], sheet.rows, markdown)
        for reason, names in sheet.absent.items():
            out.out(f"absent: {', '.join(names)}: {' '.join(reason.split())}\n")


def _print(
    out: Console,
    title: str,
    heads: list[str],
    rows: list[list[str]],
    markdown: bool,
    references: int = 0,
) -> None:
    """Print a table: text in the first column and the last of a screen's, numbers between."""
    if markdown:
        lines = [f"**{title}**", "", *map(_markdown, [heads]), "|---" * len(heads) + "|"]
        out.out("\n".join([*lines, *map(_markdown, rows)]) + "\n")
        return
    grid = Grid(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for k, (head, *cells) in enumerate(zip(heads, *rows, strict=True)):
        # a narrow screen breaks a number before its spread, and no word or number within
        longest = max(len(part) for cell in (head, *cells) for part in [*cell.split(), ""])
        justify: Literal["left", "right"] = "left" if k == 0 else "right"
        grid.add_column(head, justify=justify, no_wrap=k < 2, min_width=longest)
    for k, row in enumerate(rows, 1):
        grid.add_row(*row, end_section=k == references)
    out.print(grid)


def _markdown(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_latex(found: Sequence[Table]) -> str:
    """Return a ``table`` environment a setting; what the columns mean stands in comments."""
    head = ["% in the preamble: \\usepackage{booktabs}", f"% {EXPLANATION}", f"% {RULE}", ""]
    return "\n".join([*head, *(_latex(table, k) for k, table in enumerate(found, 1))])


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return " ".join(text.split()).translate(SPECIAL)


def _latex(table: Table, number: int) -> str:
    columns = columns_of(table.lines)
    heads = [SYMBOLS.get(head, escaped(head)) for head in heads_of(columns)]
    references = [line for line in table.lines if line.role != "method"]
    methods = [line for line in table.lines if line.role == "method"]
    groups = [
        [_latex_row(line, columns) for line in lines] for lines in (references, methods) if lines
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escaped(table.setting)}. {escaped(table.verdict)}}}",
            rf"\label{{tab:unlearning-{number}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 2)}l}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            "\n\\midrule\n".join("\n".join(rows) for rows in groups),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            *(f"% {failure}" for failure in map(escaped, table.failures)),
            "",
        ]
    )


def _latex_row(line: Line, columns: dict[str, str]) -> str:
    cells = [escaped(cell.text) for cell in cells_of(line, columns)]
    if line.best:
        cells[0] = rf"\textbf{{{cells[0]}}}"
    return " & ".join("--" if cell == "-" else cell for cell in cells) + r" \\"
