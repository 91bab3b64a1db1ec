"""Distances of proxies from training and from unseen images: known cases and arithmetic."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import binomtest
from torch import Tensor

from geniu_lightning.evaluation.attacks.copying import (
    Copying,
    copying,
    nearer,
    pixel_distances,
    wilson,
)
from geniu_lightning.evaluation.attacks.probing import NO_PROXIES
from geniu_lightning.evaluation.context import CHUNK, Context, Proxies, Split
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.clouds import Small, clouds, draw, images_of, proxies_of, split_of
from tests.evaluation.clouds import without as without_class
from tests.evaluation.worlds import context_of, measured, proxies_like, rigged

some = settings(max_examples=10, deadline=None)
GROUPS = [".".join(x) for x in itertools.product(("pixel", "feature"), ("forget", "retain"))]


def taken_from(context: Context, split: str, each: int) -> Proxies:
    """The first images of each class of a split."""
    labels = context.splits[split].labels
    places = torch.cat([(labels == k).nonzero().flatten()[:each] for k in range(4)])
    return Proxies(context.splits[split].read(places), labels[places])


def test_copies_of_training_images_are_found() -> None:
    context = clouds(None)
    copies = taken_from(context, "train", 30)
    found = measured(Copying(), replace(context, proxies=copies))
    for group in GROUPS:
        # every other copied image is drawn; without it the sides are even
        assert found[f"{group}.nearer"] == pytest.approx(0.75, abs=0.05)
        assert found[f"{group}.ratio"] == pytest.approx(0.0, abs=1e-9)
        assert found[f"{group}.smallest_ratio"] == pytest.approx(0.0, abs=1e-9)
        assert found[f"{group}.exemplar"] == pytest.approx(1 - 100 / 150)
    equal = clouds(None, train=50, test=50)
    found = measured(Copying(), replace(equal, proxies=taken_from(equal, "train", 30)))
    for group in GROUPS:
        assert found[f"{group}.nearer"] == 1.0
        assert found[f"{group}.nearer_low"] > 0.85
    moved = Proxies(copies.images, (copies.labels + 1) % 4)  # copies of another class's images
    found = measured(Copying(), replace(context, proxies=moved))
    assert found["pixel.forget.ratio"] > 0.5
    unseen = taken_from(equal, "test", 30)
    found = measured(Copying(), replace(equal, proxies=unseen))
    assert (found["pixel.forget.nearer"], found["feature.forget.exemplar"]) == (0.0, -0.5)
    assert found["pixel.forget.ratio"] == Absent("the proxies are themselves unseen images")


def test_one_copy_among_many_shows_in_the_smallest_ratio() -> None:
    context = clouds(None)
    mixed, copy = proxies_of(6, 100), taken_from(context, "train", 1)
    images = torch.cat([mixed.images, copy.images[1:2]])
    labels = torch.cat([mixed.labels, torch.tensor([1])])
    found = measured(Copying(), replace(context, proxies=Proxies(images, labels)))
    assert found["pixel.forget.smallest_ratio"] > 0.1  # of 101 the second smallest
    few = Proxies(images[-61:], labels[-61:])
    found = measured(Copying(), replace(context, proxies=few))
    assert found["pixel.forget.smallest_ratio"] == 0.0
    assert found["pixel.retain.smallest_ratio"] > 0.1
    assert found["pixel.forget.ratio"] > 0.5


def test_images_in_both_splits_are_ties_in_spite_of_rounding() -> None:
    class Uneven(Small):
        """As some kernels do, it rounds by what else is in the batch."""

        def features(self, images: Tensor) -> Tensor:
            return super().features(images) * images[0].abs().sum()

    labels = torch.arange(148) % 4
    images = images_of(0, labels)
    order = torch.randperm(148, generator=torch.Generator().manual_seed(0))
    splits = {
        "train": Split(labels, lambda positions: images[positions]),
        "test": Split(labels[order], lambda positions: images[order[positions]]),
    }
    proxies = Proxies(images[8:40], labels[8:40])
    found = measured(Copying(), clouds(proxies, splits=splits, oracles=(Uneven(),)))
    for group in GROUPS:
        assert found[f"{group}.nearer"] == 0.5
        assert found[f"{group}.ratio"] == 1.0
        assert found[f"{group}.exemplar"] == 0.0
    proxies = proxies_like(torch.arange(10))
    context = context_of(rigged()["mask"], rigged()["uniform"], proxies=proxies)
    assert measured(Copying(), context)["feature.forget.nearer"] == 0.5  # no direction at all


def test_distances_in_features_are_those_of_the_first_oracle() -> None:
    proxies = proxies_of(6, 20)
    found = [
        measured(Copying(), clouds(proxies, oracles=oracles))
        for oracles in ((Small(3),), (Small(3), Small(8)), (Small(8), Small(3)), ())
    ]
    assert found[0] == found[1]
    assert found[1]["feature.forget.ratio"] != found[2]["feature.forget.ratio"]
    assert found[1]["pixel.forget.ratio"] == found[2]["pixel.forget.ratio"]
    missing = Absent("there is no oracle to measure distances with")
    assert all((v == missing) == k.startswith("feature.") for k, v in found[3].items())


def test_a_group_that_cannot_be_measured_is_absent_and_the_other_is_there() -> None:
    found = measured(Copying(), clouds(None))
    assert (len(found), set(found.values())) == (24, {NO_PROXIES})
    context = clouds(proxies_of(0, 3))
    for split in ("train", "test"):
        rest = {name: s for name, s in context.splits.items() if name != split}
        found = measured(Copying(), replace(context, splits=rest))
        assert set(found.values()) == {Absent(f"the run has no {split} images")}
    none = Absent("no such class has proxies, training images and unseen images")
    unseen = split_of(5, torch.tensor([0, 0, 2, 3]))
    for other in (
        replace(context, proxies=without_class(proxies_of(0, 3), 1)),
        replace(context, splits={**context.splits, "test": unseen}),
        replace(context, forget=()),
    ):
        found = measured(Copying(), other)
        assert all((v == none) == (".forget." in name) for name, v in found.items())
    others = without_class(proxies_of(0, 9), 3)  # a forgotten class without proxies is left out
    both, alone = (measured(Copying(), clouds(others, forget=f)) for f in ((1, 3), (1,)))
    assert both["pixel.forget.ratio"] == alone["pixel.forget.ratio"]


@some
@given(
    seed=st.integers(0, 2**16),
    sizes=st.sampled_from([(1, 1), (4, 4), (2, 6), (7, 3), (1, 8), (6, 1)]),
    levels=st.sampled_from([2, 4, 1000]),
)
def test_the_chance_of_being_nearer_is_that_of_all_equal_choices(
    seed: int, sizes: tuple[int, int], levels: int
) -> None:
    stream = np.random.default_rng(seed)
    train, unseen = (stream.integers(0, levels, (3, n)).astype(float) for n in sizes)
    few = min(sizes)
    choices = list(itertools.product(*(itertools.combinations(range(size), few) for size in sizes)))
    expected = np.zeros(3)
    for first, second in choices:
        a, b = train[:, first].min(1), unseen[:, second].min(1)
        expected += ((a < b) + (a == b) / 2) / len(choices)
    found = nearer(torch.from_numpy(train), torch.from_numpy(unseen))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_chance_is_exact_for_many_images() -> None:
    train = torch.full((1, 50_000), 2.0).double()
    train[0, :10] = 1.0
    unseen = torch.full((1, 1000), 1.5).double()
    # none of ten marked images is among 1000 drawn of 50,000
    expected = 1 - math.prod((49_000 - k) / (50_000 - k) for k in range(10))
    assert nearer(train, unseen).item() == pytest.approx(expected, abs=1e-8)
    assert nearer(unseen, train).item() == pytest.approx(1 - expected, abs=1e-8)


def test_a_group_is_averaged_class_by_class() -> None:
    stream = np.random.default_rng(0)
    pairs = [
        tuple(torch.from_numpy(stream.random((p, n)) + 0.1) for n in (5, 7)) for p in (3, 20, 8)
    ]
    found = copying(pairs)
    assert found["nearer"] == pytest.approx(np.mean([nearer(*p).mean().item() for p in pairs]))
    numbers = [(a.min(1).values / b.min(1).values).numpy() for a, b in pairs]
    assert found["ratio"] == pytest.approx(np.mean([np.median(x) for x in numbers]))
    assert found["smallest_ratio"] == pytest.approx(min(x.min() for x in numbers))
    shares = [(x < 1).mean() for x in numbers]
    assert found["exemplar"] == pytest.approx(np.mean(shares) - 5 / 12)
    equal = 9 / (1 / 3 + 1 / 20 + 1 / 8)
    assert (found["nearer_low"], found["nearer_high"]) == wilson(found["nearer"], equal)
    for k, n in ((0, 1), (0, 40), (3, 7), (20, 40), (40, 40)):
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_pixel_distances_are_euclidean_exact_for_copies_and_read_in_parts() -> None:
    for offset in (0.0, 300.0):  # far from zero a product of matrices loses digits
        images = draw(0, 40, 3, 4, 4) + offset
        split = Split(torch.zeros(40), lambda positions, images=images: images[positions])
        found = pixel_distances(images[:30], split, torch.arange(0, 40, 2))
        flat = images.flatten(1).double().numpy()
        np.testing.assert_allclose(found, cdist(flat[:30], flat[::2]), atol=1e-4)
        assert found[[0, 2, 28], [0, 1, 14]].tolist() == [0.0] * 3
    sizes = []

    def read(positions: Tensor) -> Tensor:
        sizes.append(len(positions))
        return positions[:, None].float()

    count = 2 * CHUNK + 7
    found = pixel_distances(torch.zeros(1, 1), Split(torch.zeros(count), read), torch.arange(count))
    assert sizes == [CHUNK, CHUNK, 7]
    assert found.tolist() == [list(range(count))]
