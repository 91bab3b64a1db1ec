"""NegGrad+: gradient descent on the retain set, ascent on the forget set."""

from typing import Any

from torch import Tensor

from geniu_lightning.settings.checked import Fraction, Positive
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import capped_cross_entropy, cross_entropy
from geniu_lightning.unlearning.sources import Access
from geniu_lightning.unlearning.tuning import Tuning


class NegGradPlus(Tuning):
    """Minimises `β CE(retain set) − (1 − β) min(CE(forget set), cap log K)`.

    Args:
        beta: Weight of the retain set; 1 is plain fine-tuning.
        cap: As in `GradientAscent`.

    Source:
        Kurmanji et al., Towards Unbounded Machine Unlearning, arXiv 2302.09880, where it is a
        baseline; its small-scale notebook has β 0.95, SGD 0.01, 10 epochs, batch norm in evaluation
        mode. Departure: the cap, for the loss is unbounded below.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(
        self, *, beta: Fraction = 0.95, cap: Positive | None = 2.0, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.beta = beta
        self.cap = cap

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats."""
        logits = self.classifier(batch.images)
        loss = cross_entropy(logits, batch.labels)
        capped = capped_cross_entropy(logits, batch.labels, self.cap)
        return {
            "retain": self.beta * batch.retain_mean(loss),
            "forget": -(1 - self.beta) * batch.forget_mean(capped),
        }
