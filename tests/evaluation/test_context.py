"""The context: outputs in order, computed once for each network, and undeclared parts hidden."""

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.context import (
    CHUNK,
    Context,
    Outputs,
    Split,
    entropy,
    gradient_sign,
    log_softmax,
    outputs_of,
)
from tests.evaluation.clouds import Small


class Counted:
    """Images that count how many of them were read."""

    def __init__(self, count: int = 5) -> None:
        self.images = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
        self.read = 0
        self.largest = 0
        self.split = Split(torch.arange(count) % 4, self._read)

    def _read(self, positions: Tensor) -> Tensor:
        self.read += len(positions)
        self.largest = max(self.largest, len(positions))
        return self.images[positions]


def context(splits: dict[str, Split], forget: tuple[int, ...] = (1, 3), **more: object) -> Context:
    parts = {"original": Small(0), "unlearned": Small(1)} | more
    return Context(
        forget=forget, class_names=tuple("abcd"), class_counts=(9,) * 4, splits=splits, **parts
    )


def test_outputs_are_the_networks_own_in_order_and_in_chunks() -> None:
    images, network = Counted(2 * CHUNK + 53), Small(0)
    found = outputs_of(network, images.split)
    torch.testing.assert_close(found.logits, network(images.images))
    torch.testing.assert_close(found.features, network.features(images.images))
    assert torch.equal(found.labels, images.split.labels)
    assert images.largest == CHUNK
    assert found.logits.dtype == found.features.dtype == torch.float32
    assert not found.logits.requires_grad
    network.head.bias[0] = -torch.inf
    assert set(outputs_of(network, images.split).logits[:, 0].tolist()) == {-1e4}
    network.head.bias[0] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        outputs_of(network, images.split)
    with pytest.raises(AssertionError):
        outputs_of(Small(0).train(), images.split)


def test_a_split_is_read_once_for_each_network_and_never_where_a_store_has_it() -> None:
    class Store:
        def __init__(self) -> None:
            self.known: dict[str, Outputs] = {}

        def get(self, network: nn.Module, split: str) -> Outputs | None:
            return self.known.get(split)

        def put(self, network: nn.Module, split: str, outputs: Outputs) -> None:
            self.known[split] = outputs

    images, steps = Counted(), []
    both = context({"test": images.split}, on_progress=steps.append)
    for _ in range(3):
        both.outputs(both.original, "test")
        both.evaluating(both.original).outputs(both.unlearned, "test")
    assert images.read == 2 * 5
    assert steps == ["reading test images"] * 2
    store, images = Store(), Counted()
    first = context({"test": images.split}, store=store)
    again = context({"test": images.split}, store=store)
    assert first.outputs(first.unlearned, "test") is again.outputs(again.unlearned, "test")
    assert images.read == 5


def test_a_part_that_a_metric_did_not_declare_is_hidden_from_it() -> None:
    shown = context({}, oracles=(Small(2),)).restricted_to(frozenset({"oracles"}))
    assert len(shown.oracles) == 1
    with pytest.raises(RuntimeError, match="looks at original"):
        shown.original.parameters()
    with pytest.raises(RuntimeError, match="looks at oracles"):
        len(shown.restricted_to(frozenset()).oracles)


def test_the_gradient_of_images_passes_networks_that_work_in_place() -> None:
    images = torch.tensor([[1.0, -2.0, 3.0], [0.0, -1.0, 2.0]])
    found = gradient_sign(images, lambda x: -nn.functional.relu(x, inplace=True))
    assert found.tolist() == [[-1.0, 0.0, -1.0], [0.0, 0.0, -1.0]]
    assert images[0, 1] == -2.0


def test_log_probabilities_keep_confident_images_apart() -> None:
    from scipy.special import log_softmax as expected
    from scipy.stats import entropy as scipy_entropy

    for scale in (0.0, 1.0, 30.0, 1e4):
        logits = scale * torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
        found = log_softmax(logits)
        torch.testing.assert_close(
            found, torch.from_numpy(expected(logits.double().numpy(), axis=1))
        )
        plain = torch.from_numpy(scipy_entropy(found.exp().numpy(), axis=1))
        torch.testing.assert_close(entropy(found), plain)
    surer = torch.tensor([[40.0, 0.0, 0.0], [41.0, 0.0, 0.0], [200.0, 0.0, 0.0]])
    assert surer.double().log_softmax(dim=1)[:, 0].tolist() == [0.0, 0.0, 0.0]  # the usual form
    first, second, third = log_softmax(surer)[:, 0].tolist()
    assert first < second < third < 0
