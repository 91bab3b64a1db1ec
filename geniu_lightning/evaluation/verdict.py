"""The verdict on an unlearned model: the decision rule of docs/evaluation.md over its values."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from geniu_lightning.evaluation import reasons
from geniu_lightning.evaluation.checks import (
    ANSWERS,
    FULL,
    INSIDE,
    LEAKS,
    PROBABILITIES,
    SYSTEM,
    WORKS,
    Check,
)
from geniu_lightning.evaluation.metric import MetricInfo, Values
from geniu_lightning.evaluation.reasons import Finding
from geniu_lightning.evaluation.references import position, resolution, tolerance

FEWEST_ORACLES = 3
LEAST_DIVERGENCE = 0.005  # nats, where oracles hardly differ
ORACLE_LOSS = 0.03  # an oracle that loses more retained accuracy was not trained as the original
ORACLE_RECALL = 0.01  # of the forgotten class, above which a model is no oracle
KNOWN_BY_PROXIES = 0.1  # recall beyond false alarms that proxies may teach a new network


class Verdict(StrEnum):
    """What unlearning did to a model."""

    RETAINED = "retained"
    SUPPRESSED = "suppressed"
    DAMAGED = "damaged"
    DAMAGED_AND_RETAINED = "damaged and retained"
    DISTINGUISHABLE = "distinguishable"
    FORGOTTEN = "forgotten"
    FORGOTTEN_IN_MODEL = "forgotten in the model only"
    UNTESTED = "untested"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Decision:
    """The verdict on a model, and the rule's answers for models whose answer is known.

    A row of `tolerances` has a `name` of `INSIDE`, the largest distance from the oracles' mean that
    is `allowed`, and the original's distance as `reach`, or `None`; the widest come first.
    """

    verdict: Verdict | None  # `None` where there can be none
    reason: str
    deciding: tuple[Finding, ...] = ()  # the farthest first
    controls: Mapping[str, Verdict | None] = field(default_factory=dict)
    oracles: Mapping[str, int] = field(default_factory=dict)  # number of them by verdict
    tolerances: Sequence[dict[str, Any]] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the decision as `metrics.json` holds it, version 2."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "deciding": [vars(finding) for finding in self.deciding],
            "controls": self.controls,
            "oracle_verdicts": self.oracles,
            "tolerances": list(self.tolerances),
        }


def decide(
    model: Values,
    oracles: Sequence[Values],
    controls: Mapping[str, Values],
    infos: Mapping[str, MetricInfo],
    images: int,
    intact: bool = True,
) -> Decision:
    """Return the verdict on a model by its values, by full names such as `accuracy.test.forget`.

    Args:
        model: The model's values.
        oracles: Values of each oracle, compared with the others.
        controls: Values of the `original` and of its `mask`.
        infos: Of all values.
        images: Test images of the forgotten class that has fewest.
        intact: Whether the original came from training. One that came from an earlier request may
            be damaged, and then to be no worse is not enough.
    """
    original = controls.get("original")
    if len(oracles) < FEWEST_ORACLES:
        there = f"only {len(oracles)} of {FEWEST_ORACLES}" if oracles else "no"
        few = f"{there} oracles were available to compare with"
        return Decision(None, f"{few}, and accuracy cannot tell forgetting from suppression")
    if original is None or not any(name.startswith("accuracy.test.") for name in original):
        return Decision(None, "test accuracy, which every verdict needs, was not measured")
    rule = _Rule(infos, original, images, intact)
    of_controls = {name: rule.apply(row, oracles).verdict for name, row in controls.items()}
    of_oracles = Counter(
        str(rule.apply(row, [other for other in oracles if other is not row]).verdict)
        for row in oracles
    )
    fault = _fault(oracles, original, of_controls, of_oracles, intact)
    if fault:
        nothing = f"this comparison resolves nothing: {fault}"
        decision = Decision(Verdict.INCONCLUSIVE, nothing)
    else:
        decision = rule.apply(model, oracles)
    tolerances = rule.tolerances(model, oracles)
    return replace(decision, controls=of_controls, oracles=dict(of_oracles), tolerances=tolerances)


@dataclass(frozen=True)
class _Rule:
    """The decision rule, with what is the same for all models it is applied to."""

    infos: Mapping[str, MetricInfo]
    original: Values
    images: int
    intact: bool

    def apply(self, model: Values, oracles: Sequence[Values]) -> Decision:
        """Return the decision on one model: the first question that fails gives the verdict."""

        def ask(question: str, checks: Sequence[Check]) -> tuple[Finding, ...]:
            return self._findings(question, checks, model, oracles)

        works, answers = ask("works", WORKS), ask("answers", ANSWERS)
        if works:
            verdict = Verdict.DAMAGED_AND_RETAINED if answers else Verdict.DAMAGED
            return Decision(verdict, reasons.damaged(works[0]), works + answers)
        if answers:
            return Decision(Verdict.RETAINED, reasons.retained(answers[0]), answers)
        inside = ask("inside", INSIDE)
        found = tuple(f for f in inside + ask("probabilities", LEAKS) if f.towards_original)
        if found:
            return Decision(Verdict.SUPPRESSED, reasons.suppressed(found), found)
        asked = [check.name for check, *_ in _comparable(INSIDE, model, oracles)]
        missing = [f for f in FULL if not any(name.startswith(f) for name in asked)]
        if missing:
            return Decision(Verdict.UNTESTED, reasons.untested(missing, model))
        traces = inside + ask("probabilities", PROBABILITIES)
        if traces:
            return Decision(Verdict.DISTINGUISHABLE, reasons.distinguishable(traces[0]), traces)
        system = ask("system", SYSTEM) + _knowledge_of_proxies(model)
        if system:
            return Decision(Verdict.FORGOTTEN_IN_MODEL, reasons.in_model_only(system[0]), system)
        return Decision(Verdict.FORGOTTEN, reasons.forgotten(len(oracles)))

    def tolerances(self, model: Values, oracles: Sequence[Values]) -> list[dict[str, Any]]:
        """Return the tolerances of the values that look inside a model, the widest first."""
        comparable = _comparable(INSIDE, model, oracles)
        found: list[dict[str, Any]] = []
        for check, _, numbers in comparable:
            original, mean = self.original.get(check.name), statistics.fmean(numbers)
            allowed = self._allowed("inside", check, numbers, len(comparable))
            reach = abs(original - mean) if isinstance(original, float) else None
            found.append({"name": check.name, "allowed": allowed, "reach": reach})
        return sorted(found, key=lambda tolerance: -tolerance["allowed"])

    def _findings(
        self, question: str, checks: Sequence[Check], model: Values, oracles: Sequence[Values]
    ) -> tuple[Finding, ...]:
        """Return the findings of a question, the farthest first."""
        comparable = _comparable(checks, model, oracles)
        found = []
        for check, value, numbers in comparable:
            mean = statistics.fmean(numbers)
            allowed = self._allowed(question, check, numbers, len(comparable))
            measured = self.original.get(check.name)
            original = measured if isinstance(measured, float) else None
            start = mean
            if check.damage and self.intact and original is not None:
                start = (min if check.side == "below" else max)(mean, original)
            distance = start - value if check.side == "below" else value - start
            if (abs(distance) if check.side == "either" else distance) <= allowed:
                continue
            where = None
            if original is not None:
                where = position(value, numbers, original, self.infos[check.name].epsilon)
            found.append(Finding(question, check.name, value, mean, allowed, original, where))
        return tuple(sorted(found, key=lambda finding: finding.distance, reverse=True))

    def _allowed(self, question: str, check: Check, oracles: list[float], tests: int) -> float:
        """Return the largest distance from the oracles' mean that passes."""
        mean = statistics.fmean(oracles)
        if check.floors is not None:
            return max((check.floors - 1) * mean, LEAST_DIVERGENCE)
        # shares of few images take few values, so that a few oracles easily agree by chance
        least = resolution(mean, self.images) if question == "inside" else 0.0
        epsilon = self.infos[check.name].epsilon
        return max(tolerance(oracles, epsilon, tests, least), check.slack)


def _comparable(
    checks: Sequence[Check], model: Values, oracles: Sequence[Values]
) -> list[tuple[Check, float, list[float]]]:
    """Return the checks whose value the model and all oracles have, with these values."""
    found = []
    for check in checks:
        values = [row.get(check.name) for row in (model, *oracles)]
        numbers = [value for value in values if isinstance(value, float)]
        if len(numbers) == len(values):
            found.append((check, numbers[0], numbers[1:]))
    return found


def _knowledge_of_proxies(model: Values) -> tuple[Finding, ...]:
    """Return the values that tell what proxies give away without any oracle's value."""
    found = []
    for name, expected, allowed in (
        ("knowledge.net", 0.0, KNOWN_BY_PROXIES),
        ("copying.feature.forget.nearer_low", 0.5, 0.0),
    ):
        value = model.get(name)
        if isinstance(value, float) and value > expected + allowed:
            found.append(Finding("system", name, value, expected, allowed))
    return tuple(found)


def _fault(
    oracles: Sequence[Values],
    original: Values,
    controls: Mapping[str, Verdict | None],
    counts: Mapping[str, int],
    intact: bool,
) -> str:
    """Return why the comparison resolves nothing; empty where it does."""
    before = original.get("accuracy.test.retain")
    for number, row in enumerate(oracles, 1):
        forget, retain = row.get("accuracy.test.forget"), row.get("accuracy.test.retain")
        if isinstance(forget, float) and forget > ORACLE_RECALL:
            return f"oracle {number} knows the forgotten class ({forget:.1%} of its test images)"
        loss = before - retain if isinstance(retain, float) and isinstance(before, float) else 0.0
        if loss > ORACLE_LOSS:
            return f"oracle {number} has {loss:.1%} less retained accuracy than the original"
        auc, error = row.get("membership.loss.auc"), row.get("membership.standard_error")
        if isinstance(auc, float) and isinstance(error, float) and abs(auc - 0.5) > 4 * error:
            return f"oracle {number} tells training from test images of a class it never saw"
    expected = {"original": [Verdict.RETAINED], "mask": [Verdict.SUPPRESSED]}
    if not intact:
        expected["original"].append(Verdict.DAMAGED_AND_RETAINED)
        expected["mask"].append(Verdict.DAMAGED)
    for name, verdicts in expected.items():
        if name in controls and controls[name] not in verdicts:
            return f"the verdict on the {name} is {controls[name]}, not {verdicts[0]}"
    passing = (Verdict.FORGOTTEN, Verdict.FORGOTTEN_IN_MODEL, Verdict.UNTESTED)
    good, total = sum(counts.get(verdict, 0) for verdict in passing), sum(counts.values())
    if good < total - total // 5:
        given = ", ".join(f"{verdict} {count}" for verdict, count in counts.items())
        return f"the verdicts on the oracles, each compared with the others, are {given}"
    return ""
