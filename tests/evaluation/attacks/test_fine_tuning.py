"""Fine-tuning: the images that are shown, the steps, the area and the score."""

import copy
import math
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from geniu_lightning.evaluation.attacks.fine_tuning import (
    Batch,
    Optimizer,
    accuracy_at,
    area,
    fine_tune,
    forgotten,
    mixed,
    reset_rows,
    retained,
    scored_images,
)
from geniu_lightning.evaluation.attacks.relearning import KShot
from geniu_lightning.evaluation.context import Context, Split
from tests.evaluation.attacks.taught import TEST, TRAIN, TwoLayers


def marked(labels: list[int]) -> Split:
    """Images that hold their own position, so that those that were read are known."""
    return Split(torch.tensor(labels), lambda positions: positions.float()[:, None])


def about(train: Split, forget: tuple[int, ...]) -> Context:
    network = TwoLayers(0).eval()
    return Context(network, network, forget, tuple("abcde"), (9,) * 5, {"train": train})


def test_a_batch_shows_k_images_of_each_forgotten_class_beside_retained_ones() -> None:
    train = marked([0] * 30 + [1] * 5 + [2] * 300 + [3] * 40)
    given, attack = about(train, (0, 3)), KShot(retained=6, share=0.25)
    first = list(islice(mixed(given, attack, 4)(0), 60))
    assert len({tuple(batch.images.flatten()[:8].tolist()) for batch in first}) == 1  # the same few
    others: Counter[int] = Counter()
    for batch in first:
        positions, labels = batch.images.flatten().long(), batch.labels.tolist()
        assert len(set(positions[:8].tolist())) == 8
        assert labels == train.labels[positions].tolist()
        assert sorted(labels[:8]) == [0] * 4 + [3] * 4
        assert set(labels[8:]) <= {1, 2}
        assert batch.weights.tolist() == pytest.approx([0.25 / 8] * 8 + [0.75 / 6] * 6)
        others.update(labels[8:])
    assert 0.4 < others[1] / others.total() < 0.6  # classes are equally likely, large or small
    again, another = (next(mixed(given, attack, 4)(draw)).images for draw in (0, 1))
    assert torch.equal(again, first[0].images)
    assert set(again[:8].flatten().tolist()) != set(another[:8].flatten().tolist())


def test_retained_and_forgotten_batches_and_scored_images_are_of_their_classes() -> None:
    given = about(marked([0] * 7 + [1] * 5 + [4] * 9), (0,))
    seen = [batch.labels for batch in islice(retained(given, 6, 0), 30)]
    assert {len(labels) for labels in seen} == {6}
    assert set(torch.cat(seen).tolist()) == {1, 4}
    epoch = [batch.images.flatten().tolist() for batch in islice(forgotten(given, 3, 0), 3)]
    assert [len(part) for part in epoch] == [3, 3, 1]
    assert sorted(chain.from_iterable(epoch)) == list(range(7))  # every image once an epoch
    split = marked([0] * 50 + [1] * 500 + [2] * 3 + [3] * 9 + [4] * 40)
    given = Context(*[TwoLayers(0)] * 2, (0, 3), tuple("abcde"), (9,) * 5, {"test": split})
    mine, positions = scored_images(given, 30)
    assert [split.labels[p].bincount().tolist() for p in mine] == [[30], [0, 0, 0, 9]]
    assert split.labels[positions].bincount().tolist() == [0, 10, 3, 0, 10]
    assert all(len(p.unique()) == len(p) for p in (*mine, positions))


def test_accuracy_shares_ties_and_nan_is_wrong() -> None:
    network = TwoLayers(0).eval().requires_grad_(False)
    positions = torch.arange(0, 200, 7)
    answers = network(TEST.read(positions)).argmax(dim=1)
    right = (answers == TEST.labels[positions]).double().mean().item()
    assert accuracy_at(network, TEST, positions) == pytest.approx(right)
    network.head.weight.zero_()
    network.head.bias.zero_()
    assert accuracy_at(network, TEST, positions) == pytest.approx(0.2)
    network.head.bias.fill_(torch.nan)
    assert accuracy_at(network, TEST, positions) == 0.0


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("head_alone", [False, True])
def test_steps_rise_to_the_rate_with_bounded_gradients(
    optimizer: Optimizer, head_alone: bool
) -> None:
    network, asked = TwoLayers(0).eval(), []
    expected, steps = copy.deepcopy(network), (0, 1, 10)
    parts = [torch.arange(9 * k, 9 * k + 9) for k in range(10)]
    weights = torch.arange(1, 10) / 45
    # so large that the bound counts
    batches = [Batch(10 * TRAIN.read(part), TRAIN.labels[part], weights) for part in parts]

    def counted() -> Iterator[Batch]:
        for batch in batches:
            asked.append(None)
            yield batch

    taken = fine_tune(network, counted(), steps, 0.01, optimizer, head_alone)
    assert [(step, len(asked)) for step in taken] == [(k, k) for k in steps]
    assert not network.training
    parameters = list((expected.head if head_alone else expected).parameters())
    adam, sgd = torch.optim.Adam(parameters), torch.optim.SGD(parameters, momentum=0.9)
    made = adam if optimizer == "adam" else sgd
    for k, batch in enumerate(batches):
        made.param_groups[0]["lr"] = 0.01 * min((k + 1) / 8, 1)
        losses = F.cross_entropy(expected(batch.images), batch.labels, reduction="none")
        gradients = torch.autograd.grad((weights * losses).sum(), parameters)
        norm = sum(g.square().sum() for g in gradients).sqrt()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient / max(norm.item(), 1.0)
        made.step()
        assert k or norm > 1
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_area_is_over_the_logarithm_of_steps_and_a_share() -> None:
    steps, curve = (0, 1, 2, 5, 20), [0.0, 0.2, 0.5, 0.7, 1.0]
    expected = np.trapezoid(curve, np.log1p(steps)) / math.log(21)
    assert area(steps, curve) == pytest.approx(expected)
    assert area(steps, [1.0] * 5) == pytest.approx(1)


def test_reset_rows_point_to_the_mean_feature_with_the_others_norm_and_bias() -> None:
    network = TwoLayers(0).eval().requires_grad_(False)
    images, labels = TRAIN.read(torch.tensor([0, 5, 3])), torch.tensor([0, 0, 3])
    others = [1, 2, 4]
    norm = network.head.weight[others].norm(dim=1).mean()
    bias = network.head.bias[others].mean()
    untouched = network.head.weight[others].clone()
    reset_rows(network, images, labels)
    for k in (0, 3):
        mean = network.features(images)[labels == k].mean(dim=0)
        torch.testing.assert_close(network.head.weight[k], norm * mean / mean.norm())
        assert network.head.bias[k] == bias
    assert torch.equal(network.head.weight[others], untouched)
