"""Where a method's batches come from, and what it may not reach."""

from collections.abc import Iterator, Sequence
from enum import Flag, auto
from itertools import chain
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from geniu_lightning.errors import AccessError


class Access(Flag):
    """Training images that a method reads while it unlearns; ``NONE`` is the kit alone."""

    NONE = 0
    FORGET = auto()
    RETAIN = auto()

    def __str__(self) -> str:
        parts = [one.name.lower() for one in Access if one in self and one.name]
        return " and ".join(parts) + " data" if parts else "no training data"


class UnlearnBatch(NamedTuple):
    """What a loss term is computed on: forgotten images, retained ones, or both.

    Attributes:
        images: Normalised, float32, shape ``(N, C, H, W)``.
        labels: int64, shape ``(N,)``.
        forget: Whether the label is to be forgotten, bool, shape ``(N,)``.
        weights: What each image counts in the mean of its side, float32, shape ``(N,)``: 1/n for n
            images, and such that the mean over processes is that of the whole batch.
    """

    images: Tensor
    labels: Tensor
    forget: Tensor
    weights: Tensor

    def forget_mean(self, values: Tensor) -> Tensor:
        """Return the mean of values ``(N,)`` over forgotten images; 0 where there are none."""
        return self._mean(values, self.forget)

    def retain_mean(self, values: Tensor) -> Tensor:
        """Return the mean of values ``(N,)`` over retained images; 0 where there are none."""
        return self._mean(values, ~self.forget)

    def _mean(self, values: Tensor, side: Tensor) -> Tensor:
        # picked, not multiplied by 0: what is infinite on one side must not reach the other
        return (values[side] * self.weights[side]).sum()


def marked(
    images: Tensor, labels: Tensor, forget: Sequence[int], share: float = 1.0
) -> UnlearnBatch:
    """Return a batch, each image marked as forgotten or retained.

    Args:
        images: Normalised, shape ``(N, C, H, W)``.
        labels: int64, shape ``(N,)``.
        forget: Forgotten classes.
        share: What this process's mean weighs in the mean over processes.
    """
    gone = torch.isin(labels, torch.tensor(list(forget), device=labels.device))
    counts = torch.where(gone, gone.sum(), (~gone).sum())
    return UnlearnBatch(images, labels, gone, share / counts)


def unlabelled(images: Tensor, share: float = 1.0) -> UnlearnBatch:
    """Return a batch of images of no class: label -1, none marked as forgotten.

    Args:
        images: Normalised, shape ``(N, C, H, W)``.
        share: As for `marked`.
    """
    labels = torch.full((len(images),), -1, device=images.device)
    return marked(images, labels, (), share)


class Batches(Protocol):
    """Batches of one epoch, and a share of them for each rank."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def __iter__(self) -> Iterator[UnlearnBatch]:
        """Go through one epoch."""

    def shard(self, rank: int, world: int) -> None:
        """Take the share of one of ``world`` processes."""


class ReadBatches(Protocol):
    """A loader of real images, as `loader` gives it."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def __iter__(self) -> Iterator[Any]:  # anything with images, labels and weight
        """Go through one epoch."""

    def shard(self, rank: int, world: int) -> None:
        """Take the share of one of ``world`` processes."""


class OpenSplit(Protocol):
    """Opens the training images of a split."""

    def __call__(
        self, split: str, batch_size: int, seed: int | None, limit: int | None
    ) -> ReadBatches:
        """Return batches of ``"forget"`` or ``"retain"``.

        Args:
            split: Which.
            batch_size: Images in a batch.
            seed: Of order and augmentation; ``None`` keeps the order and does not augment.
            limit: At most so many images, drawn evenly over classes; ``None`` all.
        """


class RepeatBatch:
    """The same batch in every step, whole on every rank: all proxies at once.

    Args:
        batch: The batch.
        steps: How often it comes in an epoch.
    """

    def __init__(self, batch: UnlearnBatch, steps: int) -> None:
        self.batch = batch
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[UnlearnBatch]:
        for _ in range(self.steps):
            yield self.batch

    def shard(self, rank: int, world: int) -> None:
        """Leave the batch whole: it is small, and equal gradients need no share."""


class ZipBatches:
    """In each step one batch of every side, put together; a side that ends begins anew.

    Args:
        sides: Batches of forgotten images, of retained ones, or both. None is empty.
        steps: Batches in an epoch.
    """

    def __init__(self, sides: Sequence[Batches], steps: int) -> None:
        self.sides = sides
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[UnlearnBatch]:
        streams = [_endless(side) for side in self.sides]
        for _ in range(self.steps):
            parts = [next(stream) for stream in streams]
            yield UnlearnBatch(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def shard(self, rank: int, world: int) -> None:
        """Take a share of every side."""
        for side in self.sides:
            side.shard(rank, world)


class ChainBatches:
    """One sequence of batches after another: the phases of a method.

    Args:
        phases: Batches of each phase.
    """

    def __init__(self, phases: Sequence[Batches]) -> None:
        self.phases = phases

    def __len__(self) -> int:
        return sum(len(phase) for phase in self.phases)

    def __iter__(self) -> Iterator[UnlearnBatch]:
        return chain.from_iterable(self.phases)

    def shard(self, rank: int, world: int) -> None:
        """Take a share of every phase."""
        for phase in self.phases:
            phase.shard(rank, world)


def _endless(batches: Batches) -> Iterator[UnlearnBatch]:
    while True:
        yield from batches


class _Marked:
    """Batches of real images, each image marked as forgotten or retained."""

    def __init__(self, loader: ReadBatches, forget: tuple[int, ...]) -> None:
        self.loader = loader
        self.forget = forget

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[UnlearnBatch]:
        for batch in self.loader:
            yield marked(batch.images, batch.labels, self.forget, batch.weight)

    def shard(self, rank: int, world: int) -> None:
        self.loader.shard(rank, world)


class Sources:
    """Real training images, handed out as a method declared them and no further.

    Args:
        access: What the method declared.
        forget: Forgotten classes.
        open_split: Called at the first request, so that a method without access never causes a file
            to be opened.
    """

    def __init__(self, access: Access, forget: tuple[int, ...], open_split: OpenSplit) -> None:
        self._access = access
        self._forget = forget
        self._open_split = open_split

    def forget(self, batch_size: int, seed: int | None, limit: int | None = None) -> Batches:
        """Return batches of the training images to be forgotten.

        Args:
            batch_size: Images in a batch, all processes together.
            seed: Of order and augmentation; ``None`` keeps the order and does not augment.
            limit: At most so many images, drawn evenly over classes; ``None`` all.

        Raises:
            AccessError: If the method did not declare ``Access.FORGET``.
        """
        return self._open(Access.FORGET, "forget", batch_size, seed, limit)

    def retain(self, batch_size: int, seed: int | None, limit: int | None = None) -> Batches:
        """Return batches of the training images to be kept.

        Args:
            batch_size: Images in a batch, all processes together.
            seed: Of order and augmentation; ``None`` keeps the order and does not augment.
            limit: At most so many images, drawn evenly over classes; ``None`` all.

        Raises:
            AccessError: If the method did not declare ``Access.RETAIN``.
        """
        return self._open(Access.RETAIN, "retain", batch_size, seed, limit)

    def _open(
        self,
        needed: Access,
        split: str,
        batch_size: int,
        seed: int | None,
        limit: int | None = None,
    ) -> Batches:
        if needed not in self._access:
            raise AccessError(
                f"the method asked for {needed}, but declares that it reads {self._access}"
            )
        return _Marked(self._open_split(split, batch_size, seed, limit), self._forget)
