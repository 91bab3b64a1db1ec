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
        setting: As in `Run`.
        method: Likewise.
        seeds: Training seeds, sorted.
        mean: Of each number over the seeds that have it; of several runs from one kit their mean
            counts.
        std: Its deviation (divisor n - 1); absent with one seed.
        words: How many of its runs the evaluation gave which word.
        failures: Training seeds whose run failed, and why.
        basis: As in `Run`.
        counts: How many seeds have each number.
        oracles: Training seeds of the oracles that its runs were compared with, a bank each.
        each: The numbers of each seed.
        runs: How many runs the words are of; of oracles how many judgements.
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
    runs: int = 0


def gather(runs: Iterable[Run], several: bool = False) -> list[Row]:
    """Return a row for each method in each setting.

    Args:
        runs: Of any settings.
        several: Whether a kit may have several runs of a method, with other unlearning seeds.

    Raises:
        UserError: If runs of one method and setting share a seed, or differ in more than the seed.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.setting, run.method), []).append(run)
    rows = []
    for (setting, method), members in sorted(groups.items()):
        well = [run for run in members if not run.failed]
        by_seed = _by_seed(well, several)
        each = {
            seed: means([run.found.values for run in own]) for seed, own in sorted(by_seed.items())
        }
        done = {(run.seed, run.unlearning_seed) for run in well}
        rows.append(
            Row(
                setting,
                method,
                tuple(each),
                *_summary([*each.values()]),
                # what failed and was then done elsewhere is no failure
                failures={
                    run.seed: run.failed
                    for run in members
                    if run.failed and (run.seed, run.unlearning_seed) not in done
                },
                words=dict(Counter(run.word for run in well if run.word)),
                basis=members[0].basis,
                counts=dict(Counter(name for values in each.values() for name in values)),
                oracles=_banks(well),
                each=each,
                runs=len(well),
            )
        )
    return rows


def fullest(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """Leave out what was judged more fully elsewhere.

    An evaluation is part of what names a folder, so a run that is judged by attacks too is another
    one; and weights that are judged from elsewhere carry the description of the run that made them.

    Returns:
        The runs that stay, and a sentence for each other.
    """
    kept: dict[object, Run] = {}
    left_out = []
    for run in runs:
        same = (run.setting, run.method, run.recipe, run.training, run.kit, run.unlearning_seed)
        # a failure has no evaluation, and without its digest a kit is not known to be the same
        key = same if run.kit and not run.failed else run.folder
        less, more = sorted((run, kept.get(key, run)), key=_fullness)
        kept[key] = more
        if less is not more:
            left_out.append(
                f"{less.folder} is left out: the same run is judged no less fully in {more.folder}"
            )
    return list(kept.values()), left_out


def _fullness(run: Run) -> tuple[int, int]:
    return len(run.found.values), len(run.oracles.seeds)


def of_oracles(runs: Sequence[Run]) -> list[Row]:
    """Return a row for each bank of oracles that runs of one setting were compared with.

    What is measured of oracles beside a kit differs a little from kit to kit; of such values the
    row has the mean over runs, of their deviations too. Its words are those of all kits and
    evaluations together, for each of them judges the oracles: their rate of false alarms.
    """
    banks: dict[tuple[int, ...], list[Run]] = {}
    for run in runs:
        if run.oracles.seeds and not run.failed:
            banks.setdefault(run.oracles.seeds, []).append(run)
    rows = []
    for seeds, members in banks.items():
        words = _oracle_words(members)
        rows.append(
            Row(
                members[0].setting,
                f"oracles ({len(seeds)})",
                seeds,
                means([run.oracles.mean.values for run in members]),
                means([run.oracles.std for run in members]),
                words,
                counts={k: len(seeds) for run in members for k in run.oracles.mean.values},
                oracles=frozenset({seeds}),
                runs=sum(words.values()),
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
        runs=len(found),
    )


def means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each number over those that have it."""
    return {name: statistics.fmean(several) for name, several in _together(found).items()}


def _oracle_words(runs: Iterable[Run]) -> dict[str, int]:
    """Return how often oracles got which word; runs that share kit and evaluation repeat it."""
    judged = {(run.seed, run.kit, run.evaluation): run.oracles.words for run in runs}
    words: Counter[str] = Counter()
    for counted in judged.values():
        words.update(counted)
    return dict(words)


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


def _by_seed(runs: Iterable[Run], several: bool) -> dict[int, list[Run]]:
    """Return the runs of one method in one setting by the training seed of their kit."""
    found: dict[int, list[Run]] = {}
    for run in runs:
        other = next(iter(found.values()), [run])[0]
        if (other.recipe, other.training) != (run.recipe, run.training):
            raise UserError(
                f"{other.folder} and {run.folder} have one name and are not the same experiment:"
                " their training or the method's settings differ; set unlearner.name, or name one"
            )
        for twin in found.get(run.seed, []):
            same_kit = bool(run.kit) and run.kit == twin.kit
            if not (several and same_kit and run.unlearning_seed != twin.unlearning_seed):
                raise UserError(
                    f"{twin.folder} and {run.folder} are the same method on"
                    f" {'one kit' if same_kit else 'kits of the same training seed'}; name one of"
                    " them"
                )
        found.setdefault(run.seed, []).append(run)
    return found
