"""Membership inference: known models, null data, scikit-learn and counting on random scores."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import softmax
from scipy.stats import entropy, mannwhitneyu
from sklearn.metrics import roc_auc_score
from torch import Tensor

from geniu_lightning.evaluation.attacks.membership import (
    SCORES,
    Membership,
    auc,
    leak,
    mean_of,
    modified_entropy,
    scores,
    standard_error,
    tpr_at,
    tpr_or_absent,
)
from geniu_lightning.evaluation.context import Context, Outputs, log_softmax
from geniu_lightning.evaluation.evaluator import run, tree_of
from geniu_lightning.evaluation.metric import Absent, MetricInfo
from tests.evaluation.metrics.test_accuracy import said, world
from tests.evaluation.rigged import Rigged, context_of, rigged, saturated

some = settings(max_examples=20, deadline=None)
NO_SIDES = Absent("no such class has both training and test images")
FEW_RETAINED = Absent("with fewer than two retained classes nothing is left to compare")


def attack(context: Context) -> dict[str, Any]:
    return Membership()(context.showing(Membership.needs))


# ---- known answers -----------------------------------------------------------------------------

# columns: area and rate at few false positives, of the loss
KNOWN = {
    "original": (0.5, 0.0),
    "oracle": (0.5, 0.0),
    "mask": (0.5, 0.0),
    "uniform": (0.5, 0.0),
    "memoriser": (1.0, 1.0),
    "collapsed": (0.5, 0.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rigged_models_are_as_leaky_as_is_known(name: str) -> None:
    found = attack(context_of(rigged()[name]))
    area, rate = KNOWN[name]
    assert found["loss.auc"] == pytest.approx(area, abs=1e-4)
    assert found["loss.tpr"] == pytest.approx(rate, abs=1e-4)
    for score in SCORES:  # the memoriser is surest of what it never saw: its order is turned round
        assert found[f"{score}.leak"] == pytest.approx(leak(area), abs=1e-4), score
    assert found["retained_control.auc"] == found["retained_control.leak"] == 0.5
    assert found["standard_error"] == pytest.approx(0.0409, abs=1e-4)
    assert found.keys() == {
        *(f"{score}.{value}" for score in SCORES for value in ("auc", "leak", "tpr")),
        "standard_error",
        "retained_control.auc",
        "retained_control.leak",
    }


def test_a_score_that_is_turned_round_has_a_low_area_and_a_high_leak() -> None:
    found = attack(context_of(rigged()["memoriser"]))
    for score in ("confidence", "entropy", "retained_confidence", "retained_entropy"):
        assert (found[f"{score}.auc"], found[f"{score}.leak"]) == (0.0, 1.0), score
    assert found["modified_entropy.auc"] == 1.0


@pytest.mark.parametrize("answer", [0, 3])
def test_a_saturated_model_leaks_nothing_and_gives_numbers(answer: int) -> None:
    found = attack(context_of(saturated(answer)))
    for score in SCORES:
        assert (found[f"{score}.auc"], found[f"{score}.tpr"]) == (0.5, 0.0), score


def halved(model: Rigged) -> Rigged:
    return Rigged(model.table, model.head.weight / 2, model.head.bias / 2)


@pytest.mark.parametrize("name", ["oracle", "memoriser"])
def test_a_change_of_temperature_is_not_forgetting(name: str) -> None:
    # an attack fitted on the original's outputs would change its mind
    model = rigged()[name]
    before, after = attack(context_of(model)), attack(context_of(halved(model)))
    assert before["loss.auc"] == after["loss.auc"] == KNOWN[name][0]


# ---- sides -------------------------------------------------------------------------------------


def drawn(
    seed: int, labels: Tensor, shift: float = 0.0, *, classes: int = 4, scale: float = 1.0
) -> Outputs:
    """Return random logits, those of the own class being higher by ``shift``."""
    stream = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(len(labels), classes, generator=stream)
    logits[torch.arange(len(labels)), labels] += shift
    return said(logits, labels)


def of_each(*counts: int) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


@pytest.mark.parametrize(("members", "others"), [(1000, 1000), (4000, 1000), (100, 2000)])
@pytest.mark.parametrize("seed", range(3))
def test_unequal_sides_of_one_law_give_half(members: int, others: int, seed: int) -> None:
    train = drawn(seed, of_each(members, 50, 50, 50), 2.0)
    test = drawn(seed + 100, of_each(others, 50, 50, 50), 2.0)
    found = attack(world({"train": train, "test": test}))
    error = found["standard_error"]
    assert error == standard_error(members, others)
    for score in SCORES:
        assert abs(found[f"{score}.auc"] - 0.5) < 3 * error, score
        assert found[f"{score}.tpr"] < 0.06, score


def test_non_members_are_of_the_same_class() -> None:
    # whoever takes all test images for non-members detects the class in this harmless model
    train = drawn(1, of_each(300, 300, 300, 300))
    test = drawn(2, of_each(300, 300, 300, 300))
    for side in (train, test):
        side.logits[side.labels == 0, 0] -= 20.0
    found = attack(world({"train": train, "test": test}))
    assert abs(found["loss.auc"] - 0.5) < 3 * found["standard_error"]
    assert auc(scores(train.of((0,)), (1, 2, 3))["loss"], scores(test, (1, 2, 3))["loss"]) < 0.2


def test_forgotten_classes_are_attacked_one_by_one_and_then_averaged() -> None:
    # class 0 leaks forwards, class 2 backwards and with other numbers: pooled they would be no mean
    train = drawn(1, of_each(150, 40, 300, 40), scale=0.1)
    test = drawn(2, of_each(250, 40, 120, 40), scale=0.1)
    train.logits[train.labels == 0, 0] += 5
    test.logits[test.labels == 2, 2] += 9
    found = attack(world({"train": train, "test": test}, forget=(0, 2)))
    assert found["loss.auc"] == 0.5
    assert found["loss.leak"] == 1.0
    assert found["loss.tpr"] == 0.5
    each = [standard_error(150, 250), standard_error(300, 120)]
    assert found["standard_error"] == pytest.approx(math.sqrt(each[0] ** 2 + each[1] ** 2) / 2)


def test_the_control_looks_at_retained_classes_alone() -> None:
    train, test = drawn(1, of_each(100, 30, 30, 90)), drawn(2, of_each(100, 30, 30, 30))
    train.logits[train.labels == 1, 1] += 50
    test.logits[test.labels == 2, 2] += 50
    train.logits[train.labels == 3, 3] += 50
    found = attack(world({"train": train, "test": test}))
    assert found["retained_control.auc"] == pytest.approx(2 / 3)
    assert found["retained_control.leak"] == 1.0
    assert abs(found["loss.auc"] - 0.5) < 3 * found["standard_error"]


def test_retained_scores_see_behind_a_mask() -> None:
    train, test = drawn(1, of_each(200, 50, 50, 50)), drawn(2, of_each(200, 50, 50, 50))
    train.logits[train.labels == 0, 1] += 9
    for side in (train, test):
        side.logits[:, 0] = 1e4  # hides all differences of other logits from p
    found = attack(world({"train": train, "test": test}))
    assert found["confidence.auc"] == found["entropy.auc"] == 0.5
    assert found["retained_confidence.auc"] > 0.95
    assert found["retained_entropy.auc"] > 0.95


# ---- absent, never invented --------------------------------------------------------------------


@pytest.mark.parametrize("lacks", ["train", "test"])
def test_a_run_without_one_side_has_no_values(lacks: str) -> None:
    present = ({"train", "test"} - {lacks}).pop()
    found = attack(context_of(rigged()["mask"], splits=(present,)))
    assert set(found.values()) == {Absent(f"the run has no {lacks} images")}
    assert found.keys() == attack(context_of(rigged()["mask"])).keys()


def test_few_non_members_have_an_area_but_no_rate() -> None:
    train, test = drawn(1, of_each(200, 9, 9, 9)), drawn(2, of_each(99, 9, 9, 9))
    found = attack(world({"train": train, "test": test}))
    assert isinstance(found["loss.auc"], float)
    assert found["loss.tpr"] == Absent(
        "a false positive rate of 1 % needs at least 100 non-members of the class, there are 99"
    )
    enough = drawn(2, of_each(100, 9, 9, 9))
    assert isinstance(attack(world({"train": train, "test": enough}))["loss.tpr"], float)


def test_one_small_forgotten_class_takes_the_rate_of_all_with_it() -> None:
    train, test = drawn(1, of_each(200, 200, 9, 9)), drawn(2, of_each(150, 20, 9, 9))
    found = attack(world({"train": train, "test": test}, forget=(0, 1)))
    assert isinstance(found["loss.tpr"], Absent)


def test_a_class_without_images_on_one_side_takes_no_part() -> None:
    train, test = drawn(1, of_each(120, 120, 9, 9), 3.0), drawn(2, of_each(120, 0, 9, 9))
    both = attack(world({"train": train, "test": test}, forget=(0, 1)))
    alone = attack(world({"train": train, "test": test}, forget=(0,)))
    assert both["loss.auc"] == alone["loss.auc"] > 0.8
    assert attack(world({"train": train, "test": test}, forget=(1,)))["loss.auc"] == NO_SIDES


def test_after_training_there_is_only_the_control() -> None:
    train, test = drawn(1, of_each(50, 50), 9, classes=2), drawn(2, of_each(50, 50), classes=2)
    found = attack(world({"train": train, "test": test}, forget=()))
    assert found["retained_control.auc"] > 0.9
    assert {value for name, value in found.items() if "control" not in name} == {NO_SIDES}


def test_one_retained_class_has_no_probabilities_to_look_at() -> None:
    train, test = drawn(1, of_each(120, 9), classes=2), drawn(2, of_each(120, 9), classes=2)
    found = attack(world({"train": train, "test": test}))
    for name, value in found.items():
        if name.startswith(("retained_confidence", "retained_entropy")):
            assert value == FEW_RETAINED
        else:
            assert isinstance(value, float), name


def test_a_mean_over_none_or_over_what_is_absent_is_absent() -> None:
    assert mean_of([1.0, 2.0]) == 1.5
    assert mean_of([]) == NO_SIDES
    assert mean_of([1.0, Absent("why")]) == Absent("why")


# ---- the battery -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("loss.auc", MetricInfo("oracle", 0.5, 0.02)),
        ("retained_entropy.leak", MetricInfo("lower", 0.5, 0.02)),
        ("confidence.tpr", MetricInfo("lower", 0.01, 0.01)),
        ("standard_error", MetricInfo("oracle")),
        ("retained_control.auc", MetricInfo("oracle", None, 0.02)),
        ("retained_control.leak", MetricInfo("oracle", None, 0.02)),
    ],
)
def test_each_value_says_how_it_is_read(name: str, reading: MetricInfo) -> None:
    assert Membership().reading(name) == reading


def test_the_battery_writes_it_and_nothing_has_moved() -> None:
    context = context_of(rigged()["memoriser"])
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    kept = {s: context.outputs(context.unlearned, s).logits.clone() for s in ("train", "test")}
    tree = tree_of(run(context, {"membership": Membership()}))
    membership = json.loads(json.dumps(tree, allow_nan=False))["membership"]
    assert membership["loss"]["auc"]["value"] == 1.0
    assert membership["loss"]["auc"]["oracle_mean"] == 0.5
    for split, logits in kept.items():
        assert torch.equal(context.outputs(context.unlearned, split).logits, logits)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()
    assert attack(context) == attack(context)


# ---- area and rate -----------------------------------------------------------------------------

tied = st.lists(st.integers(-3, 3), min_size=1, max_size=30)
scattered = st.lists(st.floats(-5, 5), min_size=1, max_size=30)


def tensors(*sides: list[Any]) -> list[Tensor]:
    return [torch.tensor(side, dtype=torch.float64) for side in sides]


@some
@given(sides=st.one_of(st.tuples(tied, tied), st.tuples(scattered, scattered)))
def test_the_area_is_that_of_scikit_learn_and_of_the_rank_test(sides: tuple[Any, Any]) -> None:
    members, others = tensors(*sides)
    kept = members.clone(), others.clone()
    truth = [1] * len(members) + [0] * len(others)
    expected = roc_auc_score(truth, torch.cat([members, others]).numpy())
    assert auc(members, others) == pytest.approx(expected)
    rank = mannwhitneyu(members.numpy(), others.numpy()).statistic
    assert auc(members, others) == pytest.approx(rank / len(members) / len(others))
    assert auc(others, members) == pytest.approx(1 - expected)
    # the caller's scores are not shuffled or sorted in place
    assert torch.equal(members, kept[0])
    assert torch.equal(others, kept[1])


@some
@given(members=tied, others=tied)
def test_an_increasing_map_of_the_score_leaves_the_area_exactly_as_it_is(
    members: list[int], others: list[int]
) -> None:
    ours, theirs = tensors(members, others)
    assert auc(ours.exp() * 3 - 1, theirs.exp() * 3 - 1) == auc(ours, theirs)
    rate = tpr_at(ours, theirs, 0.2)
    assert tpr_at(ours.exp() * 3 - 1, theirs.exp() * 3 - 1, 0.2) == rate


@some
@given(side=scattered)
def test_equal_sides_give_exactly_half(side: list[float]) -> None:
    ours, theirs = tensors(side, side)
    assert auc(ours, theirs) == 0.5


def test_infinite_scores_have_their_place() -> None:
    ours, theirs = tensors([math.inf, 0.0, -math.inf], [math.inf, -math.inf])
    assert auc(ours, theirs) == 0.5
    assert tpr_at(*tensors([math.inf, math.inf], [0.0] * 100), 0.01) == 1.0


@some
@given(members=tied, others=tied, fpr=st.sampled_from([0.0, 0.01, 0.1, 0.34, 0.5, 1.0]))
def test_the_rate_is_the_best_over_all_thresholds(
    members: list[int], others: list[int], fpr: float
) -> None:
    ours, theirs = np.array(members), np.array(others)
    thresholds = [*np.unique(np.concatenate([ours, theirs])), math.inf]
    allowed = [t for t in thresholds if (theirs >= t).mean() <= fpr]
    assert tpr_at(*tensors(members, others), fpr) == max((ours >= t).mean() for t in allowed)


def test_a_rate_is_not_interpolated() -> None:
    others = [*range(99), 1000]
    assert tpr_at(*tensors([98.5, 97.5, 2000.0, 5.0], others), 0.01) == 0.5
    assert tpr_at(*tensors([98.0, 97.0], others), 0.01) == 0.0  # a tie with the first refused
    assert tpr_at(*tensors([98.5], others), 0.009) == 0.0  # not one false positive is allowed


def test_a_share_that_binary_numbers_miss_allows_what_it_says() -> None:
    # 0.29 of 100 is 28.999999999999996
    assert tpr_at(*tensors([70.5], list(range(100))), 0.29) == 1.0
    assert tpr_at(*tensors([69.5], list(range(100))), 0.29) == 0.0
    assert tpr_or_absent(*tensors([98.5, 0.0], list(range(100)))) == 0.5
    assert tpr_at(*tensors([-5.0], list(range(100))), 1.0) == 1.0


@pytest.mark.parametrize(
    ("images", "error"), [(20, 0.092), (50, 0.058), (100, 0.041), (500, 0.018), (1000, 0.013)]
)
def test_the_standard_error_for_equal_sides(images: int, error: float) -> None:
    assert standard_error(images, images) == pytest.approx(error, abs=1e-3)


@pytest.mark.parametrize(("members", "others"), [(2, 6), (5, 3), (4, 4)])
def test_the_standard_error_is_that_over_all_arrangements(members: int, others: int) -> None:
    ranks = range(members + others)
    areas = [
        auc(*tensors(list(chosen), [r for r in ranks if r not in chosen]))
        for chosen in itertools.combinations(ranks, members)
    ]
    assert standard_error(members, others) == pytest.approx(np.std(areas))


# ---- scores ------------------------------------------------------------------------------------


@some
@given(seed=st.integers(0, 2**16), scale=st.sampled_from([0.1, 1.0, 3.0]))
def test_scores_match_those_from_probabilities(seed: int, scale: float) -> None:
    outputs = drawn(seed, of_each(9, 9, 9, 9, 9), classes=5, scale=scale)
    logits, labels = outputs.logits.double().numpy(), outputs.labels.numpy()
    found = {name: score.numpy() for name, score in scores(outputs, (1, 3, 4)).items()}
    p, q = softmax(logits, axis=1), softmax(logits[:, [1, 3, 4]], axis=1)
    rows = np.arange(len(labels))
    expected = {
        "loss": np.log(p[rows, labels]),
        "confidence": np.log(p.max(axis=1)),
        "entropy": -entropy(p, axis=1),
        "retained_confidence": np.log(q.max(axis=1)),
        "retained_entropy": -entropy(q, axis=1),
    }
    turned = np.where(np.eye(5, dtype=bool)[labels], 1 - p, p)  # 1 - p of the own class
    expected["modified_entropy"] = (turned * np.log(1 - turned)).sum(axis=1)
    assert found.keys() == expected.keys() == set(SCORES)
    for name, values in expected.items():
        assert found[name].dtype == np.float64
        # near p = 1 the plain formula loses digits
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-9, err_msg=name)


@some
@given(seed=st.integers(0, 2**16), scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]))
def test_log_probabilities_are_those_of_scipy(seed: int, scale: float) -> None:
    logits = scale * torch.randn(20, 6, generator=torch.Generator().manual_seed(seed))
    expected = scipy_log_softmax(logits.double().numpy(), axis=1)
    np.testing.assert_allclose(log_softmax(logits).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_images_that_a_model_is_very_sure_of_are_not_tied() -> None:
    surer = torch.tensor([[40.0, 0.0, 0.0], [41.0, 0.0, 0.0], [200.0, 0.0, 0.0]])
    assert surer.double().log_softmax(dim=1)[:, 0].tolist() == [0.0, 0.0, 0.0]  # the usual form
    found = scores(said(surer, [0, 0, 0]), (0, 1))
    for name in SCORES:
        first, second, third = found[name].tolist()
        assert first < second < third <= 0, name


def test_modified_entropy_by_hand() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1]]).double()
    assert modified_entropy(p.log(), torch.tensor([0])).item() == pytest.approx(0.1622, abs=1e-4)
    by_hand = -0.8 * math.log(0.2) - 0.7 * math.log(0.3) - 0.1 * math.log(0.9)
    assert modified_entropy(p.log(), torch.tensor([1])).item() == pytest.approx(by_hand)


def test_an_image_has_the_same_modified_entropy_in_any_company() -> None:
    logs = drawn(3, of_each(1, 1, 1), classes=3).log_probabilities
    labels = torch.tensor([0, 1, 2])
    kept = logs.clone()
    together = modified_entropy(logs, labels)
    alone = [modified_entropy(logs[k : k + 1], labels[k : k + 1]).item() for k in range(3)]
    assert together.tolist() == alone
    assert torch.equal(logs, kept)


def test_modified_entropy_of_saturated_answers_is_a_number() -> None:
    logits = torch.full((2, 10), -200.0)
    logits[:, 4] = 200.0
    right, wrong = modified_entropy(log_softmax(logits), torch.tensor([4, 0])).tolist()
    assert 0 <= right < 1e-100
    assert wrong == pytest.approx(400 + 400 - math.log(9))


def test_modified_entropy_of_exact_certainty_is_zero_or_infinite_but_a_number() -> None:
    logs = torch.tensor([[0.0, -math.inf, -math.inf]]).repeat(2, 1)
    right, wrong = modified_entropy(logs, torch.tensor([0, 1])).tolist()
    assert (right, wrong) == (0.0, math.inf)
