"""Class means behind each part of a network."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.attacks.probing import cosines, prototypes
from geniu_lightning.evaluation.context import Context, Split
from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.layers import Layers, class_sums, features_by_part, pooled
from geniu_lightning.models.allcnn import AllCNN
from tests.evaluation.worlds import context_of, measured, rigged

CLASSES, EACH = 4, 20


class Part(nn.Module):
    """A layer that computes a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Tensor:
        return self.function(features)


def blind() -> Part:
    """Return a layer that cannot tell class 1 from class 2."""
    return Part(lambda x: torch.stack([x[:, 0], 0 * x[:, 1], x[:, 1] + x[:, 2], x[:, 3]], dim=1))


class Two(nn.Module):
    """Two parts, the first of which knows the class by the place of its one bright pixel."""

    def __init__(self, second: nn.Module, skip: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.skip = Part(lambda x: x.flatten(1)), second, skip
        self.head = nn.Linear(CLASSES, CLASSES)
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        known = self.first(images)
        return known if self.skip else self.second(known)


def world(unlearned: nn.Module) -> Context:
    labels = torch.arange(CLASSES * EACH) % CLASSES
    images = torch.eye(CLASSES)[labels].reshape(-1, 1, 2, 2)
    split = Split(labels, lambda positions: images[positions])
    counts, splits = (EACH,) * CLASSES, {"train": split, "test": split}
    return Context(unlearned, unlearned, (1,), tuple("abcd"), counts, splits)


def test_recall_is_that_behind_each_part() -> None:
    found = measured(Layers(), world(Two(blind())))
    # behind the second part the means of two classes are one, a tie
    expected = {"1.recall": 1.0, "1.retain": 1.0, "2.recall": 0.5, "2.retain": 2.5 / 3}
    assert found == pytest.approx(expected)
    found = measured(Layers(), world(Two(Part(torch.ones_like))))
    assert found["2.recall"] == found["2.retain"] == pytest.approx(1 / CLASSES)
    for network, reason in (
        (Two(blind(), skip=True), "the network does not run this part as a module"),
        (Two(Part(lambda x: x / 0.0)), "features are not all finite numbers"),
    ):
        found = measured(Layers(), world(network))
        assert (found["1.recall"], found["2.recall"]) == (1.0, Absent(reason))
    assert measured(Layers(), context_of(rigged()["original"])) == {}  # without parts
    none = measured(Layers(), replace(world(Two(blind())), splits={}))
    assert none == dict.fromkeys(expected, Absent("the run has no test images"))
    assert Layers().images_processed(world(Two(blind()))) == 2 * CLASSES * EACH


def test_the_sums_have_the_means_cosines() -> None:
    """In batches, against all features at once."""
    torch.manual_seed(0)
    network = AllCNN(1, CLASSES, 2).eval().requires_grad_(False)
    labels = torch.arange(300) % CLASSES
    images = torch.randn(300, 1, 16, 16) + labels[:, None, None, None]
    split, rows = Split(labels, lambda positions: images[positions]), torch.arange(300)
    sums = class_sums(network, split, rows, CLASSES)
    assert len(sums) == 8
    h = images
    for part, block in enumerate(network.blocks):
        h = block(h)
        features = pooled(h)
        expected = cosines(features, prototypes(features, labels))
        torch.testing.assert_close(cosines(features, sums[part]), expected, atol=1e-6, rtol=0)


def test_features_are_copied_before_the_next_part_and_hooks_are_removed() -> None:
    network = Two(nn.ReLU(inplace=True))
    images = torch.tensor([[-1.0, 2.0, -3.0, 4.0]]).reshape(1, 1, 2, 2)
    split = Split(torch.zeros(1, dtype=torch.int64), lambda positions: images.clone()[positions])
    ((behind, _),) = features_by_part(network, split, torch.arange(1))
    assert behind[0].tolist() == [[-1.0, 2.0, -3.0, 4.0]]
    assert behind[1].tolist() == [[0.0, 2.0, 0.0, 4.0]]
    network = Two(blind())
    going = features_by_part(network, world(network).splits["test"], torch.arange(8))
    next(going)
    going.close()  # left in the middle
    assert not network.first._forward_hooks
    assert not network.second._forward_hooks


def test_outputs_of_any_shape_become_one_row_an_image() -> None:
    for shape, features in (
        ((3, 5, 8, 8), 80),
        ((3, 5, 2, 7), 40),
        ((3, 6, 5), 5),
        ((3, 5), 5),
        ((3, 5, 1, 1), 5),
    ):
        assert pooled(torch.randn(shape)).shape == (3, features)
    output = torch.randn(3, 5, 8, 8)
    first = output[:, :, :2, :2].mean(dim=(2, 3))  # the first of 16 places
    torch.testing.assert_close(pooled(output)[:, ::16], first)
