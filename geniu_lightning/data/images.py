"""Form and normalisation of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field

from geniu_lightning.errors import SettingError
from geniu_lightning.settings.checked import Finite, Positive, checked, shown

if TYPE_CHECKING:
    from torch import Tensor

Side = Annotated[int, Field(ge=1, le=1024)]  # pixels


@checked
@dataclass(frozen=True)
class ImageSpec:
    """Form and normalisation of the images of a data set.

    Args:
        size: Side of the square images, in pixels.
        channels: 1 (grey) or 3 (colour).
        mean: Subtracted from each channel, on a scale of 0 to 1.
        std: Divides each channel.
    """

    size: Side
    channels: Literal[1, 3]
    mean: tuple[Finite, ...]
    std: tuple[Positive, ...]

    def __post_init__(self) -> None:
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise SettingError(
                    f"must be one value, or one for each of {self.channels} channels,"
                    f" got {shown(values)}",
                    key=key,
                )

    @classmethod
    def of(
        cls, size: int, channels: int, mean: float | Sequence[float], std: float | Sequence[float]
    ) -> "ImageSpec":
        """Build from one value for all channels or one for each."""
        each = [
            tuple(v) if isinstance(v, Sequence) else (float(v),) * channels for v in (mean, std)
        ]
        return cls(size, cast(Literal[1, 3], channels), each[0], each[1])

    def normalise(self, images: "Tensor") -> "Tensor":
        """Return images in [0, 1] as a classifier reads them, shape `(N, C, H, W)`."""
        mean, std = self._shift_and_scale(images)
        return (images - mean) / std

    def restore(self, images: "Tensor") -> "Tensor":
        """Return normalised images on the scale of 0 to 1: inverse of `normalise`."""
        mean, std = self._shift_and_scale(images)
        return images * std + mean

    def _shift_and_scale(self, images: "Tensor") -> "tuple[Tensor, Tensor]":
        mean = images.new_tensor(self.mean).view(1, -1, 1, 1)
        return mean, images.new_tensor(self.std).view(1, -1, 1, 1)
