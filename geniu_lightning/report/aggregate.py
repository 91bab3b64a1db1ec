"""Runs gathered over seeds: a row a method in a setting, and the rows that it is compared with."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from geniu_lightning.errors import UserError
from geniu_lightning.report.load import Run
from geniu_lightning.report.problem import as_text

TRIVIAL = ("logit_mask", "zero_head", "logit_adjust", "random_init")
LABELS = {"none": "none (before)", "retrain": "retrain (oracle)"}
Role = Literal["oracles", "retrain", "original", "trivial", "method"]


@dataclass(frozen=True)
class Row:
    """One method in one setting, over seeds.

    Attributes:
        method: As in `Run`, as `basis`; of oracles that runs were compared with, their number.
        seeds: Training seeds, sorted; empty where nothing ended well.
        mean: Of each number over the seeds that have it; of several runs from one kit their mean
            counts.
        std: Standard deviation (divisor n - 1); absent with one seed.
        count: How many seeds have each number.
        each: The numbers of each seed.
        verdicts: How many of the runs got which verdict.
        runs: How many there are; of oracles how many evaluations of them.
        failures: Training seeds whose run failed, and why.
        oracles: Training seeds of the oracles that the runs were compared with, a bank each.
        evaluations: Families of metrics that the runs were evaluated with, a set a tier.
    """

    setting: str
    method: str
    basis: str = ""
    seeds: tuple[int, ...] = ()
    mean: dict[str, float] = field(default_factory=dict)
    std: dict[str, float] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    each: dict[int, dict[str, float]] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)
    runs: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    oracles: frozenset[tuple[int, ...]] = frozenset()
    evaluations: frozenset[frozenset[str]] = frozenset()
    best: bool = False

    @property
    def role(self) -> Role:
        """What the row is for; `retrain` are retrained models of other seeds than `oracles`."""
        names = {self.method, self.basis}
        if "oracles" in names:
            return "oracles"
        if "retrain" in names:
            return "retrain"
        if "none" in names:
            return "original"
        return "trivial" if not names.isdisjoint(TRIVIAL) else "method"

    @property
    def label(self) -> str:
        """The method's name as a reader sees it."""
        name = LABELS.get(self.method, self.method)
        return f"{name} (best)" if self.best else name

    @property
    def verdict(self) -> str:
        """The verdicts with the number of runs that got them, or why there are none."""
        if not self.seeds:
            return "failed" if self.failures else "not run"
        counted = sorted(self.verdicts.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{verdict} {n}/{self.runs}" for verdict, n in counted) or "-"


def gather(runs: Iterable[Run], several: bool = False) -> list[Row]:
    """Return a row for each method in each setting; runs that cannot be averaged are refused.

    With `several` a kit may have more than one run of a method, with other unlearning seeds.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.setting, run.method), []).append(run)
    return [_row(members, several) for _, members in sorted(groups.items())]


def fullest(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs that were not evaluated more fully elsewhere, and a sentence for each other.

    The evaluation is part of what names a folder, so a run that is attacked later is in another
    one; and weights that are evaluated from another folder carry the description of their run.
    """
    fuller: dict[object, Run] = {}
    left_out = []
    for run in runs:
        same = (run.setting, run.method, run.recipe, run.kit, run.settings.get("seed"))
        # a failure has no evaluation, and without its digest a kit is not known to be the same
        key = same if run.kit and not run.failed else run.folder
        less, more = sorted(
            (run, fuller.get(key, run)), key=lambda r: (len(r.numbers["value"]), len(r.oracles))
        )
        fuller[key] = more
        if less is not more:
            left_out.append(
                f"{less.folder} is left out: the same run is evaluated no less fully in"
                f" {more.folder}"
            )
    return list(fuller.values()), left_out


def of_oracles(runs: Sequence[Run]) -> list[Row]:
    """Return a row for each bank of oracles that runs of one setting were compared with.

    Some values of oracles, such as divergences, differ a little from kit to kit; the row has the
    mean over runs, of their standard deviations too. Its verdicts are those of all kits and
    evaluations together, each of which evaluates the oracles: the rate of false alarms.
    """
    banks: dict[tuple[int, ...], list[Run]] = {}
    for run in runs:
        if run.oracles and not run.failed:
            banks.setdefault(run.oracles, []).append(run)
    rows = []
    for seeds, members in banks.items():
        verdicts = _oracle_verdicts(members)
        mean = means([run.numbers["oracle_mean"] for run in members])
        rows.append(
            Row(
                members[0].setting,
                f"oracles ({len(seeds)})",
                "oracles",
                seeds,
                mean,
                means([run.numbers["oracle_std"] for run in members]),
                dict.fromkeys(mean, len(seeds)),
                verdicts=verdicts,
                runs=verdicts.total(),
                oracles=frozenset({seeds}),
            )
        )
    return rows


def of_original(runs: Sequence[Run]) -> Row | None:
    """Return the row of the original, which other runs of its setting measured; `None` if none."""
    fullest_of: dict[int, Run] = {}
    for run in runs:  # an evaluation of more metrics has more of the original
        if run.numbers["original"]:
            known = fullest_of.get(run.seed, run)
            fullest_of[run.seed] = max(known, run, key=lambda one: len(one.numbers["original"]))
    if not fullest_of:
        return None
    found = list(fullest_of.values())
    return Row(
        found[0].setting,
        "none",
        "none",
        tuple(sorted(fullest_of)),
        *_statistics([run.numbers["original"] for run in found]),
        verdicts=Counter(run.original_verdict for run in found if run.original_verdict),
        runs=len(found),
        oracles=_banks(found),
    )


def means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each number over those that have it."""
    return _statistics(found)[0]


def _row(members: Sequence[Run], several: bool) -> Row:
    well = [run for run in members if not run.failed]
    _check_comparable(well, several)
    each = {
        seed: means([run.numbers["value"] for run in well if run.seed == seed])
        for seed in sorted({run.seed for run in well})
    }
    done = {(run.seed, run.settings.get("seed")) for run in well}
    return Row(
        members[0].setting,
        members[0].method,
        members[0].basis,
        tuple(each),
        *_statistics([*each.values()]),
        each=each,
        verdicts=Counter(run.verdict for run in well if run.verdict),
        runs=len(well),
        # what failed and ended well in another folder is no failure
        failures={
            run.seed: run.failed
            for run in members
            if run.failed and (run.seed, run.settings.get("seed")) not in done
        },
        oracles=_banks(well),
        evaluations=frozenset(run.families for run in well),
    )


def _check_comparable(runs: Sequence[Run], several: bool) -> None:
    """Raise a `UserError` if runs of one method in one setting cannot be averaged."""
    for k, run in enumerate(runs):
        for other in runs[:k]:
            if other.recipe != run.recipe:
                raise UserError(
                    f"{other.folder} and {run.folder} have one name and are not the same"
                    " experiment: their training or the method's settings differ; set"
                    " unlearner.name, or name one"
                )
            same_kit = bool(run.kit) and run.kit == other.kit
            seeded = several and same_kit and run.settings.get("seed") != other.settings.get("seed")
            if run.seed == other.seed and not seeded:
                raise UserError(
                    f"{other.folder} and {run.folder} are the same method on"
                    f" {'one kit' if same_kit else 'kits of the same training seed'}; name one of"
                    " them"
                )


def _statistics(
    found: Sequence[Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, float], dict[str, int]]:
    """Return mean, standard deviation and number of values of each number, where there are any."""
    import pandas

    frame = pandas.DataFrame([*found], dtype=float)
    mean, std, count = frame.mean(), frame.std(), frame.count()
    return dict(mean.dropna()), dict(std.dropna()), dict(count[count > 0])


def _oracle_verdicts(runs: Iterable[Run]) -> Counter[str]:
    """Return how often oracles got which verdict; runs of one kit and evaluation repeat it."""
    apart = {}
    for run in runs:
        # prompts that were read are evaluated
        prompts = run.document.get("cost", {}).get("reads_prompts")
        key = (run.seed, run.kit, as_text([run.settings.get("evaluation"), prompts]))
        apart[key] = Counter[str](run.document.get("oracle_verdicts") or {})
    return sum(apart.values(), Counter[str]())


def _banks(runs: Iterable[Run]) -> frozenset[tuple[int, ...]]:
    return frozenset(run.oracles for run in runs if run.oracles)
