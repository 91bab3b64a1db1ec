"""Fine-tuning: the images that are shown, Adam's steps, the area and the score."""

import copy
import math
from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from geniu_lightning.evaluation.attacks.fine_tuning import (
    accuracy_at,
    area,
    few_shot,
    fine_tune,
    forgotten,
    reset_rows,
    retained,
    scored_images,
)
from geniu_lightning.evaluation.context import Context, Split
from tests.evaluation.attacks.taught import TEST, TRAIN, TwoLayers


def marked(labels: list[int]) -> Split:
    """Images that hold their own position, so that those that were read are known."""
    return Split(torch.tensor(labels), lambda positions: positions.float()[:, None])


def about(train: Split, forget: tuple[int, ...]) -> Context:
    network = TwoLayers(0).eval()
    return Context(network, network, forget, tuple("abcde"), (9,) * 5, {"train": train})


def test_a_batch_shows_k_images_of_each_forgotten_class_and_as_many_retained_ones() -> None:
    train = marked([0] * 30 + [1] * 5 + [2] * 300 + [3] * 40)
    given = about(train, (0, 3))
    first = list(islice(few_shot(given, 4)(0), 60))
    shown = {tuple(images.flatten()[:8].tolist()) for images, _ in first}
    assert len(shown) == 1  # the same few in every step
    others: Counter[int] = Counter()
    for images, labels in first:
        positions = images.flatten().long()
        assert len(set(positions[:8].tolist())) == 8
        assert labels.tolist() == train.labels[positions].tolist()
        assert sorted(labels[:8].tolist()) == [0] * 4 + [3] * 4
        assert set(labels[8:].tolist()) <= {1, 2}
        assert len(labels) == 16
        others.update(labels[8:].tolist())
    assert 0.4 < others[1] / others.total() < 0.6  # classes are equally likely, large or small
    again, another = (next(few_shot(given, 4)(draw))[0] for draw in (0, 1))
    assert torch.equal(again, first[0][0])
    assert set(again[:8].flatten().tolist()) != set(another[:8].flatten().tolist())


def test_retained_and_forgotten_batches_and_scored_images_are_of_their_classes() -> None:
    given = about(marked([0] * 7 + [1] * 5 + [4] * 9), (0,))
    seen = [labels for _, labels in islice(retained(given, 6, 0), 30)]
    assert {len(labels) for labels in seen} == {6}
    assert set(torch.cat(seen).tolist()) == {1, 4}
    epoch = [images.flatten().tolist() for images, _ in islice(forgotten(given, 3, 0), 3)]
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


def test_steps_are_those_of_adam_and_are_counted() -> None:
    network, asked = TwoLayers(0).eval(), []
    expected = copy.deepcopy(network)
    parts = [torch.arange(9 * k, 9 * k + 9) for k in range(4)]
    batches = [(TRAIN.read(part), TRAIN.labels[part]) for part in parts]

    def counted():
        for batch in batches:
            asked.append(None)
            yield batch

    seen = [(step, len(asked)) for step in fine_tune(network, counted(), (0, 1, 4), 0.01)]
    assert seen == [(0, 0), (1, 1), (4, 4)]
    assert not network.training
    optimizer = torch.optim.Adam(expected.parameters(), lr=0.01)
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(expected(images), labels).backward()
        optimizer.step()
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


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
