"""Encoder and decoder between images and Gaussian latent codes, for distributions of a class."""

from typing import Annotated, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from geniu_lightning.settings.checked import PositiveInt, checked

CODE_SIDE = 4  # largest side of the maps next to the code
LARGEST_MULTIPLE = 4  # of the width, in channels
GROUPS = 8

Side = Annotated[int, Field(ge=8)]
Width = Annotated[int, Field(ge=8, multiple_of=8)]


class Codes(NamedTuple):
    """Mean and log variance of the latent codes of images, each `(N, latent)`."""

    mean: Tensor
    log_variance: Tensor


@checked
class Encoder(nn.Module):
    """Strided convolutions from images in [0, 1] to Gaussian codes; it does not leave training.

    No layer has batch statistics: what it makes of an image depends on no other image.
    """

    def __init__(
        self,
        channels: PositiveInt = 1,
        image_size: Side = 28,
        latent: PositiveInt = 64,
        width: Width = 32,
    ) -> None:
        super().__init__()
        sides, widths = _shape(image_size, width)
        pairs = zip((channels, *widths), widths, strict=False)
        self.blocks = nn.Sequential(*(_block(a, b, stride=2) for a, b in pairs))
        self.to_code = nn.Linear(widths[-1] * sides[-1] ** 2, 2 * latent)

    def forward(self, images: Tensor) -> Codes:
        """Return the codes of images `(N, C, H, W)`."""
        mean, log_variance = self.to_code(self.blocks(2 * images - 1).flatten(1)).chunk(2, dim=1)
        return Codes(mean, log_variance.clamp(-10, 10))


@checked
class Decoder(nn.Module):
    """Upsampling and convolutions from latent codes to images in [0, 1].

    Upsampling to the nearest, then a convolution, leaves no checkerboard, and group norm no
    statistics of the images that it was trained on.

    Args:
        latent: Width of a code.
        width: Channels of the maps at full size; smaller maps have up to four times as many.
    """

    def __init__(
        self,
        channels: PositiveInt = 1,
        image_size: Side = 28,
        latent: PositiveInt = 64,
        width: Width = 32,
    ) -> None:
        super().__init__()
        sides, widths = _shape(image_size, width)
        self.latent = latent
        self.shape = (widths[-1], sides[-1], sides[-1])
        self.expand = nn.Linear(latent, widths[-1] * sides[-1] ** 2)
        layers: list[nn.Module] = []
        outputs = (*reversed(widths[:-1]), width)
        for a, b, side in zip(reversed(widths), outputs, reversed(sides[:-1]), strict=True):
            layers += [nn.Upsample(size=(side, side)), _block(a, b)]
        self.blocks = nn.Sequential(*layers, _block(width, width))
        self.to_image = nn.Conv2d(width, channels, 3, 1, 1)

    def forward(self, codes: Tensor) -> Tensor:
        """Return images `(N, C, H, W)` of codes `(N, latent)`."""
        maps = self.blocks(self.expand(codes).view(-1, *self.shape))
        return cast(Tensor, self.to_image(maps)).sigmoid()


def drawn(codes: Codes, noise: torch.Generator) -> Tensor:
    """Return a draw from the Gaussian of each code, from a stream on the CPU."""
    standard = torch.randn(codes.mean.shape, generator=noise).to(codes.mean)
    return codes.mean + (0.5 * codes.log_variance).exp() * standard


def _shape(image_size: int, width: int) -> tuple[list[int], list[int]]:
    """Return the sides of the maps, the image's first, and the channels of each but the first."""
    sides, widths = [image_size], list[int]()
    while sides[-1] > CODE_SIDE:
        sides.append(-(-sides[-1] // 2))
        widths.append(width * min(2 ** len(widths), LARGEST_MULTIPLE))
    return sides, widths


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(GROUPS, outputs), nn.SiLU()
    )
