"""Random shifts and mirrored images, drawn from a stream."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
