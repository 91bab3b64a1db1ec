"""Batches that methods learn from: one batch, and sequences made of several."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class UnlearnBatch(NamedTuple):
    """Images of the forget set, of the retain set, or of both.

    Attributes:
        images: Normalised, float32, shape `(N, C, H, W)`.
        labels: int64, shape `(N,)`.
        forget: Whether the label is a forget class, bool, shape `(N,)`.
        weights: Weight of each image in the mean of its set, float32, shape `(N,)`: 1/n for n
            images, scaled so that the mean over processes is the mean of the whole batch.
    """

    images: Tensor
    labels: Tensor
    forget: Tensor
    weights: Tensor

    def forget_mean(self, values: Tensor) -> Tensor:
        """Return the mean of values `(N,)` over the forget set; 0 where it is empty."""
        return self._mean(values, self.forget)

    def retain_mean(self, values: Tensor) -> Tensor:
        """Return the mean of values `(N,)` over the retain set; 0 where it is empty."""
        return self._mean(values, ~self.forget)

    def _mean(self, values: Tensor, chosen: Tensor) -> Tensor:
        # indexed, not multiplied by 0: an infinite value must not reach the other mean
        return (values[chosen] * self.weights[chosen]).sum()


def labelled_batch(
    images: Tensor, labels: Tensor, forget: Sequence[int], share: float = 1.0
) -> UnlearnBatch:
    """Return a batch; `share` is the weight of this process's mean in the mean over processes."""
    forgotten = torch.isin(labels, torch.tensor(list(forget), device=labels.device))
    counts = torch.where(forgotten, forgotten.sum(), (~forgotten).sum())
    return UnlearnBatch(images, labels, forgotten, share / counts)


def unlabelled_batch(images: Tensor, share: float = 1.0) -> UnlearnBatch:
    """Return a batch of images without a class: label -1, none in the forget set."""
    labels = torch.full((len(images),), -1, device=images.device)
    return labelled_batch(images, labels, (), share)


class Batches(Protocol):
    """Batches of one epoch, divided among processes."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def __iter__(self) -> Iterator[UnlearnBatch]:
        """Iterate over one epoch."""

    def shard(self, rank: int, world: int) -> None:
        """Take the share of one of `world` processes."""


class StepBatches:
    """Batches made by a function of the step, which every process takes whole."""

    def __init__(self, batch_of: Callable[[int], UnlearnBatch], steps: int) -> None:
        self.batch_of = batch_of
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[UnlearnBatch]:
        return map(self.batch_of, range(self.steps))

    def shard(self, rank: int, world: int) -> None:
        """Leave every batch whole."""


class CombinedBatches:
    """The next batch of one part, or of several, in each step; a part that ends starts again.

    `plan` has for each step the indices of the parts whose batches are concatenated.
    """

    def __init__(self, parts: Sequence[Batches], plan: Sequence[Sequence[int]]) -> None:
        self.parts = parts
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[UnlearnBatch]:
        endless = [_endless(part) for part in self.parts]
        for step in self.plan:
            batches = [next(endless[part]) for part in step]
            if len(batches) == 1:  # the same object: a teacher caches by it
                yield batches[0]
            else:
                yield UnlearnBatch(*(torch.cat(column) for column in zip(*batches, strict=True)))

    def shard(self, rank: int, world: int) -> None:
        """Take a share of every part."""
        for part in self.parts:
            part.shard(rank, world)


def _endless(batches: Batches) -> Iterator[UnlearnBatch]:
    while True:
        yield from batches
