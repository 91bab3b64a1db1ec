"""Batches that methods learn from: one batch, and sequences made of several."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from geniu_lightning.seeds import generator


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
    """Return a batch of images with class labels.

    Args:
        images: Normalised, shape `(N, C, H, W)`.
        labels: int64, shape `(N,)`.
        forget: Forget classes.
        share: Weight of this process's mean in the mean over processes.
    """
    forgotten = torch.isin(labels, torch.tensor(list(forget), device=labels.device))
    counts = torch.where(forgotten, forgotten.sum(), (~forgotten).sum())
    return UnlearnBatch(images, labels, forgotten, share / counts)


def unlabelled_batch(images: Tensor, share: float = 1.0) -> UnlearnBatch:
    """Return a batch of images without a class: label -1, none in the forget set.

    Args:
        images: Normalised, shape `(N, C, H, W)`.
        share: As in `labelled_batch`.
    """
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


class WholeBatches:
    """Base of batches that every process makes alike and takes whole.

    Gradients are then equal on all processes, and a share would gain nothing.
    """

    def shard(self, rank: int, world: int) -> None:
        """Leave every batch whole."""


class RepeatBatch(WholeBatches):
    """The same batch in every step.

    Args:
        batch: The batch.
        steps: Number of repetitions in an epoch.
    """

    def __init__(self, batch: UnlearnBatch, steps: int) -> None:
        self.batch = batch
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[UnlearnBatch]:
        for _ in range(self.steps):
            yield self.batch


class GaussianBatches(WholeBatches):
    """Fresh Gaussian noise N(0, I) in every step.

    Args:
        shape: Shape of a batch, `(N, C, H, W)`.
        steps: Batches in an epoch.
        seed: Seed of the draws.
        device: Device of the batches.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], steps: int, seed: int, device: torch.device
    ) -> None:
        self.shape = shape
        self.steps = steps
        self.seed = seed
        self.device = device

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[UnlearnBatch]:
        for step in range(self.steps):
            random = generator("distill_noise", self.seed, step)
            yield unlabelled_batch(torch.randn(self.shape, generator=random).to(self.device))


class _Combined:
    """Base of batches made of several parts, each of which takes its own share."""

    def __init__(self, parts: Sequence[Batches]) -> None:
        self.parts = parts

    def shard(self, rank: int, world: int) -> None:
        """Take a share of every part."""
        for part in self.parts:
            part.shard(rank, world)


class ZipBatches(_Combined):
    """One batch of every part in each step, concatenated; a part that ends starts again.

    Args:
        parts: Batches of the forget set, the retain set, or both. No part may be empty.
        steps: Batches in an epoch.
    """

    def __init__(self, parts: Sequence[Batches], steps: int) -> None:
        super().__init__(parts)
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[UnlearnBatch]:
        endless = [_endless(part) for part in self.parts]
        for _ in range(self.steps):
            batches = [next(part) for part in endless]
            yield UnlearnBatch(*(torch.cat(column) for column in zip(*batches, strict=True)))


class ChainBatches(_Combined):
    """All batches of one part, then all of the next: the phases of a method."""

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __iter__(self) -> Iterator[UnlearnBatch]:
        return chain.from_iterable(self.parts)


class AlternateBatches(_Combined):
    """The next batch of one of several parts in each step.

    Args:
        parts: Each has as many batches as `order` asks for.
        order: Index of the part of each step.
    """

    def __init__(self, parts: Sequence[Batches], order: Sequence[int]) -> None:
        super().__init__(parts)
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[UnlearnBatch]:
        iterators = [iter(part) for part in self.parts]
        for part in self.order:
            yield next(iterators[part])


def _endless(batches: Batches) -> Iterator[UnlearnBatch]:
    while True:
        yield from batches
