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
    """Stands for the reader of images and remembers what it was asked."""

    def __init__(self) -> None:
        self.augmentations: list[int | None] = []

    def __call__(self, indices: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
        self.augmentations.append(augmentation)
        return indices.float().view(-1, 1, 1, 1) + 0.5, indices % 10


def make(
    count: int = 23, batch_size: int = 5, seed: int | None = 1, first: int = 100
) -> tuple[IndexLoader, Gate]:
    gate = Gate()
    return IndexLoader(gate, torch.arange(first, first + count), batch_size, seed), gate


def seen(batches: list[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


@FEW
@given(count=st.integers(1, 60), batch_size=st.integers(1, 20), seed=st.sampled_from([None, 0, 3]))
def test_an_epoch_reads_every_image_once_in_nearly_equal_batches(
    count: int, batch_size: int, seed: int | None
) -> None:
    loader, _ = make(count, batch_size, seed)
    batches = seen(list(loader))
    sizes = [len(batch) for batch in batches]
    assert len(batches) == len(loader) == -(-count // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert sorted(chain(*batches)) == list(range(100, 100 + count))


def test_a_batch_holds_what_the_reader_gives_for_its_indices() -> None:
    loader, _ = make()
    for batch in loader:
        assert batch.images.flatten().tolist() == [i + 0.5 for i in batch.indices.tolist()]
        assert torch.equal(batch.labels, batch.indices % 10)
        assert batch.weight == 1.0


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    loader, _ = make()
    epochs = [seen(list(loader)) for _ in range(3)]
    torch.manual_seed(9)
    again, _ = make()
    assert [seen(list(again)) for _ in range(3)] == epochs
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    other, _ = make(seed=2)
    assert seen(list(other)) != epochs[0]


def test_without_a_seed_the_order_stays_and_nothing_is_augmented() -> None:
    loader, gate = make(count=6, batch_size=3, seed=None)
    for _ in range(2):
        assert seen(list(loader)) == [[100, 101, 102], [103, 104, 105]]
    assert gate.augmentations == [None] * 4


def test_without_a_seed_a_loop_that_was_left_early_begins_again() -> None:
    loader, _ = make(count=6, batch_size=2, seed=None)
    next(iter(loader))
    assert seen(list(loader)) == [[100, 101], [102, 103], [104, 105]]
    loader.load_state_dict({"epoch": 0, "position": 2})
    assert len(list(loader)) == 3


def test_each_batch_of_each_epoch_and_rank_is_augmented_from_a_stream_of_its_own() -> None:
    drawn: list[int | None] = []
    for seed in (1, 2):
        for rank in range(2):
            loader, gate = make(seed=seed)
            loader.shard(rank, 2)
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
    ranks = [make(count, batch_size)[0] for _ in range(world)]
    for rank, loader in enumerate(ranks):
        loader.shard(rank, world)
        assert len(loader) == len(alone)
    values = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for whole, *shares in zip(alone, *ranks, strict=True):
        parts = [set(share.indices.tolist()) for share in shares]
        assert sum(map(len, parts)) == len(whole.indices)
        assert set().union(*parts) == set(whole.indices.tolist())
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        # what DDP does: the mean over ranks of each one's weighted mean
        mean = sum(share.weight * values[share.indices].mean() for share in shares) / world
        torch.testing.assert_close(mean, values[whole.indices].mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("done", [0, 1, 4, 5, 7, 10, 12])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_loader_given_its_state_goes_on_with_the_very_next_batch(done: int, rank: int) -> None:
    def endless(loader: IndexLoader) -> list[Batch]:
        return [batch for _ in range(4) for batch in loader]

    straight, gate = make()
    straight.shard(rank, 2)
    wanted = endless(straight)

    stopped, _ = make()
    stopped.shard(rank, 2)
    first = []
    while len(first) < done:
        first += list(islice(stopped, min(5, done - len(first))))
    state = json.loads(json.dumps(stopped.state_dict()))

    resumed, gate_of_resumed = make()
    resumed.shard(rank, 2)
    resumed.load_state_dict(state)
    rest = endless(resumed)
    assert seen(first + rest)[:20] == seen(wanted)
    assert gate_of_resumed.augmentations[: 20 - done] == gate.augmentations[done:]


def test_the_state_within_a_loop_counts_the_batch_at_hand_as_done() -> None:
    loader, _ = make()
    states = [loader.state_dict() for _ in loader] + [loader.state_dict()]
    assert [state["position"] for state in states] == [1, 2, 3, 4, 5, 5]
    assert {state["epoch"] for state in states} == {0}
    next(iter(loader))
    assert loader.state_dict() == {"epoch": 1, "position": 1}


def test_taking_the_state_does_not_let_it_run_along() -> None:
    loader, _ = make()
    state = loader.state_dict()
    next(iter(loader))
    assert state == {"epoch": 0, "position": 0}


def test_no_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"^there are no images to read$"):
        make(count=0)


@pytest.mark.parametrize(
    ("count", "batch_size", "world", "fits"),
    [
        (8, 4, 2, True),
        (8, 3, 2, False),  # 3, 3, 2
        (9, 4, 2, False),  # 3, 3, 3
        (12, 6, 3, True),
        (13, 6, 3, False),  # 5, 4, 4
        (4, 2, 1, True),
        (3, 2, 1, False),  # 2, 1
    ],
)
def test_a_training_batch_with_fewer_than_two_images_a_process_is_refused(
    count: int, batch_size: int, world: int, fits: bool
) -> None:
    loader, _ = make(count, batch_size)
    if fits:
        loader.shard(world - 1, world)
        assert min(len(batch.indices) for batch in loader) >= 2
        return
    with pytest.raises(UserError) as error:
        loader.shard(world - 1, world)
    assert str(error.value) == (
        f"{count} images in batches of {batch_size} are too few for {world} process(es):"
        " each needs at least two images of every batch"
    )


def test_a_small_evaluation_batch_is_not_refused() -> None:
    loader, _ = make(count=3, batch_size=2, seed=None)
    loader.shard(0, 2)
    assert seen(list(loader)) == [[100], [102]]
