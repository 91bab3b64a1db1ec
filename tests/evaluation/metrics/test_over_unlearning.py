"""Divergence on the original's decision boundary: linear networks, whose distances are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Split
from geniu_lightning.evaluation.evaluator import masked
from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.over_unlearning import (
    OverUnlearning,
    boundary_images,
    margin,
)
from tests.evaluation.clouds import Plain, images_of, points
from tests.evaluation.worlds import measured


class Linear(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def test_images_are_moved_onto_the_boundary_where_it_is_near_enough() -> None:
    network, labels = Linear(3, 2), torch.arange(60) % 2
    images = images_of(1, labels) - images_of(1, labels).mean(dim=0)  # on both sides of it
    weight, bias = (x.numpy() for x in (network.head.weight, network.head.bias))
    apart = (images.flatten(1).numpy() @ weight.T + bias) @ [1, -1]
    slope = np.abs(weight[0] - weight[1]).sum()
    away = np.abs(apart) / slope  # in the max norm
    assert (apart * np.where(labels == 0, 1, -1) < 0).any()  # some are answered wrongly
    for k in range(2):
        mine = labels == k
        limit = float(np.median(away[mine]))
        theirs = images[mine], labels[mine], (1 - k,)
        moved, reached = boundary_images(network, *theirs, limit * (1 + 1e-4), 10)
        assert reached.tolist() == (away[mine] <= limit * (1 + 1e-4)).tolist()
        assert 10 < reached.sum() < 20
        assert (moved - images[mine][reached]).abs().max() <= limit * (1 + 1e-3)
        left = margin(network, moved, labels[mine][reached], (1 - k,)).abs()
        assert left.max() <= limit * slope / 1000


def world(unlearned: nn.Module, forget: tuple[int, ...] = (0,), **more: object) -> Context:
    labels = torch.arange(40) % 4
    images = images_of(2, labels)
    test = Split(labels, lambda positions: images[positions])
    parts = {"original": Linear(5), "splits": {"test": test}} | more
    return points(forget, unlearned=unlearned, **parts)


def test_the_divergence_is_that_of_retained_probabilities_on_the_boundary() -> None:
    metric, other = OverUnlearning(epsilon=2.0), Linear(8)
    for model in (Linear(5), masked(Linear(5), (0,))):  # its bias of the class is masked away
        found = measured(metric, world(model))
        assert found == {"test.divergence": pytest.approx(0.0, abs=1e-6), "test.reached": 1.0}
    context = world(other)
    labels = torch.zeros(10, dtype=torch.int64)
    rows = context.splits["test"].positions_of((0,))
    images = context.splits["test"].read(rows)
    moved, _ = boundary_images(context.original, images, labels, (1, 2, 3), 2.0, 10)
    p, q = (torch.softmax(net(moved)[:, 1:].double(), 1).numpy() for net in (Linear(5), other))
    expected = (p * np.log(p / q)).sum(1).mean()
    found = measured(metric, context)["test.divergence"]
    assert expected > 0.1
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_images_are_moved_once_for_all_models() -> None:
    read = []
    context = world(Linear(8))
    test = context.splits["test"]
    counted = Split(
        test.labels, lambda positions: read.append(len(positions)) or test.read(positions)
    )
    context = replace(context, splits={"test": counted})
    first = measured(OverUnlearning(), context)
    assert measured(OverUnlearning(), context.evaluating(Linear(9))) != first
    assert measured(OverUnlearning(), context) == first
    assert read == [10]
    assert OverUnlearning().images_processed(context) == 10
    measured(OverUnlearning(images=4), context)
    assert read == [10, 4]


def test_a_value_that_cannot_be_computed_is_absent_with_its_reason() -> None:
    for context, reason in (
        (world(Linear(8), splits={}), "the run has no test images"),
        (world(Linear(8), (0, 1, 2)), "fewer than two classes are retained"),
    ):
        assert set(measured(OverUnlearning(), context).values()) == {Absent(reason)}
    far = measured(OverUnlearning(epsilon=1e-6), world(Linear(8)))
    reason = "no image reaches the original's decision boundary within epsilon"
    assert far == {"test.divergence": Absent(reason), "test.reached": 0.0}
