"""Which method of a setting is marked as best: a rule that no mask can win."""

import math
import statistics
from collections.abc import Sequence

from geniu_lightning.report.aggregate import TRIVIAL, Row
from geniu_lightning.report.leaves import IMAGES_READ, RETAIN_ACCURACY, SECONDS

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
UNMARKED = "No row is marked as best: "


def best_of(rows: Sequence[Row]) -> tuple[str, str]:
    """Return the method that is marked, and a sentence that says why, or why there is none.

    Args:
        rows: The methods of one setting that may be marked.

    Returns:
        The name is empty where none is marked.
    """
    forgetting = [row for row in rows if _forgets(row)]
    if not forgetting:
        return "", UNMARKED + _why_none_forgets(rows)
    most = max(len(row.seeds) for row in rows)
    able = [row for row in forgetting if len(row.seeds) == most and _measured(row)]
    if refused := _why_none_can_be_marked(forgetting, able, most):
        return "", UNMARKED + refused
    highest = max(able, key=_order)
    near = [row for row in able if not _worse(row, highest)]
    quickest = min(map(_seconds, near))
    best = max((row for row in near if _seconds(row) <= FACTOR * quickest), key=_order)
    return best.method, f"Best: {best.method}, {_why(best, highest, able, near)}.{_images(best)}"


def _forgets(row: Row) -> bool:
    """Return whether every run has forgotten; a seed that failed has no verdict."""
    return bool(row.seeds) and not row.failures and row.verdicts == {FORGOTTEN: row.runs}


def _measured(row: Row) -> bool:
    return all(RETAIN_ACCURACY in values for values in row.each.values())


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


def _images(best: Row) -> str:
    read = best.mean.get(IMAGES_READ, 0.0)
    if not read:
        return ""
    return f" It read {read:,.0f} training images: compare it with methods that read as many."


def _why_none_forgets(rows: Sequence[Row]) -> str:
    """Return why no method has forgotten in every run."""
    verdicts = {verdict for row in rows for verdict in row.verdicts}
    if not rows:
        return "there are only rows here that methods are compared with."
    if not any(row.seeds for row in rows):
        return "every method here failed."
    if not verdicts:
        return "no run of a method here has a verdict: that needs retrained oracles."
    sentence = f"no method here has the verdict {FORGOTTEN} in every run."
    if UNTESTED in verdicts:
        sentence += (
            f" The verdict {UNTESTED} is not enough: it is the best one without the attacks"
            " (evaluation=fast), which alone tell a suppressed class from a forgotten one; use"
            " evaluation=full."
        )
    return sentence


def _why_none_can_be_marked(forgetting: Sequence[Row], able: Sequence[Row], most: int) -> str:
    """Return why none of the methods that forget is marked; empty where one can be."""
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
