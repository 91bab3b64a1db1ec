"""Gradient ascent: climb the loss on the forgotten images."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.unlearning.losses import (
    bounded_reciprocal,
    cross_entropy,
    divergence,
    masked_target,
)
from geniu_lightning.unlearning.sources import Access, UnlearnBatch
from geniu_lightning.unlearning.tuning import Tuning

LossTerm = Literal["negative", "reciprocal", "uniform"]


class GradientAscent(Tuning):
    """Minimises the mean over forgotten images of a loss that falls as the classifier forgets.

    ``negative`` is ``-min(CE, cap log K)``, ``reciprocal`` is 1/CE (bounded, see
    `bounded_reciprocal`), ``uniform`` is KL(u ‖ p) with u
    even over the retained classes.

    The cap is the stop rule, image by image: what the classifier answers no better than by chance
    asks for nothing more. Momentum may carry weights a little beyond it. Nothing holds the
    retained classes: with ever more steps, or without the cap, they fall too.

    Args:
        loss_term: As above.
        cap: Largest cross-entropy that an image is pushed to, in multiples of log K, the chance
            level; ``None`` pushes on for ever. Of ``negative`` alone; the others have a floor.
        max_margin: Margin from which the reciprocal goes on as its tangent, in nats.
        **settings: Those of `Tuning`.

    Raises:
        UserError: If a setting is out of range.

    Source:
        Folklore. Public code on SalUn (arXiv 2310.12508) has SGD at 1e-4 for 5 epochs to forget a
        tenth at random. Departures: the cap, for the ascent has no end of its own; running
        statistics of batch norm frozen, for batches of one class are no sample of the data; a bound
        of the gradient.
    """

    sides = Access.FORGET

    def __init__(
        self,
        *,
        loss_term: LossTerm = "negative",
        cap: float | None = 1.0,
        max_margin: float = 5.0,
        **settings: object,
    ) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # the base checks them
        if loss_term not in get_args(LossTerm):
            raise UserError(
                f"unlearner.loss_term must be one of {', '.join(get_args(LossTerm))},"
                f" got {loss_term!r}"
            )
        if cap is not None and not cap > 0:
            raise UserError(f"unlearner.cap must be above 0, or null, got {cap}")
        if not 0 < max_margin <= 40:  # as far as the reciprocal's slope fits 32 bits
            raise UserError(f"unlearner.max_margin must lie in (0, 40], got {max_margin}")
        self.loss_term = loss_term
        self.cap = math.inf if cap is None else cap
        self.max_margin = max_margin

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the term, in nats, or in 1/nats for the reciprocal."""
        logits = self.classifier(batch.images)
        return {"forget": batch.forget_mean(self._values(logits, batch.labels))}

    def _values(self, logits: Tensor, labels: Tensor) -> Tensor:
        match self.loss_term:
            case "negative":
                bound = self.cap * math.log(logits.shape[1])
                return -cross_entropy(logits, labels).clamp(max=bound)
            case "reciprocal":
                return bounded_reciprocal(logits, labels, self.max_margin)
            case "uniform":
                return divergence(masked_target(torch.zeros_like(logits), self.forget), logits)
