"""What proxies give away: copies and draws of the same law, exact chances, and edges."""

import itertools
import json
import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from geniu_lightning.evaluation.attacks.artefacts import (
    Copying,
    Knowledge,
    copying,
    exemplar,
    fit,
    nearer,
    pixel_distances,
    ratios,
    wilson,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import binomtest
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.attacks import artefacts as leakage
from geniu_lightning.evaluation.context import CHUNK, Context, Proxies, Split
from geniu_lightning.evaluation.evaluator import run
from geniu_lightning.evaluation.metric import Absent, Metric
from tests.evaluation.rigged import CLASSES, context_of, rigged

some = settings(max_examples=20, deadline=None)
NONE_KEPT = Absent("the method keeps no proxies")


def measured(metric: Metric, context: Context) -> dict[str, Any]:
    """What the metric says when it sees only what it declared."""
    return metric(context.showing(metric.needs))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    """One hidden layer with all that draws or counts: dropout and batch norm."""

    def __init__(self, seed: int = 0, size: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(size, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head = nn.Linear(16, classes)
        for k, parameter in enumerate(self.parameters()):
            parameter.data = draw(seed + 100 * k, *parameter.shape) / 3
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def images_of(seed: int, labels: Tensor, spread: float = 1.0) -> Tensor:
    """Classes are clouds around centres that do not depend on the seed."""
    images = 2 * draw(99, 4, 8)[labels] + spread * draw(seed, len(labels), 8)
    return images.unflatten(1, (2, 2, 2))


def split_of(seed: int, labels: Tensor) -> Split:
    images = images_of(seed, labels)
    return Split(labels, lambda positions: images[positions])


def world(proxies: Proxies | None, train: int = 100, test: int = 50, **more: Any) -> Context:
    shown: dict[str, Any] = {
        "original": Small(1),
        "unlearned": Small(2),
        "oracles": (Small(3),),
        "forget": (1,),
        "fresh": Small,
        "splits": {
            "train": split_of(4, torch.arange(4 * train) % 4),
            "test": split_of(5, torch.arange(4 * test) % 4),
        },
    }
    names, counts = tuple("abcd"), (train,) * 4
    return Context(class_names=names, class_counts=counts, proxies=proxies, **shown | more)


def proxies_of(seed: int, each: int, spread: float = 1.0) -> Proxies:
    labels = torch.arange(4 * each) % 4
    return Proxies(images_of(seed, labels, spread), labels)


def taken_from(context: Context, split: str, each: int) -> Proxies:
    """The first images of each class of a split."""
    labels = context.splits[split].labels
    places = torch.cat([(labels == k).nonzero().flatten()[:each] for k in range(4)])
    return Proxies(context.splits[split].read(places), labels[places])


# ---- copying: known behaviour ----------------------------------------------------------------


def test_proxies_that_are_training_images_are_copies() -> None:
    context = world(None)
    context = replace(context, proxies=taken_from(context, "train", 30))
    found = measured(Copying(), context)
    for space, group in itertools.product(("pixel", "feature"), ("forget", "retain")):
        where = f"{space}.{group}"
        # every other copied image is drawn; without it the sides are even
        assert found[f"{where}.nearer"] == pytest.approx(0.75, abs=0.05)
        assert found[f"{where}.ratio"] == pytest.approx(0.0, abs=1e-9)
        assert found[f"{where}.smallest_ratio"] == pytest.approx(0.0, abs=1e-9)
        assert found[f"{where}.exemplar"] == pytest.approx(1 - 100 / 150)


def test_with_equally_many_images_a_copy_is_always_nearer() -> None:
    context = world(None, train=50, test=50)
    context = replace(context, proxies=taken_from(context, "train", 30))
    found = measured(Copying(), context)
    for space, group in itertools.product(("pixel", "feature"), ("forget", "retain")):
        assert found[f"{space}.{group}.nearer"] == 1.0
        assert found[f"{space}.{group}.nearer_low"] > 0.85
        assert found[f"{space}.{group}.nearer_high"] == pytest.approx(1.0)


def test_proxies_that_are_unseen_images_are_nearer_to_these() -> None:
    context = world(None, train=50, test=50)
    context = replace(context, proxies=taken_from(context, "test", 30))
    found = measured(Copying(), context)
    for space in ("pixel", "feature"):
        assert found[f"{space}.forget.nearer"] == 0.0
        assert found[f"{space}.forget.exemplar"] == -0.5
    reason = Absent("the proxies are themselves unseen images")
    assert found["pixel.forget.ratio"] == found["pixel.forget.smallest_ratio"] == reason


@pytest.mark.parametrize(("train", "test"), [(60, 60), (100, 30), (20, 100)])
def test_proxies_drawn_from_the_same_law_are_no_copies(train: int, test: int) -> None:
    found = measured(Copying(), world(proxies_of(6, 300), train, test))
    for space, group in itertools.product(("pixel", "feature"), ("forget", "retain")):
        where = f"{space}.{group}"
        assert found[f"{where}.nearer"] == pytest.approx(0.5, abs=0.1)
        assert (
            found[f"{where}.nearer_low"] < found[f"{where}.nearer"] < found[f"{where}.nearer_high"]
        )
        assert found[f"{where}.exemplar"] == pytest.approx(0.0, abs=0.1)


def test_one_copy_among_many_shows_in_the_smallest_ratio() -> None:
    context = world(None)
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


def test_images_that_are_both_seen_and_unseen_are_ties_in_every_space() -> None:
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
    found = measured(Copying(), world(proxies, splits=splits, oracles=(Uneven(),)))
    for space, group in itertools.product(("pixel", "feature"), ("forget", "retain")):
        assert found[f"{space}.{group}.nearer"] == 0.5
        assert found[f"{space}.{group}.ratio"] == 1.0
        assert found[f"{space}.{group}.exemplar"] == 0.0


def test_a_class_is_compared_with_its_own_images_alone() -> None:
    """A proxy that copies an image of another class is no copy of its own class's images."""
    context = world(None, train=50, test=50)
    copies = taken_from(context, "train", 20)
    moved = Proxies(copies.images, (copies.labels + 1) % 4)
    found = measured(Copying(), replace(context, proxies=moved))
    assert found["pixel.forget.ratio"] > 0.5
    assert found["pixel.forget.nearer"] < 0.9


def test_distances_in_features_are_those_of_the_first_oracle() -> None:
    proxies = proxies_of(6, 20)
    found = [
        measured(Copying(), world(proxies, oracles=oracles))
        for oracles in ((Small(3),), (Small(3), Small(8)), (Small(8), Small(3)), ())
    ]
    assert found[0] == found[1]
    assert found[1]["feature.forget.ratio"] != found[2]["feature.forget.ratio"]
    assert found[1]["pixel.forget.ratio"] == found[2]["pixel.forget.ratio"]
    missing = Absent("there is no oracle to measure distances with")
    assert all((v == missing) == k.startswith("feature.") for k, v in found[3].items())


# ---- copying: arithmetic ---------------------------------------------------------------------


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
    expected = np.zeros(3)
    choices = list(
        itertools.product(
            itertools.combinations(range(sizes[0]), few),
            itertools.combinations(range(sizes[1]), few),
        )
    )
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


@some
@given(k=st.integers(0, 40), n=st.integers(1, 40))
def test_the_interval_is_wilsons(k: int, n: int) -> None:
    k = min(k, n)
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


@some
@given(seed=st.integers(0, 2**16))
def test_a_group_is_averaged_class_by_class(seed: int) -> None:
    stream = np.random.default_rng(seed)
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


def test_classes_of_one_size_have_the_interval_of_all_their_proxies() -> None:
    pair = (torch.tensor([[1.0]] * 10), torch.tensor([[2.0]] * 10))
    turned = (pair[1], pair[0])
    found = copying([pair, turned])
    assert found["nearer"] == 0.5
    assert (found["nearer_low"], found["nearer_high"]) == pytest.approx(wilson(0.5, 20))


def test_equal_distances_count_half_and_two_zeros_have_the_ratio_of_equals() -> None:
    zeros, ones = torch.zeros(2, 3).double(), torch.ones(2, 3).double()
    assert nearer(zeros, zeros).tolist() == [0.5, 0.5]
    assert ratios(zeros, zeros).tolist() == [1.0, 1.0]
    assert ratios(zeros, ones).tolist() == [0.0, 0.0]
    assert ratios(ones, zeros).tolist() == [math.inf, math.inf]
    assert exemplar(zeros, zeros) == 0.0
    assert exemplar(zeros, ones) == 0.5
    assert exemplar(ones, torch.zeros(2, 1)) == -0.75


@some
@given(seed=st.integers(0, 2**16), offset=st.sampled_from([0.0, 300.0]))
def test_pixel_distances_are_euclidean_and_exact_for_copies(seed: int, offset: float) -> None:
    images = draw(seed, 40, 3, 4, 4) + offset  # far from zero a product of matrices loses digits
    split = Split(torch.zeros(40), lambda positions: images[positions])
    positions = torch.arange(0, 40, 2)
    found = pixel_distances(images[:30], split, positions)
    flat = images.flatten(1).double().numpy()
    np.testing.assert_allclose(found, cdist(flat[:30], flat[::2]), atol=1e-4)
    assert found[[0, 2, 28], [0, 1, 14]].tolist() == [0.0] * 3


def test_images_are_read_in_parts() -> None:
    sizes = []

    def read(positions: Tensor) -> Tensor:
        sizes.append(len(positions))
        return positions[:, None].float()

    count = 2 * CHUNK + 7
    found = pixel_distances(torch.zeros(1, 1), Split(torch.zeros(count), read), torch.arange(count))
    assert sizes == [CHUNK, CHUNK, 7]
    assert found.tolist() == [list(range(count))]


def test_zero_features_are_as_far_as_what_has_nothing_in_common() -> None:
    context = context_of(
        rigged()["mask"],
        rigged()["uniform"],
        proxies=Proxies(torch.zeros(10, 1, 1, 2), torch.arange(10)),
    )
    found = measured(Copying(), context)
    assert found["feature.forget.nearer"] == 0.5
    assert found["feature.forget.ratio"] == 1.0


# ---- knowledge -------------------------------------------------------------------------------


def test_good_proxies_teach_a_class_and_noise_does_not() -> None:
    found = measured(Knowledge(), world(proxies_of(6, 30, 0.5)))
    assert found["forget"] > 0.9
    assert found["net"] > 0.9
    assert found["retain"] > 0.9
    noise = Proxies(draw(0, 120, 2, 2, 2), torch.arange(120) % 4)
    found = measured(Knowledge(), world(noise))
    assert found["forget"] < 0.75
    assert found["retain"] < 0.75


def test_a_network_that_answers_the_class_to_everything_knows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def same_answer(network: nn.Module, *_: object) -> None:
        network.eval().head.bias.data[1] = 1e3

    monkeypatch.setattr(leakage, "fit", same_answer)
    found = measured(Knowledge(), world(proxies_of(6, 30, 0.5)))
    assert found["forget"] == 1.0
    assert found["net"] == 0.0


def test_without_proxies_of_the_class_there_is_nothing_to_learn_it_from() -> None:
    good = proxies_of(6, 30, 0.5)
    left = good.labels != 1
    found = measured(Knowledge(), world(Proxies(good.images[left], good.labels[left])))
    none = Absent("no proxies of forgotten classes are kept")
    assert found == dict.fromkeys(("forget", "net", "retain", "drawn"), none)


def test_training_draws_classes_equally_often_however_many_proxies_they_have() -> None:
    seen: list[int] = []

    class Listening(Small):
        def forward(self, images: Tensor) -> Tensor:
            assert self.training
            seen.extend(images[:, 0, 0, 0].long().tolist())
            return super().forward(images)

    labels = torch.tensor([0] * 95 + [3] * 5)
    images = labels[:, None, None, None].float().expand(-1, 2, 2, 2)
    network = Listening()
    fit(network, Proxies(images, labels), 50, 1e-3, 40, torch.Generator().manual_seed(0))
    assert len(seen) == 2000
    assert seen.count(3) == pytest.approx(1000, abs=100)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "drawn"), [("original", 1.0), ("mask", 0.0), ("uniform", 0.1), ("collapsed", 0.0)]
)
def test_what_is_still_drawn_is_what_the_original_calls_by_its_class(
    name: str, drawn: float
) -> None:
    images = torch.zeros(2 * CLASSES, 1, 1, 2)
    images[:, 0, 0, 0] = torch.arange(CLASSES).repeat(2)
    proxies = Proxies(images, torch.arange(CLASSES).repeat(2))
    context = context_of(rigged()["oracle"], original=rigged()[name], proxies=proxies)
    found = measured(Knowledge(), context)
    assert found["drawn"] == pytest.approx(drawn)
    assert found["forget"] == Absent("there is no way to make an untrained network")


def test_what_is_drawn_is_averaged_over_the_classes_that_have_proxies() -> None:
    labels = torch.tensor([0] * 9 + [2] + [5] * 3)
    shown = torch.tensor([0] * 9 + [1] + [5] * 3)
    images = torch.zeros(13, 1, 1, 2)
    images[:, 0, 0, 0] = shown
    context = context_of(rigged()["mask"], proxies=Proxies(images, labels))
    for forget, expected in (((0, 2), 0.5), ((2, 5, 7), 0.5), ((0,), 1.0), ((2,), 0.0)):
        assert measured(Knowledge(), replace(context, forget=forget))["drawn"] == expected


def test_the_new_network_follows_from_the_evaluation_seed() -> None:
    seeds: list[int] = []

    def fresh(seed: int) -> nn.Module:
        seeds.append(seed)
        return Small()

    for seed in (0, 0, 1):
        measured(Knowledge(steps=1), world(proxies_of(6, 2), fresh=fresh, seed=seed))
    assert seeds[0] == seeds[1] != seeds[2]


def test_training_that_diverges_is_absent_and_no_number() -> None:
    found = measured(Knowledge(rate=1e30), world(proxies_of(6, 10)))
    assert found["forget"] == found["retain"] == Absent("training on the proxies diverged")


def test_proxies_of_one_class_teach_nothing() -> None:
    one = Proxies(images_of(0, torch.ones(5, dtype=torch.int64)), torch.ones(5, dtype=torch.int64))
    found = measured(Knowledge(), world(one))
    assert found["forget"] == Absent("proxies of at least two classes are needed")
    assert isinstance(found["drawn"], float)


def test_the_work_is_that_of_the_training() -> None:
    metric = Knowledge(steps=7, batch=3)
    assert metric.work(world(proxies_of(0, 1))) == 63
    assert metric.work(world(None)) == metric.work(world(proxies_of(0, 1), fresh=None)) == 0
    assert Copying().work(world(proxies_of(0, 1))) == 0


# ---- edges and rules -------------------------------------------------------------------------


def test_without_proxies_everything_is_absent() -> None:
    for metric, count in ((Copying(), 24), (Knowledge(), 4)):
        found = measured(metric, world(None))
        assert len(found) == count
        assert set(found.values()) == {NONE_KEPT}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_that_the_run_lacks_is_absent(split: str) -> None:
    context = world(proxies_of(0, 3))
    without = {name: s for name, s in context.splits.items() if name != split}
    found = measured(Copying(), replace(context, splits=without))
    assert set(found.values()) == {Absent(f"the run has no {split} images")}
    if split == "test":
        values = measured(Knowledge(), replace(context, splits=without))
        assert values["forget"] == Absent("the run has no test images")


def test_a_group_without_proxies_or_images_is_absent_and_the_other_is_there() -> None:
    none = Absent("no such class has proxies, training images and unseen images")
    kept = proxies_of(0, 3)
    others = Proxies(kept.images[kept.labels != 1], kept.labels[kept.labels != 1])
    unseen = split_of(5, torch.tensor([0, 0, 2, 3]))
    for context in (
        world(others),
        world(kept, splits={**world(None).splits, "test": unseen}),
        world(kept, forget=()),
    ):
        found = measured(Copying(), context)
        assert all((v == none) == (".forget." in name) for name, v in found.items())


def test_forgotten_classes_without_proxies_take_no_part() -> None:
    kept = proxies_of(0, 9)
    others = Proxies(kept.images[kept.labels != 3], kept.labels[kept.labels != 3])
    found = measured(Copying(), world(others, forget=(1, 3)))
    alone = measured(Copying(), world(others, forget=(1,)))
    assert found["pixel.forget.ratio"] == alone["pixel.forget.ratio"]


def test_proxies_have_the_same_values_whichever_model_is_judged() -> None:
    context = world(proxies_of(6, 10), oracles=(Small(3), Small(7)))
    for metric in (Copying(), Knowledge(steps=5)):
        first = measured(metric, context)
        assert measured(metric, context.judging(context.original)) == first


def test_nothing_is_changed_drawn_globally_or_different_the_second_time() -> None:
    def fresh(seed: int) -> nn.Module:
        torch.rand(3)  # some networks draw their weights from the global state
        network = Small(seed % 1000)
        network.head.weight.data = torch.randn(4, 16)
        return network

    metrics = {"copying": Copying(), "knowledge": Knowledge(steps=20)}
    contexts = [world(proxies_of(6, 10), fresh=fresh) for _ in range(2)]
    kept = contexts[0].proxies.images.clone()
    state = torch.get_rng_state()
    first = run(contexts[0], metrics).unlearned
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    with torch.no_grad():
        assert run(contexts[1], metrics).unlearned == first
    torch.set_rng_state(state)
    assert torch.equal(contexts[0].proxies.images, kept)
    assert statistics.fmean(v for v in first.values() if isinstance(v, float))
    assert all(json.dumps(vars(metric)) for metric in metrics.values())
    other = run(replace(contexts[0], seed=1), metrics).unlearned
    assert other["knowledge.retain"] != first["knowledge.retain"]


def test_each_value_says_how_it_is_read() -> None:
    readings = run(world(proxies_of(6, 4)), {"c": Copying(), "k": Knowledge(steps=1)}).readings
    assert readings["c.pixel.forget.nearer"].ideal == 0.5
    assert readings["c.feature.retain.smallest_ratio"].direction == "higher"
    assert readings["k.forget"].direction == "lower"
    assert readings["k.retain"].direction == "higher"
    assert len(readings) == 28


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rate": 0.0}, {"batch": 0}, {"rate": -1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Knowledge(**wrong)
