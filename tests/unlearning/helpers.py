"""A kit with images and trainers, numbers and inputs that many tests of methods share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.kit.archive import encoded
from geniu_lightning.kit.archive_info import ArchiveSettings
from geniu_lightning.kit.file import Kit
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.seeds import stream
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.sources import Access, Sources

GONE, KEPT = (1, 3), (0, 2, 4)

CLASSES, PER_CLASS, SIZE = 5, 2, 16
SPEC = ImageSpec.of(SIZE, 1, 0.2, 0.4)
LOSSLESS = ArchiveSettings(format="lossless")


def pictures(labels: Tensor, seed: int) -> Tensor:
    """Return images in [0, 1]: a bright band whose place is the class, and noise."""
    noise = torch.rand(len(labels), 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    rows = torch.arange(SIZE).view(1, 1, SIZE, 1)
    band = (rows - 3 * labels.view(-1, 1, 1, 1)).abs() <= 2
    return 0.7 * band + 0.3 * noise


def archived(images: Tensor) -> Tensor:
    """Return the part of a class in an archive."""
    return encoded(images, LOSSLESS)


def initial(seed: int) -> nn.Module:
    """Return the network that training begins with."""
    with torch.random.fork_rng():
        torch.manual_seed(stream("init", seed))
        return AllCNN(channels=1, num_classes=CLASSES, width=4)


def trainer_of(steps: int, **more: Any) -> Trainer:
    """Return a real trainer for a number of steps, as the app makes it."""
    return Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **{"devices": 1, "logger": False} | more,
    )


class Lab:
    """A kit, and training images, opened as the app opens them, of which it notes the reads."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.labels = torch.arange(CLASSES).repeat(9)
        self.images = SPEC.normalise(pictures(self.labels, seed=11))
        self.opened: list[tuple[str, int, int]] = []
        self.limits: list[int | None] = []
        self.read: list[int] = []  # labels, in the order of reading
        self.forget: tuple[int, ...] = ()

    def sources(self, access: Access, forget: tuple[int, ...]) -> Sources:
        self.forget = forget
        return Sources(access, forget, self.open_split)

    def open_split(
        self, split: str, batch_size: int, seed: int | None, limit: int | None = None
    ) -> IndexLoader:
        self.opened.append((split, batch_size, seed))
        self.limits.append(limit)
        gone = torch.isin(self.labels, torch.tensor(self.forget))
        indices = {"forget": gone, "retain": ~gone}[split].nonzero().flatten()[:limit]

        def read(chosen: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
            self.read += self.labels[chosen].tolist()
            return self.images[chosen], self.labels[chosen]

        return IndexLoader(read, indices, batch_size, seed)

    def prepared(self, method: Any) -> list[UnlearnBatch]:
        """Prepare a method, and return its batches."""
        method.prepare(self.kit, self.sources(method.access, method.forget))
        return list(method.batches or [])

    def run(self, method: Unlearner, trainer: Callable[[int], Trainer] = trainer_of) -> nn.Module:
        return method.run(self.kit, self.sources(method.access, method.forget), trainer)

    def counts(self) -> list[int]:
        """Return how many images of each class were read."""
        return torch.bincount(torch.tensor(self.read), minlength=CLASSES).tolist()

    def own_probability(self, network: nn.Module) -> tuple[float, float]:
        """Return the mean probability of the true class on the forget set and on the retain set."""
        p = network(self.images).softmax(dim=1).gather(1, self.labels[:, None]).squeeze(1)
        forget = torch.isin(self.labels, torch.tensor(GONE))
        return p[forget].mean().item(), p[~forget].mean().item()


def move_head(method: Unlearner) -> None:
    """Move the classifier away from its original, which cannot then be mistaken for it."""
    torch.manual_seed(0)
    with torch.no_grad():
        weight = method.classifier.head.weight
        weight.add_(0.5 * torch.randn_like(weight))


def on_logits(method: Any, original: Tensor | None = None) -> Any:
    """Return a method whose classifier passes its inputs on as logits, as may its teacher."""
    method.classifier = nn.Identity()
    method.teacher = lambda images: original
    return method


def same_but_the_head(result: nn.Module, original: nn.Module) -> bool:
    after, before = result.state_dict(), original.state_dict()
    return all(torch.equal(after[k], t) for k, t in before.items() if not k.startswith("head."))


def masked(original: np.ndarray) -> np.ndarray:
    target = np.zeros_like(original)
    target[:, KEPT] = softmax(original[:, KEPT], axis=1)
    return target


def divergence(target: np.ndarray, now: np.ndarray) -> np.ndarray:
    return rel_entr(target, softmax(now, axis=1)).sum(axis=1)


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}
