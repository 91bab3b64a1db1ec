"""Impair-repair: steps on the forget set alone, then on the retain set alone."""

from typing import Any, Literal

from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.batches import Batches, CombinedBatches, UnlearnBatch
from geniu_lightning.unlearning.losses import MaxMargin, cross_entropy, forget_term
from geniu_lightning.unlearning.phases import TwoPhases
from geniu_lightning.unlearning.sources import Access, Sources
from geniu_lightning.unlearning.tuning import Tuning

CAP = 2.0  # multiples of log K, the chance level


class ImpairRepair(TwoPhases, Tuning):
    """Takes all steps on the forget set, then all on the retain set; never both in one.

    Impair: the mean over the forget set of a `forget_term`, labels drawn anew in each step. Repair:
    mean CE over the retain set.

    Source:
        GENIU, arXiv 2406.07885, where I-R is the name of a full-access baseline and, on proxies, of
        an ablation (Table 5). Its losses, steps, rates and optimizer are not published; this form
        is ours, after the two phases of Tarun et al., arXiv 2111.08947.
    """

    sides = Access.FORGET | Access.RETAIN

    def __init__(
        self,
        *,
        forget_term: Literal["reciprocal", "negative", "random_label"] = "reciprocal",
        max_margin: MaxMargin = 5.0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.forget_term = forget_term
        self.max_margin = max_margin

    def make_batches(self, kit: Kit, sources: Sources, sides: Access, steps: int) -> Batches:
        """Return all batches of the forget set, then all of the retain set."""
        make = super().make_batches
        parts = [make(kit, sources, side, steps) for side in sides]
        plan = [[0]] * self.impair_steps + [[1]] * self.repair_steps
        return CombinedBatches(parts, plan)

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return the term of the batch's phase."""
        logits = self.classifier(batch.images)
        if not batch.forget.any():
            return {"retain": batch.retain_mean(cross_entropy(logits, batch.labels))}
        loss = forget_term(
            self.forget_term, logits, batch.labels, self.forget, self.max_margin, CAP
        )
        return {"forget": batch.forget_mean(loss)}
