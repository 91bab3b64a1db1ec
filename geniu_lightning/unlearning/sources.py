"""Training images that a method may read, and the objects that hand them out."""

from collections.abc import Iterator
from enum import Flag, auto
from typing import Any, Protocol

from geniu_lightning.errors import AccessError
from geniu_lightning.unlearning.batches import Batches, UnlearnBatch, labelled_batch


class Access(Flag):
    """Training images that a method reads while it unlearns; `NONE` is the kit alone."""

    NONE = 0
    FORGET = auto()
    RETAIN = auto()

    def __str__(self) -> str:
        parts = [one.name.lower() for one in Access if one in self and one.name]
        return " and ".join(parts) + " data" if parts else "no training data"


class ImageBatches(Protocol):
    """Batches of training images, as a data loader gives them."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def __iter__(self) -> Iterator[Any]:  # objects with images, labels and weight
        """Iterate over one epoch."""

    def shard(self, rank: int, world: int) -> None:
        """Take the share of one of `world` processes."""


class OpenSplit(Protocol):
    """Function that opens the training images of a split."""

    def __call__(
        self, split: str, batch_size: int, seed: int | None, limit: int | None
    ) -> ImageBatches:
        """Return batches of `forget` or `retain`; arguments as in `Sources.forget`."""


class Sources:
    """Training images as far as a method declared that it reads them.

    Args:
        access: What the method declared.
        forget: Forget classes.
        open_split: Called at the first request: a method without access opens no file.
    """

    def __init__(self, access: Access, forget: tuple[int, ...], open_split: OpenSplit) -> None:
        self._access = access
        self._forget = forget
        self._open_split = open_split

    def forget(self, batch_size: int, seed: int | None, limit: int | None = None) -> Batches:
        """Return batches of the forget set.

        Args:
            batch_size: Images in a batch, all processes together.
            seed: Seed of order and augmentation; `None` keeps the order and does not augment.
            limit: Largest number of images, drawn evenly over classes; `None` is all.

        Raises:
            AccessError: If the method did not declare `Access.FORGET`.
        """
        return self._open(Access.FORGET, "forget", batch_size, seed, limit)

    def retain(self, batch_size: int, seed: int | None, limit: int | None = None) -> Batches:
        """Return batches of the retain set; arguments as in `forget`.

        Raises:
            AccessError: If the method did not declare `Access.RETAIN`.
        """
        return self._open(Access.RETAIN, "retain", batch_size, seed, limit)

    def _open(
        self, needed: Access, split: str, batch_size: int, seed: int | None, limit: int | None
    ) -> Batches:
        if needed not in self._access:
            raise AccessError(
                f"the method asked for {needed}, but declares that it reads {self._access}"
            )
        return _LabelledBatches(self._open_split(split, batch_size, seed, limit), self._forget)


class _LabelledBatches:
    """Batches of a loader, each image assigned to the forget or the retain set."""

    def __init__(self, loader: ImageBatches, forget: tuple[int, ...]) -> None:
        self.loader = loader
        self.forget = forget

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[UnlearnBatch]:
        for batch in self.loader:
            yield labelled_batch(batch.images, batch.labels, self.forget, batch.weight)

    def shard(self, rank: int, world: int) -> None:
        self.loader.shard(rank, world)
