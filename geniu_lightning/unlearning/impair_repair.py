"""Impair-repair: damage with forgotten images alone, then mend with retained ones alone."""

import math
from typing import Literal, get_args

from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.losses import (
    bounded_reciprocal,
    cross_entropy,
    random_retained_labels,
)
from geniu_lightning.unlearning.phases import TwoPhases
from geniu_lightning.unlearning.sources import Access, Batches, ChainBatches, Sources, UnlearnBatch
from geniu_lightning.unlearning.tuning import Tuning

ForgetTerm = Literal["reciprocal", "negative", "random_label"]
CAP = 2.0  # multiples of log K, the chance level


class ImpairRepair(TwoPhases, Tuning):
    """Takes all steps on forgotten images, then all on retained ones; never both in one.

    Impair: the mean over forgotten images of one of

    - ``reciprocal``: 1/CE, bounded as in
      `bounded_reciprocal`,
    - ``negative``: −min(CE, 2 log K),
    - ``random_label``: CE to a label drawn anew in each step, evenly over retained classes.

    Repair: mean CE over retained images.

    Args:
        forget_term: As above.
        max_margin: Margin from which the reciprocal goes on as its tangent, in nats.
        impair_steps: Steps on forgotten images.
        repair_steps: Steps on retained ones.
        repair_rate: Learning rate of these.
        **settings: Those of `Tuning`.

    Raises:
        UserError: If the term does not exist, or a setting is out of range.

    Source:
        GENIU, arXiv 2406.07885, where I-R is the name of a full-access baseline and, on proxies, of
        an ablation (Table 5). How it is computed there is not known to us, nor are steps, rates and
        optimizer; this form is ours, after the two phases of Tarun et al., arXiv 2111.08947.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(
        self,
        *,
        forget_term: ForgetTerm = "reciprocal",
        max_margin: float = 5.0,
        impair_steps: int = 25,
        repair_steps: int = 75,
        repair_rate: float = 3e-4,
        **settings: object,
    ) -> None:
        super().__init__(
            impair_steps=impair_steps,
            repair_steps=repair_steps,
            repair_rate=repair_rate,
            **settings,
        )
        if forget_term not in get_args(ForgetTerm):
            raise UserError(
                f"unlearner.forget_term must be one of {', '.join(get_args(ForgetTerm))},"
                f" got {forget_term!r}"
            )
        if not 0 < max_margin <= 40:  # e^40 squared is as far as 32 bits go
            raise UserError(f"unlearner.max_margin must lie in (0, 40], got {max_margin}")
        self.forget_term = forget_term
        self.max_margin = max_margin

    def stream(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return all batches of forgotten images, then all of retained ones."""
        impair = super().stream(kit, sources, Access.FORGET, self.impair_steps)
        return ChainBatches(
            [impair, super().stream(kit, sources, Access.RETAIN, self.repair_steps)]
        )

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the term of the batch's phase."""
        logits = self.classifier(batch.images).float()
        if batch.forget.any():
            return {"forget": batch.forget_mean(self._forget_term(logits, batch.labels))}
        return {"retain": batch.retain_mean(cross_entropy(logits, batch.labels))}

    def _forget_term(self, logits: Tensor, labels: Tensor) -> Tensor:
        classes = logits.shape[1]
        match self.forget_term:
            case "reciprocal":
                return bounded_reciprocal(logits, labels, self.max_margin)
            case "negative":
                return -cross_entropy(logits, labels).clamp(max=CAP * math.log(classes))
            case "random_label":
                drawn: Tensor = random_retained_labels(len(labels), classes, self.forget)
                return cross_entropy(logits, drawn.to(labels.device))
