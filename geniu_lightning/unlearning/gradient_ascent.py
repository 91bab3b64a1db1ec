"""Gradient ascent: raise the loss on the forget set."""

from typing import Any, Literal

from torch import Tensor

from geniu_lightning.settings.checked import Positive
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import (
    MaxMargin,
    bounded_reciprocal,
    capped_cross_entropy,
    divergence,
    uniform_target,
)
from geniu_lightning.unlearning.sources import Access
from geniu_lightning.unlearning.tuning import Tuning

LossTerm = Literal["negative", "reciprocal", "uniform"]


class GradientAscent(Tuning):
    """Minimises the mean over the forget set of a loss that falls as the classifier forgets.

    `negative` is `-min(CE, cap log K)`, `reciprocal` is 1/CE (bounded, see `bounded_reciprocal`),
    `uniform` is KL(u ‖ p) with u uniform over the retained classes.

    The cap is the stopping rule, image by image: an image classified no better than by chance has
    no gradient. No term preserves the retained classes: with more steps, or without the cap, their
    accuracy falls too.

    Args:
        cap: Largest cross-entropy that an image is pushed to, in multiples of log K, the chance
            level; `None` is no cap. Of `negative` alone; the others are bounded below.

    Source:
        Folklore. Public code on SalUn (arXiv 2310.12508) has SGD at 1e-4 for 5 epochs to forget a
        tenth at random. Departures: the cap, for the loss is unbounded below; running
        statistics of batch norm frozen, for batches of one class are no sample of the data; a bound
        of the gradient.
    """

    sides = Access.FORGET

    def __init__(
        self,
        *,
        loss_term: LossTerm = "negative",
        cap: Positive | None = 1.0,
        max_margin: MaxMargin = 5.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.loss_term = loss_term
        self.cap = cap
        self.max_margin = max_margin

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the term, in nats, or in 1/nats for the reciprocal."""
        logits = self.classifier(batch.images)
        return {"forget": batch.forget_mean(self._values(logits, batch.labels))}

    def _values(self, logits: Tensor, labels: Tensor) -> Tensor:
        match self.loss_term:
            case "negative":
                return -capped_cross_entropy(logits, labels, self.cap)
            case "reciprocal":
                return bounded_reciprocal(logits, labels, self.max_margin)
            case "uniform":
                return divergence(uniform_target(logits, self.forget), logits)
