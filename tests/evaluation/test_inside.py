"""Is the class inside: with what power, against which reference, and what is said of it."""

import pytest

from geniu_lightning.evaluation import checks
from geniu_lightning.evaluation.evidence import Verdict
from geniu_lightning.evaluation.inside import POWER
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.made_up import IMAGES, INSIDE, NAMES, ORIGINAL, Case, of_family

V = Verdict


def test_no_value_of_the_original_passes_in_an_oracle() -> None:
    """Each alone, many at once, and with so few oracles and images that little is resolved."""
    nine = [name for name, family in NAMES.items() if family in ("relearning", "features")]
    assert len(nine) >= 9
    for count, images in ((5, 1000), (3, 1000), (5, 36), (3, 36)):
        few = dict.fromkeys(IMAGES, images)
        for names in (*([name] for name in NAMES), nine):
            given = {name: ORIGINAL[name] for name in names}
            found = Case(given, count, images=few).decide()
            mine = [attack for attack in found.attacks if attack.name in names]
            powerful = {attack.name for attack in mine if attack.has_power}
            assert powerful <= {finding.name for finding in found.findings}, (count, images, names)
            # a leak of membership is small, and says little where it is not told from chance
            if powerful or NAMES[names[0]] != "membership":
                assert found.verdict is not V.FORGOTTEN, (count, images, names)
            if names is nine:
                assert found.verdict is V.SUPPRESSED, (count, images)


def test_a_family_that_finds_the_class_itself_needs_no_null() -> None:
    for family in checks.INSIDE:
        oracle, original = INSIDE[family.name]
        most = oracle + 0.75 * (original - oracle)
        for matched in (False, True):
            found = Case(of_family(family.name, most), matched=matched).decide()
            inside = family.memory or matched
            assert found.verdict is (V.SUPPRESSED if inside else V.DISTINGUISHABLE), family.name
            (first, *_) = found.findings
            assert first.question == ("inside" if inside else "procedure")
            assert first.against == "oracles"
            assert first.position == pytest.approx(0.75, abs=0.01)
    # networks of another recipe may have features that tell more classes apart
    found = Case({"prototype.all.recall": 0.95}).decide()
    assert found.verdict is V.DISTINGUISHABLE
    assert "the procedure shows" in found.reason


def test_nulls_clear_a_model_that_shows_no_more_than_they_do() -> None:
    features = of_family("features", 0.8)
    cleared = Case(features, nulls=[features] * 5).decide()
    assert cleared.verdict is V.DISTINGUISHABLE  # from retraining, which is the procedure
    assert "the procedure shows" in cleared.reason
    assert {finding.against for finding in cleared.findings} == {"oracles"}
    found = Case(features, nulls=[{}] * 5).decide()
    assert found.verdict is V.SUPPRESSED
    assert "networks made alike that never saw it have 0.60" in found.reason
    assert found.findings[0].against == "nulls"
    # nor does what a memory attack finds count where the null shows it, too
    relearning = of_family("relearning", 0.6)
    assert Case(relearning, nulls=[relearning] * 5).decide().verdict is V.DISTINGUISHABLE
    assert Case({}, nulls=[{}] * 5).decide().verdict is V.FORGOTTEN
    # unlike its nulls in probabilities, though like oracles in all else
    js = {"divergence.test_forget.js": 0.09}
    found = Case(js, nulls=[{"divergence.test_forget.js": 0.02}] * 5).decide()
    assert (found.verdict, found.findings[0].against) == (V.DISTINGUISHABLE, "nulls")
    assert "it left a mark" in found.reason


def test_slower_than_oracles_is_a_mark_of_the_procedure() -> None:
    slower = of_family("relearning", 0.0)
    for nulls in ([], [slower] * 5):
        found = Case(slower, nulls=nulls).decide()
        assert found.verdict is V.DISTINGUISHABLE, found.reason
        assert "the procedure shows" in found.reason
        assert found.findings[0].position < 0


KINDS = {
    family.kind: [f for f in checks.INSIDE if f.kind == family.kind] for family in checks.INSIDE
}


@pytest.mark.parametrize("kind", KINDS)
def test_without_power_in_a_kind_of_attack_a_model_is_untested(kind: str) -> None:
    names = [name for family in KINDS[kind] for name in family.checks]
    expected = V.UNTESTED if kind else V.FORGOTTEN
    found = Case(without=(*names,)).decide()
    assert found.verdict is expected
    assert ("evaluation=verdict" in found.reason) is bool(kind)
    blunt = Case()
    for row in (blunt.model, *blunt.oracles):
        row.update({name: ORIGINAL[name] - 0.015 for name in names})
    found = blunt.decide()
    assert found.verdict is expected
    assert ("not tell even the original" in found.reason) is bool(kind)
    assert not any(a.has_power for a in found.attacks if a.family in KINDS[kind])


def test_one_of_two_ways_to_attack_the_head_is_enough() -> None:
    assert [family.name for family in KINDS["head"]] == ["adaptive", "head"]
    for family in KINDS["head"]:
        found = Case(without=family.checks).decide()
        assert found.verdict is V.FORGOTTEN
        assert "the class's row" in found.reason


def test_what_would_give_power_is_said() -> None:
    for detects, cure in ((1.3, "oracles would do"), (1.85, "more test images than 100")):
        blunt, gap = Case(count=3, images=dict.fromkeys(IMAGES, 100)), 0.1
        for _ in range(3):  # until the gap is so many tolerances, which depend on it a little
            for row in (blunt.model, *blunt.oracles):
                row.update({n: ORIGINAL[n] - gap for n in of_family("retain_only", 0.0)})
            found = blunt.decide()
            (attack,) = [a for a in found.attacks if a.name == "retain_only"]
            gap = attack.allowed / (detects * POWER)
        assert found.verdict is V.UNTESTED, attack.detects
        assert cure in found.reason
    # what looks like the original's and may be chance
    few = dict.fromkeys(IMAGES, 100)
    tried = Case(count=3, images=few).decide().attacks
    name = next(a.name for a in tried if a.name.startswith("prototype") and not a.has_power)
    found = Case({name: ORIGINAL[name]}, 3, images=few).decide()
    assert found.verdict is V.UNTESTED
    assert f"{name} is 0.95" in found.reason
    assert "oracles.count=6" in found.reason
    absent = {name: Absent("no training images") for name in of_family("relearning", 0.0)}
    found = Case(absent).decide()
    assert found.verdict is V.UNTESTED
    assert "relearning has no result" in found.reason


def test_nulls_that_show_more_than_the_original_find_nothing() -> None:
    """As of methods that read images of the class; the model shows less than they do."""
    for family in ("membership", "features"):
        more = of_family(family, 1.1)
        found = Case(nulls=[more] * 5).decide()
        attacks = [a for a in found.attacks if a.family.name == family]
        assert not any(a.has_power or a.finds_class or a.opposite for a in attacks)
        assert found.verdict is (V.UNTESTED if family == "features" else V.FORGOTTEN)


def test_an_attack_that_breaks_a_network_has_no_power() -> None:
    relearning = {"relearning.loss": 0.4, "relearning_sgd.loss": 0.0, "relearning_head.loss": 0.0}
    assert Case(relearning).decide().verdict is V.FORGOTTEN  # by the two others
    broken = dict.fromkeys(relearning, 0.4)
    found = Case(broken).decide()
    assert found.verdict is V.UNTESTED
    assert "relearning costs 40% of retained accuracy" in found.reason
    assert Case(broken | of_family("relearning", 0.9)).decide().verdict is V.SUPPRESSED
    found = Case(relearning | {"retain_only.loss": 0.0}, nulls=[broken] * 3).decide()
    assert found.verdict is V.UNTESTED  # as the references are broken


def test_null_runs_of_a_second_request_are_no_match_in_features() -> None:
    """They begin at oracles; the model has been through another method before."""
    shows, nulls = of_family("features", 0.9), [{}] * 5
    assert Case(shows, nulls=nulls).decide().verdict is V.SUPPRESSED
    found = Case(shows, nulls=nulls, intact=False).decide()
    assert found.verdict is V.DISTINGUISHABLE, found.reason


def test_a_reference_without_a_value_does_not_hide_it() -> None:
    case = Case(of_family("head", 0.9))
    for name in of_family("head", 0.0):
        case.oracles[0][name] = Absent("no row")
    assert case.decide().verdict is V.SUPPRESSED


def test_nothing_is_forgotten_where_a_question_has_no_value() -> None:
    for family in ("divergence", "retained_attack", "confusion"):
        assert Case(without=(family,)).decide().verdict is V.FORGOTTEN
    found = Case(without=("divergence", "retained_attack", "confusion")).decide()
    assert found.verdict is V.UNTESTED
    assert "divergence, retained_attack and confusion" in found.reason
