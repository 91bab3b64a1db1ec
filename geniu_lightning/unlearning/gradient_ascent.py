"""Gradient ascent: raise the loss on the forget set."""

from typing import Any, Literal

from torch import Tensor

from geniu_lightning.settings.checked import Positive
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import MaxMargin, forget_term
from geniu_lightning.unlearning.sources import Access
from geniu_lightning.unlearning.tuning import Tuning


class GradientAscent(Tuning):
    """Minimises the mean over the forget set of a `forget_term`.

    The cap is the stopping rule, image by image: an image classified no better than by chance has
    no gradient. No term preserves the retained classes: with more steps, or without the cap, their
    accuracy falls too.

    Args:
        cap: Largest cross-entropy that an image is pushed to, in multiples of log K, the chance
            level; `None` is no cap. Of `negative` alone; the others are bounded below.

    Source:
        Folklore. Public code on SalUn (arXiv 2310.12508) has SGD at 1e-4 for 5 epochs to forget a
        tenth at random. Departure: the cap, for the loss is unbounded below.
    """

    sides = Access.FORGET

    def __init__(
        self,
        *,
        loss_term: Literal["negative", "reciprocal", "uniform"] = "negative",
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
        loss = forget_term(
            self.loss_term, logits, batch.labels, self.forget, self.max_margin, self.cap
        )
        return {"forget": batch.forget_mean(loss)}
