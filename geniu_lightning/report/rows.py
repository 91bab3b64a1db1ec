"""Runs gathered over seeds: a row a method in a setting, and the rows it is to be read beside."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from geniu_lightning.errors import UserError
from geniu_lightning.report.runs import Run


@dataclass(frozen=True)
class Row:
    """One method in one setting, over seeds.

    Attributes:
        setting: As in :class:`~geniu_lightning.report.runs.Run`.
        method: Likewise.
        seeds: Training seeds, sorted.
        mean: Of each number over the seeds that have it.
        std: Its deviation (divisor n - 1); absent with one seed.
        words: How many of its runs the evaluation gave which word.
        failures: Training seeds whose run failed, and why.
        basis: As in :class:`~geniu_lightning.report.runs.Run`.
        counts: How many seeds have each number.
        oracles: Training seeds of the oracles that its runs were compared with, a bank each.
        each: The numbers of each seed.
    """

    setting: str
    method: str
    seeds: tuple[int, ...]
    mean: dict[str, float]
    std: dict[str, float]
    words: dict[str, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    basis: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    oracles: frozenset[tuple[int, ...]] = frozenset()
    each: dict[int, dict[str, float]] = field(default_factory=dict)


def gather(runs: Iterable[Run]) -> list[Row]:
    """Return a row for each method in each setting.

    Raises:
        UserError: If runs of one method and setting share a seed, or differ in more than the seed.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.setting, run.method), []).append(run)
    rows = []
    for (setting, method), members in sorted(groups.items()):
        well = _by_seed(run for run in members if not run.failed)
        rows.append(
            Row(
                setting,
                method,
                tuple(sorted(well)),
                *_summary([run.found.values for run in well.values()]),
                # what failed and was then done elsewhere is no failure
                failures={r.seed: r.failed for r in members if r.failed and r.seed not in well},
                words=dict(Counter(run.word for run in well.values() if run.word)),
                basis=members[0].basis,
                counts=dict(Counter(k for run in well.values() for k in run.found.values)),
                oracles=_banks(well.values()),
                each={seed: run.found.values for seed, run in well.items()},
            )
        )
    return rows


def of_oracles(runs: Sequence[Run]) -> list[Row]:
    """Return a row for each bank of oracles that runs of one setting were compared with.

    What is measured of oracles beside a kit differs a little from kit to kit; of such values the
    row has the mean over runs, of their deviations too.
    """
    banks: dict[tuple[int, ...], list[Run]] = {}
    for run in runs:
        if run.oracles.seeds and not run.failed:
            banks.setdefault(run.oracles.seeds, []).append(run)
    rows = []
    for seeds, members in banks.items():
        words = Counter(tuple(run.oracles.words.items()) for run in members).most_common(1)[0][0]
        rows.append(
            Row(
                members[0].setting,
                f"oracles ({len(seeds)})",
                seeds,
                means([run.oracles.mean.values for run in members]),
                means([run.oracles.std for run in members]),
                dict(words),
                counts={k: len(seeds) for run in members for k in run.oracles.mean.values},
                oracles=frozenset({seeds}),
            )
        )
    return rows


def of_original(runs: Sequence[Run]) -> Row | None:
    """Return the original's row from what runs of one setting carry of it; ``None`` if nothing."""
    carried: dict[int, Run] = {}
    for run in runs:  # an evaluation that looked at more carries more
        known = carried[run.seed].original.values if run.seed in carried else {}
        if len(run.original.values) > len(known):
            carried[run.seed] = run
    if not carried:
        return None
    found = list(carried.values())
    return Row(
        found[0].setting,
        "none",
        tuple(sorted(carried)),
        *_summary([run.original.values for run in found]),
        dict(Counter(run.original_word for run in found if run.original_word)),
        basis="none",
        counts=dict(Counter(k for run in found for k in run.original.values)),
        oracles=_banks(found),
    )


def means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each number over those that have it."""
    return {name: statistics.fmean(several) for name, several in _together(found).items()}


def _banks(runs: Iterable[Run]) -> frozenset[tuple[int, ...]]:
    return frozenset(run.oracles.seeds for run in runs if run.oracles.seeds)


def _summary(found: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return mean and deviation of each number over those that have it."""
    several = {name: values for name, values in _together(found).items() if len(values) > 1}
    return means(found), {name: statistics.stdev(values) for name, values in several.items()}


def _together(found: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for one in found:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return values


def _by_seed(runs: Iterable[Run]) -> dict[int, Run]:
    found: dict[int, Run] = {}
    for run in runs:
        if run.seed in found:
            raise UserError(
                f"{found[run.seed].folder} and {run.folder} are the same method on kits of the same"
                " training seed; name one of them"
            )
        other = next(iter(found.values()), run)
        if (other.recipe, other.training) != (run.recipe, run.training):
            raise UserError(
                f"{other.folder} and {run.folder} have one name and are not the same experiment:"
                " their training or the method's settings differ; set unlearner.name, or name one"
            )
        found[run.seed] = run
    return found
