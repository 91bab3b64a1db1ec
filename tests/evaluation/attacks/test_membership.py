"""Membership inference: known answers, unequal sides, and scikit-learn's areas."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score
from torch import Tensor

from geniu_lightning.evaluation.attacks.membership import (
    SCORES,
    Membership,
    auc,
    mean_of,
    modified_entropy,
    scores,
    standard_error,
    tpr,
)
from geniu_lightning.evaluation.context import Outputs, log_softmax
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.worlds import context_of, measured, outputs, rigged, world

some = settings(max_examples=15, deadline=None)
NO_SIDES = Absent("no such class has both training and test images")


def attack(train: Outputs, test: Outputs, forget: tuple[int, ...] = (0,)) -> dict[str, Any]:
    return measured(Membership(), world({"train": train, "test": test}, forget=forget))


def drawn(
    seed: int, counts: tuple[int, ...], shift: float = 0.0, scale: float = 1.0, classes: int = 0
) -> Outputs:
    """Random logits of so many images of each class, those of the own class higher by `shift`."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    stream = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(len(labels), classes or len(counts), generator=stream)
    logits[torch.arange(len(labels)), labels] += shift
    return outputs(logits, labels)


def test_forgotten_classes_are_attacked_one_by_one_and_the_control_on_retained_ones() -> None:
    # class 0 leaks forwards, class 2 backwards and with other numbers
    train = drawn(1, (150, 40, 300, 40), scale=0.1)
    test = drawn(2, (250, 40, 120, 40), scale=0.1)
    train.logits[train.labels == 0, 0] += 5
    test.logits[test.labels == 2, 2] += 9
    found = attack(train, test, (0, 2))
    assert (found["loss.auc"], found["loss.leak"], found["loss.tpr"]) == (0.5, 1.0, 0.5)
    each = [standard_error(150, 250), standard_error(300, 120)]
    assert found["standard_error"] == pytest.approx(math.hypot(*each) / 2)
    train, test = drawn(1, (100, 30, 30, 90)), drawn(2, (100, 30, 30, 30))
    train.logits[train.labels == 1, 1] += 50
    test.logits[test.labels == 2, 2] += 50
    train.logits[train.labels == 3, 3] += 50
    found = attack(train, test)
    assert found["retained_control.auc"] == pytest.approx(2 / 3)
    assert found["retained_control.leak"] == 1.0
    assert abs(found["loss.auc"] - 0.5) < 3 * found["standard_error"]


def test_a_value_without_enough_images_is_absent_with_its_reason() -> None:
    everything = measured(Membership(), context_of(rigged()["mask"])).keys()
    for there, lacks in (("test", "train"), ("train", "test")):
        found = measured(Membership(), context_of(rigged()["mask"], splits=(there,)))
        assert set(found.values()) == {Absent(f"the run has no {lacks} images")}
        assert found.keys() == everything
    train = drawn(1, (200, 9, 9, 9))
    found = attack(train, drawn(2, (99, 9, 9, 9)))
    assert isinstance(found["loss.auc"], float)
    few = "a false positive rate of 1 % needs at least 100 non-members of the class, there are 99"
    assert found["loss.tpr"] == Absent(few)
    assert isinstance(attack(train, drawn(2, (100, 9, 9, 9)))["loss.tpr"], float)
    small = attack(drawn(1, (200, 200, 9, 9)), drawn(2, (150, 20, 9, 9)), (0, 1))
    assert isinstance(small["loss.tpr"], Absent)  # one small class makes the mean absent
    train, test = drawn(1, (120, 120, 9, 9), 3.0), drawn(2, (120, 0, 9, 9))
    assert attack(train, test, (0, 1))["loss.auc"] == attack(train, test)["loss.auc"] > 0.8
    assert attack(train, test, (1,))["loss.auc"] == NO_SIDES
    found = attack(drawn(1, (50, 50), 9), drawn(2, (50, 50)), ())  # after training
    assert found["retained_control.auc"] > 0.9
    assert {v for name, v in found.items() if "control" not in name} == {NO_SIDES}
    found = attack(drawn(1, (120, 9)), drawn(2, (120, 9)))  # one retained class
    for name, value in found.items():
        hidden = name.startswith(("retained_confidence", "retained_entropy"))
        assert isinstance(value, Absent if hidden else float), name
    assert mean_of([1.0, 2.0]) == 1.5
    assert mean_of([]) == NO_SIDES
    assert mean_of([1.0, Absent("why")]) == Absent("why")


# ---- area and rate -----------------------------------------------------------------------------

tied = st.lists(st.integers(-3, 3), min_size=1, max_size=30)
scattered = st.lists(st.floats(-5, 5), min_size=1, max_size=30)


def tensors(*sides: Any) -> list[Tensor]:
    return [torch.tensor(side, dtype=torch.float64) for side in sides]


@some
@given(pair=st.one_of(st.tuples(tied, tied), st.tuples(scattered, scattered)))
def test_the_area_is_that_of_scikit_learn(pair: tuple[Any, Any]) -> None:
    members, others = tensors(*pair)
    before = members.clone(), others.clone()
    truth = [1] * len(members) + [0] * len(others)
    expected = roc_auc_score(truth, torch.cat([members, others]).numpy())
    assert auc(members, others) == pytest.approx(expected)
    assert auc(members, members.clone()) == 0.5
    assert torch.equal(members, before[0])  # neither sorted nor shuffled in place
    assert torch.equal(others, before[1])


@some
@given(seed=st.integers(0, 2**16), count=st.integers(100, 320), levels=st.sampled_from([9, 500]))
def test_the_rate_is_the_best_over_all_thresholds(seed: int, count: int, levels: int) -> None:
    stream = np.random.default_rng(seed)
    ours, theirs = stream.integers(0, levels, 60), stream.integers(0, levels, count)
    thresholds = [*np.unique(np.concatenate([ours, theirs])), math.inf]
    allowed = [t for t in thresholds if (theirs >= t).mean() <= 0.01]
    assert tpr(*tensors(ours, theirs)) == max((ours >= t).mean() for t in allowed)


def test_rates_are_not_interpolated() -> None:
    others = [*range(99), 1000]
    assert tpr(*tensors([98.5, 97.5, 2000.0, 5.0], others)) == 0.5
    assert tpr(*tensors([98.0, 97.0], others)) == 0.0  # a tie with the first refused


def test_the_standard_error_is_that_over_all_arrangements() -> None:
    assert standard_error(100, 100) == pytest.approx(0.041, abs=1e-3)
    for members, others in ((2, 6), (5, 3), (4, 4)):
        ranks = range(members + others)
        areas = [
            auc(*tensors(list(chosen), [r for r in ranks if r not in chosen]))
            for chosen in itertools.combinations(ranks, members)
        ]
        assert standard_error(members, others) == pytest.approx(np.std(areas))


# ---- scores ------------------------------------------------------------------------------------


def test_scores_match_those_from_probabilities() -> None:
    for scale in (0.1, 1.0, 3.0):
        given_ = drawn(7, (9,) * 5, scale=scale)
        logits, labels = given_.logits.double().numpy(), given_.labels.numpy()
        found = {name: score.numpy() for name, score in scores(given_, (1, 3, 4)).items()}
        p, q = softmax(logits, axis=1), softmax(logits[:, [1, 3, 4]], axis=1)
        expected = {
            "loss": np.log(p[np.arange(len(labels)), labels]),
            "confidence": np.log(p.max(axis=1)),
            "entropy": -entropy(p, axis=1),
            "retained_confidence": np.log(q.max(axis=1)),
            "retained_entropy": -entropy(q, axis=1),
        }
        turned = np.where(np.eye(5, dtype=bool)[labels], 1 - p, p)  # 1 - p of the own class
        expected["modified_entropy"] = (turned * np.log(1 - turned)).sum(axis=1)
        assert found.keys() == expected.keys() == set(SCORES)
        for name, values in expected.items():
            # near p = 1 the plain formula loses digits
            np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-9, err_msg=name)
    surer = outputs(torch.tensor([[40.0, 0.0, 0.0], [41.0, 0.0, 0.0], [200.0, 0.0, 0.0]]), [0] * 3)
    for name, score in scores(surer, (0, 1)).items():  # confident images are not tied
        first, second, third = score.tolist()
        assert first < second < third <= 0, name


def test_modified_entropy_at_certainty() -> None:
    logits = torch.full((2, 10), -200.0)
    logits[:, 4] = 200.0
    right, wrong = modified_entropy(log_softmax(logits), torch.tensor([4, 0])).tolist()
    assert 0 <= right < 1e-100
    assert wrong == pytest.approx(400 + 400 - math.log(9))
