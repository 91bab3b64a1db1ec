"""Class means behind each part: one whose first part knows a class, and the second does not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Split
from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.layers import Layers, pooled, shown
from geniu_lightning.evaluation.metrics.representation import cosines, prototypes
from geniu_lightning.models.allcnn import AllCNN
from tests.evaluation.rigged import context_of, rigged

CLASSES, EACH = 4, 20


class Known(nn.Module):
    """Puts out the class of an image, which is the place of its one bright pixel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class Blind(nn.Module):
    """Cannot tell class 1 from class 2."""

    def forward(self, features: Tensor) -> Tensor:
        seen = features.clone()
        seen[:, 2] += seen[:, 1]
        seen[:, 1] = 0.0
        return seen


class Two(nn.Module):
    """Two parts and a head."""

    def __init__(self, second: nn.Module, skip: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.skip = Known(), second, skip
        self.head = nn.Linear(CLASSES, CLASSES)
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        known = self.first(images)
        return known if self.skip else self.second(known)


def world(unlearned: nn.Module, **more: Any) -> Context:
    labels = torch.arange(CLASSES * EACH) % CLASSES
    images = torch.eye(CLASSES)[labels].reshape(-1, 1, 2, 2)
    test = Split(labels, lambda positions: images[positions])
    shown_: dict[str, Any] = {"splits": {"test": test}} | more
    names = tuple("abcd")
    return Context(unlearned, unlearned, (1,), names, (EACH,) * CLASSES, **shown_)


def measured(context: Context) -> dict[str, Any]:
    metric = Layers()
    return metric(context.showing(metric.needs))


def test_it_says_from_which_part_on_a_class_is_not_told_apart() -> None:
    found = measured(world(Two(Blind())))
    assert found["1.recall"] == 1.0
    assert found["2.recall"] == pytest.approx(0.5)  # the means of two classes are one: a tie
    assert found["1.retain"] == 1.0
    assert found["2.retain"] == pytest.approx(2.5 / 3)


def test_a_network_that_puts_out_the_same_for_all_images_is_at_chance() -> None:
    class Constant(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return torch.ones_like(features)

    found = measured(world(Two(Constant())))
    assert found["2.recall"] == pytest.approx(1 / CLASSES)
    assert found["2.retain"] == pytest.approx(1 / CLASSES)


def test_a_part_that_is_never_run_is_absent_and_the_rest_is_there() -> None:
    found = measured(world(Two(Blind(), skip=True)))
    assert found["1.recall"] == 1.0
    assert found["2.recall"] == Absent("the network does not run this part by itself")


def test_features_that_are_no_numbers_are_absent() -> None:
    class Broken(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features / 0.0

    found = measured(world(Two(Broken())))
    assert found["2.recall"] == Absent("features are not all finite numbers")
    assert found["1.recall"] == 1.0


def test_a_network_without_parts_has_no_value() -> None:
    assert measured(context_of(rigged()["original"])) == {}


def test_without_images_to_fit_on_every_value_is_absent_for_the_reason() -> None:
    context = world(Two(Blind()))
    found = measured(replace(context, splits={}))
    assert found == dict.fromkeys(
        ("1.recall", "1.retain", "2.recall", "2.retain"), Absent("the run has no test images")
    )


def test_the_sums_have_the_means_cosines() -> None:
    """In batches, against all features at once."""
    torch.manual_seed(0)
    network = AllCNN(1, CLASSES, 2).eval().requires_grad_(False)
    labels = torch.arange(300) % CLASSES
    images = torch.randn(300, 1, 16, 16) + labels[:, None, None, None]
    split, rows = Split(labels, lambda positions: images[positions]), torch.arange(300)
    sums = Layers._means(network, split, rows, CLASSES)
    assert len(sums) == 8
    h = images
    for part, block in enumerate(network.blocks):
        h = block(h)
        features = pooled(h)
        torch.testing.assert_close(
            cosines(features, sums[part]),
            cosines(features, prototypes(features, labels)),
            atol=1e-6,
            rtol=0,
        )


def test_a_part_that_is_changed_in_place_afterwards_is_seen_as_it_was() -> None:
    network = Two(nn.ReLU(inplace=True))
    images = torch.tensor([[-1.0, 2.0, -3.0, 4.0]]).reshape(1, 1, 2, 2)
    split = Split(torch.zeros(1, dtype=torch.int64), lambda positions: images.clone()[positions])
    ((behind, _),) = shown(network, split, torch.arange(1))
    assert behind[0].tolist() == [[-1.0, 2.0, -3.0, 4.0]]
    assert behind[1].tolist() == [[0.0, 2.0, 0.0, 4.0]]


def test_no_hook_stays_even_when_it_is_left_in_the_middle() -> None:
    network = Two(Blind())
    context = world(network)
    going = shown(network, context.splits["test"], torch.arange(8))
    next(going)
    going.close()
    assert not network.first._forward_hooks
    assert not network.second._forward_hooks


@pytest.mark.parametrize(
    ("shape", "features"),
    [((3, 5, 8, 8), 80), ((3, 5, 2, 7), 40), ((3, 6, 5), 5), ((3, 5), 5), ((3, 5, 1, 1), 5)],
    ids=["a map", "a small map", "tokens", "features", "a point"],
)
def test_what_a_part_puts_out_becomes_one_row_an_image(
    shape: tuple[int, ...], features: int
) -> None:
    torch.manual_seed(0)
    output = torch.randn(shape)
    assert pooled(output).shape == (3, features)
    if len(shape) == 4 and shape[2] == 8:
        first = output[:, :, :2, :2].mean(dim=(2, 3))  # the first of 16 places
        torch.testing.assert_close(pooled(output)[:, ::16], first)


def test_work_is_the_number_of_images_read() -> None:
    assert Layers().work(world(Two(Blind()))) == CLASSES * EACH
