"""Map-style torch data sets as a source of images."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from PIL.Image import fromarray

from geniu_lightning.data.sources import Pictures
from geniu_lightning.errors import UserError, first_line
from geniu_lightning.settings.checked import checked


@runtime_checkable
class MapStyle(Protocol):
    """A map-style `torch.utils.data.Dataset` of (image, label)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@checked
class MapDataset:
    """Two map-style torch data sets of (image, label), with transforms of their own.

    An image is a PIL picture or a tensor of shape `(C, H, W)` or `(H, W)`, uint8 or float in
    [0, 1]. Every sample is read when the cache is made, and never again: a random transform is
    frozen. Random shifts and mirrored images are `pad` and `flip` of `ImageData`, normalisation its
    `mean` and `std`.

    Args:
        name: Part of the cache's key.
        root: Not used.
        names: In the order of their labels; `None` takes `train.classes`, else the labels.
        version: Part of the cache's key: change it when samples or transforms change.
    """

    def __init__(
        self,
        name: str,
        root: str | None = None,
        *,
        train: MapStyle,
        test: MapStyle,
        names: Sequence[str] | None = None,
        version: str = "",
    ) -> None:
        self.name = name
        self.sets = {"train": train, "test": test}
        self.names = names
        self.version = version

    def key(self) -> str:
        """Name the set, its version, and the type and length of each split."""
        splits = [(type(s).__module__, type(s).__qualname__, len(s)) for s in self.sets.values()]
        return f"map|{self.name}|{self.version}|{splits}"

    def read(self, split: str) -> Pictures:
        """Return one split."""
        samples = self.sets[split]
        try:
            labels = [int(samples[k][1]) for k in range(len(samples))]
        except (TypeError, ValueError, LookupError) as error:
            raise UserError(
                f"a sample of the {split} set must be a pair of an image and an integer label:"
                f" {first_line(error)}"
            ) from error
        numbers = range(1 + max(labels, default=0))
        classes = self.names or getattr(self.sets["train"], "classes", None) or numbers
        names = tuple(map(str, classes))
        if labels and not 0 <= min(labels) <= max(labels) < len(names):
            raise UserError(
                f"the labels of the {split} set lie in {min(labels)} to {max(labels)}, but there"
                f" are {len(names)} classes"
            )
        return Pictures(lambda k: _picture_of(samples[k][0]), labels, names)


def _picture_of(image: Any) -> Any:  # a PIL picture, or what its author made; the cache checks it
    """Return a picture of a tensor; other images as they are."""
    import torch
    from torch import Tensor

    if not isinstance(image, Tensor):
        return image
    if image.dtype != torch.uint8:
        if not (image.is_floating_point() and image.min() >= 0 and image.max() <= 1):
            raise ValueError(
                "a tensor must be uint8 or floats in [0, 1], without normalisation: set data.mean"
                f" and data.std instead (got {image.dtype} from {image.min()} to {image.max()})"
            )
        image = image.mul(255).round().to(torch.uint8)
    if image.dim() not in (2, 3) or (image.dim() == 3 and image.shape[0] not in (1, 3)):
        raise ValueError(f"a tensor must have shape (1 or 3, H, W) or (H, W), got {image.shape}")
    pixels = image.reshape(-1, *image.shape[-2:]).permute(1, 2, 0)
    return fromarray(pixels.squeeze(2).contiguous().numpy())
