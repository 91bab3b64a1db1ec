"""Tables for a paper: booktabs, ready to paste."""

from collections.abc import Sequence

from geniu_lightning.report.best import RULE
from geniu_lightning.report.cells import EXPLANATION, cells_of, columns_of, heads_of
from geniu_lightning.report.tables import Line, Table

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


def as_latex(found: Sequence[Table]) -> str:
    """Return a ``table`` environment a setting; what the columns mean stands in comments."""
    head = ["% in the preamble: \\usepackage{booktabs}", f"% {EXPLANATION}", f"% {RULE}", ""]
    return "\n".join([*head, *(_table(table, k) for k, table in enumerate(found, 1))])


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return " ".join(text.split()).translate(SPECIAL)


def _table(table: Table, number: int) -> str:
    columns = columns_of(table.lines)
    heads = [SYMBOLS.get(head, escaped(head)) for head in heads_of(columns)]
    references = [line for line in table.lines if line.role != "method"]
    methods = [line for line in table.lines if line.role == "method"]
    groups = [[_row(line, columns) for line in lines] for lines in (references, methods) if lines]
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


def _row(line: Line, columns: dict[str, str]) -> str:
    cells = [escaped(cell.text) for cell in cells_of(line, columns)]
    if line.best:
        cells[0] = rf"\textbf{{{cells[0]}}}"
    return " & ".join("--" if cell == "-" else cell for cell in cells) + r" \\"
