"""Training images that a method may read, and the object that hands them out."""

from collections.abc import Callable, Iterator
from enum import Flag, auto
from typing import Any

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


class Sources:
    """Training images as far as a method declared that it reads them.

    Args:
        access: What the method declared.
        forget: Forget classes.
        open_split: Opens `forget` or `retain`, given batch size, seed and limit: a loader with
            `shard`, whose batches have images, labels and weight. Without a request no file is
            opened.
    """

    def __init__(
        self,
        access: Access,
        forget: tuple[int, ...],
        open_split: Callable[[str, int, int | None, int | None], Any],
    ) -> None:
        self._access = access
        self._forget = forget
        self._open_split = open_split

    def open(
        self, side: Access, batch_size: int, seed: int | None, limit: int | None = None
    ) -> Batches:
        """Return batches of the forget set or of the retain set.

        Args:
            side: The set; refused by an `AccessError` if the method did not declare it.
            batch_size: Images in a batch, all processes together.
            seed: Seed of order and augmentation; `None` keeps the order and does not augment.
            limit: Largest number of images, drawn evenly over classes; `None` is all.
        """
        if side not in self._access:
            raise AccessError(
                f"the method asked for {side}, but declares that it reads {self._access}"
            )
        split = "forget" if side is Access.FORGET else "retain"
        return LabelledBatches(self._open_split(split, batch_size, seed, limit), self._forget)


class LabelledBatches:
    """Batches of a loader, each image assigned to the forget or the retain set."""

    def __init__(self, loader: Any, forget: tuple[int, ...]) -> None:
        self.loader = loader
        self.forget = forget

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[UnlearnBatch]:
        for batch in self.loader:
            yield labelled_batch(batch.images, batch.labels, self.forget, batch.weight)

    def shard(self, rank: int, world: int) -> None:
        """Take the share of one of `world` processes."""
        self.loader.shard(rank, world)
