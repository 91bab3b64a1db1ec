"""What an image is in this project: its size, its range, its normalisation, its augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from geniu_lightning.errors import UserError


@dataclass(frozen=True)
class ImageSpec:
    """Form of the images of a data set.

    Args:
        size: Side of the square images, in pixels.
        channels: 1 (grey) or 3 (colour).
        mean: Mean of each channel that normalisation subtracts, in [0, 1].
        std: Deviation of each channel that it divides by, above 0.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(
        cls, size: int, channels: int, mean: float | Sequence[float], std: float | Sequence[float]
    ) -> "ImageSpec":
        """Build from one value for all channels or one for each.

        Raises:
            UserError: If size, channels or values are off, or a deviation is not positive.
        """
        if size < 1:
            raise UserError(f"data.image_size must be at least 1, got {size}")
        if channels not in (1, 3):
            raise UserError(f"data.channels must be 1 or 3, got {channels}")
        each = [
            tuple(v) if isinstance(v, Sequence) else (float(v),) * channels for v in (mean, std)
        ]
        if any(len(values) != channels for values in each) or min(each[1]) <= 0:
            raise UserError(
                f"data.mean and data.std must be one value or {channels}, data.std above 0;"
                f" got {mean} and {std}"
            )
        return cls(size, channels, each[0], each[1])

    def normalise(self, images: Tensor) -> Tensor:
        """Bring images from [0, 1] to what a classifier reads; shape ``(N, C, H, W)`` stays."""
        mean, std = self._shift_and_scale(images)
        return (images - mean) / std

    def restore(self, images: Tensor) -> Tensor:
        """Bring images from what a classifier reads back to [0, 1], but for rounding."""
        mean, std = self._shift_and_scale(images)
        return images * std + mean

    def _shift_and_scale(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = images.new_tensor(self.mean).view(1, -1, 1, 1)
        return mean, images.new_tensor(self.std).view(1, -1, 1, 1)


def augment(images: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``pad`` pixels (black comes in) and mirror half of them.

    Args:
        images: Any dtype, shape ``(N, C, H, W)``.
        pad: Largest shift, in pixels; 0 leaves the images where they are.
        flip: Whether to mirror left and right with probability one half.
        generator: Random stream, on the CPU so that every device draws the same.

    Returns:
        Augmented images, same shape and dtype.
    """
    count, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator).lt(0.5).to(device)
        columns = torch.where(mirrored, columns.flip(1), columns)
    if pad:
        shift = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator).to(device)
        images = F.pad(images, (pad, pad, pad, pad))
        rows, columns = rows + shift[0], columns + shift[1]
    every = torch.arange(count, device=device)[:, None, None]
    picked = images.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
