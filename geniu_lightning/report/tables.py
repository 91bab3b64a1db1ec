"""A table a setting: its methods, the rows that they have to be compared with, and the best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from geniu_lightning.report.aggregate import Role, Row, fullest, gather, of_oracles, of_original
from geniu_lightning.report.best import best_of
from geniu_lightning.report.load import Run

ALWAYS = ("none", "logit_mask", "random_init")  # have a row where they were not run too
ORDER: tuple[Role, ...] = ("oracles", "retrain", "original", "trivial", "method")


@dataclass(frozen=True)
class Table:
    """All that was found in one setting.

    Attributes:
        rows: References first, then the methods by name.
        conclusion: A sentence on which row is marked, or why none is.
        runs: What the rows were gathered from.
        left_out: A sentence for each run that they were not gathered from.
    """

    setting: str
    rows: list[Row]
    conclusion: str
    runs: list[Run]
    left_out: list[str]

    @property
    def failures(self) -> list[str]:
        """A sentence for each seed of a method that failed, or whose later evaluation failed."""
        failed = [
            f"{row.method}, seed {seed}, failed: {reason}"
            for row in self.rows
            for seed, reason in row.failures.items()
        ]
        again = [
            f"{run.method}, seed {run.seed}, has its earlier values, for its later evaluation"
            f" failed: {run.failed_again}"
            for run in self.runs
            if run.failed_again
        ]
        return [" ".join(sentence.split()) for sentence in (*failed, *again)]


def tables(runs: Sequence[Run]) -> list[Table]:
    """Return a table for each setting."""
    return [
        _table(setting, [run for run in runs if run.setting == setting])
        for setting in sorted({run.setting for run in runs})
    ]


def _table(setting: str, every: list[Run]) -> Table:
    runs, left_out = fullest(every)
    rows = gather(runs, several=True)
    best, conclusion = best_of([row for row in rows if row.role == "method"])
    rows = [replace(row, best=row.method == best) for row in rows]
    present = {name for row in rows for name in (row.method, row.basis)}
    rows += of_oracles(runs) or [Row(setting, "oracles", "oracles")]
    for name in ALWAYS:
        if name not in present:
            original = of_original(runs) if name == "none" else None
            rows.append(original or Row(setting, name, name))
    return Table(setting, sorted(rows, key=_place), conclusion, runs, left_out)


def _place(row: Row) -> tuple[int, bool, str]:
    """References before methods; of the trivial baselines those that are always shown first."""
    return ORDER.index(row.role), row.method not in ALWAYS, row.method
