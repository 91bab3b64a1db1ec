"""The one owner of images: index sets of the splits, read through one counting gate."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from geniu_lightning.data import cache
from geniu_lightning.data.images import ImageSpec, augment
from geniu_lightning.data.imbalance import evenly, split
from geniu_lightning.data.loader import Batch, IndexLoader
from geniu_lightning.data.sources import Source
from geniu_lightning.errors import UserError
from geniu_lightning.seeds import generator


class Imbalance(Protocol):
    """A function of `imbalance` with its settings bound."""

    def __call__(self, labels: Tensor, names: Sequence[str]) -> Tensor:
        """Return the indices that the training set keeps."""


class ImageData(LightningDataModule):
    """Images as tensors, read by index.

    Splits are ``train``, ``validation`` (cut from the imbalanced training images), ``test``
    (untouched), and, once `set_forget` was called, ``forget`` and ``retain``, which divide
    ``train``. Every read of any image passes `read` and is counted in ``reads``.

    Args:
        name: Name of the set, and of the folder of its local copy.
        source: Makes, of ``name`` and ``root``, where the pictures come from.
        root: Folder of local copies; see `HubSet`.
        image_size: Side of the square images, in pixels.
        channels: 1 (grey) or 3 (colour).
        imbalance: Which training images stay.
        batch_size: Images in a training batch, all processes together.
        mean: Subtracted by normalisation: one value, or one a channel.
        std: Divided by in normalisation: one value, or one a channel.
        pad: Augmentation: largest shift in pixels.
        flip: Augmentation: mirror half of the images.
        validation: Share of each class's training images that validates, in [0, 1).
        seed: Key of the order and augmentation of training batches.
        cache_folder: Where decoded sets are kept; ``None`` is the usual place.
        on_decode: Told how decoding goes; for both see `cache`.

    Raises:
        UserError: If a setting does not fit the images.
        DataNotFoundError: If the images are nowhere.
    """

    def __init__(
        self,
        *,
        name: str,
        source: Callable[..., Source],
        image_size: int,
        channels: int,
        imbalance: Imbalance,
        root: str | None = None,
        batch_size: int = 64,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        pad: int = 0,
        flip: bool = False,
        validation: float = 0.0,
        seed: int = 0,
        cache_folder: str | None = None,
        on_decode: Callable[[str, int, int], None] | None = None,
    ) -> None:
        super().__init__()
        self.spec = ImageSpec.of(image_size, channels, mean, std)
        if pad < 0:
            raise UserError(f"data.pad must be at least 0, got {pad}")
        if batch_size < 2:
            raise UserError(f"training.batch_size must be at least 2, got {batch_size}")
        self.batch_size = batch_size
        self.augmentation = (pad, flip)
        self.seed = seed
        self.reads: Counter[str] = Counter()
        self.name = name
        decoded = cache.load(
            source(name=name, root=root), image_size, channels, cache_folder, on_decode
        )
        self.names = decoded.names
        self.fingerprint = decoded.fingerprint
        self._images = decoded.images
        self._labels = decoded.labels
        kept = imbalance(decoded.labels["train"], decoded.names)
        train, held = split(decoded.labels["train"], kept, validation)
        self._indices = {
            "train": train,
            "validation": held,
            "test": torch.arange(len(decoded.labels["test"])),
        }

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class."""
        return torch.bincount(self.labels("train"), minlength=len(self.names)).tolist()

    def set_forget(self, forget: Sequence[int]) -> None:
        """Divide the training images into ``forget`` and ``retain``."""
        train = self._indices["train"]
        gone = torch.isin(self._labels["train"][train], torch.tensor(list(forget)))
        self._indices |= {"forget": train[gone], "retain": train[~gone]}

    def indices(self, which: str) -> Tensor:
        """Return the positions of a split's images in the training or test file, int64."""
        return self._indices[which]

    def labels(self, which: str) -> Tensor:
        """Return the labels of a split, in the order of its indices, int64."""
        return self._labels["test" if which == "test" else "train"][self._indices[which]]

    @property
    def all_labels(self) -> Tensor:
        """Labels of the whole training file, by position, int64."""
        return self._labels["train"]

    def place(self, device: torch.device) -> None:
        """Bring the images to an accelerator once, where they fill at most half of its free memory.

        Elsewhere, and on the CPU, they stay mapped from the file, and batches are moved.
        """
        if device.type != "cuda":
            return
        size = sum(images.numel() for images in self._images.values())
        if 2 * size < torch.cuda.mem_get_info(device)[0]:
            self._images = {k: images.to(device) for k, images in self._images.items()}

    def read(self, which: str, indices: Tensor, device: torch.device | None = None) -> Tensor:
        """Return images of a split by their positions, float32 in [0, 1], ``(N, C, H, W)``.

        The gate: nothing in the package gets at an image by another way.
        """
        self.reads[which] += len(indices)
        images = self._images["test" if which == "test" else "train"]
        picked = images[indices.to(images.device)]
        return picked.to(device or picked.device).float().div_(255.0)

    def exemplars(self, indices: Tensor) -> Tensor:
        """Return training images as they are, without augmentation, in [0, 1]."""
        return self.read("train", indices)

    def loader(
        self,
        which: str,
        *,
        batch_size: int | None = None,
        seed: int | None = None,
        device: torch.device | None = None,
        limit: int | None = None,
    ) -> IndexLoader:
        """Return batches of a split: shuffled and augmented with a seed, in order without.

        Args:
            which: The split.
            batch_size: Images in a batch; ``None`` is the module's own.
            seed: Of order and augmentation.
            device: Where the images go; ``None`` leaves them where they are.
            limit: At most so many images, drawn evenly over classes with the seed; ``None`` all.
        """
        labels = self._labels["test" if which == "test" else "train"]

        def fetch(indices: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
            images = self.read(which, indices, device)
            if augmentation is not None and any(self.augmentation):
                images = augment(
                    images, *self.augmentation, torch.Generator().manual_seed(augmentation)
                )
            return self.spec.normalise(images), labels[indices].to(images.device)

        indices = self._indices[which]
        if limit is not None:
            indices = evenly(indices, labels[indices], limit, generator("draw_evenly", seed or 0))
        return IndexLoader(fetch, indices, batch_size or self.batch_size, seed)

    def setup(self, stage: str) -> None:
        """Bring the images to the trainer's device."""
        if self.trainer is not None:
            self.place(self.trainer.strategy.root_device)

    def train_dataloader(self) -> IndexLoader:
        """Return this process's share of the training batches."""
        return self._of_trainer("train", self.seed)

    def val_dataloader(self) -> IndexLoader:
        """Return this process's share of the validation images; there must be some."""
        return self._of_trainer("validation", None)

    def _of_trainer(self, which: str, seed: int | None) -> IndexLoader:
        trainer = self.trainer
        assert trainer is not None  # Lightning calls the hooks above with a trainer attached
        loader = self.loader(which, seed=seed, device=trainer.strategy.root_device)
        loader.shard(trainer.global_rank, trainer.world_size)
        return loader

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Return the batch as it is: it was made on the device."""
        return batch
