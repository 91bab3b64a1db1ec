"""Batches as index look-ups: no worker processes, exact shares of ranks, exact resume."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.seeds import generator, stream


class Batch(NamedTuple):
    """What training and evaluation read.

    Attributes:
        images: Normalised, float32, shape ``(N, C, H, W)``.
        labels: int64, shape ``(N,)``.
        indices: Positions in the data set, int64, shape ``(N,)``.
        weight: What the mean over this share of a batch weighs in the mean over all ranks' shares;
            1 up to the one image by which shares differ.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    weight: float


class IndexLoader:
    """Batches of nearly equal size over a set of indices.

    The order is a function of (seed, epoch) alone, and each rank takes its share of each batch, so
    any number of ranks sees the same batches. The epoch and the position in it are the whole
    state: a loader that is given them back goes on with the very next batch.

    Args:
        read: Function from (indices, augmentation seed or ``None``) to (images, labels).
        indices: Positions in the data set, int64, shape ``(N,)``.
        batch_size: Images in a batch, all ranks together.
        seed: Key of order and augmentation; ``None`` keeps the order and does not augment.

    Raises:
        UserError: If there are no images.
    """

    def __init__(
        self,
        read: Callable[[Tensor, int | None], tuple[Tensor, Tensor]],
        indices: Tensor,
        batch_size: int,
        seed: int | None = None,
    ) -> None:
        if not len(indices):
            raise UserError("there are no images to read")
        self.read = read
        self.indices = indices
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world = 0, 1
        self.epoch = 0
        self.position = 0

    def shard(self, rank: int, world: int) -> None:
        """Take the share of one of ``world`` processes.

        Raises:
            UserError: If a process would be left with fewer than two images of a training batch.
        """
        if self.seed is not None and len(self.indices) // len(self) < 2 * world:
            raise UserError(
                f"{len(self.indices)} images in batches of {self.batch_size} are too few for"
                f" {world} process(es): each needs at least two images of every batch"
            )
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self.seed is None:
            self.position = 0  # nothing to resume, and whoever broke off begins again
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
        order = self.indices
        if self.seed is not None:
            order = order[
                torch.randperm(len(order), generator=generator("order", self.seed, self.epoch))
            ]
        # equal parts rather than a short last batch, whose batch statistics would be poor
        parts = torch.tensor_split(order, len(self))
        while self.position < len(self):
            chosen = parts[self.position]
            mine = chosen[self.rank :: self.world]
            augmentation = (
                None
                if self.seed is None
                else stream("augment", self.seed, self.epoch, self.position, self.rank)
            )
            self.position += 1
            images, labels = self.read(mine, augmentation)
            yield Batch(images, labels, mine, len(mine) * self.world / len(chosen))

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, or go on where it stands if that is this one."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Return epoch and position."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state`` was taken."""
        self.epoch, self.position = state["epoch"], state["position"]
