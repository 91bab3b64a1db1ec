"""NegGrad+: down on retained images, up on forgotten ones."""

import math

from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.sources import Access, UnlearnBatch
from geniu_lightning.unlearning.tuning import Tuning


class NegGradPlus(Tuning):
    """Minimises ``β CE(retained) − (1 − β) min(CE(forgotten), cap log K)``.

    Args:
        beta: Weight of the retained side, in [0, 1]; 1 is plain fine-tuning.
        cap: Largest cross-entropy that a forgotten image is pushed to, in multiples of log K, the
            chance level; ``None`` pushes on for ever.
        **settings: Those of `Tuning`.

    Raises:
        UserError: If a setting is out of range.

    Source:
        Kurmanji et al., Towards Unbounded Machine Unlearning, arXiv 2302.09880, where it is a
        baseline; its small-scale notebook has β 0.95, SGD 0.01, 10 epochs, batch norm in evaluation
        mode. Departures: the cap, for the ascent has no bound of its own and ends in ruin; steps
        for epochs; a bound of the gradient.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(self, *, beta: float = 0.95, cap: float | None = 2.0, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        if not 0 <= beta <= 1:
            raise UserError(f"unlearner.beta must lie in [0, 1], got {beta}")
        if cap is not None and not cap > 0:
            raise UserError(f"unlearner.cap must be above 0, or null, got {cap}")
        self.beta = beta
        self.cap = cap

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, in nats."""
        logits = self.classifier(batch.images)
        loss = cross_entropy(logits, batch.labels)
        bound = math.inf if self.cap is None else self.cap * math.log(logits.shape[1])
        return {
            "retain": self.beta * batch.retain_mean(loss),
            "forget": -(1 - self.beta) * batch.forget_mean(loss.clamp(max=bound)),
        }
