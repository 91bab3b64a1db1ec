"""SalUn: random labels, learned by the weights that are most salient to the forget set."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.losses import cross_entropy
from geniu_lightning.unlearning.networks import summed_gradient
from geniu_lightning.unlearning.random_label import RandomLabel
from geniu_lightning.unlearning.sources import Access, Sources


class SalUn(RandomLabel):
    """Tunes as `RandomLabel`, and keeps all but the most salient weights fixed.

    `saliency = |Σ over the forget set's x of ∇CE(f(x; θ_0), y)|`, in evaluation mode: the absolute
    value of the signed sum. The `share` of all parameters together with the largest saliency is
    trained. All others are restored after each step, whatever momentum and decay did to them.

    Source:
        SalUn, arXiv 2310.12508; its code has share 0.5 (0.1 to 0.9 are tried), and otherwise what
        random labels have. Departures: those of `RandomLabel`; the bound of the gradient is
        taken after masking, over the weights that are trained.
    """

    def __init__(
        self, *, share: Annotated[float, Field(gt=0, le=1)] = 0.5, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.share = share

    def prepare(self, kit: Kit, sources: Sources) -> None:
        """Measure saliency at the original weights, and choose the weights to train."""
        super().prepare(kit, sources)
        losses = (
            cross_entropy(self.classifier(batch.images), batch.labels).sum()
            for batch in self.single_pass(kit, sources, Access.FORGET)
        )
        total = summed_gradient(self.classifier, losses)
        self.originals = [p.detach().clone() for p in self.classifier.parameters()]
        self.masks = largest(total, self.share)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Mask gradients; Lightning bounds their norm after this."""
        for parameter, mask in zip(self.classifier.parameters(), self.masks, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: UnlearnBatch, batch_idx: int) -> None:
        """Restore the fixed weights: weight decay moves them even where the gradient is 0."""
        for parameter, mask, original in zip(
            self.classifier.parameters(), self.masks, self.originals, strict=True
        ):
            parameter.copy_(torch.where(mask, parameter, original))


def largest(tensors: list[Tensor], share: float) -> list[Tensor]:
    """Return masks of the share of all entries together with the largest absolute values.

    The share is rounded to whole entries, and at equal values the first are taken.
    """
    flat = torch.cat([t.abs().flatten() for t in tensors])
    order = flat.sort(descending=True, stable=True).indices
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[order[: round(share * len(flat))]] = True
    parts = mask.split([t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]
