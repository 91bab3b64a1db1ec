"""The data module: index sets of the splits, read through one counting gate."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field
from pytorch_lightning import LightningDataModule
from torch import Tensor

from geniu_lightning.data import cache
from geniu_lightning.data.augmentation import augment
from geniu_lightning.data.images import ImageSpec, Side
from geniu_lightning.data.imbalance import evenly, split
from geniu_lightning.data.loader import Batch, IndexLoader
from geniu_lightning.data.pixels import Form, Resize
from geniu_lightning.data.sources import Source
from geniu_lightning.errors import SettingError
from geniu_lightning.settings.checked import Fraction, NonNegativeInt, checked

Imbalance = Callable[[Tensor, Sequence[str]], Tensor]


@checked
class ImageData(LightningDataModule):
    """Images as tensors, read by index.

    Splits are `train`, `validation` (cut from the imbalanced training images), `test`
    (untouched), and, after `set_forget`, `forget` and `retain`, which divide `train`. `read`
    is the only way to an image, and counts in `reads`.

    The images are decoded and opened by `prepare_data` and `setup`, or at the first use.

    Args:
        name: Name of the set, and of the folder of its local copy.
        source: Called with `name` and `root`, returns the source of the pictures.
        image_size: Side of the square images, in pixels.
        imbalance: Returns the training images to keep; see `data.imbalance`.
        root: Folder of local copies; see `HubSet`.
        batch_size: Images in a training batch, all processes together.
        mean: Of normalisation, like `std`: one value, or one a channel.
        pad: Augmentation: largest shift in pixels, at most a whole image.
        flip: Augmentation: mirror half of the images.
        validation: Share of each class's training images that validates.
        seed: Key of the order and augmentation of training batches.
        resize: What becomes of pictures that are no square, see `Form`.
        background: Grey behind transparent pixels, see `Form`.

    Attributes:
        training_split: Split of the training batches, `train`, or `retain` for an oracle.
    """

    def __init__(
        self,
        *,
        name: str,
        source: Callable[..., Source],
        image_size: Side,
        channels: Literal[1, 3],
        imbalance: Imbalance,
        root: str | None = None,
        batch_size: Annotated[int, Field(ge=2)] = 64,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        pad: NonNegativeInt = 0,
        flip: bool = False,
        validation: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        seed: int = 0,
        resize: Resize = "squash",
        background: Fraction = 1.0,
    ) -> None:
        super().__init__()
        if pad > image_size:
            raise SettingError(f"must be at most image_size, {image_size}, got {pad}", key="pad")
        self.name = name
        self.spec = ImageSpec.of(image_size, channels, mean, std)
        self.imbalance = imbalance
        self.batch_size = batch_size
        self.augmentation = (pad, flip)
        self.validation = validation
        self.seed = seed
        self.form = Form(image_size, channels, resize, background)
        self.reads: Counter[str] = Counter()
        self.training_split = "train"
        try:
            self.source = source(name=name, root=root)
        except SettingError as error:
            raise error.below("source") from error

    def prepare_data(self, on_decode: cache.OnDecode | None = None) -> None:
        """Decode the images into the cache, unless it has them."""
        cache.prepare(self.source, self.form, on_decode)

    def setup(self, stage: str = "fit") -> None:
        """Open the cache, make the index sets, and bring the images to the trainer's device."""
        _ = self._indices  # opens the cache
        if self.trainer is not None:
            self.place(self.trainer.strategy.root_device)

    @cached_property
    def _decoded(self) -> cache.Decoded:
        return cache.load(self.source, self.form)

    @cached_property
    def _indices(self) -> dict[str, Tensor]:
        labels = self._decoded.labels
        try:
            kept = self.imbalance(labels["train"], self.names)
        except SettingError as error:
            raise error.below("imbalance") from error
        train, held = split(labels["train"], kept, self.validation)
        return {"train": train, "validation": held, "test": torch.arange(len(labels["test"]))}

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in the order of their indices."""
        return self._decoded.names

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all pixels and labels of the whole set."""
        return self._decoded.fingerprint

    @property
    def class_fingerprints(self) -> dict[str, dict[str, str]]:
        """SHA-256 over the pixels of each class, by split and name."""
        return self._decoded.class_fingerprints

    def number_as(self, names: Sequence[str]) -> None:
        """Number the classes by their places in `names`, which may have more. Before `setup`."""
        place = torch.tensor([list(names).index(name) for name in self.names])
        labels = {split: place[own] for split, own in self._decoded.labels.items()}
        self._decoded = replace(self._decoded, labels=labels, names=tuple(names))

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class."""
        return torch.bincount(self.labels("train"), minlength=len(self.names)).tolist()

    @property
    def all_labels(self) -> Tensor:
        """Labels of the whole training file, by position, int64."""
        return self._decoded.labels["train"]

    def set_forget(self, forget: Sequence[int]) -> None:
        """Divide the training images into `forget` and `retain`."""
        train = self._indices["train"]
        forgotten = torch.isin(self.all_labels[train], torch.tensor(list(forget)))
        self._indices |= {"forget": train[forgotten], "retain": train[~forgotten]}

    def indices(self, which: str) -> Tensor:
        """Return the positions of a split's images in the training or test file, int64."""
        return self._indices[which]

    def labels(self, which: str) -> Tensor:
        """Return the labels of a split, in the order of its indices, int64."""
        return self._decoded.labels[_file_of(which)][self._indices[which]]

    def place(self, device: torch.device) -> None:
        """Move the images to an accelerator if they fill at most half of its free memory."""
        if device.type != "cuda":
            return
        images = self._decoded.images
        if 2 * sum(one.numel() for one in images.values()) < torch.cuda.mem_get_info(device)[0]:
            moved = {k: one.to(device) for k, one in images.items()}
            self._decoded = replace(self._decoded, images=moved)

    def read(self, which: str, indices: Tensor, device: torch.device | None = None) -> Tensor:
        """Return images of a split by their positions, float32 in [0, 1], `(N, C, H, W)`."""
        self.reads[which] += len(indices)
        images = self._decoded.images[_file_of(which)]
        picked = images[indices.to(images.device)]
        return picked.to(device or picked.device).float().div_(255.0)

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

        At most `limit` images are drawn, evenly over classes with the seed.
        """
        labels = self._decoded.labels[_file_of(which)]

        def fetch(indices: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
            images = self.read(which, indices, device)
            if augmentation is not None and any(self.augmentation):
                draw = torch.Generator().manual_seed(augmentation)
                images = augment(images, *self.augmentation, draw)
            return self.spec.normalise(images), labels[indices].to(images.device)

        indices = evenly(self._indices[which], labels, limit, seed)
        return IndexLoader(fetch, indices, batch_size or self.batch_size, seed)

    def train_dataloader(self) -> IndexLoader:
        """Return this process's share of the training batches."""
        return self._share(self.training_split, self.seed)

    def val_dataloader(self) -> IndexLoader:
        """Return this process's share of the validation images; `validation` must be above 0."""
        return self._share("validation", None)

    def _share(self, which: str, seed: int | None) -> IndexLoader:
        trainer = self.trainer
        if trainer is None:
            return self.loader(which, seed=seed)
        loader = self.loader(which, seed=seed, device=trainer.strategy.root_device)
        loader.shard(trainer.global_rank, trainer.world_size)
        return loader

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Return the batch as it is: it was made on the device."""
        return batch


def _file_of(which: str) -> str:
    return "test" if which == "test" else "train"
