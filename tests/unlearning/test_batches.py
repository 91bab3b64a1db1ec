"""Batches and sources: who may read what, means of each set, and shares of processes."""

from typing import Any

import pytest
import torch

from geniu_lightning.errors import AccessError
from geniu_lightning.unlearning.batches import (
    CombinedBatches,
    StepBatches,
    UnlearnBatch,
    labelled_batch,
    unlabelled_batch,
)
from geniu_lightning.unlearning.sources import Access, Sources
from tests.unlearning.helpers import Lab

BOTH = Access.FORGET | Access.RETAIN
WORDS = {
    Access.NONE: "no training data",
    Access.FORGET: "forget data",
    Access.RETAIN: "retain data",
    BOTH: "forget and retain data",
}


def test_a_split_opens_where_it_was_declared_and_nowhere_else(lab: Lab) -> None:
    def refuse(*_: object) -> Any:
        raise AssertionError("opened before it was asked for")

    Sources(BOTH, (0,), refuse)
    for access, words in WORDS.items():
        assert str(access) == words
        for split in ("forget", "retain"):
            lab.opened.clear()
            side, ask = Access[split.upper()], lab.sources(access, (1, 3)).open
            if side in access:
                assert len(ask(side, 12, 5)) > 0
                assert lab.opened == [(split, 12, 5)]
            else:
                with pytest.raises(AccessError, match=f"asked for {split} data.*reads {words}"):
                    ask(side, 12, 5)
                assert lab.opened == []


def test_each_image_belongs_to_its_set_and_comes_in_order_without_a_seed(lab: Lab) -> None:
    for forget in ((0,), (1, 3), (0, 4)):
        sources = lab.sources(BOTH, forget)
        of_forget, of_retain = (list(sources.open(side, 4, 0)) for side in BOTH)
        assert all(batch.forget.all() for batch in of_forget)
        assert not any(batch.forget.any() for batch in of_retain)
        assert {int(k) for b in of_forget for k in b.labels} == set(forget)
        assert {int(k) for b in of_retain for k in b.labels} == set(range(5)) - set(forget)
    batches = lab.sources(Access.RETAIN, (1,)).open(Access.RETAIN, 7, None)
    for _ in range(2):
        labels = torch.cat([b.labels for b in batches])
        assert torch.equal(labels, lab.labels[lab.labels != 1])


def test_each_set_has_its_own_mean_and_an_absent_one_is_zero() -> None:
    batch = labelled_batch(torch.zeros(5, 1, 2, 2), torch.tensor([0, 1, 1, 2, 2]), (1,))
    values = torch.tensor([1.0, torch.inf, torch.inf, 2.0, 6.0], requires_grad=True)
    assert batch.retain_mean(values) == 3.0  # an infinite value of one set stays there
    batch.retain_mean(values).backward()
    torch.testing.assert_close(values.grad, torch.tensor([1.0, 0, 0, 1, 1]) / 3)
    retained = labelled_batch(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]), (1,))
    assert retained.forget_mean(values[[0, 3]]) == 0.0
    unlabelled = unlabelled_batch(torch.zeros(4, 1, 2, 2))
    assert unlabelled.retain_mean(torch.arange(4.0)) == 1.5


def test_shares_of_two_processes_have_the_mean_of_the_whole(lab: Lab) -> None:
    def read(rank: int) -> list[UnlearnBatch]:
        batches = lab.sources(Access.RETAIN, (0,)).open(Access.RETAIN, 9, 0)
        batches.shard(rank, 2)
        return list(batches)

    whole = list(lab.sources(Access.RETAIN, (0,)).open(Access.RETAIN, 9, 0))
    for one, first, second in zip(whole, read(0), read(1), strict=True):
        assert sorted(one.labels.tolist()) == sorted(first.labels.tolist() + second.labels.tolist())
        # five images and four of nine
        parts = [share.retain_mean(share.labels.float()) for share in (first, second)]
        expected = one.labels.float().mean()
        assert sum(parts) / 2 == pytest.approx(expected) == one.retain_mean(one.labels.float())


def test_zipped_sets_come_together_and_the_shorter_starts_again(lab: Lab) -> None:
    sources = lab.sources(BOTH, (1,))
    zipped = CombinedBatches([sources.open(side, 4, 0) for side in BOTH], [[0, 1]] * 12)
    batches = list(zipped)
    assert len(batches) == len(zipped) == 12
    # 9 images in 3 batches with 36 in 9
    assert [int(b.forget.sum()) for b in batches] == [3] * 12
    assert [int((~b.forget).sum()) for b in batches] == [4] * 12
    for batch in batches:
        assert batch.forget_mean(torch.ones(7)) == pytest.approx(1)
        assert batch.retain_mean(torch.ones(7)) == pytest.approx(1)
    epochs = torch.cat([b.images[b.forget] for b in batches]).view(4, 9, -1)
    assert len(epochs[0].unique(dim=0)) == 9  # each image once before any comes again
    assert not torch.equal(epochs[0], epochs[1])  # in another order
    torch.testing.assert_close(epochs[0].sort(dim=0).values, epochs[1].sort(dim=0).values)


def test_parts_come_in_the_order_of_the_plan_and_each_is_divided(lab: Lab) -> None:
    sources = lab.sources(BOTH, (1,))
    plan = [[0]] * 2 + [[1]] * 3
    chained = CombinedBatches([sources.open(side, 6, 0) for side in BOTH], plan)
    assert [bool(b.forget.all()) for b in chained] == [True, True, False, False, False]
    chained.shard(0, 2)
    assert len(chained) == 5
    assert [len(b.labels) for b in chained] == [3, 2, 3, 3, 3]
    batch = labelled_batch(torch.rand(6, 1, 2, 2), torch.arange(6), (2,))
    other = labelled_batch(torch.rand(2, 1, 2, 2), torch.arange(2), (2,))
    repeated = [StepBatches(lambda step: batch, 1), StepBatches(lambda step: other, 2)]
    alternating = CombinedBatches(repeated, [[0], [1], [1], [0], [0]])
    alternating.shard(1, 2)  # batches of a step stay whole
    assert [b is batch for b in alternating] == [True, False, False, True, True]
