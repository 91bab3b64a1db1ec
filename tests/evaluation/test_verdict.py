"""The verdict: by a rule, in an order, and only where the comparison resolves anything."""

import json
from pathlib import Path

import pytest

from geniu_lightning.evaluation import checks
from geniu_lightning.evaluation.attacks.head import Head
from geniu_lightning.evaluation.attacks.membership import Membership
from geniu_lightning.evaluation.attacks.probing import Prototype
from geniu_lightning.evaluation.attacks.retained_attack import RetainedAttack
from geniu_lightning.evaluation.cache import FileCache
from geniu_lightning.evaluation.evaluator import Evaluator
from geniu_lightning.evaluation.evidence import Verdict
from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.accuracy import Accuracy
from geniu_lightning.evaluation.metrics.confusion import Confusion
from geniu_lightning.evaluation.metrics.divergence import Divergence
from tests.evaluation.made_up import IMAGES, INSIDE, MASK, ORACLE, Case, of_family
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
    asked = {check.name for check in (*checks.WORKS, *checks.ANSWERS, *checks.PROBABILITIES)}
    asked |= {name for family in checks.INSIDE for name in family.checks}
    assert {name for name in asked if name.partition(".")[0] in metrics} <= set(found.values)


def test_the_first_question_that_fails_gives_the_verdict() -> None:
    in_model, low = V.FORGOTTEN_IN_MODEL, "copying.feature.forget.nearer_low"
    for changes, expected, named in (
        ({}, V.FORGOTTEN, None),
        ({"accuracy.test.retain": 0.9}, V.DAMAGED, "accuracy.test.retain"),
        ({"accuracy.test.retain_minority": 0.9}, V.DAMAGED, "accuracy.test.retain_minority"),
        ({"accuracy.test.retain_minority": Absent("none")}, V.FORGOTTEN, None),
        ({"accuracy.test.worst_retained": 0.84}, V.DAMAGED, "accuracy.test.worst_retained"),
        ({"accuracy.test.worst_retained": 0.86}, V.FORGOTTEN, None),  # five points are allowed
        ({"accuracy.test.retain": 0.99}, V.FORGOTTEN, None),  # better is no fault
        ({"confusion.attractor_retained": 0.04}, V.DAMAGED, "confusion.attractor_retained"),
        (
            {"accuracy.test.retain": 0.9, "accuracy.test.forget": 0.5},
            V.DAMAGED_AND_RETAINED,
            "accuracy.test.retain",
        ),
        ({"accuracy.test.forget": 0.02}, V.RETAINED, "accuracy.test.forget"),
        ({"accuracy.train.forget": 0.5}, V.RETAINED, "accuracy.train.forget"),
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
    ):
        found = Case(changes).decide()
        assert found.verdict is expected, (changes, found.reason)
        assert [finding.name for finding in found.findings][:1] == ([named] if named else [])
        assert found.reason
        assert found.oracles == {V.FORGOTTEN: 5}
        assert found.controls == {"original": V.RETAINED, "mask": V.SUPPRESSED}


def test_a_damaged_model_is_also_called_suppressed() -> None:
    found = Case({"accuracy.test.retain": 0.8, "relearning.k10.area": 0.9}).decide()
    assert found.verdict is V.DAMAGED
    assert "; and suppressed: ten images bring back 90%" in found.reason
    assert [finding.question for finding in found.findings] == ["works", "inside", "inside"]
    # and with what does not depend on what a model keeps: answers before what is inside
    found = Case(
        {"accuracy.test.retain": 0.8, "accuracy.test.forget": 0.4, "relearning.k10.area": 0.9}
    ).decide()
    assert found.verdict is V.DAMAGED_AND_RETAINED
    assert "still answered, for 40.0%" in found.reason


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
    for intact, expected, of_original in (
        (True, V.FORGOTTEN, V.RETAINED),
        (False, V.DAMAGED, V.DAMAGED_AND_RETAINED),
    ):
        case = Case(worse, intact=intact)
        case.controls["original"].update(worse)
        found = case.decide()
        assert (found.verdict, found.controls["original"]) == (expected, of_original)


def test_one_image_of_a_small_class_damages_nothing() -> None:
    """All oracles get 33 of 34 images of the smaller classes right, the model 32."""
    few = dict.fromkeys(IMAGES, 34)
    case = Case({"accuracy.test.retain_minority": 32 / 34}, images=few)
    for row in case.oracles:
        row["accuracy.test.retain_minority"] = 33 / 34
    assert case.decide().verdict not in (V.DAMAGED, V.INCONCLUSIVE)


def test_fewer_than_three_oracles_or_no_accuracy_give_no_verdict() -> None:
    for count in range(3):
        found = Case(count=count).decide()
        assert found.verdict is None
        assert "oracles" in found.reason
    assert Case(count=3).decide().verdict is V.FORGOTTEN
    assert Case(without=("accuracy.test.",)).decide().verdict is None


def test_a_comparison_whose_known_answers_are_wrong_is_inconclusive_and_says_why() -> None:
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
    for control, row, verdict in (("original", MASK, "suppressed"), ("mask", ORACLE, "forgotten")):
        case = Case()
        case.controls[control].update(row)
        found = case.decide()
        assert found.verdict is V.INCONCLUSIVE
        assert f"the verdict on the {control} is {verdict}" in found.reason
        assert "oracles.count=10" in found.reason
    case = Case()
    for row, name in zip(
        case.oracles, ("retain", "retain_minority", "worst_retained"), strict=False
    ):
        row[f"accuracy.test.{name}"] = 0.925 if name == "retain" else 0.7
    found = case.decide()
    assert found.verdict is V.INCONCLUSIVE
    assert "each compared with the others, are damaged 3, forgotten 2" in found.reason


def test_one_odd_oracle_voids_nothing_and_is_compared_with_the_others() -> None:
    case = Case()
    case.oracles[0].update(of_family("relearning", 0.0))  # with itself among them it would pass
    found = case.decide()
    assert found.oracles == {V.DISTINGUISHABLE: 1, V.FORGOTTEN: 4}
    assert found.verdict is V.FORGOTTEN


def test_it_is_written_as_plain_values() -> None:
    written = Case({"relearning.k10.area": 0.9}).decide().as_json()
    plain = json.loads(json.dumps(written, allow_nan=False))
    assert plain == written
    assert [*plain][:3] == ["verdict", "verdict_reason", "findings"]
    assert plain["verdict"] == "suppressed"
    assert plain["oracle_verdicts"] == {"forgotten": 5}
    assert plain["controls"] == {"original": "retained", "mask": "suppressed"}
    for attack in plain["attacks"]:
        assert [*attack] == ["family", "name", "allowed", "reach", "has_power"]
    assert {attack["family"] for attack in plain["attacks"]} == {*INSIDE}
    first = plain["findings"][0]
    assert first["question"] == "inside"
    assert (first["name"], first["against"]) == ("relearning.k10.area", "oracles")
    assert first["reference"] == pytest.approx(0.3)
    assert first["position"] == pytest.approx((0.9 - 0.3) / (0.96 - 0.3))
