"""Which method of a setting is marked as best: a rule that no mask can win."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from geniu_lightning.report.aggregate import TRIVIAL, Row
from geniu_lightning.report.document import IMAGES_READ, RETAIN_ACCURACY, SECONDS

# the verdicts that the rule names, as `metrics.json` writes them
FORGOTTEN = "forgotten"
UNTESTED = "untested"
FEWEST_SEEDS = 3
LEVEL = 0.05  # of calling any two equal methods of a table different
NO_SPREAD = 1e-9  # of A_r: below it is the rounding of a mean
FACTOR = 1.5  # times that are nearer to each other than this count as equal
RULE = (
    "The rule for (best): of methods that are neither an oracle nor the original nor a trivial"
    f" baseline (none, retrain, {', '.join(TRIVIAL)}) only those that were run with the most"
    f" training seeds that any method here has, at least {FEWEST_SEEDS}, all of them with the same,"
    f" and whose verdict is {FORGOTTEN} in every run. The one with the highest mean A_r is compared"
    f" with each other one (paired t-tests over training seeds, two-sided, all pairs of methods"
    f" together at {LEVEL:.0%} by Holm's correction). Of those that are not told apart from the"
    f" highest, what took more than {FACTOR:g} times as long as the quickest is left out; the"
    " highest mean A_r of the rest is best. Nothing is, where the verdicts come from different"
    " oracles or evaluations."
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
    able.sort(key=_order, reverse=True)
    different = told_apart([[row.each[k][RETAIN_ACCURACY] for k in row.seeds] for row in able])
    near = [row for k, row in enumerate(able) if (0, k) not in different]
    quickest = min(map(_seconds, near))
    best = max((row for row in near if _seconds(row) <= FACTOR * quickest), key=_order)
    sentence = f"Best: {best.method}, {_why(best, able, near)}."
    if read := best.mean.get(IMAGES_READ):
        sentence += (
            f" It read {read:,.0f} training images: compare it with methods that read as many."
        )
    return best.method, sentence


def told_apart(values: Sequence[Sequence[float]]) -> set[tuple[int, int]]:
    """Return the pairs of methods that differ, of values `(methods, seeds)`, the first index lower.

    Paired t-tests over seeds, for a kit that is hard for one method is hard for the other. Holm's
    correction counts all pairs: which method is highest is chosen by the same values, and counting
    its own comparisons alone finds a difference among four equal methods in up to 8 % of tables.
    Differences without spread give no standard error, so the pair is not separated.
    """
    from scipy.special import stdtr

    pairs, seeds = [*combinations(range(len(values)), 2)], len(values[0])
    gaps = np.array([np.subtract(values[a], values[b]) for a, b in pairs]).reshape(-1, seeds)
    error = gaps.std(axis=1, ddof=1) / math.sqrt(seeds)
    t = np.divide(gaps.mean(axis=1), error, out=np.zeros(len(pairs)), where=error > NO_SPREAD)
    p = 2 * stdtr(seeds - 1, -np.abs(t))
    order = p.argsort()
    corrected = np.maximum.accumulate(p[order] * np.arange(len(pairs), 0, -1))
    return {pairs[k] for k in order[corrected <= LEVEL]}


def _order(row: Row) -> tuple[float, float]:
    """Return what is highest first: A_r, and of equal ones the quicker one."""
    return row.mean[RETAIN_ACCURACY], -_seconds(row)


def _seconds(row: Row) -> float:
    return row.mean.get(SECONDS, math.inf)


def _why(best: Row, able: Sequence[Row], near: Sequence[Row]) -> str:
    which = f"with verdict {FORGOTTEN} for all {len(best.seeds)} seeds"
    if len(able) == 1:
        return f"the only method here {which}"
    first = f"one of {len(able)} {which}"
    if len(near) == 1:
        return f"{first}, with the highest A_r"
    if best is near[0]:
        return f"{first}, with the highest A_r; nothing that is as good is clearly faster"
    return f"{first}, which A_r does not tell from {near[0].method}, and faster"


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
        untested = f" {UNTESTED} is not enough: only evaluation=verdict and full run the attacks."
        none = f"no method here has the verdict {FORGOTTEN} in every run."
        return none + (untested if UNTESTED in verdicts else "")
    if not able:
        return (
            f"what forgets in every run ({', '.join(row.method for row in forgetting)}) has fewer"
            f" training seeds than another method here ({most}), or no A_r."
        )
    if most < FEWEST_SEEDS:
        return f"{most} training seeds are too few to compare methods: {FEWEST_SEEDS} are needed."
    return _why_not_comparable(able)


def _why_not_comparable(able: Sequence[Row]) -> str:
    """Return why methods cannot be compared seed by seed; empty where they can."""
    every = "the methods that forget in every run were"
    if len({row.seeds for row in able}) > 1:
        return f"{every} run with different training seeds."
    if len({row.oracles for row in able}) > 1:
        banks = ", ".join(
            f"{row.method}: {' and '.join(str(len(bank)) for bank in sorted(row.oracles))}"
            for row in able
        )
        return (
            f"{every} not compared with the same oracles ({banks}); the command that made a run"
            " evaluates it again once the bank has grown."
        )
    tiers = frozenset[frozenset[str]]().union(*(row.evaluations for row in able))
    if len(tiers) > 1:
        some = ", ".join(sorted(frozenset().union(*tiers) - frozenset.intersection(*tiers)))
        return f"{every} not all evaluated with the same metrics (only some with {some})."
    return ""
