"""The context: logits in order, read once for each network, and nothing of the network changed."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, outputs_of


class Images(NamedTuple):
    images: Tensor
    labels: Tensor


class Counted:
    """A split that counts how often it is opened."""

    def __init__(self, sizes: tuple[int, ...] = (3, 2)) -> None:
        draws = torch.Generator().manual_seed(0)
        self.batches = [
            Images(torch.randn(n, 6, generator=draws), torch.arange(n) % 4) for n in sizes
        ]
        self.opened = 0

    def __call__(self) -> Iterable[Images]:
        self.opened += 1
        return iter(self.batches)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()


def context(
    splits: dict[str, Callable[[], Iterable[Images]]],
    original: nn.Module | None = None,
    unlearned: nn.Module | None = None,
    forget: tuple[int, ...] = (1, 3),
    **more: Callable[[str], None],
) -> Context:
    return Context(
        original=original or network(0),
        unlearned=unlearned or network(1),
        forget=forget,
        class_names=tuple("abcd"),
        class_counts=(9, 9, 9, 9),
        splits=splits,
        **more,
    )


def test_outputs_are_the_networks_logits_in_the_order_of_the_split() -> None:
    split, original = Counted(), network(0)
    found = context({"test": split}, original).outputs("original", "test")
    with torch.no_grad():
        expected = [original(batch.images) for batch in split.batches]
    assert torch.equal(found.logits, torch.cat(expected))
    assert torch.equal(found.labels, torch.cat([batch.labels for batch in split.batches]))
    assert found.logits.dtype == torch.float32
    assert found.logits.device.type == "cpu"
    assert not found.logits.requires_grad


def test_original_and_unlearned_are_told_apart() -> None:
    both = context({"test": Counted()})
    first, second = (both.outputs(model, "test").logits for model in ("original", "unlearned"))
    assert not torch.equal(first, second)
    assert torch.equal(second, outputs_of(network(1), Counted().batches).logits)


def test_a_split_is_read_once_for_each_network_however_often_it_is_asked_for() -> None:
    test, train, told = Counted(), Counted((4,)), []
    both = context({"test": test, "train": train}, on_progress=told.append)
    for _ in range(3):
        for model in ("original", "unlearned"):
            assert both.outputs(model, "test") is both.outputs(model, "test")
    assert test.opened == 2
    assert train.opened == 0  # what is not asked for is not read
    assert len(both.outputs("original", "train").labels) == 4
    assert told == ["original on test", "unlearned on test", "original on train"]


def test_one_network_in_both_places_is_asked_once() -> None:
    split, same = Counted(), network(0)
    both = context({"test": split}, same, same)
    assert both.outputs("original", "test") is both.outputs("unlearned", "test")
    assert split.opened == 1


def test_two_contexts_share_nothing() -> None:
    split, same = Counted(), network(0)
    for _ in range(2):
        context({"test": split}, same, same).outputs("original", "test")
    assert split.opened == 2


@pytest.mark.parametrize(
    ("forget", "retained"), [((1, 3), (0, 2)), ((0,), (1, 2, 3)), ((), (0, 1, 2, 3))]
)
def test_retained_classes_are_all_but_every_forgotten_one(
    forget: tuple[int, ...], retained: tuple[int, ...]
) -> None:
    assert context({}, forget=forget).retained == retained


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(AssertionError):
        outputs_of(network(0).train(), Counted().batches)


def test_the_numbers_do_not_depend_on_how_images_are_batched() -> None:
    images = torch.cat([batch.images for batch in Counted().batches])
    labels = torch.cat([batch.labels for batch in Counted().batches])
    whole = outputs_of(network(0), [Images(images, labels)])
    torch.testing.assert_close(whole.logits, outputs_of(network(0), Counted().batches).logits)


def test_half_precision_networks_are_read_in_32_bits() -> None:
    class Half(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.bfloat16()

    found = outputs_of(Half().eval(), Counted().batches)
    assert found.logits.dtype == torch.float32
