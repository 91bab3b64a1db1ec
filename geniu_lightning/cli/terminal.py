"""What a command prints: sentences and tables on standard output."""

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # torch takes seconds, and a refusal prints without it
    from geniu_lightning.evaluation.verdict import Decision

log = logging.getLogger(__name__)
console = Console(highlight=False, markup=False, emoji=False)  # names are a stranger's
SECONDS_BETWEEN_LINES = 5.0


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def paced() -> Callable[[], bool]:
    """Return a function that is true once every few seconds, when a line may be printed."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        late = time.monotonic() - last > SECONDS_BETWEEN_LINES
        last = time.monotonic() if late else last
        return late

    return due


def decoding_report() -> Callable[[str, int, int], None]:
    """Return a reporter of (split, images decoded, images in all)."""
    due = paced()

    def report(split: str, decoded: int, total: int) -> None:
        if due():
            log.info("reading %s images  %d/%d", split, decoded, total)

    return report


def duration(seconds: float) -> str:
    """Return a time in words, in minutes where they are more than one and a half."""
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def waiting(seconds: float) -> Callable[[str], None]:
    """Log the estimated time of a long evaluation; return a reporter of its parts."""
    start, due = time.monotonic(), paced()
    if seconds > 2 * SECONDS_BETWEEN_LINES:
        log.info("evaluation will take about %s", duration(seconds))

    def report(part: str) -> None:
        if due():
            passed = time.monotonic() - start
            log.info("evaluating %s  %.0f s of about %.0f", part, passed, max(seconds, passed))

    return report


def verdict(decision: "Decision", oracles: int) -> None:
    """Print verdict, findings, attacks without power, and the verdicts on oracles and controls."""
    from geniu_lightning.evaluation.inside import BROKEN, without_power
    from geniu_lightning.evaluation.reasons import NAMES

    if decision.verdict is None:
        say(f"no verdict: {decision.reason}")
        return
    console.print(f"{decision.verdict}: {decision.reason}", style="bold", soft_wrap=True)
    if decision.findings:
        rows = [
            [
                *(f.name, f.value, f.reference, f.against, f.allowed),
                "-" if f.original is None else f.original,
            ]
            for f in decision.findings
        ]
        columns = ["found", "model", "reference", "of", "allowed", "original"]
        table("", columns, rows)
    for attack in without_power(decision.attacks):
        why = f"sees {attack.allowed:.3f} or more; the original has {abs(attack.reach):.3f}"
        if attack.loss > BROKEN:
            why = f"costs {attack.loss:.0%} of retained accuracy"
        say(f"without power: {NAMES[attack.family.name]}, which {why}")
    counts = ", ".join(f"{verdict} {count}" for verdict, count in decision.oracles.items())
    controls = ", ".join(f"{name} {verdict}" for name, verdict in decision.controls.items())
    say(f"verdicts of the same rule on the oracles: {counts}; on the controls: {controls}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: numbers to the right, fractions with four digits, NaN as a dash.

    Text stands in the first column and may stand in the last; there it is folded, not cut.
    """
    made = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for k, column in enumerate(columns):
        if (k == len(columns) - 1 and all(isinstance(row[k], str) for row in rows)) or k == 0:
            made.add_column(column, overflow="fold")
        else:
            made.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        made.add_row(*map(_cell, row))
    console.print(made)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}"
    return str(value)
