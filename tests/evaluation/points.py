"""Images that are their own features: clouds around class centres, and plain linear heads."""

from typing import Any

import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Split


class Plain(nn.Module):
    """Features are the image itself, raised to a power, then a linear head."""

    def __init__(self, size: int, classes: int, seed: int = 0, power: int = 1) -> None:
        super().__init__()
        self.head, self.power = nn.Linear(size, classes), power
        draws = torch.Generator().manual_seed(seed)
        self.head.weight.data = torch.randn(classes, size, generator=draws)
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1) ** self.power


def images_of(seed: int, labels: Tensor, size: int = 6, spread: float = 1.0) -> Tensor:
    """Classes are clouds around centres that do not depend on the seed."""
    classes = int(labels.max()) + 1
    centres = torch.randn(classes, size, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(len(labels), size, generator=torch.Generator().manual_seed(seed))
    return (centres[labels] + spread * noise)[:, None, None]


def split_of(seed: int, labels: Tensor, **how: Any) -> Split:
    images = images_of(seed, labels, **how)
    return Split(labels, lambda positions: images[positions])


def points(
    forget: tuple[int, ...] = (1,), classes: int = 4, each: int = 20, **more: Any
) -> Context:
    labels = torch.arange(classes * each) % classes
    shown: dict[str, Any] = {
        "original": Plain(6, classes, 1),
        "unlearned": Plain(6, classes, 2),
        "splits": {"test": split_of(3, labels), "train": split_of(4, labels)},
    }
    names = tuple("abcdefgh"[:classes])
    return Context(forget=forget, class_names=names, class_counts=(each,) * classes, **shown | more)
