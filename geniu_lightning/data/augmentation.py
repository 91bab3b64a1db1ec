"""Random shifts and mirrored images, drawn from a stream."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.loader import IndexLoader


def augment(images: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Return images `(N, C, H, W)` shifted by up to `pad` pixels and, with `flip`, half mirrored.

    Black comes in from the border. The generator is on the CPU, so that every device draws the
    same.
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


def training_batches(
    images: Callable[[Tensor, int], Tensor],
    labels: Tensor,
    spec: ImageSpec,
    augmentation: tuple[int, bool],
    batch_size: int,
    seed: int,
) -> IndexLoader:
    """Return shuffled, augmented and normalised batches, as `ImageData` makes them in training.

    Args:
        images: Function from (indices, seed of what is drawn) to images in [0, 1], float32,
            `(N, C, H, W)`, on the device to work on.
        labels: int64, `(N,)`, on the CPU.
        spec: Form and normalisation.
        augmentation: `pad` and `flip` of `augment`.
        batch_size: Images in a batch, all processes together.
        seed: Key of order and augmentation.
    """

    def read(indices: Tensor, draw: int | None) -> tuple[Tensor, Tensor]:
        assert draw is not None  # as there is a seed
        picked = images(indices, draw)
        if any(augmentation):
            picked = augment(picked, *augmentation, torch.Generator().manual_seed(draw))
        return spec.normalise(picked), labels[indices].to(picked.device)

    return IndexLoader(read, torch.arange(len(labels)), batch_size, seed)
