"""Which method of a setting is marked as best: a rule that no mask can win."""

import math
import statistics
from collections.abc import Sequence

from geniu_lightning.report.aggregate import TRIVIAL, Row
from geniu_lightning.report.document import IMAGES_READ, RETAIN_ACCURACY, SECONDS

# the verdicts that the rule names, as `metrics.json` writes them
FORGOTTEN = "forgotten"
UNTESTED = "untested"
STANDARD_ERRORS = 2.0  # a mean difference within so many cannot be told from none
FACTOR = 1.5  # times that are nearer to each other than this count as equal
RULE = (
    "The rule for (best): of methods that are neither an oracle nor the original nor a trivial"
    f" baseline (none, retrain, {', '.join(TRIVIAL)}) only those that were run with the most"
    " training seeds that any method here has, all of them with the same, and whose verdict is"
    f" {FORGOTTEN} in every run. The one with the highest mean A_r is compared with each other one,"
    f" seed by seed: where the mean difference is within {STANDARD_ERRORS:g} standard errors, A_r"
    " does not tell the two apart (with one seed only equal A_r does not). Of those that are not"
    f" told apart from the highest, what took more than {FACTOR:g} times as long as the quickest is"
    " left out; the highest mean A_r of the rest is best. Nothing is, where their verdicts come"
    " from different oracles."
)


def best_of(rows: Sequence[Row]) -> tuple[str, str]:
    """Return which method of one setting is marked, and a sentence that says why.

    The name is empty where none is, and the sentence then says why not.
    """
    forgetting = [
        row  # a seed that failed has no verdict
        for row in rows
        if row.seeds and not row.failures and row.verdicts == {FORGOTTEN: row.runs}
    ]
    most = max((len(row.seeds) for row in rows), default=0)
    able = [
        row
        for row in forgetting
        if len(row.seeds) == most and all(RETAIN_ACCURACY in one for one in row.each.values())
    ]
    if refused := _why_none_can_be_marked(rows, forgetting, able, most):
        return "", f"No row is marked as best: {refused}"
    highest = max(able, key=_order)
    near = [row for row in able if not _worse(row, highest)]
    quickest = min(map(_seconds, near))
    best = max((row for row in near if _seconds(row) <= FACTOR * quickest), key=_order)
    sentence = f"Best: {best.method}, {_why(best, highest, able, near)}."
    if read := best.mean.get(IMAGES_READ):
        sentence += (
            f" It read {read:,.0f} training images: compare it with methods that read as many."
        )
    return best.method, sentence


def _order(row: Row) -> tuple[float, float]:
    """Return what is highest first: A_r, and of equal ones the quicker one."""
    return row.mean[RETAIN_ACCURACY], -_seconds(row)


def _seconds(row: Row) -> float:
    return row.mean.get(SECONDS, math.inf)


def _worse(row: Row, highest: Row) -> bool:
    """Return whether A_r tells a row from the highest, over the same seeds.

    A kit that is hard for one method is hard for the other: the spread of each would hide what
    their differences show.
    """
    gaps = [
        highest.each[seed][RETAIN_ACCURACY] - row.each[seed][RETAIN_ACCURACY] for seed in row.seeds
    ]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return statistics.fmean(gaps) > STANDARD_ERRORS * error


def _why(best: Row, highest: Row, able: Sequence[Row], near: Sequence[Row]) -> str:
    seeds = len(best.seeds)
    which = f"with verdict {FORGOTTEN} for " + (f"all {seeds} seeds" if seeds > 1 else "the seed")
    if len(able) == 1:
        return f"the only method here {which}"
    first = f"one of {len(able)} {which}"
    if len(near) == 1:
        return f"{first}, with the highest A_r"
    if best is highest:
        return f"{first}, with the highest A_r; nothing that is as good is clearly faster"
    return f"{first}, which A_r does not tell from {highest.method}, and faster"


def _why_none_can_be_marked(
    rows: Sequence[Row], forgetting: Sequence[Row], able: Sequence[Row], most: int
) -> str:
    verdicts = {verdict for row in rows for verdict in row.verdicts}
    if not rows:
        return "there are only rows here that methods are compared with."
    if not most:
        return "every method here failed."
    if not verdicts:
        return "no run of a method here has a verdict: that needs retrained oracles."
    if not forgetting:
        not_enough = (
            f" The verdict {UNTESTED} is not enough: it is the best one without the attacks"
            " (evaluation=fast), which alone tell a suppressed class from a forgotten one; use"
            " evaluation=full."
        )
        return (
            f"no method here has the verdict {FORGOTTEN} in every run."
            f"{not_enough if UNTESTED in verdicts else ''}"
        )
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
            f" ({banks}); the command that made a run evaluates it again once the bank has grown."
        )
    return ""
