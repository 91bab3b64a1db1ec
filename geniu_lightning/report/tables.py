"""A table a setting: its methods, beside the rows that they have to be read with, and the best.

The rule by which a row is marked as best is one that no mask can win.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from geniu_lightning.report.cells import READ, RETAINED, SECONDS
from geniu_lightning.report.rows import Row, fullest, gather, of_oracles, of_original
from geniu_lightning.report.runs import Run

TRIVIAL = ("logit_mask", "zero_head", "logit_adjust", "random_init")
STANDARD_ERRORS = 2.0  # a mean difference within so many cannot be told from none
FACTOR = 1.5  # times that are nearer to each other than this count as equal
RULE = (
    "The rule for (best): of methods that are neither an oracle nor the original nor a trivial"
    f" baseline (none, retrain, {', '.join(TRIVIAL)}) only those that were run with the most"
    " training seeds that any method here has, all of them with the same, and whose word is forgets"
    " in every run. The one with the highest mean A_r is compared with each other one, seed by"
    f" seed: where the mean difference is within {STANDARD_ERRORS:g} standard errors, A_r does not"
    " tell the two apart (with one seed only equal A_r does not). Of those that are not told apart"
    f" from the highest, what took more than {FACTOR:g} times as long as the quickest is left out;"
    " the highest mean A_r of the rest is best. Nothing is, where their words come from different"
    " oracles."
)
UNMARKED = "No row is marked as best: "
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
        setting: As in `Run`.
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
        UserError: As `gather`.
    """
    settings: dict[str, list[Run]] = {}
    for run in runs:
        settings.setdefault(run.setting, []).append(run)
    return [_table(setting, settings[setting]) for setting in sorted(settings)]


def best_of(rows: Sequence[Row]) -> tuple[str, str]:
    """Return the method that is marked, and a sentence that says why, or why there is none.

    Args:
        rows: The methods of one setting that may be marked.

    Returns:
        The name is empty where none is marked.
    """
    forgetting = [row for row in rows if _forgets(row)]
    if not forgetting:
        return "", UNMARKED + _why_none(rows)
    most = max(len(row.seeds) for row in rows)
    able = [row for row in forgetting if len(row.seeds) == most and _measured(row)]
    if refused := _why_not(forgetting, able, most):
        return "", UNMARKED + refused
    highest = max(able, key=_retained)
    near = [row for row in able if not _worse(row, highest)]
    quickest = min(map(_seconds, near))
    best = max((row for row in near if _seconds(row) <= FACTOR * quickest), key=_retained)
    return best.method, f"Best: {best.method}, {_why(best, highest, able, near)}.{_read(best)}"


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


def _forgets(row: Row) -> bool:
    """Return whether every run's word is ``forgets``; a seed that failed has none."""
    return bool(row.seeds) and not row.failures and row.words == {"forgets": row.runs}


def _measured(row: Row) -> bool:
    return all(RETAINED in values for values in row.each.values())


def _retained(row: Row) -> tuple[float, float]:
    """Return what is highest first: A_r, and of equal ones the quicker one."""
    return row.mean[RETAINED], -_seconds(row)


def _seconds(row: Row) -> float:
    return row.mean.get(SECONDS, math.inf)


def _worse(row: Row, highest: Row) -> bool:
    """Return whether A_r tells a row from the highest, over the same seeds.

    A kit that is hard for one method is hard for the other: the spread of each would hide what
    their differences show.
    """
    gaps = [highest.each[seed][RETAINED] - row.each[seed][RETAINED] for seed in row.seeds]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return statistics.fmean(gaps) > STANDARD_ERRORS * error


def _why(best: Row, highest: Row, able: Sequence[Row], near: Sequence[Row]) -> str:
    seeds = len(best.seeds)
    whose = "whose word is forgets with " + (f"all {seeds} seeds" if seeds > 1 else "the one seed")
    if len(able) == 1:
        return f"the only method here {whose}"
    first = f"one of {len(able)} {whose}"
    if len(near) == 1:
        return f"{first}, with the highest A_r"
    if best is highest:
        return f"{first}, with the highest A_r; nothing that is as good is clearly faster"
    return f"{first}, which A_r does not tell from {highest.method}, and faster"


def _read(best: Row) -> str:
    read = best.mean.get(READ, 0.0)
    if not read:
        return ""
    return f" It read {read:,.0f} training images: compare it with methods that read as many."


def _why_none(rows: Sequence[Row]) -> str:
    """Return why no method has the word ``forgets`` in every run."""
    words = {word for row in rows for word in row.words}
    if not rows:
        return "there is nothing here but what methods are compared with."
    if not any(row.seeds for row in rows):
        return "every method here failed."
    if not words:
        return "no run of a method here has a word: that needs retrained oracles."
    said = "no method here has the word forgets in every run."
    if "not refuted" in words:
        said += (
            " Not refuted is not enough: it is the best word where the attacks are left out"
            " (evaluation=fast), which then cannot tell what is hidden from what is gone; use"
            " evaluation=full."
        )
    return said


def _why_not(forgetting: Sequence[Row], able: Sequence[Row], most: int) -> str:
    """Return why of methods that forget none is marked; empty where one can be."""
    if not able:
        return (
            f"what forgets in every run ({', '.join(row.method for row in forgetting)}) has fewer"
            f" training seeds than another method here ({most}), or no A_r."
        )
    if len({row.seeds for row in able}) > 1:
        return "the methods that forget in every run were run with different training seeds."
    if len({row.oracles for row in able}) > 1:
        banks = ", ".join(
            f"{row.method}: {' and '.join(str(len(bank)) for bank in sorted(row.oracles))}"
            for row in able
        )
        return (
            "the methods that forget in every run were not compared with the same oracles"
            f" ({banks}); the command that made a run judges it anew once the bank has grown."
        )
    return ""
