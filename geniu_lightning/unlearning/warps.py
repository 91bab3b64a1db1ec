"""Random warps of images: copies that are bent, mixed, pasted over and made noisy."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from geniu_lightning.seeds import generator
from geniu_lightning.settings.checked import Fraction, NonNegative, checked
from geniu_lightning.unlearning.batches import StepBatches, UnlearnBatch, unlabelled_batch

GEOMETRIC = ("rotate", "scale", "shear", "shift", "elastic")
KNOTS = 4  # side of the grid whose random shifts make the elastic warp
PROBES = 2048  # copies on which `readable_strength` measures the agreement of labels


@checked
@dataclass(frozen=True)
class Warps:
    """Ranges of random warps, each uniform in ± its value unless said otherwise.

    A copy need not be recognisable: its label is what a teacher answers for it.

    Args:
        rotate: Degrees.
        scale: Natural logarithm of the factor, for each axis independently.
        shear: Tangent of the angle.
        shift: Fraction of the side.
        elastic: Standard deviation of the shifts of a 4x4 grid of knots, as a fraction of the
            side, interpolated bicubically.
        mix: Fraction of images mixed with another copy, λx + (1 - λ)x' with λ uniform in [0, 1].
        paste: Fraction of images with a rectangle of another copy pasted in, its area uniform in
            [0, 1] of the image's before it is cut off at the edge.
        noise: Largest standard deviation of Gaussian noise, in units of normalised images; each
            image's is uniform in [0, noise].
    """

    rotate: NonNegative = 0.0
    scale: NonNegative = 0.0
    shear: NonNegative = 0.0
    shift: NonNegative = 0.0
    elastic: NonNegative = 0.0
    mix: Fraction = 0.0
    paste: Fraction = 0.0
    noise: NonNegative = 0.0

    def times(self, strength: float) -> "Warps":
        """Return the same warps with the geometric ones multiplied by `strength`."""
        return replace(self, **{name: strength * getattr(self, name) for name in GEOMETRIC})

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Return a warped copy of each normalised image `(N, C, H, W)`, edges by reflection.

        `random` is on the CPU, so that every device draws the same.
        """
        images = self._bent(images, random)
        images = self._mixed(images, random)
        images = self._pasted(images, random)
        if self.noise:
            deviation = self.noise * torch.rand(len(images), 1, 1, 1, generator=random)
            images = images + (deviation * torch.randn(images.shape, generator=random)).to(images)
        return images

    def _bent(self, images: Tensor, random: torch.Generator) -> Tensor:
        if not any(getattr(self, name) for name in GEOMETRIC):
            return images
        count, _, height, width = images.shape
        uniform = 2 * torch.rand(6, count, generator=random) - 1
        angle = math.radians(self.rotate) * uniform[0]
        across, down = (self.scale * uniform[1]).exp(), (self.scale * uniform[2]).exp()
        lean = self.shear * uniform[3]
        sine, cosine = angle.sin(), angle.cos()
        rows = [
            torch.stack([across * cosine, lean * across * cosine - down * sine], dim=1),
            torch.stack([across * sine, lean * across * sine + down * cosine], dim=1),
        ]
        move = 2 * self.shift * uniform[4:6].T  # the sampling grid has sides of length 2
        matrix = torch.cat([torch.stack(rows, dim=1), move[:, :, None]], dim=2)
        grid = F.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
        if self.elastic:
            knots = 2 * self.elastic * torch.randn(count, 2, KNOTS, KNOTS, generator=random)
            bend = F.interpolate(
                knots.to(images), size=(height, width), mode="bicubic", align_corners=True
            )
            grid = grid + bend.permute(0, 2, 3, 1)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def _mixed(self, images: Tensor, random: torch.Generator) -> Tensor:
        if not self.mix:
            return images
        other = images[torch.randperm(len(images), generator=random).to(images.device)]
        own = torch.rand(len(images), generator=random)
        chosen = torch.rand(len(images), generator=random) < self.mix
        own = torch.where(chosen, own, 1.0).to(images)[:, None, None, None]
        return own * images + (1 - own) * other

    def _pasted(self, images: Tensor, random: torch.Generator) -> Tensor:
        if not self.paste:
            return images
        count, _, height, width = images.shape
        other = images[torch.randperm(count, generator=random).to(images.device)]
        centre = torch.rand(2, count, 1, generator=random)
        chosen = torch.rand(count, 1, generator=random) < self.paste
        half = torch.where(chosen, torch.rand(count, 1, generator=random).sqrt() / 2, 0.0)
        places = [(torch.arange(size) + 0.5) / size for size in (height, width)]
        down, across = ((place - c).abs() < half for place, c in zip(places, centre, strict=True))
        inside = (down[:, :, None] & across[:, None, :])[:, None].to(images.device)
        return torch.where(inside, other, images)


def readable_strength(
    warps: Warps,
    images: Tensor,
    classify: Callable[[Tensor], Tensor],
    label_agreement: float,
    random: torch.Generator,
) -> float:
    """Return the largest tenth in [0, 1] of the geometric warps that leaves images readable.

    The fraction `label_agreement` of copies must be classified as their image. They are neither
    mixed, pasted over nor noisy, since a mixture has no one label.
    """
    probes = images[torch.randint(len(images), (PROBES,), generator=random).to(images.device)]
    labels = classify(probes)
    for tenths in range(10, 0, -1):
        bent = replace(warps.times(tenths / 10), mix=0.0, paste=0.0, noise=0.0)
        if (classify(bent(probes, random)) == labels).float().mean() >= label_agreement:
            return tenths / 10
    return 0.0


class WarpedBatches(StepBatches):
    """Batches of warped copies of random images, `batch_size` of all processes together."""

    def __init__(
        self, images: Tensor, warps: Warps, batch_size: int, steps: int, seed: int
    ) -> None:
        super().__init__(self._batch_at, steps)
        self.images = images
        self.warps = warps
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world = 0, 1

    def _batch_at(self, step: int) -> UnlearnBatch:
        random = generator("warped", self.seed, step)
        chosen = torch.randint(len(self.images), (self.batch_size,), generator=random)
        copies = self.warps(self.images[chosen.to(self.images.device)], random)
        own = copies[self.rank :: self.world]
        return unlabelled_batch(own, self.world * len(own) / self.batch_size)

    def shard(self, rank: int, world: int) -> None:
        """Take every `world`-th copy; every process draws the whole batch, which is cheap."""
        self.rank, self.world = rank, world
