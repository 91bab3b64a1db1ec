"""The verdict on an unlearned model: the decision rule of docs/evaluation.md over its values."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from geniu_lightning.evaluation import reasons
from geniu_lightning.evaluation.checks import (
    ANSWERS,
    INSIDE,
    PROBABILITIES,
    SYSTEM,
    WORKS,
    Check,
)
from geniu_lightning.evaluation.evidence import Evidence, Verdict
from geniu_lightning.evaluation.inside import Attack, attacks
from geniu_lightning.evaluation.metric import Values
from geniu_lightning.evaluation.reasons import Finding
from geniu_lightning.evaluation.references import resolution, tolerance
from geniu_lightning.evaluation.validity import fault

FEWEST_ORACLES = 3
LEVEL = 0.05  # of each question
LEAST_DIVERGENCE = 0.005  # nats, where oracles hardly differ
KNOWN_OF_PROXIES = (  # value, its ideal, and what it may exceed that by
    ("knowledge.net", 0.0, 0.1),  # recall beyond false alarms that proxies teach a new network
    ("copying.feature.forget.nearer_low", 0.5, 0.0),
)


@dataclass(frozen=True)
class Decision:
    """The verdict on a model, all findings, and the rule's answers where the answer is known."""

    verdict: Verdict | None  # `None` where there can be none
    reason: str
    findings: tuple[Finding, ...] = ()  # those of the verdict first
    attacks: Sequence[Attack] = ()
    controls: Mapping[str, Verdict | None] = field(default_factory=dict)
    oracles: Mapping[str, int] = field(default_factory=dict)  # number of them by verdict

    def as_json(self) -> dict[str, Any]:
        """Return the decision as `metrics.json` holds it, version 3."""
        return {
            "verdict": self.verdict,
            "verdict_reason": self.reason,
            "findings": [vars(finding) for finding in self.findings],
            "controls": self.controls,
            "oracle_verdicts": self.oracles,
            "attacks": [
                {
                    "family": attack.family.name,
                    "name": attack.name,
                    "allowed": attack.allowed,
                    "reach": abs(attack.reach),
                    "has_power": attack.has_power,
                }
                for attack in self.attacks
            ],
        }


def decide(evidence: Evidence) -> Decision:
    """Return the verdict on a model."""
    oracles, controls = evidence.oracles, evidence.controls
    original = controls.get("original")
    if len(oracles) < FEWEST_ORACLES:
        return Decision(None, reasons.too_few_oracles(len(oracles), FEWEST_ORACLES))
    if original is None or not isinstance(original.get("accuracy.test.forget"), float):
        return Decision(None, "test accuracy, which every verdict needs, was not measured")
    rule = _Rule(evidence, original)
    of_controls = {name: rule.apply(row, oracles, matched=True) for name, row in controls.items()}
    of_oracles = [
        rule.apply(row, peers, matched=True)
        for row, peers in zip(oracles, evidence.peers, strict=True)
    ]
    decision = rule.apply(evidence.model, oracles, evidence.nulls, evidence.matched)
    verdicts = {name: found.verdict for name, found in of_controls.items()}
    counts = Counter(str(found.verdict) for found in of_oracles)
    wrong = fault(evidence, verdicts, [found.verdict for found in of_oracles])
    if wrong:
        why = f"this comparison is not valid: {wrong}"
        decision = replace(decision, verdict=Verdict.INCONCLUSIVE, reason=why)
    return replace(decision, controls=verdicts, oracles=dict(counts))


@dataclass(frozen=True)
class _Rule:
    """The decision rule, with what is the same for all models it is applied to."""

    evidence: Evidence
    original: Values

    def apply(
        self,
        model: Values,
        oracles: Sequence[Values],
        nulls: Sequence[Values] = (),
        matched: bool = False,
    ) -> Decision:
        """Return the decision on one model: the first question that fails gives the verdict."""
        works, answers = (self._ask(q, model, oracles) for q in ("works", "answers"))
        images = self.evidence.images["forget"]
        tried = attacks(model, nulls or oracles, self.original, images)
        against = "nulls" if nulls else "oracles"
        # null runs of a second request begin at oracles, which no method has been at
        matched = matched or (bool(nulls) and self.evidence.intact)
        inside = tuple(
            _found(a, against) for a in tried if a.finds_class and (matched or a.family.memory)
        )
        from_null = self._ask("probabilities", model, nulls, "nulls") if len(nulls) > 1 else ()
        from_oracles = self._ask("probabilities", model, oracles) + self._traces(
            model, oracles, tried, matched, bool(nulls)
        )
        system = self._ask("system", model, oracles) + _knowledge_of_proxies(model)
        findings = (works, answers, inside, from_null, from_oracles, system)
        verdict, reason = self._verdict(findings, tried, model)
        listed = tuple(f for question in findings for f in sorted(question, key=_farthest))
        return Decision(verdict, reason, listed, tried)

    def _verdict(
        self, findings: Sequence[tuple[Finding, ...]], tried: Sequence[Attack], model: Values
    ) -> tuple[Verdict, str]:
        works, answers, inside, from_null, from_oracles, system = findings
        and_inside = f"; and suppressed: {reasons.suppressed(inside)}" if inside else ""
        if works:
            verdict = Verdict.DAMAGED_AND_RETAINED if answers else Verdict.DAMAGED
            also = f"; {reasons.retained(answers[0])}" if answers else and_inside
            return verdict, reasons.damaged(works[0]) + also
        if answers:
            return Verdict.RETAINED, reasons.retained(answers[0])
        if inside:
            said = "the class no longer appears in the answers, but it is still inside: "
            return Verdict.SUPPRESSED, said + reasons.suppressed(inside)
        silent = [question for question in ASKED if not self._comparable(question, model)]
        if silent:
            return Verdict.UNTESTED, reasons.unasked(silent)
        blind = [
            family
            for family in INSIDE
            if family.kind and not any(a.has_power for a in tried if a.family.kind == family.kind)
        ]
        if blind:
            images = self.evidence.images["forget"]
            return Verdict.UNTESTED, reasons.untested(blind, tried, model, self._references, images)
        doubts = [attack for attack in tried if attack.may_show_class]
        if doubts:
            return Verdict.UNTESTED, reasons.doubtful(doubts[0], self._references)
        if from_null or from_oracles:
            return Verdict.DISTINGUISHABLE, reasons.distinguishable(from_null, from_oracles)
        if system:
            return Verdict.FORGOTTEN_IN_MODEL, reasons.in_model_only(system[0])
        proxies = any(isinstance(model.get(name), float) for name, *_ in KNOWN_OF_PROXIES)
        return Verdict.FORGOTTEN, reasons.forgotten(tried, self._references, proxies)

    @property
    def _references(self) -> tuple[int, str]:
        """Number and kind of the networks that attacks are compared on."""
        nulls = len(self.evidence.nulls)
        return (nulls, "null runs") if nulls else (len(self.evidence.oracles), "oracles")

    def _traces(
        self,
        model: Values,
        oracles: Sequence[Values],
        tried: Sequence[Attack],
        matched: bool,
        nulls: bool,
    ) -> tuple[Finding, ...]:
        """Return what attacks show of the procedure: a difference from oracles, not the class."""
        images = self.evidence.images["forget"]
        if nulls:
            tried = attacks(model, oracles, self.original, images)
            return tuple(
                _found(a, "oracles", "procedure") for a in tried if a.finds_class or a.opposite
            )
        features = (a for a in tried if a.finds_class and not matched and not a.family.memory)
        opposite = (a for a in tried if a.opposite)
        return tuple(_found(a, "oracles", "procedure") for a in (*features, *opposite))

    def _ask(
        self, question: str, model: Values, references: Sequence[Values], against: str = "oracles"
    ) -> tuple[Finding, ...]:
        """Return the findings of a question that one value answers, the farthest first."""
        comparable = self._comparable(question, model, references)
        found = []
        for check, value, numbers in comparable:
            mean = statistics.fmean(numbers)
            allowed = self._allowed(check, numbers, LEVEL / len(comparable))
            measured = self.original.get(check.name)
            original = measured if isinstance(measured, float) else None
            start = mean
            if check.damage and self.evidence.intact and original is not None:
                start = (min if check.side == "below" else max)(mean, original)
            distance = start - value if check.side == "below" else value - start
            if (abs(distance) if check.side == "either" else distance) > allowed:
                found.append(
                    Finding(question, check.name, value, start, allowed, original, against)
                )
        return tuple(sorted(found, key=_farthest))

    def _comparable(
        self, question: str, model: Values, references: Sequence[Values] | None = None
    ) -> list[tuple[Check, float, list[float]]]:
        """Return the checks whose value model and references (or oracles) have, with the values."""
        references = self.evidence.oracles if references is None else references
        return [
            (check, value, numbers)
            for check in CHECKS[question]
            if isinstance(value := model.get(check.name), float)
            and len(numbers := _numbers(check.name, references)) == len(references)
        ]

    def _allowed(self, check: Check, numbers: list[float], level: float) -> float:
        """Return the largest distance from the references' mean that passes."""
        mean = statistics.fmean(numbers)
        if check.floors is not None:
            return max((check.floors - 1) * (mean - check.equal), LEAST_DIVERGENCE)
        # shares of few images take few values, so that a few networks easily agree by chance
        least = resolution(min(max(mean, 0.0), 1.0), self.evidence.images[check.images])
        level = level / 2 if check.side == "either" else level
        epsilon = self.evidence.infos[check.name].epsilon
        return max(tolerance(numbers, least, level), epsilon, check.slack)


ASKED = ("works", "answers", "probabilities")  # each needs a value before a model is forgotten
CHECKS: Mapping[str, tuple[Check, ...]] = {
    "works": WORKS,
    "answers": ANSWERS,
    "probabilities": PROBABILITIES,
    "system": SYSTEM,
}


def _numbers(name: str, rows: Sequence[Values]) -> list[float]:
    return [value for row in rows if isinstance(value := row.get(name), float)]


def _found(attack: Attack, against: str, question: str = "inside") -> Finding:
    return Finding(
        *(question, attack.name, attack.value, attack.mean, attack.allowed, attack.original),
        against,
        attack.position,
    )


def _farthest(finding: Finding) -> float:
    return -abs(finding.value - finding.reference) / max(finding.allowed, 1e-9)


def _knowledge_of_proxies(model: Values) -> tuple[Finding, ...]:
    """Return the values that tell what proxies give away without any oracle's value."""
    found = []
    for name, expected, allowed in KNOWN_OF_PROXIES:
        value = model.get(name)
        if isinstance(value, float) and value > expected + allowed:
            found.append(Finding("system", name, value, expected, allowed))
    return tuple(found)
