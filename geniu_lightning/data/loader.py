"""Batches by index: no worker processes, exact shares of ranks, exact resume."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.seeds import generator, stream


class Batch(NamedTuple):
    """A batch of training or evaluation."""

    images: Tensor  # normalised, float32, (N, C, H, W)
    labels: Tensor  # int64, (N,)
    indices: Tensor  # positions in the data set, int64, (N,)
    weight: float  # of this rank's mean in the mean over ranks: share of the batch times ranks


class IndexLoader:
    """Batches of nearly equal size over a set of indices.

    The order is a function of (seed, epoch), and each rank takes its share of each batch, so any
    number of ranks sees the same batches. The state is the epoch and the position in it: a loader
    that loads it goes on with the next batch.

    Args:
        read: Function from (indices, augmentation seed or `None`) to (images, labels).
        indices: Positions in the data set, int64, shape `(N,)`.
        batch_size: Images in a batch, all ranks together.
        seed: Key of order and augmentation; `None` keeps the order and does not augment.
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
        """Restrict the batches to the share of one of `world` processes."""
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
            self.position = 0  # an evaluation that was interrupted begins again
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
        order = self.indices
        if self.seed is not None:
            draws = generator("order", self.seed, self.epoch)
            order = order[torch.randperm(len(order), generator=draws)]
        # equal parts rather than a short last batch, whose batch statistics would be poor
        parts = torch.tensor_split(order, len(self))
        while self.position < len(self):
            chosen = parts[self.position]
            mine = chosen[self.rank :: self.world]
            augmentation = None
            if self.seed is not None:
                augmentation = stream("augment", self.seed, self.epoch, self.position, self.rank)
            self.position += 1
            images, labels = self.read(mine, augmentation)
            yield Batch(images, labels, mine, len(mine) * self.world / len(chosen))

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; go on with it if it is the present one."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Return epoch and position."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self.epoch, self.position = state["epoch"], state["position"]
