"""Random labels: train the forget set on labels of other classes."""

from typing import Any

import torch
from torch import Tensor

from geniu_lightning.settings.checked import NonNegative
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import cross_entropy, random_retained_labels
from geniu_lightning.unlearning.sources import Access
from geniu_lightning.unlearning.tuning import Tuning


class RandomLabel(Tuning):
    """Minimises `CE(z, ỹ)` on the forget set and `w CE(z, y)` on the retain set.

    ỹ is drawn anew in each step, uniformly from the retained classes.

    Args:
        retain_weight: w; with 0 the retain set is not read.

    Source:
        Golatkar et al., arXiv 1911.04933, and its many users. SalUn's public code (arXiv
        2310.12508) has SGD 0.013, momentum 0.9, decay 5e-4, 10 epochs, first the forget set and
        then the retain set. Departures: labels come from the retained classes alone, where that
        code may draw the true one; both sets are in each step; no decay.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(self, *, retain_weight: NonNegative = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.retain_weight = retain_weight
        if not retain_weight:
            self.sides = Access.FORGET
            self.access &= self.sides

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats."""
        logits = self.classifier(batch.images)
        drawn = random_retained_labels(logits, self.forget)
        loss = cross_entropy(logits, torch.where(batch.forget, drawn, batch.labels))
        return {
            "forget": batch.forget_mean(loss),
            "retain": self.retain_weight * batch.retain_mean(loss),
        }
