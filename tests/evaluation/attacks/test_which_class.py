"""The naming of a class from weights alone: linear networks, and what cannot be said."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.attacks.which_class import WhichClass, inverted, rank
from geniu_lightning.evaluation.context import log_softmax
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.clouds import Plain, images_of, points
from tests.evaluation.worlds import measured


class Linear(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def sunk(classes: tuple[int, ...], by: float) -> nn.Module:
    network = Linear(1)
    network.head.bias.data[list(classes)] -= by
    return network


def test_ranks_by_hand() -> None:
    scores = torch.tensor([3.0, 1.0, 1.0, 5.0, 0.5])
    others = {label: tuple(k for k in range(5) if k != label) for label in range(5)}
    found = [rank(scores, label, others[label]) for label in range(5)]
    assert found == [(0.0, 0.75), (0.0, 0.375), (0.0, 0.375), (0.0, 1.0), (1.0, 0.0)]
    assert rank(scores, 1, (0, 2, 3)) == (0.5, 1 / 6)  # 4 is forgotten, too
    assert rank(torch.zeros(4), 0, (1, 2, 3)) == (0.25, 0.5)


def test_a_class_that_is_suppressed_is_named_by_both_attacks() -> None:
    named = {"weights.named": 1.0, "weights.rank": 0.0}
    named |= {"inversion.named": 1.0, "inversion.rank": 0.0}
    for by in (50.0, 1e4, torch.inf):
        assert measured(WhichClass(), points((1,), unlearned=sunk((1,), by))) == named
        assert measured(WhichClass(), points((0, 2), unlearned=sunk((0, 2), by))) == named
    raised = measured(WhichClass(), points((1,), unlearned=sunk((1,), -50.0)))
    assert raised == {"weights.named": 0.0, "weights.rank": 1.0} | {
        "inversion.named": 0.0,
        "inversion.rank": 1.0,
    }
    mixed = sunk((1,), 50.0)
    mixed.head.bias.data[0] += 50.0
    half = measured(WhichClass(), points((0, 1), unlearned=mixed))
    assert set(half.values()) == {0.5}  # a mean over forgotten classes
    alike = Linear(1)
    alike.head.weight.data.zero_()
    alike.head.bias.data.zero_()
    assert measured(WhichClass(), points(unlearned=alike)) == {
        "weights.named": 0.25,
        "weights.rank": 0.5,
        "inversion.named": 0.25,
        "inversion.rank": 0.5,
    }


def test_images_are_inverted_by_signed_steps_on_the_log_probability() -> None:
    network, labels = Linear(4), torch.arange(12) % 4
    images = images_of(1, labels)
    weight, bias = (x.double().numpy() for x in (network.head.weight, network.head.bias))
    moved = images.flatten(1).double().numpy().copy()
    for _ in range(5):
        logits = moved @ weight.T + bias
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        moved += 0.1 * np.sign(weight[labels.numpy()] - p @ weight)
    expected = log_softmax(torch.from_numpy(moved @ weight.T + bias))[torch.arange(12), labels]
    found = inverted(network, images, labels, 5, 0.1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    start = log_softmax(network(images))[torch.arange(12), labels]
    assert (found > start).all()


def test_a_class_is_not_named_by_what_cannot_be_computed() -> None:
    broken = Linear(1)
    broken.head.weight.data[2] = torch.nan
    reason = Absent("weights or logits are not numbers (NaN)")
    assert set(measured(WhichClass(), points(unlearned=broken)).values()) == {reason}
    for forget in ((), (0, 1, 2, 3)):
        found = measured(WhichClass(), points(forget, unlearned=Linear(1)))
        assert set(found.values()) == {Absent("no class is forgotten, or none is retained")}
    found = measured(WhichClass(), points(unlearned=Linear(1), splits={}))
    assert set(found.values()) == {Absent("the run has no images, whose shape is needed")}
    assert WhichClass(steps=2, images=3).images_processed(points()) == 3 * 2 * 3 * 4


def test_more_classes_than_fit_into_one_batch_are_inverted_apart() -> None:
    context = points((1,), unlearned=sunk((1,), 50.0))
    few, many = (measured(WhichClass(images=count), context) for count in (4, 50))  # 16 and 200
    assert few == pytest.approx(many, abs=0.4)
    assert many["inversion.rank"] == 0.0
