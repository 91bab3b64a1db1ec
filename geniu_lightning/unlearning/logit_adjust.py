"""Logit adjustment: a logit mask that also removes the class imbalance from retained logits."""

from typing import Any

import torch

from geniu_lightning.errors import UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import head_of
from geniu_lightning.settings.checked import NonNegative, Positive
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.logit_mask import mask_head
from geniu_lightning.unlearning.sources import Sources


class LogitAdjust(Unlearner):
    """Masks the forget classes' logits and lowers each retained one by its class's log prior.

    `b_k -= tau · log π_k`, π the share of class k among the retained training images. The class is
    suppressed, as by the mask. Where retained classes are equally large, as when the majority class
    of a step imbalance is forgotten, every answer is the mask's.

    Args:
        tau: Share of the log prior removed; 0 is `logit_mask`, 1 the rule for balanced error. What
            an earlier request removed counts.
        offset: The masked bias, negated.

    Source:
        Menon et al., Long-tail learning via logit adjustment, arXiv 2007.07314, post-hoc form; the
        mask is ours.
    """

    def __init__(self, *, tau: NonNegative = 1.0, offset: Positive = 1e4, **settings: Any) -> None:
        super().__init__(**settings)
        self.tau = tau
        self.offset = offset

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Take the priors from the kit."""
        super().prepare(kit, sources)
        counts = torch.tensor(kit.info.class_counts, dtype=torch.float64)
        self.retained = [k for k in range(len(counts)) if k not in self.forget]
        if (counts[self.retained] < 1).any():
            raise UserError("the kit does not say how many images of each class were trained on")
        self.log_priors = (counts[self.retained] / counts[self.retained].sum()).log()
        self.prior_taken = max(self.tau - kit.info.prior_taken, 0.0)

    @torch.no_grad()
    def finish(self) -> None:
        """Adjust and mask the head."""
        bias = head_of(self.classifier).bias
        bias[self.retained] -= self.prior_taken * self.log_priors.to(bias)
        mask_head(self.classifier, self.forget, self.offset)
