"""Logit mask: a bias that forbids the answer. The baseline of every method."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from geniu_lightning.kit.networks import head_of
from geniu_lightning.settings.checked import Positive
from geniu_lightning.unlearning.base import Unlearner


class LogitMask(Unlearner):
    """Zeroes the forget classes' rows of the head and sets their biases below every other logit.

    Features are unchanged, and a head row set to the mean feature of the class restores it: the
    class is suppressed, not forgotten. The bias is finite, for minus infinity breaks cross-entropy
    and export.
    """

    def __init__(self, *, offset: Positive = 1e4, **settings: Any) -> None:
        super().__init__(**settings)
        self.offset = offset

    def finish(self) -> None:
        """Mask the head."""
        mask_head(self.classifier, self.forget, self.offset)


@torch.no_grad()
def mask_head(classifier: nn.Module, forget: Sequence[int], offset: float = 1e4) -> None:
    """Zero the rows of the head of some classes and set their biases to `-offset`, in place."""
    head = head_of(classifier)
    head.weight[list(forget)] = 0.0
    head.bias[list(forget)] = -offset
