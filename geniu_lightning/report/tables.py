"""A table a setting: its methods, beside the rows that they have to be read with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from geniu_lightning.report.best import TRIVIAL, best_of
from geniu_lightning.report.rows import Row, fullest, gather, of_oracles, of_original
from geniu_lightning.report.runs import Run

Role = Literal["oracles", "retrain", "original", "trivial", "method"]
ALWAYS = ("none", "logit_mask", "random_init")  # shown where they were not run too
LABELS = {"none": "none (before)", "retrain": "retrain (oracle)"}
ORDER: tuple[Role, ...] = ("oracles", "retrain", "original", "trivial", "method")


@dataclass(frozen=True)
class Line:
    """A row of a table, and what it is there for.

    Attributes:
        row: The numbers.
        role: ``oracles`` are those that runs were compared with, ``retrain`` one of other seeds.
        best: Whether it is marked.
    """

    row: Row
    role: Role
    best: bool = False

    @property
    def label(self) -> str:
        """The method's name as a reader sees it."""
        name = LABELS.get(self.row.method, self.row.method)
        return f"{name} (best)" if self.best else name

    @property
    def words(self) -> str:
        """The words with the number of runs that got them, or why there are none."""
        if not self.row.seeds:
            return "failed" if self.row.failures else "not run"
        counted = sorted(self.row.words.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{word} {n}/{self.row.runs}" for word, n in counted) or "-"


@dataclass(frozen=True)
class Table:
    """All that was found in one setting.

    Attributes:
        setting: As in :class:`~geniu_lightning.report.runs.Run`.
        lines: References first, then the methods by name.
        verdict: A sentence on which line is marked, or why none is.
        runs: What the lines were gathered from.
        left_out: A sentence for each run that they were not gathered from.
    """

    setting: str
    lines: list[Line]
    verdict: str
    runs: list[Run]
    left_out: list[str]

    @property
    def failures(self) -> list[str]:
        """A sentence for each seed of a method that failed, or was judged anew in vain."""
        failed = [
            f"{line.row.method}, seed {seed}, failed: {reason}"
            for line in self.lines
            for seed, reason in line.row.failures.items()
        ]
        again = [
            f"{run.method}, seed {run.seed}, has its earlier values, for judging it anew failed:"
            f" {run.again}"
            for run in self.runs
            if run.again
        ]
        return [" ".join(sentence.split()) for sentence in (*failed, *again)]


def tables(runs: Sequence[Run]) -> list[Table]:
    """Return a table for each setting.

    Raises:
        UserError: As :func:`~geniu_lightning.report.rows.gather`.
    """
    settings: dict[str, list[Run]] = {}
    for run in runs:
        settings.setdefault(run.setting, []).append(run)
    return [_table(setting, settings[setting]) for setting in sorted(settings)]


def _table(setting: str, every: list[Run]) -> Table:
    runs, left_out = fullest(every)
    rows = gather(runs, several=True)
    best, verdict = best_of([row for row in rows if _role(row) == "method"])
    lines = [Line(row, _role(row), row.method == best) for row in rows]
    lines += [Line(row, "oracles") for row in of_oracles(runs) or [_empty(setting, "oracles")]]
    there = {row.method for row in rows} | {row.basis for row in rows}
    for name in ALWAYS:
        if name not in there:
            row = (of_original(runs) if name == "none" else None) or _empty(setting, name)
            lines.append(Line(row, _role(row)))
    return Table(setting, sorted(lines, key=_place), verdict, runs, left_out)


def _empty(setting: str, name: str) -> Row:
    return Row(setting, name, (), {}, {}, basis=name)


def _role(row: Row) -> Role:
    """Return what a method is there for, under whatever name it ran."""
    names = {row.method, row.basis}
    if "retrain" in names:
        return "retrain"
    if "none" in names:
        return "original"
    return "trivial" if not names.isdisjoint(TRIVIAL) else "method"


def _place(line: Line) -> tuple[int, bool, str]:
    """References before methods; of the trivial baselines those that are always shown first."""
    return ORDER.index(line.role), line.row.method not in ALWAYS, line.row.method
