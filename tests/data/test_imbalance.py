from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geniu_lightning.data import imbalance
from geniu_lightning.errors import SettingError, UserError

FEW = settings(max_examples=25, deadline=None)
sizes_of_classes = st.lists(st.integers(1, 40), min_size=2, max_size=6)


def make_labels(sizes: list[int]) -> tuple[Tensor, list[str]]:
    """Labels in a mixed but fixed order."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(7).shuffle(labels)
    return torch.from_numpy(labels), [f"c{k}" for k in range(len(sizes))]


def counts_of(labels: Tensor, kept: Tensor, classes: int) -> list[int]:
    assert kept.dtype == torch.int64
    assert (kept[1:] > kept[:-1]).all()
    return [int((labels[kept] == k).sum()) for k in range(classes)]


def nearest(share: Fraction | float, size: int) -> set[int]:
    """Whole numbers at least 1 that are nearest to share × size: two at a tie of decimals."""
    exact = Fraction(share).limit_denominator(10**9) * size  # 0.66 is meant, not the float's bits
    best = min(abs(exact - n) for n in range(size + 1))
    return {max(1, n) for n in range(size + 1) if abs(exact - n) == best}


@FEW
@given(sizes=sizes_of_classes, percent=st.integers(1, 100), data=st.data())
def test_step_keeps_majorities_whole_and_the_exact_share_of_the_others(
    sizes: list[int], percent: int, data: st.DataObject
) -> None:
    labels, names = make_labels(sizes)
    majority = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    chosen = [names[k] if k % 2 else k for k in sorted(majority)]
    kept = imbalance.step(labels, names, majority=chosen, ratio=percent / 100)
    for k, count in enumerate(counts_of(labels, kept, len(sizes))):
        wanted = {sizes[k]} if k in majority else nearest(percent / 100, sizes[k])
        assert count in wanted


@FEW
@given(sizes=sizes_of_classes, factor=st.floats(1.0, 1000.0), data=st.data())
def test_exponential_counts_equal_a_numpy_transcription_for_any_order(
    sizes: list[int], factor: float, data: st.DataObject
) -> None:
    labels, names = make_labels(sizes)
    order = data.draw(st.permutations(range(len(sizes))))
    kept = imbalance.exponential(labels, names, factor=factor, order=[names[k] for k in order])
    shares = np.geomspace(1.0, 1.0 / factor, num=len(sizes))
    counts = counts_of(labels, kept, len(sizes))
    for rank, k in enumerate(order):
        assert abs(counts[k] - max(1.0, shares[rank] * sizes[k])) <= 0.5 + 1e-9


def test_the_published_counts_and_the_edges_of_each_imbalance() -> None:
    labels, names = make_labels([5000] * 10)
    kept = imbalance.exponential(labels, names, factor=100.0)
    # the usual CIFAR-10-LT counts, rounded instead of cut
    assert counts_of(labels, kept, 10) == [5000, 2997, 1797, 1077, 646, 387, 232, 139, 83, 50]
    labels, names = make_labels([20, 20, 20, 4])

    def counts(keep: Callable[..., Tensor], **options: object) -> list[int]:
        return counts_of(labels, keep(labels, names, **options), 4)

    assert counts(imbalance.none) == [20, 20, 20, 4]
    assert counts(imbalance.step, majority="c1", ratio=0.01) == [1, 20, 1, 1]
    assert counts(imbalance.exponential, factor=1) == [20, 20, 20, 4]
    # a number by its type, a share by its decimal point
    assert counts(imbalance.custom, counts=[1, 1.0, 0.25, 0.001]) == [1, 20, 5, 1]
    alone, name = make_labels([9])
    assert len(imbalance.exponential(alone, name, factor=10.0)) == 9


def test_the_choice_is_a_function_of_the_seed_alone() -> None:
    labels, names = torch.arange(4).repeat_interleave(40), ["a", "b", "c", "d"]
    for keep in (
        lambda seed: imbalance.step(labels, names, majority=[0], ratio=0.3, seed=seed),
        lambda seed: imbalance.exponential(labels, names, factor=8.0, seed=seed),
        lambda seed: imbalance.custom(labels, names, counts=[20, 0.5, 7, 0.1], seed=seed),
    ):
        first, other = keep(0), keep(1)
        torch.manual_seed(5)
        assert torch.equal(keep(0), first)
        assert not torch.equal(other, first)
        assert counts_of(labels, other, 4) == counts_of(labels, first, 4)
        # classes draw from streams of their own: equal ones would pick the same positions
        assert not set((first[labels[first] == 3] - 80).tolist()) <= set(first.tolist())


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


@pytest.mark.parametrize(
    ("keep", "options", "message"),
    [
        ("step", {"majority": [0], "ratio": 0.0}, "ratio must be greater than 0, got 0.0"),
        (
            "step",
            {"majority": ["x"], "ratio": 0.5},
            r"there is no class 'x'; .* 0 \(c0\)",
        ),
        ("exponential", {"factor": 2.0, "order": [0, 0]}, "order must name each of the 2 classes"),
        ("custom", {"counts": [1]}, "counts must have one entry for each of the 2 .*got 1"),
        ("custom", {"counts": [9, 6]}, r"counts\[1\] asks for 6 images of class 'c1', .*has 5"),
        ("custom", {"counts": [9, 0]}, r"counts\[1\] asks for 0 images"),
        ("custom", {"counts": [1, 1.5]}, r"counts\[1\] must lie in \(0, 1\] as a share, got 1.5"),
        ("custom", {"counts": [1, 0.0]}, r"counts\[1\] must lie in \(0, 1\] as a share, got 0.0"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(
    keep: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{message}") as error:
        getattr(imbalance, keep)(*make_labels([9, 5]), **options)
    assert isinstance(error.value, SettingError) or "no class" in message


@FEW
@given(sizes=sizes_of_classes, percent=st.integers(0, 99), seed=st.integers(0, 3))
def test_split_divides_the_training_set_class_by_class(
    sizes: list[int], percent: int, seed: int
) -> None:
    labels, names = make_labels(sizes)
    indices = imbalance.step(labels, names, majority=[0], ratio=0.7)
    train, held = imbalance.split(labels, indices, percent / 100, seed)
    assert sorted(train.tolist() + held.tolist()) == indices.tolist()
    counts_of(labels, train, len(sizes))  # ascending
    whole, part = (counts_of(labels, one, len(sizes)) for one in (indices, held))
    for count, of in zip(part, whole, strict=True):
        assert abs(count - percent / 100 * of) <= 0.5 + 1e-9 or count == of - 1
        assert count < of  # a lone image stays in training
    assert torch.equal(imbalance.split(labels, indices, percent / 100, seed)[1], held)
    if len(held) > 30:
        assert not torch.equal(imbalance.split(labels, indices, percent / 100, seed + 1)[1], held)


def test_an_even_draw_takes_from_every_class_alike_until_one_runs_out() -> None:
    indices = torch.arange(100, 160)
    labels = torch.tensor([2] * 100 + [0] * 40 + [1] * 15 + [4] * 5)

    def drawn(limit: int | None, seed: int = 0) -> Tensor:
        return imbalance.evenly(indices, labels, limit, seed)

    for limit, wanted in ((9, [3, 3, 3]), (25, [10, 10, 5]), (1000, [40, 15, 5])):
        counts = counts_of(labels, drawn(limit), 5)
        assert [counts[k] for k in (0, 1, 4)] == wanted
    assert torch.equal(drawn(None), indices)
    assert len(drawn(10).unique()) == 10
    assert torch.equal(drawn(20), drawn(20))
    assert not torch.equal(drawn(20), drawn(20, seed=1))
