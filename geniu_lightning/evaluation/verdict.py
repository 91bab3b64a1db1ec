"""One word for what unlearning did, by a rule, with the values that decided it."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from geniu_lightning.evaluation import reasons
from geniu_lightning.evaluation.evaluator import Findings
from geniu_lightning.evaluation.metric import MetricInfo, Values
from geniu_lightning.evaluation.reasons import Failure
from geniu_lightning.evaluation.references import half_band, position, resolution

FEWEST_ORACLES = 3
DESTROYED_CLASS = 0.05  # the worst class may lose so much before others count as destroyed
FLOORS = 2.0  # a divergence may be so many times that of two oracles
LEAST_DIVERGENCE = 0.005  # nats, where oracles hardly differ
ORACLE_LOSS = 0.03  # an oracle that loses more retained accuracy was not trained as the original
KNOWN_BY_PROXIES = 0.1  # recall beyond false alarms that proxies may teach a new network
FORGETS = "forgets"
NOT_REFUTED = "not refuted"

Side = Literal["above", "below", "either"]


@dataclass(frozen=True)
class Check:
    """One value that a question looks at.

    Args:
        name: Of the value.
        side: On which side of the oracles it fails.
        slack: Smallest distance that fails, where more than the metric's own epsilon.
        floors: How many times the oracles' mean is allowed, in place of a band around it.
        damage: Whether being no worse than the original is enough: oracles are better at a retained
            class that the forgotten one was taken for, and a model that is not has lost nothing.
    """

    name: str
    side: Side = "above"
    slack: float = 0.0
    floors: float | None = None
    damage: bool = False


SCORES = (
    *("loss", "confidence", "entropy", "modified_entropy"),
    *("retained_confidence", "retained_entropy"),
)
LEAKS = tuple(Check(f"membership.{score}.leak") for score in SCORES)
# in this order they are asked
WORKS = (
    Check("accuracy.test.retain", "below", damage=True),
    Check("accuracy.test.retain_minority", "below", damage=True),
    Check("accuracy.test.worst_retained", "below", DESTROYED_CLASS, damage=True),
    Check("confusion.attractor_retained", damage=True),
)
ANSWERS = (Check("accuracy.test.forget"), Check("accuracy.train.forget"))
INSIDE = (
    *(Check(f"relearning.k{k}.area", "either") for k in (1, 5, 10, 50)),
    Check("retain_only.area", "either"),
    Check("adaptive.net", "either"),
    Check("adaptive.net_area", "either"),
    Check("probe.recall", "either"),
    *(Check(f"prototype.{k}.recall", "either") for k in ("k1", "k5", "all")),
    Check("head.repair", "either"),
    Check("head.transplant", "either"),
)
PROBABILITIES = (
    Check("divergence.test_forget.js", floors=FLOORS),
    Check("divergence.train_forget.js", floors=FLOORS),
    *LEAKS,
    Check("retained_attack.auc"),
    Check("retained_attack.distance"),
    Check("confusion.distance"),
    Check("confusion.attractor", "either"),
)
SYSTEM = (Check("own_proxies.area"),)
FULL = ("relearning.", "retain_only.", "adaptive.", "probe.", "prototype.", "head.")


@dataclass(frozen=True)
class Verdict:
    """A word and why.

    Attributes:
        word: ``destroys``, ``destroys without forgetting``, ``keeps``, ``hides``, ``scars``,
            ``forgets in the model, not in the system``, ``forgets``, ``not refuted`` or
            ``invalid``; ``None`` where nothing can be said.
        reason: A sentence.
        deciding: Values that decided, the farthest first.
    """

    word: str | None
    reason: str
    deciding: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class Band:
    """How far from the oracles' mean a value may be before it counts as different.

    Attributes:
        name: Of the value.
        allowed: Largest distance from that mean.
        reach: The original's distance from it; where this is no more, the value tells not even the
            original from the oracles. ``None`` where the original has no such value.
    """

    name: str
    allowed: float
    reach: float | None = None


@dataclass(frozen=True)
class Judgement:
    """What is said of a model, and what the same rule says of models whose answer is known.

    Attributes:
        verdict: Of the model.
        controls: Words of the original and of its mask.
        oracles: How many oracles got which word, each judged by the others.
        bands: Of the values that tell whether the class is inside, the widest first: a smaller
            difference is not seen.
    """

    verdict: Verdict
    controls: dict[str, str | None]
    oracles: dict[str, int]
    bands: Sequence[Band] = ()


def judge(findings: Findings, images: int, intact: bool = True) -> Judgement:
    """Return the word for a model.

    Args:
        findings: With at least three oracles and both controls, else there is no word.
        images: Test images of a forgotten class, of the one that has fewest.
        intact: Whether the original came from training. One that came from an earlier request may
            be damaged, and then to be no worse is not enough.

    Source:
        The order of questions is that of a specification of our own, docs/evaluation.md; bands are
        Bonferroni's over the values of one question, see
        `half_band`.
    """
    rows, original = findings.oracles, findings.controls.get("original")
    if len(rows) < FEWEST_ORACLES:
        said = "no oracles were" if not rows else f"only {len(rows)} of {FEWEST_ORACLES} oracles"
        reason = f"{said} there to compare with, and accuracy cannot tell forgetting from hiding"
        return Judgement(Verdict(None, reason), {}, {})
    if original is None or not any(name.startswith("accuracy.test.") for name in original):
        reason = "test accuracy, which every word begins with, was not measured"
        return Judgement(Verdict(None, reason), {}, {})
    ruler = _Ruler(findings.readings, original, images, intact)
    controls = {name: ruler.verdict(row, rows).word for name, row in findings.controls.items()}
    counts = Counter(
        str(ruler.verdict(row, [other for other in rows if other is not row]).word) for row in rows
    )
    invalid = _invalid(findings, controls, counts, intact)
    verdict = ruler.verdict(findings.unlearned, rows)
    if invalid:
        verdict = Verdict("invalid", f"this comparison resolves nothing: {invalid}")
    return Judgement(verdict, controls, dict(counts), ruler.bands(findings.unlearned, rows))


class _Ruler:
    """The rule, with what it is the same for all models."""

    def __init__(
        self, readings: Mapping[str, MetricInfo], original: Values, images: int, intact: bool
    ) -> None:
        self.readings = readings
        self.original = original
        self.images = images
        self.intact = intact

    def verdict(self, row: Values, oracles: Sequence[Values]) -> Verdict:
        """Return the word of a row of values; the first that fits is taken."""

        def ask(question: str, checks: Sequence[Check]) -> tuple[Failure, ...]:
            return self._failures(question, checks, row, oracles)

        works, answers = ask("works", WORKS), ask("answers", ANSWERS)
        if works:
            word = "destroys without forgetting" if answers else "destroys"
            return Verdict(word, reasons.destroyed(works), works + answers)
        if answers:
            first = answers[0]
            share = f"{first.value:.1%} of its {first.name.split('.')[1]} images"
            return Verdict("keeps", f"the class is still answered, for {share}", answers)
        inside = ask("inside", INSIDE)
        memory = tuple(failure for failure in inside if failure.towards_original)
        memory += tuple(f for f in ask("probabilities", LEAKS) if f.towards_original)
        if memory:
            return Verdict("hides", reasons.hidden(memory), memory)
        asked = [check.name for check, _ in self._able(INSIDE, row, oracles)]
        untold = [f for f in FULL if not any(name.startswith(f) for name in asked)]
        if untold:
            return Verdict(NOT_REFUTED, reasons.not_refuted(untold, row))
        traces = inside + ask("probabilities", PROBABILITIES)
        if traces:
            return Verdict("scars", reasons.scarred(traces), traces)
        return self._of_system(row, ask("system", SYSTEM), len(oracles))

    def bands(self, row: Values, oracles: Sequence[Values]) -> list[Band]:
        """Return the bands that a row is asked to be inside of, the widest first."""
        able = self._able(INSIDE, row, oracles)
        bands = []
        for check, numbers in able:
            original = self.original.get(check.name)
            reach = (
                abs(original - statistics.fmean(numbers)) if isinstance(original, float) else None
            )
            allowed = self._allowed("inside", check, numbers, len(able))
            bands.append(Band(check.name, allowed, reach))
        return sorted(bands, key=lambda band: -band.allowed)

    def _of_system(self, row: Values, failures: tuple[Failure, ...], count: int) -> Verdict:
        """Return the word of a model that has forgotten: what is kept beside it may not have."""
        known, nearer = row.get("knowledge.net"), row.get("copying.feature.forget.nearer_low")
        if isinstance(known, float) and known > KNOWN_BY_PROXIES:
            failures += (Failure("system", "knowledge.net", known, 0.0, KNOWN_BY_PROXIES),)
        if isinstance(nearer, float) and nearer > 0.5:
            name = "copying.feature.forget.nearer_low"
            failures += (Failure("system", name, nearer, 0.5, 0.0),)
        if failures:
            reason = (
                "the model answers as one that never saw the class, but the proxies kept beside it"
                f" give the class away ({failures[0].name} {failures[0].value:.2f})"
            )
            return Verdict("forgets in the model, not in the system", reason, failures)
        reason = (
            "asked about the class it answers as a model that never saw it, and has to learn it"
            f" anew as slowly, within what {count} oracles and this battery can resolve"
        )
        return Verdict(FORGETS, reason)

    def _able(
        self, checks: Sequence[Check], row: Values, oracles: Sequence[Values]
    ) -> list[tuple[Check, list[float]]]:
        """Return the checks whose value the row and all oracles have, with the oracles' values."""
        able = []
        for check in checks:
            theirs = [other.get(check.name) for other in oracles]
            numbers = [x for x in theirs if isinstance(x, float)]
            if isinstance(row.get(check.name), float) and len(numbers) == len(oracles):
                able.append((check, numbers))
        return able

    def _failures(
        self, question: str, checks: Sequence[Check], row: Values, oracles: Sequence[Values]
    ) -> tuple[Failure, ...]:
        able = self._able(checks, row, oracles)
        found = [self._failure(question, c, row, numbers, len(able)) for c, numbers in able]
        failures = [failure for failure in found if failure is not None]
        return tuple(sorted(failures, key=_distance, reverse=True))

    def _allowed(self, question: str, check: Check, oracles: list[float], tests: int) -> float:
        """Return how far from the mean of the oracles a value may be."""
        mean = statistics.fmean(oracles)
        if check.floors is not None:
            return max((check.floors - 1) * mean, LEAST_DIVERGENCE)
        # shares of few images take few values, and a few oracles are easily at the same one
        least = resolution(mean, self.images) if question == "inside" else 0.0
        epsilon = self.readings[check.name].epsilon
        return max(half_band(oracles, epsilon, tests, least), check.slack)

    def _failure(
        self, question: str, check: Check, row: Values, oracles: list[float], tests: int
    ) -> Failure | None:
        value = row[check.name]
        assert isinstance(value, float)  # as asked before
        epsilon = self.readings[check.name].epsilon
        mean = statistics.fmean(oracles)
        allowed = self._allowed(question, check, oracles, tests)
        original = self.original.get(check.name)
        start = mean
        if check.damage and self.intact and isinstance(original, float):
            start = (min if check.side == "below" else max)(mean, original)
        distance = start - value if check.side == "below" else value - start
        if (abs(distance) if check.side == "either" else distance) <= allowed:
            return None
        if not isinstance(original, float):
            return Failure(question, check.name, value, mean, allowed)
        where = position(value, oracles, original, epsilon)
        return Failure(question, check.name, value, mean, allowed, original, where)


def _distance(failure: Failure) -> float:
    if failure.position is not None:
        return abs(failure.position)
    return abs(failure.value - failure.oracles)


def _invalid(
    findings: Findings,
    controls: Mapping[str, str | None],
    counts: Mapping[str, int],
    intact: bool,
) -> str:
    """Return why no word can be trusted here; empty where one can."""
    for number, row in enumerate(findings.oracles, 1):
        forget, retain = row.get("accuracy.test.forget"), row.get("accuracy.test.retain")
        before = findings.controls["original"].get("accuracy.test.retain")
        if isinstance(forget, float) and forget > 0.01:
            return f"oracle {number} knows the forgotten class ({forget:.1%} of its test images)"
        loss = before - retain if isinstance(retain, float) and isinstance(before, float) else 0.0
        if loss > ORACLE_LOSS:
            return f"oracle {number} has {loss:.1%} less retained accuracy than the original"
        auc, error = row.get("membership.loss.auc"), row.get("membership.standard_error")
        if isinstance(auc, float) and isinstance(error, float) and abs(auc - 0.5) > 4 * error:
            return f"oracle {number} tells training from test images of a class it never saw"
    expected = {"original": ["keeps"], "mask": ["hides"]}
    if not intact:
        expected["original"].append("destroys without forgetting")
        expected["mask"].append("destroys")
    for name, words in expected.items():
        if name in controls and controls[name] not in words:
            return f"the {name} reads {controls[name]!r} instead of {words[0]!r}"
    good = sum(count for word, count in counts.items() if word.startswith((FORGETS, NOT_REFUTED)))
    total = sum(counts.values())
    if good < total - total // 5:
        said = ", ".join(f"{word} {count}" for word, count in counts.items())
        return f"oracles, judged by each other, read {said}"
    return ""


def plain(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement as ``metrics.json`` holds it."""
    verdict = judgement.verdict
    return {
        "word": verdict.word,
        "word_reason": verdict.reason,
        "deciding": [vars(failure) for failure in verdict.deciding],
        "controls": judgement.controls,
        "oracle_words": judgement.oracles,
        "bands": [vars(band) for band in judgement.bands],
    }
