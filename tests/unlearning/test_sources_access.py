"""Sources hand out what a method declared, and open nothing before it is asked for."""

from typing import Any

import pytest
import torch

from geniu_lightning.errors import AccessError
from geniu_lightning.unlearning.sources import Access, Repeated, Sources, UnlearnBatch

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
        for share in (first, second):  # five images and four of nine
            assert share.weight == pytest.approx(2 * len(share.labels) / len(one.labels))


def test_a_repeated_batch_comes_whole_in_every_step_on_every_rank() -> None:
    batch = UnlearnBatch(torch.rand(6, 1, 2, 2), torch.arange(6), torch.arange(6) == 2)
    repeated = Repeated(batch, 3)
    repeated.shard(1, 2)
    assert len(repeated) == 3
    assert [found is batch for found in repeated] == [True, True, True]
    assert batch.weight == 1.0
