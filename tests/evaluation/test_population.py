"""Groups of models: exact values, laws with known areas, transcriptions in NumPy, null data."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit, softmax
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch import Tensor

from geniu_lightning.evaluation import population as group
from geniu_lightning.evaluation.attacks.membership import standard_error
from geniu_lightning.evaluation.context import Outputs
from geniu_lightning.evaluation.metric import Absent, MetricInfo
from geniu_lightning.evaluation.population import (
    READINGS,
    assess_group,
    gaussian_kl,
    histogram_kl,
    klom,
    margin,
    retained_margin,
    rmia,
    u_lira,
)
from tests.evaluation.metrics.test_accuracy import said

some = settings(max_examples=15, deadline=None)
PLACES = [f"{split}_{part}" for split in ("test", "train") for part in ("forget", "retain")]
ATTACKS = {
    *(
        f"u_lira{form}.{value}"
        for form in ("", "_retained")
        for value in ("auc", "tpr", "accuracy")
    ),
    *(f"rmia{form}.{value}" for form in ("", "_retained") for value in ("auc", "tpr")),
}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


# ---- margins -----------------------------------------------------------------------------------


@some
@given(seed=st.integers(0, 2**16), scale=st.sampled_from([0.1, 1.0, 4.0]))
def test_a_margin_is_the_logit_of_the_probability(seed: int, scale: float) -> None:
    logits = (scale * normal(seed, 20, 6)).float()
    labels = torch.arange(20) % 6
    p = softmax(logits.double().numpy(), axis=1)[np.arange(20), labels.numpy()]
    found = margin(logits, labels)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), logit(p), rtol=1e-6, atol=1e-9)
    q = softmax(logits.double().numpy()[:, [0, 2, 5]], axis=1).max(axis=1)
    np.testing.assert_allclose(retained_margin(logits, (0, 2, 5)), logit(q), rtol=1e-6, atol=1e-9)


def test_margins_of_saturated_answers_are_numbers() -> None:
    logits = torch.tensor([[200.0, -200.0, -200.0]] * 2)
    found = margin(logits, torch.tensor([0, 1])).tolist()
    assert found == pytest.approx([400 - math.log(2), -400])


def test_a_retained_margin_does_not_see_the_mask() -> None:
    logits = normal(1, 10, 5).float()
    masked = logits.clone()
    masked[:, 0] = -1e4
    assert torch.equal(retained_margin(logits, (1, 2, 3, 4)), retained_margin(masked, (1, 2, 3, 4)))


# ---- KLoM --------------------------------------------------------------------------------------


def test_gaussian_divergence_has_its_direction() -> None:
    # variances ½ and 8, means 0 and 1
    narrow, wide = column(-0.5, 0.5), column(-1.0, 3.0)
    forward = math.log(4) + (0.5 + 1) / 16 - 0.5
    backward = -math.log(4) + (8 + 1) / 1 - 0.5
    assert gaussian_kl(narrow, wide).item() == pytest.approx(forward)
    assert gaussian_kl(wide, narrow).item() == pytest.approx(backward)
    assert klom(narrow, wide).item() == pytest.approx(forward)  # unlearned first


@pytest.mark.parametrize("shift", [0.0, 1.0, -3.0])
def test_a_shifted_gaussian_is_half_the_squared_shift_away(shift: float) -> None:
    draws = normal(1, 30, 4)
    spread = draws.std(dim=0)
    assert gaussian_kl(draws, draws + shift * spread).tolist() == pytest.approx([shift**2 / 2] * 4)


def test_two_constants_are_far_apart_both_ways() -> None:
    few = torch.zeros(20, 1), torch.ones(20, 1)
    many = torch.zeros(100, 1), torch.ones(100, 1)
    for first, second in (few, few[::-1]):
        assert klom(first, second).item() == pytest.approx(1 / (2 * 0.05**2))
    for first, second in (many, many[::-1]):
        assert klom(first, second).item() == pytest.approx(100 / 110 * math.log(201))


@pytest.mark.parametrize("models", [20, 100])
def test_equal_constants_are_not_apart(models: int) -> None:
    same = torch.full((models, 2), 7.5)
    assert klom(same, same.clone()).tolist() == [0.0, 0.0]


def test_histogram_divergence_has_its_direction() -> None:
    # first: all in the lowest bin; second: half in the lowest, half in the highest
    first, second = torch.zeros(50, 1), torch.tensor([0.0, 1.0]).repeat(25)[:, None]
    p, q = [50.5, 0.5], [25.5, 25.5]
    forward = sum(a / 60 * math.log(a / b) for a, b in zip(p, q, strict=True))
    backward = sum(b / 60 * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert abs(forward - backward) > 0.5
    assert klom(first, second).item() == pytest.approx(forward)
    assert klom(second, first).item() == pytest.approx(backward)


@some
@given(seed=st.integers(0, 2**16), first=st.integers(1, 80), second=st.integers(1, 80))
def test_the_histogram_is_that_of_numpy(seed: int, first: int, second: int) -> None:
    ours, theirs = normal(seed, first, 3), 2 * normal(seed + 1, second, 3) + 0.5
    expected = []
    for k in range(3):
        pooled = torch.cat([ours[:, k], theirs[:, k]])
        limits = pooled.min().item(), pooled.max().item()
        p, q = (
            np.histogram(side[:, k].numpy(), bins=20, range=limits)[0] + 0.5
            for side in (ours, theirs)
        )
        p, q = p / p.sum(), q / q.sum()
        expected.append((p * np.log(p / q)).sum())
    np.testing.assert_allclose(histogram_kl(ours, theirs).numpy(), expected, atol=1e-12)


def test_the_estimate_follows_the_smaller_number_of_models() -> None:
    for ours, theirs, estimate in (
        (50, 50, histogram_kl),
        (49, 80, gaussian_kl),
        (80, 49, gaussian_kl),
    ):
        first, second = normal(1, ours, 3), normal(2, theirs, 3)
        assert torch.equal(klom(first, second), estimate(first, second))


def test_margins_are_clipped_at_a_hundred() -> None:
    deep, deeper = torch.full((20, 1), -150.0), torch.full((20, 1), -1e4)
    assert klom(deep, deeper).item() == 0.0
    assert klom(-deep, -deeper).item() == 0.0
    assert klom(torch.full((20, 1), -99.0), deeper).item() == pytest.approx(1 / (2 * 0.05**2))


@pytest.mark.parametrize(
    ("models", "estimate", "floor"),
    [
        (20, gaussian_kl, 0.118),
        (100, gaussian_kl, 0.021),
        (200, gaussian_kl, 0.010),
        (20, histogram_kl, 0.40),
        (100, histogram_kl, 0.15),
        (200, histogram_kl, 0.082),
    ],
)
def test_equal_laws_are_apart_by_what_so_few_models_show(
    models: int, estimate: Callable[[Tensor, Tensor], Tensor], floor: float
) -> None:
    found = estimate(normal(1, models, 2000), normal(2, models, 2000)).mean().item()
    assert found == pytest.approx(floor, rel=0.06)


# ---- U-LiRA ------------------------------------------------------------------------------------


def test_a_world_that_is_the_other_is_not_told_from_it() -> None:
    margins = normal(1, 16, 20)
    assert u_lira(margins, margins.clone()) == {"auc": 0.5, "tpr": 0.0, "accuracy": 0.5}
    constant = torch.zeros(16, 20, dtype=torch.float64)
    assert u_lira(constant, constant) == {"auc": 0.5, "tpr": 0.0, "accuracy": 0.5}


@pytest.mark.parametrize("models", [16, 40])
def test_two_constant_worlds_are_told_without_error(models: int) -> None:
    zero, one = (torch.full((models, 10), value, dtype=torch.float64) for value in (0.0, 1.0))
    for first, second in ((zero, one), (one, zero)):
        assert u_lira(first, second) == {"auc": 1.0, "tpr": 1.0, "accuracy": 1.0}


@pytest.mark.parametrize("models", [16, 17, 64])
@pytest.mark.parametrize("seed", range(3))
def test_two_worlds_of_one_law_are_not_told(models: int, seed: int) -> None:
    # scored on the models that were fitted, 16 of them would be told with an area of about 0.6
    found = u_lira(normal(seed, models, 60), normal(seed + 50, models, 60))
    assert abs(found["auc"] - 0.5) < 3 * standard_error(models * 60, models * 60)
    assert abs(found["accuracy"] - 0.5) < 3 * math.sqrt(0.25 / (2 * models * 60))
    assert found["tpr"] < 0.04


@pytest.mark.parametrize("shift", [1.0, -2.0])
def test_a_shift_is_told_as_well_as_can_be(shift: float) -> None:
    found = u_lira(normal(1, 300, 40) + shift, normal(2, 300, 40))
    assert found["auc"] == pytest.approx(norm.cdf(abs(shift) / math.sqrt(2)), abs=0.01)
    assert found["accuracy"] == pytest.approx(norm.cdf(abs(shift) / 2), abs=0.01)
    assert found["tpr"] == pytest.approx(norm.cdf(abs(shift) - norm.ppf(0.99)), abs=0.04)


@some
@given(
    seed=st.integers(0, 2**16),
    ours=st.sampled_from([16, 21, 34]),
    theirs=st.sampled_from([16, 19, 40]),
)
def test_ratios_are_those_of_scipy(seed: int, ours: int, theirs: int) -> None:
    worlds = [
        (1.5 * normal(seed, ours, 7) + normal(seed + 2, 7)).numpy(),
        (normal(seed + 1, theirs, 7) + normal(seed + 3, 7)).numpy(),
    ]
    ratios: list[list[Any]] = [[], []]
    for held in (1, 0):
        laws = []
        for world in worlds:
            fitted = world[1 - held :: 2]
            deviation = fitted.std(axis=0, ddof=1)
            if len(fitted) < 16:
                deviation = np.full(7, math.sqrt((deviation**2).mean()))
            laws.append(norm(fitted.mean(axis=0), deviation))
        for k, world in enumerate(worlds):
            ratios[k].append(laws[0].logpdf(world[held::2]) - laws[1].logpdf(world[held::2]))
    members, others = (np.concatenate(side) for side in ratios)
    found = u_lira(*map(torch.tensor, worlds))
    truth = [1] * members.size + [0] * others.size
    expected = roc_auc_score(truth, np.concatenate([members.ravel(), others.ravel()]))
    assert found["auc"] == pytest.approx(expected)
    per_image = ((members > 0).mean(axis=0) + (others < 0).mean(axis=0)) / 2
    assert found["accuracy"] == pytest.approx(per_image.mean())


def test_one_image_in_few_models_has_no_rate() -> None:
    found = u_lira(normal(1, 16, 2), normal(2, 16, 2))
    assert isinstance(found["auc"], float)
    assert isinstance(found["tpr"], Absent)


# ---- RMIA --------------------------------------------------------------------------------------


@some
@given(
    seed=st.integers(0, 2**16),
    images=st.tuples(st.integers(1, 12), st.integers(2, 15)),
    a=st.sampled_from([0.0, 0.3, 1.0]),
    gamma=st.sampled_from([1.3, 2.0]),
)
def test_relative_attacks_match_counting(
    seed: int, images: tuple[int, int], a: float, gamma: float
) -> None:
    (members, refs), (unseen, unseen_refs) = (
        (
            -normal(seed + k, count).abs() * 2,
            -normal(seed + 5 + k, 3, count).abs() * 2,
        )
        for k, count in enumerate(images)
    )

    def ratio(logs: Tensor, references: Tensor) -> Any:
        reference = ((1 + a) * np.exp(references.numpy()).mean(axis=0) + (1 - a)) / 2
        return np.exp(logs.numpy()) / reference

    ours, theirs = ratio(members, refs), ratio(unseen, unseen_refs)
    areas = []
    for half in (0, 1):
        population, others = theirs[half::2], theirs[1 - half :: 2]
        scores = [
            [np.mean([x / z >= gamma for z in population]) for x in side] for side in (ours, others)
        ]
        truth = [1] * len(ours) + [0] * len(others)
        areas.append(roc_auc_score(truth, scores[0] + scores[1]))
    assert rmia(members, refs, unseen, unseen_refs, a, gamma)["auc"] == pytest.approx(
        np.mean(areas)
    )


def constant(p: float, *shape: int) -> Tensor:
    return torch.full(shape, math.log(p), dtype=torch.float64)


@pytest.mark.parametrize(("member", "area"), [(0.9, 1.0), (0.25, 1.0), (0.15, 0.5), (0.01, 0.5)])
def test_an_image_counts_as_member_from_twice_as_likely_on(member: float, area: float) -> None:
    # oracles give neither any probability: the ratio is that of the model's own probabilities
    sides = (
        constant(member, 50),
        constant(1e-30, 3, 50),
        constant(0.1, 200),
        constant(1e-30, 3, 200),
    )
    found = rmia(*sides)
    assert (found["auc"], found["tpr"]) == (area, float(area == 1.0))


def test_what_oracles_expect_is_taken_into_account() -> None:
    # the model is surer of members. Alike expected: 0.9 / 0.415 against 0.5 / 0.415, 1.8 times. As
    # sure as oracles are: 0.9 / 0.935 against 0.5 / 0.415, 0.8 times
    members, unseen = constant(0.9, 50), constant(0.5, 200)
    low = constant(0.1, 3, 50), constant(0.1, 3, 200)
    assert rmia(members, low[0], unseen, low[1], gamma=1.75)["auc"] == 1.0
    assert rmia(members, low[0], unseen, low[1], gamma=1.85)["auc"] == 0.5
    assert rmia(members, constant(0.9, 3, 50), unseen, low[1], gamma=1.75)["auc"] == 0.5


def test_the_default_is_the_offline_form_with_three_tenths_and_two() -> None:
    # 0.9 / 0.935 against 0.25 / 0.415 is 1.6 times, with a = 0 it would be 0.947 / 0.455
    sides = constant(0.9, 50), constant(0.9, 3, 50), constant(0.25, 200), constant(0.1, 3, 200)
    assert rmia(*sides)["auc"] == 0.5
    assert rmia(*sides, a=0.0)["auc"] == 1.0
    assert rmia(*sides, gamma=1.5)["auc"] == 1.0


def test_a_ratio_of_exactly_gamma_counts() -> None:
    # even images are as likely as members, odd ones less so; either are the population once
    unseen = torch.tensor([0.5, 0.1]).log().repeat(100).double()
    members = unseen[:1].repeat(50)
    low = torch.full((1, 200), -1e4, dtype=torch.float64)
    assert rmia(members, low[:, :50], unseen, low, gamma=1.0)["auc"] == 0.75


def test_saturated_probabilities_have_ratios() -> None:
    deep = torch.full((50,), -1e4, dtype=torch.float64)
    found = rmia(deep, deep.repeat(2, 1), deep.repeat(4), deep.repeat(2, 4))
    assert found == {"auc": 0.5, "tpr": 0.0}


def test_half_of_the_unseen_images_has_to_be_enough_for_a_rate() -> None:
    sides = normal(1, 50), normal(2, 3, 50), normal(3, 199), normal(4, 3, 199)
    assert isinstance(rmia(*sides)["tpr"], Absent)


# ---- a group -----------------------------------------------------------------------------------


def models(
    count: int, seed: int, change: Callable[[Outputs, str], None] = lambda out, split: None
) -> list[dict[str, Outputs]]:
    """Return random models of four classes, with some images of each, changed by a function."""
    found = []
    for k in range(count):
        model = {}
        for split, counts in (("test", (200, 30, 20, 20)), ("train", (50, 40, 20, 20))):
            labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
            stream = torch.Generator().manual_seed(seed + 10 * k + (split == "train"))
            out = said(torch.randn(len(labels), 4, generator=stream), labels)
            change(out, split)
            model[split] = out
        found.append(model)
    return found


ORACLES = models(16, 10**6)
SAME = models(17, 0)


def test_equal_laws_have_the_areas_and_divergences_of_chance() -> None:
    found = assess_group(SAME, ORACLES, (0,))
    assert found.keys() == ATTACKS | {
        f"klom_gaussian.{place}.{value}"
        for place in PLACES
        for value in ("mean", "p95", "floor", "floor_p95")
    }
    assert all(isinstance(value, float) for value in found.values())
    for form in ("", "_retained"):
        assert abs(found[f"u_lira{form}.auc"] - 0.5) < 3 * standard_error(17 * 50, 16 * 50)
        assert abs(found[f"rmia{form}.auc"] - 0.5) < 3 * standard_error(50, 100) / math.sqrt(17)
    for place in PLACES:
        prefix = f"klom_gaussian.{place}"
        assert found[f"{prefix}.mean"] == pytest.approx(found[f"{prefix}.floor"], rel=0.35)


@pytest.mark.parametrize(("place", "forget"), [("test_forget", (0, 2)), ("train_retain", (0,))])
def test_divergences_are_those_between_halves_of_equal_size(
    place: str, forget: tuple[int, ...]
) -> None:
    split, part = place.split("_")
    classes = forget if part == "forget" else tuple(k for k in range(4) if k not in forget)
    halves = [
        [np.stack([logit(p_of(model[split])) for model in side[start::2][:8]]) for start in (0, 1)]
        for side in (SAME, ORACLES)
    ]
    labels = SAME[0][split].labels.numpy()
    (first, second), (one, other) = halves

    def summary(pairs: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        means, tails = [], []
        for ours, theirs in pairs:
            v, w = ours.var(axis=0, ddof=1), theirs.var(axis=0, ddof=1)
            apart = (ours.mean(axis=0) - theirs.mean(axis=0)) ** 2
            each = np.log(w / v) / 2 + (v + apart) / (2 * w) - 0.5
            means += [each[labels == k].mean() for k in classes]
            tails += [np.percentile(each[labels == k], 95) for k in classes]
        return np.mean(means), np.mean(tails)

    mean, tail = summary([(a, b) for a in (first, second) for b in (one, other)])
    floor, floor_tail = summary([(one, other), (other, one)])
    found = assess_group(SAME, ORACLES, forget)
    expected = {"mean": mean, "p95": tail, "floor": floor, "floor_p95": floor_tail}
    for name, value in expected.items():
        assert found[f"klom_gaussian.{place}.{name}"] == pytest.approx(value, rel=1e-4), name


def p_of(outputs: Outputs) -> Any:
    rows = np.arange(len(outputs.labels))
    return softmax(outputs.logits.double().numpy(), axis=1)[rows, outputs.labels.numpy()]


def test_many_unlearned_models_do_not_press_the_divergence_below_its_floor() -> None:
    # all 96 against all 16 would be a third as far apart as 8 against 8
    found = assess_group(models(96, 0), ORACLES, (0,))
    for place in PLACES:
        ratio = found[f"klom_gaussian.{place}.mean"] / found[f"klom_gaussian.{place}.floor"]
        assert ratio == pytest.approx(1, abs=0.4), place


def test_what_is_remembered_of_training_images_shows_there() -> None:
    def remember(out: Outputs, split: str) -> None:
        out.logits[out.labels == 0, 0] += 4.0 * (split == "train")

    found = assess_group(models(16, 0, remember), ORACLES, (0,))
    assert found["u_lira.auc"] > 0.95
    assert found["u_lira.accuracy"] > 0.9
    assert found["u_lira.tpr"] > 0.5
    assert found["rmia.auc"] > 0.9
    assert abs(found["u_lira_retained.auc"] - 0.5) < 0.05  # the other logits are as they were
    assert found["klom_gaussian.train_forget.mean"] > 5 * found["klom_gaussian.train_forget.floor"]
    for place in ("test_forget", "test_retain", "train_retain"):
        ratio = found[f"klom_gaussian.{place}.mean"] / found[f"klom_gaussian.{place}.floor"]
        assert ratio < 1.5, place


def test_a_mask_is_seen_by_its_depth_and_looked_behind() -> None:
    def mask(out: Outputs, split: str) -> None:
        out.logits[:, 0] = -1e4

    def masked_and_remembered(out: Outputs, split: str) -> None:
        mask(out, split)
        out.logits[out.labels == 0, 2] += 4.0 * (split == "train")

    found = assess_group(models(16, 0, mask), ORACLES, (0,))
    assert found["u_lira.auc"] == 1.0
    assert abs(found["u_lira_retained.auc"] - 0.5) < 0.05
    assert abs(found["rmia_retained.auc"] - 0.5) < 0.05
    found = assess_group(models(16, 0, masked_and_remembered), models(16, 10**6, mask), (0,))
    assert found["u_lira_retained.auc"] > 0.9


def test_the_second_label_is_the_oracles_largest_retained_class() -> None:
    def neighbour(out: Outputs, split: str) -> None:
        out.logits[out.labels == 0, 3] += 5.0

    def remembered_neighbour(out: Outputs, split: str) -> None:
        out.logits[out.labels == 0, 2] += 6.0  # the model's own largest one
        out.logits[out.labels == 0, 3] += 4.0 * (split == "train")

    found = assess_group(models(16, 0, remembered_neighbour), models(16, 10**6, neighbour), (0,))
    assert found["rmia_retained.auc"] > 0.8


def test_the_divergence_is_that_from_unlearned_to_oracles() -> None:
    def narrow(out: Outputs, split: str) -> None:
        out.logits.mul_(0.2)

    def value(unlearned: Any, oracles: Any) -> float:
        found = assess_group(unlearned, oracles, (0,))["klom_gaussian.train_retain.mean"]
        assert isinstance(found, float)
        return found

    small = models(16, 0, narrow)
    # five times narrower: about log 5 - ½ one way, about 12 - log 5 the other
    assert value(small, ORACLES) < 3
    assert value(ORACLES, small) > 8


def test_a_large_class_does_not_speak_for_a_small_one() -> None:
    def remember(out: Outputs, split: str) -> None:
        out.logits[out.labels == 1, 1] += 200.0 * (split == "train")

    changed = models(16, 0, remember)
    both, zero, one = (assess_group(changed, ORACLES, forget) for forget in ((0, 1), (0,), (1,)))
    for name in ("u_lira.auc", "rmia.auc", "klom_gaussian.train_forget.mean"):
        assert both[name] == pytest.approx((zero[name] + one[name]) / 2), name
    assert both["u_lira.auc"] == pytest.approx(0.75, abs=0.03)
    assert one["u_lira.auc"] == 1.0
    # class 1 has too few unseen images for a rate, so there is none for both
    assert isinstance(both["rmia.tpr"], Absent)
    assert isinstance(zero["rmia.tpr"], float)


def test_with_a_hundred_models_there_is_a_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "FEWEST_FOR_HISTOGRAM", 8)
    found = assess_group(SAME, ORACLES, (0,))
    assert {name.split(".")[0] for name in found if "klom" in name} == {"klom"}
    monkeypatch.setattr(group, "FEWEST_FOR_HISTOGRAM", 9)
    found = assess_group(SAME, ORACLES, (0,))
    assert {name.split(".")[0] for name in found if "klom" in name} == {"klom_gaussian"}


@pytest.mark.parametrize(
    ("ours", "theirs", "kind", "count"),
    [(15, 16, "unlearned", 15), (17, 3, "retrained", 3), (0, 0, "unlearned", 0)],
)
def test_too_few_models_say_nothing(ours: int, theirs: int, kind: str, count: int) -> None:
    found = assess_group(SAME[:ours], ORACLES[:theirs], (0,))
    reason = f"the group needs at least 16 {kind} models, there are {count}"
    assert set(found.values()) == {Absent(reason)}
    assert found.keys() == assess_group(SAME, ORACLES, (0,)).keys()


def test_models_of_other_images_are_refused() -> None:
    other = [dict(model) for model in SAME]
    labels = other[3]["test"].labels.flip(0)
    other[3]["test"] = said(other[3]["test"].logits, labels)
    with pytest.raises(ValueError, match="same test images"):
        assess_group(other, ORACLES, (0,))


def only(kept: Callable[[str], tuple[int, ...]]) -> list[list[dict[str, Outputs]]]:
    return [
        [{split: out.of(kept(split)) for split, out in model.items()} for model in side]
        for side in (SAME, ORACLES)
    ]


def test_what_lacks_is_absent_and_the_rest_is_there() -> None:
    unseen = only(lambda split: (1, 2, 3) if split == "test" else (0, 1, 2, 3))
    found = assess_group(*unseen, (0,))
    assert found["rmia.auc"] == Absent("no such class has both training and test images")
    assert isinstance(found["u_lira.auc"], float)
    assert found["klom_gaussian.test_forget.mean"] == Absent("there are no images of such classes")
    assert isinstance(found["klom_gaussian.train_forget.mean"], float)
    nothing = assess_group(*only(lambda split: (1, 2, 3)), (0,))
    assert {nothing[name] for name in ATTACKS} == {
        Absent("no such class has both training and test images")
    }
    # of two forgotten classes one has images
    one = assess_group(*only(lambda split: (0, 2, 3)), (0, 1))
    assert isinstance(one["u_lira.auc"], float)


def test_after_training_nothing_is_forgotten() -> None:
    found = assess_group(SAME, ORACLES, ())
    assert all(isinstance(found[name], Absent) for name in ATTACKS)
    assert isinstance(found["klom_gaussian.test_retain.mean"], float)


def test_one_retained_class_has_no_margin() -> None:
    found = assess_group(SAME, ORACLES, (0, 1, 2))
    for name in ATTACKS:
        if "_retained" in name:
            assert found[name] == Absent(
                "with fewer than two retained classes nothing is left to compare"
            )
    assert isinstance(found["u_lira.auc"], float)


def test_nothing_is_changed_and_twice_is_the_same() -> None:
    kept = [model["train"].logits.clone() for model in SAME]
    state = torch.get_rng_state()
    first = assess_group(SAME, ORACLES, (0, 1))
    assert first == assess_group(SAME, ORACLES, (0, 1))
    assert all(torch.equal(m["train"].logits, k) for m, k in zip(SAME, kept, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_value_has_its_reading_and_is_a_plain_number() -> None:
    found = assess_group(SAME, ORACLES, (0,))
    assert all(type(value) is float for value in found.values())
    json.dumps(found, allow_nan=False)
    assert {name.rpartition(".")[2] for name in found} == set(READINGS)
    assert READINGS["auc"] == MetricInfo("oracle", 0.5, 0.02)
    assert READINGS["tpr"] == MetricInfo("lower", 0.01)
    assert READINGS["accuracy"] == MetricInfo("oracle", 0.5)
    assert READINGS["mean"] == READINGS["p95"] == MetricInfo("lower")
    assert READINGS["floor"] == READINGS["floor_p95"] == MetricInfo("oracle")
