"""The context: outputs in order, read once for each network, and parts hidden unless declared."""

import copy

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.context import CHUNK, Context, Outputs, Split, outputs_of


class Small(nn.Module):
    """Six numbers to four features to four logits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
            self.head = nn.Linear(4, 4)
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Counted:
    """Images that count how many of them were read."""

    def __init__(self, count: int = 5) -> None:
        self.images = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
        self.read = 0
        self.split = Split(torch.arange(count) % 4, self._read)

    def _read(self, positions: Tensor) -> Tensor:
        self.read += len(positions)
        return self.images[positions]


def context(splits: dict[str, Split], forget: tuple[int, ...] = (1, 3), **more: object) -> Context:
    parts = {"original": Small(0), "unlearned": Small(1)} | more
    return Context(
        forget=forget, class_names=tuple("abcd"), class_counts=(9,) * 4, splits=splits, **parts
    )


def test_outputs_are_the_networks_own_in_the_order_of_the_split() -> None:
    images, network = Counted(), Small(0)
    found = context({"test": images.split}).outputs(network, "test")
    assert torch.equal(found.logits, network(images.images))
    assert torch.equal(found.features, network.features(images.images))
    assert torch.equal(found.labels, images.split.labels)
    assert found.logits.dtype == found.features.dtype == torch.float32
    assert not found.logits.requires_grad


def test_a_split_is_read_once_for_each_network() -> None:
    images, told = Counted(), []
    both = context({"test": images.split}, on_progress=told.append)
    for _ in range(3):
        both.outputs(both.original, "test")
        both.judging(both.original).outputs(both.unlearned, "test")
    assert images.read == 2 * 5
    assert told == ["reading test images"] * 2


def test_many_images_are_read_in_chunks_that_change_no_number() -> None:
    images = Counted(2 * CHUNK + 53)
    assert [len(chunk) for chunk in images.split.chunks()] == [CHUNK, CHUNK, 53]
    found = outputs_of(Small(0), images.split)
    torch.testing.assert_close(found.logits, Small(0)(images.images))


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(AssertionError):
        outputs_of(Small(0).train(), Counted().split)


def test_infinite_logits_become_large_ones_and_numbers_that_are_none_are_refused() -> None:
    network = Small(0)
    network.head.bias[0] = -torch.inf
    assert outputs_of(network, Counted().split).logits[:, 0].tolist() == [-1e4] * 5
    network.head.bias[0] = torch.nan
    with pytest.raises(UserError, match="no numbers"):
        outputs_of(network, Counted().split)


@pytest.mark.parametrize(
    ("forget", "retained"), [((1, 3), (0, 2)), ((0,), (1, 2, 3)), ((), (0, 1, 2, 3))]
)
def test_retained_classes_are_all_but_every_forgotten_one(
    forget: tuple[int, ...], retained: tuple[int, ...]
) -> None:
    assert context({}, forget).retained == retained


def test_outputs_of_some_classes_keep_their_order() -> None:
    labels = torch.tensor([3, 0, 1, 3])
    some = Outputs(torch.arange(4.0)[:, None], torch.arange(4.0)[:, None], labels).of((3, 1))
    assert some.logits.flatten().tolist() == [0, 2, 3]
    assert some.labels.tolist() == [3, 1, 3]


def test_an_oracle_that_is_judged_is_not_its_own_yardstick() -> None:
    oracles = (Small(2), Small(3), Small(4))
    about = context({}, oracles=oracles).judging(oracles[1])
    assert about.unlearned is oracles[1]
    assert about.oracles == (oracles[0], oracles[2])
    assert context({}, oracles=oracles).judging(Small(5)).oracles == oracles


def test_what_a_metric_did_not_declare_is_hidden_from_it() -> None:
    shown = context({}, oracles=(Small(2),)).showing(frozenset({"oracles"}))
    assert len(shown.oracles) == 1
    with pytest.raises(RuntimeError, match="looks at original"):
        shown.original.parameters()
    with pytest.raises(RuntimeError, match="looks at oracles"):
        len(shown.showing(frozenset()).oracles)


def test_a_copy_may_be_trained_and_the_model_stays_as_it_is() -> None:
    about = context({})
    before = copy.deepcopy(about.unlearned.state_dict())
    network = about.copy_of(about.unlearned)
    assert all(p.requires_grad for p in network.parameters())
    assert not network.training
    with torch.no_grad():
        network.head.bias += 1
    assert all(torch.equal(v, before[k]) for k, v in about.unlearned.state_dict().items())


def test_a_store_is_asked_before_images_are_read_and_told_afterwards() -> None:
    class Store:
        def __init__(self) -> None:
            self.kept: dict[str, Outputs] = {}

        def get(self, network: nn.Module, split: str) -> Outputs | None:
            return self.kept.get(split)

        def put(self, network: nn.Module, split: str, outputs: Outputs) -> None:
            self.kept[split] = outputs

    store, images = Store(), Counted()
    first = context({"test": images.split}, store=store)
    found = first.outputs(first.unlearned, "test")
    again = context({"test": images.split}, store=store)
    assert again.outputs(again.unlearned, "test") is found
    assert images.read == 5
