from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geniu_lightning.data import imbalance
from geniu_lightning.errors import UserError

FEW = settings(max_examples=25, deadline=None)
sizes_of_classes = st.lists(st.integers(1, 40), min_size=2, max_size=6)


def make_labels(sizes: list[int]) -> tuple[Tensor, list[str]]:
    """Labels in a mixed but fixed order."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(7).shuffle(labels)
    return torch.from_numpy(labels), [f"c{k}" for k in range(len(sizes))]


def counts_of(labels: Tensor, kept: Tensor, classes: int) -> list[int]:
    return [int((labels[kept] == k).sum()) for k in range(classes)]


def nearest(share: Fraction | float, size: int) -> set[int]:
    """Whole numbers at least 1 that are nearest to share × size: two at a tie of decimals."""
    exact = Fraction(share).limit_denominator(10**9) * size  # 0.66 is meant, not the float's bits
    best = min(abs(exact - n) for n in range(size + 1))
    return {max(1, n) for n in range(size + 1) if abs(exact - n) == best}


def assert_ascending(indices: Tensor) -> None:
    assert indices.dtype == torch.int64
    assert (indices[1:] > indices[:-1]).all()


SETTINGS: list[Callable[[Tensor, list[str], int], Tensor]] = [
    lambda labels, names, seed: imbalance.step(labels, names, majority=[0], ratio=0.3, seed=seed),
    lambda labels, names, seed: imbalance.exponential(labels, names, factor=8.0, seed=seed),
    lambda labels, names, seed: imbalance.custom(
        labels, names, counts=[20, 0.5, 7, 0.1], seed=seed
    ),
]


def test_none_keeps_every_image() -> None:
    labels, names = make_labels([3, 5])
    kept = imbalance.none(labels, names)
    assert kept.tolist() == list(range(8))
    assert kept.dtype == torch.int64


@FEW
@given(sizes=sizes_of_classes, percent=st.integers(1, 100), data=st.data())
def test_step_keeps_majorities_whole_and_the_exact_share_of_the_others(
    sizes: list[int], percent: int, data: st.DataObject
) -> None:
    labels, names = make_labels(sizes)
    majority = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    kept = imbalance.step(labels, names, majority=sorted(majority), ratio=percent / 100)
    assert_ascending(kept)
    for k, count in enumerate(counts_of(labels, kept, len(sizes))):
        wanted = {sizes[k]} if k in majority else nearest(percent / 100, sizes[k])
        assert count in wanted


def test_step_takes_names_and_keeps_at_least_one_image_of_a_class() -> None:
    labels, names = make_labels([200, 200, 3])
    kept = imbalance.step(labels, names, majority=["c1"], ratio=0.01)
    assert counts_of(labels, kept, 3) == [2, 200, 1]


def test_exponential_counts_follow_the_long_tail_of_cui_et_al() -> None:
    labels, names = make_labels([5000] * 10)
    kept = imbalance.exponential(labels, names, factor=100.0)
    # the usual CIFAR-10-LT counts, rounded instead of cut
    assert counts_of(labels, kept, 10) == [5000, 2997, 1797, 1077, 646, 387, 232, 139, 83, 50]


@FEW
@given(sizes=sizes_of_classes, factor=st.floats(1.0, 1000.0), data=st.data())
def test_exponential_counts_equal_a_numpy_transcription_for_any_order(
    sizes: list[int], factor: float, data: st.DataObject
) -> None:
    labels, names = make_labels(sizes)
    order = data.draw(st.permutations(range(len(sizes))))
    kept = imbalance.exponential(labels, names, factor=factor, order=[names[k] for k in order])
    assert_ascending(kept)
    shares = np.geomspace(1.0, 1.0 / factor, num=len(sizes))
    counts = counts_of(labels, kept, len(sizes))
    for rank, k in enumerate(order):
        assert abs(counts[k] - max(1.0, shares[rank] * sizes[k])) <= 0.5 + 1e-9


def test_exponential_without_an_order_falls_by_index_and_factor_one_keeps_all() -> None:
    labels, names = make_labels([40] * 4)
    kept = imbalance.exponential(labels, names, factor=8.0)
    assert counts_of(labels, kept, 4) == [40, 20, 10, 5]
    assert imbalance.exponential(labels, names, factor=1.0).tolist() == list(range(160))


def test_exponential_of_one_class_keeps_it_whole() -> None:
    labels, names = make_labels([9])
    assert len(imbalance.exponential(labels, names, factor=10.0)) == 9


def test_custom_tells_counts_from_shares_by_their_type() -> None:
    labels, names = make_labels([20, 20, 20, 20])
    kept = imbalance.custom(labels, names, counts=[1, 1.0, 13, 0.25])
    assert_ascending(kept)
    assert counts_of(labels, kept, 4) == [1, 20, 13, 5]


def test_custom_keeps_at_least_one_image_of_a_tiny_share_and_all_of_a_full_count() -> None:
    labels, names = make_labels([20, 4])
    assert counts_of(labels, imbalance.custom(labels, names, counts=[0.001, 4]), 2) == [1, 4]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_choice_is_a_function_of_the_seed_alone(
    setting: Callable[[Tensor, list[str], int], Tensor],
) -> None:
    labels, names = make_labels([40, 40, 40, 40])
    first = setting(labels, names, 0)
    torch.manual_seed(5)
    torch.rand(3)
    assert torch.equal(setting(labels, names, 0), first)
    other = setting(labels, names, 1)
    assert not torch.equal(other, first)
    assert counts_of(labels, other, 4) == counts_of(labels, first, 4)


def test_classes_draw_from_streams_of_their_own() -> None:
    # equal streams would pick the same positions within each class
    labels = torch.arange(2).repeat_interleave(50)
    kept = imbalance.custom(labels, ["a", "b"], counts=[10, 10])
    assert (kept[:10] + 50).tolist() != kept[10:].tolist()


@FEW
@given(
    sizes=sizes_of_classes,
    shares=st.tuples(st.integers(1, 100), st.integers(1, 100)).map(sorted),
    seed=st.integers(0, 5),
)
def test_a_smaller_share_is_a_subset_of_a_larger_one(
    sizes: list[int], shares: list[int], seed: int
) -> None:
    labels, names = make_labels(sizes)
    for keep in (
        lambda share: imbalance.step(labels, names, majority=[0], ratio=share, seed=seed),
        lambda share: imbalance.custom(labels, names, counts=[share] * len(sizes), seed=seed),
        lambda share: imbalance.exponential(labels, names, factor=1 / share, seed=seed),
    ):
        small, large = (set(keep(share / 100).tolist()) for share in shares)
        assert small <= large


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, float("nan")])
def test_a_ratio_outside_its_range_is_refused(ratio: float) -> None:
    labels, names = make_labels([5, 5])
    with pytest.raises(UserError) as error:
        imbalance.step(labels, names, majority=[0], ratio=ratio)
    assert str(error.value) == f"imbalance.ratio must lie in (0, 1], got {ratio}"


def test_a_majority_that_is_no_class_is_refused() -> None:
    labels, names = make_labels([5, 5])
    with pytest.raises(UserError, match=r"there is no class 'x'; the classes are: 0 c0, 1 c1"):
        imbalance.step(labels, names, majority=["x"], ratio=0.5)


@pytest.mark.parametrize("factor", [0.5, 0.0, -2.0, float("nan")])
def test_a_factor_below_one_is_refused(factor: float) -> None:
    labels, names = make_labels([5, 5])
    with pytest.raises(UserError) as error:
        imbalance.exponential(labels, names, factor=factor)
    assert str(error.value) == f"imbalance.factor must be at least 1, got {factor}"


@pytest.mark.parametrize("order", [[], [0, 1], [0, 1, 1], [0, 1, 2, 2], ["c0", 0, 1]])
def test_an_order_that_is_no_permutation_is_refused(order: list[int | str]) -> None:
    labels, names = make_labels([5, 5, 5])
    with pytest.raises(UserError) as error:
        imbalance.exponential(labels, names, factor=2.0, order=order)
    assert str(error.value) == "imbalance.order must name each of the 3 classes once"


def test_an_order_with_an_unknown_class_is_refused() -> None:
    labels, names = make_labels([5, 5])
    with pytest.raises(UserError, match="there is no class 2"):
        imbalance.exponential(labels, names, factor=2.0, order=[0, 2])


@pytest.mark.parametrize("counts", [[1], [1, 2, 3], []])
def test_a_wrong_number_of_counts_is_refused(counts: list[float]) -> None:
    labels, names = make_labels([5, 5])
    with pytest.raises(UserError) as error:
        imbalance.custom(labels, names, counts=counts)
    assert str(error.value) == (
        f"imbalance.counts must have one entry for each of the 2 classes, got {len(counts)}"
    )


@pytest.mark.parametrize("count", [6, 0, -1])
def test_a_count_that_the_class_cannot_give_is_refused(count: int) -> None:
    labels, names = make_labels([9, 5])
    with pytest.raises(UserError) as error:
        imbalance.custom(labels, names, counts=[9, count])
    assert str(error.value) == (
        f"imbalance.counts[1] asks for {count} images of class 'c1', which has 5"
    )


@pytest.mark.parametrize("count", [0.0, 1.5, 20.0, -0.5])
def test_a_share_outside_its_range_is_refused(count: float) -> None:
    labels, names = make_labels([30, 30])
    with pytest.raises(UserError) as error:
        imbalance.custom(labels, names, counts=[1, count])
    assert str(error.value) == f"imbalance.counts[1] must lie in (0, 1], got {count}"


@FEW
@given(sizes=sizes_of_classes, percent=st.integers(0, 99), seed=st.integers(0, 3))
def test_split_divides_the_training_set_class_by_class(
    sizes: list[int], percent: int, seed: int
) -> None:
    labels, names = make_labels(sizes)
    indices = imbalance.step(labels, names, majority=[0], ratio=0.7)
    train, held = imbalance.split(labels, indices, percent / 100, seed)
    assert_ascending(train)
    assert_ascending(held)
    assert sorted(train.tolist() + held.tolist()) == indices.tolist()
    whole, part = (counts_of(labels, one, len(sizes)) for one in (indices, held))
    for count, of in zip(part, whole, strict=True):
        assert abs(count - percent / 100 * of) <= 0.5 + 1e-9 or count == of - 1
        assert count < of


def test_split_at_zero_holds_nothing_back_and_a_lone_image_stays_in_training() -> None:
    labels, _ = make_labels([10, 1])
    every = torch.arange(11)
    train, held = imbalance.split(labels, every, 0.0)
    assert torch.equal(train, every)
    assert held.numel() == 0
    assert held.dtype == torch.int64
    train, held = imbalance.split(labels, every, 0.99)
    assert counts_of(labels, train, 2) == [1, 1]


def test_split_is_a_function_of_its_seed_and_is_unrelated_to_the_imbalance() -> None:
    labels, names = make_labels([60, 60])
    every = torch.arange(120)
    held = imbalance.split(labels, every, 0.5)[1]
    assert torch.equal(imbalance.split(labels, every, 0.5)[1], held)
    assert not torch.equal(imbalance.split(labels, every, 0.5, seed=1)[1], held)
    kept = imbalance.step(labels, names, majority=[], ratio=0.5, seed=0)
    assert not torch.equal(kept, held)


@pytest.mark.parametrize("share", [-0.01, 1.0, 2.0, float("nan")])
def test_a_validation_share_outside_its_range_is_refused(share: float) -> None:
    labels, _ = make_labels([5, 5])
    with pytest.raises(UserError) as error:
        imbalance.split(labels, torch.arange(10), share)
    assert str(error.value) == f"data.validation must lie in [0, 1), got {share}"


def test_an_even_draw_takes_from_every_class_alike_until_one_runs_out() -> None:
    indices = torch.arange(100, 160)
    labels = torch.tensor([0] * 40 + [1] * 15 + [4] * 5)

    def drawn(limit: int, seed: int = 0) -> Tensor:
        return imbalance.evenly(indices, labels, limit, torch.Generator().manual_seed(seed))

    def counts(limit: int) -> list[int]:
        return torch.bincount(labels[drawn(limit) - 100], minlength=5)[[0, 1, 4]].tolist()

    assert counts(9) == [3, 3, 3]
    assert counts(25) == [10, 10, 5]
    assert counts(1000) == [40, 15, 5]
    assert sum(counts(10)) == 10
    assert torch.equal(drawn(20), drawn(20).sort().values)
    assert torch.equal(drawn(20), drawn(20))
    assert not torch.equal(drawn(20), drawn(20, seed=1))
    assert len(drawn(20).unique()) == 20
