"""Answers to forgotten images: known models, numpy's arithmetic, and several classes."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from scipy.stats import rankdata

from geniu_lightning.evaluation.context import Outputs
from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.confusion import (
    Confusion,
    rank_correlation,
    total_variation,
)
from tests.evaluation.worlds import (
    CLASSES,
    NO_IMAGE,
    NO_ORACLE,
    context_of,
    outputs,
    random_outputs,
    rigged,
    world,
)

FLAT = Absent("all retained classes get the same share of the answers")


def test_all_values_match_numpy() -> None:
    counts = (40, 7, 30, 12, 5, 12)
    for seed, forget in ((1, (0,)), (2, (3,)), (3, (1, 4)), (4, (0, 2, 5))):
        given, *oracles = (random_outputs(seed + k, 90) for k in range(3))
        others = [{"test": o} for o in oracles]
        found = Confusion()(world({"test": given}, *others, forget=forget, counts=counts))
        retained = [k for k in range(6) if k not in forget]
        truth = given.labels.numpy()

        def table(of: Outputs, truth: np.ndarray = truth) -> np.ndarray:
            answer = of.logits.argmax(dim=1).numpy()
            rows = [[(answer[truth == k] == c).mean() for c in range(6)] for k in range(6)]
            return np.array(rows)

        rows = table(given)
        profile = rows[list(forget)].mean(axis=0)
        assert found["profile"] == pytest.approx(profile.tolist())
        apart = [np.abs(rows - table(o))[list(forget)].sum(axis=1) / 2 for o in oracles]
        assert found["distance"] == pytest.approx(np.mean(apart))
        largest = max(retained, key=lambda k: counts[k])
        smaller = [k for k in retained if k != largest]
        assert found["attractor"] == pytest.approx(profile[largest])
        assert found["attractor_retained"] == pytest.approx(rows[smaller, largest].mean())
        ranks = [rankdata(x) for x in (profile[retained].round(9), [counts[k] for k in retained])]
        constant = np.ptp(ranks[0]) == 0
        expected = FLAT if constant else pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert found["rank_correlation"] == expected
        q = softmax(given.logits.double().numpy()[:, retained], axis=1)
        for name, each in (
            ("retained_entropy", scipy_entropy(q, axis=1)),
            ("retained_top1", q.max(axis=1)),
        ):
            assert found[name] == pytest.approx(np.mean([each[truth == k].mean() for k in forget]))
    one, other = np.random.default_rng(0).dirichlet(np.ones(5), size=2)
    found = total_variation(torch.from_numpy(one), torch.from_numpy(other))
    assert found == pytest.approx((one - other)[one > other].sum())


def answered(classes: int, answers: list[int], labels: list[int]) -> Outputs:
    return outputs(torch.eye(classes)[answers], labels)


def test_several_classes_count_alike_and_do_not_cancel_out() -> None:
    oracle, model = (answered(4, a, [0, 0, 1, 1]) for a in ([2, 2, 3, 3], [3, 3, 2, 2]))
    swapped = world({"test": model}, {"test": oracle}, forget=(0, 1), counts=(1, 1, 2, 1))
    assert Confusion()(swapped)["distance"] == 1.0
    given = answered(5, [1, 1, 2, 3, 1, 2, 4, 3], [0, 0, 0, 0, 3, 3, 3, 4])
    found = Confusion()(world({"test": given}, counts=(1, 7, 7, 2, 3)))  # two largest classes
    assert found["attractor"] == 0.75
    assert found["attractor_retained"] == pytest.approx((2 / 3 + 0) / 2)
    model, oracle = answered(4, [2, 2], [0, 0]), answered(4, [2, 3], [0, 0])
    found = Confusion()(
        world({"test": model}, {"test": oracle}, forget=(0, 1), counts=(1, 1, 2, 1))
    )
    assert (found["distance"], found["profile"]) == (0.5, [0.0, 0.0, 1.0, 0.0])


def test_probabilities_that_underflow_keep_their_shape_and_rounding_makes_no_ranks() -> None:
    logits = torch.tensor([[1e4, 0.0, math.log(3), -1e4], [1e4, -1e4, -1e4, -1e4]])
    found = Confusion()(world({"test": outputs(logits, [0, 0])}, counts=(1, 2, 1, 1)))
    expected = (scipy_entropy([0.25, 0.75]) + math.log(3)) / 2
    assert found["retained_entropy"] == pytest.approx(expected)
    assert found["retained_top1"] == pytest.approx((0.75 + 1 / 3) / 2)
    third = torch.tensor([0.1 + 0.2, 0.3, 0.3], dtype=torch.float64)
    assert rank_correlation(third, [1, 2, 3]) == FLAT
    assert rank_correlation(torch.tensor([0.1, 0.2, 0.7]), [1, 20, 300]) == pytest.approx(1.0)


def test_a_value_that_cannot_be_computed_is_absent_with_its_reason() -> None:
    found = Confusion()(world({"test": answered(3, [1, 1], [0, 0])}, counts=(9, 5, 5)))
    none = Absent("no retained class has more training images than another")
    assert found["attractor"] == found["attractor_retained"] == none
    equal = Absent("all retained classes have the same number of training images")
    assert found["rank_correlation"] == equal
    found = Confusion()(world({"test": answered(3, [1, 1], [0, 1])}, counts=(9, 5, 4)))
    unseen = Absent("the split has no image of the smaller retained classes")
    assert (found["attractor_retained"], found["attractor"]) == (unseen, 1.0)
    alone = Confusion()(dataclasses.replace(context_of(rigged()["collapsed"]), oracles=()))
    assert {k: v for k, v in alone.items() if isinstance(v, Absent)} == {"distance": NO_ORACLE}
    context = context_of(rigged()["mask"], splits=("test",))
    everything = dataclasses.replace(context, forget=tuple(range(CLASSES)))
    for metric, about, reason in (
        (Confusion("train"), context, Absent("the run has no train images")),
        (Confusion(), dataclasses.replace(context, forget=()), NO_IMAGE),
        (Confusion(), everything, Absent("no class is retained")),
    ):
        assert metric(about) == dict.fromkeys(Confusion.infos, reason)
