"""RMIA: against counting, at its thresholds, and with saturated probabilities."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from geniu_lightning.evaluation.attacks.rmia import rmia
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.attacks.test_u_lira import normal


@settings(max_examples=15, deadline=None)
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
        (-normal(seed + k, count).abs() * 2, -normal(seed + 5 + k, 3, count).abs() * 2)
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
    found = rmia(members, refs, unseen, unseen_refs, a, gamma)["auc"]
    assert found == pytest.approx(np.mean(areas))


def constant(p: float, *shape: int) -> Tensor:
    return torch.full(shape, math.log(p), dtype=torch.float64)


def test_an_image_counts_as_member_from_twice_as_likely_on() -> None:
    # oracles give neither any probability: the ratio is that of the model's own probabilities
    none = constant(1e-30, 3, 50), constant(1e-30, 3, 200)
    for member, area in ((0.9, 1.0), (0.25, 1.0), (0.15, 0.5), (0.01, 0.5)):
        found = rmia(constant(member, 50), none[0], constant(0.1, 200), none[1])
        assert (found["auc"], found["tpr"]) == (area, float(area == 1.0))
    members, low, high = constant(0.9, 50), constant(0.1, 3, 200), constant(0.9, 3, 50)
    # the defaults are a = 0.3 and gamma = 2: 0.9 / 0.935 is 1.6 times 0.25 / 0.415
    sides = members, high, constant(0.25, 200), low
    assert rmia(*sides)["auc"] == 0.5
    assert rmia(*sides, a=0.0)["auc"] == rmia(*sides, gamma=1.5)["auc"] == 1.0
    # a ratio of exactly gamma counts: even images are as likely as members, odd ones less so
    unseen = torch.tensor([0.5, 0.1]).log().repeat(100).double()
    deep = torch.full((1, 200), -1e4, dtype=torch.float64)
    exact = rmia(unseen[:1].repeat(50), deep[:, :50], unseen, deep, gamma=1.0)
    assert exact["auc"] == 0.75
    everywhere = deep[0, :50]
    saturated = rmia(everywhere, everywhere.repeat(2, 1), deep[0], deep.repeat(2, 1))
    assert saturated == {"auc": 0.5, "tpr": 0.0}
    # half of the unseen images has to be enough for a rate
    few = rmia(normal(1, 50), normal(2, 3, 50), normal(3, 199), normal(4, 3, 199))
    assert isinstance(few["tpr"], Absent)
