"""Labelled images that a user hands over: tensors, a data set, or batches."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.imbalance import evenly
from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.errors import UserError

AT_ONCE = 256  # images of a data set that are collated together

# two tensors, a data set that is read by index, or batches of images and labels
Images = tuple[Tensor, Tensor] | Dataset[Any] | Iterable[Any]


def tensors_of(data: Images) -> tuple[Tensor, Tensor]:
    """Return all images and labels as two tensors."""
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(x, Tensor) for x in data):
        return data
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=AT_ONCE)
    parts = [pair_of(batch) for batch in _batches(data)]
    if not parts:
        raise UserError("data holds no image")
    try:
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    except (TypeError, RuntimeError) as error:
        raise UserError(f"the batches of data cannot be put together: {error}") from error


def _batches(data: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from data
    except TypeError as error:  # of collation: pictures that are no tensors yet
        raise UserError(f"data must give tensors of images and labels: {error}") from error


def pair_of(batch: Any) -> tuple[Tensor, Tensor]:
    """Return images and labels of a batch that begins with them; refuse any other."""
    if not (isinstance(batch, tuple | list) and len(batch) >= 2):
        raise UserError(
            "data must give pairs of images and labels, as a DataLoader over a data set of"
            f" (image, label) does; got {type(batch).__name__}: KitCallback can be passed a"
            " function that reads a batch of another form, reader=..."
        )
    return batch[0], batch[1]


def refuse_misfits(images: Any, labels: Any, spec: ImageSpec, classes: int) -> None:
    """Refuse what is no float32 images of a spec's form, and an integer label `(N,)` for each."""
    shape = (spec.channels, spec.size, spec.size)
    fits = isinstance(images, Tensor) and images.dim() == 4 and images.shape[1:] == shape
    if not fits or images.dtype != torch.float32:
        raise UserError(
            "images must be normalised floats (float32) of the shape"
            f" (N, {', '.join(map(str, shape))}), got {_form(images)}"
        )
    if not len(images):
        raise UserError("data holds no image")
    whole = isinstance(labels, Tensor) and labels.dim() == 1 and len(labels) == len(images)
    whole = whole and not labels.is_floating_point() and labels.dtype != torch.bool
    if not whole or labels.min() < 0 or labels.max() >= classes:
        found = f", {int(labels.min())} to {int(labels.max())}" if whole else ""
        raise UserError(
            f"there must be one integer label from 0 to {classes - 1} for each image, got"
            f" {_form(labels)}{found}"
        )


def _form(found: Any) -> str:
    if not isinstance(found, Tensor):
        return type(found).__name__
    return f"{str(found.dtype).removeprefix('torch.')} of {tuple(found.shape)}"


class GivenImages:
    """Images on the device to work on, their labels on the CPU, and how many were read."""

    def __init__(self, images: Tensor, labels: Tensor, forget: tuple[int, ...]) -> None:
        self.images = images
        self.labels = labels
        self.reads = 0
        gone = torch.isin(labels, torch.tensor(forget))
        self.indices = {"forget": gone.nonzero().flatten(), "retain": (~gone).nonzero().flatten()}

    def open(self, split: str, batch_size: int, seed: int | None, limit: int | None) -> IndexLoader:
        """Return batches of `forget` or `retain`, as `ImageData.loader` does."""
        indices = self.indices[split]
        if not len(indices):
            raise UserError(f"data holds no image to {split}")
        return IndexLoader(self._read, evenly(indices, self.labels, limit, seed), batch_size, seed)

    def _read(self, indices: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
        self.reads += len(indices)
        place = indices.to(self.images.device)
        return self.images[place], self.labels[indices].to(self.images.device)
