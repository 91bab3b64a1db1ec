"""Inputs that are fresh in every step: warped, mixed and pasted copies of images, and noise."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.seeds import generator
from geniu_lightning.unlearning.sources import UnlearnBatch, unlabelled

BENDS = ("rotate", "scale", "shear", "shift", "elastic")
KNOTS = 4  # a side of the grid whose random shifts bend an image
ASKED = 2048  # copies by which it is found how far images may be bent


@dataclass(frozen=True)
class Warps:
    """How far copies may be from their image. All draws are even in ± the value, but for elastic.

    Nobody has to recognise the result: a teacher says what each copy looks like to it.

    Args:
        rotate: Degrees.
        scale: Natural logarithm of the factor, for each axis on its own.
        shear: Tangent of the angle.
        shift: Of the side.
        elastic: Deviation of the shifts of a 4×4 grid of knots, in sides; between them the image
            bends smoothly.
        mix: Share of the images that are mixed with another copy, λx + (1 - λ)x' with λ even in
            [0, 1].
        paste: Share of the images into which a rectangle of another copy is pasted, its area even
            in [0, 1] of the image's before it is cut off at the edge.
        noise: Largest deviation of Gaussian noise, in units of normalised images; each image has a
            deviation of its own, even in [0, noise].

    Raises:
        UserError: If a value is negative or no number, or a share above 1.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    mix: float = 0.0
    paste: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, most = getattr(self, field.name), math.inf
            if field.name in ("mix", "paste"):
                most = 1.0
            if not (0 <= value <= most and math.isfinite(value)):
                raise UserError(
                    f"unlearner.warps.{field.name} must be a finite number of at least 0"
                    f"{' and at most 1' if most == 1 else ''}, got {value}"
                )

    def bent_by(self, strength: float) -> "Warps":
        """Return these with all that bends an image multiplied; the rest stays."""
        return replace(self, **{name: strength * getattr(self, name) for name in BENDS})

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Return a copy of each image, shape ``(N, C, H, W)``.

        Args:
            images: Normalised, same shape. What comes in at the edges is the image's reflection.
            random: Stream, on the CPU so that every device draws the same.
        """
        images = self._bent(images, random)
        images = self._mixed(images, random)
        images = self._pasted(images, random)
        if self.noise:
            deviation = self.noise * torch.rand(len(images), 1, 1, 1, generator=random)
            images = images + (deviation * torch.randn(images.shape, generator=random)).to(images)
        return images

    def _bent(self, images: Tensor, random: torch.Generator) -> Tensor:
        if not any(getattr(self, name) for name in BENDS):
            return images
        count, _, height, width = images.shape
        even = 2 * torch.rand(6, count, generator=random) - 1
        angle = math.radians(self.rotate) * even[0]
        across, down = (self.scale * even[1]).exp(), (self.scale * even[2]).exp()
        lean = self.shear * even[3]
        sine, cosine = angle.sin(), angle.cos()
        rows = [
            torch.stack([across * cosine, lean * across * cosine - down * sine], dim=1),
            torch.stack([across * sine, lean * across * sine + down * cosine], dim=1),
        ]
        move = 2 * self.shift * even[4:6].T  # a side is 2 long in the units of the grid
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
        middle = torch.rand(2, count, 1, generator=random)
        chosen = torch.rand(count, 1, generator=random) < self.paste
        half = torch.where(chosen, torch.rand(count, 1, generator=random).sqrt() / 2, 0.0)
        places = [(torch.arange(size) + 0.5) / size for size in (height, width)]
        down, across = ((place - m).abs() < half for place, m in zip(places, middle, strict=True))
        inside = (down[:, :, None] & across[:, None, :])[:, None].to(images.device)
        return torch.where(inside, other, images)


def readable_strength(
    warps: Warps,
    images: Tensor,
    named: Callable[[Tensor], Tensor],
    agreement: float,
    random: torch.Generator,
) -> float:
    """Return by how much to bend: most tenths of the warps at which images keep their names.

    Copies are asked about that are bent alone: of mixtures nobody knows the name.

    Args:
        warps: The strongest that may be.
        images: Normalised, shape ``(N, C, H, W)``.
        named: Says what images ``(M, C, H, W)`` are, shape ``(M,)``.
        agreement: Share of the copies to be named as their image is, in [0, 1].
        random: Stream, on the CPU.
    """
    asked = images[torch.randint(len(images), (ASKED,), generator=random).to(images.device)]
    names = named(asked)
    for tenths in range(10, 0, -1):
        bent = replace(warps.bent_by(tenths / 10), mix=0.0, paste=0.0, noise=0.0)
        if (named(bent(asked, random)) == names).float().mean() >= agreement:
            return tenths / 10
    return 0.0


class Warped:
    """Batches of warped copies of random images, shared out evenly over ranks.

    Args:
        images: What is copied, normalised, shape ``(N, C, H, W)``.
        warps: How.
        batch_size: Copies in a batch, all processes together.
        steps: Batches in an epoch.
        seed: Of the draws.
    """

    def __init__(
        self, images: Tensor, warps: Warps, batch_size: int, steps: int, seed: int
    ) -> None:
        self.images = images
        self.warps = warps
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.rank, self.world = 0, 1

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[UnlearnBatch]:
        for step in range(self.steps):
            random = generator("warped", self.seed, step)
            chosen = torch.randint(len(self.images), (self.batch_size,), generator=random)
            copies = self.warps(self.images[chosen.to(self.images.device)], random)
            own = copies[self.rank :: self.world]
            yield unlabelled(own, self.world * len(own) / self.batch_size)

    def shard(self, rank: int, world: int) -> None:
        """Take every ``world``-th copy: all ranks draw the whole batch, which costs little."""
        self.rank, self.world = rank, world


class Noise:
    """Fresh Gaussian noise in every step, the same and whole on every rank.

    Args:
        shape: Of a batch, ``(N, C, H, W)``.
        steps: Batches in an epoch.
        seed: Of the draws.
        device: Where the batches are to be.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], steps: int, seed: int, device: torch.device
    ) -> None:
        self.shape = shape
        self.steps = steps
        self.seed = seed
        self.device = device

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[UnlearnBatch]:
        for step in range(self.steps):
            random = generator("distill_noise", self.seed, step)
            yield unlabelled(torch.randn(self.shape, generator=random).to(self.device))

    def shard(self, rank: int, world: int) -> None:
        """Leave the batch whole: every rank draws the same, and equal gradients need no share."""
