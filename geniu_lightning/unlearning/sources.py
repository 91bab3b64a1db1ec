"""Where a method's batches come from, and what it may not reach."""

from collections.abc import Callable, Iterator
from enum import Flag, auto
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
    """What a loss term is computed on.

    Attributes:
        images: Normalised, float32, shape ``(N, C, H, W)``.
        labels: int64, shape ``(N,)``.
        forget: Whether the label is to be forgotten, bool, shape ``(N,)``.
        weight: What this rank's mean weighs in the mean over ranks.
    """

    images: Tensor
    labels: Tensor
    forget: Tensor
    weight: float = 1.0


class Batches(Protocol):
    """Batches of one epoch, and a share of them for each rank."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def __iter__(self) -> Iterator[UnlearnBatch]:
        """Go through one epoch."""

    def shard(self, rank: int, world: int) -> None:
        """Take the share of one of ``world`` processes."""


class ReadBatches(Protocol):
    """A loader of real images, as :meth:`geniu_lightning.data.module.ImageData.loader` gives it."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def __iter__(self) -> Iterator[Any]:  # anything with images, labels and weight
        """Go through one epoch."""

    def shard(self, rank: int, world: int) -> None:
        """Take the share of one of ``world`` processes."""


class Repeated:
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


class _Marked:
    """Batches of real images, each image marked as forgotten or retained."""

    def __init__(self, loader: ReadBatches, forget: tuple[int, ...]) -> None:
        self.loader = loader
        self.forget = torch.tensor(forget)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[UnlearnBatch]:
        for batch in self.loader:
            forget = torch.isin(batch.labels, self.forget.to(batch.labels.device))
            yield UnlearnBatch(batch.images, batch.labels, forget, batch.weight)

    def shard(self, rank: int, world: int) -> None:
        self.loader.shard(rank, world)


class Sources:
    """Real training images, handed out as a method declared them and no further.

    Args:
        access: What the method declared.
        forget: Forgotten classes.
        open_split: Opens ``"forget"`` or ``"retain"`` with a batch size and a seed; called at the
            first request, so that a method without access never causes a file to be opened.
    """

    def __init__(
        self,
        access: Access,
        forget: tuple[int, ...],
        open_split: Callable[[str, int, int], ReadBatches],
    ) -> None:
        self._access = access
        self._forget = forget
        self._open_split = open_split

    def forget(self, batch_size: int, seed: int) -> Batches:
        """Return batches of the training images to be forgotten.

        Raises:
            AccessError: If the method did not declare ``Access.FORGET``.
        """
        return self._open(Access.FORGET, "forget", batch_size, seed)

    def retain(self, batch_size: int, seed: int) -> Batches:
        """Return batches of the training images to be kept.

        Raises:
            AccessError: If the method did not declare ``Access.RETAIN``.
        """
        return self._open(Access.RETAIN, "retain", batch_size, seed)

    def _open(self, needed: Access, split: str, batch_size: int, seed: int) -> Batches:
        if needed not in self._access:
            raise AccessError(
                f"the method asked for {needed}, but declares that it reads {self._access}"
            )
        return _Marked(self._open_split(split, batch_size, seed), self._forget)
