"""Steps that many tests of methods share."""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import nn

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import UnlearnBatch

GONE, KEPT = (1, 3), (0, 2, 4)
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
