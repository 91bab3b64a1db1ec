"""Distances in weight space, by hand."""

import copy

import pytest
import torch
from torch import nn

from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.weight_distance import WeightDistance
from tests.evaluation.clouds import Plain, Small, points
from tests.evaluation.worlds import measured


def scaled(network: nn.Module, factor: float) -> nn.Module:
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        parameter.mul_(factor)
    return other


def test_distances_are_relative_and_means_over_oracles() -> None:
    original = Small(1)
    oracles = (scaled(original, -1.0), scaled(original, 4.0))
    context = points(original=original, unlearned=scaled(original, 2.0), oracles=oracles)
    found = measured(WeightDistance(), context)
    expected = {"original": 1.0, "original_cosine": 1.0, "oracle": (3 + 0.5) / 2}
    assert found == pytest.approx({**expected, "oracle_cosine": 0.0})
    context.unlearned.body[2].running_mean += 1.0  # no parameter
    assert measured(WeightDistance(), context) == found


def test_all_parameters_count_and_a_missing_oracle_is_said() -> None:
    first, second = Plain(1), Plain(1)
    second.head.bias.data[0] += 3.0
    context = points(original=first, unlearned=second)
    found = measured(WeightDistance(), context)
    length = torch.cat([first.head.weight.flatten(), first.head.bias]).norm().item()
    assert found["original"] == pytest.approx(3.0 / length)
    assert found["oracle"] == found["oracle_cosine"] == Absent("there is no oracle to compare with")
