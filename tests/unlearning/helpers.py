"""Steps, numbers and inputs that many tests of methods share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from scipy.special import rel_entr, softmax
from torch import Tensor, nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import UnlearnBatch

GONE, KEPT = (1, 3), (0, 2, 4)
LABELS = torch.tensor([1, 0, 3, 4, 1, 2])
FORGOTTEN = np.isin(LABELS.numpy(), GONE)
TrainerOf = Callable[[int], Trainer]


def prepared(method: Any, kit: Kit, archive: Any) -> list[UnlearnBatch]:
    """Prepare a method, and return its batches."""
    method.prepare(kit, archive.sources(method.access, method.forget))
    return list(method.batches or [])


def run(method: Unlearner, kit: Kit, archive: Any, trainer_of: TrainerOf) -> nn.Module:
    return method.run(kit, archive.sources(method.access, method.forget), trainer_of)


def no_trainer(steps: int) -> Trainer:
    raise AssertionError("this method takes no steps")


def own_probability(network: nn.Module, archive: Any) -> tuple[float, float]:
    """Return the mean probability of the true class on the forget set and on the retain set."""
    p = network(archive.images).softmax(dim=1).gather(1, archive.labels[:, None]).squeeze(1)
    forget = torch.isin(archive.labels, torch.tensor(GONE))
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


def logits(seed: int, rows: int = 6) -> tuple[Tensor, np.ndarray]:
    drawn = 3 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))
    return drawn, drawn.double().numpy()


def masked(original: np.ndarray) -> np.ndarray:
    target = np.zeros_like(original)
    target[:, KEPT] = softmax(original[:, KEPT], axis=1)
    return target


def divergence(target: np.ndarray, now: np.ndarray) -> np.ndarray:
    return rel_entr(target, softmax(now, axis=1)).sum(axis=1)


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}
