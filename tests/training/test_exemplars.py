"""Exemplars: each strategy against a search image by image, for both kinds of source."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from torch import Tensor

from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.training.exemplars import (
    ExemplarSelector,
    ExemplarStrategy,
    IndexedExemplars,
    entropy,
)
from geniu_lightning.training.streamed_exemplars import StreamedExemplars

SCORED: tuple[ExemplarStrategy, ...] = ("max_entropy", "min_entropy", "nearest_mean")
STRATEGIES: tuple[ExemplarStrategy, ...] = (*SCORED, "random")
KINDS = (IndexedExemplars, StreamedExemplars)


def images_of(count: int) -> Tensor:
    """Images that show their number."""
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 1, 2, 2) / count


def selector(
    kind: type[ExemplarSelector], labels: Tensor, per_class: int, strategy: str = "max_entropy",
    seed: int = 1, candidates: Tensor | None = None,
) -> Any:  # fmt: skip
    more: dict[str, Any] = {
        "num_classes": int(labels.max()) + 1, "per_class": per_class, "strategy": strategy,
        "seed": seed,
    }  # fmt: skip
    if kind is StreamedExemplars:
        return StreamedExemplars(**more)
    if candidates is None:
        candidates = torch.arange(len(labels))
    return IndexedExemplars(labels, candidates, images_of(len(labels)).__getitem__, **more)


def show(
    exemplars: Any, labels: Tensor, logits: Tensor, features: Tensor, order: Tensor, batch: int = 5
) -> None:
    for step, rows in enumerate(order.split(batch)):
        answers = labels[rows], logits[rows], features[rows]
        if isinstance(exemplars, StreamedExemplars):
            exemplars.observe(images_of(len(labels))[rows], *answers, step)
        else:
            exemplars.observe(rows, *answers)


def chosen(exemplars: Any, count: int) -> list[list[int]]:
    """Select, and return the numbers of the chosen images, read from their pixels."""
    exemplars.select()
    numbers = (exemplars.images[:, 0, 0, 0] * count).round().long()
    return numbers.view(exemplars.num_classes, -1).tolist()


def an_epoch(seed: int, images: int, classes: int, width: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, generator=rng)
    return logits, torch.randn(images, width, generator=rng)


def brute_force(
    strategy: str, labels: Tensor, order: list[int], per_class: int, logits: Tensor,
    features: Tensor, before: Tensor | None,
) -> list[list[int]]:  # fmt: skip
    """Return the best of each class, found one image at a time in float64, first in order first."""
    found = []
    for k in range(int(labels.max()) + 1):
        members = [n for n in order if labels[n] == k]
        score: dict[int, float] = {}
        for n in members:
            uncertainty = float(scipy_entropy(softmax(logits[n].double().numpy())))
            score[n] = uncertainty if strategy == "max_entropy" else -uncertainty
            if strategy == "nearest_mean":
                mean = 0 if before is None else before[sorted(members)].double().mean(dim=0)
                distance = 0.0 if before is None else float((features[n] - mean).square().sum())
                score[n] = -distance
        best = sorted(members, key=lambda n: -score[n])[:per_class]
        found.append([best[i % len(best)] for i in range(per_class)])
    return found


def test_entropy_is_that_of_scipy_and_holds_at_its_ends() -> None:
    logits = 20 * torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    expected = scipy_entropy(softmax(logits.double().numpy(), axis=1), axis=1)
    np.testing.assert_allclose(entropy(logits).numpy(), expected, rtol=1e-4, atol=1e-6)
    certain = torch.tensor([[1000.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert entropy(certain).tolist() == pytest.approx([0.0, float(np.log(3))])
    assert entropy(certain.bfloat16()).dtype == torch.float32


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 999), classes=st.integers(2, 4), per_class=st.integers(1, 4),
    batch=st.integers(1, 9), strategy=st.sampled_from(SCORED), kind=st.sampled_from(KINDS),
)  # fmt: skip
def test_choice_is_that_of_a_search_image_by_image_epoch_after_epoch(
    seed: int, classes: int, per_class: int, batch: int, strategy: str, kind: Any
) -> None:
    count = classes * (2 * per_class + 2)
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count)[torch.randperm(count, generator=rng)] % classes
    # some images stay out of training, but not all of a class
    candidates = torch.tensor([n for n in range(count) if n % 7 or labels[n] == 0])
    exemplars = selector(kind, labels, per_class, strategy, seed, candidates)
    before = None
    for epoch in range(3):
        logits, features = an_epoch(seed + epoch, count, classes)
        order = candidates[torch.randperm(len(candidates), generator=rng)]
        show(exemplars, labels, logits, features, order, batch)
        came = order if kind is StreamedExemplars else candidates
        expected = brute_force(strategy, labels, came.tolist(), per_class, logits, features, before)
        found = chosen(exemplars, count)
        if epoch == 0:
            assert found == expected
        assert [sorted(row) for row in found] == [sorted(row) for row in expected]
        before = features


@pytest.mark.parametrize("kind", KINDS)
def test_random_is_drawn_once_evenly_and_by_the_seed(kind: Any) -> None:
    labels = torch.arange(2).repeat(10)
    hits = torch.zeros(20)
    seen = set()
    for seed in range(150):
        exemplars = selector(kind, labels, 2, "random", seed)
        show(exemplars, labels, *an_epoch(0, 20, 2), torch.arange(20))
        found = chosen(exemplars, 20)
        show(exemplars, labels, *an_epoch(1, 20, 2), torch.arange(20).flip(0))
        assert chosen(exemplars, 20) == found
        hits[torch.tensor(found)] += 1
        seen.add(str(found))
        assert all(labels[n] == k for k, row in enumerate(found) for n in row)
    assert len(seen) > 130
    assert 10 < hits.min() <= hits.max() < 55  # 30 on average
    again = selector(kind, labels, 2, "random", 149)
    show(again, labels, *an_epoch(0, 20, 2), torch.arange(20))
    assert chosen(again, 20) == found


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_chosen_again_keeps_its_place_and_other_epochs_do_not_count(kind: Any) -> None:
    labels = torch.zeros(6, dtype=torch.int64)
    exemplars = selector(kind, labels, 3)

    def choose(ranking: list[int]) -> list[int]:
        """Make the first of `ranking` the most uncertain, and so on; others are not seen."""
        logits = torch.zeros(6, 2)
        for place, index in enumerate(ranking):
            logits[index, 0] = 1.0 + place
        show(exemplars, labels, logits, torch.zeros(6, 1), torch.tensor(sorted(ranking)))
        (row,) = chosen(exemplars, 6)
        return row

    assert choose([4, 2, 0, 1, 3, 5]) == [4, 2, 0]
    assert choose([0, 4, 2, 1, 3, 5]) == [4, 2, 0]  # another order, the same images
    assert choose([5, 0, 4, 2, 1, 3]) == [4, 5, 0]  # 2 left, 5 takes its place
    assert choose([1, 3, 5, 0, 2, 4]) == [1, 5, 3]  # the better newcomer first
    assert choose([0, 2, 4]) == [0, 2, 4]  # 1 and 3 were good in the epoch before


@pytest.mark.parametrize("kind", KINDS)
def test_few_images_are_repeated_and_none_at_all_is_refused(kind: Any) -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])
    exemplars = selector(kind, labels, 5)
    for epoch in range(2):
        show(exemplars, labels, *an_epoch(epoch, 9, 3), torch.arange(9).repeat(2))
        rows = chosen(exemplars, 9)
        assert len(set(rows[0])) == 5  # an image that comes twice counts once
        assert sorted(rows[1].count(n) for n in (6, 7)) == [2, 3]
        assert rows[2] == [8] * 5
    others = torch.tensor([0, 1, 8])
    exemplars = selector(kind, labels, 1, candidates=others)
    show(exemplars, labels, *an_epoch(0, 9, 3), others)
    with pytest.raises(UserError, match="class 1 has no training image"):
        exemplars.select()
    with pytest.raises(SettingError, match="strategy must be 'max_entropy'"):
        selector(kind, labels, 1, "best")


@pytest.mark.parametrize("kind", KINDS)
def test_logits_that_are_no_numbers_are_chosen_last(kind: Any) -> None:
    labels, certain = torch.tensor([0, 0, 1]), torch.tensor([torch.nan, 2.0, torch.nan])
    for strategy in ("max_entropy", "min_entropy"):
        exemplars = selector(kind, labels, 1, strategy)
        logits = torch.stack([certain, torch.zeros(3)], dim=1)
        show(exemplars, labels, logits, torch.zeros(3, 1), torch.arange(3))
        assert chosen(exemplars, 3) == [[1], [2]]


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_epoch_goes_on_where_its_state_was_taken(kind: Any, tmp_path: Path) -> None:
    labels = torch.arange(3).repeat(8)
    for strategy in STRATEGIES:
        whole = selector(kind, labels, 2, strategy)
        logits, features = an_epoch(0, 24, 3)
        features.requires_grad_()  # of which no graph may be kept
        show(whole, labels, logits, features, torch.arange(24))
        whole.select()
        show(whole, labels, *an_epoch(1, 24, 3), torch.arange(12))
        state = whole.state_dict()
        torch.save(state, tmp_path / "state")
        again = selector(kind, labels, 2, strategy)
        again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        again.to(torch.device("cpu"))
        assert torch.equal(again.images, whole.images)
        for epoch, rows in ((1, torch.arange(12, 24)), (2, torch.arange(24))):
            for exemplars in (whole, again):
                show(exemplars, labels, *an_epoch(epoch, 24, 3), rows)
            assert chosen(whole, 24) == chosen(again, 24)
        if kind is IndexedExemplars:  # whose state holds no image
            wanted = {"ids": (3, 2), "scores": (24,)}
            wanted |= {"means": (3, 3), "sums": (3, 4)} if strategy == "nearest_mean" else {}
            assert {k: tuple(v.shape) for k, v in state.items() if v is not None} == wanted
