"""MU-Mis: reduce the sensitivity of logits to images of the forget set."""

from typing import Any

import torch
from torch import Tensor

from geniu_lightning.settings.checked import NonNegative
from geniu_lightning.unlearning.base import FrozenBatchNorm
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import random_retained_labels
from geniu_lightning.unlearning.sources import Access
from geniu_lightning.unlearning.tuning import Tuning


class MuMis(Tuning):
    """Lowers the slope of the own class's logit, and raises that of another class's.

    `L = mean over the forget set's x of [own > other] · (own − w · other)`, with
    `own = ‖∇_x z_y(x)‖²`, `other = ‖∇_x z_c(x)‖²` and c drawn for each image and step uniformly
    from the retained classes. The second term is unbounded below, so an image counts 0 in a step
    where its own slope is no larger than the other's.

    Args:
        irrelevant_weight: w.

    Source:
        Remaining-data-free Machine Unlearning by Suppressing Sample Contribution, arXiv 2402.15109.
        Its code was not seen: rates, the draw of c and the stopping rule are ours, w = 1 is the
        paper's. The rule is applied to each image, not to the means of a batch: the result does not
        depend on how images are divided among processes. Slopes are by normalised pixels, in 32
        bits whatever the precision, for they are differentiated again.
    """

    sides = Access.FORGET

    def __init__(
        self,
        *,
        irrelevant_weight: NonNegative = 1.0,
        batch_norm: FrozenBatchNorm = "frozen",  # else a logit would depend on the whole batch
        **settings: Any,
    ) -> None:
        super().__init__(batch_norm=batch_norm, **settings)
        self.irrelevant_weight = irrelevant_weight

    def loss_terms(self, batch: UnlearnBatch) -> dict[str, Tensor]:
        """Return both terms, squared logits per squared unit of a normalised image."""
        images = batch.images.detach().requires_grad_(True)
        with torch.autocast(images.device.type, enabled=False):
            logits = self.classifier(images).float()
            drawn = random_retained_labels(logits, self.forget)
            own = _slope(logits, batch.labels, images)
            other = _slope(logits, drawn, images)
        active = own.detach() > other.detach()
        # no slope depends on the head's bias; without a gradient DDP would wait for it
        everything = 0 * logits.sum()
        return {
            "own": batch.forget_mean(active * own) + everything,
            "irrelevant": -self.irrelevant_weight * batch.forget_mean(active * other),
        }


def _slope(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
    """Return the squared norm of one logit's gradient by its image, `(N,)`, differentiable."""
    # images do not mix where batch norm is frozen, so the sum's gradient is each image's own
    chosen = logits.gather(1, labels[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, images, create_graph=True)
    return gradient.flatten(1).square().sum(dim=1)
