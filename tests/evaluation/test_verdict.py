"""The word for a model: by a rule, in an order, and only where the comparison resolves anything."""

import json
import statistics
from collections.abc import Mapping

import pytest

from geniu_lightning.evaluation import verdict as word
from geniu_lightning.evaluation.attacks.head import Head
from geniu_lightning.evaluation.attacks.membership import Membership
from geniu_lightning.evaluation.attacks.retained_attack import RetainedAttack
from geniu_lightning.evaluation.evaluator import Findings, run
from geniu_lightning.evaluation.metric import Absent, MetricInfo, Value, Values
from geniu_lightning.evaluation.metrics.accuracy import Accuracy
from geniu_lightning.evaluation.metrics.confusion import Confusion
from geniu_lightning.evaluation.metrics.divergence import Divergence
from geniu_lightning.evaluation.metrics.representation import Prototype
from geniu_lightning.evaluation.verdict import Judgement, judge, plain
from tests.evaluation.rigged import context_of, rigged

FAST = {
    "accuracy": Accuracy(),
    "confusion": Confusion(),
    "divergence": Divergence(),
    "membership": Membership(),
    "retained_attack": RetainedAttack(),
    "prototype": Prototype(),
    "head": Head(),
}


# ---- rigged models, through the real metrics ---------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("original", "keeps"),
        ("oracle", "not refuted"),
        ("mask", "hides"),
        ("uniform", "destroys without forgetting"),  # one in ten of the class is still answered
        ("memoriser", "keeps"),
        ("collapsed", "destroys"),
    ],
)
def test_each_rigged_model_gets_its_word(model: str, expected: str) -> None:
    models = rigged()
    oracles = [rigged()["oracle"] for _ in range(3)]
    controls = {"original": models["original"], "mask": models["mask"]}
    found = judge(run(context_of(models[model], *oracles), FAST, controls), 100)
    assert found.verdict.word == expected
    assert found.controls == {"original": "keeps", "mask": "hides"}
    assert found.oracles == {"not refuted": 3}


# ---- the rule, on values made up ---------------------------------------------------------------

# what oracles show, and what the original does, of all that a full evaluation looks at
ORACLE = {
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
IMAGES = 10**6  # so many that they resolve everything
MASK = ORIGINAL | {"accuracy.test.forget": 0.0, "accuracy.train.forget": 0.0}


def findings(
    changes: Mapping[str, Value | Absent] | None = None,
    oracles: int = 5,
    of_oracle: Mapping[str, Value] | None = None,
    without: tuple[str, ...] = (),
) -> Findings:
    """The findings of a model that is an oracle but for some changes."""

    def of(row: Mapping[str, Value | Absent]) -> Values:
        return {name: v for name, v in row.items() if not name.startswith(without or ("-",))}

    rows = [of(ORACLE) for _ in range(oracles)]
    if of_oracle:
        rows[0] = of(ORACLE | of_oracle)
    own = of(ORACLE | (changes or {}))
    names = {*own, *ORACLE}
    readings = dict.fromkeys(names, MetricInfo("oracle"))
    return Findings(own, rows, {"original": of(ORIGINAL), "mask": of(MASK)}, readings)


def word_of(changes: Mapping[str, Value | Absent], **more: object) -> str | None:
    return judge(findings(changes, **more), IMAGES).verdict.word


def deciding(judgement: Judgement) -> list[str]:
    return [failure.name for failure in judgement.verdict.deciding]


def test_one_more_oracle_forgets() -> None:
    found = judge(findings(), IMAGES)
    assert found.verdict.word == "forgets"
    assert found.oracles == {"forgets": 5}
    assert deciding(found) == []


@pytest.mark.parametrize(
    ("changes", "expected", "named"),
    [
        ({"accuracy.test.retain": 0.9}, "destroys", "accuracy.test.retain"),
        ({"accuracy.test.retain_minority": 0.92}, "destroys", "accuracy.test.retain_minority"),
        ({"accuracy.test.worst_retained": 0.84}, "destroys", "accuracy.test.worst_retained"),
        ({"accuracy.test.worst_retained": 0.86}, "forgets", None),  # five points are allowed
        ({"accuracy.test.retain": 0.99}, "forgets", None),  # better is no fault
        ({"confusion.attractor_retained": 0.03}, "destroys", "confusion.attractor_retained"),
        (
            {"accuracy.test.retain": 0.9, "accuracy.test.forget": 0.5},
            "destroys without forgetting",
            "accuracy.test.retain",
        ),
        ({"accuracy.test.forget": 0.02}, "keeps", "accuracy.test.forget"),
        ({"accuracy.train.forget": 0.5}, "keeps", "accuracy.train.forget"),
        ({"relearning.k10.area": 0.5}, "hides", "relearning.k10.area"),
        ({"relearning.k10.area": 0.15}, "scars", "relearning.k10.area"),  # a twentieth of the way
        ({"relearning.k10.area": 0.05}, "scars", "relearning.k10.area"),  # slower than an oracle
        ({"probe.recall": 0.9}, "hides", "probe.recall"),
        ({"prototype.all.recall": 0.9}, "hides", "prototype.all.recall"),
        ({"head.repair": 0.9}, "hides", "head.repair"),
        ({"adaptive.net_area": 0.8}, "hides", "adaptive.net_area"),
        ({"membership.loss.leak": 0.55}, "hides", "membership.loss.leak"),
        (
            {"retain_only.area": 0.5},
            "scars",
            "retain_only.area",
        ),  # the original shows none
        ({"divergence.test_forget.js": 0.11}, "scars", "divergence.test_forget.js"),
        ({"divergence.test_forget.js": 0.09}, "forgets", None),  # two floors are allowed
        ({"retained_attack.auc": 0.95}, "scars", "retained_attack.auc"),
        ({"confusion.distance": 0.05}, "forgets", None),  # nearer than oracles to each other
        ({"confusion.attractor": 0.05}, "scars", "confusion.attractor"),
        (
            {"own_proxies.area": 0.6},
            "forgets in the model, not in the system",
            "own_proxies.area",
        ),
        ({"knowledge.net": 0.9}, "forgets in the model, not in the system", "knowledge.net"),
        ({"knowledge.net": 0.1}, "forgets", None),
        (
            {"copying.feature.forget.nearer_low": 0.6},
            "forgets in the model, not in the system",
            "copying.feature.forget.nearer_low",
        ),
    ],
)
def test_the_first_question_that_fails_names_the_word(
    changes: dict[str, float], expected: str, named: str | None
) -> None:
    found = judge(findings(changes), IMAGES)
    assert found.verdict.word == expected
    assert deciding(found)[:1] == ([named] if named else [])
    assert found.verdict.reason


@pytest.mark.parametrize(("retain", "expected"), [(0.845, "forgets"), (0.8, "destroys")])
def test_a_model_as_good_as_the_original_has_destroyed_nothing(
    retain: float, expected: str
) -> None:
    """Where the forgotten class was taken for a retained one, oracles are better at that one."""
    given = findings({"accuracy.test.retain": retain, "confusion.attractor_retained": 0.06})
    for row in given.controls.values():
        row.update({"accuracy.test.retain": 0.85, "confusion.attractor_retained": 0.06})
    found = judge(given, IMAGES)
    assert found.controls == {"original": "keeps", "mask": "hides"}
    assert found.verdict.word == expected


def test_a_value_that_one_oracle_shows_too_is_no_failure() -> None:
    assert word_of({"relearning.k10.area": 0.5}, of_oracle={"relearning.k10.area": 0.5}) != "hides"


def test_an_oracle_is_judged_by_the_others_alone() -> None:
    found = judge(findings(of_oracle={"probe.recall": 0.3}), IMAGES)
    assert found.oracles == {"scars": 1, "forgets": 4}  # with itself it would make its own band


def test_what_decided_stands_in_the_order_of_its_distance() -> None:
    found = judge(findings({"probe.recall": 0.9, "head.repair": 0.9}), IMAGES)
    assert deciding(found) == ["head.repair", "probe.recall"]


def test_the_more_values_a_question_has_the_wider_is_each_band() -> None:
    def with_spread() -> Findings:
        given = findings()
        for row, area in zip(given.oracles, (0.08, 0.09, 0.1, 0.11, 0.12), strict=True):
            row["relearning.k10.area"] = area
        return given

    def allowed(given: Findings) -> float:
        (band,) = [b for b in judge(given, IMAGES).bands if b.name == "relearning.k10.area"]
        return band.allowed

    assert allowed(with_spread()) == pytest.approx(0.0840, abs=1e-4)  # one of six
    alone = ("retain_only.", "adaptive.", "probe.", "prototype.", "head.")
    for row in (given := with_spread()).oracles:
        for name in [name for name in row if name.startswith(alone)]:
            row[name] = Absent("not measured")
    assert allowed(given) == pytest.approx(2.776 * 0.01581 * 1.2**0.5, rel=1e-3)


SPREAD = {"probe.recall": (0.7, 0.75, 0.8, 0.85, 0.9), "head.repair": (0.0, 0.1, 0.0, 0.1, 0.0)}


def spread(changes: Mapping[str, Value | Absent] | None = None) -> Findings:
    given = findings(changes)
    for name, values in SPREAD.items():
        for row, value in zip(given.oracles, values, strict=True):
            row[name] = value
    return given


def test_the_widest_band_is_that_of_the_value_in_which_oracles_differ_most() -> None:
    found = judge(spread(), IMAGES).bands[0]
    assert found.name == "probe.recall"
    assert found.reach == pytest.approx(abs(ORIGINAL["probe.recall"] - 0.8))
    # Student's t of 4 degrees of freedom at 1 - 0.025 / 6, for six values look inside
    assert found.allowed == pytest.approx(
        4.851 * statistics.stdev(SPREAD[found.name]) * 1.2**0.5, 1e-3
    )
    # what another question looks at, however widely it varies, is no part of this
    given = spread()
    for row, share in zip(given.oracles, (0.0, 0.9, 0.1, 0.8, 0.5), strict=True):
        row["confusion.attractor"] = share
    assert judge(given, IMAGES).bands[0] == found
    unknown = spread({"probe.recall": Absent("not measured")})
    assert judge(unknown, IMAGES).bands[0].name == "head.repair"


def test_a_difference_within_the_widest_band_is_not_seen_and_one_beyond_it_is() -> None:
    widest = judge(spread(), IMAGES).bands[0]
    mean = statistics.fmean(SPREAD[widest.name])
    for times, seen in ((-1.01, True), (-0.99, False), (0.99, False), (1.01, True)):
        given = spread({widest.name: mean + times * widest.allowed})
        failed = {failure.name for failure in judge(given, IMAGES).verdict.deciding}
        assert (widest.name in failed) is seen


def test_a_second_request_may_not_be_as_bad_as_the_first_left_it() -> None:
    worse = {name: 0.5 for name in ORACLE if name.startswith("accuracy.test.retain")}
    given = findings(worse)
    given.controls["original"].update(worse)
    assert judge(given, IMAGES).verdict.word == "forgets"
    found = judge(given, IMAGES, intact=False)
    assert found.verdict.word == "destroys"
    assert found.controls["original"] == "destroys without forgetting"


def test_without_oracles_or_a_look_inside_there_is_no_band() -> None:
    assert not judge(findings(oracles=2), IMAGES).bands
    inside = tuple(check.name for check in word.INSIDE)
    found = judge(findings(without=inside), IMAGES)
    assert plain(found)["bands"] == []


@pytest.mark.parametrize(("images", "expected"), [(36, "forgets"), (36_000, "hides")])
def test_oracles_that_agree_on_a_few_images_may_do_so_by_chance(images: int, expected: str) -> None:
    given = findings({"probe.recall": 0.83})
    assert judge(given, images).verdict.word == expected


def test_what_is_absent_decides_nothing() -> None:
    assert word_of({"adaptive.net": Absent("no training images")}) == "forgets"
    assert word_of({"membership.loss.leak": Absent("no training images")}) == "forgets"


def test_an_attack_without_a_result_is_none() -> None:
    absent = {"relearning.k10.area": Absent("no training images")}
    found = judge(findings(absent), IMAGES).verdict
    assert found.word == "not refuted"
    assert found.reason.endswith("no result to compare of relearning")


@pytest.mark.parametrize(
    "family", ["relearning.", "retain_only.", "adaptive.", "probe.", "prototype.", "head."]
)
def test_without_one_of_the_attacks_nothing_is_called_forgotten(family: str) -> None:
    assert word_of({}, without=(family,)) == "not refuted"


def test_fewer_than_three_oracles_give_no_word() -> None:
    for count in range(3):
        found = judge(findings(oracles=count), IMAGES)
        assert found.verdict.word is None
        assert "oracles" in found.verdict.reason
    assert word_of({}, oracles=3) == "forgets"


@pytest.mark.parametrize(
    ("oracle", "said"),
    [
        ({"accuracy.test.forget": 0.3}, "oracle 1 knows the forgotten class (30.0%"),
        ({"accuracy.test.retain": 0.9}, "oracle 1 has 5.0% less retained accuracy"),
        ({"membership.loss.auc": 0.6}, "oracle 1 tells training from test images"),
    ],
)
def test_a_bad_oracle_makes_every_word_invalid(oracle: dict[str, float], said: str) -> None:
    verdict = judge(findings(of_oracle=oracle), IMAGES).verdict
    assert verdict.word == "invalid"
    assert said in verdict.reason


@pytest.mark.parametrize("control", ["original", "mask"])
def test_a_control_that_reads_wrong_makes_every_word_invalid(control: str) -> None:
    given = findings()
    given.controls[control].update(ORACLE)
    verdict = judge(given, IMAGES).verdict
    assert verdict.word == "invalid"
    assert f"the {control} reads 'forgets'" in verdict.reason


def test_oracles_that_mostly_read_as_treated_make_every_word_invalid() -> None:
    given = findings()
    for row, share in zip(given.oracles, (0.1, 0.1, 0.1, 0.5, 0.5), strict=True):
        row["confusion.attractor"] = share
    # with so wide a spread each is inside of the others' band, so the rule holds
    assert judge(given, IMAGES).oracles == {"forgets": 5}
    for k, row in enumerate(given.oracles[:2]):
        row["retained_attack.auc"] = 0.7 + 0.1 * (k + 1)
        row["confusion.distance"] = 0.9
        row["divergence.test_forget.js"] = 0.6
    assert judge(given, IMAGES).verdict.word == "invalid"


def test_it_is_written_as_plain_values() -> None:
    written = plain(judge(findings({"probe.recall": 0.9}), IMAGES))
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert written["word"] == "hides"
    assert written["oracle_words"] == {"forgets": 5}
    assert all(set(band) == {"name", "allowed", "reach"} for band in written["bands"])
    (failure,) = written["deciding"]
    assert failure["name"] == "probe.recall"
    assert failure["oracles"] == pytest.approx(0.8)
    assert failure["position"] == pytest.approx((0.9 - 0.8) / (0.98 - 0.8))


def test_every_name_that_the_rule_looks_at_is_one_that_some_metric_gives() -> None:
    families = {"relearning", "retain_only", "adaptive", "probe", "own_proxies"}
    models = rigged()
    found = run(
        context_of(models["mask"], *[rigged()["oracle"] for _ in range(3)]),
        FAST,
        {"original": models["original"]},
    )
    questions = (word.WORKS, word.ANSWERS, word.INSIDE, word.PROBABILITIES)
    asked = {check.name for question in questions for check in question}
    known = {name for name in asked if name.partition(".")[0] in families}
    assert asked - known <= set(found.unlearned)
