"""The proxy generator: a variational autoencoder from noise prompts to images."""

from typing import Annotated, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from geniu_lightning.settings.checked import PositiveInt, checked


class Generated(NamedTuple):
    """Images in [0, 1], and mean and log variance of their latent codes `(N, latent)`."""

    images: Tensor
    mean: Tensor
    log_variance: Tensor


MULTIPLES = (1, 2, 4, 8)  # channels of GENIU's encoder, as multiples of the width
CODE_SIDE = 4  # largest side of the last maps


@checked
class VAE(nn.Module):
    """Strided 3×3 blocks to a Gaussian latent code, and mirrored blocks back to an image.

    Images up to 64 pixels have four blocks. Larger ones have more blocks of the last width (five up
    to 128 pixels, six up to 256), so that the maps next to the code are at most 4×4.

    Args:
        latent: Width of the latent code; 128 gives 1,180,641 parameters for grey images of 28 or
            32 pixels.
        width: Channels of the first block; the others have 2, 4 and 8 times as many.

    Source:
        GENIU, arXiv 2406.07885: channels 32, 64, 128, 256 and a symmetric decoder. Kernels, norm,
        activations and the latent's width are ours, chosen to fit the storage it reports. Images
        above 64 pixels are ours.
    """

    def __init__(
        self,
        channels: PositiveInt = 1,
        image_size: Annotated[int, Field(ge=16)] = 28,
        latent: PositiveInt = 128,
        width: PositiveInt = 32,
    ) -> None:
        super().__init__()
        widths = [multiple * width for multiple in MULTIPLES]
        sizes = [image_size]
        for _ in widths:
            sizes.append(-(-sizes[-1] // 2))
        while sizes[-1] > CODE_SIDE:
            sizes.append(-(-sizes[-1] // 2))
            widths.append(widths[-1])
        self.code_shape = (widths[-1], sizes[-1], sizes[-1])
        flat = widths[-1] * sizes[-1] ** 2
        down = [_down(a, b) for a, b in zip((channels, *widths), widths, strict=False)]
        self.encoder = nn.Sequential(*down)
        self.mean = nn.Linear(flat, latent)
        self.log_variance = nn.Linear(flat, latent)
        self.expand = nn.Linear(latent, flat)
        outputs = (*reversed(widths[:-1]), widths[0])
        up = [
            _up(a, b, small, large)
            for a, b, small, large in zip(
                reversed(widths), outputs, sizes[:0:-1], sizes[-2::-1], strict=True
            )
        ]
        self.decoder = nn.Sequential(*up)
        self.to_image = nn.Conv2d(widths[0], channels, 3, 1, 1)

    def encode(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latent code of prompts `(N, C, H, W)`."""
        code = self.encoder(prompts).flatten(1)
        return self.mean(code), self.log_variance(code)

    def decode(self, latent: Tensor) -> Tensor:
        """Return images in [0, 1] of latent codes, shape `(N, latent)`."""
        maps = self.decoder(self.expand(latent).view(-1, *self.code_shape))
        return cast(Tensor, self.to_image(maps)).sigmoid()

    def forward(
        self, prompts: Tensor, sample: bool = True, generator: torch.Generator | None = None
    ) -> Generated:
        """Return the images of prompts `(N, C, H, W)`.

        `sample` draws the latent code, from `generator` on the CPU; otherwise its mean is decoded.
        """
        mean, log_variance = self.encode(prompts)
        latent = mean
        if sample:
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            latent = mean + (0.5 * log_variance).exp() * noise
        return Generated(self.decode(latent), mean, log_variance)


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)
    )


def _up(inputs: int, outputs: int, small: int, large: int) -> nn.Sequential:
    # an even side needs one pixel more than 2 * small - 1
    layer = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=large - (2 * small - 1))
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))
