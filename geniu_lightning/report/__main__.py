"""``python -m geniu_lightning.report FOLDER …``: what finished runs found, as tables."""

import argparse
import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from geniu_lightning.errors import UserError
from geniu_lightning.report.runs import Row, find, gather
from geniu_lightning.report.values import COLUMNS as VALUES
from geniu_lightning.report.values import Sheet, sheets

COLUMNS = {
    "A_f": "accuracy.test.forget",
    "A_r": "accuracy.test.retain",
    "worst": "accuracy.test.worst_retained",
    "A_f train": "accuracy.train.forget",
    "relearned": "relearning.k10.area",
    "after reset": "adaptive.net_area",
    "time, s": "cost.seconds",
    "read": "cost.training_images_read",
}
NARROWEST = 120  # a line that a narrow screen wraps is better than numbers cut short
OF_FULL = {"relearned", "after reset"}
ROLES = {"none": "none (before)", "retrain": "retrain (oracle)"}
EXPLANATION = (
    "A_f: accuracy on forgotten classes, A_r: mean over retained classes, worst: the least of them,"
    " on test images; relearned: accuracy that ten images of a forgotten class bring back over 50"
    " steps, after reset: the same where the forgotten rows of the head are set anew first, less"
    " what retained accuracy lost; n: training seeds; read: training images read while unlearning."
    " The yardstick is the retrained model, not A_f = 0: logit_mask reaches that too, and forgets"
    " nothing. The word is that of the evaluation's rule (docs/evaluation.md), with the number of"
    " seeds that got it; it needs retrained oracles, and forgets needs evaluation=full."
)


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m geniu_lightning.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders of them")
    parser.add_argument("--markdown", action="store_true", help="for a document, not for a screen")
    parser.add_argument("--values", action="store_true", help="every value of each run instead")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=max(Console().width, NARROWEST))
    try:
        if options.values:
            _print_values(console, sheets(options.folders), options.markdown)
        else:
            _print_rows(console, gather(find(options.folders)), options.markdown)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _print_rows(console: Console, rows: list[Row], markdown: bool) -> None:
    """Print a table a setting, and what the columns mean."""
    for setting in sorted({row.setting for row in rows}):
        here = sorted((row for row in rows if row.setting == setting), key=_order)
        columns = _columns(here)
        heads = ["method", "n", *columns, "word"]
        _print(console, setting, heads, [_cells(row, columns) for row in here], markdown)
        for row in here:
            for seed, reason in row.failures.items():
                console.out(f"{row.method}, seed {seed}, failed: {reason}\n")
    console.print(EXPLANATION)


def _print_values(console: Console, found: list[Sheet], markdown: bool) -> None:
    """Print a table a run, and what could not be measured in it."""
    for sheet in found:
        _print(console, sheet.title, ["", *VALUES], sheet.rows, markdown)
        for reason, names in sheet.absent.items():
            console.out(f"absent: {', '.join(names)}: {reason}\n")


def _order(row: Row) -> tuple[bool, bool, str]:
    """The original first, its oracle last."""
    return row.method != "none", row.method == "retrain", row.method


def _columns(rows: list[Row]) -> dict[str, str]:
    """Return the columns, without those of a full evaluation where there was none."""
    return {
        title: name
        for title, name in COLUMNS.items()
        if title not in OF_FULL or any(name in row.mean for row in rows)
    }


def _cells(row: Row, columns: dict[str, str]) -> list[str]:
    return [
        ROLES.get(row.method, row.method),
        str(len(row.seeds)),
        *(_cell(row, name) for name in columns.values()),
        ", ".join(f"{word} {n}/{len(row.seeds)}" for word, n in row.words.items()) or "-",
    ]


def _cell(row: Row, name: str) -> str:
    if name not in row.mean:
        return "-"
    if name == "cost.training_images_read":
        return f"{row.mean[name]:,.0f}"
    digits = 2 if name == "cost.seconds" else 4
    spread = f" ± {row.std[name]:.{digits}f}" if name in row.std else ""
    return f"{row.mean[name]:.{digits}f}{spread}"


def _print(
    console: Console, title: str, heads: list[str], rows: list[list[str]], markdown: bool
) -> None:
    """Print a table: text in the first column and the last of a screen's, numbers between."""
    if markdown:
        lines = [f"**{title}**", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        console.out("\n".join(lines) + "\n")
        return
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for k, head in enumerate(heads):
        # a narrow screen breaks a number before its spread rather than cutting it
        table.add_column(head, justify="left" if k == 0 else "right", no_wrap=k < 2)
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
