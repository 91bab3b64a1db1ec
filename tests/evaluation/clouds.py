"""Classes that are clouds of points, with networks, proxies and contexts for them."""

from typing import Any

import torch
from torch import Tensor, nn

from geniu_lightning.evaluation.context import Context, Proxies, Split


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    """Features are the image itself, raised to a power, then a linear head."""

    def __init__(self, seed: int = 0, classes: int = 4, power: int = 1) -> None:
        super().__init__()
        self.head, self.power = nn.Linear(8, classes), power
        self.head.weight.data, self.head.bias.data = draw(seed, classes, 8), draw(seed + 1, classes)
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1) ** self.power


class Small(nn.Module):
    """One hidden layer with all that draws or counts: dropout and batch norm."""

    def __init__(self, seed: int = 0, size: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(size, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head = nn.Linear(16, classes)
        for k, parameter in enumerate(self.parameters()):
            parameter.data = draw(seed + 100 * k, *parameter.shape) / 3
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def images_of(seed: int, labels: Tensor, spread: float = 1.0) -> Tensor:
    """Classes are clouds around centres that do not depend on the seed."""
    images = 2 * draw(99, 5, 8)[labels] + spread * draw(seed, len(labels), 8)
    return images.unflatten(1, (2, 2, 2))


def split_of(seed: int, labels: Tensor, spread: float = 1.0) -> Split:
    images = images_of(seed, labels, spread)
    return Split(labels, lambda positions: images[positions])


def points(
    forget: tuple[int, ...] = (1,), classes: int = 4, each: int = 20, **more: Any
) -> Context:
    """Return a context of networks whose features are the images."""
    labels = torch.arange(classes * each) % classes
    shown: dict[str, Any] = {
        "original": Plain(1, classes),
        "unlearned": Plain(2, classes),
        "splits": {"test": split_of(3, labels, 2.0), "train": split_of(4, labels, 2.0)},
    }
    names = tuple("abcdefgh"[:classes])
    return Context(forget=forget, class_names=names, class_counts=(each,) * classes, **shown | more)


def clouds(proxies: Proxies | None, train: int = 100, test: int = 50, **more: Any) -> Context:
    """Return a context of untrained networks, with so many images of each class."""
    shown: dict[str, Any] = {
        "original": Small(1),
        "unlearned": Small(2),
        "oracles": (Small(3),),
        "forget": (1,),
        "fresh": Small,
        "splits": {
            "train": split_of(4, torch.arange(4 * train) % 4),
            "test": split_of(5, torch.arange(4 * test) % 4),
        },
    }
    names, counts = tuple("abcd"), (train,) * 4
    return Context(class_names=names, class_counts=counts, proxies=proxies, **shown | more)


def proxies_of(seed: int, each: int, spread: float = 1.0) -> Proxies:
    labels = torch.arange(4 * each) % 4
    return Proxies(images_of(seed, labels, spread), labels)


def without(proxies: Proxies, label: int) -> Proxies:
    left = proxies.labels != label
    return Proxies(proxies.images[left], proxies.labels[left])
