"""Learned noise: images on which a classifier's error is as large, or as small, as possible."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import generator
from geniu_lightning.unlearning.batches import StepBatches, UnlearnBatch, labelled_batch
from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.networks import Teacher

CHUNK = 256  # images of one forward pass; bounds memory where there are many classes


def learned_noise(
    kit: Kit,
    classes: Sequence[int],
    error: Literal["max", "min"],
    *,
    images: int,
    steps: int,
    rate: float,
    penalty: float,
) -> tuple[Tensor, Tensor]:
    """Return noise of each class that maximises the kit's classifier's error, or minimises it.

    Each of a class's `images` N starts from N(0, I) in normalised space and is moved by Adam down

    - `−CE(f(N), k) + λ ‖N‖²` for the largest error,
    - `CE(f(N), k) + λ ‖N‖²` for the smallest,

    `‖N‖²` the sum over its pixels, which bounds −CE, λ the `penalty`. f is a frozen copy of the
    classifier in evaluation mode, so images do not interact. Returned are normalised images, shape
    `(classes · images, C, H, W)`, class by class, and labels.

    Source:
        Tarun et al., Fast Yet Effective Machine Unlearning, arXiv 2111.08947 (`max`); Chundawat
        et al., Zero-Shot Machine Unlearning, arXiv 2201.05629 (both). Departures from their public
        code: all images of the batch are used, not as many as there are colour channels; each class
        is labelled with itself, where `max` labels all noise 0; evaluation mode. The sum over
        images stands for their mean, which Adam cannot tell apart.
    """
    network, spec = Teacher(kit.classifier).network, kit.info.spec
    device = next(network.parameters()).device
    labels = torch.tensor(list(classes), device=device).repeat_interleave(images)
    noise = torch.randn(len(labels), spec.channels, spec.size, spec.size).to(device)
    noise.requires_grad_()
    optimizer = torch.optim.Adam([noise], lr=rate)
    sign = -1 if error == "max" else 1
    for _ in range(steps):
        optimizer.zero_grad()
        for some, wanted in zip(noise.split(CHUNK), labels.split(CHUNK), strict=True):
            squares = some.square().sum(dim=(1, 2, 3))
            (sign * cross_entropy(network(some), wanted) + penalty * squares).sum().backward()
        optimizer.step()
    return noise.detach(), labels


def noise_batches(
    images: Tensor,
    labels: Tensor,
    forget: Sequence[int],
    *,
    batch_size: int,
    steps: int,
    seed: int,
) -> StepBatches:
    """Return batches of shuffled learned noise, equally many images of each class in each.

    Images come class by class, equally many of each. The batch size is rounded down to a multiple
    of the classes, at least one image of each. The order is a function of seed and epoch.
    """
    classes = len(labels.unique())
    count = len(labels) // classes
    parts = -(-count // max(1, batch_size // classes))

    def batch_of(step: int) -> UnlearnBatch:
        epoch, part = divmod(step, parts)
        random = generator("unlearn_noise", seed, epoch)
        orders = [k * count + torch.randperm(count, generator=random) for k in range(classes)]
        chosen = torch.stack(orders).tensor_split(parts, dim=1)[part].flatten().to(images.device)
        return labelled_batch(images[chosen], labels[chosen], forget)

    return StepBatches(batch_of, steps)
