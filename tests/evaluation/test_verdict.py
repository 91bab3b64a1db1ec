"""The verdict: by a rule, in an order, and only where the comparison resolves anything."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from geniu_lightning.evaluation import checks
from geniu_lightning.evaluation.attacks.head import Head
from geniu_lightning.evaluation.attacks.membership import Membership
from geniu_lightning.evaluation.attacks.probing import Prototype
from geniu_lightning.evaluation.attacks.retained_attack import RetainedAttack
from geniu_lightning.evaluation.cache import FileCache
from geniu_lightning.evaluation.evaluator import Evaluator
from geniu_lightning.evaluation.metric import Absent, MetricInfo, Value, Values
from geniu_lightning.evaluation.metrics.accuracy import Accuracy
from geniu_lightning.evaluation.metrics.confusion import Confusion
from geniu_lightning.evaluation.metrics.divergence import Divergence
from geniu_lightning.evaluation.verdict import Decision, Verdict, decide
from tests.evaluation.worlds import context_of, rigged

V = Verdict


def test_each_rigged_model_gets_its_verdict(tmp_path: Path) -> None:
    """Through the real metrics; also: the rule asks for no name that no metric gives."""
    metrics = {
        "accuracy": Accuracy(),
        "confusion": Confusion(),
        "divergence": Divergence(),
        "membership": Membership(),
        "retained_attack": RetainedAttack(),
        "prototype": Prototype(),
        "head": Head(),
    }
    oracles = [rigged()["oracle"] for _ in range(3)]
    evaluator = Evaluator(metrics, FileCache(tmp_path))  # oracles and controls are the same
    for model, expected in (
        ("original", V.RETAINED),
        ("oracle", V.UNTESTED),
        ("mask", V.SUPPRESSED),
        ("uniform", V.DAMAGED_AND_RETAINED),  # one in ten of the class is still answered
        ("memoriser", V.RETAINED),
        ("collapsed", V.DAMAGED),
    ):
        found = evaluator.evaluate(context_of(rigged()[model], *oracles))
        assert found.decision is not None
        assert found.decision.verdict is expected, model
        assert found.decision.controls == {"original": V.RETAINED, "mask": V.SUPPRESSED}
        assert found.decision.oracles == {V.UNTESTED: 3}
    trained = {"relearning", "retain_only", "adaptive", "probe", "own_proxies"}
    questions = (checks.WORKS, checks.ANSWERS, checks.INSIDE, checks.PROBABILITIES)
    asked = {check.name for question in questions for check in question}
    assert {name for name in asked if name.partition(".")[0] not in trained} <= set(found.values)


# ---- the rule, on values made up ---------------------------------------------------------------

# values of oracles and of the original in a full evaluation
ORACLE: dict[str, float] = {
    "accuracy.test.retain": 0.95,
    "accuracy.test.retain_minority": 0.94,
    "accuracy.test.worst_retained": 0.9,
    "accuracy.test.forget": 0.0,
    "accuracy.train.forget": 0.0,
    "confusion.attractor_retained": 0.01,
    "confusion.attractor": 0.2,
    "confusion.distance": 0.1,
    "divergence.test_forget.js": 0.05,
    "divergence.train_forget.js": 0.05,
    "membership.loss.leak": 0.51,
    "membership.loss.auc": 0.5,
    "membership.standard_error": 0.01,
    "retained_attack.auc": 0.7,
    "relearning.k10.area": 0.1,
    "retain_only.area": 0.0,
    "adaptive.net_area": 0.5,
    "probe.recall": 0.8,
    "prototype.all.recall": 0.7,
    "head.repair": 0.0,
    "own_proxies.area": 0.3,
}
ORIGINAL = ORACLE | {
    "accuracy.test.forget": 0.98,
    "accuracy.train.forget": 1.0,
    "relearning.k10.area": 0.98,
    "adaptive.net_area": 0.9,
    "probe.recall": 0.98,
    "prototype.all.recall": 0.97,
    "head.repair": 0.98,
    "membership.loss.leak": 0.6,
}
MASK = ORIGINAL | {"accuracy.test.forget": 0.0, "accuracy.train.forget": 0.0}
IMAGES = 10**6  # so many that they resolve everything


@dataclass
class Case:
    """A model that is an oracle but for some changes, with its oracles and controls."""

    changes: Mapping[str, Value | Absent] = field(default_factory=dict)
    count: int = 5
    without: tuple[str, ...] = ("-",)

    def __post_init__(self) -> None:
        self.model = self._of(ORACLE | dict(self.changes))
        self.oracles = [self._of(ORACLE) for _ in range(self.count)]
        self.controls = {"original": self._of(ORIGINAL), "mask": self._of(MASK)}

    def _of(self, row: Mapping[str, Value | Absent]) -> Values:
        return {name: v for name, v in row.items() if not name.startswith(self.without)}

    def spread(self, name: str, values: Sequence[float]) -> "Case":
        for row, value in zip(self.oracles, values, strict=True):
            row[name] = value
        return self

    def decide(self, images: int = IMAGES, intact: bool = True) -> Decision:
        infos = dict.fromkeys({*self.model, *ORACLE}, MetricInfo("oracle"))
        return decide(self.model, self.oracles, self.controls, infos, images, intact)


def deciding(decision: Decision) -> list[str]:
    return [finding.name for finding in decision.deciding]


def test_the_first_question_that_fails_gives_the_verdict() -> None:
    in_model, low = V.FORGOTTEN_IN_MODEL, "copying.feature.forget.nearer_low"
    for changes, expected, named in (
        ({}, V.FORGOTTEN, None),
        ({"accuracy.test.retain": 0.9}, V.DAMAGED, "accuracy.test.retain"),
        ({"accuracy.test.retain_minority": 0.92}, V.DAMAGED, "accuracy.test.retain_minority"),
        ({"accuracy.test.worst_retained": 0.84}, V.DAMAGED, "accuracy.test.worst_retained"),
        ({"accuracy.test.worst_retained": 0.86}, V.FORGOTTEN, None),  # five points are allowed
        ({"accuracy.test.retain": 0.99}, V.FORGOTTEN, None),  # better is no fault
        ({"confusion.attractor_retained": 0.03}, V.DAMAGED, "confusion.attractor_retained"),
        (
            {"accuracy.test.retain": 0.9, "accuracy.test.forget": 0.5},
            V.DAMAGED_AND_RETAINED,
            "accuracy.test.retain",
        ),
        ({"accuracy.test.forget": 0.02}, V.RETAINED, "accuracy.test.forget"),
        ({"accuracy.train.forget": 0.5}, V.RETAINED, "accuracy.train.forget"),
        ({"relearning.k10.area": 0.5}, V.SUPPRESSED, "relearning.k10.area"),
        # a twentieth of the way to the original, and slower than an oracle
        ({"relearning.k10.area": 0.15}, V.DISTINGUISHABLE, "relearning.k10.area"),
        ({"relearning.k10.area": 0.05}, V.DISTINGUISHABLE, "relearning.k10.area"),
        ({"probe.recall": 0.9}, V.SUPPRESSED, "probe.recall"),
        ({"prototype.all.recall": 0.9}, V.SUPPRESSED, "prototype.all.recall"),
        ({"head.repair": 0.9}, V.SUPPRESSED, "head.repair"),
        ({"adaptive.net_area": 0.8}, V.SUPPRESSED, "adaptive.net_area"),
        ({"membership.loss.leak": 0.55}, V.SUPPRESSED, "membership.loss.leak"),
        # the original has no value to lie towards
        ({"retain_only.area": 0.5}, V.DISTINGUISHABLE, "retain_only.area"),
        ({"divergence.test_forget.js": 0.11}, V.DISTINGUISHABLE, "divergence.test_forget.js"),
        ({"divergence.test_forget.js": 0.09}, V.FORGOTTEN, None),  # twice the oracles' is allowed
        ({"retained_attack.auc": 0.95}, V.DISTINGUISHABLE, "retained_attack.auc"),
        ({"confusion.distance": 0.05}, V.FORGOTTEN, None),  # nearer than oracles to each other
        ({"confusion.attractor": 0.05}, V.DISTINGUISHABLE, "confusion.attractor"),
        ({"own_proxies.area": 0.6}, in_model, "own_proxies.area"),
        ({"knowledge.net": 0.9}, in_model, "knowledge.net"),
        ({"knowledge.net": 0.1}, V.FORGOTTEN, None),
        ({low: 0.6}, in_model, low),
        ({low: 0.5}, V.FORGOTTEN, None),
        ({"adaptive.net": Absent("no training images")}, V.FORGOTTEN, None),
        ({"membership.loss.leak": Absent("no training images")}, V.FORGOTTEN, None),
        ({"probe.recall": 0.9, "head.repair": 0.9}, V.SUPPRESSED, "head.repair"),  # the farthest
    ):
        found = Case(changes).decide()
        assert found.verdict is expected, changes
        assert deciding(found)[:1] == ([named] if named else []), changes
        assert found.reason
        assert found.oracles == {V.FORGOTTEN: 5}


def test_a_model_as_good_as_the_original_is_not_damaged() -> None:
    """Where the forgotten class was taken for a retained one, oracles are better at that one."""
    for retain, expected in ((0.845, V.FORGOTTEN), (0.8, V.DAMAGED)):
        case = Case({"accuracy.test.retain": retain, "confusion.attractor_retained": 0.06})
        for row in case.controls.values():
            row.update({"accuracy.test.retain": 0.85, "confusion.attractor_retained": 0.06})
        found = case.decide()
        assert found.controls == {"original": V.RETAINED, "mask": V.SUPPRESSED}
        assert found.verdict is expected


def test_a_second_request_may_not_be_as_bad_as_the_first_left_it() -> None:
    worse = {name: 0.5 for name in ORACLE if name.startswith("accuracy.test.retain")}
    case = Case(worse)
    case.controls["original"].update(worse)
    assert case.decide().verdict is V.FORGOTTEN
    found = case.decide(intact=False)
    assert found.verdict is V.DAMAGED
    assert found.controls["original"] is V.DAMAGED_AND_RETAINED


def test_oracles_allow_what_they_show_and_each_is_compared_with_the_others() -> None:
    case = Case({"relearning.k10.area": 0.5})
    case.oracles[0]["relearning.k10.area"] = 0.5
    assert case.decide().verdict is not V.SUPPRESSED
    case = Case()
    case.oracles[0]["probe.recall"] = 0.3  # with itself among them it would be inside
    assert case.decide().oracles == {V.DISTINGUISHABLE: 1, V.FORGOTTEN: 4}
    # oracles that agree on few images may do so by chance
    for images, expected in ((36, V.FORGOTTEN), (36_000, V.SUPPRESSED)):
        assert Case({"probe.recall": 0.83}).decide(images).verdict is expected


RECALLS = (0.7, 0.75, 0.8, 0.85, 0.9)


def test_tolerances_are_those_of_the_rule_the_widest_first() -> None:
    def spread(**changes: float) -> Case:
        case = Case({name.replace("_", "."): value for name, value in changes.items()})
        case.spread("head.repair", (0.0, 0.1, 0.0, 0.1, 0.0))
        return case.spread("probe.recall", RECALLS)

    first = spread().decide().tolerances[0]
    assert first["name"] == "probe.recall"
    assert first["reach"] == pytest.approx(ORIGINAL["probe.recall"] - 0.8)
    # Student's t of 4 degrees of freedom at 1 - 0.025 / 6, for six values that look inside
    assert first["allowed"] == pytest.approx(4.851 * statistics.stdev(RECALLS) * 1.2**0.5, 1e-3)
    for times, seen in ((-1.01, True), (-0.99, False), (0.99, False), (1.01, True)):
        found = spread(probe_recall=0.8 + times * first["allowed"]).decide()
        assert ("probe.recall" in deciding(found)) is seen
    # with one value left the level is not divided
    alone = Case(without=tuple(name for name in checks.FULL if name != "probe."))
    (only,) = alone.spread("probe.recall", RECALLS).decide().tolerances
    assert only["allowed"] == pytest.approx(2.776 * statistics.stdev(RECALLS) * 1.2**0.5, 1e-3)
    assert not Case(count=2).decide().tolerances


def test_a_missing_family_leaves_a_model_untested() -> None:
    for family in checks.FULL:
        assert Case(without=(family,)).decide().verdict is V.UNTESTED, family
    found = Case({"relearning.k10.area": Absent("no training images")}).decide()
    assert found.verdict is V.UNTESTED
    assert "relearning cannot be compared" in found.reason


def test_fewer_than_three_oracles_or_no_accuracy_give_no_verdict() -> None:
    for count in range(3):
        found = Case(count=count).decide()
        assert found.verdict is None
        assert "oracles" in found.reason
    assert Case(count=3).decide().verdict is V.FORGOTTEN
    assert Case(without=("accuracy.test.",)).decide().verdict is None


def test_a_comparison_whose_known_answers_are_wrong_is_inconclusive() -> None:
    for oracle, reason in (
        ({"accuracy.test.forget": 0.3}, "oracle 1 knows the forgotten class (30.0%"),
        ({"accuracy.test.retain": 0.9}, "oracle 1 has 5.0% less retained accuracy"),
        ({"membership.loss.auc": 0.6}, "oracle 1 tells training from test images"),
    ):
        case = Case()
        case.oracles[0].update(oracle)
        found = case.decide()
        assert found.verdict is V.INCONCLUSIVE
        assert reason in found.reason
    for control in ("original", "mask"):
        case = Case()
        case.controls[control].update(ORACLE)
        found = case.decide()
        assert found.verdict is V.INCONCLUSIVE
        assert f"the {control} is forgotten" in found.reason
    case = Case().spread("confusion.attractor", (0.1, 0.1, 0.1, 0.5, 0.5))
    assert case.decide().oracles == {V.FORGOTTEN: 5}  # each inside of the others' tolerance
    for k, row in enumerate(case.oracles[:2]):
        row["retained_attack.auc"] = 0.7 + 0.1 * (k + 1)
        row["confusion.distance"] = 0.9
        row["divergence.test_forget.js"] = 0.6
    assert case.decide().verdict is V.INCONCLUSIVE  # two of five oracles look treated


def test_it_is_written_as_plain_values() -> None:
    written = Case({"probe.recall": 0.9}).decide().as_json()
    plain = json.loads(json.dumps(written, allow_nan=False))
    assert plain == written
    assert plain["verdict"] == "suppressed"
    assert plain["oracle_verdicts"] == {"forgotten": 5}
    assert plain["controls"] == {"original": "retained", "mask": "suppressed"}
    assert all(set(row) == {"name", "allowed", "reach"} for row in plain["tolerances"])
    (finding,) = plain["deciding"]
    assert finding["question"] == "inside"
    assert finding["oracles"] == pytest.approx(0.8)
    assert finding["position"] == pytest.approx((0.9 - 0.8) / (0.98 - 0.8))
