"""The proxy generator: a variational autoencoder that turns a noise prompt into an image."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn


class Generated(NamedTuple):
    """What a generator makes of prompts.

    Attributes:
        images: In the data's own range [0, 1], shape ``(N, C, H, W)``.
        mean: Of the latent code, shape ``(N, latent)``.
        log_variance: Of the latent code, same shape.
    """

    images: Tensor
    mean: Tensor
    log_variance: Tensor


WIDTHS = (32, 64, 128, 256)  # GENIU's encoder; everything else here is our reading of it


class VAE(nn.Module):
    """Four strided 3×3 blocks down to a Gaussian latent code, four up to an image.

    Args:
        channels: Channels of prompts and images.
        image_size: Side of prompts and images, 16 to 64 pixels.
        latent: Width of the latent code; 128 gives 1,180,641 parameters for grey images of 28 or
            32 pixels.

    Raises:
        ValueError: If the size is outside 16 to 64.

    Source:
        GENIU, arXiv 2406.07885: channels 32, 64, 128, 256 and a symmetric decoder. Kernels, norm,
        activations and the latent's width are ours, chosen to fit the storage it reports.
    """

    def __init__(self, channels: int = 1, image_size: int = 28, latent: int = 128) -> None:
        super().__init__()
        if not 16 <= image_size <= 64:
            raise ValueError(f"image_size must lie in 16 to 64, got {image_size}")
        sizes = [image_size]
        for _ in WIDTHS:
            sizes.append(-(-sizes[-1] // 2))
        self.code_shape = (WIDTHS[-1], sizes[-1], sizes[-1])
        flat = WIDTHS[-1] * sizes[-1] ** 2
        down = [_down(a, b) for a, b in zip((channels, *WIDTHS), WIDTHS, strict=False)]
        self.encoder = nn.Sequential(*down)
        self.mean = nn.Linear(flat, latent)
        self.log_variance = nn.Linear(flat, latent)
        self.expand = nn.Linear(latent, flat)
        outputs = (*reversed(WIDTHS[:-1]), WIDTHS[0])
        up = [
            _up(a, b, small, large)
            for a, b, small, large in zip(
                reversed(WIDTHS), outputs, sizes[:0:-1], sizes[-2::-1], strict=True
            )
        ]
        self.decoder = nn.Sequential(*up)
        self.to_image = nn.Conv2d(WIDTHS[0], channels, 3, 1, 1)

    def encode(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latent code of prompts ``(N, C, H, W)``."""
        code = self.encoder(prompts).flatten(1)
        return self.mean(code), self.log_variance(code)

    def decode(self, latent: Tensor) -> Tensor:
        """Return images in [0, 1] of latent codes, shape ``(N, latent)``."""
        maps = self.decoder(self.expand(latent).view(-1, *self.code_shape))
        return cast(Tensor, self.to_image(maps)).sigmoid()

    def forward(
        self, prompts: Tensor, sample: bool = True, generator: torch.Generator | None = None
    ) -> Generated:
        """Return the images of prompts ``(N, C, H, W)``.

        Args:
            prompts: Noise in the form of images.
            sample: Draw the latent code; otherwise decode its mean, which is deterministic.
            generator: Stream that the code is drawn from, on the CPU.
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
    # an odd side was rounded up on the way down, so the way back adds a pixel or not
    layer = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=large - (2 * small - 1))
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))
