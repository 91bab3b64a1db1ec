"""Sources hand out what a method declared, and open nothing before it is asked for."""

from typing import Any

import pytest
import torch

from geniu_lightning.errors import AccessError
from geniu_lightning.unlearning.sources import (
    Access,
    ChainBatches,
    RepeatBatch,
    Sources,
    UnlearnBatch,
    ZipBatches,
    marked,
)

EVERY = [Access.NONE, Access.FORGET, Access.RETAIN, Access.FORGET | Access.RETAIN]


@pytest.mark.parametrize("access", EVERY, ids=str)
@pytest.mark.parametrize("split", ["forget", "retain"])
def test_a_split_opens_where_it_was_declared_and_nowhere_else(
    archive: Any, access: Access, split: str
) -> None:
    sources = archive.sources(access, (1, 3))
    ask = getattr(sources, split)
    if Access[split.upper()] in access:
        assert len(ask(12, 5)) > 0
        assert archive.opened == [(split, 12, 5)]
    else:
        with pytest.raises(AccessError, match=f"asked for {split} data.*reads {access}"):
            ask(12, 5)
        assert archive.opened == []


def test_building_sources_opens_nothing() -> None:
    def refuse(split: str, batch_size: int, seed: int) -> Any:
        raise AssertionError(f"{split} was opened")

    Sources(Access.FORGET | Access.RETAIN, (0,), refuse)


def test_access_is_told_in_words() -> None:
    assert [str(access) for access in EVERY] == [
        "no training data",
        "forget data",
        "retain data",
        "forget and retain data",
    ]


@pytest.mark.parametrize("forget", [(0,), (1, 3), (0, 4)])
def test_each_image_is_marked_as_every_forgotten_class_says(
    archive: Any, forget: tuple[int, ...]
) -> None:
    sources = archive.sources(Access.FORGET | Access.RETAIN, forget)
    gone, kept = list(sources.forget(4, 0)), list(sources.retain(4, 0))
    assert all(batch.forget.all() for batch in gone)
    assert not any(batch.forget.any() for batch in kept)
    assert set(torch.cat([b.labels for b in gone]).tolist()) == set(forget)
    assert set(torch.cat([b.labels for b in kept]).tolist()) == set(range(5)) - set(forget)
    batch = kept[0]
    assert batch.forget.dtype == torch.bool
    assert batch.forget.shape == batch.labels.shape == (len(batch.images),)


def test_batches_of_real_images_are_shared_out_among_ranks(archive: Any) -> None:
    def read(rank: int) -> list[UnlearnBatch]:
        batches = archive.sources(Access.RETAIN, (0,)).retain(9, 0)
        batches.shard(rank, 2)
        return list(batches)

    whole = list(archive.sources(Access.RETAIN, (0,)).retain(9, 0))
    for one, first, second in zip(whole, read(0), read(1), strict=True):
        assert sorted(one.labels.tolist()) == sorted(first.labels.tolist() + second.labels.tolist())
        # five images and four of nine: the mean over both is that over all
        parts = [share.retain_mean(share.labels.float()) for share in (first, second)]
        whole_mean = one.labels.float().mean()
        assert sum(parts) / 2 == pytest.approx(whole_mean) == one.retain_mean(one.labels.float())


def test_a_repeated_batch_comes_whole_in_every_step_on_every_rank() -> None:
    batch = marked(torch.rand(6, 1, 2, 2), torch.arange(6), (2,))
    repeated = RepeatBatch(batch, 3)
    repeated.shard(1, 2)
    assert len(repeated) == 3
    assert [found is batch for found in repeated] == [True, True, True]


def test_each_side_has_a_mean_of_its_own_and_an_absent_one_is_zero() -> None:
    batch = marked(torch.zeros(5, 1, 2, 2), torch.tensor([0, 1, 1, 2, 2]), (1,))
    values = torch.tensor([1.0, torch.inf, torch.inf, 2.0, 6.0], requires_grad=True)
    assert batch.retain_mean(values) == 3.0  # what is infinite on one side stays there
    batch.retain_mean(values).backward()
    torch.testing.assert_close(values.grad, torch.tensor([1.0, 0, 0, 1, 1]) / 3)
    kept = marked(torch.zeros(2, 1, 2, 2), torch.tensor([0, 2]), (1,))
    assert kept.forget_mean(values[[0, 3]]) == 0.0


def test_sides_come_beside_each_other_and_the_shorter_begins_anew(archive: Any) -> None:
    sources = archive.sources(Access.FORGET | Access.RETAIN, (1,))
    beside = ZipBatches([sources.forget(4, 0), sources.retain(4, 0)], 12)
    batches = list(beside)
    assert len(batches) == len(beside) == 12
    # 9 images in 3 batches beside 36 in 9
    assert [int(b.forget.sum()) for b in batches] == [3] * 12
    assert [int((~b.forget).sum()) for b in batches] == [4] * 12
    for batch in batches:
        assert batch.forget_mean(torch.ones(7)) == pytest.approx(1)
        assert batch.retain_mean(torch.ones(7)) == pytest.approx(1)
    gone = torch.cat([b.images[b.forget] for b in batches])
    epochs = gone.view(4, 9, -1)
    assert len(epochs[0].unique(dim=0)) == 9  # each image once before any comes again
    assert not torch.equal(epochs[0], epochs[1])  # in another order
    torch.testing.assert_close(epochs[0].sort(dim=0).values, epochs[1].sort(dim=0).values)


def test_phases_come_one_after_the_other(archive: Any) -> None:
    sources = archive.sources(Access.FORGET | Access.RETAIN, (1,))
    phases = ChainBatches(
        [ZipBatches([sources.forget(6, 0)], 2), ZipBatches([sources.retain(6, 0)], 3)]
    )
    assert [bool(b.forget.all()) for b in phases] == [True, True, False, False, False]
    assert len(phases) == 5
    phases.shard(0, 2)
    assert [len(b.labels) for b in phases] == [3, 2, 3, 3, 3]


def test_without_a_seed_images_come_once_and_in_order(archive: Any) -> None:
    batches = archive.sources(Access.RETAIN, (1,)).retain(7, None)
    first, second = (torch.cat([b.labels for b in batches]) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, archive.labels[archive.labels != 1])
