import json
from itertools import chain, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geniu_lightning.data.loader import Batch, IndexLoader
from geniu_lightning.errors import UserError

FEW = settings(max_examples=25, deadline=None)


class Gate:
    """Stands for the reader of images and remembers the augmentation seeds."""

    def __init__(self) -> None:
        self.augmentations: list[int | None] = []

    def __call__(self, indices: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
        self.augmentations.append(augmentation)
        return indices.float().view(-1, 1, 1, 1) + 0.5, indices % 10


def make(
    count: int = 23, batch_size: int = 5, seed: int | None = 1, rank: int = 0, world: int = 1
) -> tuple[IndexLoader, Gate]:
    gate = Gate()
    loader = IndexLoader(gate, torch.arange(100, 100 + count), batch_size, seed)
    loader.shard(rank, world)
    return loader, gate


def seen(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


@FEW
@given(count=st.integers(2, 60), batch_size=st.integers(3, 20), seed=st.sampled_from([None, 0, 3]))
def test_an_epoch_reads_every_image_once_in_nearly_equal_batches(
    count: int, batch_size: int, seed: int | None
) -> None:
    loader, _ = make(count, batch_size, seed)
    batches = list(loader)
    sizes = [len(batch.indices) for batch in batches]
    assert len(batches) == len(loader) == -(-count // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert sorted(chain(*seen(batches))) == list(range(100, 100 + count))
    for batch in batches:
        assert torch.equal(batch.images.flatten(), batch.indices + 0.5)
        assert torch.equal(batch.labels, batch.indices % 10)
        assert batch.weight == 1.0


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    loader, _ = make()
    epochs = [seen(list(loader)) for _ in range(3)]
    torch.manual_seed(9)
    again, _ = make()
    assert [seen(list(again)) for _ in range(3)] == epochs
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert seen(list(make(seed=2)[0])) != epochs[0]
    assert epochs[0][0] == [109, 107, 113, 102, 118]  # frozen: else every run changes


def test_without_a_seed_the_order_stays_and_an_interrupted_loop_begins_again() -> None:
    loader, gate = make(count=6, batch_size=2, seed=None)
    next(iter(loader))
    for _ in range(2):
        assert seen(list(loader)) == [[100, 101], [102, 103], [104, 105]]
    loader.load_state_dict({"epoch": 0, "position": 2})
    assert len(list(loader)) == 3
    assert set(gate.augmentations) == {None}


def test_each_batch_of_each_epoch_and_rank_is_augmented_from_a_stream_of_its_own() -> None:
    drawn: list[int | None] = []
    for seed in (1, 2):
        for rank in range(2):
            loader, gate = make(seed=seed, rank=rank, world=2)
            for _ in range(3):
                list(loader)
            drawn += gate.augmentations
    assert None not in drawn
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 3 * 5


@FEW
@given(count=st.integers(8, 60), batch_size=st.integers(8, 20), world=st.integers(1, 4))
def test_shares_of_ranks_make_up_the_batch_of_one_process_and_its_mean(
    count: int, batch_size: int, world: int
) -> None:
    alone, _ = make(count, batch_size)
    if count // len(alone) < 2 * world:
        return
    ranks = [make(count, batch_size, rank=rank, world=world)[0] for rank in range(world)]
    assert {len(loader) for loader in ranks} == {len(alone)}
    values = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for whole, *shares in zip(alone, *ranks, strict=True):
        parts = [set(share.indices.tolist()) for share in shares]
        assert sum(map(len, parts)) == len(whole.indices)
        assert set().union(*parts) == set(whole.indices.tolist())
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        # DDP takes the mean over ranks of each one's weighted mean
        mean = sum(share.weight * values[share.indices].mean() for share in shares) / world
        torch.testing.assert_close(mean, values[whole.indices].mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("done", [0, 1, 4, 5, 7, 10])
def test_a_loader_given_its_state_goes_on_with_the_very_next_batch(done: int) -> None:
    def endless(loader: IndexLoader) -> list[Batch]:
        return [batch for _ in range(4) for batch in loader]

    straight, gate = make(rank=1, world=2)
    wanted = endless(straight)
    stopped, _ = make(rank=1, world=2)
    first: list[Batch] = []
    while len(first) < done:
        first += list(islice(stopped, min(5, done - len(first))))
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed, gate_of_resumed = make(rank=1, world=2)
    resumed.load_state_dict(state)
    rest = endless(resumed)
    assert seen(first + rest)[:20] == seen(wanted)
    assert gate_of_resumed.augmentations[: 20 - done] == gate.augmentations[done:]


def test_the_state_counts_the_present_batch_as_done_and_set_epoch_keeps_its_own() -> None:
    loader, _ = make()
    before = loader.state_dict()
    assert [loader.state_dict()["position"] for _ in loader] == [1, 2, 3, 4, 5]
    assert before == {"epoch": 0, "position": 0}
    next(iter(loader))
    for epoch, position in ((1, 1), (2, 0)):
        loader.set_epoch(epoch)
        assert loader.state_dict() == {"epoch": epoch, "position": position}


def test_too_few_images_are_refused_and_evaluation_batches_may_be_small() -> None:
    with pytest.raises(UserError, match=r"^there are no images to read$"):
        make(count=0)
    for count, batch_size, world in ((8, 4, 2), (12, 6, 3), (4, 2, 1)):
        loader, _ = make(count, batch_size, rank=world - 1, world=world)
        assert min(len(batch.indices) for batch in loader) >= 2
    for count, batch_size, world in ((8, 3, 2), (9, 4, 2), (13, 6, 3), (3, 2, 1)):
        with pytest.raises(UserError, match=f"^{count} images in batches of {batch_size} are too"):
            make(count, batch_size, rank=world - 1, world=world)
    assert seen(list(make(3, 2, seed=None, rank=0, world=2)[0])) == [[100], [102]]
