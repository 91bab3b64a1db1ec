"""Random labels: teach forgotten images the names of other classes."""

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.unlearning.losses import cross_entropy, random_retained_labels
from geniu_lightning.unlearning.sources import Access, UnlearnBatch
from geniu_lightning.unlearning.tuning import Tuning


class RandomLabel(Tuning):
    """Minimises ``CE(z, ỹ)`` on forgotten images and ``w CE(z, y)`` on retained ones.

    ỹ is drawn anew in each step, evenly over the retained classes.

    Args:
        retain_weight: w; with 0 no retained image is read.
        **settings: Those of `Tuning`.

    Raises:
        UserError: If the weight is negative.

    Source:
        Golatkar et al., arXiv 1911.04933, and its many users. SalUn's public code (arXiv
        2310.12508) has SGD 0.013, momentum 0.9, decay 5e-4, 10 epochs, first all forgotten images
        and then all retained ones. Departures: labels come from the retained classes alone, where
        that code may draw the true one; both sides stand in each step; no decay, a bound of the
        gradient; batch norm frozen.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(self, *, retain_weight: float = 1.0, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        if not retain_weight >= 0:
            raise UserError(f"unlearner.retain_weight must be at least 0, got {retain_weight}")
        self.retain_weight = retain_weight
        if not retain_weight:
            self.sides = Access.FORGET
            self.access &= self.sides

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats."""
        logits = self.classifier(batch.images)
        drawn = random_retained_labels(len(logits), logits.shape[1], self.forget).to(logits.device)
        loss = cross_entropy(logits, torch.where(batch.forget, drawn, batch.labels))
        return {
            "forget": batch.forget_mean(loss),
            "retain": self.retain_weight * batch.retain_mean(loss),
        }
